"""Chains that begin in a linear layer: one MATRIX instruction and one fused VECTOR chain per token tile."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from xdsl.dialects.builtin import (
    BFloat16Type,
    f32,
    i8,
    i32,
)
from xdsl.ir import Operation, SSAValue

from compiler.backends.fpga.allocation import aligned
from compiler.backends.fpga.builder import Buffer
from compiler.backends.fpga.context import (
    Context,
    enum_code,
    in_dram,
    in_weights,
    key_of,
    norm_code,
    norm_keys,
    only_user,
    row_bytes,
)
from compiler.backends.fpga.planning import Linear, cut
from compiler.backends.fpga.weights import WeightPlan, plan_weight, slots_by_row
from compiler.dialects import nn
from compiler.dialects.tile import Part
from hw_targets.isa import Activation, Memory
from hw_targets.storage import storage_formats
from hw_targets.timing import NORM_PASSES


def qlinear(c: Context, op: nn.QLinearOp) -> None:
    layer = op.role.data
    shape = nn.shape_of(op.result)
    tokens, width = prod(shape[:-1]), shape[-1]
    weight = plan_weight(op.weight)
    x = c.quantised_of(op.x)

    last, norm, activation = _tail_of(op)
    keys = [key_of(op.weight_scale), key_of(op.bias) if op.bias is not None else ""]
    smooth = c.smooth_keys(last)
    if norm is not None:
        keys += [*norm_keys(norm), *smooth]
    out_f32 = last is op.result
    if out_f32:
        out: Buffer | None = c.tensor(f"{layer}.out", tokens, width, f32)
        c.buffers[op.result] = out
        quantised, group = None, width
    else:
        out, quantised, group = c.chain_targets(last, layer)
    residual = c.buffer_of(op.residual) if op.residual is not None else None
    gate = c.buffer_of(op.gate) if op.gate is not None else None

    codes = quantised.codes if quantised else None
    streams = (x.codes, residual, gate, out, codes)
    moved = sum(row_bytes(buffer) for buffer in streams if buffer is not None and in_dram(buffer))
    passes = 1 + NORM_PASSES[norm_code(norm)] + (gate is not None) + (codes is not None)
    inputs = row_bytes(x.codes) if in_dram(x.codes) else 0
    choice = cut(c.target, c.plan, Linear(weight, tokens, inputs, moved, passes))
    parts = [weight] if choice.resident else _parts(c, weight)
    places = _region(c, parts)
    whole = _load_weight(c, weight, places[0], layer) if choice.resident else None
    columns = c.columns(layer, width, keys)
    for first, rows in c.b.tiles(tokens, choice.rows, "tile"):
        acc = c.b.alloc("acc", Memory.ACC, rows, width, i32, choice.slots)
        x_tile = c.read(x.codes, first, rows, layer, "x.tile", slots=choice.slots)
        for part, place in zip(parts, places, strict=True):
            loaded = whole or _load_weight(c, part, place, layer)
            c.multiply(x_tile, loaded, c.b.view(acc, 0, part.first, acc.rows, part.outs), part, layer)
        residual_tile = c.read(residual, first, rows, layer, "residual.tile") if residual is not None else None
        gate_tile = c.read(gate, first, rows, layer, "gate.tile") if gate is not None else None
        with (
            c.writing(out, first, rows, layer, "out.tile") as out_tile,
            c.writing(codes, first, rows, layer, "codes.tile") as code_tile,
        ):
            c.b.run(
                "vector.finish",
                {
                    "acc": acc,
                    "row_scale": c.rows(x.scale, first, rows),
                    "columns": columns,
                    "residual": residual_tile,
                    "out": out_tile,
                    "codes": code_tile,
                    "scale": c.rows(quantised.scale if quantised else None, first, rows),
                    "gate": gate_tile,
                },
                {
                    "rows": rows,
                    "cols": width,
                    "group": group,
                    "activation": enum_code(Activation, activation),
                    "norm": norm_code(norm),
                    "smoothed": len(smooth),
                    "out_f32": int(out_f32),
                    "codes_in_weights": int(code_tile is not None and in_weights(code_tile)),
                    "eps": norm.eps.value.data if norm is not None else 0.0,
                },
                layer,
            )
    for consumed in (norm, *_chain_ops(op)):
        if consumed is not None:
            c.done.add(consumed)


def _parts(c: Context, weight: WeightPlan) -> list[WeightPlan]:
    """A weight that streams past the tokens: each part is a range of output columns."""
    accelerator = c.target.accelerator
    if weight.compute_bytes <= c.plan.chunk_bytes:
        return [weight]
    together = accelerator.outputs * accelerator.cores
    return weight.parts(c.plan.chunk_bytes, together, slots_by_row(weight, c.store))


def _region(c: Context, parts: Sequence[WeightPlan]) -> list[Buffer]:
    """Where the parts of a weight lie in DRAM; each begins at a burst."""
    key = parts[0].key
    if key not in c.regions:
        end, places = 0, list[Part]()
        for part in parts:
            places.append(Part(part.first, part.outs, aligned(end)))
            end = aligned(end) + part.stored_bytes
        split = places if parts[0].part else ()
        region = c.b.dram("weights", key, 1, end, i8, [key], parts[0].encoding, split)
        c.regions[key] = region, places
    region, places = c.regions[key]
    return [c.b.view(region, 0, at.offset, 1, part.stored_bytes) for at, part in zip(places, parts, strict=True)]


def _load_weight(c: Context, weight: WeightPlan, region: Buffer, layer: str) -> Buffer:
    rows, cols = weight.compute_shape
    loaded = c.b.alloc(f"{layer}.weights", Memory.WEIGHTS, rows, cols, i8)
    c.b.run(
        "load.weights",
        {"src": region, "dst": loaded},
        {
            "format": storage_formats()[weight.format].code,
            "outs": weight.outs,
            "ins": weight.ins,
            **weight.pattern_fields,
            "stored_bytes": weight.stored_bytes,
        },
        layer,
    )
    return loaded


def _chain_ops(op: nn.QLinearOp) -> list[Operation]:
    """cast [-> activation] after a linear."""
    cast = only_user(op.result)
    if not isinstance(cast, nn.CastOp) or not isinstance(nn.element_type_of(cast.result), BFloat16Type):
        return []
    activation = only_user(cast.result)
    return [cast, activation] if isinstance(activation, nn.ActivationOp) else [cast]


def _tail_of(op: nn.QLinearOp) -> tuple[SSAValue, nn.LayerNormOp | nn.RmsNormOp | None, str]:
    """The value a linear's vector chain ends in, its norm and its activation."""
    user = only_user(op.result)
    if isinstance(user, nn.LayerNormOp | nn.RmsNormOp):
        return user.result, user, Activation.NONE.value
    ops = _chain_ops(op)
    if not ops:
        return op.result, None, Activation.NONE.value
    last = ops[-1]
    activation = last.kind.data.value if isinstance(last, nn.ActivationOp) else Activation.NONE.value
    return last.results[0], None, activation
