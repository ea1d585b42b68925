"""Builds `hpcc_tile` IR: buffers, rectangular views with affine origins, loops. Knows nothing of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from xdsl.dialects.builtin import LocationAttr, MemRefType
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from compiler.dialects.tile import AllocOp, DramOp, ForOp, Part, RunOp, ViewOp, buffer_type, row_stride, single_block
from hw_targets.isa import Memory


@dataclass(frozen=True)
class Index:
    """An affine expression over loop counters: constant + sum of counter * coefficient."""

    constant: int = 0
    terms: tuple[tuple[SSAValue, int], ...] = ()

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return Index(self.constant + other, self.terms)
        return Index(self.constant + other.constant, self.terms + other.terms)

    def __mul__(self, factor: int) -> Index:
        return Index(self.constant * factor, tuple((counter, c * factor) for counter, c in self.terms))


@dataclass(frozen=True)
class Buffer:
    """A buffer or a rectangle of one: `rows` x `cols` elements starting at (row, col) of `source`."""

    value: SSAValue
    rows: int
    cols: int

    @property
    def type(self) -> MemRefType:
        assert isinstance(self.value.type, MemRefType)
        return self.value.type


class TileBuilder:
    """Appends tile ops to a block; loops nest by `with builder.loop(n) as i`."""

    def __init__(self, block: Block) -> None:
        self._blocks = [block]
        self.location: LocationAttr | None = None

    def insert(self, op: Operation) -> None:
        if self.location is not None:
            op.location = self.location
        self._blocks[-1].add_op(op)

    def alloc(
        self, label: str, memory: Memory, rows: int, cols: int, element: Attribute, slots: int | None = None
    ) -> Buffer:
        op = AllocOp(label, buffer_type(memory, rows, cols, element), slots=slots)
        self.insert(op)
        op.result.name_hint = label if label.isidentifier() else None
        return Buffer(op.result, rows, cols)

    def dram(
        self,
        kind: str,
        label: str,
        rows: int,
        cols: int,
        element: Attribute,
        content: Sequence[str] = (),
        encoding: Attribute | None = None,
        parts: Sequence[Part] = (),
    ) -> Buffer:
        op = DramOp(kind, label, buffer_type(Memory.DRAM, rows, cols, element), content, encoding, parts=parts)
        first = self._blocks[0].first_op
        if len(self._blocks) > 1 and first is not None:
            # Regions outlive the loop being built: another one may use them too.
            self._blocks[0].insert_op_before(op, first)
            op.location = self.location or op.location
        else:
            self.insert(op)
        return Buffer(op.result, rows, cols)

    def view(self, buffer: Buffer, row: Index | int, col: Index | int, rows: int, cols: int, row_step: int = 1) -> Buffer:
        """The rectangle of `rows` x `cols` whose rows are `row_step` rows of `buffer` apart."""
        row = Index(row) if isinstance(row, int) else row
        col = Index(col) if isinstance(col, int) else col
        if (row, col, rows, cols, row_step) == (Index(), Index(), buffer.rows, buffer.cols, 1):
            return buffer
        counters = list(dict.fromkeys(counter for counter, _ in row.terms + col.terms))
        origin = AffineMap(len(counters), 0, (_expression(row, counters), _expression(col, counters)))
        source = buffer.type
        stride = row_stride(source) * row_step
        assert source.memory_space is not None
        type = buffer_type(_memory(source), rows, cols, source.element_type, stride)
        op = ViewOp(buffer.value, counters, origin, type)
        self.insert(op)
        return Buffer(op.result, rows, cols)

    def run(
        self,
        function: str,
        operands: Mapping[str, Buffer | None],
        immediates: Mapping[str, int | float],
        layer: str,
        *,
        stage: int = 0,
    ) -> None:
        present = {name: buffer.value for name, buffer in operands.items() if buffer is not None}
        self.insert(RunOp(function, present, immediates, layer, stage=stage))

    @contextmanager
    def loop(self, count: int, hint: str) -> Iterator[Index]:
        """A loop of `count` iterations; its counter as an Index. One iteration makes no loop."""
        if count == 1:
            yield Index()
            return
        region, block = single_block(hint)
        self.insert(ForOp(count, region))
        self._blocks.append(block)
        yield Index(0, ((block.args[0], 1),))
        self._blocks.pop()

    def tiles(self, total: int, size: int, hint: str) -> Iterator[tuple[Index, int]]:
        """(first element, extent) of tiles covering `total`: a loop over the full ones, then the tail.

        To be used in a for loop whose body builds the tile; it runs at most twice.
        """
        full, tail = divmod(total, size)
        if full:
            with self.loop(full, hint) as index:
                yield index * size, size
        if tail:
            yield Index(full * size), tail


def _memory(type: MemRefType) -> Memory:
    from compiler.dialects.tile import memory_of

    return memory_of(type)


def _expression(index: Index, counters: Sequence[SSAValue]) -> AffineExpr:
    result: AffineExpr | None = None
    for counter, coefficient in index.terms:
        term = AffineExpr.dimension(counters.index(counter)) * coefficient
        result = term if result is None else result + term
    if result is None:
        return AffineExpr.constant(index.constant)
    return result + index.constant if index.constant else result
