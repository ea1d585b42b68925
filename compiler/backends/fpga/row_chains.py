"""Chains without a matrix product: embeddings, free-standing norms and quantisers, concatenation, pooling."""

from __future__ import annotations

from math import prod

from xdsl.dialects.builtin import (
    bf16,
    f32,
    i32,
)
from xdsl.ir import SSAValue

from compiler.backends.fpga.attention_chains import quantize_values
from compiler.backends.fpga.builder import Buffer, Index
from compiler.backends.fpga.context import (
    SMALL,
    Context,
    follower_of,
    in_dram,
    in_weights,
    key_of,
    layer_of,
    norm_code,
    norm_keys,
    origin_of,
)
from compiler.backends.fpga.planning import SLOTS
from compiler.dialects import nn
from hw_targets.isa import Memory

POOL_COLUMNS = 64
"""Columns that are pooled at a time where a whole sequence does not fit on chip."""


def embedding(c: Context, op: nn.EmbeddingOp) -> None:
    layer = "embeddings"
    shape = nn.shape_of(op.result)
    tokens, width = prod(shape[:-1]), shape[-1]
    follower = follower_of(op, op.result, nn.LayerNormOp, nn.RmsNormOp, nn.CastOp)
    columns = None
    eps = 0.0
    c.done.add(follower)
    tables, ids = [], []
    for table, id_value in zip(op.tables, op.ids, strict=True):
        rows = nn.shape_of(table)[0]
        tables.append(c.b.dram("table", key_of(table), rows, width, bf16, [key_of(table)]))
        ids.append(_ids(c, id_value, tokens))
    smooth = c.smooth_keys(follower.result)
    norm = None if isinstance(follower, nn.CastOp) else follower
    if norm is not None:
        eps = norm.eps.value.data
        columns = c.columns(layer, width, [*norm_keys(norm), *smooth])
    out, quantised, group = c.chain_targets(follower.result, layer)
    if out is None:  # the instruction always writes the sum
        out = c.tensor(f"{layer}.out", tokens, width, bf16)
    row_bytes = SLOTS * (len(tables) * 2 + 3) * width
    for first, rows in c.b.tiles(tokens, c.plan.rows(c.plan.tokens, row_bytes), "tile"):
        gathered = c.b.alloc("gathered", Memory.ACT, len(tables) * rows, width, bf16, SLOTS)
        for number, (table, id_buffer) in enumerate(zip(tables, ids, strict=True)):
            c.b.run(
                "load.gather",
                {
                    "table": table,
                    "ids": c.read(id_buffer, Index(), 1, layer, "ids", col=first, cols=rows),
                    "dst": c.b.view(gathered, number * rows, 0, rows, width),
                },
                {"rows": rows, "row_bytes": width * 2, "table_rows": table.rows},
                layer,
            )
        codes, scale = (quantised.codes, quantised.scale) if quantised else (None, None)
        with (
            c.writing(out, first, rows, layer, "out.tile") as out_tile,
            c.writing(codes, first, rows, layer, "codes.tile") as code_tile,
            c.writing(scale, first, rows, layer, "scale.tile") as scale_tile,
        ):
            c.b.run(
                "vector.embed",
                {
                    "rows_in": gathered,
                    "columns": columns,
                    "out": out_tile,
                    "codes": code_tile,
                    "scale": scale_tile,
                },
                {
                    "rows": rows,
                    "cols": width,
                    "group": group,
                    "tables": len(tables),
                    "table_bytes": rows * width * 2,
                    "norm": norm_code(norm),
                    "smoothed": len(smooth),
                    "codes_in_weights": int(code_tile is not None and in_weights(code_tile)),
                    "eps": eps,
                },
                layer,
            )


def _ids(c: Context, value: SSAValue, tokens: int) -> Buffer:
    value = origin_of(value)
    if isinstance(value.owner, nn.WeightOp):
        region = c.b.dram("ids", key_of(value), 1, tokens, i32, [key_of(value)])
    else:
        region = c.b.dram("input", c.input_names[value], 1, tokens, i32)
    if c.plan.spill and tokens * 4 > SMALL:
        return region
    ids = c.b.alloc("ids", Memory.ACT, 1, tokens, i32)
    c.copy_in(region, ids, "inputs")
    return ids


def quantize(c: Context, op: nn.QuantizeOp) -> None:
    """A quantize op that no chain has done: V per sequence and head, or rows of a finished tensor."""
    layer = layer_of(op)
    source = c.buffer_of(op.x)
    shape = nn.shape_of(op.codes)
    if op.granularity.data is nn.Granularity.SEQUENCE_HEAD:
        quantize_values(c, op, source, layer)
        return
    tokens, width = prod(shape[:-1]), shape[-1]
    quantised = c.quantised_target(op, f"{layer}.in")
    c.quantised[op.codes] = quantised
    for first, rows in c.b.tiles(tokens, c.plan.rows(c.plan.tokens, SLOTS * 3 * width), "tile"):
        x = c.read(source, first, rows, layer, "x.tile.bf16")
        with (
            c.writing(quantised.codes, first, rows, layer, "codes.tile") as codes,
            c.writing(quantised.scale, first, rows, layer, "scale.tile") as scale,
        ):
            assert codes is not None
            c.b.run(
                "vector.quantize",
                {"x": x, "codes": codes, "scale": scale},
                {
                    "rows": rows,
                    "cols": width,
                    "group": width // op.groups,
                    "codes_in_weights": int(in_weights(codes)),
                },
                layer,
            )


def take_token(c: Context, op: nn.TakeTokenOp) -> None:
    batch, tokens, width = nn.shape_of(op.x)
    source = c.buffer_of(op.x)
    c.buffers[op.result] = c.b.view(source, op.index.value.data, 0, batch, width, row_step=tokens)


def mean_pool(c: Context, op: nn.MeanPoolOp) -> None:
    batch, tokens, width = nn.shape_of(op.x)
    source, mask = c.buffer_of(op.x), c.mask_of(op.mask)
    out = c.b.alloc("pooled", Memory.ACT, batch, width, f32)
    c.buffers[op.result] = out
    step = c.plan.rows(POOL_COLUMNS, SLOTS * 2 * tokens) if in_dram(source) else width
    with c.b.loop(batch, "sequence") as sequence:
        for first, cols in c.b.tiles(width, step, "columns"):
            x = c.read(source, sequence * tokens, tokens, "pool", "pool.tile", col=first, cols=cols)
            c.b.run(
                "vector.pool",
                {
                    "x": x,
                    "mask": c.b.view(mask, sequence, 0, 1, tokens),
                    "out": c.b.view(out, sequence, first, 1, cols),
                },
                {"rows": tokens, "cols": cols, "minimum": op.minimum.value.data},
                "pool",
            )


def norm(c: Context, op: nn.LayerNormOp | nn.RmsNormOp) -> None:
    """A norm of a bf16 tensor that others read too (pre-norm): the sum of one table, normalised."""
    layer = _layer_of_norm(op)
    width = nn.shape_of(op.x)[-1]
    smooth = c.smooth_keys(op.result)
    columns = c.columns(f"{layer}.norm", width, [*norm_keys(op), *smooth])
    tokens = prod(nn.shape_of(op.x)[:-1])
    out, quantised, group = c.chain_targets(op.result, f"{layer}.norm")
    if out is None:  # the instruction always writes the sum
        out = c.tensor(f"{layer}.norm.out", tokens, width, bf16)
    codes, scale = (quantised.codes, quantised.scale) if quantised else (None, None)
    source = c.buffer_of(op.x)
    for first, rows in c.b.tiles(tokens, c.plan.rows(c.plan.tokens, SLOTS * 5 * width), "tile"):
        x = c.read(source, first, rows, layer, "x.tile.bf16")
        with (
            c.writing(out, first, rows, layer, "out.tile") as out_tile,
            c.writing(codes, first, rows, layer, "codes.tile") as code_tile,
            c.writing(scale, first, rows, layer, "scale.tile") as scale_tile,
        ):
            operands = {"rows_in": x, "columns": columns, "out": out_tile, "codes": code_tile, "scale": scale_tile}
            _embed(c, operands, group, layer, norm=op, smoothed=len(smooth))


def _embed(
    c: Context,
    operands: dict[str, Buffer | None],
    group: int,
    layer: str,
    *,
    norm: nn.LayerNormOp | nn.RmsNormOp | None = None,
    smoothed: int = 0,
) -> None:
    """`vector.embed` of one table that already is on chip."""
    x, codes = operands["rows_in"], operands.get("codes")
    assert x is not None
    fields = {"rows": x.rows, "cols": x.cols, "group": group, "tables": 1, "table_bytes": 0}
    fields |= {"norm": norm_code(norm), "smoothed": smoothed, "eps": 0.0 if norm is None else norm.eps.value.data}
    fields |= {"codes_in_weights": int(codes is not None and in_weights(codes))}
    c.b.run("vector.embed", operands, fields, layer)


def concat(c: Context, op: nn.ConcatOp) -> None:
    """Tokens of several tensors one after the other, sequence by sequence: VECTOR copies them."""
    batch, tokens, width = nn.shape_of(op.result)
    out = c.tensor("tokens.out", batch * tokens, width, bf16)
    c.buffers[op.result] = out
    start = 0
    for value in op.inputs:
        count = nn.shape_of(value)[1]
        source = c.buffer_of(value)
        with c.b.loop(batch, "sequence") as sequence:
            for first, rows in c.b.tiles(count, c.plan.rows(c.plan.tokens, SLOTS * 4 * width), "tile"):
                x = c.read(source, sequence * count + first, rows, "tokens", "x.tile.bf16")
                row = sequence * tokens + first + start
                with c.writing(out, row, rows, "tokens", "out.tile") as out_tile:
                    _embed(c, {"rows_in": x, "out": out_tile}, width, "tokens")
        start += count


def _layer_of_norm(op: nn.LayerNormOp | nn.RmsNormOp) -> str:
    """The layer a free-standing norm works for: that of the first linear or attention behind it."""
    for use in op.result.uses:
        if isinstance(use.operation, nn.QuantizeOp):
            return layer_of(use.operation)
    return "norm"
