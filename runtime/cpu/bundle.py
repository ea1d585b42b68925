"""The files of a CPU bundle: the manifest, C source and weights, all under digests, and the library with build.json.

The digest of the library stands in build.json, beside how it was built: the same source gives other bytes with another
compiler, and everything else of a bundle is the same for the same command.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from hw_targets.errors import InputError, MissingToolError
from runtime.bundle import WEIGHTS, digest
from runtime.cpu.manifest import CpuManifest
from runtime.steps.files import CheckedFiles, check, check_files, read

SOURCE = "model.c"
HEADER = "model.h"
LIBRARY = "libmodel.so"
BUILD = "build.json"
REPORTS = ("report.json", "run.json")


class Build(BaseModel):
    """How the library was built, and its digest (build.json)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    compiler: str
    flags: tuple[str, ...]
    library_digest: str


@dataclass(frozen=True)
class CpuBundle(CheckedFiles[CpuManifest]):
    """A checked folder. `weights` are mapped; `build` says how the library was made, None if it was not."""

    weights: NDArray[np.uint8]
    build: Build | None

    @property
    def library(self) -> Path:
        """The library's path. Raises MissingToolError if the bundle was written without one."""
        if self.build is None:
            hint = f"build it: cc -O3 -shared -fPIC -pthread {SOURCE} -lm, or compile without --emit c"
            raise MissingToolError("HPCC5203", f"the bundle has no {LIBRARY}", where=str(self.folder), hint=hint)
        return self.folder / LIBRARY


def load_cpu_bundle(folder: Path) -> CpuBundle:
    """Read and check a bundle. Raises InputError naming the damaged file."""
    files = check_files(folder, CpuManifest, (SOURCE, HEADER))
    weights = np.memmap(folder / WEIGHTS, np.uint8, "r")
    return CpuBundle(folder, files.manifest, files.host, weights, _build(folder))


def _build(folder: Path) -> Build | None:
    if not (folder / BUILD).is_file():
        return None
    try:
        build = Build.model_validate_json(read(folder / BUILD))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError("HPCC1267", f"not what was written: {place}: {first['msg']}", where=str(folder / BUILD)) from error
    check(folder / LIBRARY, digest(read(folder / LIBRARY)), build.library_digest)
    return build
