"""Blocks of R x C stay or go as a whole, anywhere in the matrix or equally many in every row of blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from compiler.sparsity.base import Dense, Parameters, Pattern, impossible, misspelt, percent, scores_of, split, violation
from compiler.sparsity.saliency import (
    Mask,
    Matrix,
    Scores,
    block_sums,
    fill_evenly,
    keep_largest,
    keep_largest_of_all,
)
from compiler.sparsity.unbalanced import (
    Unstructured,
    check_density,
    decimal_text,
    parse_share,
    parse_sparsity,
    share_of,
)

SHAPE = re.compile(r"([0-9]+)x([0-9]+)")
BALANCED = "balanced"


def spread(chosen: Mask, rows: int, cols: int, outs: int, ins: int) -> Mask:
    """The entries of the chosen blocks of rows x cols in an outs x ins matrix."""
    return np.repeat(np.repeat(chosen, rows, axis=0)[:outs], cols, axis=1)[:, :ins]


@dataclass(frozen=True)
class Kind:
    """Blocks of one size: where they stand in the grid of blocks, and rows x cols of each."""

    down: slice
    across: slice
    count: int
    rows: int
    cols: int


def kinds_of(rows: int, cols: int, outs: int, ins: int) -> Iterator[Kind]:
    """The whole blocks of an outs x ins matrix, and those cut off at its right edge, its lower edge and its corner."""
    for down, height, tall in _runs(outs, rows):
        for across, width, wide in _runs(ins, cols):
            yield Kind(down, across, height * width, tall, wide)


def _runs(length: int, size: int) -> Iterator[tuple[slice, int, int]]:
    """(where, how many, how long) of the whole pieces of a length and of its tail."""
    count, tail = divmod(length, size)
    if count:
        yield slice(0, count), count, size
    if tail:
        yield slice(count, count + 1), 1, tail


@dataclass(frozen=True)
class Block(Pattern):
    """Blocks of `rows` x `cols` (out x in) stay or go as a whole: ceil(keep x their number) of them, by sums of w^2.

    Blocks that the edge of the matrix cuts off are counted by themselves: of those at the right edge, at the lower edge and
    in the corner ceil(keep x their number) stay too, so that the count of weights is exact for every shape. Of equal
    blocks the lower index stays, row of blocks by row. `balanced`: the share holds in every row of blocks by itself.
    """

    rows: int
    cols: int
    keep: Fraction
    balanced: bool = False
    name: ClassVar[str] = "block"
    FORM: ClassVar[str] = "as in block:4x1:0.75: blocks of 4 outputs x 1 input, 75 % of them zero"

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise impossible(f"block: {self.rows}x{self.cols} needs whole numbers of at least 1", hint=self.FORM)
        check_density(self.name, self.keep)

    @classmethod
    def parse(cls, arguments: str, kind: str = "fpga") -> Block:
        head, *rest = split(arguments)
        if rest and rest[0].startswith("keep=") and rest[1:] in ([], [BALANCED]):
            keep = parse_share("keep", rest[0].removeprefix("keep="), "as in keep = 1/4")
            return cls(*cls._shape(head), keep, bool(rest[1:]))
        shape, *numbers = head.split(":")
        if rest or len(numbers) not in (1, 2) or numbers[1:] not in ([], [BALANCED]):
            raise misspelt(f"block:{arguments.strip()} does not read as block:RxC:S", hint=cls.FORM)
        return cls(*cls._shape(shape), parse_sparsity(cls.name, numbers[0], cls.FORM), len(numbers) == 2)

    @classmethod
    def _shape(cls, text: str) -> tuple[int, int]:
        found = SHAPE.fullmatch(text)
        if found is None:
            raise misspelt(f"block: {text!r} does not read as RxC, out x in", hint=cls.FORM)
        return int(found[1]), int(found[2])

    def spec(self) -> str:
        balanced = f":{BALANCED}" if self.balanced else ""
        return f"{self.name}:{self.rows}x{self.cols}:{decimal_text(1 - self.keep)}{balanced}"

    def body(self) -> str:
        balanced = f", {BALANCED}" if self.balanced else ""
        return f"{self.rows}x{self.cols}, keep = {self.keep}{balanced}"

    def describe(self) -> str:
        outputs, inputs = f"{self.rows} output{'s'[: self.rows > 1]}", f"{self.cols} input{'s'[: self.cols > 1]}"
        where = "equally many in every row of blocks" if self.balanced else "anywhere"
        return (
            f"blocks of {outputs} x {inputs} (keeps {percent(float(self.keep))} of them, {where},"
            f" {percent(self.sparsity)} zeros)"
        )

    @property
    def sparsity(self) -> float:
        return float(1 - self.keep)

    @property
    def group(self) -> int:
        return self.cols

    def quota(self, kind: Kind) -> int:
        """How many blocks of a kind stay."""
        if not self.balanced:
            return share_of(kind.count, self.keep)
        rows = kind.down.stop - kind.down.start
        return rows * share_of(kind.count // rows, self.keep)

    def blocks(self, outs: int, ins: int) -> int:
        """How many blocks stay."""
        return sum(self.quota(kind) for kind in kinds_of(self.rows, self.cols, outs, ins))

    def kept(self, outs: int, ins: int) -> int:
        return sum(self.quota(kind) * kind.rows * kind.cols for kind in kinds_of(self.rows, self.cols, outs, ins))

    def row_slots(self, ins: int) -> int | None:
        return self.kept(1, ins) if self.balanced else None

    def blocks_of(self, outs: int, ins: int) -> tuple[int, int]:
        return self.rows, self.cols

    def _sums(self, squares: Scores) -> Scores:
        """Sums over each block, in an order that no memory layout changes."""
        return block_sums(block_sums(squares, self.rows).T, self.cols).T

    def chosen(self, w: Matrix, saliency: Scores | None = None) -> Mask:
        """The blocks that stay: bool[ceil(out / rows), ceil(in / cols)]."""
        scores = scores_of(w, saliency)
        sums = self._sums(np.square(scores, dtype=np.float64) if saliency is None else scores)
        chosen = np.zeros(sums.shape, np.bool_)
        for kind in kinds_of(self.rows, self.cols, *w.shape):
            part, quota = sums[kind.down, kind.across], self.quota(kind)
            largest = keep_largest(part, quota // len(part)) if self.balanced else keep_largest_of_all(part, quota)
            chosen[kind.down, kind.across] = largest
        return chosen

    def mask(self, w: Matrix, saliency: Scores | None = None) -> Mask:
        return spread(self.chosen(w, saliency), self.rows, self.cols, *w.shape)

    def used_blocks(self, w: Matrix) -> Mask:
        """bool[ceil(out / rows), ceil(in / cols)], true where a block has a weight that is not zero."""
        rows, cols = range(0, w.shape[0], self.rows), range(0, w.shape[1], self.cols)
        return np.logical_or.reduceat(np.logical_or.reduceat(w != 0, rows, axis=0), cols, axis=1)

    def check(self, w: Matrix) -> None:
        self._checked(w)

    def _checked(self, w: Matrix) -> Mask:
        used = self.used_blocks(w)
        for kind in kinds_of(self.rows, self.cols, *w.shape):
            part, quota = used[kind.down, kind.across], self.quota(kind)
            if self.balanced:
                counts, each = np.count_nonzero(part, axis=1), quota // len(part)
                if counts.max() > each:
                    row = int(np.argmax(counts > each)) + kind.down.start
                    raise violation(
                        f"{counts.max():,} of {part.shape[1]:,} blocks of {kind.rows}x{kind.cols} in row {row} of blocks"
                        f" have weights that are not zero; {self.spec()} keeps {each:,} of them"
                    )
            elif np.count_nonzero(part) > quota:
                raise violation(
                    f"{np.count_nonzero(part):,} of {part.size:,} blocks of {kind.rows}x{kind.cols} have weights that are"
                    f" not zero; {self.spec()} keeps {quota:,} of them",
                )
        return used

    def slots(self, w: Matrix) -> Mask:
        chosen = self._checked(w)
        for kind in kinds_of(self.rows, self.cols, *w.shape):
            part, quota = chosen[kind.down, kind.across], self.quota(kind)
            filled = keep_largest(part.view(np.uint8), quota // len(part)) if self.balanced else fill_evenly(part, quota)
            chosen[kind.down, kind.across] = filled
        return spread(chosen, self.rows, self.cols, *w.shape)

    def canonical(self) -> Pattern:
        if self.keep == 1:
            return Dense()
        return Unstructured(self.keep).canonical() if self.rows == self.cols == 1 and not self.balanced else self

    def parameters(self, ins: int) -> Parameters:
        return Parameters()
