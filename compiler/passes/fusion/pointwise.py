"""Normalisations, decomposed by the exporter or not."""

from __future__ import annotations

from xdsl.ir import SSAValue

from compiler.dialects import nn
from compiler.passes.fusion.match import (
    Scope,
    binary,
    is_f32,
    is_stored,
    made_by,
    orders,
    scalar,
    type_of,
    unary,
    with_scalar,
)


def fuse_layer_norms(scope: Scope) -> None:
    """(x - mean x) / sqrt(mean (x - mean x)^2 + eps) * gamma + beta."""
    for op in scope.each(nn.BinaryOp):
        if op.kind.data is not nn.BinaryKind.ADD or not is_f32(op.result):
            continue
        for scaled_value, beta in orders(op):
            product = binary(scaled_value, nn.BinaryKind.MUL)
            for normal, gamma in orders(product) if product is not None else []:
                found = _normalised(normal)
                if found is not None and _is_vector(gamma, op) and _is_vector(beta, op):
                    scope.replace(op, [nn.LayerNormOp(found[0], gamma, beta, found[1], type_of(op.result))])
                    break
            if op.parent is None:
                break
    scope.sweep()


def _is_vector(value: SSAValue, op: nn.BinaryOp) -> bool:
    return is_stored(value) and nn.shape_of(value) == nn.shape_of(op.result)[-1:]


def _normalised(value: SSAValue) -> tuple[SSAValue, float] | None:
    """(x, eps) if value is x normalised over the last axis, without gamma and beta."""
    quotient = binary(value, nn.BinaryKind.DIV)
    if quotient is not None:
        centred, deviation = quotient.lhs, quotient.rhs
    else:
        product = binary(value, nn.BinaryKind.MUL)
        pairs = [] if product is None else [(a, unary(b, nn.UnaryKind.RECIPROCAL)) for a, b in orders(product)]
        match = next(((a, b) for a, b in pairs if b is not None), None)
        if match is None:
            return None
        centred, deviation = match
    x = _centred(centred)
    root = _square_root(deviation)
    shifted = None if root is None else with_scalar(root, nn.BinaryKind.ADD)
    squared = None if shifted is None else _mean(shifted[0])
    if x is None or shifted is None or squared is None or not _is_square(squared, x):
        return None
    return x, shifted[1]


def _square_root(value: SSAValue) -> SSAValue | None:
    power = with_scalar(value, nn.BinaryKind.POW)
    return power[0] if power is not None and power[1] == 0.5 else unary(value, nn.UnaryKind.SQRT)


def _mean(value: SSAValue) -> SSAValue | None:
    """x if value is its mean over the last axis, kept as an axis of size 1."""
    op = made_by(value, nn.ReduceOp)
    if op is None or op.kind.data is not nn.ReduceKind.MEAN:
        return None
    rank = len(nn.shape_of(op.x))
    return op.x if op.axis_tuple == (rank - 1,) and len(nn.shape_of(op.result)) == rank else None


def _centred(value: SSAValue) -> SSAValue | None:
    """x if value = x - mean x."""
    difference = binary(value, nn.BinaryKind.SUB)
    return difference.lhs if difference is not None and _mean(difference.rhs) is difference.lhs else None


def _is_square(value: SSAValue, x: SSAValue) -> bool:
    """Whether value = (x - mean x)^2; exporters may compute the difference twice."""
    power = binary(value, nn.BinaryKind.POW)
    if power is not None:
        return scalar(power.rhs) == 2 and _centred(power.lhs) is x
    product = binary(value, nn.BinaryKind.MUL)
    return product is not None and _centred(product.lhs) is x and _centred(product.rhs) is x
