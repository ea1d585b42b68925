"""Which bytes an instruction touches: every operand as regions of rows, read off the shapes in the instruction table.

Checkers, both simulators and trace tools take the extents from here, so that none of them can disagree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from hw_targets.codec import Resolved
from hw_targets.isa import BY_NAME, MatrixMode, Memory
from hw_targets.layout import MATRIX_MODES, Layout, ceil_div
from hw_targets.storage import storage_of_code

ELEMENT_BYTES: Mapping[str, int] = {"i8": 1, "u8": 1, "i8|u8": 1, "bf16": 2, "i32": 4, "f32": 4}
SHAPE = re.compile(r"(?P<element>[\w|]+)\[(?P<dims>[^\]]*)\](?P<pitched> at pitch)?")


class Extent(NamedTuple):
    """`rows` rows of `row_bytes` bytes, `pitch` bytes apart, from byte `start` of `memory`. Packed rows are one row."""

    memory: Memory
    start: int
    rows: int
    row_bytes: int
    pitch: int

    @property
    def end(self) -> int:
        """The byte after the last one touched."""
        return self.start + (self.rows - 1) * self.pitch + self.row_bytes


def extent(memory: Memory, start: int, rows: int, row_bytes: int, pitch: int) -> Extent:
    """An extent in canonical form: a pitch of 0 and a pitch of a row's bytes are both one packed row, and so are rows that
    overlap."""
    if rows == 1 or pitch in (0, row_bytes):
        return Extent(memory, start, 1, rows * row_bytes, rows * row_bytes)
    if pitch < row_bytes:
        length = (rows - 1) * pitch + row_bytes
        return Extent(memory, start, 1, length, length)
    return Extent(memory, start, rows, row_bytes, pitch)


def layout_of(instruction: Resolved) -> Layout:
    """The compute layout that load.weights writes or matrix.multiply reads."""
    if instruction.name == "load.weights":
        mode = storage_of_code(instruction.integer("format")).loads(instruction.integer("kept"))
    else:
        mode = MATRIX_MODES[instruction.integer("mode")]
    names = ("outs", "ins", "n", "m", "block_rows", "window", "keep", "kept")
    return _layout(mode, *(instruction.integer(name) for name in names))


@lru_cache(maxsize=4096)
def _layout(mode: MatrixMode, *numbers: int) -> Layout:
    """A program has few layouts, and asks each for its sizes very often."""
    return Layout(mode, *numbers)


def operand_extents(instruction: Resolved, operand: str) -> tuple[Extent, ...]:
    """The regions of one present operand; more than one only for the stacked tables of vector.embed.

    Raises KeyError where the operand is absent.
    """
    place = instruction.operands[operand]
    rows, row_bytes = _shape_of(instruction.name, operand)(instruction)
    first = extent(place.memory, place.base, rows, row_bytes, place.pitch)
    if operand != "rows_in":
        return (first,)
    step = instruction.integer("table_bytes")
    return tuple(first._replace(start=first.start + table * step) for table in range(instruction.integer("tables")))


def transfer_rows(instruction: Resolved, operand: str) -> tuple[int, int]:
    """(rows, bytes of a row) of an operand as the instruction says it, before packed rows are joined."""
    return _shape_of(instruction.name, operand)(instruction)


Shape = Callable[[Resolved], tuple[int, int]]


def _groups(i: Resolved) -> int:
    return ceil_div(i.integer("cols"), max(i.integer("group"), 1))


def _weights(i: Resolved) -> tuple[int, int]:
    layout = layout_of(i)
    return (layout.outs, layout.ins) if layout.mode is MatrixMode.DENSE else (1, layout.bytes)


def column_rows(i: Resolved) -> int:
    """Rows of the operand `columns`: scale and bias of a linear, gamma (and beta) of a norm, smoothing of the codes."""
    return 2 * (i.name == "vector.finish") + NORM_ROWS[i.integer("norm")] + i.integer("smoothed")


NORM_ROWS: Sequence[int] = (0, 2, 1)
"""Parameters of the norms none, layer and rms."""


SPECIAL: Mapping[tuple[str, str], Shape] = {
    ("load.weights", "dst"): _weights,
    ("matrix.multiply", "w"): _weights,
    ("vector.finish", "columns"): lambda i: (column_rows(i), 4 * i.integer("cols")),
    ("vector.embed", "columns"): lambda i: (column_rows(i), 4 * i.integer("cols")),
    ("vector.finish", "out"): lambda i: (i.integer("rows"), i.integer("cols") * (4 if i.integer("out_f32") else 2)),
    ("vector.softmax", "p"): lambda i: (i.integer("rows") * (1 + i.integer("wide")), i.integer("cols")),
    ("vector.context", "acc"): lambda i: (i.integer("rows") * (1 + i.integer("wide")), 4 * i.integer("cols")),
    ("vector.embed", "rows_in"): lambda i: (i.integer("rows"), 2 * i.integer("cols")),
}
"""Operands whose shape depends on more than the names in the table's shape text."""


@cache
def _shape_of(name: str, operand: str) -> Shape:
    """(rows, bytes of a row) of an operand, as a function of the instruction's immediates."""
    if (name, operand) in SPECIAL:
        return SPECIAL[name, operand]
    text = BY_NAME[name].operand(operand).shape
    match = SHAPE.match(text)
    if match is None:
        raise ValueError(f"the shape of {name} {operand} is not understood: {text!r}")
    size = ELEMENT_BYTES[match["element"]]
    dims = [_dimension(dim.strip()) for dim in match["dims"].split(",")]
    if len(dims) == 2:
        return lambda i: (dims[0](i), dims[1](i) * size)
    if match["pitched"]:
        return lambda i: (dims[0](i), size)
    return lambda i: (1, dims[0](i) * size)


def _dimension(text: str) -> Callable[[Resolved], int]:
    if text == "cols / group":
        return _groups
    if text.isdigit():
        return lambda i: int(text)
    return lambda i: i.integer(text)


# ---- overlap --------------------------------------------------------------------------------------------------------


def overlap(a: Extent, b: Extent) -> bool:
    """Whether two extents share a byte, exactly: columns side by side in rows of one pitch do not."""
    if a.memory != b.memory or a.start >= b.end or b.start >= a.end:
        return False
    if a.rows == 1:
        return _meets(a.start, a.end, b)
    if b.rows == 1:
        return _meets(b.start, b.end, a)
    if a.pitch == b.pitch:
        # Rows i of a and j of b meet where (i - j) * pitch lies strictly between the two differences.
        first = (b.start - a.start - a.row_bytes) // a.pitch + 1
        last = ceil_div(b.start - a.start + b.row_bytes, a.pitch) - 1
        return max(first, 1 - b.rows) <= min(last, a.rows - 1)
    return _rows_meet(a, b)


def _rows_meet(a: Extent, b: Extent) -> bool:
    """Whether a row of `a` shares a byte with one of `b`, of another pitch.

    A row of `a` meets as many rows of `b` as there are starts of rows between the two that it lies between, counted as
    if `b` had rows without end: a row that reaches into `b` at all meets one of its own if it meets any.
    """
    first = max((b.start - a.start - a.row_bytes) // a.pitch + 1, 0)
    count = min(ceil_div(b.end - a.start, a.pitch), a.rows) - first
    if count <= 0:
        return False
    low = a.start + first * a.pitch - b.start - b.row_bytes
    lift = ceil_div(max(-low, 0), b.pitch) * b.pitch  # as many whole rows, so that no quotient is negative
    last = low + a.row_bytes + b.row_bytes - 1
    return floor_sum(count, a.pitch, last + lift, b.pitch) > floor_sum(count, a.pitch, low + lift, b.pitch)


def floor_sum(count: int, step: int, first: int, divisor: int) -> int:
    """The sum of (first + i * step) // divisor for i in range(count), in logarithmic time; no argument is negative.

    The sum counts lattice points below a line: whole quotients are split off, and the rest is counted along the other
    axis, where step and divisor have changed places (as in Euclid's algorithm).
    """
    total = 0
    while True:
        total += count * (count - 1) // 2 * (step // divisor) + count * (first // divisor)
        step, first = step % divisor, first % divisor
        end = first + step * count
        if end < divisor:
            return total
        count, first, divisor, step = end // divisor, end % divisor, step, divisor


def _meets(low: int, high: int, b: Extent) -> bool:
    """Whether bytes low..high-1 meet a row of `b`: the first row that ends after `low` must begin before `high`."""
    row = max((low - b.start - b.row_bytes) // b.pitch + 1, 0)
    return row < b.rows and b.start + row * b.pitch < high
