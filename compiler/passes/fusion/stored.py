"""Weights that the file holds in another form: integer codes behind Cast x scale, and other arithmetic on stored data."""

from __future__ import annotations

from xdsl.dialects.builtin import TensorType, i8
from xdsl.ir import SSAValue

from compiler.dialects import nn
from compiler.passes.fusion.match import Scope, is_f32, is_stored, made_by, orders, result_of

_Arithmetic = nn.CastOp | nn.BinaryOp | nn.UnaryOp | nn.ReshapeOp | nn.ExpandOp | nn.SliceOp


def fuse_stored(scope: Scope) -> None:
    """Cast(int8) * scale -> dequantize, which keeps the codes; what else is computed from weights alone -> a weight."""
    made = {_evaluate(scope, op) for op in scope.each(nn.ReshapeOp) if _is_stored_work(op)}
    for op in scope.each(nn.BinaryOp):
        if op.kind.data is nn.BinaryKind.MUL and is_f32(op.result):
            _dequantize(scope, op)
    scope.sweep()
    rest = (op for op in list(scope.block.ops) if isinstance(op, _Arithmetic))
    made |= {_evaluate(scope, op) for op in rest if _is_stored_work(op)}
    scope.sweep()
    scope.store.release(made - {op.key.data for op in scope.each(nn.WeightOp)})


def _dequantize(scope: Scope, op: nn.BinaryOp) -> None:
    for value, scale in orders(op):
        codes = _codes(value)
        if codes is None or not is_stored(scale) or nn.shape_of(value) != nn.shape_of(op.result):
            continue
        weight, turned = codes
        type = TensorType(i8, list(nn.shape_of(op.result)))
        copy = nn.WeightOp(weight.key.data, weight.digest.data, type, stored="io" if turned else None)
        scope.replace(op, [copy, nn.DequantizeOp(copy.result, scale)])
        return


def _codes(value: SSAValue) -> tuple[nn.WeightOp, bool] | None:
    """The int8 weight behind a cast, and whether it is transposed before or after that."""
    is_cast = turned = False
    while True:
        cast, transpose = made_by(value, nn.CastOp), made_by(value, nn.TransposeOp)
        if cast is not None and not is_cast:
            value, is_cast = cast.x, True
        elif transpose is not None and transpose.permutation == (1, 0):
            value, turned = transpose.x, not turned
        else:
            break
    weight = made_by(value, nn.WeightOp)
    if weight is None or not is_cast or nn.element_type_of(value) != i8 or weight.stored is not None:
        return None
    return weight, turned


def _is_stored_work(op: _Arithmetic) -> bool:
    return all(is_stored(operand) for operand in op.operands) and bool(nn.shape_of(result_of(op)))


def _evaluate(scope: Scope, op: _Arithmetic) -> str:
    """Replace an operation on stored data by its value; returns the key. What is small was folded before."""
    arrays = [scope.array(operand) for operand in op.operands]
    value = scope.run(op, [array for array in arrays if array is not None])
    weight = scope.weight(scope.name_of(op), value, nn.element_type_of(result_of(op)))
    scope.replace(op, [weight])
    return weight.key.data
