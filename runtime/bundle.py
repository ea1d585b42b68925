"""The bundle: a folder with a manifest, a program, its weights and host models. Loads, checks and saves; runs nothing.

Loading verifies versions, digests, sizes and the static checks of the program before anything can run: a truncated or
edited file is one InputError that names it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_targets.asm import disassemble
from hw_targets.check import accesses, check_program
from hw_targets.codec import Resolved, decode, encode
from hw_targets.errors import InputError
from hw_targets.interrupts import uninterrupted
from hw_targets.isa import Instruction, Memory
from hw_targets.target import Target
from runtime.manifest import DramEntry, Manifest, parse_manifest

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
        _check_sizes(self)  # Raises InputError for a damaged snapshot, too.
        regions = _check_map(self)
        _check_segments(self)
        try:
            expanded = self.expanded
        except InputError as error:
            raise InputError(error.code, error.message, where=f"{PROGRAM}: {error.where}", hint=error.hint) from error
        _check_program_against_map(self, expanded, regions)


def _error(message: str, section: str, hint: str = "") -> InputError:
    return InputError("HPCC1242", message, where=section, hint=hint)


ADDRESS_LIMIT = 1 << 32
"""An operand's address has 32 bits."""


def _check_sizes(bundle: Bundle) -> None:
    """No memory is larger than the target's, and none than an address reaches."""
    capacities = bundle.target.capacities
    for memory, size in bundle.manifest.sizes.items():
        limit = min(capacities[memory], ADDRESS_LIMIT)
        if size > limit:
            raise _error(f"the program takes {size} bytes of {memory} memory, the target has {limit}", MANIFEST)


@dataclass(frozen=True)
class _Regions:
    """The regions of DRAM in order of their addresses."""

    regions: Sequence[DramEntry]
    offsets: Sequence[int]

    def holding(self, start: int, end: int) -> DramEntry | None:
        """The region that holds all bytes from `start` to `end`."""
        number = bisect_right(self.offsets, start) - 1
        return self.regions[number] if number >= 0 and end <= self.regions[number].end else None


def _check_map(bundle: Bundle) -> _Regions:
    """Regions lie apart inside DRAM, weights inside weights.bin, border tensors inside regions of their kind."""
    manifest = bundle.manifest
    size = manifest.sizes.get(Memory.DRAM, 0)
    previous: DramEntry | None = None
    ordered = sorted(manifest.dram, key=lambda r: (r.offset, r.end))
    for region in ordered:
        if region.end > size:
            raise _error(f"region {region.name!r} ends at {region.end}, behind the DRAM of {size} bytes", MANIFEST)
        if previous is not None and region.offset < previous.end:
            raise _error(f"regions {previous.name!r} and {region.name!r} overlap", MANIFEST)
        if region.kind == "weights" and region.end - bundle.weights_offset > bundle.weights.size:
            message = f"{bundle.weights.size} bytes, region {region.name!r} needs {region.end - bundle.weights_offset}"
            raise _error(message, WEIGHTS, "the file is truncated")
        previous = region
    regions = _Regions(ordered, [region.offset for region in ordered])
    for kind, borders in (("input", manifest.inputs), ("output", manifest.outputs)):
        for border in borders:
            holder = regions.holding(border.offset, border.offset + border.bytes)
            if holder is None or holder.kind != kind:
                raise _error(f"tensor {border.name!r} lies in no {kind} region", MANIFEST)
    return regions


def _check_segments(bundle: Bundle) -> None:
    """Every tensor that a segment or the user reads has been made by then, and every file is there."""
    manifest = bundle.manifest
    made = {tensor.name for tensor in manifest.model_inputs}
    part = 0
    for border in (*manifest.inputs, *manifest.outputs):
        if border.part >= manifest.parts:
            raise _error(f"tensor {border.name!r} belongs to part {border.part} of {manifest.parts}", MANIFEST)
    for segment in manifest.segments:
        if segment.kind == "host":
            needs, gives, name = segment.inputs, segment.outputs, segment.file
            if segment.file not in bundle.host:
                raise _error(f"{segment.file} is missing", MANIFEST)
        else:
            borders = (manifest.inputs, manifest.outputs)
            needs, gives = (tuple(border.name for border in b if border.part == part) for b in borders)
            name = "the device"
            part += 1
        for tensor in needs:
            if tensor not in made:
                raise _error(f"{name} reads {tensor!r}, which nothing before it makes", MANIFEST)
        made |= set(gives)
    for tensor in manifest.model_outputs:
        if tensor.name not in made:
            raise _error(f"nothing makes the output {tensor.name!r}", MANIFEST)


def _check_program_against_map(bundle: Bundle, expanded: Sequence[Resolved], regions: _Regions) -> None:
    """Node numbers are in the table; DRAM is read inside one region and written only where it may change; the program has
    the manifest's parts."""
    pauses = sum(instruction.name == "control.pause" for instruction in expanded)
    if pauses + 1 != bundle.manifest.parts:
        raise _error(f"the program has {pauses + 1} parts, the manifest {bundle.manifest.parts}", PROGRAM)
    for instruction in expanded:
        where = f"{PROGRAM}: {instruction.place}"
        if instruction.node >= max(len(bundle.manifest.nodes), 1):
            raise _error(f"node {instruction.node} is not in the manifest's table", where)
        for extent, writes in accesses(instruction):
            if extent.memory is not Memory.DRAM:
                continue
            region = regions.holding(extent.start, extent.end)
            if region is None:
                raise _error(f"bytes {extent.start}..{extent.end} lie in no region of DRAM", where)
            if writes and region.kind in ("weights", "input"):
                raise _error(f"writes into the {region.kind} region {region.name!r}", where)


# ---- files ----------------------------------------------------------------------------------------------------------


DIGEST_BYTES = 32


def digest(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def digest_of(stream: BufferedReader) -> str:
    """`digest` of what is left of a file, read piece by piece."""
    return hashlib.file_digest(stream, partial(hashlib.blake2b, digest_size=DIGEST_BYTES)).hexdigest()


def _own_digest(manifest: Manifest) -> str:
    return digest(manifest.model_copy(update={"digest": ""}).text().encode())


def save_bundle(bundle: Bundle, path: Path, extras: Mapping[str, str | bytes] | None = None) -> Manifest:
    """Check the bundle and write it to folder `path`; `extras` are further files (report.json, trace.json).

    The folder is built beside its place and renamed; an older bundle is replaced, anything else is an InputError and
    stays. Returns the manifest as written, with digests.
    """
    manifest, files = bundle_files(bundle)
    for name, data in (extras or {}).items():
        files[name] = data.encode() if isinstance(data, str) else data
    _write_folder(path, files)
    return manifest


def bundle_files(bundle: Bundle) -> tuple[Manifest, dict[str, bytes | memoryview]]:
    """The files of a checked bundle by name, and its manifest as written, with digests. Raises InputError."""
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
    return manifest, files


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

    An older folder of the kind at the place (one with a file `mark`: a bundle) is replaced, anything else is an InputError
    and stays. Files that are open or mapped stay so when the folder moves.
    """

    def __init__(self, path: Path, mark: str = MANIFEST) -> None:
        _expect_marked_or_nothing(path, mark)
        self._path, self._mark = path, mark
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
        try:
            _put_in_place(self.folder, self._path, self._room, self._mark)
        except OSError as error:
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


PUT_ATTEMPTS = 100


def _expect_marked_or_nothing(path: Path, mark: str) -> None:
    """Raises InputError if anything but a folder with a file `mark` (a bundle: its manifest) is at `path`.

    Another writer may rename a bundle away and its own into place between any two looks: what has no manifest counts
    only if it is still there afterwards."""
    for _ in range(PUT_ATTEMPTS):
        seen = _identity(path)
        if seen is None or (path / mark).is_file():
            return
        if _identity(path) == seen:
            what = "bundle" if mark == MANIFEST else f"folder with {mark}"
            message = f"there is something here that is no {what}; it is left alone"
            hint = "name another folder" + (" with -o" if mark == MANIFEST else "")
            raise InputError("HPCC1257", message, where=str(path), hint=hint)


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of what is at `path` (a link itself, not its end), None where nothing is."""
    try:
        status = path.lstat()
    except OSError:  # what else is wrong with the place is said when it is written
        return None
    return status.st_dev, status.st_ino


def _put_in_place(fresh: Path, path: Path, room: Path, mark: str) -> None:
    """Rename `fresh` to `path`, an older bundle out of the way first. Of several writers the last one wins; each bundle is
    whole, since a folder is only ever renamed. Raises OSError, and then the older bundle is where it was."""
    for attempt in range(PUT_ATTEMPTS):
        old = room / f"old{attempt}"
        try:
            with uninterrupted():
                _swap(fresh, path, old)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and attempt + 1 < PUT_ATTEMPTS:
                _expect_marked_or_nothing(path, mark)
                continue  # another writer has put its own there in between
            if old.exists() and not path.exists():
                os.rename(old, path)
            raise
        return


def _swap(fresh: Path, path: Path, old: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # there was none, or another writer has just taken it away
        os.rename(path, old)
    os.rename(fresh, path)


def load_bundle(path: Path) -> Bundle:
    """Read and check a bundle. Raises InputError naming the damaged file."""
    if not (path / MANIFEST).is_file():
        raise InputError("HPCC1244", "this is no bundle: it has no manifest.json", where=str(path))
    manifest = parse_manifest(_read(path, MANIFEST).decode("utf-8", "replace"), str(path / MANIFEST))
    files = dict.fromkeys((PROGRAM, LISTING, WEIGHTS, *(segment.file for segment in manifest.host_segments)))
    for name in files:
        if name not in manifest.digests:
            raise _error(f"no digest of {name}", str(path / MANIFEST))
    for name in manifest.digests:  # nothing else is read: a name could lead anywhere
        if name not in files:
            raise _error(f"a digest of {name!r}, which is no file of this bundle", str(path / MANIFEST))
    holder = weights_folder(path)
    weights = _map_weights(holder)
    _check_digest(holder, WEIGHTS, weights.data, manifest)
    texts = {name: _read(path, name) for name in files if name != WEIGHTS}
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


BUCKETS = "buckets"
"""The folder of a bundle of several shapes that holds one bundle for each; they share the weights beside it."""


def weights_folder(path: Path) -> Path:
    """Where the weights of a bundle lie: in itself, or for one of several shapes in the bundle of all of them."""
    shared = path.resolve().parent
    if not (path / WEIGHTS).exists() and shared.name == BUCKETS and (shared.parent / WEIGHTS).is_file():
        return shared.parent
    return path


def _read(path: Path, name: str) -> bytes:
    try:
        check_plain(path / name)
        return (path / name).read_bytes()
    except OSError as error:
        raise InputError("HPCC1249", f"cannot read: {error.strerror}", where=str(path / name)) from error


def check_plain(file: Path) -> None:
    """Raises InputError for what is no file: a pipe or a device has no end. What is missing raises OSError."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise InputError("HPCC1249", "cannot read: this is no file", where=str(file))


def _map_weights(path: Path) -> Bytes:
    file = path / WEIGHTS
    try:
        check_plain(file)
        if not file.stat().st_size:
            return np.zeros(0, np.uint8)
        mapped: Any = np.memmap(file, np.uint8, "r")
    except OSError as error:
        raise InputError("HPCC1249", f"cannot read: {error.strerror}", where=str(file)) from error
    return mapped


def _check_digest(path: Path, name: str, data: bytes | memoryview, manifest: Manifest) -> None:
    if digest(data) != manifest.digests[name]:
        raise _edited(path / name)


def _edited(file: Path) -> InputError:
    message = "the file is not the one that was written with this bundle"
    return InputError("HPCC1245", message, where=str(file), hint="it is truncated or was edited; compile again")
