"""The files of a CPU bundle: the manifest, C source and weights, all under digests, and the library with build.json.

The digest of the library stands in build.json, beside how it was built: the same source gives other bytes with another
compiler, and everything else of a bundle is the same for the same command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from hw_targets.errors import InputError, MissingToolError
from runtime.bundle import MANIFEST, WEIGHTS, check_plain, digest, digest_of
from runtime.cpu.manifest import CpuManifest, parse_cpu_manifest

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
class CpuBundle:
    """A checked folder. `weights` are mapped; `build` says how the library was made, None if it was not."""

    folder: Path
    manifest: CpuManifest
    weights: NDArray[np.uint8]
    host: Mapping[str, bytes]
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
    manifest = parse_cpu_manifest(_read(folder, MANIFEST).decode("utf-8", "replace"), str(folder / MANIFEST))
    if manifest.own_digest() != manifest.digest:
        raise _edited(folder / MANIFEST)
    names = (SOURCE, HEADER, WEIGHTS, *(segment.file for segment in manifest.host_segments))
    for name in names:
        if name not in manifest.digests:
            raise InputError("HPCC1266", f"no digest of {name}", where=str(folder / MANIFEST))
    weights = _map(folder / WEIGHTS)
    if digest_of(folder / WEIGHTS) != manifest.digests[WEIGHTS]:  # read, not mapped: only rows in use take memory
        raise _edited(folder / WEIGHTS)
    for name in (SOURCE, HEADER):
        _check(folder / name, _read(folder, name), manifest.digests[name])
    host = {segment.file: _read(folder, segment.file) for segment in manifest.host_segments}
    for name, data in host.items():
        _check(folder / name, data, manifest.digests[name])
    return CpuBundle(folder, manifest, weights, host, _build(folder))


def _build(folder: Path) -> Build | None:
    if not (folder / BUILD).is_file():
        return None
    try:
        build = Build.model_validate_json(_read(folder, BUILD))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError("HPCC1267", f"not what was written: {place}: {first['msg']}", where=str(folder / BUILD)) from error
    _check(folder / LIBRARY, _read(folder, LIBRARY), build.library_digest)
    return build


def _read(folder: Path, name: str) -> bytes:
    try:
        check_plain(folder / name)
        return (folder / name).read_bytes()
    except OSError as error:
        raise InputError("HPCC1268", f"cannot read: {error.strerror}", where=str(folder / name)) from error


def _map(file: Path) -> NDArray[np.uint8]:
    try:
        check_plain(file)
        return np.memmap(file, np.uint8, "r")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError("HPCC1268", f"cannot read: {reason}", where=str(file)) from error


def _check(file: Path, data: bytes | memoryview, expected: str) -> None:
    if digest(data) != expected:
        raise _edited(file)


def _edited(file: Path) -> InputError:
    message = "the file is not the one that was written with this bundle"
    return InputError("HPCC1264", message, where=str(file), hint="it is truncated or was edited; compile again")
