"""Does the integer module hold the parameters of the fp32 one? Rounding may change them, and nothing else.

The module after `quantize` is the golden of every later stage, and the limits of the integer result against ONNX Runtime
have room for a small bias. So this stage is compared with the one before it op by op: a weight (divided by what smooths
its inputs) within half a step of its scale, a table within the rounding of bf16, all others the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from compiler.dialects import nn
from compiler.interpreters import load_meanings
from compiler.interpreters.evaluate import node_name, run_op
from compiler.passes.factor import factor
from compiler.weights import WeightStore
from hw_targets import numerics
from hw_targets.errors import VerificationError

Array = NDArray[Any]

HALF_STEP = 0.5 + 2.0**-10
"""A code is the nearest one; the rest is what the division by the scale rounds."""
BF16_ROUNDING = 2.0**-8


def check_parameters(floats: ModuleOp, integers: ModuleOp, store: WeightStore) -> None:
    """Compare the modules before and after `quantize`. Raises VerificationError naming the op and the parameter."""
    load_meanings()
    floats = floats.clone()
    factor(floats, store)
    for name, problem in _problems(floats, integers, store):
        if problem:
            raise VerificationError("HPCC4004", f"stage 'quantize': {problem} of {name} is not that of stage 'sparsify'")


def _problems(floats: ModuleOp, integers: ModuleOp, store: WeightStore) -> Iterator[tuple[str, str]]:
    """(op, the parameter that differs or an empty string)."""

    def value(operand: SSAValue | None) -> Array | None:
        return None if operand is None else _value(operand, store)

    for old, new in _pairs(floats, integers, nn.LinearOp, nn.QLinearOp):
        name = old.role.data
        yield name, "" if new.role == old.role else "the place"
        codes, scale = _value(new.weight, store), _value(new.weight_scale, store)
        smooth = value(new.x.owner.smooth) if isinstance(new.x.owner, nn.QuantizeOp) else None
        weight = _value(old.weight, store) if smooth is None else _value(old.weight, store) / smooth
        yield name, _unless(_is_rounded(weight, codes, scale), "the weight")
        yield name, _unless(_same(value(old.bias), value(new.bias)), "the bias")
    for old, new in _pairs(floats, integers, nn.LayerNormOp, nn.LayerNormOp):
        yield node_name(old), _unless(_same(value(old.gamma), value(new.gamma)), "gamma")
        yield node_name(old), _unless(_same(value(old.beta), value(new.beta)), "beta")
        yield node_name(old), _unless(old.eps == new.eps, "epsilon")
    for old, new in _pairs(floats, integers, nn.RmsNormOp, nn.RmsNormOp):
        yield node_name(old), _unless(_same(value(old.gamma), value(new.gamma)), "gamma")
        yield node_name(old), _unless(old.eps == new.eps, "epsilon")
    for old, new in _pairs(floats, integers, nn.RotaryOp, nn.RotaryOp):
        yield node_name(old), _unless(_same(value(old.table), value(new.table)), "the table of angles")
        same = (old.head_size, old.interleaved) == (new.head_size, new.interleaved)
        yield node_name(old), _unless(same, "the order of the features")
    for old, new in _pairs(floats, integers, nn.EmbeddingOp, nn.EmbeddingOp):
        yield node_name(old), _unless(len(old.tables) == len(new.tables), "the number of tables")
        for number, (before, after) in enumerate(zip(old.tables, new.tables, strict=False)):
            same = _is_bf16_of(_value(before, store), _value(after, store))
            yield node_name(old), _unless(same, f"table {number}")
    for old, new in _pairs(floats, integers, nn.AttentionOp, nn.QAttentionOp):
        yield old.role.data, _unless((old.mask is None) == (new.mask is None), "the mask")
        constant = old.bias is not None and isinstance(old.bias.owner, Operation) and isinstance(old.bias.owner, nn.STORED)
        same = (old.bias is None) == (new.bias is None) and (not constant or _same(value(old.bias), value(new.bias)))
        yield old.role.data, _unless(same, "the bias")
        for field in ("heads", "groups", "causal", "scale"):
            yield old.role.data, _unless(getattr(old, field) == getattr(new, field), field)
    for old, new in _pairs(floats, integers, nn.ActivationOp, nn.ActivationOp):
        yield node_name(old), _unless(old.kind == new.kind, "the kind")


def _pairs(floats: ModuleOp, integers: ModuleOp, before: type[Operation], after: type[Operation]) -> list[tuple[Any, Any]]:
    """The ops of a kind and what they have become: linears by role, since residual additions move them, others in order."""
    old: list[Any] = [op for op in floats.walk() if isinstance(op, before)]
    new: list[Any] = [op for op in integers.walk() if isinstance(op, after)]
    if len(old) != len(new):
        message = f"stage 'quantize': {len(old)} of {before.name} have become {len(new)} of {after.name}"
        raise VerificationError("HPCC4004", message)
    if before is nn.LinearOp:
        old, new = (sorted(ops, key=lambda op: op.role.data) for ops in (old, new))
    return list(zip(old, new, strict=True))


def _value(operand: SSAValue, store: WeightStore) -> Array:
    """The value of a constant operand."""
    owner = operand.owner
    assert isinstance(owner, Operation)
    return run_op(owner, [_value(inner, store) for inner in owner.operands], store)[0]


def _unless(holds: bool, problem: str) -> str:
    return "" if holds else problem


def _same(old: Array | None, new: Array | None) -> bool:
    if old is None or new is None:
        return old is new
    return np.array_equal(numerics.ftz(old).reshape(-1), new.reshape(-1))


def _is_rounded(weight: Array, codes: Array, scale: Array) -> bool:
    step = scale.reshape(-1, 1)
    return weight.shape == codes.shape and bool((np.abs(weight - codes * step) <= HALF_STEP * step).all())


def _is_bf16_of(table: Array, rounded: Array) -> bool:
    near = np.abs(table - rounded.astype(np.float32)) <= BF16_ROUNDING * np.abs(table) + float(numerics.TINY)
    return table.shape == rounded.shape and bool(near.all())
