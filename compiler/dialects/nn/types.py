"""What the operations of `hpcc_nn` say of their tensors: static shapes, lists of integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xdsl.dialects.builtin import (
    DenseArrayBase,
    Float32Type,
    IntegerType,
    TensorType,
    i64,
)
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    AnyAttr,
    IRDLOperation,
)
from xdsl.utils.exceptions import VerifyException

AnyTensor = TensorType.constr(AnyAttr())
F32Tensor = TensorType.constr(Float32Type())


def shape_of(value: SSAValue) -> tuple[int, ...]:
    """The static shape of a tensor value."""
    assert isinstance(value.type, TensorType)
    return value.type.get_shape()


def element_type_of(value: SSAValue) -> Attribute:
    assert isinstance(value.type, TensorType)
    return value.type.element_type


def int_array(values: Sequence[int]) -> DenseArrayBase[IntegerType]:
    return DenseArrayBase.from_list(i64, list(values))


def int_values(array: DenseArrayBase[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in array.get_values())


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The numpy broadcast of static shapes; raises VerifyException where they do not fit."""
    rank = max((len(s) for s in shapes), default=0)
    result: list[int] = []
    for axis in range(rank):
        sizes = {s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0} - {1}
        if len(sizes) > 1:
            raise VerifyException(f"shapes {[tuple(s) for s in shapes]} do not broadcast")
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def sequence_shape(op: IRDLOperation, value: SSAValue) -> tuple[int, int, int]:
    """Batch, tokens and features of a value."""
    shape = shape_of(value)
    if len(shape) != 3:
        raise VerifyException(f"'{op.name}' takes batch x tokens x features, not {shape}")
    return shape[0], shape[1], shape[2]


def expect_shape(op: IRDLOperation, value: SSAValue, shape: Sequence[int]) -> None:
    if shape_of(value) != tuple(shape):
        raise VerifyException(f"'{op.name}' expects shape {tuple(shape)}, the type says {shape_of(value)}")
