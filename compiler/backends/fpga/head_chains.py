"""Chains on heads: their RMS norm, their rotation and what quantises them per token and head, in one instruction."""

from __future__ import annotations

from xdsl.dialects.builtin import f32

from compiler.backends.fpga.builder import Buffer
from compiler.backends.fpga.context import Context, in_weights, key_of, layer_of, only_user
from compiler.backends.fpga.planning import SLOTS
from compiler.backends.fpga.row_chains import norm as token_norm
from compiler.dialects import nn


def rms_norm(c: Context, op: nn.RmsNormOp) -> None:
    """A free-standing RMS norm: of whole tokens, or of heads. That of heads waits for the rotation behind it."""
    if op.is_whole:
        token_norm(c, op)
    elif not isinstance(only_user(op.result), nn.RotaryOp):
        _heads(c, op, None)


def rotary(c: Context, op: nn.RotaryOp) -> None:
    before = op.x.owner
    normed = isinstance(before, nn.RmsNormOp) and op.x not in c.buffers and only_user(op.x) is op
    _heads(c, before if normed and isinstance(before, nn.RmsNormOp) else None, op)


def _heads(c: Context, norm: nn.RmsNormOp | None, turn: nn.RotaryOp | None) -> None:
    last = turn if turn is not None else norm
    assert last is not None
    batch, tokens, width = nn.shape_of(last.result)
    size = turn.head_size.value.data if turn is not None else nn.shape_of(last.operands[1])[0]
    quantize = c.chain_quantize(last.result)
    layer = layer_of(quantize) if quantize is not None else "heads"
    source = c.buffer_of(norm.x if norm is not None else last.operands[0])
    gamma = None if norm is None else c.columns(f"{layer}.heads", size, [key_of(norm.gamma)])
    table = None if turn is None else _table(c, turn)
    out, quantised, _ = c.chain_targets(last.result, f"{layer}.heads")
    codes, scale = (quantised.codes, quantised.scale) if quantised is not None else (None, None)
    turned = 0 if turn is None else turn.turned
    most = c.plan.rows(c.plan.tokens, SLOTS * (5 * width + 4 * turned))
    with c.b.loop(batch, "sequence") as sequence:
        for first, rows in c.b.tiles(tokens, most, "tile"):
            row = sequence * tokens + first
            x = c.read(source, row, rows, layer, "x.heads")
            angles = None if table is None else c.read(table, first, rows, layer, "angles")
            with (
                c.writing(out, row, rows, layer, "out.tile") as out_tile,
                c.writing(codes, row, rows, layer, "codes.tile") as code_tile,
                c.writing(scale, row, rows, layer, "scale.tile") as scale_tile,
            ):
                c.b.run(
                    "vector.heads",
                    {
                        "x": x,
                        "columns": gamma,
                        "table": angles,
                        "out": out_tile,
                        "codes": code_tile,
                        "scale": scale_tile,
                    },
                    {
                        "rows": rows,
                        "cols": width,
                        "group": size,
                        "turned": turned,
                        "interleaved": int(turn is not None and turn.interleaved is not None),
                        "codes_in_weights": int(code_tile is not None and in_weights(code_tile)),
                        "eps": 0.0 if norm is None else norm.eps.value.data,
                    },
                    layer,
                )


def _table(c: Context, op: nn.RotaryOp) -> Buffer:
    """The angles of all tokens in DRAM, one region for all layers that share them."""
    key = key_of(op.table)
    if key not in c.tables:
        rows, cols = nn.shape_of(op.table)
        c.tables[key] = c.b.dram("table", key, rows, cols, f32, [key])
    return c.tables[key]
