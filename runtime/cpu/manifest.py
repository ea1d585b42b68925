"""manifest.json of a CPU bundle."""

from __future__ import annotations

from typing import Literal

from runtime.steps.manifest import StepsManifest


class CpuManifest(StepsManifest):
    """The whole file. The program is the library; its digest is in build.json."""

    kind: Literal["cpu"] = "cpu"
