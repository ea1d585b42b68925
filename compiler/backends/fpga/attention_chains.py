"""Attention: four instructions per head and row tile; V is quantised per sequence and head."""

from __future__ import annotations

from collections.abc import Iterator

from xdsl.dialects.builtin import (
    bf16,
    f32,
    i8,
    i32,
)
from xdsl.ir import SSAValue

from compiler.backends.fpga.builder import Buffer, Index
from compiler.backends.fpga.context import (
    Context,
    Quantised,
    follower_of,
    in_dram,
    location_name,
    origin_of,
)
from compiler.backends.fpga.planning import SLOTS
from compiler.backends.fpga.weights import WeightPlan
from compiler.dialects import nn
from hw_targets.errors import InputError
from hw_targets.isa import Memory

CAUSAL_QUERIES = 32
"""Queries of a causal block at least: below, an instruction's fill outweighs the keys that it leaves out."""
CAUSAL_BLOCKS = 16
"""Blocks of a long causal sequence: more would leave out less than 1 / 32 of the work and make the program long."""


def qattention(c: Context, op: nn.QAttentionOp) -> None:
    layer = op.role.data
    batch, queries, width = nn.shape_of(op.q)
    keys = nn.shape_of(op.k)[1]
    heads = op.heads.value.data
    size = width // heads
    if keys > 512:
        raise InputError(
            "HPCC1401",
            f"attention over {keys} keys is longer than the 512 that 8-bit probabilities allow",
            where=location_name(op),
            hint="compile a shorter sequence with --shape",
        )
    q, k = c.quantised_of(op.q), c.quantised_of(op.k)
    mask = c.mask_of(op.mask) if op.mask is not None else None
    follower = follower_of(op, op.result, nn.CastOp)
    c.done.add(follower)
    context = c.tensor(f"{layer}.context", batch * queries, width, bf16)
    c.buffers[follower.result] = context
    with c.b.loop(batch, "sequence") as sequence, c.b.loop(op.groups, "group") as group:
        k_rows = c.read(k.codes, sequence * keys, keys, layer, "k.head", col=group * size, cols=size, memory=Memory.WEIGHTS)
        v_rows, v_scale = _values_of(c, op.v, sequence, group, size, layer)
        k_scale = c.b.view(k.scale, sequence * keys, group, keys, 1)
        most = _query_rows(c, q.codes, context, keys, size)
        with c.b.loop(heads // op.groups, "head") as member:
            head = group * (heads // op.groups) + member
            for first, rows, seen in _blocks(c, op, most):
                row = sequence * queries + first
                place = {"col": head * size, "cols": size}
                q_rows = c.read(q.codes, row, rows, layer, "q.tile", **place)
                scores = c.b.alloc("scores", Memory.ACC, rows, seen, i32, SLOTS)
                p = c.b.alloc("p", Memory.ACT, rows, seen, i8, SLOTS)
                total = c.b.alloc("l", Memory.ACT, 1, rows, i32, SLOTS)
                score_weight = WeightPlan.dense("", seen, size)
                c.multiply(q_rows, c.b.view(k_rows, 0, 0, seen, size), scores, score_weight, layer)
                c.b.run(
                    "vector.softmax",
                    {
                        "acc": scores,
                        "row_scale": c.b.view(q.scale, row, head, rows, 1),
                        "col_scale": c.b.view(k_scale, 0, 0, seen, 1),
                        "mask": c.b.view(mask, sequence, 0, 1, seen) if mask is not None else None,
                        "p": p,
                        "l": total,
                    },
                    {
                        "rows": rows,
                        "cols": seen,
                        "score_scale": op.scale.value.data,
                        "causal": int(op.causal is not None),
                    },
                    layer,
                )
                acc = c.b.alloc("acc", Memory.ACC, rows, size, i32, SLOTS)
                value_weight = WeightPlan.dense("", size, seen, x_unsigned=True)
                c.multiply(p, c.b.view(v_rows, 0, 0, size, seen), acc, value_weight, layer, stage=1)
                with c.writing(context, row, rows, layer, "context.tile", stage=1, **place) as out:
                    c.b.run(
                        "vector.context",
                        {"acc": acc, "l": total, "v_scale": v_scale, "out": out},
                        {"rows": rows, "cols": size},
                        layer,
                        stage=1,
                    )


def _blocks(c: Context, op: nn.QAttentionOp, most: int) -> Iterator[tuple[Index, int, int]]:
    """(first query, queries, keys that any of them sees) of the tasks of one head.

    Causal attention is cut finer, each block with the keys up to its last query: what no query of it sees is left out.
    """
    queries, keys = nn.shape_of(op.q)[1], nn.shape_of(op.k)[1]
    if op.causal is None:
        for first, rows in c.b.tiles(queries, most, "block"):
            yield first, rows, keys
        return
    step = min(max(CAUSAL_QUERIES, -(-queries // CAUSAL_BLOCKS)), most)
    for start in range(0, queries, step):
        rows = min(step, queries - start)
        yield Index(start), rows, start + rows


def _query_rows(c: Context, codes: Buffer, context: Buffer, keys: int, size: int) -> int:
    """Query rows of one task: their probabilities and sums, beside what comes from DRAM or goes there for a head."""
    row_bytes = SLOTS * (keys + 4 + size * in_dram(codes) + 2 * size * in_dram(context))
    return c.plan.rows(c.plan.queries, row_bytes, SLOTS * 2 * keys * size * in_dram(context))


def _values_of(c: Context, value: SSAValue, sequence: Index, head: Index, size: int, layer: str) -> tuple[Buffer, Buffer]:
    """V^T of one sequence and head in the weight memory, and its scale. Where V lies in DRAM it is quantised here."""
    value = origin_of(value)
    if value in c.quantised:
        v = c.quantised[value]
        rows = c.b.view(v.codes, sequence * (v.codes.rows // v.scale.rows) + head * size, 0, size, v.codes.cols)
        return rows, c.b.view(v.scale, sequence, head, 1, 1)
    op = c.values[value]
    tokens = nn.shape_of(value)[1]
    source = c.buffer_of(op.x)
    x = c.read(source, sequence * tokens, tokens, layer, "v.head", col=head * size, cols=size)
    codes = c.b.alloc("v.codes", Memory.WEIGHTS, size, tokens, i8, SLOTS)
    scale = c.b.alloc("v.scale", Memory.ACT, 1, 1, f32, SLOTS)
    _quantize_columns(c, op, x, codes, scale, sequence, layer)
    return codes, scale


def _quantize_columns(
    c: Context, op: nn.QuantizeOp, x: Buffer, codes: Buffer, scale: Buffer, sequence: Index, layer: str
) -> None:
    mask = c.mask_of(op.mask) if op.mask is not None else None
    c.b.run(
        "vector.quantize_columns",
        {
            "x": x,
            "mask": c.b.view(mask, sequence, 0, 1, x.rows) if mask is not None else None,
            "codes": codes,
            "scale": scale,
        },
        {"rows": x.rows, "cols": x.cols},
        layer,
    )


def quantize_values(c: Context, op: nn.QuantizeOp, source: Buffer, layer: str) -> None:
    """V of every sequence and head, or later head by head where it lies in DRAM."""
    if in_dram(source):
        c.values[op.codes] = op
        if op.mask is not None:
            c.mask_of(op.mask)
        return
    batch, tokens, width = nn.shape_of(op.codes)
    heads = op.groups
    size = width // heads
    if op.mask is not None:
        c.mask_of(op.mask)
    codes = c.b.alloc(f"{layer}.values", Memory.WEIGHTS, batch * width, tokens, i8)
    scale = c.b.alloc(f"{layer}.value_scale", Memory.ACT, batch, heads, f32)
    c.quantised[op.codes] = Quantised(codes, scale)
    with c.b.loop(batch, "sequence") as sequence, c.b.loop(heads, "head") as head:
        _quantize_columns(
            c,
            op,
            c.b.view(source, sequence * tokens, head * size, tokens, size),
            c.b.view(codes, sequence * width + head * size, 0, size, tokens),
            c.b.view(scale, sequence, head, 1, 1),
            sequence,
            layer,
        )
