"""What every encoder of a storage format can do, and the bytes of values. Plain numpy, no IR.

docs/FORMATS.md specifies the bytes; the decoders of the simulator are written from it in `runtime`, not from here. Sizes
are closed forms; the tests hold each encoder to them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compiler.sparsity.base import Dense, Parameters, Pattern
from compiler.sparsity.saliency import Mask, Matrix
from compiler.storage.bits import Bytes, pack, padded
from hw_targets.errors import InputError
from hw_targets.isa import MatrixMode
from hw_targets.layout import Layout
from hw_targets.storage import storage_formats

VALUE_WIDTHS = (16, 8, 4)
"""Bits of a stored code. The accelerator multiplies codes of 8."""

MOST_ROOM = 0.05
"""The most that equal parts of a matrix may store in vain; parts of few large blocks differ by far more."""

RowSlots = NDArray[np.intp]
"""How many slots every row of a matrix has."""


@dataclass(frozen=True)
class StorageSize:
    """Size of an encoded matrix in bits. Everything that is not a weight value is metadata, padding included."""

    value_bits: int
    metadata_bits: int

    @property
    def total_bytes(self) -> int:
        return (self.value_bits + self.metadata_bits) // 8


def size_of(values: int, value_bits: int, *streams: int) -> StorageSize:
    """The size of `values` codes and of bit streams of metadata, each padded to whole bytes."""
    bits = values * value_bits
    return StorageSize(bits, padded(bits) - bits + sum(padded(stream) for stream in streams))


class Room(NamedTuple):
    """What is stored of slots that lie anywhere: their number, and that of their blocks where whole blocks are stored."""

    kept: int
    blocks: int = 0


class Format(ABC):
    """A storage format: the bytes of a matrix of codes in off-chip memory.

    `value_bits` (16, 8 or 4) is the width of a stored code: codes of int16 for 16, of int8 else.
    """

    name: ClassVar[str]

    @property
    def code(self) -> int:
        """The value of load.weights' `format` field."""
        return storage_formats()[self.name].code

    @abstractmethod
    def holds(self, pattern: Pattern) -> bool:
        """Whether this format can store matrices of that pattern."""

    @abstractmethod
    def size_bits(self, outs: int, ins: int, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        """The size of an outs x ins matrix, tails included."""

    @abstractmethod
    def encode(self, codes: Matrix, pattern: Pattern, value_bits: int = 8) -> Bytes:
        """The bytes of codes[out, in], which obey the pattern. Raises InputError where they do not.

        A slice of a matrix encodes by itself if it starts at a row block, a window and a group of the pattern.
        """

    def fields(self, outs: int, ins: int, pattern: Pattern) -> Parameters:
        """The pattern as load.weights and matrix.multiply name it for a matrix in this format."""
        return Parameters()

    def slots_kept(self, outs: int, ins: int, pattern: Pattern) -> int:
        """Slots of the unstructured layout that the decoder writes; 0 for the other layouts."""
        return 0

    def whole_rows(self, outs: int, ins: int, pattern: Pattern) -> int:
        """Where a matrix may be cut into matrices of some of its rows: at multiples of this."""
        return 1

    def layout(self, outs: int, ins: int, pattern: Pattern) -> Layout:
        """The compute layout that the decoder writes."""
        f, kept = self.fields(outs, ins, pattern), self.slots_kept(outs, ins, pattern)
        mode = storage_formats()[self.name].loads(kept)
        return Layout(mode, outs, ins, f.n, f.m, f.block_rows, f.window, f.keep, kept)

    def expect(self, pattern: Pattern) -> None:
        """Raise InputError for a pattern that this format does not hold."""
        if not self.holds(pattern):
            raise InputError("HPCC1811", f"the format '{self.name}' does not store {pattern.spec()}")


class SlotFormat(Format):
    """A format of slots that lie anywhere: it takes any mask. Any rows of a matrix form one of their own, row blocks
    of the pattern where the format stores blocks."""

    def holds(self, pattern: Pattern) -> bool:
        return not isinstance(pattern, Dense) and not pattern.sharing

    def size_bits(self, outs: int, ins: int, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        self.expect(pattern)
        return self.slot_bits(outs, ins, self.room(outs, ins, pattern), pattern, value_bits)

    def encode(self, codes: Matrix, pattern: Pattern, value_bits: int = 8) -> Bytes:
        self.expect(pattern)
        check_codes(codes, value_bits)
        return self.encode_slots(codes, self.mask_of(codes, pattern), pattern, value_bits)

    def slots_kept(self, outs: int, ins: int, pattern: Pattern) -> int:
        return pattern.kept(outs, ins)

    def mask_of(self, codes: Matrix, pattern: Pattern) -> Mask:
        """The slots of a matrix that obeys the pattern."""
        return pattern.slots(codes)

    def room(self, outs: int, ins: int, pattern: Pattern) -> Room:
        """The slots of a whole matrix."""
        return Room(pattern.kept(outs, ins))

    def room_of(self, slots: RowSlots, ins: int, pattern: Pattern) -> Room:
        """The slots of some rows of a matrix, which have `slots` each; rows without any get one."""
        return Room(max(int(slots.sum()), 1))

    @abstractmethod
    def slot_bits(self, outs: int, ins: int, room: Room, pattern: Pattern, value_bits: int = 8) -> StorageSize:
        """The size of an outs x ins matrix, or of some rows of one."""

    @abstractmethod
    def encode_slots(
        self, codes: Matrix, mask: Mask, pattern: Pattern, value_bits: int = 8, room: Room | None = None
    ) -> Bytes:
        """The bytes of codes whose slots are given; every code that is not zero lies in one. `room` may be larger."""


def compute_mode(storage: Format, pattern: Pattern) -> MatrixMode:
    """The compute layout that the decoder of a format writes."""
    return storage.layout(1, 1, pattern).mode


def compute_bytes(storage: Format, pattern: Pattern, outs: int, ins: int) -> int:
    """Bytes of the compute layout of an outs x ins matrix that is stored in a format."""
    return storage.layout(outs, ins, pattern).bytes


def slots_of_rows(mask: Mask, outs: slice) -> Mask:
    """The slots of some rows of a matrix. Rows without any get one that stores a zero: no matrix has no slot."""
    part = mask[outs]
    if not part.any():
        part = part.copy()
        part[0, 0] = True
    return part


def rooms_of(
    storage: SlotFormat, slots: RowSlots, ins: int, pattern: Pattern, runs: Sequence[tuple[int, int]]
) -> list[Room]:
    """The room of each run (first, count) of rows: that of the fullest as long, so that their loads are alike and roll into
    one loop, unless this would store more than a share MOST_ROOM of slots that nothing takes."""
    own = [storage.room_of(slots[first : first + count], ins, pattern) for first, count in runs]
    most: dict[int, Room] = {}
    for (_, count), room in zip(runs, own, strict=True):
        other = most.get(count, room)
        most[count] = Room(max(room.kept, other.kept), max(room.blocks, other.blocks))
    alike = [most[count] for _, count in runs]
    needed = sum(room.kept for room in own)
    return alike if sum(room.kept for room in alike) - needed <= MOST_ROOM * needed else own


def filled(fields: NDArray[Any], count: int) -> NDArray[Any]:
    """The fields, and zeros behind them until there are `count`."""
    return np.concatenate([fields, np.zeros(count - len(fields), fields.dtype)]) if count > len(fields) else fields


def value_bytes(codes: NDArray[Any], value_bits: int) -> Bytes:
    """Codes in their order, `value_bits` each, in two's complement."""
    flat = np.ascontiguousarray(codes).reshape(-1)
    if value_bits == 4:
        return pack(flat.view(np.uint8) & 15, 4)
    return flat.astype(f"<i{value_bits // 8}", copy=False).view(np.uint8)


def check_codes(codes: Matrix, value_bits: int) -> None:
    if value_bits not in VALUE_WIDTHS:
        raise InputError("HPCC1810", f"codes are stored in {', '.join(map(str, VALUE_WIDTHS))} bits, not in {value_bits}")
    wanted = np.int16 if value_bits == 16 else np.int8
    if codes.ndim != 2 or codes.dtype != wanted:
        raise InputError(
            "HPCC1810",
            f"only {np.dtype(wanted)} matrices are encoded in {value_bits} bits, not {codes.dtype} of shape {codes.shape}",
        )
    limit = (1 << (value_bits - 1)) - 1
    if codes.size and (codes.max() > limit or codes.min() < -limit):
        raise InputError("HPCC1813", f"codes of {value_bits} bits lie in [-{limit}, {limit}], not all of these do")


def kept_of(codes: Matrix, mask: Mask) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Codes of the slots and their places in the flat matrix, row by row."""
    flat = np.flatnonzero(mask)
    return codes.reshape(-1)[flat], flat
