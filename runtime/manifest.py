"""manifest.json of a bundle: what a program needs to know beside its instructions and its weights.

The model is strict: an unknown key, a missing one or a wrong type is an error that names it.
"""

from __future__ import annotations

import json
from math import prod
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from hw_targets.check import Semaphore
from hw_targets.errors import InputError
from hw_targets.isa import ISA_VERSION, Memory, Queue

SCHEMA_VERSION = 1
TENSOR_LIMIT = 1 << 30
"""Most elements of a tensor outside of the device, so that a damaged shape is an error and not a machine out of memory."""

Size = Annotated[int, Field(ge=0)]
DType = Literal[
    "float64", "float32", "float16", "bfloat16", "bool",
    "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8",
]  # fmt: skip


def _check_elements(shape: tuple[int, ...]) -> tuple[int, ...]:
    if prod(shape) > TENSOR_LIMIT:
        raise ValueError(f"a tensor of more than {TENSOR_LIMIT} elements")
    return shape


Shape = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=16), AfterValidator(_check_elements)]
DeviceType = Literal["i32", "u8", "f32", "bf16"]
DEVICE_BYTES: dict[str, int] = {"i32": 4, "u8": 1, "f32": 4, "bf16": 2}


class Strict(BaseModel):
    """No unknown keys, no silent conversions, no change afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelEntry(Strict):
    """The ONNX model that was compiled; `pattern` in its full form, `notes` on what was done to the file's own numbers."""

    name: str
    sha256: str
    parameters: Size = 0
    macs: Size = 0
    pattern: str = "dense"
    notes: tuple[str, ...] = ()


class NodeEntry(Strict):
    """What an instruction's node number stands for."""

    onnx_node: str
    layer: str
    op: str


class SemaphoreEntry(Strict):
    """One semaphore; its number is its place in the list."""

    name: str
    initial: Size
    producer: Queue
    consumer: Queue


class DramEntry(Strict):
    """A region of DRAM. weights.bin is the image of DRAM from the first weights region on."""

    name: str
    kind: Literal["weights", "input", "output", "scratch"]
    offset: Size
    bytes: Annotated[int, Field(ge=1)]

    @property
    def end(self) -> int:
        return self.offset + self.bytes


class BorderEntry(Strict):
    """A tensor at the device's border: packed in DRAM at `offset` as `device_dtype`; `dtype` is numpy's name of the
    type that it has outside, `part` the part of the program, counted by its pauses, that first reads it or that wrote it."""

    name: str
    dtype: DType
    shape: Shape
    device_dtype: DeviceType
    offset: Size
    part: Size = 0

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * DEVICE_BYTES[self.device_dtype]


class TensorEntry(Strict):
    """An input or an output of the model as its user knows it; `dtype` is numpy's name."""

    name: str
    dtype: DType
    shape: Shape


class HostNodeEntry(Strict):
    """A node that runs on the host, and why."""

    onnx_node: str
    op: str
    reason: str
    macs: Size = 0


class HostEntry(Strict):
    """A part of the model that ONNX Runtime executes."""

    kind: Literal["host"] = "host"
    file: Annotated[str, Field(pattern=r"^host/[A-Za-z0-9._-]+\.onnx$")]
    inputs: tuple[str, ...]
    outputs: Annotated[tuple[str, ...], Field(min_length=1)]
    nodes: tuple[HostNodeEntry, ...] = ()


class DeviceEntry(Strict):
    """What program.bin executes up to its next pause, or its end."""

    kind: Literal["device"] = "device"


Segment = Annotated[HostEntry | DeviceEntry, Field(discriminator="kind")]


class Manifest(Strict):
    """The whole file. `digests` are blake2b (32 bytes, hex) of the bundle's other files, `digest` is that of this
    file's canonical text with `digest` empty; `save` fills them in."""

    schema_version: int = SCHEMA_VERSION
    hpcc_version: str
    isa_version: int = ISA_VERSION
    model: ModelEntry
    target: dict[str, Any]
    nodes: tuple[NodeEntry, ...]
    semaphores: tuple[SemaphoreEntry, ...]
    sizes: dict[Memory, Size]
    dram: tuple[DramEntry, ...]
    inputs: tuple[BorderEntry, ...]
    outputs: tuple[BorderEntry, ...]
    model_inputs: tuple[TensorEntry, ...]
    model_outputs: tuple[TensorEntry, ...]
    segments: tuple[Segment, ...]
    digests: dict[str, str] = {}
    digest: str = ""

    @property
    def semaphore_table(self) -> tuple[Semaphore, ...]:
        return tuple(Semaphore(s.name, s.initial, s.producer, s.consumer) for s in self.semaphores)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layer of every node number."""
        return tuple(node.layer for node in self.nodes)

    @property
    def onnx_nodes(self) -> tuple[str, ...]:
        """The ONNX node of every node number."""
        return tuple(node.onnx_node for node in self.nodes)

    @property
    def parts(self) -> int:
        """Parts of the program, with host segments between them."""
        return sum(isinstance(segment, DeviceEntry) for segment in self.segments)

    @property
    def host_segments(self) -> tuple[HostEntry, ...]:
        return tuple(segment for segment in self.segments if isinstance(segment, HostEntry))

    def text(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


def parse_manifest(text: str, where: str) -> Manifest:
    """The manifest of a JSON text. Raises InputError for damage, and for a bundle of another version."""
    try:
        head: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("HPCC1240", f"not valid JSON: {error}", where=where) from error
    if not isinstance(head, dict):
        raise InputError("HPCC1240", "not a JSON object", where=where)
    hint = "compile the model again, or use the release that wrote it"
    versions: dict[str, Any] = {**head}
    for key, known in (("schema_version", SCHEMA_VERSION), ("isa_version", ISA_VERSION)):
        found = versions.get(key)
        if found != known:
            raise InputError("HPCC1241", f"{key} is {found!r}, this release reads {known}", where=where, hint=hint)
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError("HPCC1240", f"{place}: {first['msg'].removeprefix('Value error, ')}", where=where) from error
