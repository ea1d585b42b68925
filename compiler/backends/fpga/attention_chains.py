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

CAUSAL_QUERIES = 32
"""Queries of a causal block at least: below, an instruction's fill outweighs the keys that it leaves out."""
CAUSAL_BLOCKS = 16
"""Blocks of a long causal sequence: more would leave out less than 1 / 32 of the work and make the program long."""


@dataclass(frozen=True)
class Piece:
    """Some of the keys of a block; `continued` says that others came before, `last` that none follows."""

    first: Index
    count: int
    continued: int
    last: bool


def pieces(c: Context, total: int, size: int) -> Iterator[Piece]:
    """Pieces of `total`, all but the first of `size`; a loop body each time it yields."""
    count = -(-total // size)
    first = total - (count - 1) * size
    yield Piece(Index(), first, 0, count == 1)
    if count > 2:
        with c.b.loop(count - 2, "pieces") as index:
            yield Piece(index * size + first, size, 1, False)
    if count > 1:
        yield Piece(Index(total - size), size, 1, True)


def qattention(c: Context, op: nn.QAttentionOp) -> None:
    batch, queries, width = nn.shape_of(op.q)
    heads = op.heads.value.data
    if op.mask is not None:
        c.mask_of(op.mask)
    if op.bias is not None:
        c.bias_of(op.bias, op.bias_extents)
    follower = follower_of(op, op.result, nn.CastOp)
    c.done.add(follower)
    context = c.tensor(f"{op.role.data}.context", batch * queries, width, bf16)
    spilled = _spilled_probabilities(c, op)
    c.buffers[follower.result] = context
    with c.b.loop(batch, "sequence") as sequence, c.b.loop(op.groups, "group") as index:
        group = _Group(c, op, _attention_of(c, op, context), sequence, index, spilled)
        keys, scales, (values, value_scale) = group.keys(), group.key_scales(), group.values()
        with c.b.loop(heads // op.groups, "head") as member:
            head = index * (heads // op.groups) + member
            _lower_head(group, head, _Operands(keys, scales, values, value_scale), context)


def _spilled_probabilities(c: Context, op: nn.QAttentionOp) -> Buffer | None:
    """Where the probabilities of all heads go on a machine that does not keep them on chip."""
    if c.target.accelerator.design.probabilities == "chip":
        return None
    (batch, queries, _), keys = nn.shape_of(op.q), nn.shape_of(op.k)[1]
    planes = Attention(queries, keys, 1, False, streaming=op.streaming is not None).planes
    return c.b.dram("scratch", f"{op.role.data}.probabilities", batch * op.heads.value.data * queries * planes, keys, i8)


def _attention_of(c: Context, op: nn.QAttentionOp, context: Buffer) -> Attention:
    """What the planning must know."""
    sequences, queries, width = nn.shape_of(op.q)
    size = width // op.heads.value.data
    rows = SLOTS * (4 + size * in_dram(c.quantised_of(op.q).codes) + 2 * size * in_dram(context))
    streamed = in_dram(c.quantised_of(op.k).codes) or origin_of(op.v) in c.values
    per_query = op.bias is not None and op.bias_extents[2] > 1
    shared = op.bias is not None and not per_query
    keys, streaming = nn.shape_of(op.k)[1], op.streaming is not None
    return Attention(queries, keys, size, streamed, rows, 4 * per_query, shared, streaming, sequences)


@dataclass(frozen=True)
class _Operands:
    """K [keys, size] of a head, its scales, V^T [size, keys] and its scale. What comes in pieces lies in DRAM."""

    keys: Buffer
    key_scales: Buffer
    values: Buffer
    value_scale: Buffer


@dataclass(frozen=True)
class _Group:
    """A head of keys and values of one sequence, which one or more heads of queries read."""

    c: Context
    op: nn.QAttentionOp
    attention: Attention
    sequence: Index
    group: Index
    spilled: Buffer | None

    @property
    def layer(self) -> str:
        return self.op.role.data

    def keys(self) -> Buffer:
        c, a = self.c, self.attention
        codes = c.quantised_of(self.op.k).codes
        row, place = self.sequence * a.keys, {"col": self.group * a.size, "cols": a.size}
        if in_dram(codes) and keys_at_once(c.plan, a) < a.keys:
            return c.b.view(codes, row, place["col"], a.keys, a.size)
        return c.read(codes, row, a.keys, self.layer, "k.head", memory=Memory.WEIGHTS, **place)

    def key_scales(self) -> Buffer:
        keys, scale = self.attention.keys, self.c.quantised_of(self.op.k).scale
        return self.c.read(scale, self.sequence * keys, keys, self.layer, "k.scale", col=self.group, cols=1)

    def values(self) -> tuple[Buffer, Buffer]:
        c, a = self.c, self.attention
        value = origin_of(self.op.v)
        if value in c.values:
            return _quantised_head(c, c.values[value], self.sequence, self.group, self.layer)
        v = c.quantised[value]
        row = self.sequence * (v.codes.rows // v.scale.rows) + self.group * a.size
        scale = c.b.view(v.scale, self.sequence, self.group, 1, 1)
        if in_dram(v.codes) and keys_at_once(c.plan, a) < a.keys:
            return c.b.view(v.codes, row, 0, a.size, a.keys), scale
        return c.read(v.codes, row, a.size, self.layer, "v.codes", memory=Memory.WEIGHTS), scale


def _lower_head(group: _Group, head: Index, operands: _Operands, context: Buffer) -> None:
    c, op, a, layer = group.c, group.op, group.attention, group.layer
    cut = cut_attention(c.target, c.plan, a)
    q, place = c.quantised_of(op.q), {"col": head * a.size, "cols": a.size}
    for first, rows, seen in _blocks(c, op, cut.rows):
        row = group.sequence * a.queries + first
        q_rows = c.read(q.codes, row, rows, layer, "q.tile", **place)
        q_scales = c.read(q.scale, row, rows, layer, "q.scale", col=head, cols=1)
        spill = (group.sequence * op.heads.value.data + head) * a.queries + first
        block = _Block(group, operands, head, first, rows, seen, q_rows, q_scales, spill * a.planes)
        acc, total = block.two_passes(cut.keys) if cut.two_pass else block.one_pass(cut.keys)
        with c.writing(context, row, rows, layer, "context.tile", stage=1, **place) as out:
            c.b.run(
                "vector.context",
                {"acc": acc, "l": total, "v_scale": operands.value_scale, "out": out},
                {"rows": rows, "cols": a.size, "wide": a.planes - 1},
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


@dataclass(frozen=True)
class _Block:
    """Some query rows of a head, and the first `seen` keys, which are all that they see."""

    group: _Group
    operands: _Operands
    head: Index
    first: Index
    rows: int
    seen: int
    q_rows: Buffer
    q_scales: Buffer
    spill: Index
    """Its first row of spilled probabilities."""

    @property
    def c(self) -> Context:
        return self.group.c

    @property
    def layer(self) -> str:
        return self.group.layer

    def one_pass(self, size: int) -> tuple[Buffer, Buffer]:
        """The scores of all keys stay in the accumulators; the context's sums and the probabilities' sums."""
        b, a = self.c.b, self.group.attention
        scores = b.alloc("scores", Memory.ACC, self.rows, self.seen, i32, SLOTS)
        p = b.alloc("p", Memory.ACT, self.rows * a.planes, self.seen, i8, SLOTS)
        total = b.alloc("l", Memory.ACT, 1, self.rows, i32, SLOTS)
        for piece in self._pieces(size):
            self._scores(piece, b.view(scores, 0, piece.first, self.rows, piece.count))
        whole = Piece(Index(), self.seen, 0, True)
        self._softmax(whole, scores, p, total)
        p = self._through_dram(p, whole)
        acc = b.alloc("acc", Memory.ACC, self.rows * a.planes, a.size, i32, SLOTS)
        for piece in self._pieces(size):
            self._contexts(piece, b.view(p, 0, piece.first, p.rows, piece.count), acc)
        return acc, total

    def two_passes(self, size: int) -> tuple[Buffer, Buffer]:
        """Scores are made once for the maxima and once more for the probabilities."""
        b, a = self.c.b, self.group.attention
        maximum = b.alloc("maximum", Memory.ACT, 1, self.rows, f32, SLOTS)
        total = b.alloc("l", Memory.ACT, 1, self.rows, i32, SLOTS)
        acc = b.alloc(SUMS, Memory.ACC, self.rows * a.planes, a.size, i32, SLOTS)
        for piece in self._pieces(size):
            scores = b.alloc("scores", Memory.ACC, self.rows, piece.count, i32, SLOTS)
            self._scores(piece, scores)
            operands, fields = self._score_operands(piece, scores)
            fields["continued"] = piece.continued
            b.run("vector.maximum", {**operands, "maximum": maximum}, fields, self.layer)
        for piece in self._pieces(size):
            scores = b.alloc("scores", Memory.ACC, self.rows, piece.count, i32, SLOTS)
            p = b.alloc("p", Memory.ACT, self.rows * a.planes, piece.count, i8, SLOTS)
            self._scores(piece, scores)
            self._softmax(piece, scores, p, total, maximum)
            self._contexts(piece, self._through_dram(p, piece), acc)
        return acc, total

    def _through_dram(self, p: Buffer, piece: Piece) -> Buffer:
        """The probabilities as the product with V finds them: where they were made, or back from DRAM."""
        spilled = self.group.spilled
        if spilled is None:
            return p
        place = self.c.b.view(spilled, self.spill, piece.first, p.rows, p.cols)
        self.c.b.run("store.copy", {"src": p, "dst": place}, {"rows": p.rows, "row_bytes": p.cols}, self.layer)
        return self.c.read(spilled, self.spill, p.rows, self.layer, "p.read", col=piece.first, cols=p.cols)

    def _pieces(self, size: int) -> Iterator[Piece]:
        """Pieces of the keys. In the last one alone a causal mask has work: it is not shorter than the block."""
        causal = self.group.op.causal is not None
        return pieces(self.c, self.seen, max(size, min(self.rows, self.seen)) if causal else size)

    def _scores(self, piece: Piece, acc: Buffer) -> None:
        a = self.group.attention
        keys = self.c.read(self.operands.keys, piece.first, piece.count, self.layer, "k.head", memory=Memory.WEIGHTS)
        self.c.multiply(self.q_rows, keys, acc, WeightPlan.dense("", piece.count, a.size), self.layer)

    def _score_operands(self, piece: Piece, scores: Buffer) -> tuple[dict[str, Buffer | None], dict[str, int | float]]:
        """What makes fp32 scores of a piece of keys."""
        c, op = self.c, self.group.op
        mask = c.mask_of(op.mask) if op.mask is not None else None
        operands = {
            "acc": scores,
            "row_scale": self.q_scales,
            "col_scale": c.b.view(self.operands.key_scales, piece.first, 0, piece.count, 1),
            "mask": c.b.view(mask, self.group.sequence, piece.first, 1, piece.count) if mask is not None else None,
        }
        bias = self._bias(piece)
        fields = {"rows": self.rows, "cols": piece.count, "score_scale": op.scale.value.data}
        fields |= {"bias_rows": 0 if bias is None else bias.rows}
        return {**operands, "bias": bias}, {**fields, "causal": int(op.causal is not None and piece.last)}

    def _bias(self, piece: Piece) -> Buffer | None:
        """What is added to the scores of a piece of keys, from DRAM: a row for each query, or one for all."""
        c, op = self.c, self.group.op
        if op.bias is None:
            return None
        sequences, heads, queries, _ = op.bias_extents
        sequence = self.group.sequence if sequences > 1 else Index()
        row = sequence * (heads * queries) + (self.head if heads > 1 else Index()) * queries
        row, rows = (row + self.first, self.rows) if queries > 1 else (row, 1)
        region = c.bias_of(op.bias, op.bias_extents)
        return c.read(region, row, rows, self.layer, "bias.tile", col=piece.first, cols=piece.count)

    def _softmax(self, piece: Piece, scores: Buffer, p: Buffer, total: Buffer, maximum: Buffer | None = None) -> None:
        operands, fields = self._score_operands(piece, scores)
        fields |= {"wide": self.group.attention.planes - 1, "continued": piece.continued}
        shift = self.group.op.streaming
        fields |= {"streaming": int(shift is not None), "shift": 0 if shift is None else shift.value.data}
        self.c.b.run("vector.softmax", {**operands, "maximum": maximum, "p": p, "l": total}, fields, self.layer)

    def _contexts(self, piece: Piece, p: Buffer, acc: Buffer) -> None:
        c, a = self.c, self.group.attention
        place = {"col": piece.first, "cols": piece.count}
        values = c.read(
            self.operands.values, Index(), a.size, self.layer, "v.codes", memory=Memory.WEIGHTS, stage=1, **place
        )
        weight = WeightPlan.dense("", a.size, piece.count, x_unsigned=True)
        c.multiply(p, values, acc, weight, self.layer, stage=1, accumulate=piece.continued)


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
        for piece in pieces(c, tokens, rows):
            x = c.read(source, sequence * tokens + piece.first, piece.count, layer, "v.tile", **place)
            operands = {"x": x, "mask": _mask_of(c, op, sequence, piece.first, piece.count), "absmax": absmax}
            fields = {"rows": piece.count, "cols": size, "continued": piece.continued}
            c.b.run("vector.absmax", operands, fields, layer)
        for first, count in c.b.tiles(tokens, rows, "tile"):
            x = c.read(source, sequence * tokens + first, count, layer, "v.tile", **place)
            row = sequence * width + head * size
            with c.writing(region, row, size, layer, "v.codes.tile", col=first, cols=count) as codes:
                operands = {"x": x, "absmax": absmax, "codes": codes, "scale": c.b.view(scales, sequence, head, 1, 1)}
                c.b.run("vector.quantize_columns", operands, {"rows": count, "cols": size, "codes_in_act": 1}, layer)
