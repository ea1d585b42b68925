"""Movements of data: reshapes and transpositions that come to nothing, and such that change places with arithmetic."""

from __future__ import annotations

import math

import numpy as np
from xdsl.ir import Operation, SSAValue
from xdsl.irdl import IRDLOperation

from compiler.dialects import nn
from compiler.passes.fusion.match import TENSORS, Scope, is_f32, is_stored, made_by, scalar, type_of


def simplify_reshapes(scope: Scope) -> None:
    """reshape(reshape(x)) -> reshape(x), and a reshape, expand or slice that changes nothing -> x."""
    for op in scope.each(nn.ReshapeOp):
        inner = made_by(op.x, nn.ReshapeOp)
        if inner is not None:
            op.operands[0] = inner.x
    for op in [*scope.each(nn.ReshapeOp), *scope.each(nn.ExpandOp), *scope.each(nn.SliceOp)]:
        if op.x.type == op.result.type and (not isinstance(op, nn.SliceOp) or min(nn.int_values(op.steps)) > 0):
            _keep_name(op, op.x)
            op.result.replace_all_uses_with(op.x)
    scope.sweep()


def simplify_movements(scope: Scope) -> None:
    """Transpositions that undo each other, with reshapes between them, or that move axes of size 1 alone -> a reshape: what
    they do is run, not matched."""
    for op in scope.each(nn.TransposeOp):
        chain: list[nn.TransposeOp | nn.ReshapeOp] = [op]
        if not is_stored(op.x) and _is_still(scope, chain):
            scope.replace(op, [nn.ReshapeOp(op.x, type_of(op.result))])
            continue
        while isinstance(before := chain[-1].x.owner, nn.TransposeOp | nn.ReshapeOp):
            chain.append(before)
            if isinstance(before, nn.TransposeOp) and _is_still(scope, chain[::-1]):
                scope.replace(op, [nn.ReshapeOp(before.x, type_of(op.result))])
                break
    simplify_reshapes(scope)


def _is_still(scope: Scope, chain: list[nn.TransposeOp | nn.ReshapeOp]) -> bool:
    """Whether a chain of movements, from its first on, leaves the row-major order as it was."""
    indices = plain = np.arange(math.prod(nn.shape_of(chain[0].x))).reshape(nn.shape_of(chain[0].x))
    for op in chain:
        indices = scope.run(op, [indices])
    return np.array_equal(indices.reshape(-1), plain.reshape(-1))


def _keep_name(op: nn.ReshapeOp | nn.ExpandOp | nn.SliceOp, value: SSAValue) -> None:
    """Let a value without an ONNX name take that of the operation it replaces."""
    if isinstance(value.owner, Operation) and TENSORS not in value.owner.attributes and TENSORS in op.attributes:
        value.owner.attributes[TENSORS] = op.attributes[TENSORS]


_ELEMENTWISE = (nn.UnaryOp, nn.BinaryOp, nn.ActivationOp)


def sink_transposes(scope: Scope) -> None:
    """f(transpose(a), transpose(b)) -> transpose(f(a, b)), so that residual sums and activations between layers that the
    exporter wrote with the channels in front stand right behind the layers."""
    for op in scope.each(IRDLOperation):
        if isinstance(op, _ELEMENTWISE) and is_f32(op.result):
            _sink(scope, op)
    simplify_movements(scope)


def _sink(scope: Scope, op: nn.UnaryOp | nn.BinaryOp | nn.ActivationOp) -> None:
    transpose = next((value.owner for value in op.operands if isinstance(value.owner, nn.TransposeOp)), None)
    if transpose is None or nn.shape_of(op.result) != nn.shape_of(transpose.result):
        return
    operands = [_before(value, transpose) for value in op.operands]
    known = [value for value in operands if value is not None]
    if len(known) < len(operands):
        return
    moved = type(op).create(operands=known, properties=op.properties, result_types=[type_of(transpose.x)])
    scope.replace(op, [moved, nn.TransposeOp(moved.result, transpose.permutation, type_of(op.result))])


def _before(value: SSAValue, transpose: nn.TransposeOp) -> SSAValue | None:
    """What a transposition like this one makes a value of; a single number is the same either way."""
    other = made_by(value, nn.TransposeOp)
    if other is not None and other.permutation == transpose.permutation and is_f32(value):
        return other.x
    return value if scalar(value) is not None and math.prod(nn.shape_of(value)) == 1 else None
