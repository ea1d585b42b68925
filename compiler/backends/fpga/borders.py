"""What enters and leaves the device, and values that are other names of the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from xdsl.dialects.builtin import (
    Float32Type,
    bf16,
)
from xdsl.ir import SSAValue

from compiler.backends.fpga.builder import Buffer
from compiler.backends.fpga.context import (
    SMALL,
    Context,
    origin_of,
    row_bytes,
)
from compiler.backends.fpga.planning import SLOTS
from compiler.dialects import nn
from hw_targets.isa import Memory


def _input(c: Context, value: SSAValue, layer: str = "inputs") -> Buffer:
    """An fp32 argument, which comes as bf16, tokens by features."""
    shape = nn.shape_of(value)
    rows, cols = prod(shape[:-1]), shape[-1]
    region = c.b.dram("input", c.input_names[value], rows, cols, bf16)
    if c.plan.spill and rows * cols * 2 > SMALL:
        return region
    buffer = c.b.alloc("input", Memory.ACT, rows, cols, bf16)
    c.copy_in(region, buffer, layer)
    return buffer


def alias(c: Context, op: nn.CastOp | nn.ReshapeOp) -> None:
    """A widening cast or a reshape of a finished tensor: the same bytes. The cast of an argument loads it."""
    source = origin_of(op.x)
    if source in c.input_names and isinstance(op, nn.CastOp) and isinstance(nn.element_type_of(source), Float32Type):
        c.buffers[op.result] = _input(c, source)
        return
    if source in c.buffers:
        c.buffers[op.result] = c.buffers[source]


def hand_over(c: Context, op: nn.HandOverOp) -> None:
    """Store what the host takes, and stop for it."""
    store_outputs(c, op.values, op.tensors)
    c.b.run("control.pause", {}, {}, "outputs")


def store_outputs(c: Context, values: Sequence[SSAValue], names: Sequence[str]) -> None:
    for value, name in zip(values, names, strict=True):
        if name in c.written or isinstance(value.owner, nn.HandOverOp):
            continue
        c.written.add(name)
        source = c.buffer_of(value)
        element = source.type.element_type
        region = c.b.dram("output", name, source.rows, source.cols, element)
        most = c.plan.rows(c.plan.tokens, SLOTS * row_bytes(source))
        for first, rows in c.b.tiles(source.rows, most, "tile"):
            c.b.run(
                "store.copy",
                {
                    "src": c.read(source, first, rows, "outputs", "out.copy"),
                    "dst": c.rows(region, first, rows),
                },
                {"rows": rows, "row_bytes": row_bytes(region)},
                "outputs",
            )
