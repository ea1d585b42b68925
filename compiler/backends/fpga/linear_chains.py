"""Chains that begin in a linear layer: one MATRIX instruction and one fused VECTOR chain per token tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from xdsl.dialects.builtin import (
    BFloat16Type,
    f32,
    i8,
    i32,
)
from xdsl.ir import Operation, SSAValue

from compiler.backends.fpga.allocation import aligned
from compiler.backends.fpga.builder import Buffer, Index
from compiler.backends.fpga.context import (
    Context,
    Quantised,
    enum_code,
    in_dram,
    in_weights,
    key_of,
    norm_code,
    norm_keys,
    only_user,
    row_bytes,
)
from compiler.backends.fpga.planning import ACCUMULATOR, MOST_TOKENS, SLOTS, Cut, Linear, cut
from compiler.backends.fpga.weights import WeightPlan, plan_weight, slots_by_row
from compiler.dialects import nn
from compiler.dialects.tile import Part
from hw_targets.isa import COLS, Activation, Memory
from hw_targets.storage import storage_formats
from hw_targets.timing import NORM_PASSES


@dataclass(frozen=True)
class Chain:
    """A linear layer and what its vector instructions do besides: the tensors they read and write, norm and activation.

    `keys` are those of the per-column parameters, `group` the columns of one scale."""

    op: nn.QLinearOp
    x: Quantised
    keys: list[str]
    norm: nn.LayerNormOp | nn.RmsNormOp | None
    activation: str
    smoothed: int
    residual: Buffer | None
    gate: Buffer | None
    out: Buffer | None
    out_f32: bool
    codes: Buffer | None
    scale: Buffer | None
    group: int

    @property
    def layer(self) -> str:
        return self.op.role.data

    @property
    def by_column(self) -> bool:
        """Whether no column needs another one: neither a norm nor the scale of a row spans them."""
        return self.norm is None and self.codes is None


def qlinear(c: Context, op: nn.QLinearOp) -> None:
    shape = nn.shape_of(op.result)
    tokens, width = prod(shape[:-1]), shape[-1]
    weight = plan_weight(op.weight)
    chain = _chain(c, op, tokens, width)
    streams = (chain.x.codes, chain.residual, chain.gate, chain.out, chain.codes)
    moved = sum(row_bytes(buffer) for buffer in streams if buffer is not None and in_dram(buffer))
    passes = 1 + NORM_PASSES[norm_code(chain.norm)] + (chain.gate is not None) + (chain.codes is not None)
    inputs = row_bytes(chain.x.codes) if in_dram(chain.x.codes) else 0
    choice = cut(c.target, c.plan, Linear(weight, tokens, inputs, moved, passes))
    panels = [] if choice.resident or not chain.by_column else _panels(c, weight)
    tasks = -(-tokens // choice.rows)
    if panels and (width >> COLS.bits or _moved_by(panels, inputs * tokens) <= weight.stored_bytes * tasks):
        _by_panel(c, chain, panels, tokens, inputs, moved - inputs)
    else:
        _by_token(c, chain, weight, choice, tokens)
    for consumed in (chain.norm, *_chain_ops(op)):
        if consumed is not None:
            c.done.add(consumed)


def _chain(c: Context, op: nn.QLinearOp, tokens: int, width: int) -> Chain:
    layer = op.role.data
    last, norm, activation = _tail_of(op)
    keys = [key_of(op.weight_scale), key_of(op.bias) if op.bias is not None else ""]
    smooth = c.smooth_keys(last)
    if norm is not None:
        keys += [*norm_keys(norm), *smooth]
    out_f32 = last is op.result
    if out_f32:
        out: Buffer | None = c.output_for(op.result, tokens, width) or c.tensor(f"{layer}.out", tokens, width, f32)
        c.buffers[op.result] = out
        quantised, group = None, width
    else:
        out, quantised, group = c.chain_targets(last, layer)
    return Chain(
        op,
        c.quantised_of(op.x),
        keys,
        norm,
        activation,
        len(smooth) if norm is not None else 0,
        c.buffer_of(op.residual) if op.residual is not None else None,
        c.buffer_of(op.gate) if op.gate is not None else None,
        out,
        out_f32,
        quantised.codes if quantised else None,
        quantised.scale if quantised else None,
        group,
    )


def _by_token(c: Context, chain: Chain, weight: WeightPlan, choice: Cut, tokens: int) -> None:
    """Token tile by token tile: the weights stay for all of them, or stream past each."""
    layer = chain.layer
    parts = [weight] if choice.resident else _parts(c, weight)
    places = _region(c, parts)
    whole = _load_weight(c, weight, places[0], layer) if choice.resident else None
    columns = c.columns(layer, weight.outs, chain.keys)
    for first, rows in c.b.tiles(tokens, choice.rows, "tile"):
        acc = c.b.alloc("acc", Memory.ACC, rows, weight.outs, i32, choice.slots)
        x_tile = c.read(chain.x.codes, first, rows, layer, "x.tile", slots=choice.slots)
        for part, place in zip(parts, places, strict=True):
            loaded = whole or _load_weight(c, part, place, layer)
            c.multiply(x_tile, loaded, c.b.view(acc, 0, part.first, acc.rows, part.outs), part, layer)
        _finish(c, chain, acc, columns, first, 0)


def _panels(c: Context, weight: WeightPlan) -> list[WeightPlan]:
    """Ranges of output columns whose weights, parameters and accumulators fit on chip at a time."""
    accelerator = c.target.accelerator
    rows = min(c.plan.tokens, max(MOST_TOKENS, accelerator.tokens))
    outs = min(c.plan.acc_bytes // (SLOTS * rows * ACCUMULATOR), accelerator.param_bytes // (4 * 2 * ACCUMULATOR))
    limit = min(c.plan.chunk_bytes, outs * weight.compute_bytes // weight.outs, weight.compute_bytes)
    return weight.parts(max(limit, 1), accelerator.outputs * accelerator.cores, slots_by_row(weight, c.store))


def _moved_by(panels: Sequence[WeightPlan], inputs: int) -> int:
    """Bytes that a layer reads panel by panel: the weights once, its inputs, if they lie in DRAM, for every panel."""
    return sum(panel.stored_bytes + inputs for panel in panels)


def _by_panel(c: Context, chain: Chain, panels: Sequence[WeightPlan], tokens: int, inputs: int, outputs: int) -> None:
    """Panel of columns by panel of columns: each weight is loaded once, whatever the number of tokens is.

    `inputs` and `outputs` are the bytes that a token moves between DRAM and temporaries, over all columns."""
    layer, width = chain.layer, sum(panel.outs for panel in panels)
    widest = max(panel.outs for panel in panels)
    moved = inputs + outputs * widest // width
    fitting = c.plan.acc_bytes // (SLOTS * widest * ACCUMULATOR)
    most = max(min(c.plan.rows(c.plan.tokens, SLOTS * moved), fitting), 1)
    for panel, place in zip(panels, _region(c, panels), strict=True):
        loaded = _load_weight(c, panel, place, layer)
        columns = c.columns(layer, width, chain.keys, panel.first, panel.outs)
        for first, rows in c.b.tiles(tokens, most, "tile"):
            acc = c.b.alloc("acc", Memory.ACC, rows, panel.outs, i32, SLOTS)
            c.multiply(c.read(chain.x.codes, first, rows, layer, "x.tile"), loaded, acc, panel, layer)
            _finish(c, chain, acc, columns, first, panel.first)


def _finish(c: Context, chain: Chain, acc: Buffer, columns: Buffer, first: Index, column: int) -> None:
    """The vector instruction of the tokens from `first` and the columns from `column` on that lie in `acc`."""
    layer, rows = chain.layer, acc.rows

    def read(buffer: Buffer | None, label: str) -> Buffer | None:
        return None if buffer is None else c.read(buffer, first, rows, layer, label, col=column, cols=acc.cols)

    residual, gate = read(chain.residual, "residual.tile"), read(chain.gate, "gate.tile")
    with (
        c.writing(chain.out, first, rows, layer, "out.tile", col=column, cols=acc.cols) as out_tile,
        c.writing(chain.codes, first, rows, layer, "codes.tile") as code_tile,
        c.writing(chain.scale, first, rows, layer, "scale.tile") as scale_tile,
    ):
        c.b.run(
            "vector.finish",
            {
                "acc": acc,
                "row_scale": c.read(chain.x.scale, first, rows, layer, "x.scale"),
                "columns": columns,
                "residual": residual,
                "out": out_tile,
                "codes": code_tile,
                "scale": scale_tile,
                "gate": gate,
            },
            {
                "rows": rows,
                "cols": acc.cols,
                "group": min(chain.group, acc.cols),
                "activation": enum_code(Activation, chain.activation),
                "norm": norm_code(chain.norm),
                "smoothed": chain.smoothed,
                "out_f32": int(chain.out_f32),
                "codes_in_weights": int(code_tile is not None and in_weights(code_tile)),
                "eps": chain.norm.eps.value.data if chain.norm is not None else 0.0,
            },
            layer,
        )


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
