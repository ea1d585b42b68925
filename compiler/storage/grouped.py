"""Formats that are made for a pattern and name its groups and windows: dense, nm, hp_mark, cbr."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from compiler.sparsity.balanced import HP, NM
from compiler.sparsity.base import FPGA_MAX_GROUP, Parameters, Pattern
from compiler.sparsity.lines import Row, as_hp
from compiler.sparsity.saliency import Mask, Matrix
from compiler.storage.base import Format, StorageSize, check_codes, kept_of, size_of, value_bytes
from compiler.storage.bits import Bytes, pack, width_of


def in_groups(pattern: Pattern) -> NM | None:
    """The N:M pattern that the array runs in its own layout, if this is one."""
    return pattern if isinstance(pattern, NM) and pattern.along == "in" and pattern.m <= FPGA_MAX_GROUP else None


def in_windows(pattern: Pattern) -> HP | None:
    """The hierarchical pattern that the array runs in its own layout, if this is or stands for one."""
    hp = as_hp(pattern)
    return hp if hp is not None and hp.fine_m <= FPGA_MAX_GROUP else None


class DenseFormat(Format):
    """Every code, row by row."""

    name: ClassVar[str] = "dense"

    def holds(self, pattern: Pattern) -> bool:
        return True

    def size_bits(self, outs: int, ins: int, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        return size_of(outs * ins, value_bits)

    def encode(self, codes: Matrix, pattern: Pattern, value_bits: int = 8) -> Bytes:
        check_codes(codes, value_bits)
        return value_bytes(codes, value_bits)


class NMFormat(Format):
    """Kept codes row by row, then the index of each inside its group, ceil(log2 m) bits."""

    name: ClassVar[str] = "nm"

    def holds(self, pattern: Pattern) -> bool:
        return in_groups(pattern) is not None

    def _nm(self, pattern: Pattern) -> NM:
        self.expect(pattern)
        nm = in_groups(pattern)
        assert nm is not None
        return nm

    def fields(self, outs: int, ins: int, pattern: Pattern) -> Parameters:
        return self._nm(pattern).parameters(ins)

    def size_bits(self, outs: int, ins: int, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        nm = self._nm(pattern)
        kept = nm.kept(outs, ins)
        return size_of(kept, value_bits, kept * width_of(nm.m))

    def encode(self, codes: Matrix, pattern: Pattern, value_bits: int = 8) -> Bytes:
        nm = self._nm(pattern)
        check_codes(codes, value_bits)
        values, places = kept_of(codes, nm.slots(codes))
        indices = places % codes.shape[1] % nm.m
        return np.concatenate([value_bytes(values, value_bits), pack(indices, width_of(nm.m))])


def _lists(hp: HP, kept: Mask, ins: int) -> Bytes:
    """The kept inputs of each row block and window, counted from the window's start."""
    window = hp.parameters(ins).window
    return pack(np.nonzero(kept)[1] % window, width_of(window))


def _list_bits(hp: HP, outs: int, ins: int) -> int:
    return -(-outs // hp.rows) * _inputs(hp, ins) * width_of(hp.parameters(ins).window)


def _inputs(hp: HP, ins: int) -> int:
    """Kept inputs of a row."""
    return sum(run.count * run.keep for run in hp.windows(ins))


def _by_row(hp: HP, kept: Mask, outs: int) -> Mask:
    """The kept inputs of every row."""
    return np.repeat(kept, hp.rows, axis=0)[:outs] if hp.rows < outs else np.repeat(kept, outs, axis=0)


class HPMarkFormat(Format):
    """Kept codes row by row; the kept inputs of each tile, local to its window; a bitmap over kept inputs only."""

    name: ClassVar[str] = "hp_mark"

    def holds(self, pattern: Pattern) -> bool:
        return in_windows(pattern) is not None

    def _hp(self, pattern: Pattern) -> HP:
        self.expect(pattern)
        hp = in_windows(pattern)
        assert hp is not None
        return hp

    def fields(self, outs: int, ins: int, pattern: Pattern) -> Parameters:
        return self._hp(pattern).parameters(ins)

    def size_bits(self, outs: int, ins: int, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        hp = self._hp(pattern)
        marks = outs * _inputs(hp, ins) if hp.fine_m > 1 else 0
        return size_of(hp.kept(outs, ins), value_bits, _list_bits(hp, outs, ins), marks)

    def encode(self, codes: Matrix, pattern: Pattern, value_bits: int = 8) -> Bytes:
        hp = self._hp(pattern)
        check_codes(codes, value_bits)
        kept, mask = hp.layout(codes)
        sections = [value_bytes(kept_of(codes, mask)[0], value_bits), _lists(hp, kept, codes.shape[1])]
        if hp.fine_m > 1:
            by_row = np.flatnonzero(_by_row(hp, kept, len(codes)))
            sections.append(np.packbits(mask.reshape(-1)[by_row], bitorder="little"))
        return np.concatenate(sections)


class CBRFormat(Format):
    """Compressed block row: the kept lines of each tile as a whole, and which they are. The lines are the kept inputs of a
    hierarchical pattern, whose fine zeros are stored too, or the kept rows of tiles of given height."""

    name: ClassVar[str] = "cbr"

    def holds(self, pattern: Pattern) -> bool:
        return in_windows(pattern) is not None or (isinstance(pattern, Row) and pattern.tile.rows is not None)

    def fields(self, outs: int, ins: int, pattern: Pattern) -> Parameters:
        self.expect(pattern)
        if isinstance(pattern, Row):
            return pattern.tile_parameters(ins)
        p = pattern.parameters(ins)
        return Parameters(p.m, p.m, p.block_rows, p.window, p.keep)

    def slots_kept(self, outs: int, ins: int, pattern: Pattern) -> int:
        return pattern.kept(outs, ins) if isinstance(pattern, Row) else 0

    def whole_rows(self, outs: int, ins: int, pattern: Pattern) -> int:
        return self.fields(outs, ins, pattern).block_rows if isinstance(pattern, Row) else 1

    def size_bits(self, outs: int, ins: int, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        self.expect(pattern)
        if isinstance(pattern, Row):
            rows = pattern.tile.rows or outs
            lines = pattern.kept(outs, 1) * -(-ins // pattern.blocks_of(outs, ins)[1])
            return size_of(pattern.kept(outs, ins), value_bits, lines * width_of(rows))
        hp = in_windows(pattern)
        assert hp is not None
        return size_of(outs * _inputs(hp, ins), value_bits, _list_bits(hp, outs, ins))

    def encode(self, codes: Matrix, pattern: Pattern, value_bits: int = 8) -> Bytes:
        self.expect(pattern)
        check_codes(codes, value_bits)
        outs, ins = codes.shape
        if isinstance(pattern, Row):
            return self._encode_rows(codes, pattern, value_bits)
        hp = in_windows(pattern)
        assert hp is not None
        kept = hp.layout(codes)[0]
        values = kept_of(codes, _by_row(hp, kept, outs))[0]
        return np.concatenate([value_bytes(values, value_bits), _lists(hp, kept, ins)])

    @staticmethod
    def _encode_rows(codes: Matrix, pattern: Row, value_bits: int) -> Bytes:
        outs, ins = codes.shape
        rows, cols = pattern.tile.rows or outs, pattern.blocks_of(outs, ins)[1]
        mask = pattern.slots(codes)
        lines = mask[:, ::cols]  # whether a row stays, by tile across
        height = -(-outs // rows) * rows
        tiles: Any = np.zeros((height, lines.shape[1]), np.bool_)
        tiles[:outs] = lines
        # For each row block, for each tile across, its kept rows in ascending order.
        indices = np.nonzero(tiles.reshape(-1, rows, lines.shape[1]).transpose(0, 2, 1))[2]
        return np.concatenate([value_bytes(kept_of(codes, mask)[0], value_bits), pack(indices, width_of(rows))])
