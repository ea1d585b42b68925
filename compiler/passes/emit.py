"""`hpcc-emit`: scheduled tiles to instructions with byte addresses and loop strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import MemRefType, ModuleOp
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass

from compiler.dialects.isa import ImageOp, InstructionOp, LoopOp
from compiler.dialects.making import numbers_of
from compiler.dialects.tile import AllocOp, DramOp, ForOp, RunOp, ViewOp, element_bytes, no_tile_op, row_stride
from compiler.module import main_function
from hw_targets.errors import InputError
from hw_targets.isa import LOOP_LEVELS, Address, Instruction


@dataclass(frozen=True)
class EmitPass(ModulePass):
    """Replace the scheduled tile ops by `hpcc_isa` ops, one to one."""

    name: ClassVar[str] = "hpcc-emit"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        function = main_function(op)
        if all(isinstance(inner, ReturnOp | ImageOp | LoopOp | InstructionOp) for inner in function.body.block.ops):
            return  # emitted already
        block = Block(_emit(function.body.block.ops, ()))
        block.add_op(ReturnOp())
        function.body.detach_block(function.body.block)
        function.body.add_block(block)


def _emit(ops: Sequence[Operation] | object, counters: tuple[SSAValue, ...]) -> list[Operation]:
    result: list[Operation] = []
    for op in ops:  # pyright: ignore[reportGeneralTypeIssues]
        if isinstance(op, ForOp):
            body = _emit(op.body.block.ops, (*counters, op.counter))
            result.append(LoopOp(op.count.value.data, Region(Block(body))))
        elif isinstance(op, RunOp):
            result.append(_instruction(op, counters))
        elif isinstance(op, DramOp):
            result.append(_image(op))
        elif not isinstance(op, AllocOp | ViewOp | ReturnOp):
            raise no_tile_op(op)
    return result


def _image(op: DramOp) -> ImageOp:
    type = op.result.type
    assert isinstance(type, MemRefType)
    rows, cols = type.get_shape()
    if op.address is None:
        raise _unscheduled(op.label.data)
    size = rows * cols * element_bytes(type)
    return ImageOp(
        op.kind.data, op.label.data, op.address.value.data, size, type.element_type, op.content, op.encoding, op.parts
    )


def _unscheduled(label: str) -> InputError:
    return InputError("HPCC1404", f"buffer {label!r} has no address", hint="run the stage `schedule` before `emit`")


def _instruction(op: RunOp, counters: tuple[SSAValue, ...]) -> InstructionOp:
    operands = tuple((name, _address(value, counters)) for name, value in op.named.items())
    instruction = Instruction(
        op.function.data,
        operands,
        tuple(op.values.items()),
        numbers_of(op.waits),
        numbers_of(op.signals),
    )
    result = InstructionOp(instruction, op.layer.data)
    result.location = op.location
    return result


def _address(value: SSAValue, counters: tuple[SSAValue, ...]) -> Address:
    """Base, pitch and loop strides in bytes of a placed buffer or a view of one."""
    type: Attribute = value.type
    assert isinstance(type, MemRefType)
    size = element_bytes(type)
    pitch = row_stride(type) * size
    owner = value.owner
    if isinstance(owner, AllocOp | DramOp):
        if owner.address is None:
            raise _unscheduled(owner.label.data)
        return Address(owner.address.value.data, pitch)
    assert isinstance(owner, ViewOp)
    source = _address(owner.source, counters)
    used = list(owner.counters)

    def offset(values: list[int]) -> int:
        row, col = owner.origin.data.eval(values, [])
        return row * source.pitch + col * size

    base = offset([0] * len(used))
    strides = [0] * LOOP_LEVELS
    for level, counter in enumerate(counters):
        if counter in used:
            strides[level] = offset([int(c is counter) for c in used]) - base
    return Address(
        source.base + base,
        pitch,
        (source.strides[0] + strides[0], source.strides[1] + strides[1]),
    )
