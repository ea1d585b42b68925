"""The vocabulary of the fusion patterns: look at what defines a value, replace operations, keep provenance.

A pattern compares meanings, not spellings: constants are read as numbers, commutative operands are tried both ways, and
data movement is judged by running it on an index array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ArrayAttr, Float32Type, StringAttr, TensorType, UnknownLoc, f32, i64
from xdsl.ir import Block, Operation, OpResult, SSAValue
from xdsl.irdl import IRDLOperation
from xdsl.rewriter import Rewriter
from xdsl.traits import Pure

from compiler.dialects import nn
from compiler.interpreters.evaluate import run_op
from compiler.interpreters.nn_float import constant_array, dequantized
from compiler.weights import WeightStore

Array = NDArray[Any]
OpT = TypeVar("OpT", bound=Operation)

TENSORS = "hpcc_nn.tensors"
COMMUTATIVE = {nn.BinaryKind.ADD, nn.BinaryKind.MUL, nn.BinaryKind.MIN, nn.BinaryKind.MAX}


@dataclass(frozen=True)
class Scope:
    """The block being fused and the store its weights live in."""

    block: Block
    store: WeightStore

    def each(self, kind: type[OpT]) -> Iterator[OpT]:
        """The operations of a class that are still in the block, in order."""
        for op in list(self.block.ops):
            if isinstance(op, kind) and op.parent is self.block:
                yield op

    def replace(self, old: Operation, new: Sequence[IRDLOperation], *, location: Operation | None = None) -> None:
        """Replace `old` by `new`, whose last operation takes over its result, ONNX tensor name and location.

        `location` names the operation whose ONNX node the new ones stand for, if it is not `old`.
        """
        source = old if location is None else location
        for op in new:
            if isinstance(op.location, UnknownLoc):
                op.location = source.location
        if TENSORS in old.attributes:
            new[-1].attributes[TENSORS] = old.attributes[TENSORS]
        Rewriter.replace_op(old, list(new))

    def sweep(self) -> None:
        """Erase pure operations without uses."""
        for op in reversed(list(self.block.ops)):
            if op.has_trait(Pure) and all(result.first_use is None for result in op.results):
                self.block.erase_op(op)

    def array(self, value: SSAValue) -> Array | None:
        """The data of a weight or constant, None for a computed value."""
        owner = value.owner
        if isinstance(owner, nn.ConstantOp):
            return constant_array(owner)
        if isinstance(owner, nn.WeightOp):
            array = self.store.get(owner.key.data)
            return array.T if owner.transposed else array
        if isinstance(owner, nn.DequantizeOp):
            codes, scale = self.array(owner.codes), self.array(owner.scale)
            return None if codes is None or scale is None else dequantized(codes, scale)
        return None

    def weight(self, key: str, array: Array, element: Any = None) -> nn.WeightOp:
        """A weight operation over a new store entry; a view of stored data is not copied."""
        name = self.store.add(key, array)
        if element is None:
            element = f32 if array.dtype == np.float32 else i64
        return nn.WeightOp(name, self.store.digest(name), TensorType(element, list(array.shape)))

    def name_of(self, op: Operation) -> str:
        """The ONNX tensor that is the operation's first result, else the operation's own name."""
        known = op.attributes.get(TENSORS)
        name = known.data[0] if isinstance(known, ArrayAttr) and known.data else None
        return name.data if isinstance(name, StringAttr) and name.data else op.name

    def run(self, op: Operation, args: list[Array]) -> Array:
        with np.errstate(all="ignore"):  # log 0 where another branch is taken
            return run_op(op, args, self.store)[0]


def made_by(value: SSAValue, kind: type[OpT]) -> OpT | None:
    """The operation that makes `value`, if it is of this class."""
    return value.owner if isinstance(value.owner, kind) else None


def is_stored(value: SSAValue) -> bool:
    """Whether a value is a weight or a constant; its data is not touched."""
    return isinstance(value.owner, nn.STORED)


def unary(value: SSAValue, kind: nn.UnaryKind) -> SSAValue | None:
    op = made_by(value, nn.UnaryOp)
    return op.x if op is not None and op.kind.data is kind else None


def binary(value: SSAValue, kind: nn.BinaryKind) -> nn.BinaryOp | None:
    op = made_by(value, nn.BinaryOp)
    return op if op is not None and op.kind.data is kind else None


def orders(op: nn.BinaryOp) -> list[tuple[SSAValue, SSAValue]]:
    """The operands in the orders that mean the same."""
    pairs: list[tuple[SSAValue, SSAValue]] = [(op.lhs, op.rhs)]
    if op.kind.data in COMMUTATIVE and op.lhs is not op.rhs:
        pairs.append((op.rhs, op.lhs))
    return pairs


def scalar(value: SSAValue) -> float | None:
    """The number a constant holds in all of its elements, looking through broadcasts."""
    owner = value.owner
    if isinstance(owner, nn.ExpandOp | nn.ReshapeOp):
        return scalar(owner.x)
    if isinstance(owner, nn.CastOp):
        return scalar(owner.x)
    if not isinstance(owner, nn.ConstantOp):
        return None
    array = constant_array(owner)
    first = array.reshape(-1)[0]
    return float(first) if np.all(array == first) else None


def scaled(value: SSAValue) -> tuple[SSAValue, float] | None:
    """`x` and `c` if value = x * c or x / c for a constant c, else None. The shape of x is that of the value."""
    op = made_by(value, nn.BinaryOp)
    if op is None or op.kind.data not in (nn.BinaryKind.MUL, nn.BinaryKind.DIV):
        return None
    for x, constant in orders(op):
        number = scalar(constant)
        if number is None or nn.shape_of(x) != nn.shape_of(value):
            continue
        if op.kind.data is nn.BinaryKind.MUL:
            return x, number
        return (x, 1.0 / number) if number else None
    return None


def with_scalar(value: SSAValue, kind: nn.BinaryKind) -> tuple[SSAValue, float] | None:
    """(x, c) if value = x `kind` c with a constant c, on either side of a commutative kind."""
    op = binary(value, kind)
    for x, constant in orders(op) if op is not None else []:
        number = scalar(constant)
        if number is not None:
            return x, number
    return None


def unscaled(value: SSAValue) -> tuple[SSAValue, float]:
    """Peel constant factors: value = x * c."""
    factor = 1.0
    while (step := scaled(value)) is not None:
        value, factor = step[0], factor * step[1]
    return value, factor


def is_f32(value: SSAValue) -> bool:
    return isinstance(value.type, TensorType) and isinstance(value.type.element_type, Float32Type)


def users(value: SSAValue) -> list[Operation]:
    return [use.operation for use in value.uses]


def sole_user(value: SSAValue) -> Operation | None:
    return value.get_user_of_unique_use()


def type_of(value: SSAValue) -> TensorType:
    assert isinstance(value.type, TensorType)
    return value.type


def result_of(op: IRDLOperation) -> OpResult:
    return op.results[0]
