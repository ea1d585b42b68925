"""Sequences put together from parts: a class token before the patches, positions added to all of them."""

from __future__ import annotations

import numpy as np
from xdsl.dialects.builtin import TensorType, f32
from xdsl.ir import SSAValue
from xdsl.irdl import IRDLOperation

from compiler.dialects import nn
from compiler.passes.fusion.match import Array, Scope, is_f32, is_stored, orders, sole_user


def fuse_sequences(scope: Scope) -> None:
    """concat(parts) + stored positions -> concat(parts + their positions), which linears take as a residual."""
    for op in scope.each(nn.ConcatOp):
        add = sole_user(op.result)
        if not is_token_concat(op) or not isinstance(add, nn.BinaryOp) or add.kind.data is not nn.BinaryKind.ADD:
            continue
        for value, positions in orders(add):
            array = _stored(scope, positions)
            if value is op.result and array is not None and add.result.type == op.result.type:
                _add_to_parts(scope, op, add, array)
                break
    for op in scope.each(nn.BinaryOp):
        _store_positions(scope, op)
    scope.sweep()


_MOVEMENT = (nn.ReshapeOp, nn.TransposeOp, nn.ExpandOp, nn.SliceOp, nn.ConcatOp, nn.GatherOp)


def _stored(scope: Scope, value: SSAValue) -> Array | None:
    """Stored data, moved about or chosen by stored ids."""
    if is_stored(value) or not isinstance(value.owner, _MOVEMENT):
        return scope.array(value)
    arrays = [_stored(scope, operand) for operand in value.owner.operands]
    known = [array for array in arrays if array is not None]
    return scope.run(value.owner, known) if len(known) == len(arrays) else None


def is_token_concat(op: nn.ConcatOp) -> bool:
    """Whether tokens of one width, [b, n, d] each, follow each other."""
    return is_f32(op.result) and len(nn.shape_of(op.result)) == 3 and op.axis.value.data == 1


def _add_to_parts(scope: Scope, concat: nn.ConcatOp, add: nn.BinaryOp, positions: Array) -> None:
    wide = np.broadcast_to(positions, nn.shape_of(concat.result))
    ops: list[IRDLOperation] = []
    parts: list[SSAValue] = []
    start = 0
    for index, part in enumerate(concat.inputs):
        count = nn.shape_of(part)[1]
        rows = wide[:, start : start + count]
        stored = _stored(scope, part)
        key = f"{scope.name_of(add)}.{index}"
        if stored is not None:
            ops.append(scope.weight(key, np.ascontiguousarray(stored + rows)))
        else:
            table = scope.weight(key, np.ascontiguousarray(rows))
            ops += [table, nn.BinaryOp(nn.BinaryKind.ADD, part, table.result, TensorType(f32, nn.shape_of(part)))]
        parts.append(ops[-1].results[0])
        start += count
    ops.append(nn.ConcatOp(parts, 1, TensorType(f32, nn.shape_of(concat.result))))
    scope.replace(add, ops)


def _store_positions(scope: Scope, op: nn.BinaryOp) -> None:
    """linear + stored positions that broadcast over the batch -> linear + positions of the whole batch."""
    if op.kind.data is not nn.BinaryKind.ADD or not is_f32(op.result) or len(nn.shape_of(op.result)) != 3:
        return
    for value, positions in orders(op):
        wide = nn.shape_of(op.result)
        if not isinstance(value.owner, nn.LinearOp) or not value.has_one_use() or nn.shape_of(value) != wide:
            continue
        array = _stored(scope, positions)
        if array is None or array.ndim < 2 or (array.shape == wide and is_stored(positions)):
            continue
        table = scope.weight(f"{scope.name_of(op)}.rows", np.ascontiguousarray(np.broadcast_to(array, wide)))
        scope.replace(op, [table, nn.BinaryOp(nn.BinaryKind.ADD, value, table.result, TensorType(f32, wide))])
        return
