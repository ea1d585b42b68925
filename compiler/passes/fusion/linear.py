"""Linear layers: MatMul or Gemm by a stored matrix, with the bias that follows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xdsl.dialects.builtin import StringAttr, TensorType
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
    sole_user,
    type_of,
)
from compiler.passes.fusion.movements import simplify_reshapes

UNNAMED = "unnamed"
"""Role of a linear before its place in the model is known."""


@dataclass(frozen=True)
class Matrix:
    """A stored matrix as the right operand of a product: x [.., ins] times it gives [.., outs].

    Of a dequantised one, `weight` are the codes and `scale` is what they are multiplied with, in the orientation
    [outs, ins] or, if `scale_turned`, [ins, outs].
    """

    weight: nn.WeightOp
    outs: int
    ins: int
    stored: str
    scale: SSAValue | None = None
    scale_turned: bool = False

    def ops(self, scope: Scope) -> list[IRDLOperation]:
        """Operations that make the matrix out x in; the last one is the linear's weight."""
        type = TensorType(nn.element_type_of(self.weight.result), [self.outs, self.ins])
        op = nn.WeightOp(self.weight.key.data, self.weight.digest.data, type, stored=self.stored)
        op.location = self.weight.location
        if self.scale is None:
            return [op]
        scale = _scale(scope, self)
        return [op, scale, nn.DequantizeOp(op.result, scale.result)]


def _scale(scope: Scope, matrix: Matrix) -> nn.WeightOp:
    """The scale of codes out x in, with two axes."""
    assert matrix.scale is not None
    array = scope.array(matrix.scale)
    assert array is not None
    array = array.reshape((1,) * (2 - array.ndim) + array.shape)
    owner = matrix.scale.owner
    key = owner.key.data if isinstance(owner, nn.WeightOp) else f"{matrix.weight.key.data}.factor"
    return scope.weight(f"{key}.turned", array.T) if matrix.scale_turned else scope.weight(key, array)


def right_matrix(value: SSAValue, *, transposed: bool = False) -> Matrix | None:
    """The stored matrix behind `value`, through transpositions, which are layouts and move nothing."""
    while (transpose := made_by(value, nn.TransposeOp)) is not None and transpose.permutation == (1, 0):
        value, transposed = transpose.x, not transposed
    weight, scale = nn.stored_weight(value), None
    if weight is None or len(nn.shape_of(value)) != 2 or not is_f32(value):
        return None
    if isinstance(value.owner, nn.DequantizeOp):
        scale = value.owner.scale
    scale_turned = not transposed
    first, second = nn.shape_of(value)
    if weight.transposed:
        transposed = not transposed
        first, second = second, first
    if transposed:
        return Matrix(weight, first, second, "oi", scale, scale_turned)
    return Matrix(weight, second, first, "io", scale, scale_turned)


def fuse_linears(scope: Scope) -> None:
    for op in scope.each(nn.MatMulOp):
        matrix = right_matrix(op.rhs)
        if matrix is not None and is_f32(op.lhs) and len(nn.shape_of(op.lhs)) >= 2:
            _replace_product(scope, op, op.lhs, matrix, None)
    for op in scope.each(nn.GemmOp):
        matrix = right_matrix(op.b, transposed=bool(op.trans_b.value.data))
        plain = op.alpha.value.data == 1 and not op.trans_a.value.data and (op.c is None or op.beta.value.data == 1)
        bias = None if op.c is None or matrix is None else _bias(scope, op.c, matrix.outs)
        if matrix is not None and plain and is_f32(op.a) and (op.c is None or bias is not None):
            _replace_product(scope, op, op.a, matrix, bias)
    scope.sweep()
    sink_reshapes(scope)


Bias = SSAValue | nn.WeightOp


def _bias(scope: Scope, value: SSAValue, outs: int) -> Bias | None:
    """`value` as a stored vector [outs], None if it is something else."""
    shape, weight = nn.shape_of(value), made_by(value, nn.WeightOp)
    if not is_stored(value) or not is_f32(value) or math.prod(shape) != outs or shape[-1:] != (outs,):
        return None
    array = None if weight is not None and len(shape) == 1 else scope.array(value)
    if array is None:
        return value
    return scope.weight(f"{weight.key.data if weight else 'bias'}.vector", array.reshape(outs))


def _replace_product(scope: Scope, op: nn.MatMulOp | nn.GemmOp, x: SSAValue, matrix: Matrix, bias: Bias | None) -> None:
    last: nn.MatMulOp | nn.GemmOp | nn.BinaryOp = op
    add = sole_user(op.result)
    if bias is None and isinstance(add, nn.BinaryOp) and binary(add.result, nn.BinaryKind.ADD) is not None:
        addend = next((other for product, other in orders(add) if product is op.result), None)
        if addend is not None and nn.shape_of(add.result) == nn.shape_of(op.result):
            bias = _bias(scope, addend, matrix.outs)
            last = add if bias is not None else op
    weight = matrix.ops(scope)
    extra = [bias] if isinstance(bias, nn.WeightOp) else []
    operand = result_of(bias) if isinstance(bias, nn.WeightOp) else bias
    linear = nn.LinearOp(UNNAMED, x, result_of(weight[-1]), operand, type_of(last.result))
    scope.replace(last, [*weight, *extra, linear], location=op)


def sink_reshapes(scope: Scope) -> None:
    """linear(reshape(x)) -> reshape(linear(x)) where the reshape only regroups rows, as exporters of Gemm write it, and the
    same for tokens in front of samples, as torch's MultiheadAttention has them."""
    for op in scope.each(nn.LinearOp):
        movement = op.x.owner
        if not isinstance(movement, nn.ReshapeOp | nn.TransposeOp) or not _regroups_rows(movement):
            continue
        x, width = movement.x, nn.shape_of(op.result)[-1]
        type = TensorType(nn.element_type_of(op.result), [*nn.shape_of(x)[:-1], width])
        moved = nn.LinearOp(op.role.data, x, op.weight, op.bias, type)
        after = (
            nn.ReshapeOp(moved.result, type_of(op.result))
            if isinstance(movement, nn.ReshapeOp)
            else nn.TransposeOp(moved.result, movement.permutation, type_of(op.result))
        )
        scope.replace(op, [moved, after])
    simplify_reshapes(scope)


def _regroups_rows(op: nn.ReshapeOp | nn.TransposeOp) -> bool:
    source, taken = nn.shape_of(op.x), nn.shape_of(op.result)
    if isinstance(op, nn.TransposeOp):
        return op.permutation == (1, 0, 2)
    turns = len(source) == len(taken) == 3 and source[:2] == taken[1::-1] and 1 in source[:2]
    return source[-1] == taken[-1] and len(source) >= 2 and (len(source) > len(taken) or turns)


def reorder_sums(scope: Scope) -> None:
    """(linear + linear) + x -> linear + (linear + x), as parallel attention and feed-forward end: a linear layer adds one
    tensor that is there before it."""
    for op in reversed(list(scope.each(nn.BinaryOp))):
        if op.parent is not scope.block or op.kind.data is not nn.BinaryKind.ADD or not is_f32(op.result):
            continue
        terms = _terms(op, op.result)
        linears = [term for term in terms if isinstance(term.owner, nn.LinearOp) and term.has_one_use()]
        others = [term for term in terms if term not in linears]
        if len(terms) < 3 or len(others) > 1 or any(term.type != op.result.type for term in terms):
            continue
        first, *rest = [*others, *linears]
        new: list[IRDLOperation] = []
        for term in rest:
            new.append(nn.BinaryOp(nn.BinaryKind.ADD, first, term, type_of(op.result)))
            first = result_of(new[-1])
        scope.replace(op, new)
    scope.sweep()


def _terms(root: nn.BinaryOp, value: SSAValue) -> list[SSAValue]:
    """The terms of a sum whose partial sums nothing else reads."""
    add = binary(value, nn.BinaryKind.ADD)
    if add is None or (add is not root and not value.has_one_use()):
        return [value]
    return [*_terms(root, add.lhs), *_terms(root, add.rhs)]


def name_role(op: nn.LinearOp | nn.AttentionOp, role: str) -> None:
    op.properties["role"] = StringAttr(role)
