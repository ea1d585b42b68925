"""One pattern inside another: blocks or rows that stay, and N:M groups inside them. Column then N:M is `hp`."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from compiler.sparsity.balanced import NM
from compiler.sparsity.base import Parameters, Pattern, impossible, misspelt, percent
from compiler.sparsity.blocks import Block, kinds_of
from compiler.sparsity.lines import Row
from compiler.sparsity.saliency import Mask, Matrix, Scores, group_quota
from hw_targets.errors import InputError

PLUS = "+"


@dataclass(frozen=True)
class Composed(Pattern):
    """`outer` chooses blocks or rows by the sums of all their weights; inside of them `inner` keeps n of every m inputs.

    The groups of `inner` begin at the row's first input and lie in blocks as a whole: the columns of a block are a
    multiple of m. A block of t inputs keeps floor(t / m) n + ceil(n (t mod m) / m) of each row.
    """

    outer: Block | Row
    inner: NM
    name: ClassVar[str] = "composed"
    FORM: ClassVar[str] = "as in block:32x32:0.5+nm:2:4: half of the blocks, and 2 of every 4 inputs inside them"

    def __post_init__(self) -> None:
        cols = self.outer.cols if isinstance(self.outer, Block) else self.outer.tile.cols
        if self.inner.along != "in":
            raise impossible(f"{self.spec()}: the groups inside run along the inputs")
        if cols is not None and cols % self.inner.m:
            raise impossible(
                f"{self.spec()}: {cols} inputs do not split into groups of {self.inner.m}",
                hint="groups have to lie inside the blocks",
            )

    @classmethod
    def parse(cls, arguments: str, kind: str = "fpga") -> Composed:
        parts = [part.strip() for part in arguments.strip().strip('"').split(PLUS)]
        if len(parts) != 2:
            raise misspelt(f"{arguments.strip()!r} does not name two patterns", hint=cls.FORM)
        read: dict[str, type[Block | Row]] = {"block": Block, "row": Row}
        name, _, rest = parts[0].partition(":")
        inner, _, groups = parts[1].partition(":")
        if name not in read or inner != "nm":
            hint = "columns and N:M inside them are hp" if name == "column" else cls.FORM
            raise misspelt(f"{parts[1]!r} inside of {parts[0]!r} is no composition", hint=hint)
        return cls(read[name].parse(rest, kind), NM.parse(groups, kind))

    def spec(self) -> str:
        return f"{self.outer.spec()}{PLUS}{self.inner.spec()}"

    def body(self) -> str:
        return f'"{self.spec()}"'

    def describe(self) -> str:
        return (
            f"{self.outer.describe().partition(' (')[0]}, {percent(float(self.outer.keep))} of them stay, and inside of them"
            f" {self.inner.n} of {self.inner.m} ({percent(self.sparsity)} zeros)"
        )

    @property
    def sparsity(self) -> float:
        return float(1 - self.outer.keep * Fraction(self.inner.n, self.inner.m))

    @property
    def group(self) -> int:
        return max(self.outer.group, self.inner.group)

    def kept(self, outs: int, ins: int) -> int:
        n, m = self.inner.n, self.inner.m
        if isinstance(self.outer, Row):
            return self.outer.kept(outs, ins) // ins * self._row_quota(ins)
        kinds = kinds_of(self.outer.rows, self.outer.cols, outs, ins)
        return sum(self.outer.quota(kind) * kind.rows * group_quota(kind.cols, n, m) for kind in kinds)

    def _row_quota(self, ins: int) -> int:
        return group_quota(ins, self.inner.n, self.inner.m)

    def row_slots(self, ins: int) -> int | None:
        return self.kept(1, ins) if self.outer.row_slots(ins) is not None else None

    def blocks_of(self, outs: int, ins: int) -> tuple[int, int]:
        return self.outer.blocks_of(outs, ins)

    def block_slots(self, w: Matrix) -> Mask:
        return self.outer.slots(w)

    def mask(self, w: Matrix, saliency: Scores | None = None) -> Mask:
        return self.outer.mask(w, saliency) & self.inner.mask(w, saliency)

    def check(self, w: Matrix) -> None:
        for part in (self.outer, self.inner):
            try:
                part.check(w)
            except InputError as error:
                raise InputError(error.code, f"{error.message} ({self.spec()})", hint=error.hint) from error

    def slots(self, w: Matrix) -> Mask:
        self.check(w)
        coarse = self.outer.slots(w)
        return coarse & self.inner.mask(np.where(coarse, w != 0, False))

    def canonical(self) -> Pattern:
        if self.inner.n == self.inner.m:
            return self.outer.canonical()
        return self.inner.canonical() if self.outer.keep == 1 else self

    def parameters(self, ins: int) -> Parameters:
        return Parameters()
