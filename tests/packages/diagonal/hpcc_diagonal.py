"""A pattern and its storage format from outside of hpcc: every m-th diagonal stays, `--sparsity diagonal:4`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compiler.sparsity.base import Parameters, Pattern, impossible, violation, whole_number
from compiler.sparsity.saliency import Mask, Matrix, Scores
from compiler.storage.base import Format, StorageSize, check_codes, kept_of, size_of, value_bytes
from compiler.storage.bits import Bytes


@dataclass(frozen=True)
class Diagonal(Pattern):
    """W[i, j] stays where i and j are equal modulo m."""

    m: int
    name: ClassVar[str] = "diagonal"

    def kept(self, outs: int, ins: int) -> int:
        return sum(-(-(outs - r) // self.m) * -(-(ins - r) // self.m) for r in range(min(self.m, outs, ins)))

    def _places(self, outs: int, ins: int) -> Mask:
        return np.arange(outs)[:, None] % self.m == np.arange(ins)[None, :] % self.m

    def mask(self, w: Matrix, saliency: Scores | None = None) -> Mask:
        return self._places(*w.shape)

    @classmethod
    def parse(cls, arguments: str, kind: str = "fpga") -> Diagonal:
        m = whole_number("m", arguments.strip())
        if m < 1:
            raise impossible(f"diagonal:{m}: m is at least 1")
        return cls(m)

    def body(self) -> str:
        return str(self.m)

    def describe(self) -> str:
        return f"every {self.m}th diagonal"

    @property
    def sparsity(self) -> float:
        return 1 - 1 / self.m

    def slots(self, w: Matrix) -> Mask:
        self.check(w)
        return self._places(*w.shape)

    def check(self, w: Matrix) -> None:
        wrong = (w != 0) & ~self._places(*w.shape)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise violation(f"row {row}, input {column} lies on no diagonal of {self.spec()}")

    def parameters(self, ins: int) -> Parameters:
        return Parameters(1, 1, self.m)


class DiagonalFormat(Format):
    """The codes of the diagonals, row by row: where they lie is known."""

    name: ClassVar[str] = "diagonal"

    def holds(self, pattern: Pattern) -> bool:
        return isinstance(pattern, Diagonal)

    def fields(self, outs: int, ins: int, pattern: Pattern) -> Parameters:
        return pattern.parameters(ins)

    def slots_kept(self, outs: int, ins: int, pattern: Pattern) -> int:
        return pattern.kept(outs, ins)

    def whole_rows(self, outs: int, ins: int, pattern: Pattern) -> int:
        return pattern.parameters(ins).block_rows

    def size_bits(self, outs: int, ins: int, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        return size_of(pattern.kept(outs, ins), value_bits)

    def encode(self, codes: Matrix, pattern: Pattern, value_bits: int = 8) -> Bytes:
        self.expect(pattern)
        check_codes(codes, value_bits)
        return value_bytes(kept_of(codes, pattern.slots(codes))[0], value_bits)
