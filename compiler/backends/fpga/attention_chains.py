"""Attention, head by head: scores, probabilities and contexts of blocks of query rows.

Where keys and values do not all fit on chip they come in pieces; attention_planning.py says how they are cut. V is
quantised per sequence and head: at once, head by head, or, where not even a head fits, in pieces that go back to DRAM.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xdsl.dialects.builtin import (
    bf16,
    f32,
    i8,
    i32,
)

from compiler.backends.fpga.allocation import SUMS
from compiler.backends.fpga.attention_planning import (
    PIECE,
    Attention,
    cut_attention,
    keys_at_once,
    values_at_once,
)
from compiler.backends.fpga.builder import Buffer, Index
from compiler.backends.fpga.context import (
    Context,
    Quantised,
    follower_of,
    in_dram,
    origin_of,
)
from compiler.backends.fpga.planning import SLOTS
from compiler.backends.fpga.weights import WeightPlan
from compiler.dialects import nn
from hw_targets.isa import Memory


def pieces(c: Context, total: int, size: int) -> Iterator[tuple[Index, int, int]]:
    """(first, count, whether others came before) of pieces of `total`; a loop body each time it yields."""
    first = min(size, total)
    yield Index(), first, 0
    for start, count in c.b.tiles(total - first, size, "pieces"):
        yield start + first, count, 1


def qattention(c: Context, op: nn.QAttentionOp) -> None:
    batch, queries, width = nn.shape_of(op.q)
    if op.mask is not None:
        c.mask_of(op.mask)
    follower = follower_of(op, op.result, nn.CastOp)
    c.done.add(follower)
    context = c.tensor(f"{op.role.data}.context", batch * queries, width, bf16)
    c.buffers[follower.result] = context
    attention = _attention_of(c, op, context)
    with c.b.loop(batch, "sequence") as sequence, c.b.loop(op.heads.value.data, "head") as head:
        _Head(c, op, attention, sequence, head, context).lower()


def _attention_of(c: Context, op: nn.QAttentionOp, context: Buffer | None) -> Attention:
    """What the planning must know; `context` is None before it has a place, when only keys and values count."""
    _, queries, width = nn.shape_of(op.q)
    keys = nn.shape_of(op.k)[1]
    size = width // op.heads.value.data
    rows = SLOTS * 4
    if context is not None:
        rows += SLOTS * (size * in_dram(c.quantised_of(op.q).codes) + 2 * size * in_dram(context))
    streamed = in_dram(c.quantised_of(op.k).codes) or origin_of(op.v) in c.values
    return Attention(queries, keys, size, streamed, rows)


@dataclass(frozen=True)
class _Head:
    """One head of one sequence: its buffers, and the instructions of its blocks."""

    c: Context
    op: nn.QAttentionOp
    attention: Attention
    sequence: Index
    head: Index
    context: Buffer

    @property
    def layer(self) -> str:
        return self.op.role.data

    def lower(self) -> None:
        c, a = self.c, self.attention
        cut = cut_attention(c.target, c.plan, a)
        keys = self._keys()
        scales = self._key_scales()
        values, value_scale = self._values()
        q = c.quantised_of(self.op.q)
        for first, rows in c.b.tiles(a.queries, cut.rows, "block"):
            row = self.sequence * a.queries + first
            q_rows = c.read(q.codes, row, rows, self.layer, "q.tile", col=self.head * a.size, cols=a.size)
            q_scales = c.read(q.scale, row, rows, self.layer, "q.scale", col=self.head, cols=1)
            block = _Block(self, rows, q_rows, q_scales, scales, keys, values)
            acc, total = block.two_passes(cut.keys) if cut.two_pass else block.one_pass(cut.keys)
            place = {"col": self.head * a.size, "cols": a.size}
            with c.writing(self.context, row, rows, self.layer, "context.tile", stage=1, **place) as out:
                c.b.run(
                    "vector.context",
                    {"acc": acc, "l": total, "v_scale": value_scale, "out": out},
                    {"rows": rows, "cols": a.size, "wide": a.planes - 1},
                    self.layer,
                    stage=1,
                )

    def _keys(self) -> Buffer:
        """K of the head, [keys, size]: on chip, or in DRAM where it comes in pieces."""
        c, a = self.c, self.attention
        codes = c.quantised_of(self.op.k).codes
        row, place = self.sequence * a.keys, {"col": self.head * a.size, "cols": a.size}
        if in_dram(codes) and keys_at_once(c.plan, a) < a.keys:
            return c.b.view(codes, row, place["col"], a.keys, a.size)
        return c.read(codes, row, a.keys, self.layer, "k.head", memory=Memory.WEIGHTS, **place)

    def _key_scales(self) -> Buffer:
        scale = self.c.quantised_of(self.op.k).scale
        return self.c.read(
            scale, self.sequence * self.attention.keys, self.attention.keys, self.layer, "k.scale", col=self.head, cols=1
        )

    def _values(self) -> tuple[Buffer, Buffer]:
        """V^T of the head, [size, keys], and its scale: on chip, or in DRAM where it comes in pieces."""
        c, a = self.c, self.attention
        value = origin_of(self.op.v)
        if value in c.values:
            return _quantised_head(c, c.values[value], self.sequence, self.head, self.layer)
        v = c.quantised[value]
        row = self.sequence * (v.codes.rows // v.scale.rows) + self.head * a.size
        scale = c.b.view(v.scale, self.sequence, self.head, 1, 1)
        if in_dram(v.codes) and keys_at_once(c.plan, a) < a.keys:
            return c.b.view(v.codes, row, 0, a.size, a.keys), scale
        return c.read(v.codes, row, a.size, self.layer, "v.codes", memory=Memory.WEIGHTS), scale


@dataclass(frozen=True)
class _Block:
    """Some query rows of a head."""

    head: _Head
    rows: int
    q_rows: Buffer
    q_scales: Buffer
    k_scales: Buffer
    keys: Buffer
    values: Buffer

    @property
    def c(self) -> Context:
        return self.head.c

    @property
    def layer(self) -> str:
        return self.head.layer

    def one_pass(self, piece: int) -> tuple[Buffer, Buffer]:
        """The scores of all keys stay in the accumulators; the context's sums and the probabilities' sums."""
        b, a = self.c.b, self.head.attention
        scores = b.alloc("scores", Memory.ACC, self.rows, a.keys, i32, SLOTS)
        p = b.alloc("p", Memory.ACT, self.rows * a.planes, a.keys, i8, SLOTS)
        total = b.alloc("l", Memory.ACT, 1, self.rows, i32, SLOTS)
        for first, count, _ in pieces(self.c, a.keys, piece):
            self._scores(first, count, b.view(scores, 0, first, self.rows, count))
        self._softmax(scores, Index(), p, total)
        acc = b.alloc("acc", Memory.ACC, self.rows * a.planes, a.size, i32, SLOTS)
        for first, count, continued in pieces(self.c, a.keys, piece):
            self._contexts(b.view(p, 0, first, p.rows, count), first, acc, continued)
        return acc, total

    def two_passes(self, piece: int) -> tuple[Buffer, Buffer]:
        """Scores are made once for the maxima and once more for the probabilities."""
        b, a = self.c.b, self.head.attention
        maximum = b.alloc("maximum", Memory.ACT, 1, self.rows, f32, SLOTS)
        total = b.alloc("l", Memory.ACT, 1, self.rows, i32, SLOTS)
        acc = b.alloc(SUMS, Memory.ACC, self.rows * a.planes, a.size, i32, SLOTS)
        for first, count, continued in pieces(self.c, a.keys, piece):
            scores = b.alloc("scores", Memory.ACC, self.rows, count, i32, SLOTS)
            self._scores(first, count, scores)
            operands, fields = self._score_operands(scores, first)
            b.run("vector.maximum", {**operands, "maximum": maximum}, {**fields, "continued": continued}, self.layer)
        for first, count, continued in pieces(self.c, a.keys, piece):
            scores = b.alloc("scores", Memory.ACC, self.rows, count, i32, SLOTS)
            p = b.alloc("p", Memory.ACT, self.rows * a.planes, count, i8, SLOTS)
            self._scores(first, count, scores)
            self._softmax(scores, first, p, total, maximum, continued)
            self._contexts(p, first, acc, continued)
        return acc, total

    def _scores(self, first: Index, count: int, acc: Buffer) -> None:
        size = self.head.attention.size
        keys = self.c.read(self.keys, first, count, self.layer, "k.head", memory=Memory.WEIGHTS)
        self.c.multiply(self.q_rows, keys, acc, WeightPlan.dense("", count, size), self.layer)

    def _score_operands(self, scores: Buffer, first: Index) -> tuple[dict[str, Buffer | None], dict[str, int | float]]:
        """What makes fp32 scores of a piece of keys."""
        c, op = self.c, self.head.op
        count = scores.cols
        mask = c.mask_of(op.mask) if op.mask is not None else None
        operands = {
            "acc": scores,
            "row_scale": self.q_scales,
            "col_scale": c.b.view(self.k_scales, first, 0, count, 1),
            "mask": c.b.view(mask, self.head.sequence, first, 1, count) if mask is not None else None,
        }
        fields = {"rows": self.rows, "cols": count, "score_scale": op.scale.value.data, "bias_rows": 0}
        return operands, fields

    def _softmax(
        self, scores: Buffer, first: Index, p: Buffer, total: Buffer, maximum: Buffer | None = None, continued: int = 0
    ) -> None:
        operands, fields = self._score_operands(scores, first)
        fields |= {"wide": self.head.attention.planes - 1, "continued": continued}
        self.c.b.run("vector.softmax", {**operands, "maximum": maximum, "p": p, "l": total}, fields, self.layer)

    def _contexts(self, p: Buffer, first: Index, acc: Buffer, continued: int) -> None:
        c, a = self.c, self.head.attention
        weight = WeightPlan.dense("", a.size, p.cols, x_unsigned=True)
        values = c.read(
            self.values, Index(), a.size, self.layer, "v.codes", col=first, cols=p.cols, memory=Memory.WEIGHTS, stage=1
        )
        c.multiply(p, values, acc, weight, self.layer, stage=1, accumulate=continued)


# ---- V --------------------------------------------------------------------------------------------------------------


def _quantised_head(c: Context, op: nn.QuantizeOp, sequence: Index, head: Index, layer: str) -> tuple[Buffer, Buffer]:
    """V^T of one sequence and head in the weight memory, and its scale, quantised here."""
    _, tokens, width = nn.shape_of(op.codes)
    size = width // op.groups
    source = c.buffer_of(op.x)
    x = c.read(source, sequence * tokens, tokens, layer, "v.head", col=head * size, cols=size)
    codes = c.b.alloc("v.codes", Memory.WEIGHTS, size, tokens, i8, SLOTS)
    scale = c.b.alloc("v.scale", Memory.ACT, 1, 1, f32, SLOTS)
    _quantize_columns(c, op, x, codes, scale, sequence, layer)
    return codes, scale


def _mask_of(c: Context, op: nn.QuantizeOp, sequence: Index, first: Index | int, rows: int) -> Buffer | None:
    return None if op.mask is None else c.b.view(c.mask_of(op.mask), sequence, first, 1, rows)


def _quantize_columns(
    c: Context, op: nn.QuantizeOp, x: Buffer, codes: Buffer, scale: Buffer, sequence: Index, layer: str
) -> None:
    c.b.run(
        "vector.quantize_columns",
        {"x": x, "mask": _mask_of(c, op, sequence, 0, x.rows), "codes": codes, "scale": scale},
        {"rows": x.rows, "cols": x.cols, "codes_in_act": 0},
        layer,
    )


def quantize_values(c: Context, op: nn.QuantizeOp, source: Buffer, layer: str) -> None:
    """V of every sequence and head, or later head by head where it lies in DRAM."""
    batch, tokens, width = nn.shape_of(op.codes)
    heads = op.groups
    size = width // heads
    if op.mask is not None:
        c.mask_of(op.mask)
    if in_dram(source):
        if values_at_once(c.plan, Attention(tokens, tokens, size, True)):
            c.values[op.codes] = op
        else:
            _store_values(c, op, source, layer)
        return
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


def _store_values(c: Context, op: nn.QuantizeOp, source: Buffer, layer: str) -> None:
    """V^T in DRAM, [batch * width, tokens]: the largest magnitude of a head's pieces first, then the codes of each."""
    batch, tokens, width = nn.shape_of(op.codes)
    size = width // op.groups
    region = c.b.dram("scratch", f"{layer}.values", batch * width, tokens, i8)
    scales = c.b.alloc(f"{layer}.value_scale", Memory.ACT, batch, op.groups, f32)
    c.quantised[op.codes] = Quantised(region, scales)
    rows = c.plan.rows(tokens, SLOTS * 3 * size)
    rows = rows - rows % PIECE if rows > PIECE else rows
    with c.b.loop(batch, "sequence") as sequence, c.b.loop(op.groups, "head") as head:
        absmax = c.b.alloc("absmax", Memory.ACT, 1, 1, f32, SLOTS)
        place = {"col": head * size, "cols": size}
        for first, count, continued in pieces(c, tokens, rows):
            x = c.read(source, sequence * tokens + first, count, layer, "v.tile", **place)
            operands = {"x": x, "mask": _mask_of(c, op, sequence, first, count), "absmax": absmax}
            c.b.run("vector.absmax", operands, {"rows": count, "cols": size, "continued": continued}, layer)
        for first, count in c.b.tiles(tokens, rows, "tile"):
            x = c.read(source, sequence * tokens + first, count, layer, "v.tile", **place)
            row = sequence * width + head * size
            with c.writing(region, row, size, layer, "v.codes.tile", col=first, cols=count) as codes:
                operands = {"x": x, "absmax": absmax, "codes": codes, "scale": c.b.view(scales, sequence, head, 1, 1)}
                c.b.run("vector.quantize_columns", operands, {"rows": count, "cols": size, "codes_in_act": 1}, layer)
