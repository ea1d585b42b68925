"""Encoders and sizes of the storage formats and of the compute layout, as docs/FORMATS.md specifies them.

Plain numpy, no IR. The decoders of the simulator are written from FORMATS.md in `runtime`, not from this file.
Sizes are closed forms; the tests hold each encoder to them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from compiler.sparsity.base import FPGA_MAX_GROUP, Dense, Pattern
from compiler.sparsity.patterns import HP, NM
from compiler.sparsity.saliency import Mask, Matrix, group_quota
from compiler.storage.bits import Bytes, pack, padded, width_of
from hw_targets.errors import InputError
from hw_targets.isa import MatrixMode, StorageCode
from hw_targets.layout import LAYOUT_WINDOW, loaded_mode

VALUE_BITS = 8


@dataclass(frozen=True)
class StorageSize:
    """Size of an encoded matrix in bits. Everything that is not a weight value is metadata, padding included."""

    value_bits: int
    metadata_bits: int

    @property
    def total_bytes(self) -> int:
        return (self.value_bits + self.metadata_bits) // 8


class Format(ABC):
    """A storage format: the bytes of an int8 matrix in off-chip memory."""

    name: ClassVar[str]

    @property
    def code(self) -> int:
        """The value of load.weights' `format` field."""
        return list(StorageCode).index(StorageCode(self.name))

    @abstractmethod
    def holds(self, pattern: Pattern) -> bool:
        """Whether this format can store matrices of that pattern."""

    @abstractmethod
    def size_bits(self, outs: int, ins: int, pattern: Pattern) -> StorageSize:
        """The size of an outs x ins matrix, tails included."""

    @abstractmethod
    def encode(self, codes: Matrix, pattern: Pattern) -> Bytes:
        """The bytes of int8 codes[out, in], which obey the pattern. Raises InputError where they do not.

        A slice of a matrix encodes by itself if it starts at a row block, a window and a group of the pattern.
        """


class DenseFormat(Format):
    """Every code, row by row."""

    name: ClassVar[str] = "dense"

    def holds(self, pattern: Pattern) -> bool:
        return True

    def size_bits(self, outs: int, ins: int, pattern: Pattern) -> StorageSize:
        return StorageSize(outs * ins * VALUE_BITS, 0)

    def encode(self, codes: Matrix, pattern: Pattern) -> Bytes:
        _check_codes(codes)
        return _as_bytes(codes)


class NMFormat(Format):
    """Kept codes row by row, then the index of each inside its group, ceil(log2 m) bits."""

    name: ClassVar[str] = "nm"

    def holds(self, pattern: Pattern) -> bool:
        return isinstance(pattern, NM) and pattern.along == "in" and pattern.m <= FPGA_MAX_GROUP

    def size_bits(self, outs: int, ins: int, pattern: Pattern) -> StorageSize:
        nm = _expect_nm(self, pattern)
        kept = nm.kept(outs, ins)
        return StorageSize(kept * VALUE_BITS, padded(kept * width_of(nm.m)))

    def encode(self, codes: Matrix, pattern: Pattern) -> Bytes:
        nm = _expect_nm(self, pattern)
        _check_codes(codes)
        values, columns = _kept_of(codes, nm.slots(codes))
        return np.concatenate([values, pack(columns % nm.m, width_of(nm.m))])


class HPMarkFormat(Format):
    """Kept codes row by row; the kept inputs of each tile, local to its window; a bitmap over kept inputs only."""

    name: ClassVar[str] = "hp_mark"

    def holds(self, pattern: Pattern) -> bool:
        return isinstance(pattern, HP) and pattern.fine_m <= FPGA_MAX_GROUP

    def size_bits(self, outs: int, ins: int, pattern: Pattern) -> StorageSize:
        hp = _expect_hp(self, pattern)
        runs = list(hp.windows(ins))
        inputs = sum(run.count * run.keep for run in runs)
        lists = padded(-(-outs // hp.rows) * inputs * width_of(hp.parameters(ins).window))
        marks = padded(outs * inputs) if hp.fine_m > 1 else 0
        return StorageSize(hp.kept(outs, ins) * VALUE_BITS, lists + marks)

    def encode(self, codes: Matrix, pattern: Pattern) -> Bytes:
        hp = _expect_hp(self, pattern)
        _check_codes(codes)
        kept, mask = hp.layout(codes)
        window = hp.parameters(codes.shape[1]).window
        sections = [_kept_of(codes, mask)[0], pack(np.nonzero(kept)[1] % window, width_of(window))]
        if hp.fine_m > 1:
            by_row = np.flatnonzero(np.repeat(kept, hp.rows, axis=0)[: len(codes)])
            sections.append(np.packbits(mask.reshape(-1)[by_row], bitorder="little"))
        return np.concatenate(sections)


class SlotFormat(Format):
    """A format that takes any mask: slots row by row, and where they are. Any rows of a matrix form one of their own."""

    def holds(self, pattern: Pattern) -> bool:
        return not isinstance(pattern, Dense)

    def size_bits(self, outs: int, ins: int, pattern: Pattern) -> StorageSize:
        return self.slot_bits(outs, ins, _expect_zeros(self, pattern).kept(outs, ins))

    def encode(self, codes: Matrix, pattern: Pattern) -> Bytes:
        _check_codes(codes)
        return self.encode_slots(codes, _expect_zeros(self, pattern).slots(codes))

    @abstractmethod
    def slot_bits(self, outs: int, ins: int, kept: int) -> StorageSize:
        """The size of an outs x ins matrix with `kept` slots."""

    @abstractmethod
    def encode_slots(self, codes: Matrix, mask: Mask) -> Bytes:
        """The bytes of codes whose slots are given; every code that is not zero lies in one."""


class CSRFormat(SlotFormat):
    """Kept codes row by row, the column of each, and where each row starts."""

    name: ClassVar[str] = "csr"

    def slot_bits(self, outs: int, ins: int, kept: int) -> StorageSize:
        columns, starts = padded(kept * width_of(ins)), padded((outs + 1) * width_of(kept + 1))
        return StorageSize(kept * VALUE_BITS, columns + starts)

    def encode_slots(self, codes: Matrix, mask: Mask) -> Bytes:
        values, columns = _kept_of(codes, mask)
        starts = np.concatenate([[0], np.cumsum(np.count_nonzero(mask, axis=1))])
        sections = [values, pack(columns, width_of(codes.shape[1])), pack(starts, width_of(len(values) + 1))]
        return np.concatenate(sections)


class BitmapFormat(SlotFormat):
    """Kept codes row by row, then one bit for every place of the matrix."""

    name: ClassVar[str] = "bitmap"

    def slot_bits(self, outs: int, ins: int, kept: int) -> StorageSize:
        return StorageSize(kept * VALUE_BITS, padded(outs * ins))

    def encode_slots(self, codes: Matrix, mask: Mask) -> Bytes:
        return np.concatenate([_kept_of(codes, mask)[0], np.packbits(mask.reshape(-1), bitorder="little")])


FORMATS: dict[str, Format] = {f.name: f for f in (DenseFormat(), NMFormat(), HPMarkFormat(), CSRFormat(), BitmapFormat())}


def candidates(pattern: Pattern) -> tuple[Format, ...]:
    """The formats that can store the pattern. Those made for it come first, dense last."""
    return tuple(f for f in (FORMATS[name] for name in ("nm", "hp_mark", "bitmap", "csr", "dense")) if f.holds(pattern))


def stored_groups(storage: Format, pattern: Pattern) -> bool:
    """Whether the instructions name the pattern's groups and windows, and the array makes use of them."""
    return storage.name in ("nm", "hp_mark") or (storage.name == "bitmap" and FORMATS["nm"].holds(pattern))


def compute_mode(storage: Format, pattern: Pattern) -> MatrixMode:
    """The compute layout that the decoder of a format writes."""
    groups = pattern.parameters(1).m if stored_groups(storage, pattern) else 1
    return loaded_mode(StorageCode(storage.name), groups)


def compute_bytes(storage: Format, pattern: Pattern, outs: int, ins: int) -> int:
    """Bytes of the compute layout of an outs x ins matrix that is stored in a format."""
    mode = compute_mode(storage, pattern)
    if mode is MatrixMode.UNSTRUCTURED:
        return slot_layout_bytes(outs, ins, pattern.kept(outs, ins))
    if mode is MatrixMode.NM:
        nm = _expect_nm(FORMATS["nm"], pattern)
        slots = group_quota(ins, nm.n, nm.m)
        return outs * (slots + -(-slots // 2))
    if mode is MatrixMode.HP:
        hp = _expect_hp(storage, pattern)
        slots, inputs = hp.kept(1, ins), sum(run.count * run.keep for run in hp.windows(ins))
        selects = -(-slots // 2) if hp.fine_m > 1 else 0
        entry = 1 if hp.parameters(ins).window <= 256 else 2
        return outs * (slots + selects) + -(-outs // hp.rows) * inputs * entry
    return outs * ins


def slot_layout_bytes(outs: int, ins: int, kept: int) -> int:
    """Bytes of the unstructured compute layout of a matrix with `kept` slots."""
    return outs * -(-ins // LAYOUT_WINDOW) + 2 * kept


def slots_of_rows(mask: Mask, outs: slice) -> Mask:
    """The slots of some rows of a matrix. Rows without any get one that stores a zero: no matrix has no slot."""
    part = mask[outs]
    if not part.any():
        part = part.copy()
        part[0, 0] = True
    return part


def _as_bytes(codes: Matrix) -> Bytes:
    return np.ascontiguousarray(codes).reshape(-1).view(np.uint8)


def _check_codes(codes: Matrix) -> None:
    if codes.ndim != 2 or codes.dtype != np.int8:
        raise InputError("HPCC1810", f"only int8 matrices are encoded, not {codes.dtype} of shape {codes.shape}")


def _kept_of(codes: Matrix, mask: Mask) -> tuple[Bytes, NDArray[np.intp]]:
    """Codes of the slots and their inputs, row by row."""
    flat = np.flatnonzero(mask)
    return _as_bytes(codes.reshape(-1)[flat]), flat % codes.shape[1]


def _expect_nm(storage: Format, pattern: Pattern) -> NM:
    if not (isinstance(pattern, NM) and storage.holds(pattern)):
        raise InputError("HPCC1811", f"the format '{storage.name}' does not store {pattern.spec()}")
    return pattern


def _expect_hp(storage: Format, pattern: Pattern) -> HP:
    if not (isinstance(pattern, HP) and storage.holds(pattern)):
        raise InputError("HPCC1811", f"the format '{storage.name}' does not store {pattern.spec()}")
    return pattern


def _expect_zeros(storage: Format, pattern: Pattern) -> Pattern:
    if not storage.holds(pattern):
        raise InputError("HPCC1811", f"the format '{storage.name}' does not store {pattern.spec()}")
    return pattern
