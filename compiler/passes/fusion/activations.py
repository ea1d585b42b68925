"""Activations in any arithmetic: what a subgraph computes from one tensor is run on numbers and compared, not spelled."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from xdsl.ir import SSAValue

from compiler.dialects import nn
from compiler.interpreters.nn_float import erf
from compiler.passes.fusion.match import Array, Scope, is_f32, scalar, type_of

_UNARIES = {nn.UnaryKind.TANH: nn.ActivationKind.TANH, nn.UnaryKind.RELU: nn.ActivationKind.RELU}
_CURVED = {nn.UnaryKind.ERF, nn.UnaryKind.TANH, nn.UnaryKind.SIGMOID, nn.UnaryKind.EXP}
_REACH = 24
"""Operations that an activation may be made of."""
_GRID = np.concatenate([np.linspace(-12, 12, 481), [-80.0, -30.0, 30.0, 80.0]]).astype(np.float32)
_TOLERANCE = 2e-4
"""float16 exports round 1 / sqrt 2 to ten bits. GELU by erf and by tanh are 4.7e-4 apart."""

_KNOWN: Mapping[nn.ActivationKind, Callable[[Array], Array]] = {
    nn.ActivationKind.GELU: lambda x: x * (1 + erf(x * np.sqrt(0.5))) / 2,
    nn.ActivationKind.GELU_TANH: lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    nn.ActivationKind.QUICK_GELU: lambda x: x / (1 + np.exp(-1.702 * x)),
    nn.ActivationKind.SILU: lambda x: x / (1 + np.exp(-x)),
}


def fuse_activations(scope: Scope) -> None:
    for op in reversed(list(scope.each(nn.BinaryOp))):
        if op.parent is scope.block and op.kind.data in (nn.BinaryKind.MUL, nn.BinaryKind.DIV) and is_f32(op.result):
            _fuse(scope, op)
    for op in scope.each(nn.UnaryOp):
        if op.kind.data in _UNARIES and is_f32(op.x):
            scope.replace(op, [nn.ActivationOp(_UNARIES[op.kind.data], op.x, type_of(op.result))])
    scope.sweep()


def _fuse(scope: Scope, op: nn.BinaryOp) -> None:
    cone = _cone(op.result)
    if not any(isinstance(made.owner, nn.UnaryOp) and made.owner.kind.data in _CURVED for made in cone):
        return
    for x in cone[1:]:
        if type_of(x) != type_of(op.result):
            continue
        kind = _kind(scope, op.result, x)
        if kind is not None:
            scope.replace(op, [nn.ActivationOp(kind, x, type_of(op.result))])
            scope.sweep()
            return


def _cone(root: SSAValue) -> list[SSAValue]:
    """The fp32 values that elementwise operations make `root` of, nearest first, and what these are made of."""
    found: dict[SSAValue, None] = {root: None}
    queue = [root]
    while queue and len(found) < _REACH:
        value = queue.pop(0)
        owner = value.owner
        if not isinstance(owner, nn.UnaryOp | nn.BinaryOp):
            continue
        for operand in owner.operands:
            if operand not in found and is_f32(operand) and scalar(operand) is None:
                found[operand] = None
                queue.append(operand)
    return list(found)


def _kind(scope: Scope, root: SSAValue, x: SSAValue) -> nn.ActivationKind | None:
    """The activation that `root` is of `x`, None if it is another function or not one of `x` alone."""
    with np.errstate(all="ignore"):
        y = _run(scope, root, {x: _GRID})
        if y is None:
            return None
        wide = _GRID.astype(np.float64)
        errors = {kind: _error(y, function(wide)) for kind, function in _KNOWN.items()}
    best = min(errors, key=lambda kind: errors[kind])
    return best if errors[best] <= _TOLERANCE else None


def _error(y: Array, expected: Array) -> float:
    """The largest error, relative to the value where that is above 1; NaN counts as infinite."""
    return float(np.nan_to_num(np.abs(y - expected) / np.maximum(1, np.abs(expected)), nan=np.inf).max())


def _run(scope: Scope, value: SSAValue, known: dict[SSAValue, Array]) -> Array | None:
    if value in known:
        return known[value]
    number = scalar(value)
    if number is not None:
        known[value] = np.float32(number)  # pyright: ignore[reportArgumentType]
        return known[value]
    owner = value.owner
    if not isinstance(owner, nn.UnaryOp | nn.BinaryOp):
        return None
    arguments = [_run(scope, operand, known) for operand in owner.operands]
    if any(argument is None for argument in arguments):
        return None
    known[value] = scope.run(owner, [argument for argument in arguments if argument is not None])
    return known[value]
