"""Formats that take slots wherever they lie: csr, coo, ell, bitmap, and bcsr for whole blocks."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from compiler.sparsity.base import Parameters, Pattern
from compiler.sparsity.blocks import Block, spread
from compiler.sparsity.composed import Composed
from compiler.sparsity.lines import Row
from compiler.sparsity.saliency import Mask, Matrix
from compiler.storage.base import Room, RowSlots, SlotFormat, StorageSize, filled, kept_of, size_of, value_bytes
from compiler.storage.bits import Bytes, pack, width_of
from compiler.storage.grouped import in_groups


class CSRFormat(SlotFormat):
    """Kept codes row by row, the column of each, and where each row starts."""

    name: ClassVar[str] = "csr"

    def slot_bits(self, outs: int, ins: int, room: Room, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        return size_of(room.kept, value_bits, room.kept * width_of(ins), (outs + 1) * width_of(room.kept + 1))

    def encode_slots(
        self, codes: Matrix, mask: Mask, pattern: Pattern, value_bits: int = 8, room: Room | None = None
    ) -> Bytes:
        values, places = kept_of(codes, mask)
        kept, ins = room.kept if room else len(values), codes.shape[1]
        starts = np.concatenate([[0], np.cumsum(np.count_nonzero(mask, axis=1))])
        sections = [pack(filled(places % ins, kept), width_of(ins)), pack(starts, width_of(kept + 1))]
        return np.concatenate([value_bytes(filled(values, kept), value_bits), *sections])


class COOFormat(SlotFormat):
    """Kept codes row by row, the row of each, the column of each."""

    name: ClassVar[str] = "coo"

    def slot_bits(self, outs: int, ins: int, room: Room, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        return size_of(room.kept, value_bits, room.kept * width_of(outs), room.kept * width_of(ins))

    def encode_slots(
        self, codes: Matrix, mask: Mask, pattern: Pattern, value_bits: int = 8, room: Room | None = None
    ) -> Bytes:
        values, places = kept_of(codes, mask)
        kept = room.kept if room else len(values)
        rows, columns = (filled(place, kept) for place in np.divmod(places, codes.shape[1]))
        sections = [pack(rows, width_of(codes.shape[0])), pack(columns, width_of(codes.shape[1]))]
        return np.concatenate([value_bytes(filled(values, kept), value_bits), *sections])


class ELLFormat(SlotFormat):
    """Equally many kept codes of every row, and the column of each; for patterns that keep equally many in every row."""

    name: ClassVar[str] = "ell"

    def holds(self, pattern: Pattern) -> bool:
        return super().holds(pattern) and bool(pattern.row_slots(1 << 20))

    def slot_bits(self, outs: int, ins: int, room: Room, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        return size_of(room.kept, value_bits, room.kept * width_of(ins))

    def encode_slots(
        self, codes: Matrix, mask: Mask, pattern: Pattern, value_bits: int = 8, room: Room | None = None
    ) -> Bytes:
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

    def slot_bits(self, outs: int, ins: int, room: Room, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        return size_of(room.kept, value_bits, outs * ins)

    def encode_slots(
        self, codes: Matrix, mask: Mask, pattern: Pattern, value_bits: int = 8, room: Room | None = None
    ) -> Bytes:
        values = kept_of(codes, mask)[0]
        marks = np.packbits(mask.reshape(-1), bitorder="little")
        return np.concatenate([value_bytes(filled(values, room.kept if room else 0), value_bits), marks])


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

    def room(self, outs: int, ins: int, pattern: Pattern) -> Room:
        coarse = _coarse(pattern)
        if isinstance(coarse, Block):
            blocks = coarse.blocks(outs, ins)
        else:
            blocks = coarse.kept(outs, 1) * -(-ins // _block(coarse, outs, ins)[1])
        return Room(coarse.kept(outs, ins), blocks)

    def room_of(self, slots: RowSlots, ins: int, pattern: Pattern) -> Room:
        rows, cols = _block(pattern, len(slots), ins)
        blocks = int((-(-slots[::rows] // cols)).sum())  # all rows of a row of blocks have the same slots
        return Room(max(int(slots.sum()), 1), max(blocks, 1))

    def slot_bits(self, outs: int, ins: int, room: Room, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        rows, cols = _block(pattern, outs, ins)
        down, across = -(-outs // rows), -(-ins // cols)
        return size_of(room.kept, value_bits, (down + 1) * width_of(down * across + 1), room.blocks * width_of(across))

    def encode_slots(
        self, codes: Matrix, mask: Mask, pattern: Pattern, value_bits: int = 8, room: Room | None = None
    ) -> Bytes:
        outs, ins = codes.shape
        rows, cols = _block(pattern, outs, ins)
        down, across = -(-outs // rows), -(-ins // cols)
        chosen = np.logical_or.reduceat(np.logical_or.reduceat(mask, range(0, outs, rows)), range(0, ins, cols), axis=1)
        starts = np.concatenate([[0], np.cumsum(np.count_nonzero(chosen, axis=1))])
        columns = np.nonzero(chosen)[1]
        row, column = np.nonzero(spread(chosen, rows, cols, outs, ins))
        order = np.argsort(row // rows * across + column // cols, kind="stable")  # by block, inside of it row by row
        values = codes[row[order], column[order]]
        room = room or Room(len(values), len(columns))
        return np.concatenate(
            [
                pack(starts, width_of(down * across + 1)),
                pack(filled(columns, room.blocks), width_of(across)),
                value_bytes(filled(values, room.kept), value_bits),
            ]
        )


def _coarse(pattern: Pattern) -> Pattern:
    return pattern.outer if isinstance(pattern, Composed) else pattern


def _block(pattern: Pattern, outs: int, ins: int) -> tuple[int, int]:
    found = pattern.blocks_of(outs, ins)
    assert found is not None, "bcsr holds patterns of blocks"
    return found
