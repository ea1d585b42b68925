"""Attributes and ops of programs, made quickly: programs repeat few numbers and names very often, and xDSL verifies an
attribute whenever one is made."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache

from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseArrayBase,
    DictionaryAttr,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    StringAttr,
    f32,
    i64,
)
from xdsl.ir import Attribute, Operation, SSAValue

from hw_targets import isa


def immediate_attr(field: isa.Immediate, value: int | float) -> Attribute:
    """The attribute of an immediate: an f32 or an i64."""
    return float_attr(float(value)) if field.is_float else integer_attr(int(value))


@cache
def float_attr(value: float) -> Attribute:
    """A number as an f32."""
    return FloatAttr(value, f32)


@cache
def integer_attr(value: int) -> Attribute:
    """A whole number as an i64."""
    return IntegerAttr(value, 64)


@lru_cache(maxsize=4096)
def text_attr(value: str) -> StringAttr:
    """A string as an attribute."""
    return StringAttr(value)


@lru_cache(maxsize=65536)
def numbers_attr(values: tuple[int, ...]) -> DenseArrayBase[IntegerType]:
    """Whole numbers as an attribute."""
    return DenseArrayBase.from_list(i64, values)


def numbers_of(attr: DenseArrayBase[IntegerType] | None) -> tuple[int, ...]:
    """The numbers of an array of i64. `get_values` does the same for any type, several times slower."""
    if attr is None:
        return ()
    data = attr.data.data
    return struct.unpack(f"<{len(data) // 8}q", data)


@lru_cache(maxsize=4096)
def names_attr(values: tuple[str, ...]) -> ArrayAttr[StringAttr]:
    """Names, in their order, as an attribute."""
    return ArrayAttr([StringAttr(value) for value in values])


@lru_cache(maxsize=65536)
def immediates_attr(function: str, values: tuple[tuple[str, int | float], ...]) -> DictionaryAttr:
    """An instruction's immediates as an attribute, in their order."""
    fields = {field.name: field for field in isa.BY_NAME[function].immediates}
    return DictionaryAttr({name: immediate_attr(fields[name], value) for name, value in values})


def make(
    op: Operation,
    properties: Mapping[str, Attribute | None],
    operands: Sequence[SSAValue] = (),
    result_types: Sequence[Attribute] = (),
) -> None:
    """What IRDLOperation.__init__ does for an op of which nothing is to be guessed, in a third of the time. Programs have
    thousands of them."""
    present = {name: attr for name, attr in properties.items() if attr is not None}
    Operation.__init__(op, operands=operands, result_types=result_types, properties=present)
