"""Sizes of the compute layouts: what a weight matrix occupies in the weight memory once LOAD has decoded it.

Dense is i8[outs][ins]. N:M and HP hold, with S slots a row (the kept entries, tails included): values i8[outs][S];
4-bit selects, two a byte, each row padded to a byte (index inside its group of m, absent for HP whose fine pattern is
dense); and for HP the kept inputs of each row block and window as local indices (u8, or u16 where the window is wider
than 256). Unstructured holds, of `kept` values in all, how many each row has in each window of 32 inputs,
u8[outs][ceil(ins / 32)], then the values, then their inputs counted from the window's start, u8. docs/FORMATS.md is
normative for the layout; this module only counts it, and knows no encoder and no decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from hw_targets.isa import MatrixMode

MATRIX_MODES = tuple(MatrixMode)
BYTE_WINDOW = 256
"""The widest window whose local indices are bytes."""
SELECT_GROUP = 16
"""The widest group a 4-bit select reaches into."""

MATRIX_LIMIT = 1 << 28
"""Most entries of one matrix: the simulator holds it dense, however few values are stored."""

LAYOUT_WINDOW = 32
"""Inputs that one count of the unstructured layout speaks of, on every array."""


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class Layout:
    """The compute layout of one weight matrix, as the immediates of load.weights and matrix.multiply describe it."""

    mode: MatrixMode
    outs: int
    ins: int
    n: int = 1
    m: int = 1
    block_rows: int = 0
    window: int = 0
    keep: int = 0
    kept: int = 0

    def problem(self) -> str:
        """Why this describes no layout, or an empty string."""
        if self.outs < 1 or self.ins < 1:
            return f"an empty matrix ({self.outs} x {self.ins})"
        if self.outs * self.ins > MATRIX_LIMIT:
            return f"a matrix of {self.outs} x {self.ins}, of more than {MATRIX_LIMIT} entries"
        if self.mode is MatrixMode.UNSTRUCTURED:
            if not 1 <= self.kept <= self.outs * self.ins:
                return f"{self.kept} values in a matrix of {self.outs} x {self.ins}"
            return ""
        if self.kept:
            return f"the layout {self.mode.value} counts its values itself, kept = {self.kept}"
        if self.mode is MatrixMode.DENSE:
            return ""
        if not 1 <= self.n <= self.m <= SELECT_GROUP:
            return f"{self.n}:{self.m} is no fine pattern (1 <= n <= m <= {SELECT_GROUP})"
        if self.mode is MatrixMode.HP and (self.block_rows < 1 or not 1 <= self.keep <= self.window):
            return f"no HP pattern of {self.block_rows} rows keeps {self.keep} of {self.window}"
        return ""

    @cached_property
    def windows(self) -> tuple[int, ...]:
        """Inputs of each HP window."""
        full, tail = divmod(self.ins, self.window)
        return (self.window,) * full + ((tail,) if tail else ())

    @cached_property
    def kept_inputs(self) -> tuple[int, ...]:
        """Kept inputs of each HP window of t: keep's share of it, rounded up to whole groups, at most t."""
        return tuple(self._kept_in(width) for width in self.windows)

    def _kept_in(self, width: int) -> int:
        share = ceil_div(self.keep * width, self.window)
        return min(width, ceil_div(share, self.m) * self.m)

    def slots_of(self, inputs: int) -> int:
        """Slots the fine pattern leaves of `inputs` consecutive inputs: n a group, ceil(n t / m) in a tail of t."""
        groups, tail = divmod(inputs, self.m)
        return groups * self.n + ceil_div(self.n * tail, self.m)

    @cached_property
    def slots(self) -> int:
        """Values stored per output row; rows of the unstructured layout have no common number."""
        if self.mode is MatrixMode.UNSTRUCTURED:
            raise ValueError("the rows of an unstructured matrix differ")
        if self.mode is MatrixMode.DENSE:
            return self.ins
        if self.mode is MatrixMode.NM:
            return self.slots_of(self.ins)
        return sum(self.slots_of(kept) for kept in self.kept_inputs)

    @property
    def has_selects(self) -> bool:
        return self.mode is MatrixMode.NM or (self.mode is MatrixMode.HP and self.m > 1)

    @cached_property
    def values(self) -> int:
        """Values of the whole matrix."""
        return self.kept if self.mode is MatrixMode.UNSTRUCTURED else self.outs * self.slots

    @cached_property
    def select_bytes(self) -> int:
        return self.outs * ceil_div(self.slots, 2) if self.has_selects else 0

    @cached_property
    def kept_list_bytes(self) -> int:
        if self.mode is not MatrixMode.HP:
            return 0
        entry = 1 if self.window <= BYTE_WINDOW else 2
        return ceil_div(self.outs, self.block_rows) * sum(self.kept_inputs) * entry

    @cached_property
    def index_bytes(self) -> int:
        """Counts and indices of the unstructured layout."""
        if self.mode is not MatrixMode.UNSTRUCTURED:
            return 0
        return self.outs * ceil_div(self.ins, LAYOUT_WINDOW) + self.kept

    @cached_property
    def bytes(self) -> int:
        """The whole compute layout."""
        return self.values + self.select_bytes + self.kept_list_bytes + self.index_bytes
