"""Selection for the accelerator: whole-tensor integer ops to tiled instructions (`hpcc_tile.run`).

One function per nn op, in a table. A linear and what follows it (norm or activation, bf16, quantisation) becomes one
MATRIX instruction and one fused VECTOR chain per token tile; attention becomes four instructions per head and row tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TypeVar

from xdsl.dialects.builtin import (
    BFloat16Type,
    Float32Type,
    NameLoc,
    bf16,
    f32,
    i8,
    i32,
)
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Attribute, Operation, SSAValue

from compiler.backends.fpga.allocation import aligned
from compiler.backends.fpga.builder import Buffer, Index, TileBuilder
from compiler.backends.fpga.planning import SLOTS, Linear, TilePlan, cut
from compiler.backends.fpga.weights import WeightPlan, plan_weight, slots_by_row
from compiler.dialects import nn
from compiler.dialects.tile import Part, buffer_type, element_bytes, memory_of
from compiler.weights import WeightStore
from hw_targets.errors import InputError
from hw_targets.isa import Activation, MatrixMode, Memory, StorageCode
from hw_targets.target import Target

Kind = TypeVar("Kind", bound=Operation)

SMALL = 16384
"""Bytes up to which a tensor stays on chip even where large ones do not (scales, masks, pooled vectors)."""

POOL_COLUMNS = 64
"""Columns that are pooled at a time where a whole sequence does not fit on chip."""


@dataclass(frozen=True)
class Quantised:
    """Codes and scales of a tensor on chip; `codes` may lie in the weight memory (K)."""

    codes: Buffer
    scale: Buffer


def enum_code(kind: type[Activation] | type[MatrixMode] | type[StorageCode], name: str) -> int:
    """The field value of a StrEnum member: its position."""
    return [member.value for member in kind].index(name)


def location_name(op: Operation) -> str:
    """The ONNX node an op comes from."""
    return op.location.desc.data if isinstance(op.location, NameLoc) else ""


class Lowering:
    """Lowers the device function's ops in order. `buffers` maps bf16/f32 values, `quantised` quantize results."""

    def __init__(
        self, builder: TileBuilder, input_names: dict[SSAValue, str], plan: TilePlan, target: Target, store: WeightStore
    ) -> None:
        self.b = builder
        self.plan = plan
        self.target = target
        self.store = store
        self.input_names = input_names
        self.buffers: dict[SSAValue, Buffer] = {}
        self.quantised: dict[SSAValue, Quantised] = {}
        self.done: set[Operation] = set()
        self._masks: dict[SSAValue, Buffer] = {}
        self._values: dict[SSAValue, nn.QuantizeOp] = {}
        self.regions: dict[str, tuple[Buffer, list[Part]]] = {}

    # ---- values -----------------------------------------------------------------------------------------------------

    def buffer_of(self, value: SSAValue) -> Buffer:
        origin = _origin(value)
        if origin not in self.buffers:
            owner = origin.owner
            raise InputError(
                "HPCC1406",
                "the device has no place for a tensor that an instruction reads",
                where=location_name(owner) if isinstance(owner, Operation) else "",
                hint="ids, 0/1 masks and fp32 activations can enter the device",
            )
        return self.buffers[origin]

    def mask_of(self, value: SSAValue) -> Buffer:
        """A 0/1 input as bytes on chip, [batch, tokens], loaded at its first use."""
        value = _origin(value)
        if value not in self._masks:
            batch, tokens = nn.shape_of(value)
            region = self.b.dram("input", self.input_names[value], batch, tokens, i8)
            mask = self.b.alloc("mask", Memory.ACT, batch, tokens, i8)
            self._copy_in(region, mask, "inputs")
            self._masks[value] = mask
        return self._masks[value]

    def _copy_in(self, region: Buffer, target: Buffer, layer: str, *, to_param: bool = False) -> None:
        self.b.run(
            "load.copy",
            {"src": region, "dst": target},
            {"rows": region.rows, "row_bytes": row_bytes(region), "to_param": int(to_param)},
            layer,
        )

    def _columns(self, layer: str, width: int, keys: list[str]) -> Buffer:
        """Per-column fp32 parameters in the parameter memory, one row per key ("" = zeros)."""
        region = self.b.dram("columns", f"{layer}.columns", len(keys), width, f32, keys)
        columns = self.b.alloc(f"{layer}.columns", Memory.PARAM, len(keys), width, f32)
        self._copy_in(region, columns, layer, to_param=True)
        return columns

    # ---- tensors on chip or in DRAM ---------------------------------------------------------------------------------

    def _tensor(self, label: str, rows: int, cols: int, element: Attribute, memory: Memory = Memory.ACT) -> Buffer:
        """A whole tensor: on chip, or in DRAM where the plan says so and it is not small."""
        size = rows * cols * element_bytes(buffer_type(memory, rows, cols, element))
        if self.plan.spill and size > SMALL:
            return self.b.dram("scratch", label, rows, cols, element)
        return self.b.alloc(label, memory, rows, cols, element)

    def _read(
        self,
        buffer: Buffer,
        row: Index,
        rows: int,
        layer: str,
        label: str,
        *,
        col: Index | int = 0,
        cols: int | None = None,
        memory: Memory = Memory.ACT,
        slots: int = SLOTS,
    ) -> Buffer:
        """A rectangle of a tensor on chip; from DRAM it is loaded into a temporary."""
        view = self.b.view(buffer, row, col, rows, cols or buffer.cols)
        if not in_dram(buffer):
            return view
        temporary = self.b.alloc(label, memory, rows, view.cols, buffer.type.element_type, slots)
        if memory is Memory.WEIGHTS:
            fields = {"rows": rows, "row_bytes": row_bytes(view)}
            self.b.run("load.rows", {"src": view, "dst": temporary}, fields, layer)
        else:
            self._copy_in(view, temporary, layer)
        return temporary

    @contextmanager
    def _writing(
        self,
        buffer: Buffer | None,
        row: Index,
        rows: int,
        layer: str,
        label: str,
        *,
        col: Index | int = 0,
        cols: int | None = None,
        stage: int = 0,
    ) -> Iterator[Buffer | None]:
        """Where an instruction writes a rectangle of a tensor; to DRAM it goes through a temporary afterwards."""
        if buffer is None:
            yield None
            return
        view = self.b.view(buffer, row, col, rows, cols or buffer.cols)
        if not in_dram(buffer):
            yield view
            return
        temporary = self.b.alloc(label, Memory.ACT, rows, view.cols, buffer.type.element_type, SLOTS)
        yield temporary
        fields = {"rows": rows, "row_bytes": row_bytes(view)}
        self.b.run("store.copy", {"src": temporary, "dst": view}, fields, layer, stage=stage)

    # ---- chains -----------------------------------------------------------------------------------------------------

    def _chain_quantize(self, value: SSAValue) -> nn.QuantizeOp | None:
        """The row-wise quantize op that a vector chain ending in `value` can do on its way."""
        for use in value.uses:
            op = use.operation
            if isinstance(op, nn.QuantizeOp) and op.granularity.data is not nn.Granularity.SEQUENCE_HEAD:
                return op
        return None

    def _smooth_keys(self, value: SSAValue) -> list[str]:
        """The key of the factors that smooth the codes of a norm's result; empty if they are not smoothed."""
        quantize = self._chain_quantize(value)
        return [] if quantize is None or quantize.smooth is None else [_key(quantize.smooth)]

    def _quantised_target(self, op: nn.QuantizeOp, layer: str) -> Quantised:
        """Buffers for a quantize op's results: K goes to the weight memory, where QK^T reads it."""
        shape = nn.shape_of(op.codes)
        tokens, width = prod(shape[:-1]), shape[-1]
        is_key = any(isinstance(u.operation, nn.QAttentionOp) and u.operation.k is op.codes for u in op.codes.uses)
        memory = Memory.WEIGHTS if is_key else Memory.ACT
        return Quantised(
            self._tensor(f"{layer}.codes", tokens, width, i8, memory),
            self.b.alloc(f"{layer}.scale", Memory.ACT, tokens, op.groups, f32),
        )

    def _chain_targets(self, value: SSAValue, layer: str) -> tuple[Buffer | None, Quantised | None, int]:
        """Where a chain ending in the bf16 `value` writes: the bf16 tensor if anything else reads it, and the codes of
        its first row-wise quantize op with the group width."""
        shape = nn.shape_of(value)
        tokens, width = prod(shape[:-1]), shape[-1]
        quantize = self._chain_quantize(value)
        quantised = None
        group = width
        if quantize is not None:
            quantised = self._quantised_target(quantize, layer)
            self.quantised[quantize.codes] = quantised
            self.done.add(quantize)
            group = width // quantize.groups
        out = None
        if any(use.operation is not quantize for use in value.uses):
            out = self._tensor(f"{layer}.out", tokens, width, bf16)
            self.buffers[value] = out
        return out, quantised, group

    def _rows(self, buffer: Buffer | None, first: Index, rows: int) -> Buffer | None:
        return None if buffer is None else self.b.view(buffer, first, 0, rows, buffer.cols)

    # ---- one function per op ----------------------------------------------------------------------------------------

    def embedding(self, op: nn.EmbeddingOp) -> None:
        layer = "embeddings"
        shape = nn.shape_of(op.result)
        tokens, width = prod(shape[:-1]), shape[-1]
        follower = _follower(op, op.result, nn.LayerNormOp, nn.CastOp)
        columns = None
        eps = 0.0
        self.done.add(follower)
        tables, ids = [], []
        for table, id_value in zip(op.tables, op.ids, strict=True):
            rows = nn.shape_of(table)[0]
            tables.append(self.b.dram("table", _key(table), rows, width, bf16, [_key(table)]))
            ids.append(self._ids(id_value, tokens))
        smooth = self._smooth_keys(follower.result)
        if isinstance(follower, nn.LayerNormOp):
            eps = follower.eps.value.data
            columns = self._columns(layer, width, [_key(follower.gamma), _key(follower.beta), *smooth])
        out, quantised, group = self._chain_targets(follower.result, layer)
        if out is None:  # the instruction always writes the sum
            out = self._tensor(f"{layer}.out", tokens, width, bf16)
        row_bytes = SLOTS * (len(tables) * 2 + 3) * width
        for first, rows in self.b.tiles(tokens, self.plan.rows(self.plan.tokens, row_bytes), "tile"):
            gathered = self.b.alloc("gathered", Memory.ACT, len(tables) * rows, width, bf16, SLOTS)
            for number, (table, id_buffer) in enumerate(zip(tables, ids, strict=True)):
                self.b.run(
                    "load.gather",
                    {
                        "table": table,
                        "ids": self.b.view(id_buffer, 0, first, 1, rows),
                        "dst": self.b.view(gathered, number * rows, 0, rows, width),
                    },
                    {"rows": rows, "row_bytes": width * 2, "table_rows": table.rows},
                    layer,
                )
            codes = quantised.codes if quantised else None
            with (
                self._writing(out, first, rows, layer, "out.tile") as out_tile,
                self._writing(codes, first, rows, layer, "codes.tile") as code_tile,
            ):
                self.b.run(
                    "vector.embed",
                    {
                        "rows_in": gathered,
                        "columns": columns,
                        "out": out_tile,
                        "codes": code_tile,
                        "scale": self._rows(quantised.scale if quantised else None, first, rows),
                    },
                    {
                        "rows": rows,
                        "cols": width,
                        "group": group,
                        "tables": len(tables),
                        "table_bytes": rows * width * 2,
                        "norm": int(columns is not None),
                        "smoothed": len(smooth),
                        "codes_in_weights": int(code_tile is not None and _in_weights(code_tile)),
                        "eps": eps,
                    },
                    layer,
                )

    def _ids(self, value: SSAValue, tokens: int) -> Buffer:
        value = _origin(value)
        if isinstance(value.owner, nn.WeightOp):
            region = self.b.dram("ids", _key(value), 1, tokens, i32, [_key(value)])
        else:
            region = self.b.dram("input", self.input_names[value], 1, tokens, i32)
        ids = self.b.alloc("ids", Memory.ACT, 1, tokens, i32)
        self._copy_in(region, ids, "inputs")
        return ids

    def qlinear(self, op: nn.QLinearOp) -> None:
        layer = op.role.data
        shape = nn.shape_of(op.result)
        tokens, width = prod(shape[:-1]), shape[-1]
        weight = plan_weight(op.weight)
        x = self.quantised_of(op.x)

        last, norm, activation = _tail_of(op)
        keys = [_key(op.weight_scale), _key(op.bias) if op.bias is not None else ""]
        smooth = self._smooth_keys(last)
        if norm is not None:
            keys += [_key(norm.gamma), _key(norm.beta), *smooth]
        out_f32 = last is op.result
        if out_f32:
            out: Buffer | None = self._tensor(f"{layer}.out", tokens, width, f32)
            self.buffers[op.result] = out
            quantised, group = None, width
        else:
            out, quantised, group = self._chain_targets(last, layer)
        residual = self.buffer_of(op.residual) if op.residual is not None else None

        codes = quantised.codes if quantised else None
        moved = sum(
            row_bytes(buffer) for buffer in (x.codes, residual, out, codes) if buffer is not None and in_dram(buffer)
        )
        passes = 1 + 2 * (norm is not None) + (codes is not None)
        inputs = row_bytes(x.codes) if in_dram(x.codes) else 0
        choice = cut(self.target, self.plan, Linear(weight, tokens, inputs, moved, passes))
        parts = [weight] if choice.resident else self._parts(weight)
        places = self._region(parts)
        whole = self._load_weight(weight, places[0], layer) if choice.resident else None
        columns = self._columns(layer, width, keys)
        for first, rows in self.b.tiles(tokens, choice.rows, "tile"):
            acc = self.b.alloc("acc", Memory.ACC, rows, width, i32, choice.slots)
            x_tile = self._read(x.codes, first, rows, layer, "x.tile", slots=choice.slots)
            for part, place in zip(parts, places, strict=True):
                loaded = whole or self._load_weight(part, place, layer)
                self._multiply(x_tile, loaded, self.b.view(acc, 0, part.first, acc.rows, part.outs), part, layer)
            residual_tile = self._read(residual, first, rows, layer, "residual.tile") if residual is not None else None
            with (
                self._writing(out, first, rows, layer, "out.tile") as out_tile,
                self._writing(codes, first, rows, layer, "codes.tile") as code_tile,
            ):
                self.b.run(
                    "vector.finish",
                    {
                        "acc": acc,
                        "row_scale": self._rows(x.scale, first, rows),
                        "columns": columns,
                        "residual": residual_tile,
                        "out": out_tile,
                        "codes": code_tile,
                        "scale": self._rows(quantised.scale if quantised else None, first, rows),
                    },
                    {
                        "rows": rows,
                        "cols": width,
                        "group": group,
                        "activation": enum_code(Activation, activation),
                        "norm": int(norm is not None),
                        "smoothed": len(smooth),
                        "out_f32": int(out_f32),
                        "codes_in_weights": int(code_tile is not None and _in_weights(code_tile)),
                        "eps": norm.eps.value.data if norm is not None else 0.0,
                    },
                    layer,
                )
        for consumed in (norm, *_chain_ops(op)):
            if consumed is not None:
                self.done.add(consumed)

    def _parts(self, weight: WeightPlan) -> list[WeightPlan]:
        """A weight that streams past the tokens: each part is a range of output columns."""
        accelerator = self.target.accelerator
        if weight.compute_bytes <= self.plan.chunk_bytes:
            return [weight]
        together = accelerator.outputs * accelerator.cores
        return weight.parts(self.plan.chunk_bytes, together, slots_by_row(weight, self.store))

    def _region(self, parts: Sequence[WeightPlan]) -> list[Buffer]:
        """Where the parts of a weight lie in DRAM; each begins at a burst."""
        key = parts[0].key
        if key not in self.regions:
            end, places = 0, list[Part]()
            for part in parts:
                places.append(Part(part.first, part.outs, aligned(end)))
                end = aligned(end) + part.stored_bytes
            split = places if parts[0].part else ()
            region = self.b.dram("weights", key, 1, end, i8, [key], parts[0].encoding, split)
            self.regions[key] = region, places
        region, places = self.regions[key]
        return [self.b.view(region, 0, at.offset, 1, part.stored_bytes) for at, part in zip(places, parts, strict=True)]

    def _load_weight(self, weight: WeightPlan, region: Buffer, layer: str) -> Buffer:
        rows, cols = weight.compute_shape
        loaded = self.b.alloc(f"{layer}.weights", Memory.WEIGHTS, rows, cols, i8)
        self.b.run(
            "load.weights",
            {"src": region, "dst": loaded},
            {
                "format": enum_code(StorageCode, weight.format),
                "outs": weight.outs,
                "ins": weight.ins,
                **weight.pattern_fields,
                "stored_bytes": weight.stored_bytes,
            },
            layer,
        )
        return loaded

    def _multiply(self, x: Buffer, w: Buffer, acc: Buffer, weight: WeightPlan, layer: str, *, stage: int = 0) -> None:
        self.b.run(
            "matrix.multiply",
            {"x": x, "w": w, "acc": acc},
            {
                "rows": x.rows,
                "outs": weight.outs,
                "ins": weight.ins,
                "mode": enum_code(MatrixMode, weight.mode),
                "x_unsigned": int(weight.x_unsigned),
                **weight.pattern_fields,
            },
            layer,
            stage=stage,
        )

    def quantised_of(self, codes: SSAValue) -> Quantised:
        return self.quantised[_origin(codes)]

    def qattention(self, op: nn.QAttentionOp) -> None:
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
        q, k = self.quantised_of(op.q), self.quantised_of(op.k)
        mask = self.mask_of(op.mask) if op.mask is not None else None
        follower = _follower(op, op.result, nn.CastOp)
        self.done.add(follower)
        context = self._tensor(f"{layer}.context", batch * queries, width, bf16)
        self.buffers[follower.result] = context
        score_weight = WeightPlan.dense("", keys, size)
        value_weight = WeightPlan.dense("", size, keys, x_unsigned=True)
        with self.b.loop(batch, "sequence") as sequence, self.b.loop(heads, "head") as head:
            k_rows = self._read(
                k.codes, sequence * keys, keys, layer, "k.head", col=head * size, cols=size, memory=Memory.WEIGHTS
            )
            v_rows, v_scale = self._values_of(op.v, sequence, head, size, layer)
            most = self._query_rows(q.codes, context, keys, size)
            for first, rows in self.b.tiles(queries, most, "block"):
                row = sequence * queries + first
                q_rows = self._read(q.codes, row, rows, layer, "q.tile", col=head * size, cols=size)
                scores = self.b.alloc("scores", Memory.ACC, rows, keys, i32, SLOTS)
                p = self.b.alloc("p", Memory.ACT, rows, keys, i8, SLOTS)
                total = self.b.alloc("l", Memory.ACT, 1, rows, i32, SLOTS)
                self._multiply(q_rows, k_rows, scores, score_weight, layer)
                self.b.run(
                    "vector.softmax",
                    {
                        "acc": scores,
                        "row_scale": self.b.view(q.scale, row, head, rows, 1),
                        "col_scale": self.b.view(k.scale, sequence * keys, head, keys, 1),
                        "mask": self.b.view(mask, sequence, 0, 1, keys) if mask is not None else None,
                        "p": p,
                        "l": total,
                    },
                    {"rows": rows, "cols": keys, "score_scale": op.scale.value.data},
                    layer,
                )
                acc = self.b.alloc("acc", Memory.ACC, rows, size, i32, SLOTS)
                self._multiply(p, v_rows, acc, value_weight, layer, stage=1)
                place = {"col": head * size, "cols": size}
                with self._writing(context, row, rows, layer, "context.tile", stage=1, **place) as out:
                    self.b.run(
                        "vector.context",
                        {"acc": acc, "l": total, "v_scale": v_scale, "out": out},
                        {"rows": rows, "cols": size},
                        layer,
                        stage=1,
                    )

    def _query_rows(self, codes: Buffer, context: Buffer, keys: int, size: int) -> int:
        """Query rows of one task: their probabilities and sums, beside what comes from DRAM or goes there for a head."""
        row_bytes = SLOTS * (keys + 4 + size * in_dram(codes) + 2 * size * in_dram(context))
        return self.plan.rows(self.plan.queries, row_bytes, SLOTS * 2 * keys * size * in_dram(context))

    def _values_of(self, value: SSAValue, sequence: Index, head: Index, size: int, layer: str) -> tuple[Buffer, Buffer]:
        """V^T of one sequence and head in the weight memory, and its scale. Where V lies in DRAM it is quantised here."""
        value = _origin(value)
        if value in self.quantised:
            v = self.quantised[value]
            rows = self.b.view(v.codes, sequence * (v.codes.rows // v.scale.rows) + head * size, 0, size, v.codes.cols)
            return rows, self.b.view(v.scale, sequence, head, 1, 1)
        op = self._values[value]
        tokens = nn.shape_of(value)[1]
        source = self.buffer_of(op.x)
        x = self._read(source, sequence * tokens, tokens, layer, "v.head", col=head * size, cols=size)
        codes = self.b.alloc("v.codes", Memory.WEIGHTS, size, tokens, i8, SLOTS)
        scale = self.b.alloc("v.scale", Memory.ACT, 1, 1, f32, SLOTS)
        self._quantize_columns(op, x, codes, scale, sequence, layer)
        return codes, scale

    def _quantize_columns(
        self, op: nn.QuantizeOp, x: Buffer, codes: Buffer, scale: Buffer, sequence: Index, layer: str
    ) -> None:
        mask = self.mask_of(op.mask) if op.mask is not None else None
        self.b.run(
            "vector.quantize_columns",
            {
                "x": x,
                "mask": self.b.view(mask, sequence, 0, 1, x.rows) if mask is not None else None,
                "codes": codes,
                "scale": scale,
            },
            {"rows": x.rows, "cols": x.cols},
            layer,
        )

    def quantize(self, op: nn.QuantizeOp) -> None:
        """A quantize op that no chain has done: V per sequence and head, or rows of a finished tensor."""
        layer = _layer_of(op)
        source = self.buffer_of(op.x)
        shape = nn.shape_of(op.codes)
        if op.granularity.data is nn.Granularity.SEQUENCE_HEAD:
            self._quantize_values(op, source, layer)
            return
        tokens, width = prod(shape[:-1]), shape[-1]
        quantised = self._quantised_target(op, f"{layer}.in")
        self.quantised[op.codes] = quantised
        for first, rows in self.b.tiles(tokens, self.plan.rows(self.plan.tokens, SLOTS * 3 * width), "tile"):
            x = self._read(source, first, rows, layer, "x.tile.bf16")
            with self._writing(quantised.codes, first, rows, layer, "codes.tile") as codes:
                assert codes is not None
                self.b.run(
                    "vector.quantize",
                    {"x": x, "codes": codes, "scale": self._rows(quantised.scale, first, rows)},
                    {
                        "rows": rows,
                        "cols": width,
                        "group": width // op.groups,
                        "codes_in_weights": int(_in_weights(codes)),
                    },
                    layer,
                )

    def _quantize_values(self, op: nn.QuantizeOp, source: Buffer, layer: str) -> None:
        """V of every sequence and head, or later head by head where it lies in DRAM."""
        if in_dram(source):
            self._values[op.codes] = op
            if op.mask is not None:
                self.mask_of(op.mask)
            return
        batch, tokens, width = nn.shape_of(op.codes)
        heads = op.groups
        size = width // heads
        if op.mask is not None:
            self.mask_of(op.mask)
        codes = self.b.alloc(f"{layer}.values", Memory.WEIGHTS, batch * width, tokens, i8)
        scale = self.b.alloc(f"{layer}.value_scale", Memory.ACT, batch, heads, f32)
        self.quantised[op.codes] = Quantised(codes, scale)
        with self.b.loop(batch, "sequence") as sequence, self.b.loop(heads, "head") as head:
            self._quantize_columns(
                op,
                self.b.view(source, sequence * tokens, head * size, tokens, size),
                self.b.view(codes, sequence * width + head * size, 0, size, tokens),
                self.b.view(scale, sequence, head, 1, 1),
                sequence,
                layer,
            )

    def take_token(self, op: nn.TakeTokenOp) -> None:
        batch, tokens, width = nn.shape_of(op.x)
        source = self.buffer_of(op.x)
        self.buffers[op.result] = self.b.view(source, op.index.value.data, 0, batch, width, row_step=tokens)

    def mean_pool(self, op: nn.MeanPoolOp) -> None:
        batch, tokens, width = nn.shape_of(op.x)
        source, mask = self.buffer_of(op.x), self.mask_of(op.mask)
        out = self.b.alloc("pooled", Memory.ACT, batch, width, f32)
        self.buffers[op.result] = out
        step = POOL_COLUMNS if in_dram(source) else width
        with self.b.loop(batch, "sequence") as sequence:
            for first, cols in self.b.tiles(width, step, "columns"):
                x = self._read(source, sequence * tokens, tokens, "pool", "pool.tile", col=first, cols=cols)
                self.b.run(
                    "vector.pool",
                    {
                        "x": x,
                        "mask": self.b.view(mask, sequence, 0, 1, tokens),
                        "out": self.b.view(out, sequence, first, 1, cols),
                    },
                    {"rows": tokens, "cols": cols, "minimum": op.minimum.value.data},
                    "pool",
                )

    def layer_norm(self, op: nn.LayerNormOp) -> None:
        """A norm of a bf16 tensor that others read too (pre-norm): the sum of one table, normalised."""
        layer = _layer_of_norm(op)
        width = nn.shape_of(op.x)[-1]
        smooth = self._smooth_keys(op.result)
        columns = self._columns(f"{layer}.norm", width, [_key(op.gamma), _key(op.beta), *smooth])
        tokens = prod(nn.shape_of(op.x)[:-1])
        out, quantised, group = self._chain_targets(op.result, f"{layer}.norm")
        if out is None:  # the instruction always writes the sum
            out = self._tensor(f"{layer}.norm.out", tokens, width, bf16)
        codes, scale = (quantised.codes, quantised.scale) if quantised else (None, None)
        source = self.buffer_of(op.x)
        for first, rows in self.b.tiles(tokens, self.plan.rows(self.plan.tokens, SLOTS * 5 * width), "tile"):
            x = self._read(source, first, rows, layer, "x.tile.bf16")
            with (
                self._writing(out, first, rows, layer, "out.tile") as out_tile,
                self._writing(codes, first, rows, layer, "codes.tile") as code_tile,
            ):
                operands = {"rows_in": x, "columns": columns, "out": out_tile, "codes": code_tile}
                operands["scale"] = self._rows(scale, first, rows)
                self._embed(operands, group, layer, eps=op.eps.value.data, smoothed=len(smooth))

    def _embed(
        self, operands: dict[str, Buffer | None], group: int, layer: str, *, eps: float = 0.0, smoothed: int = 0
    ) -> None:
        """`vector.embed` of one table that already is on chip."""
        x, codes = operands["rows_in"], operands.get("codes")
        assert x is not None
        fields = {"rows": x.rows, "cols": x.cols, "group": group, "tables": 1, "table_bytes": 0, "eps": eps}
        fields |= {"norm": int(operands.get("columns") is not None), "smoothed": smoothed}
        fields |= {"codes_in_weights": int(codes is not None and _in_weights(codes))}
        self.b.run("vector.embed", operands, fields, layer)

    def concat(self, op: nn.ConcatOp) -> None:
        """Tokens of several tensors one after the other, sequence by sequence: VECTOR copies them."""
        batch, tokens, width = nn.shape_of(op.result)
        out = self._tensor("tokens.out", batch * tokens, width, bf16)
        self.buffers[op.result] = out
        start = 0
        for value in op.inputs:
            count = nn.shape_of(value)[1]
            source = self.buffer_of(value)
            with self.b.loop(batch, "sequence") as sequence:
                for first, rows in self.b.tiles(count, self.plan.rows(self.plan.tokens, SLOTS * 4 * width), "tile"):
                    x = self._read(source, sequence * count + first, rows, "tokens", "x.tile.bf16")
                    row = sequence * tokens + first + start
                    with self._writing(out, row, rows, "tokens", "out.tile") as out_tile:
                        self._embed({"rows_in": x, "out": out_tile}, width, "tokens")
            start += count

    def weight(self, op: nn.WeightOp) -> None:
        """A bf16 tensor of the file that an instruction reads as an activation (a class token, positions)."""
        shape = nn.shape_of(op.result)
        if isinstance(nn.element_type_of(op.result), BFloat16Type) and len(shape) == 3:
            rows = prod(shape[:-1])
            key = op.key.data
            self.buffers[op.result] = self.b.dram("table", key, rows, shape[-1], bf16, [key])

    def _input(self, value: SSAValue, layer: str = "inputs") -> Buffer:
        """An fp32 argument, which comes as bf16, tokens by features."""
        shape = nn.shape_of(value)
        rows, cols = prod(shape[:-1]), shape[-1]
        region = self.b.dram("input", self.input_names[value], rows, cols, bf16)
        if self.plan.spill and rows * cols * 2 > SMALL:
            return region
        buffer = self.b.alloc("input", Memory.ACT, rows, cols, bf16)
        self._copy_in(region, buffer, layer)
        return buffer

    def alias(self, op: nn.CastOp | nn.ReshapeOp) -> None:
        """A widening cast or a reshape of a finished tensor: the same bytes. The cast of an argument loads it."""
        source = _origin(op.x)
        if source in self.input_names and isinstance(op, nn.CastOp) and isinstance(nn.element_type_of(source), Float32Type):
            self.buffers[op.result] = self._input(source)
            return
        if source in self.buffers:
            self.buffers[op.result] = self.buffers[source]

    def store_outputs(self, op: ReturnOp, names: list[str]) -> None:
        for value, name in zip(op.arguments, names, strict=True):
            source = self.buffer_of(value)
            element = source.type.element_type
            region = self.b.dram("output", name, source.rows, source.cols, element)
            most = self.plan.rows(self.plan.tokens, SLOTS * row_bytes(source))
            for first, rows in self.b.tiles(source.rows, most, "tile"):
                self.b.run(
                    "store.copy",
                    {
                        "src": self._read(source, first, rows, "outputs", "out.copy"),
                        "dst": self._rows(region, first, rows),
                    },
                    {"rows": rows, "row_bytes": row_bytes(region)},
                    "outputs",
                )

    def table(self) -> dict[type[Operation], Callable[..., None]]:
        return {
            nn.EmbeddingOp: self.embedding,
            nn.QLinearOp: self.qlinear,
            nn.QAttentionOp: self.qattention,
            nn.QuantizeOp: self.quantize,
            nn.TakeTokenOp: self.take_token,
            nn.LayerNormOp: self.layer_norm,
            nn.ConcatOp: self.concat,
            nn.WeightOp: self.weight,
            nn.MeanPoolOp: self.mean_pool,
            nn.CastOp: self.alias,
            nn.ReshapeOp: self.alias,
        }

    def lower(self, op: Operation) -> None:
        """Lower one op. Raises InputError for an op that has no row in the table."""
        if op in self.done or isinstance(op, nn.ConstantOp):
            return
        rule = self.table().get(type(op))
        if rule is None:
            raise InputError(
                "HPCC1402",
                f"{op.name} has no instruction on this accelerator",
                where=location_name(op),
                hint="run the stages in order; `hpcc --check` lists what stays on the host",
            )
        self.b.location = op.location
        rule(op)


def _origin(value: SSAValue) -> SSAValue:
    """The value behind reshapes and integer casts, which keep the bytes' order."""
    while isinstance(value.owner, nn.ReshapeOp) or (
        isinstance(value.owner, nn.CastOp) and not isinstance(nn.element_type_of(value), BFloat16Type | Float32Type)
    ):
        value = value.owner.x
    return value


def _follower(op: Operation, value: SSAValue, *kinds: type[Kind]) -> Kind:
    """The one user of a value that its instruction computes too. Raises InputError where it is another."""
    user = _only_user(value)
    if isinstance(user, kinds):
        return user
    names = " or ".join(kind.name for kind in kinds)
    raise InputError(
        "HPCC1407",
        f"{op.name} writes no fp32: one {names} must follow it",
        where=location_name(op),
        hint="an intermediate tensor that is a model output can be left off the ONNX graph",
    )


def _key(value: SSAValue) -> str:
    owner = value.owner
    assert isinstance(owner, nn.WeightOp)
    return owner.key.data


def _in_weights(buffer: Buffer) -> bool:
    return memory_of(buffer.type) is Memory.WEIGHTS


def in_dram(buffer: Buffer) -> bool:
    return memory_of(buffer.type) is Memory.DRAM


def row_bytes(buffer: Buffer) -> int:
    return buffer.cols * element_bytes(buffer.type)


def _chain_ops(op: nn.QLinearOp) -> list[Operation]:
    """cast [-> activation] after a linear."""
    cast = _only_user(op.result)
    if not isinstance(cast, nn.CastOp) or not isinstance(nn.element_type_of(cast.result), BFloat16Type):
        return []
    activation = _only_user(cast.result)
    return [cast, activation] if isinstance(activation, nn.ActivationOp) else [cast]


def _only_user(value: SSAValue) -> Operation | None:
    users = {use.operation for use in value.uses}
    return users.pop() if len(users) == 1 else None


def _tail_of(op: nn.QLinearOp) -> tuple[SSAValue, nn.LayerNormOp | None, str]:
    """The value a linear's vector chain ends in, its norm and its activation."""
    user = _only_user(op.result)
    if isinstance(user, nn.LayerNormOp):
        return user.result, user, Activation.NONE.value
    ops = _chain_ops(op)
    if not ops:
        return op.result, None, Activation.NONE.value
    last = ops[-1]
    activation = last.kind.data.value if isinstance(last, nn.ActivationOp) else Activation.NONE.value
    return last.results[0], None, activation


def _layer_of(op: nn.QuantizeOp) -> str:
    """The layer a free-standing quantize op works for: its first consumer's."""
    for use in op.codes.uses:
        if isinstance(use.operation, nn.QAttentionOp | nn.QLinearOp):
            return use.operation.role.data
    return "quantize"


def _layer_of_norm(op: nn.LayerNormOp) -> str:
    """The layer a free-standing norm works for: that of the first linear or attention behind it."""
    for use in op.result.uses:
        if isinstance(use.operation, nn.QuantizeOp):
            return _layer_of(use.operation)
    return "norm"
