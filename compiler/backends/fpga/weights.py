"""What the accelerator needs to know of an encoded weight: format, bytes in DRAM and on chip, pattern fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import lcm

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import TensorType
from xdsl.ir import Attribute, SSAValue

from compiler.dialects import nn
from compiler.dialects.storage import StorageAttr
from compiler.storage.base import Room, rooms_of
from compiler.storage.formats import SlotFormat
from compiler.weights import WeightStore
from hw_targets.errors import InputError
from hw_targets.isa import MatrixMode

Slots = NDArray[np.intp]
"""How many slots every row of a matrix has."""

NO_PATTERN = {"n": 1, "m": 1, "block_rows": 0, "window": 0, "keep": 0, "kept": 0}


@dataclass(frozen=True)
class WeightPlan:
    """An out x in matrix as MATRIX sees it. `key` names its codes in the WeightStore."""

    key: str
    outs: int
    ins: int
    first: int = 0
    part: bool = False
    format: str = "dense"
    mode: str = MatrixMode.DENSE.value
    stored_bytes: int = 0
    compute_bytes: int = 0
    x_unsigned: bool = False
    encoding: Attribute | None = None
    pattern_fields: dict[str, int] = field(default_factory=lambda: dict(NO_PATTERN))

    def rows(self, first: int, count: int, room: Room | None = None) -> WeightPlan:
        """The plan of output rows [first, first + count) alone, which are whole row blocks of the pattern or lie in one.

        `room` is that for the slots of an unstructured matrix: what a part of one takes depends on the data.
        """
        if (first, count) == (0, self.outs):
            return self
        encoding = self.encoding
        assert isinstance(encoding, StorageAttr)
        part = replace(self, outs=count, first=self.first + first, part=True)
        storage, pattern = encoding.format, encoding.pattern
        if self.mode == MatrixMode.UNSTRUCTURED.value and isinstance(storage, SlotFormat):
            assert room is not None, "only the data says how many slots some rows of an unstructured matrix have"
            layout = replace(storage.layout(count, self.ins, pattern), kept=room.kept)
            stored = storage.slot_bits(count, self.ins, room, pattern).total_bytes
        else:
            layout = storage.layout(count, self.ins, pattern)
            stored = storage.size_bits(count, self.ins, pattern).total_bytes
        fields = {**self.pattern_fields, "kept": layout.kept}
        return replace(part, stored_bytes=stored, compute_bytes=layout.bytes, pattern_fields=fields)

    def parts(self, limit: int, step: int, slots: Slots | None = None) -> list[WeightPlan]:
        """The matrix cut into equal runs of output rows, the longest whose compute layouts all fit `limit` bytes.

        Runs are whole row blocks, halves or quarters of one, or multiples of `step`; the shortest where none fits. Formats
        that store row blocks as a whole are cut between them.
        """
        unit, least = self._units(step)
        count = -(-self.outs // unit)
        while True:
            runs = [(first, min(count * unit, self.outs - first)) for first in range(0, self.outs, count * unit)]
            parts = [self.rows(*run, room) for run, room in zip(runs, self._rooms(runs, slots), strict=True)]
            largest = max(part.compute_bytes for part in parts)
            halves = unit % 2 == 0 and unit // 2 % least == 0
            if largest <= limit or (count == 1 and not halves):
                return parts
            if count == 1:
                unit //= 2
            else:
                count = max(min(count * limit // largest, count - 1), 1)

    def _rooms(self, runs: list[tuple[int, int]], slots: Slots | None) -> Sequence[Room | None]:
        """The room of each run of rows, of an unstructured matrix whose rows have `slots`."""
        encoding = self.encoding
        if slots is None or not isinstance(encoding, StorageAttr) or not isinstance(encoding.format, SlotFormat):
            return [None] * len(runs)
        return rooms_of(encoding.format, slots, self.ins, encoding.pattern, runs)

    def _units(self, step: int) -> tuple[int, int]:
        """Rows of a run, and what they may be halved to."""
        encoding = self.encoding
        assert isinstance(encoding, StorageAttr)
        whole = encoding.format.whole_rows(self.outs, self.ins, encoding.pattern)
        if whole > 1:
            return lcm(whole, step), whole
        shared = self.pattern_fields["block_rows"] if self.mode == MatrixMode.HP.value else 0
        return (shared if 0 < shared < self.outs else step), step

    @property
    def compute_shape(self) -> tuple[int, int]:
        """Rows and columns of its buffer: a dense matrix has rows, a packed layout is one run of bytes."""
        return (self.outs, self.ins) if self.mode == MatrixMode.DENSE.value else (1, self.compute_bytes)

    @classmethod
    def dense(cls, key: str, outs: int, ins: int, *, x_unsigned: bool = False) -> WeightPlan:
        return cls(key, outs, ins, stored_bytes=outs * ins, compute_bytes=outs * ins, x_unsigned=x_unsigned)


def slots_by_row(weight: WeightPlan, store: WeightStore) -> Slots | None:
    """The slots of every row of an unstructured matrix, counted in its data; None where they follow from the pattern."""
    encoding = weight.encoding
    if weight.mode != MatrixMode.UNSTRUCTURED.value or not isinstance(encoding, StorageAttr):
        return None
    if not isinstance(encoding.format, SlotFormat):
        return None
    return np.count_nonzero(encoding.format.mask_of(store.get(weight.key), encoding.pattern), axis=1)


def plan_weight(value: SSAValue) -> WeightPlan:
    """The plan of a weight operand. Raises InputError where `encode` has not run."""
    owner, type = value.owner, value.type
    assert isinstance(owner, nn.WeightOp)
    assert isinstance(type, TensorType)
    outs, ins = type.get_shape()
    encoding = type.encoding
    if not isinstance(encoding, StorageAttr):
        raise InputError(
            "HPCC1403", f"weight {owner.key.data!r} has no storage format", hint="run the stage `encode` before `tile`"
        )
    format, pattern = encoding.format, encoding.pattern
    layout = format.layout(outs, ins, pattern)
    return WeightPlan(
        owner.key.data,
        outs,
        ins,
        0,
        False,
        format.name,
        layout.mode.value,
        format.size_bits(outs, ins, pattern).total_bytes,
        layout.bytes,
        encoding=encoding,
        pattern_fields={name: getattr(layout, name) for name in NO_PATTERN},
    )
