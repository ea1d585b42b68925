"""Weight sharing: entries are tied to each other, none is zero. Only projection is here; accuracy needs training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compiler.sparsity.base import Dense, Parameters, Pattern, impossible, violation, whole_number
from compiler.sparsity.saliency import Mask, Matrix, Scores, magnitudes


@dataclass(frozen=True)
class Circulant(Pattern):
    """Blocks of b x b, each circulant: W[i, j] depends on (j - i) mod b alone inside a block (FTRANS, arXiv 2007.08563).

    Projection takes the mean of each diagonal, which is the nearest circulant block in the Frobenius norm. Blocks that
    the edge cuts off are the corners of circulant blocks: the mean is that of the entries that are there.
    """

    block: int
    name: ClassVar[str] = "circulant"
    sharing: ClassVar[bool] = True
    FORM: ClassVar[str] = "as in circulant:8"

    def __post_init__(self) -> None:
        if not 1 <= self.block <= 4096:
            raise impossible(f"circulant:{self.block}: a block has 1 to 4096 rows", hint=self.FORM)

    @classmethod
    def parse(cls, arguments: str, kind: str = "fpga") -> Circulant:
        text = "".join(arguments.split()).removeprefix("block=")
        return cls(whole_number("block", text))

    def spec(self) -> str:
        return f"{self.name}:{self.block}"

    def body(self) -> str:
        return f"block = {self.block}"

    def describe(self) -> str:
        return f"circulant blocks of {self.block} x {self.block} (shares each weight {self.block} times, no zeros)"

    @property
    def sparsity(self) -> float:
        return 0.0

    @property
    def tied_rows(self) -> int:
        return self.block

    def vectors(self, outs: int, ins: int) -> tuple[int, int, int]:
        """Blocks down, blocks across, entries of each vector."""
        return -(-outs // self.block), -(-ins // self.block), self.block

    def free(self, outs: int, ins: int) -> int:
        down, across, entries = self.vectors(outs, ins)
        return down * across * entries

    def kept(self, outs: int, ins: int) -> int:
        return outs * ins

    def mask(self, w: Matrix, saliency: Scores | None = None) -> Mask:
        return np.ones(w.shape, np.bool_)

    def diagonals(self, w: Matrix, fill: Any = 0) -> NDArray[Any]:
        """[down, across, b diagonals, b rows]: the entries of each diagonal, `fill` outside of the matrix."""
        b = self.block
        down, across, _ = self.vectors(*w.shape)
        padded = np.full((down * b, across * b), fill, w.dtype)
        padded[: w.shape[0], : w.shape[1]] = w
        blocks = padded.reshape(down, b, across, b).transpose(0, 2, 1, 3)
        row = np.arange(b)
        return blocks[:, :, row[None, :], (row[None, :] + row[:, None]) % b]

    def expand(self, vectors: NDArray[Any], outs: int, ins: int) -> NDArray[Any]:
        """The matrix of vectors[down, across, b]."""
        place = np.arange(self.block)
        blocks = vectors[:, :, (place[None, :] - place[:, None]) % self.block]
        down, across, b = vectors.shape
        return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3).reshape(down * b, across * b)[:outs, :ins])

    def vectors_of(self, w: Matrix) -> NDArray[Any]:
        """The vectors of a w that obeys the pattern, [down, across, b]; 0 for a diagonal that lies outside of the matrix."""
        self.check(w)
        there = self.diagonals(np.ones(w.shape, np.bool_), fill=False)
        first = there.argmax(axis=-1)[..., None]
        return np.take_along_axis(self.diagonals(w), first, axis=-1)[..., 0]

    def project(self, w: Matrix) -> Matrix:
        magnitudes(w)  # refuses NaN and infinity
        counts = np.maximum(self.diagonals(np.ones(w.shape, np.int64)).sum(axis=-1), 1)
        sums = self.diagonals(w.astype(np.float64)).sum(axis=-1)
        return self.expand((sums / counts).astype(w.dtype), *w.shape)

    def check(self, w: Matrix) -> None:
        there = self.diagonals(np.ones(w.shape, np.bool_), fill=False)
        entries = self.diagonals(w)
        first = np.take_along_axis(entries, there.argmax(axis=-1)[..., None], axis=-1)
        wrong = (entries != first) & there
        if wrong.any():
            down, across, diagonal, row = (int(i) for i in np.argwhere(wrong)[0])
            place = down * self.block + row, across * self.block + (row + diagonal) % self.block
            raise violation(
                f"the entry at row {place[0]}, input {place[1]} differs from its diagonal in a {self.spec()} block"
            )

    def canonical(self) -> Pattern:
        return Dense() if self.block == 1 else self

    def parameters(self, ins: int) -> Parameters:
        return Parameters(1, 1, self.block)
