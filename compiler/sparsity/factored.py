"""Weights that are products of two smaller matrices, W = left right: low rank, and Monarch, whose factors are 1:b sparse.

No entry is zero; fewer values can be chosen, and fewer are multiplied, for a linear with such a weight becomes two
(compiler/passes/factor.py). Only projection is here; accuracy needs training.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compiler.sparsity.balanced import NM
from compiler.sparsity.base import (
    Dense,
    Parameters,
    Pattern,
    check_kind,
    impossible,
    misspelt,
    options_of,
    split,
    violation,
    whole_number,
)
from compiler.sparsity.saliency import Mask, Matrix, Scores, magnitudes

EXACT = 1e-5
"""The largest ||W - P(W)|| / ||W|| (Frobenius) of a product: what rounding to fp32 leaves is some 1e-7."""

MOST_BLOCKS = 256


@dataclass(frozen=True)
class Factored(Pattern):
    """W of outs x ins in blocks b x b parts of rank r each: rows i with i div ceil(outs / b) equal meet inputs j with
    j mod b equal. With hidden values h = (part of the inputs, place in the rank, part of the outputs), every row of both
    factors has one of every b consecutive inputs: r b of the hidden ones, ins / b of W's own.

    The nearest such W in the Frobenius norm is the best rank r of every part by itself (Eckart and Young).
    """

    rank: int | Fraction
    """Of a part; or the share of outs x ins that are values, from which it follows."""
    sharing: ClassVar[bool] = True
    FORM: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if isinstance(self.rank, Fraction) and not 0 < self.rank <= 1:
            raise impossible(f"{self.name}: a sparsity of {float(1 - self.rank):g} leaves no values", hint=self.FORM)
        if isinstance(self.rank, int) and self.rank < 1:
            raise impossible(f"{self.name}: a rank of {self.rank} leaves no values", hint=self.FORM)

    @property
    @abstractmethod
    def parts(self) -> int:
        """b: parts of the outputs, and of the inputs."""

    @property
    def sparsity(self) -> float:
        return 0.0

    def rank_of(self, outs: int, ins: int) -> int:
        """r of an outs x ins matrix, at least 1 and at most what its parts have."""
        share = self.rank
        rank = share if isinstance(share, int) else int(share * outs * ins / (self.parts * (outs + ins)))
        return max(1, min(rank, -(-outs // self.parts), -(-ins // self.parts)))

    def hidden(self, outs: int, ins: int) -> int:
        """Values between the two factors: b r b."""
        return self.parts * self.rank_of(outs, ins) * self.parts

    def free(self, outs: int, ins: int) -> int:
        """b r (outs + ins): the values of both factors that are not zero by their pattern."""
        return self.parts * self.rank_of(outs, ins) * (outs + ins)

    def kept(self, outs: int, ins: int) -> int:
        return outs * ins

    def mask(self, w: Matrix, saliency: Scores | None = None) -> Mask:
        return np.ones(w.shape, np.bool_)

    def _cut(self, w: Matrix) -> NDArray[np.float64]:
        """[b of outputs, b of inputs, rows, inputs] of the parts, with zeros behind the edge."""
        outs, ins = w.shape
        b = self.parts
        padded = np.zeros((-(-outs // b) * b, -(-ins // b) * b))
        padded[:outs, :ins] = w
        return padded.reshape(b, len(padded) // b, -1, b).transpose(0, 3, 1, 2)

    def _parts_of(self, w: Matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """left[.., rows, r] and right[.., r, inputs] of every part, equally large; refuses NaN and infinity."""
        magnitudes(w)
        cut = self._cut(w)
        rank = self.rank_of(*w.shape)
        turned = cut.shape[-2] > cut.shape[-1]  # the smaller of the two Gram matrices has the same values
        short = cut.swapaxes(-1, -2) if turned else cut
        basis = np.linalg.eigh(short @ short.swapaxes(-1, -2))[1][..., ::-1][..., :rank]
        other = basis.swapaxes(-1, -2) @ short
        size = np.sqrt(np.linalg.norm(other, axis=-1, keepdims=True))
        size = np.where(size > 0, size, 1.0)
        left, right = basis * size.swapaxes(-1, -2), other / size
        return (right.swapaxes(-1, -2), left.swapaxes(-1, -2)) if turned else (left, right)

    def _nearest(self, w: Matrix) -> NDArray[np.float64]:
        left, right = self._parts_of(w)
        outs, ins = w.shape
        parts = left @ right
        whole = parts.transpose(0, 2, 3, 1).reshape(parts.shape[0] * parts.shape[2], -1)
        return whole[:outs, :ins]

    def project(self, w: Matrix) -> Matrix:
        return self._nearest(w).astype(w.dtype)

    def check(self, w: Matrix) -> None:
        length = float(np.linalg.norm(w.astype(np.float64)))
        error = float(np.linalg.norm(w - self._nearest(w))) / length if length else 0.0
        if error > EXACT:
            raise violation(f"it is {error:.2g} of its norm away from the nearest {self.spec()} matrix")

    def factors(self, w: Matrix) -> tuple[Matrix, Matrix]:
        """left[outs, hidden] and right[hidden, ins] of a w that obeys the pattern, in its dtype."""
        outs, ins = w.shape
        b, rank = self.parts, self.rank_of(outs, ins)
        left, right = self._parts_of(w)
        rows, inputs = left.shape[2], right.shape[3]
        whole_left: NDArray[Any] = np.zeros((b, rows, b, rank, b))
        whole_right: NDArray[Any] = np.zeros((b, rank, b, inputs, b))
        place = np.arange(b)
        # An index beside slices comes first: [b, rows, b, rank] and [b, rank, b, inputs].
        whole_left[place, :, :, :, place] = left.transpose(0, 2, 1, 3)
        whole_right[place, :, :, :, place] = right.transpose(1, 2, 0, 3)
        return (
            whole_left.reshape(b * rows, -1)[:outs].astype(w.dtype),
            whole_right.reshape(b * rank * b, -1)[:, :ins].astype(w.dtype),
        )

    def factor_pattern(self) -> Pattern:
        """The zeros of both factors."""
        return Dense() if self.parts == 1 else NM(1, self.parts)

    def parameters(self, ins: int) -> Parameters:
        return Parameters()

    def _size(self) -> str:
        return f"rank = {self.rank}" if isinstance(self.rank, int) else f"{float(1 - self.rank):.12g}"


def _rank(name: str, items: list[str], form: str) -> int | Fraction:
    """`rank=32`, or the sparsity that leaves as many values: `0.75`."""
    if len(items) != 1 or not items[0]:
        raise misspelt(f"{name} takes a rank or a share", hint=form)
    if "=" in items[0]:
        return whole_number("rank", options_of(name, items, ("rank",))["rank"])
    try:
        return 1 - Fraction(items[0])
    except (ValueError, ZeroDivisionError):
        raise misspelt(f"{name}: {items[0]!r} is no share of weights", hint=form) from None


@dataclass(frozen=True)
class LowRank(Factored):
    """W = left right with left outs x r and right r x ins: at most r independent rows.

    Projection takes the r largest singular values and their vectors.
    """

    name: ClassVar[str] = "low_rank"
    FORM: ClassVar[str] = "as in low_rank:rank=32, or low_rank:0.75 for a quarter of the weights"

    @classmethod
    def parse(cls, arguments: str, kind: str = "fpga") -> LowRank:
        return cls(_rank(cls.name, split(arguments), cls.FORM))

    @property
    def parts(self) -> int:
        return 1

    def body(self) -> str:
        return self._size()

    def describe(self) -> str:
        what = f"rank {self.rank}" if isinstance(self.rank, int) else f"low rank with {float(self.rank):.5g} of the weights"
        return f"{what} (two factors, no zeros)"


@dataclass(frozen=True)
class Monarch(Factored):
    """W in b x b parts of rank r: the product of two matrices that have one of every b inputs in each row. Of rank 1 and
    with b the root of the size it is a Monarch matrix (arXiv 2204.00595). A product of butterfly factors of a size 4^k is
    such a matrix too, up to the order of its inputs and outputs: the factors of either half multiply to one of the two.

    Projection takes the r largest singular values of every part.
    """

    blocks: int
    name: ClassVar[str] = "monarch"
    FORM: ClassVar[str] = "as in monarch:4:rank=8, or monarch:4:0.75 for a quarter of the weights"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.blocks <= MOST_BLOCKS:
            raise impossible(f"monarch:{self.blocks}: 2 to {MOST_BLOCKS} blocks", hint=self.FORM)

    @classmethod
    def parse(cls, arguments: str, kind: str = "fpga") -> Monarch:
        head, *rest = split(arguments.replace(":", ",", 1))
        blocks = whole_number("blocks", head.removeprefix("blocks="))
        check_kind(blocks, kind)
        return cls(_rank(cls.name, rest, cls.FORM), blocks)

    @property
    def parts(self) -> int:
        return self.blocks

    def spec(self) -> str:
        return f"{self.name}:{self.blocks}:{self._size()}".replace(" ", "")

    def body(self) -> str:
        return f"blocks = {self.blocks}, {self._size()}"

    def describe(self) -> str:
        size = f"rank {self.rank}" if isinstance(self.rank, int) else f"{float(self.rank):.5g} of the weights"
        return f"{self.blocks} x {self.blocks} blocks with {size} (two factors of 1:{self.blocks}, no zeros of its own)"
