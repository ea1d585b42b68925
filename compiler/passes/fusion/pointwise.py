"""Normalisations, decomposed by the exporter or not."""

from __future__ import annotations

import numpy as np
from xdsl.ir import SSAValue
from xdsl.irdl import IRDLOperation

from compiler.dialects import nn
from compiler.passes.fusion.match import (
    Scope,
    binary,
    is_f32,
    is_stored,
    made_by,
    orders,
    result_of,
    scalar,
    sole_user,
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


def fuse_rms_norms(scope: Scope) -> None:
    """x / sqrt(mean x^2 + eps) * gamma, the product with a stored vector in either order, or none at all."""
    for op in scope.each(nn.BinaryOp):
        if op.kind.data not in (nn.BinaryKind.MUL, nn.BinaryKind.DIV) or not is_f32(op.result):
            continue
        found = _root_mean_square(op.result)
        if found is None:
            continue
        x, eps = found
        width = nn.shape_of(x)[-1]
        last, gamma, new = _scaled_by_vector(scope, op, width)
        norm = nn.RmsNormOp(x, gamma, eps, type_of(op.result))
        scope.replace(last, [*new, norm])
    scope.sweep()
    for op in scope.each(nn.RmsNormOp):
        _hoist(scope, op)
    scope.sweep()


def _scaled_by_vector(scope: Scope, op: nn.BinaryOp, width: int) -> tuple[nn.BinaryOp, SSAValue, list[nn.WeightOp]]:
    """The product with gamma behind a normalisation, gamma [width], and what makes it; ones where there is none."""
    user = sole_user(op.result)
    if isinstance(user, nn.BinaryOp) and user.kind.data is nn.BinaryKind.MUL and user.result.type == op.result.type:
        for normal, gamma in orders(user):
            array = scope.array(gamma) if normal is op.result and is_stored(gamma) else None
            if array is None or array.dtype != np.float32 or array.size != width or array.shape[-1:] != (width,):
                continue
            if array.ndim == 1:
                return user, gamma, []
            weight = scope.weight(f"{scope.name_of(user)}.gamma", array.reshape(width))
            return user, weight.result, [weight]
    ones = scope.weight(f"{scope.name_of(op)}.gamma", np.ones(width, np.float32))
    return op, ones.result, [ones]


def _root_mean_square(value: SSAValue) -> tuple[SSAValue, float] | None:
    """(x, eps) if value = x / sqrt(mean x^2 + eps) over the last axis."""
    quotient, product = binary(value, nn.BinaryKind.DIV), binary(value, nn.BinaryKind.MUL)
    pairs = [(quotient.lhs, _square_root(quotient.rhs))] if quotient is not None else []
    for x, inverse in orders(product) if product is not None else []:
        pairs.append((x, _inverse_root(inverse)))
    for x, radicand in pairs:
        shifted = None if radicand is None else with_scalar(radicand, nn.BinaryKind.ADD)
        squared = None if shifted is None else _mean(shifted[0])
        if shifted is not None and squared is not None and _squared(squared) is x and nn.shape_of(x) == nn.shape_of(value):
            return x, shifted[1]
    return None


def _inverse_root(value: SSAValue) -> SSAValue | None:
    """y if value = 1 / sqrt(y)."""
    inverted = unary(value, nn.UnaryKind.RECIPROCAL)
    if inverted is not None:
        return _square_root(inverted)
    power, quotient = with_scalar(value, nn.BinaryKind.POW), binary(value, nn.BinaryKind.DIV)
    if quotient is not None and scalar(quotient.lhs) == 1:
        return _square_root(quotient.rhs)
    return power[0] if power is not None and power[1] == -0.5 else None


def _squared(value: SSAValue) -> SSAValue | None:
    """x if value = x^2."""
    power, product = binary(value, nn.BinaryKind.POW), binary(value, nn.BinaryKind.MUL)
    if power is not None:
        return power.lhs if scalar(power.rhs) == 2 else None
    return product.lhs if product is not None and product.lhs is product.rhs else None


def _hoist(scope: Scope, op: nn.RmsNormOp) -> None:
    """norm(movement(x)) -> movement(norm(x)) where the movement keeps the normalised features together: a norm of heads
    stands before the heads are split."""
    chain: list[nn.ReshapeOp | nn.TransposeOp] = []
    x = op.x
    while isinstance(x.owner, nn.ReshapeOp | nn.TransposeOp):
        chain.append(x.owner)
        x = x.owner.x
    width, shape = op.group, nn.shape_of(x)
    if not chain or len(shape) != 3 or shape[-1] % width or shape[-1] == width:
        return
    groups = np.arange(int(np.prod(shape))).reshape(shape)
    for movement in reversed(chain):
        groups = scope.run(movement, [groups])
    rows = groups.reshape(-1, width)
    if np.any(rows[:, :1] % width) or not np.array_equal(rows, rows[:, :1] + np.arange(width)):
        return
    new: list[IRDLOperation] = [nn.RmsNormOp(x, op.gamma, op.eps.value.data, type_of(x))]
    for movement in reversed(chain):
        value, type = result_of(new[-1]), type_of(movement.result)
        if isinstance(movement, nn.TransposeOp):
            new.append(nn.TransposeOp(value, movement.permutation, type))
        else:
            new.append(nn.ReshapeOp(value, type))
    scope.replace(op, new)
