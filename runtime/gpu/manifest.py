"""manifest.json of a GPU bundle."""

from __future__ import annotations

from typing import Literal

from runtime.steps.manifest import StepsManifest


class GpuManifest(StepsManifest):
    """The whole file. The program is model.py, and `precision` that of its products."""

    kind: Literal["gpu"] = "gpu"
    precision: str
