"""LayerScale: a linear whose outputs are multiplied by a stored vector is a linear with other weights."""

from __future__ import annotations

import numpy as np
from xdsl.dialects.builtin import TensorType

from compiler.dialects import nn
from compiler.passes.fusion.match import Scope, is_f32, is_stored, orders, result_of, type_of


def fuse_scaled_linears(scope: Scope) -> None:
    """(x W^T + b) * g -> x (g W)^T + g b: the rows of W keep their zeros and the ratios within a row."""
    for op in scope.each(nn.BinaryOp):
        if op.kind.data is nn.BinaryKind.MUL and is_f32(op.result):
            _fuse(scope, op)
    scope.sweep()


def _fuse(scope: Scope, op: nn.BinaryOp) -> None:
    for value, vector in orders(op):
        linear, shape = value.owner, nn.shape_of(vector)
        if not isinstance(linear, nn.LinearOp) or not value.has_one_use() or not is_stored(vector):
            continue
        outs = nn.shape_of(value)[-1]
        if nn.shape_of(value) != nn.shape_of(op.result) or shape[-1:] != (outs,) or int(np.prod(shape)) != outs:
            continue
        factor, weight = scope.array(vector), scope.array(linear.weight)
        bias = None if linear.bias is None else scope.array(linear.bias)
        source = nn.stored_weight(linear.weight)
        if factor is None or weight is None or source is None or (linear.bias is not None and bias is None):
            continue
        factor = factor.reshape(outs)
        scaled = scope.weight(f"{source.key.data}.scaled", weight * factor[:, None])
        biases = [] if bias is None else [scope.weight(f"{source.key.data}.scaled_bias", bias * factor)]
        operand = None if not biases else result_of(biases[0])
        type = TensorType(nn.element_type_of(op.result), nn.shape_of(op.result))
        new = nn.LinearOp(linear.role.data, linear.x, scaled.result, operand, type)
        assert type_of(new.result) == type_of(op.result)
        scope.replace(op, [scaled, *biases, new], location=linear)
        return
