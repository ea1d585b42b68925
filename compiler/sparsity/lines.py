"""Whole rows or whole columns stay: of the matrix, or equally many of each tile of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Self

import numpy as np

from compiler.sparsity.balanced import HP
from compiler.sparsity.base import Dense, Parameters, Pattern, impossible, misspelt, percent, scores_of, split, violation
from compiler.sparsity.saliency import Mask, Matrix, Scores, block_sums, keep_largest
from compiler.sparsity.unbalanced import check_density, decimal_text, parse_share, parse_sparsity, share_of

TILE = re.compile(r"([0-9]+|out)x([0-9]+|in)")
ALL_ROWS = 65535
"""More rows than an instruction can name outputs: a tile as high as this is as high as the matrix."""


@dataclass(frozen=True)
class Tile:
    """Rows x inputs of a tile; None: all of them."""

    rows: int | None = None
    cols: int | None = None

    @classmethod
    def parse(cls, text: str) -> Tile:
        found = TILE.fullmatch(text)
        sizes = [int(size) if size.isdecimal() else None for size in found.groups()] if found else [0]
        if 0 in sizes:
            raise misspelt(f"tile={text} does not read as RxC", hint="as in tile=64x32, tile=64xin or tile=outx32")
        return cls(*sizes)

    def __str__(self) -> str:
        return f"{self.rows or 'out'}x{self.cols or 'in'}"


WHOLE = Tile()


@dataclass(frozen=True)
class Lines(Pattern):
    """What row and column share: spelling `NAME:S` or `NAME:S:tile=RxC`, as an attribute `keep = F, tile = RxC`."""

    keep: Fraction
    tile: Tile = WHOLE
    line: ClassVar[str]
    FORM: ClassVar[str]

    def __post_init__(self) -> None:
        check_density(self.name, self.keep)
        if (self.tile.rows or 1) > ALL_ROWS or (self.tile.cols or 1) > ALL_ROWS:
            raise impossible(f"{self.name}: a tile of {self.tile} is larger than {ALL_ROWS} a side")

    @classmethod
    def parse(cls, arguments: str, kind: str = "fpga") -> Self:
        items = split(arguments)
        if items[0].startswith("keep="):
            keep = parse_share("keep", items[0].removeprefix("keep="), "as in keep = 1/4")
            tile = items[1:]
        else:
            sparsity, *tile = items[0].split(":")
            tile += items[1:]
            keep = parse_sparsity(cls.name, sparsity, cls.FORM)
        if len(tile) > 1 or (tile and not tile[0].startswith("tile=")):
            raise misspelt(f"{cls.name}:{arguments.strip()} does not read as {cls.name}:S:tile=RxC", hint=cls.FORM)
        return cls(keep, Tile.parse(tile[0].removeprefix("tile=")) if tile else WHOLE)

    def spec(self) -> str:
        tile = "" if self.tile == WHOLE else f":tile={self.tile}"
        return f"{self.name}:{decimal_text(1 - self.keep)}{tile}"

    def body(self) -> str:
        return f"keep = {self.keep}" + ("" if self.tile == WHOLE else f", tile = {self.tile}")

    def describe(self) -> str:
        where = "the matrix" if self.tile == WHOLE else f"every tile of {self.tile}"
        simple = self.canonical()
        same = "" if simple is self else f"; the same as {simple.spec()}"
        return f"whole {self.line} (keeps {percent(float(self.keep))} of {where}, {percent(self.sparsity)} zeros{same})"

    @property
    def sparsity(self) -> float:
        return float(1 - self.keep)


@dataclass(frozen=True)
class Row(Lines):
    """k = ceil(keep x rows) rows (outputs) of each tile stay, by the sum of w^2 inside the tile; of equal ones the lower
    index. A tail tile of t rows keeps ceil(k t / rows)."""

    name: ClassVar[str] = "row"
    line: ClassVar[str] = "rows"
    FORM: ClassVar[str] = "as in row:0.5, which makes half of the outputs zero, or row:0.5:tile=16x64"

    def _sides(self, outs: int, ins: int) -> tuple[int, int]:
        """Rows and inputs of a whole tile."""
        return self.tile.rows or outs, min(self.tile.cols or ins, ins)

    def _quota(self, height: int, rows: int) -> int:
        """Rows that stay of a tile of `height` <= the whole one's `rows`."""
        return -(-share_of(rows, self.keep) * height // rows)

    def _quotas(self, outs: int, rows: int) -> list[int]:
        """Rows that stay of each tile, from the first row down."""
        return [self._quota(min(rows, outs - first), rows) for first in range(0, outs, rows)]

    def kept(self, outs: int, ins: int) -> int:
        return sum(self._quotas(outs, self._sides(outs, ins)[0])) * ins

    def blocks_of(self, outs: int, ins: int) -> tuple[int, int]:
        return 1, self._sides(outs, ins)[1]

    def _choose(self, values: Scores) -> Mask:
        """The largest of values[out, tiles across] in each tile."""
        outs = len(values)
        rows = self.tile.rows or outs
        chosen = np.zeros(values.shape, np.bool_)
        body = outs // rows * rows
        if body:
            tiles = np.moveaxis(values[:body].reshape(body // rows, rows, -1), 1, -1)
            stays = keep_largest(tiles, self._quota(rows, rows))
            chosen[:body] = np.moveaxis(stays, -1, 1).reshape(body, -1)
        if body < outs:
            chosen[body:] = keep_largest(values[body:].T, self._quota(outs - body, rows)).T
        return chosen

    def _spread(self, chosen: Mask, ins: int) -> Mask:
        return np.repeat(chosen, self._sides(1, ins)[1], axis=1)[:, :ins]

    def mask(self, w: Matrix, saliency: Scores | None = None) -> Mask:
        scores = scores_of(w, saliency)
        squares = np.square(scores, dtype=np.float64) if saliency is None else scores
        return self._spread(self._choose(block_sums(squares.T, self._sides(*w.shape)[1]).T), w.shape[1])

    def _used(self, w: Matrix) -> Mask:
        return np.logical_or.reduceat(w != 0, range(0, w.shape[1], self._sides(*w.shape)[1]), axis=1)

    def check(self, w: Matrix) -> None:
        used, rows = self._used(w), self._sides(*w.shape)[0]
        counts = np.add.reduceat(used, range(0, len(w), rows), axis=0, dtype=np.intp)
        quotas = np.array(self._quotas(len(w), rows))[:, None]
        if (counts > quotas).any():
            tile, across = np.argwhere(counts > quotas)[0]
            raise violation(
                f"{counts[tile, across]} of the rows {tile * rows} to {min((tile + 1) * rows, len(w)) - 1} have weights that"
                f" are not zero in tile {across} of them; {self.spec()} keeps {quotas[tile, 0]}"
            )

    def slots(self, w: Matrix) -> Mask:
        self.check(w)
        return self._spread(self._choose(self._used(w).view(np.uint8)), w.shape[1])

    def canonical(self) -> Pattern:
        return Dense() if self.keep == 1 else self

    def parameters(self, ins: int) -> Parameters:
        return Parameters()

    def tile_parameters(self, ins: int) -> Parameters:
        """Rows, inputs and kept rows of a tile whose height is given, as instructions carry them."""
        assert self.tile.rows is not None, "a tile as high as the matrix has no number"
        return Parameters(1, 1, self.tile.rows, self._sides(1, ins)[1], share_of(self.tile.rows, self.keep))


@dataclass(frozen=True)
class Column(Lines):
    """ceil(keep x inputs) columns (inputs) of each tile stay: the coarse level of a hierarchical pattern alone."""

    name: ClassVar[str] = "column"
    line: ClassVar[str] = "columns"
    FORM: ClassVar[str] = "as in column:0.75, which makes three quarters of the inputs zero, or column:0.75:tile=64x32"

    @property
    def hp(self) -> HP:
        """The same pattern as a hierarchical one with a dense fine level."""
        return HP(self.tile.rows or ALL_ROWS, self.tile.cols or "in", self.keep)

    @property
    def sparsity(self) -> float:
        return self.hp.sparsity

    def kept(self, outs: int, ins: int) -> int:
        return self.hp.kept(outs, ins)

    def row_slots(self, ins: int) -> int | None:
        return self.hp.row_slots(ins)

    def mask(self, w: Matrix, saliency: Scores | None = None) -> Mask:
        return self.hp.mask(w, saliency)

    def check(self, w: Matrix) -> None:
        self.hp.check(w)

    def slots(self, w: Matrix) -> Mask:
        return self.hp.slots(w)

    def canonical(self) -> Pattern:
        if self.keep == 1:
            return Dense()
        return self.hp.canonical() if self.tile.rows else self

    def parameters(self, ins: int) -> Parameters:
        return self.hp.parameters(ins)


def as_hp(pattern: Pattern) -> HP | None:
    """The hierarchical pattern that this one is or stands for."""
    return pattern.hp if isinstance(pattern, Column) else pattern if isinstance(pattern, HP) else None
