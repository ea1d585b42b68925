"""From an emitted module to what a bundle holds: instructions, provenance, semaphores, and the DRAM image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, IntegerAttr, ModuleOp, StringAttr
from xdsl.ir import Operation

from compiler.dialects.isa import ImageOp, InstructionOp, LoopOp, node_name
from compiler.dialects.storage import StorageAttr
from compiler.dialects.tile import Part, parts_of
from compiler.module import main_function
from compiler.sparsity.saliency import Matrix
from compiler.storage.base import rooms_of
from compiler.storage.formats import SlotFormat, slots_of_rows
from compiler.weights import WeightStore
from hw_targets.errors import InputError
from hw_targets.isa import Instruction, Memory, Queue

U8 = NDArray[np.uint8]
DEVICE_DTYPES = {"i8": "u8", "i32": "i32", "f32": "f32", "bf16": "bf16"}


@dataclass(frozen=True)
class Node:
    """Where an instruction comes from."""

    onnx_node: str
    layer: str
    op: str


@dataclass(frozen=True)
class Region:
    """A DRAM region: `device_dtype` is u8, i32, f32, bf16; offset and size in bytes."""

    name: str
    kind: str
    offset: int
    bytes: int
    device_dtype: str


@dataclass(frozen=True)
class SemaphoreUse:
    producer: Queue
    consumer: Queue


@dataclass(frozen=True)
class ProgramParts:
    """A program without its data."""

    instructions: tuple[Instruction, ...]
    nodes: tuple[Node, ...]
    semaphores: tuple[SemaphoreUse, ...]
    sizes: dict[Memory, int]
    regions: tuple[Region, ...]


def program_parts(module: ModuleOp) -> ProgramParts:
    """Read the program out of an emitted module; it ends with HALT."""
    function = main_function(module)
    nodes: dict[Node, int] = {}
    instructions = [*_instructions(function.body.block.ops, nodes), Instruction("control.halt")]
    semaphores: list[SemaphoreUse] = []
    listed = function.attributes.get("semaphores")
    assert isinstance(listed, ArrayAttr)
    for entry in listed:
        assert isinstance(entry, DictionaryAttr)
        producer, consumer = entry.data["producer"], entry.data["consumer"]
        assert isinstance(producer, StringAttr)
        assert isinstance(consumer, StringAttr)
        semaphores.append(SemaphoreUse(Queue(producer.data), Queue(consumer.data)))
    sizes: dict[Memory, int] = {}
    table = function.attributes.get("sizes")
    assert isinstance(table, DictionaryAttr)
    for name, value in table.data.items():
        assert isinstance(value, IntegerAttr)
        sizes[Memory(name)] = value.value.data
    regions = tuple(
        Region(
            image.label.data,
            image.kind.data,
            image.address.value.data,
            image.bytes.value.data,
            DEVICE_DTYPES[str(image.element)],
        )
        for image in _images(module)
    )
    return ProgramParts(tuple(instructions), tuple(nodes), tuple(semaphores), sizes, regions)


def _instructions(ops: Iterable[Operation], nodes: dict[Node, int]) -> list[Instruction]:
    result: list[Instruction] = []
    for op in ops:
        if isinstance(op, LoopOp):
            body = _instructions(op.body.block.ops, nodes)
            node = body[0].node if body else 0
            count: tuple[tuple[str, int | float], ...] = (("count", op.count.value.data),)
            result.append(Instruction("control.loop", immediates=count, node=node))
            result += body
            result.append(Instruction("control.end", node=node))
        elif isinstance(op, InstructionOp):
            node = nodes.setdefault(Node(node_name(op), op.layer.data, op.function.data), len(nodes))
            result.append(op.instruction(node))
    return result


def _images(module: ModuleOp) -> list[ImageOp]:
    return [op for op in main_function(module).body.block.ops if isinstance(op, ImageOp)]


def weight_image(module: ModuleOp, store: WeightStore) -> U8:
    """The bytes of all constant DRAM regions, from offset 0: encoded weights, column parameters, tables, ids."""
    constant = [op for op in _images(module) if op.content.data]
    end = max((op.address.value.data + op.bytes.value.data for op in constant), default=0)
    image = np.zeros(end, np.uint8)
    for op in constant:
        start, size = op.address.value.data, op.bytes.value.data
        try:
            data = _content(op, store)
        except (ValueError, IndexError, ArithmeticError, AssertionError) as error:
            raise _damaged(op, f"its content cannot be stored: {error}") from error
        if len(data) != size:
            raise _damaged(op, f"its content has {len(data)} bytes, not {size}")
        image[start : start + size] = data
    return image


def _damaged(op: ImageOp, what: str) -> InputError:
    hint = "use a file of --dump-stages; if this is one, it is a bug of hpcc"
    return InputError("HPCC1439", f"region {op.label.data!r} is damaged: {what}", hint=hint)


def _content(op: ImageOp, store: WeightStore) -> U8:
    keys = [key.data for key in op.content]
    kind = op.kind.data
    if kind == "weights":
        assert isinstance(op.encoding, StorageAttr)
        return _weights(store.get(keys[0]), op.encoding, parts_of(op.parts), op.bytes.value.data)
    if kind == "columns":
        width = op.bytes.value.data // (4 * len(keys))
        rows = [store.get(key).reshape(-1) if key else np.zeros(width, np.float32) for key in keys]
        return _bytes(np.stack(rows).astype("<f4"))
    if kind == "ids":
        ids = store.get(keys[0]).astype("<i4").reshape(-1)
        return _bytes(np.tile(ids, op.bytes.value.data // ids.nbytes))
    return _bytes(store.get(keys[0]))


def _weights(codes: Matrix, encoding: StorageAttr, parts: list[Part], size: int) -> U8:
    """A weight stored whole, or its parts at their offsets."""
    format = encoding.format
    if not parts:
        return format.encode(codes, encoding.pattern)
    image = np.zeros(size, np.uint8)
    for part, data in zip(parts, _encoded_parts(codes, encoding, parts), strict=True):
        image[part.offset : part.offset + len(data)] = data
    return image


def _encoded_parts(codes: Matrix, encoding: StorageAttr, parts: list[Part]) -> Iterator[U8]:
    format, pattern = encoding.format, encoding.pattern
    if not isinstance(format, SlotFormat) or not format.slots_kept(len(codes), codes.shape[1], pattern):
        yield from (format.encode(codes[part.rows], pattern) for part in parts)
        return
    mask = format.mask_of(codes, pattern)
    runs = [(part.first, part.outs) for part in parts]
    rooms = rooms_of(format, np.count_nonzero(mask, axis=1), codes.shape[1], pattern, runs)
    for part, room in zip(parts, rooms, strict=True):
        yield format.encode_slots(codes[part.rows], slots_of_rows(mask, part.rows), pattern, room=room)


def _bytes(array: NDArray[np.generic]) -> U8:
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1)
