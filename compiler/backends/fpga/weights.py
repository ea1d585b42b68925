"""What the accelerator needs to know of an encoded weight: format, bytes in DRAM and on chip, pattern fields."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import TensorType
from xdsl.ir import Attribute, SSAValue

from compiler.dialects import nn
from compiler.dialects.storage import StorageAttr
from compiler.sparsity.base import Parameters
from compiler.storage.formats import SlotFormat, compute_bytes, compute_mode, slot_layout_bytes, stored_groups
from compiler.weights import WeightStore
from hw_targets.errors import InputError
from hw_targets.isa import MatrixMode, StorageCode

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
    format: str = StorageCode.DENSE.value
    mode: str = MatrixMode.DENSE.value
    stored_bytes: int = 0
    compute_bytes: int = 0
    x_unsigned: bool = False
    encoding: Attribute | None = None
    pattern_fields: dict[str, int] = field(default_factory=lambda: dict(NO_PATTERN))

    def rows(self, first: int, count: int, slots: Slots | None = None) -> WeightPlan:
        """The plan of output rows [first, first + count) alone, which are whole row blocks of the pattern or lie in one.

        `slots` are those of each row of an unstructured matrix: what a part of one takes depends on the data.
        """
        if (first, count) == (0, self.outs):
            return self
        encoding = self.encoding
        assert isinstance(encoding, StorageAttr)
        part = replace(self, outs=count, first=self.first + first, part=True)
        if self.mode == MatrixMode.UNSTRUCTURED.value:
            assert isinstance(encoding.format, SlotFormat)
            assert slots is not None, "only the data says how many slots some rows of an unstructured matrix have"
            kept = max(int(slots[first : first + count].sum()), 1)
            return replace(
                part,
                stored_bytes=encoding.format.slot_bits(count, self.ins, kept).total_bytes,
                compute_bytes=slot_layout_bytes(count, self.ins, kept),
                pattern_fields={**self.pattern_fields, "kept": kept},
            )
        stored = encoding.format.size_bits(count, self.ins, encoding.pattern).total_bytes
        on_chip = compute_bytes(encoding.format, encoding.pattern, count, self.ins)
        return replace(part, stored_bytes=stored, compute_bytes=on_chip)

    def parts(self, limit: int, step: int, slots: Slots | None = None) -> list[WeightPlan]:
        """The matrix cut into equal runs of output rows, the longest whose compute layouts all fit `limit` bytes.

        Runs are whole row blocks, halves or quarters of one, or multiples of `step`; the shortest where none fits.
        """
        unit = self.pattern_fields["block_rows"] or step
        count = -(-self.outs // unit)
        while True:
            parts = [
                self.rows(first, min(count * unit, self.outs - first), slots) for first in range(0, self.outs, count * unit)
            ]
            largest = max(part.compute_bytes for part in parts)
            halves = unit % 2 == 0 and unit // 2 % step == 0
            if largest <= limit or (count == 1 and not halves):
                return parts
            if count == 1:
                unit //= 2
            else:
                count = max(min(count * limit // largest, count - 1), 1)

    @property
    def compute_shape(self) -> tuple[int, int]:
        """Rows and columns of its buffer: a dense matrix has rows, a packed layout is one run of bytes."""
        return (self.outs, self.ins) if self.mode == MatrixMode.DENSE.value else (1, self.compute_bytes)

    @classmethod
    def dense(cls, key: str, outs: int, ins: int, *, x_unsigned: bool = False) -> WeightPlan:
        return cls(key, outs, ins, stored_bytes=outs * ins, compute_bytes=outs * ins, x_unsigned=x_unsigned)


def slots_by_row(weight: WeightPlan, store: WeightStore) -> Slots | None:
    """The slots of every row of an unstructured matrix, counted in its data; None where they follow from the pattern."""
    if weight.mode != MatrixMode.UNSTRUCTURED.value:
        return None
    assert isinstance(weight.encoding, StorageAttr)
    return np.count_nonzero(weight.encoding.pattern.slots(store.get(weight.key)), axis=1)


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
    mode = compute_mode(format, pattern)
    fields = pattern.parameters(ins) if stored_groups(format, pattern) else Parameters()
    return WeightPlan(
        owner.key.data,
        outs,
        ins,
        0,
        False,
        format.name,
        mode.value,
        format.size_bits(outs, ins, pattern).total_bytes,
        compute_bytes(format, pattern, outs, ins),
        encoding=encoding,
        pattern_fields={
            "n": fields.n,
            "m": fields.m,
            "block_rows": fields.block_rows,
            "window": fields.window,
            "keep": fields.keep,
            "kept": pattern.kept(outs, ins) if mode is MatrixMode.UNSTRUCTURED else 0,
        },
    )
