"""The table of lowerings: how each operation of `hpcc_nn` is written in upstream dialects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Attribute, Operation, SSAValue

from compiler.backends.linalg import load_lowerings
from compiler.backends.linalg.scalars import is_unsigned, signless
from compiler.backends.linalg.tensors import Tensors
from compiler.interpreters.evaluate import node_name
from hw_targets.errors import InputError

Lowering = Callable[[Tensors, Any, Sequence[SSAValue]], SSAValue]
_LOWERINGS: dict[type[Operation], Lowering] = {}


def lowering_of(op_class: type[Operation]) -> Callable[[Lowering], Lowering]:
    """Register `function(tensors, op, arguments) -> result` as the lowering of `op_class`."""

    def register(function: Lowering) -> Lowering:
        if op_class in _LOWERINGS:
            raise ValueError(f"{op_class.name} has two lowerings")
        _LOWERINGS[op_class] = function
        return function

    return register


def lower(tensors: Tensors, op: Operation, arguments: Sequence[SSAValue]) -> SSAValue:
    """The result of one operation in upstream dialects. Raises InputError HPCC1951 for one that has no lowering."""
    load_lowerings()
    lowering = _LOWERINGS.get(type(op))
    if lowering is None:
        message = f"{_kind(op)} has no form in linalg"
        hint = "only whole models without host operations are written; --check lists what would run on the host"
        raise InputError("HPCC1951", message, where=f"node {node_name(op)!r}", hint=hint)
    return lowering(tensors, op, arguments)


def _kind(op: Operation) -> str:
    opaque = op.properties.get("op_type")
    return op.name if opaque is None else str(getattr(opaque, "data", opaque))


def result_element(op: Operation) -> Attribute:
    """The element type of the operation's result as it is written: signless, without encodings."""
    type = op.results[0].type
    assert isinstance(type, TensorType)
    return signless(type.element_type)


def unsigned(value: SSAValue) -> bool:
    """Whether a value of the original module widens without a sign."""
    assert isinstance(value.type, TensorType)
    return is_unsigned(value.type.element_type)
