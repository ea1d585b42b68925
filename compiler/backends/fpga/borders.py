"""What enters and leaves the device, and values that are other names of the same bytes."""

from __future__ import annotations

from math import prod

from xdsl.dialects.builtin import (
    BFloat16Type,
    Float32Type,
    bf16,
)
from xdsl.dialects.func import ReturnOp
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


def weight(c: Context, op: nn.WeightOp) -> None:
    """A bf16 tensor of the file that an instruction reads as an activation (a class token, positions)."""
    shape = nn.shape_of(op.result)
    if isinstance(nn.element_type_of(op.result), BFloat16Type) and len(shape) == 3:
        rows = prod(shape[:-1])
        key = op.key.data
        c.buffers[op.result] = c.b.dram("table", key, rows, shape[-1], bf16, [key])


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


def store_outputs(c: Context, op: ReturnOp, names: list[str]) -> None:
    for value, name in zip(op.arguments, names, strict=True):
        source = c.buffer_of(value)
        if name in c.written:
            continue
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
