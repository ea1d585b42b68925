"""Formats that take slots wherever they lie: csr, coo, ell, bitmap, and bcsr for whole blocks."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compiler.sparsity.base import Parameters, Pattern
from compiler.sparsity.blocks import Block, kinds_of
from compiler.sparsity.composed import Composed
from compiler.sparsity.lines import Row
from compiler.sparsity.saliency import Mask, Matrix
from compiler.storage.base import RowSlots, SlotFormat, StorageSize, kept_of, size_of, value_bytes
from compiler.storage.bits import Bytes, pack, width_of
from compiler.storage.grouped import in_groups


class CSRFormat(SlotFormat):
    """Kept codes row by row, the column of each, and where each row starts."""

    name: ClassVar[str] = "csr"

    def slot_bits(self, outs: int, ins: int, kept: int, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        return size_of(kept, value_bits, kept * width_of(ins), (outs + 1) * width_of(kept + 1))

    def encode_slots(self, codes: Matrix, mask: Mask, pattern: Pattern, value_bits: int = 8) -> Bytes:
        values, places = kept_of(codes, mask)
        starts = np.concatenate([[0], np.cumsum(np.count_nonzero(mask, axis=1))])
        ins = codes.shape[1]
        sections = [value_bytes(values, value_bits), pack(places % ins, width_of(ins)), pack(starts, width_of(len(values) + 1))]
        return np.concatenate(sections)


class COOFormat(SlotFormat):
    """Kept codes row by row, the row of each, the column of each."""

    name: ClassVar[str] = "coo"

    def slot_bits(self, outs: int, ins: int, kept: int, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        return size_of(kept, value_bits, kept * width_of(outs), kept * width_of(ins))

    def encode_slots(self, codes: Matrix, mask: Mask, pattern: Pattern, value_bits: int = 8) -> Bytes:
        values, places = kept_of(codes, mask)
        rows, columns = np.divmod(places, codes.shape[1])
        sections = [pack(rows, width_of(codes.shape[0])), pack(columns, width_of(codes.shape[1]))]
        return np.concatenate([value_bytes(values, value_bits), *sections])


class ELLFormat(SlotFormat):
    """Equally many kept codes of every row, and the column of each; for patterns that keep equally many in every row."""

    name: ClassVar[str] = "ell"

    def holds(self, pattern: Pattern) -> bool:
        return super().holds(pattern) and bool(pattern.row_slots(1 << 20))

    def slot_bits(self, outs: int, ins: int, kept: int, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        return size_of(kept, value_bits, kept * width_of(ins))

    def encode_slots(self, codes: Matrix, mask: Mask, pattern: Pattern, value_bits: int = 8) -> Bytes:
        values, places = kept_of(codes, mask)
        ins = codes.shape[1]
        return np.concatenate([value_bytes(values, value_bits), pack(places % ins, width_of(ins))])


class BitmapFormat(SlotFormat):
    """Kept codes row by row, then one bit for every place of the matrix. N:M groups keep their compute layout."""

    name: ClassVar[str] = "bitmap"

    def fields(self, outs: int, ins: int, pattern: Pattern) -> Parameters:
        nm = in_groups(pattern)
        return Parameters() if nm is None else nm.parameters(ins)

    def slots_kept(self, outs: int, ins: int, pattern: Pattern) -> int:
        return pattern.kept(outs, ins) if in_groups(pattern) is None else 0

    def slot_bits(self, outs: int, ins: int, kept: int, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        nm = in_groups(pattern)
        return size_of(kept if nm is None else nm.kept(outs, ins), value_bits, outs * ins)

    def encode_slots(self, codes: Matrix, mask: Mask, pattern: Pattern, value_bits: int = 8) -> Bytes:
        marks = np.packbits(mask.reshape(-1), bitorder="little")
        return np.concatenate([value_bytes(kept_of(codes, mask)[0], value_bits), marks])


class BCSRFormat(SlotFormat):
    """Where each row of blocks starts, the column of each block, and the codes of the blocks, block by block.

    Blocks at the edges are stored as far as they lie inside the matrix. Fine zeros inside of blocks are stored.
    """

    name: ClassVar[str] = "bcsr"

    def holds(self, pattern: Pattern) -> bool:
        return isinstance(pattern, Block | Row | Composed)

    def fields(self, outs: int, ins: int, pattern: Pattern) -> Parameters:
        rows, cols = _block(pattern, outs, ins)
        return Parameters(1, 1, rows, cols)

    def whole_rows(self, outs: int, ins: int, pattern: Pattern) -> int:
        return _block(pattern, outs, ins)[0]

    def slots_kept(self, outs: int, ins: int, pattern: Pattern) -> int:
        return _coarse(pattern).kept(outs, ins)

    def mask_of(self, codes: Matrix, pattern: Pattern) -> Mask:
        return pattern.block_slots(codes)

    def slot_bits(self, outs: int, ins: int, kept: int, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        rows, cols = _block(pattern, outs, ins)
        down, across = -(-outs // rows), -(-ins // cols)
        blocks = _blocks_kept(pattern, outs, ins)
        return size_of(kept, value_bits, (down + 1) * width_of(down * across + 1), blocks * width_of(across))

    def part_bits(self, slots: RowSlots, ins: int, kept: int, pattern: Pattern) -> StorageSize:
        rows, cols = _block(pattern, len(slots), ins)
        down, across = -(-len(slots) // rows), -(-ins // cols)
        blocks = int((-(-slots[::rows] // cols)).sum())  # all rows of a row of blocks have the same slots
        return size_of(kept, 8, (down + 1) * width_of(down * across + 1), max(blocks, 1) * width_of(across))

    def encode_slots(self, codes: Matrix, mask: Mask, pattern: Pattern, value_bits: int = 8) -> Bytes:
        outs, ins = codes.shape
        rows, cols = _block(pattern, outs, ins)
        down, across = -(-outs // rows), -(-ins // cols)
        chosen = mask[::rows, ::cols]
        starts = np.concatenate([[0], np.cumsum(np.count_nonzero(chosen, axis=1))])
        _, places = kept_of(codes, mask)
        row, column = np.divmod(places, ins)
        order = np.argsort(row // rows * across + column // cols, kind="stable")  # by block, inside of it row by row
        values: NDArray[Any] = codes[row[order], column[order]]
        return np.concatenate(
            [
                pack(starts, width_of(down * across + 1)),
                pack(np.nonzero(chosen)[1], width_of(across)),
                value_bytes(values, value_bits),
            ]
        )


def _coarse(pattern: Pattern) -> Pattern:
    return pattern.outer if isinstance(pattern, Composed) else pattern


def _block(pattern: Pattern, outs: int, ins: int) -> tuple[int, int]:
    found = pattern.blocks_of(outs, ins)
    assert found is not None, "bcsr holds patterns of blocks"
    return found


def _blocks_kept(pattern: Pattern, outs: int, ins: int) -> int:
    """How many blocks stay."""
    coarse = _coarse(pattern)
    if isinstance(coarse, Block):
        return sum(coarse.quota(kind) for kind in kinds_of(coarse.rows, coarse.cols, outs, ins))
    return coarse.kept(outs, 1) * -(-ins // _block(coarse, outs, ins)[1])
