"""A bundle of one model for several shapes: one image of weights, and a program with its reports for each shape.

manifest.json lists the shapes, smallest first; each has a folder below buckets/ that is a bundle but for its weights,
which are those beside manifest.json. An input runs in the smallest shape that holds it, filled up with zeros that the
model's mask hides, and the outputs are cut back to the input's length.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from hw_targets.errors import InputError
from runtime.bundle import BUCKETS, MANIFEST, WEIGHTS, Bundle, Room, bundle_files, check_plain, digest
from runtime.manifest import BorderEntry, Shape, Strict, TensorEntry
from runtime.program import Program, RunResult

SCHEMA_VERSION = 1
KIND = "buckets"
Tensors = Mapping[str, NDArray[Any]]


class BucketEntry(Strict):
    """One shape: its folder's name, the compiled shapes of the model's inputs, and the digest of its manifest."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    shapes: dict[str, Shape]
    digest: str

    @property
    def elements(self) -> int:
        return sum(prod(shape) for shape in self.shapes.values())


class BucketManifest(Strict):
    """The whole file; `weights_digest` and `digest` as in a bundle's manifest."""

    kind: Literal["buckets"] = KIND
    schema_version: int = SCHEMA_VERSION
    hpcc_version: str
    model: str
    target: str
    buckets: Annotated[tuple[BucketEntry, ...], Field(min_length=1)]
    weights_digest: str
    digest: str = ""

    def text(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"

    def own_digest(self) -> str:
        return digest(self.model_copy(update={"digest": ""}).text().encode())


@dataclass(frozen=True)
class Bucket:
    """A shape to be saved: `bundle` holds the shared image, `extras` are its reports."""

    name: str
    bundle: Bundle
    extras: Mapping[str, str | bytes]


def is_bucket_bundle(path: Path) -> bool:
    """Whether a folder's manifest says that it is for several shapes; False where there is none that can be read."""
    try:
        check_plain(path / MANIFEST)
        head: Any = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, InputError):
        return False
    entries: dict[str, Any] = {**head} if isinstance(head, dict) else {}
    return entries.get("kind") == KIND


def save_buckets(buckets: Sequence[Bucket], path: Path, extras: Mapping[str, str | bytes]) -> BucketManifest:
    """Write the bundle of all shapes, smallest first. An older bundle is replaced, anything else is an InputError."""
    entries: list[BucketEntry] = []
    with Room(path) as room:
        for number, bucket in enumerate(buckets):
            manifest, files = bundle_files(bucket.bundle)
            image = files.pop(WEIGHTS)
            if not number:
                room.write(WEIGHTS, image)
            for name, data in {**files, **bucket.extras}.items():
                room.write(f"{BUCKETS}/{bucket.name}/{name}", data)
            shapes = {entry.name: entry.shape for entry in manifest.model_inputs}
            entries.append(BucketEntry(name=bucket.name, shapes=shapes, digest=digest(manifest.text().encode())))
        first = buckets[0].bundle
        whole = BucketManifest(
            hpcc_version=first.manifest.hpcc_version,
            model=first.manifest.model.name,
            target=first.target.name,
            buckets=tuple(entries),
            weights_digest=digest(np.ascontiguousarray(first.weights).data) if first.weights.size else digest(b""),
        )
        whole = whole.model_copy(update={"digest": whole.own_digest()})
        room.write(MANIFEST, whole.text())
        for name, data in extras.items():
            room.write(name, data)
        room.publish()
    return whole


def parse_bucket_manifest(path: Path) -> BucketManifest:
    """The manifest of a bundle of several shapes. Raises InputError for damage, and for one of another version."""
    file = path / MANIFEST
    try:
        check_plain(file)
        manifest = BucketManifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InputError("HPCC1290", f"cannot read: {error.strerror}", where=str(file)) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError("HPCC1290", f"{place}: {first['msg']}", where=str(file), hint="compile again") from error
    if manifest.schema_version != SCHEMA_VERSION:
        message = f"schema_version is {manifest.schema_version}, this release reads {SCHEMA_VERSION}"
        raise InputError("HPCC1290", message, where=str(file), hint="compile the model again")
    if manifest.own_digest() != manifest.digest:
        message = "the file is not the one that was written with this bundle"
        raise InputError("HPCC1290", message, where=str(file), hint="it was edited; compile again")
    return manifest


class BucketProgram:
    """The programs of one model for several shapes; each is loaded when an input first needs it."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        self.path = path
        self.manifest = parse_bucket_manifest(path)
        self.threads = threads
        self._programs: dict[str, Program] = {}

    @classmethod
    def load(cls, path: Path | str, threads: int = 0) -> BucketProgram:
        """The programs of a bundle folder. Raises InputError naming the damaged file."""
        return cls(Path(path), threads)

    def program(self, name: str) -> Program:
        """The program of one shape. Raises InputError if it is damaged, or not of this bundle."""
        if name not in self._programs:
            entry = next(entry for entry in self.manifest.buckets if entry.name == name)
            program = Program.load(self.path / BUCKETS / name, threads=self.threads)
            if digest(program.manifest.text().encode()) != entry.digest:
                where = str(self.path / BUCKETS / name / MANIFEST)
                raise InputError("HPCC1291", "this program is of another bundle", where=where, hint="compile again")
            self._programs[name] = program
        return self._programs[name]

    @cached_property
    def largest(self) -> BucketEntry:
        return self.manifest.buckets[-1]

    def choose(self, inputs: Tensors) -> BucketEntry:
        """The smallest shape that holds the inputs (any number of samples). Raises InputError where none does."""
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        for entry in self.manifest.buckets:
            if all(_holds(shape, arrays[name].shape) for name, shape in entry.shapes.items() if name in arrays):
                return entry
        shapes = ((name, shape) for name, shape in self.largest.shapes.items() if name in arrays)
        name, shape = next((name, shape) for name, shape in shapes if not _holds(shape, arrays[name].shape))
        given = "x".join(map(str, arrays[name].shape))
        most = "x".join(map(str, ("samples", *shape[1:])))
        message = f"no bucket holds input {name!r} of shape {given}, the largest takes {most}"
        raise InputError("HPCC1292", message, hint="cut the input, or compile a larger bucket")

    def run(self, inputs: Tensors) -> tuple[BucketEntry, RunResult]:
        """The shape that the inputs ran in, and the result with outputs of the inputs' own length."""
        entry = self.choose(inputs)
        program = self.program(entry.name)
        padded = {name: _padded(np.asarray(array), entry.shapes.get(name)) for name, array in inputs.items()}
        lengths = _lengths(inputs, entry)
        if lengths and not any("mask" in name for name in entry.shapes):
            message = f"the input is shorter than bucket {entry.name}, and the model has no mask to hide the rest"
            raise InputError("HPCC1293", message, hint="give inputs of a bucket's own length")
        result = program.run(padded)
        outputs = {
            output.name: _cut(result.outputs[output.name], output, lengths, self._varying(output.name))
            for output in program.manifest.model_outputs
        }
        return entry, RunResult(outputs, result.cycles, result.batches, result.simulate_seconds, result.host_seconds)

    def _varying(self, output: str) -> tuple[bool, ...]:
        """Which axes of an output are as long as the input: those that differ between the shapes."""
        smallest, largest = (
            next(entry.shape for entry in self.program(bucket.name).manifest.model_outputs if entry.name == output)
            for bucket in (self.manifest.buckets[0], self.largest)
        )
        return tuple(a != b for a, b in zip(smallest, largest, strict=True))


def _holds(compiled: Sequence[int], given: Sequence[int]) -> bool:
    """Whether samples of the given shape fit; the first axis counts them."""
    inner = zip(compiled[1:], given[1:], strict=False)
    return len(compiled) == len(given) and all(have <= room for room, have in inner)


def _padded(array: NDArray[Any], compiled: Sequence[int] | None) -> NDArray[Any]:
    if compiled is None or len(compiled) != array.ndim:
        return array  # the program says what is wrong with it
    missing = [(0, 0), *((0, room - have) for room, have in zip(compiled[1:], array.shape[1:], strict=True))]
    return np.pad(array, missing) if any(after for _, after in missing) else array


def _lengths(inputs: Tensors, entry: BucketEntry) -> dict[int, int]:
    """The inputs' own length where the bucket is longer: {compiled length: length}."""
    found: dict[int, int] = {}
    for name, compiled in entry.shapes.items():
        shape = np.asarray(inputs[name]).shape if name in inputs else ()
        found |= {room: have for room, have in zip(compiled[1:], shape[1:], strict=False) if have < room}
    return found


def _cut(
    array: NDArray[Any], output: TensorEntry | BorderEntry, lengths: Mapping[int, int], varying: Sequence[bool]
) -> NDArray[Any]:
    cuts = [slice(None)] * array.ndim
    for axis, (size, varies) in enumerate(zip(output.shape, varying, strict=True)):
        if axis and varies and size in lengths:
            cuts[axis] = slice(0, lengths[size])
    return array[tuple(cuts)]
