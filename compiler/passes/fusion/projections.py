"""Fused projections: one linear whose outputs are split into q, k and v becomes one linear each.

Which outputs a part takes is not matched but run, on an index array: Split, Slice, or a reshape, a permutation and a choice,
with q, k and v side by side or interleaved by head.
"""

from __future__ import annotations

import numpy as np
from xdsl.dialects.builtin import TensorType
from xdsl.ir import Operation, SSAValue
from xdsl.irdl import IRDLOperation

from compiler.dialects import nn
from compiler.passes.fusion.match import Array, Scope, is_f32, result_of

_MOVEMENT = (nn.ReshapeOp, nn.TransposeOp)
TOKENS_FIRST = -1


def split_projections(scope: Scope) -> None:
    for kind in (nn.SliceOp, nn.GatherOp):
        for op in scope.each(kind):
            if is_f32(op.results[0]):
                _split(scope, op)
    scope.sweep()


def _split(scope: Scope, op: nn.SliceOp | nn.GatherOp) -> None:
    chain: list[Operation] = [op]
    value = op.x
    while isinstance(value.owner, _MOVEMENT):
        chain.append(value.owner)
        value = value.owner.x
    linear = value.owner
    if not isinstance(linear, nn.LinearOp) or len(nn.shape_of(value)) != 3:
        return
    taken = _indices(scope, chain[::-1], nn.shape_of(value))
    if taken is None:
        return
    outs = nn.shape_of(value)[2]
    features = np.unique(taken % outs)
    if len(features) == outs or taken.size * outs != np.prod(nn.shape_of(value)) * len(features):
        return
    _emit(scope, op, linear, features, taken)


def _indices(scope: Scope, chain: list[Operation], shape: tuple[int, ...]) -> Array | None:
    moved = np.arange(int(np.prod(shape))).reshape(shape)
    for op in chain:
        extra = [scope.array(operand) for operand in op.operands[1:]]
        known = [array for array in extra if array is not None]
        if len(known) != len(extra):
            return None
        moved = scope.run(op, [moved, *known])
    return moved


def _emit(scope: Scope, op: Operation, linear: nn.LinearOp, features: Array, taken: Array) -> None:
    batch, tokens, outs = nn.shape_of(linear.result)
    part = np.arange(batch * tokens)[:, None] * outs + features
    movement = _movement(part.reshape(batch, tokens, -1), taken)
    weight = scope.array(linear.weight)
    source = nn.stored_weight(linear.weight)
    bias = None if linear.bias is None else scope.array(linear.bias)
    if movement is None or weight is None or source is None or (linear.bias is not None and bias is None):
        return
    rows = slice(int(features[0]), int(features[-1]) + 1) if np.all(np.diff(features) == 1) else features
    key = f"{source.key.data}[{features[0]}:{features[-1] + 1}]"
    stored: list[IRDLOperation] = [scope.weight(key, weight[rows])]
    if bias is not None:
        stored.append(scope.weight(f"{key}.bias", bias[rows]))
    element = nn.element_type_of(linear.result)
    operand = result_of(stored[1]) if bias is not None else None
    type = TensorType(element, [batch, tokens, len(features)])
    new = nn.LinearOp(linear.role.data, linear.x, result_of(stored[0]), operand, type)
    ops: list[IRDLOperation] = [*stored, new]
    value: SSAValue = new.result
    if movement == TOKENS_FIRST:
        ops.append(nn.TransposeOp(value, (1, 0, 2), TensorType(element, [tokens, batch, len(features)])))
    elif movement:
        reshape = nn.ReshapeOp(value, TensorType(element, [batch, tokens, movement, len(features) // movement]))
        turned = TensorType(element, [batch, movement, tokens, len(features) // movement])
        ops += [reshape, nn.TransposeOp(reshape.result, (0, 2, 1, 3), turned)]
    if nn.shape_of(result_of(ops[-1])) != taken.shape:
        ops.append(nn.ReshapeOp(result_of(ops[-1]), TensorType(element, list(taken.shape))))
    scope.replace(op, ops, location=linear)


def _movement(part: Array, taken: Array) -> int | None:
    """0 if `taken` is the part itself, the number of heads if it is split into [b, h, s, d], TOKENS_FIRST if it is
    [s, b, h * d], None if none of these."""
    if np.array_equal(taken.reshape(-1), part.reshape(-1)):
        return 0
    if np.array_equal(taken.reshape(-1), part.transpose(1, 0, 2).reshape(-1)):
        return TOKENS_FIRST
    batch, tokens, width = part.shape
    for heads in {size for size in taken.shape if size > 1 and width % size == 0}:
        split = part.reshape(batch, tokens, heads, -1).transpose(0, 2, 1, 3)
        if np.array_equal(taken.reshape(-1), split.reshape(-1)):
            return heads
    return None
