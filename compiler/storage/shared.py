"""Formats of weight sharing: each tied value once."""

from __future__ import annotations

from typing import ClassVar

from compiler.sparsity.base import Parameters, Pattern
from compiler.sparsity.saliency import Matrix
from compiler.sparsity.sharing import Circulant
from compiler.storage.base import Format, StorageSize, check_codes, size_of, value_bytes
from compiler.storage.bits import Bytes


class CirculantFormat(Format):
    """The first row of every circulant block, a row of blocks after the other."""

    name: ClassVar[str] = "circulant"

    def holds(self, pattern: Pattern) -> bool:
        return isinstance(pattern, Circulant)

    def _circulant(self, pattern: Pattern) -> Circulant:
        self.expect(pattern)
        assert isinstance(pattern, Circulant)
        return pattern

    def fields(self, outs: int, ins: int, pattern: Pattern) -> Parameters:
        return self._circulant(pattern).parameters(ins)

    def whole_rows(self, outs: int, ins: int, pattern: Pattern) -> int:
        return self._circulant(pattern).block

    def size_bits(self, outs: int, ins: int, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        return size_of(self._circulant(pattern).free(outs, ins), value_bits)

    def encode(self, codes: Matrix, pattern: Pattern, value_bits: int = 8) -> Bytes:
        circulant = self._circulant(pattern)
        check_codes(codes, value_bits)
        return value_bytes(circulant.vectors_of(codes), value_bits)
