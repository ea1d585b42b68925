"""The bundle: a folder with a manifest, a program, its weights and host models. Loads, checks and saves; runs nothing.

Loading verifies versions, digests, sizes and the static checks of the program before anything can run: a truncated or
edited file is one InputError that names it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_targets.asm import disassemble
from hw_targets.check import accesses, check_program
from hw_targets.codec import Resolved, decode, encode
from hw_targets.errors import InputError
from hw_targets.isa import Instruction, Memory
from hw_targets.target import Target
from runtime.manifest import BorderEntry, DramEntry, Manifest, parse_manifest

MANIFEST = "manifest.json"
PROGRAM = "program.bin"
LISTING = "program.asm"
WEIGHTS = "weights.bin"
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Bundle:
    """A program and all it needs. `weights` is the content of weights.bin, `host` maps segment files to ONNX bytes."""

    manifest: Manifest
    instructions: tuple[Instruction, ...]
    weights: Bytes
    host: Mapping[str, bytes]

    @cached_property
    def expanded(self) -> list[Resolved]:
        """The checked expansion of the program. Raises InputError for a program that breaks a rule."""
        return check_program(self.instructions, self.manifest.semaphore_table, self.manifest.sizes)

    @cached_property
    def target(self) -> Target:
        return Target.from_snapshot(self.manifest.target, where=MANIFEST)

    @property
    def weights_offset(self) -> int:
        """The DRAM address of the first byte of weights.bin."""
        return min((r.offset for r in self.manifest.dram if r.kind == "weights"), default=0)

    def check(self) -> None:
        """Everything that can be checked before running. Raises InputError naming the section."""
        _check_map(self)
        _check_segments(self)
        _ = self.target  # Raises InputError for a damaged snapshot.
        try:
            expanded = self.expanded
        except InputError as error:
            raise InputError(error.code, error.message, where=f"{PROGRAM}: {error.where}", hint=error.hint) from error
        _check_program_against_map(self, expanded)


def _error(message: str, section: str, hint: str = "") -> InputError:
    return InputError("HPCC1242", message, where=section, hint=hint)


def _check_map(bundle: Bundle) -> None:
    """Regions lie apart inside DRAM, weights inside weights.bin, border tensors inside regions of their kind."""
    manifest = bundle.manifest
    size = manifest.sizes.get(Memory.DRAM, 0)
    previous: DramEntry | None = None
    for region in sorted(manifest.dram, key=lambda r: (r.offset, r.end)):
        if region.end > size:
            raise _error(f"region {region.name!r} ends at {region.end}, behind the DRAM of {size} bytes", MANIFEST)
        if previous is not None and region.offset < previous.end:
            raise _error(f"regions {previous.name!r} and {region.name!r} overlap", MANIFEST)
        if region.kind == "weights" and region.end - bundle.weights_offset > bundle.weights.size:
            message = f"{bundle.weights.size} bytes, region {region.name!r} needs {region.end - bundle.weights_offset}"
            raise _error(message, WEIGHTS, "the file is truncated")
        previous = region
    for kind, borders in (("input", manifest.inputs), ("output", manifest.outputs)):
        for border in borders:
            if not any(r.kind == kind and _inside(border, r) for r in manifest.dram):
                raise _error(f"tensor {border.name!r} lies in no {kind} region", MANIFEST)


def _inside(border: BorderEntry, region: DramEntry) -> bool:
    return region.offset <= border.offset and border.offset + border.bytes <= region.end


def _check_segments(bundle: Bundle) -> None:
    """Every tensor that a segment or the user reads has been made by then, and every file is there."""
    manifest = bundle.manifest
    made = {tensor.name for tensor in manifest.model_inputs}
    for segment in manifest.segments:
        if segment.kind == "host":
            needs, gives, name = segment.inputs, segment.outputs, segment.file
            if segment.file not in bundle.host:
                raise _error(f"{segment.file} is missing", MANIFEST)
        else:
            needs, gives = (tuple(border.name for border in b) for b in (manifest.inputs, manifest.outputs))
            name = "the device"
        for tensor in needs:
            if tensor not in made:
                raise _error(f"{name} reads {tensor!r}, which nothing before it makes", MANIFEST)
        made |= set(gives)
    for tensor in manifest.model_outputs:
        if tensor.name not in made:
            raise _error(f"nothing makes the output {tensor.name!r}", MANIFEST)


def _check_program_against_map(bundle: Bundle, expanded: Sequence[Resolved]) -> None:
    """Node numbers are in the table; DRAM is read inside one region and written only where it may change."""
    regions = bundle.manifest.dram
    for instruction in expanded:
        where = f"{PROGRAM}: {instruction.place}"
        if instruction.node >= max(len(bundle.manifest.nodes), 1):
            raise _error(f"node {instruction.node} is not in the manifest's table", where)
        for extent, writes in accesses(instruction):
            if extent.memory is not Memory.DRAM:
                continue
            region = next((r for r in regions if r.offset <= extent.start and extent.end <= r.end), None)
            if region is None:
                raise _error(f"bytes {extent.start}..{extent.end} lie in no region of DRAM", where)
            if writes and region.kind in ("weights", "input"):
                raise _error(f"writes into the {region.kind} region {region.name!r}", where)


# ---- files ----------------------------------------------------------------------------------------------------------


def digest(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def _own_digest(manifest: Manifest) -> str:
    return digest(manifest.model_copy(update={"digest": ""}).text().encode())


def save_bundle(bundle: Bundle, path: Path, extras: Mapping[str, str | bytes] | None = None) -> Manifest:
    """Check the bundle and write it to folder `path`; `extras` are further files (report.json, trace.json).

    The folder is built beside its place and renamed; an older bundle is replaced, anything else is an InputError and
    stays. Returns the manifest as written, with digests.
    """
    bundle.check()
    program = encode(bundle.instructions)
    files: dict[str, bytes | memoryview] = {
        PROGRAM: program,
        LISTING: disassemble(bundle.instructions, bundle.manifest.onnx_nodes).encode(),
        WEIGHTS: np.ascontiguousarray(bundle.weights).data if bundle.weights.size else b"",
        **bundle.host,
    }
    digests = {name: digest(data) for name, data in files.items()}
    manifest = bundle.manifest.model_copy(update={"digests": digests})
    manifest = manifest.model_copy(update={"digest": _own_digest(manifest)})
    files[MANIFEST] = manifest.text().encode()
    for name, data in (extras or {}).items():
        files[name] = data.encode() if isinstance(data, str) else data
    _write_folder(path, files)
    return manifest


def add_file(path: Path, name: str, data: str | bytes) -> None:
    """Put a file that no digest covers (report.json, run.json, trace.json) into a saved bundle."""
    handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=path)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path / name)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _write_folder(path: Path, files: Mapping[str, bytes | memoryview]) -> None:
    with Room(path) as room:
        for name, data in files.items():
            room.write(name, data)
        room.publish()


class Room:
    """A folder in the making, beside its place: `publish` renames it there, leaving the block without that removes it.

    An older bundle at the place is replaced, anything else is an InputError and stays. Files that are open or mapped
    stay so when the folder moves.
    """

    def __init__(self, path: Path) -> None:
        if (path.exists() or path.is_symlink()) and not (path / MANIFEST).is_file():
            message = "there is something here that is no bundle; it is left alone"
            raise InputError("HPCC1243", message, where=str(path), hint="name another folder with -o")
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._room = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        except OSError as error:
            raise self._cannot_write(error) from error
        self.folder = self._room / "new"

    def write(self, name: str, data: bytes | memoryview | str) -> None:
        """Write a file of the folder. Raises InputError."""
        file = self.folder / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data.encode() if isinstance(data, str) else data)
        except OSError as error:
            raise self._cannot_write(error) from error

    def publish(self) -> None:
        """Put the folder in its place. Raises InputError; an older bundle is then back where it was."""
        old = self._room / "old"
        try:
            if self._path.exists():
                os.rename(self._path, old)
            os.rename(self.folder, self._path)
        except OSError as error:
            if old.exists() and not self._path.exists():
                os.rename(old, self._path)
            raise self._cannot_write(error) from error
        self.folder = self._path

    def _cannot_write(self, error: OSError) -> InputError:
        return InputError("HPCC1243", f"cannot write: {error.strerror}", where=str(self._path))

    def close(self) -> None:
        shutil.rmtree(self._room, ignore_errors=True)

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_bundle(path: Path) -> Bundle:
    """Read and check a bundle. Raises InputError naming the damaged file."""
    if not (path / MANIFEST).is_file():
        raise InputError("HPCC1244", "this is no bundle: it has no manifest.json", where=str(path))
    manifest = parse_manifest(_read(path, MANIFEST).decode("utf-8", "replace"), str(path / MANIFEST))
    for name in (PROGRAM, LISTING, WEIGHTS, *(segment.file for segment in manifest.host_segments)):
        if name not in manifest.digests:
            raise _error(f"no digest of {name}", str(path / MANIFEST))
    weights = _map_weights(path)
    _check_digest(path, WEIGHTS, weights.data, manifest)
    texts = {name: _read(path, name) for name in manifest.digests if name != WEIGHTS}
    for name, data in texts.items():
        _check_digest(path, name, data, manifest)
    host = {segment.file: texts[segment.file] for segment in manifest.host_segments}
    try:
        bundle = Bundle(manifest, tuple(decode(texts[PROGRAM])), weights, host)
    except InputError as error:
        where = f"{path / PROGRAM}: {error.where}" if error.where else str(path / PROGRAM)
        raise InputError(error.code, error.message, where=where, hint=error.hint) from error
    try:
        bundle.check()
    except InputError as error:
        raise InputError(error.code, error.message, where=f"{path}/{error.where}", hint=error.hint) from error
    # Last, so that what is structurally wrong is said in its own words.
    if _own_digest(manifest) != manifest.digest:
        raise _edited(path / MANIFEST)
    return bundle


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise InputError("HPCC1244", f"cannot read: {error.strerror}", where=str(path / name)) from error


def _map_weights(path: Path) -> Bytes:
    file = path / WEIGHTS
    try:
        if not file.stat().st_size:
            return np.zeros(0, np.uint8)
        mapped: Any = np.memmap(file, np.uint8, "r")
    except OSError as error:
        raise InputError("HPCC1244", f"cannot read: {error.strerror}", where=str(file)) from error
    return mapped


def _check_digest(path: Path, name: str, data: bytes | memoryview, manifest: Manifest) -> None:
    if digest(data) != manifest.digests[name]:
        raise _edited(path / name)


def _edited(file: Path) -> InputError:
    message = "the file is not the one that was written with this bundle"
    return InputError("HPCC1245", message, where=str(file), hint="it is truncated or was edited; compile again")
