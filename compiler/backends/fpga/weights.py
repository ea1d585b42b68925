"""What the accelerator needs to know of an encoded weight: format, bytes in DRAM and on chip, pattern fields."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Attribute, SSAValue

from compiler.dialects import nn
from compiler.dialects.storage import StorageAttr
from compiler.storage.formats import compute_bytes, compute_mode
from hw_targets.errors import InputError
from hw_targets.isa import MatrixMode, StorageCode

NO_PATTERN = {"n": 1, "m": 1, "block_rows": 0, "window": 0, "keep": 0}


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

    def rows(self, first: int, count: int) -> WeightPlan:
        """The plan of output rows [first, first + count) alone; `first` lies at a row block of the pattern."""
        if (first, count) == (0, self.outs):
            return self
        encoding = self.encoding
        assert isinstance(encoding, StorageAttr)
        stored = encoding.format.size_bits(count, self.ins, encoding.pattern).total_bytes
        dense = self.mode == MatrixMode.DENSE.value
        on_chip = count * self.ins if dense else compute_bytes(encoding.pattern, count, self.ins)
        return replace(self, outs=count, first=self.first + first, part=True, stored_bytes=stored, compute_bytes=on_chip)

    def chunk_rows(self, limit: int, step: int) -> int:
        """The most output rows, in whole row blocks or multiples of `step`, whose compute layout fits `limit` bytes."""
        unit = self.pattern_fields["block_rows"] or step
        count = self.outs
        while count > unit and self.rows(0, count).compute_bytes > limit:
            count = -(-count // 2 // unit) * unit
        return count

    @property
    def compute_shape(self) -> tuple[int, int]:
        """Rows and columns of its buffer: a dense matrix has rows, a packed layout is one run of bytes."""
        return (self.outs, self.ins) if self.mode == MatrixMode.DENSE.value else (1, self.compute_bytes)

    @classmethod
    def dense(cls, key: str, outs: int, ins: int, *, x_unsigned: bool = False) -> WeightPlan:
        return cls(key, outs, ins, stored_bytes=outs * ins, compute_bytes=outs * ins, x_unsigned=x_unsigned)


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
    mode = compute_mode(format)
    fields = pattern.parameters(ins)
    return WeightPlan(
        owner.key.data,
        outs,
        ins,
        0,
        False,
        format.name,
        mode.value,
        format.size_bits(outs, ins, pattern).total_bytes,
        outs * ins if mode is MatrixMode.DENSE else compute_bytes(pattern, outs, ins),
        encoding=encoding,
        pattern_fields={
            "n": fields.n,
            "m": fields.m,
            "block_rows": fields.block_rows,
            "window": fields.window,
            "keep": fields.keep,
        }
        if mode is not MatrixMode.DENSE
        else dict(NO_PATTERN),
    )
