"""The two ends of an encoder: embedding sums, mean pooling, and the token that a pooler reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import IntegerType, TensorType, f32
from xdsl.ir import SSAValue
from xdsl.irdl import IRDLOperation

from compiler.dialects import nn
from compiler.passes.fusion.masks import MaskProver
from compiler.passes.fusion.match import (
    Scope,
    binary,
    is_f32,
    made_by,
    orders,
    scaled,
    type_of,
    with_scalar,
)

# ---- embeddings -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """One term of an embedding sum: rows of a table chosen by ids. New weights come with it."""

    ids: SSAValue
    table: SSAValue
    ops: tuple[IRDLOperation, ...]
    is_lookup: bool


def fuse_embeddings(scope: Scope) -> None:
    for op in scope.each(nn.BinaryOp):
        _scale_table(scope, op)
    for op in reversed(list(scope.each(nn.BinaryOp))):
        if op.kind.data is nn.BinaryKind.ADD and is_f32(op.result) and op.parent is not None:
            _fuse_sum(scope, op)
    for op in scope.each(nn.GatherOp):
        _fuse_sum(scope, op)
    scope.sweep()


def _scale_table(scope: Scope, op: nn.BinaryOp) -> None:
    """table[ids] * c -> (table * c)[ids], as models write that scale their embeddings."""
    step = scaled(op.result)
    gather = None if step is None else made_by(step[0], nn.GatherOp)
    if step is None or gather is None or gather.axis.value.data != 0 or len(nn.shape_of(op.result)) != 3:
        return
    table, array = nn.stored_weight(gather.x), scope.array(gather.x)
    if table is None or array is None or array.dtype != np.float32 or not gather.result.has_one_use():
        return
    weight = scope.weight(f"{table.key.data}.scaled", array * np.float32(step[1]))
    scope.replace(op, [weight, nn.GatherOp(weight.result, gather.indices, 0, type_of(op.result))])


def _terms(value: SSAValue, root: bool = True) -> list[SSAValue]:
    """The terms of a sum in the order they are added."""
    add = binary(value, nn.BinaryKind.ADD)
    if add is None or not (root or value.has_one_use()):
        return [value]
    return [*_terms(add.lhs, False), *_terms(add.rhs, False)]


def _fuse_sum(scope: Scope, op: nn.BinaryOp | nn.GatherOp) -> None:
    shape = nn.shape_of(op.result)
    if len(shape) != 3 or not is_f32(op.result):
        return
    rows = [_rows(scope, term, shape) for term in _terms(op.result)]
    found = [row for row in rows if row is not None]
    if len(found) != len(rows) or not any(row.is_lookup for row in found):
        return
    if nn.broadcast_shape(*(nn.shape_of(row.ids) for row in found)) != shape[:2]:
        return
    new = [extra for row in found for extra in row.ops]
    embedding = nn.EmbeddingOp([row.ids for row in found], [row.table for row in found], type_of(op.result))
    scope.replace(op, [*new, embedding])


def _rows(scope: Scope, value: SSAValue, shape: tuple[int, ...]) -> Rows | None:
    gather = made_by(value, nn.GatherOp)
    if gather is None:
        return _constant_rows(scope, value, shape)
    table = nn.stored_weight(gather.x)
    if table is None or gather.axis.value.data != 0 or len(nn.shape_of(gather.x)) != 2 or not is_f32(gather.x):
        return None
    if nn.shape_of(gather.x)[1] != shape[2]:
        return None
    array = scope.array(gather.indices)
    if array is not None:
        entries = nn.shape_of(gather.x)[0]
        return _fixed_rows(scope, np.where(array < 0, array + entries, array), gather.x, f"{table.key.data}.ids")
    ids = _integer_source(gather.indices)
    return Rows(ids, gather.x, (), True) if len(nn.shape_of(ids)) == 2 else None


def _fixed_rows(scope: Scope, ids: np.ndarray, table: SSAValue, key: str) -> Rows | None:
    if ids.ndim not in (1, 2):
        return None
    weight = scope.weight(key, ids.reshape(-1, ids.shape[-1]).astype(np.int64, copy=False))
    return Rows(weight.result, table, (weight,), False)


def _constant_rows(scope: Scope, value: SSAValue, shape: tuple[int, ...]) -> Rows | None:
    """A position tensor that the exporter has folded, [s, d] or [1, s, d], is a table read in order."""
    weight, array = made_by(value, nn.WeightOp), scope.array(value)
    if weight is None or array is None or array.dtype != np.float32 or array.shape[-2:] != shape[1:]:
        return None
    if array.ndim == 3 and array.shape[0] != 1:
        return None
    table = scope.weight(f"{weight.key.data}.rows", array.reshape(shape[1:]))
    rows = _fixed_rows(scope, np.arange(shape[1]), table.result, f"{weight.key.data}.ids")
    return None if rows is None else Rows(rows.ids, rows.table, (table, *rows.ops), False)


def fuse_stored_tokens(scope: Scope) -> None:
    """Stored tokens that a linear layer reads, such as the query of an attention that pools: rows of a table, in order."""
    for op in scope.each(nn.LinearOp):
        array = scope.array(op.x) if is_f32(op.x) else None
        if array is None or array.ndim != 3:
            continue
        batch, tokens, width = array.shape
        key = f"{scope.name_of(op)}.tokens"
        table = scope.weight(key, np.ascontiguousarray(array.reshape(batch * tokens, width)))
        ids = scope.weight(f"{key}.ids", np.arange(batch * tokens, dtype=np.int64).reshape(batch, tokens))
        rows = nn.EmbeddingOp([ids.result], [table.result], type_of(op.x))
        linear = nn.LinearOp(op.role.data, rows.result, op.weight, op.bias, type_of(op.result))
        scope.replace(op, [table, ids, rows, linear])
    scope.sweep()


def _integer_source(value: SSAValue) -> SSAValue:
    """The ids before casts between integer types."""
    while (cast := made_by(value, nn.CastOp)) is not None and isinstance(nn.element_type_of(cast.x), IntegerType):
        if nn.element_type_of(cast.x) == IntegerType(1):
            break
        value = cast.x
    return value


# ---- pooling --------------------------------------------------------------------------------------------------------


def fuse_mean_pools(scope: Scope, prover: MaskProver) -> None:
    """sum_t x[t] m[t] / max(sum_t m[t], minimum)."""
    for op in scope.each(nn.BinaryOp):
        if op.kind.data is nn.BinaryKind.DIV and is_f32(op.result):
            _fuse_mean_pool(scope, prover, op)
    scope.sweep()


def _fuse_mean_pool(scope: Scope, prover: MaskProver, op: nn.BinaryOp) -> None:
    total = made_by(op.lhs, nn.ReduceOp)
    product = None if total is None or not _sums_tokens(total) else binary(total.x, nn.BinaryKind.MUL)
    if product is None or nn.shape_of(op.lhs) != nn.shape_of(op.result):
        return
    for x, weights in orders(product):
        if len(nn.shape_of(x)) != 3 or nn.shape_of(x) != nn.shape_of(product.result):
            continue
        batch, tokens, width = nn.shape_of(x)
        mask = prover.weights_of_tokens(weights, batch, tokens)
        count = None if mask is None else _count(prover, op.rhs, batch, tokens)
        if mask is None or count is None or count[0] is not mask:
            continue
        pool = nn.MeanPoolOp(x, mask, count[1], TensorType(f32, [batch, width]))
        reshape = [] if type_of(op.result) == pool.result.type else [nn.ReshapeOp(pool.result, type_of(op.result))]
        scope.replace(op, [pool, *reshape])
        return


def _sums_tokens(op: nn.ReduceOp) -> bool:
    return op.kind.data is nn.ReduceKind.SUM and op.axis_tuple == (1,)


def _count(prover: MaskProver, value: SSAValue, batch: int, tokens: int) -> tuple[SSAValue, float] | None:
    """(mask, minimum) if value is max(number of set entries of the mask, minimum) per sample.

    Without a lower bound the minimum is 1: the count is an integer, and a sample without tokens pools to 0, not to NaN.
    """
    minimum = 1.0
    clipped = with_scalar(value, nn.BinaryKind.MAX)
    if clipped is not None:
        value, minimum = clipped
    while isinstance(value.owner, nn.ReshapeOp | nn.ExpandOp | nn.CastOp) and nn.shape_of(value)[:1] == (batch,):
        value = value.owner.x
    total = made_by(value, nn.ReduceOp)
    if total is None or not _sums_tokens(total) or nn.shape_of(value)[:1] != (batch,):
        return None
    mask = prover.weights_of_tokens(total.x, batch, tokens)
    return None if mask is None else (mask, minimum)


# ---- one token ------------------------------------------------------------------------------------------------------


def fuse_take_tokens(scope: Scope) -> None:
    for op in scope.each(nn.GatherOp):
        indices = scope.array(op.indices)
        if indices is not None and indices.size == 1 and op.axis.value.data == 1:
            _take(scope, op, int(indices.reshape(-1)[0]))
    for op in scope.each(nn.SliceOp):
        starts = nn.int_values(op.starts)
        source, sizes = nn.shape_of(op.x), nn.shape_of(op.result)
        if len(source) == 3 and sizes[1] == 1 and sizes[0] == source[0] and sizes[2] == source[2]:
            _take(scope, op, starts[1])
    scope.sweep()


def _take(scope: Scope, op: nn.GatherOp | nn.SliceOp, index: int) -> None:
    shape = nn.shape_of(op.x)
    if len(shape) != 3 or not is_f32(op.x):
        return
    take = nn.TakeTokenOp(op.x, index % shape[1], TensorType(f32, [shape[0], shape[2]]))
    reshape = [] if type_of(op.result) == take.result.type else [nn.ReshapeOp(take.result, type_of(op.result))]
    scope.replace(op, [take, *reshape])
