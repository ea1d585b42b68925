"""`hpcc-sparsify{spec="nm:2:4"}`: prunes the linear weights inside the blocks by magnitude and says so in their types.

Before: `hpcc_nn.linear` ops with roles, their weights in the store. After: each pruned weight is a new store entry
(`KEY.SPEC`, same stored layout) that obeys the pattern, verified on the data, and its type carries the pattern. What is
left dense although its role is in scope says why in the attribute `hpcc.left_dense` of its linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import AnyFloat, ModuleOp, StringAttr, TensorType, f32
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter
from xdsl.utils.arg_spec import ArgSpec

from compiler.dialects.nn import DequantizeOp, LinearOp, QLinearOp, WeightOp, shape_of, stored_weight
from compiler.dialects.sparsity import attribute_of, pattern_of
from compiler.sparsity.patterns import HP, NM, Dense, Pattern, parse_pattern
from compiler.weights import Array, WeightStore, content_digest, row_major, store_of
from hw_targets.errors import UsageError

PRUNABLE = re.compile(r"layer\.\d+\.(attn\.(q|k|v|o)|ffn\.(up|gate|down))")
"""Roles pruned by default: the linears inside encoder and decoder blocks."""

LEFT_DENSE = "hpcc.left_dense"
_CACHED_ROWS = 256
MIN_GROUPS = 4
"""A row of fewer groups than this stays dense."""


@dataclass(frozen=True)
class SparsifyPass(ModulePass):
    """Prune with the pattern `spec`, resolved for targets of `kind`. Raises UsageError if it applies to no layer."""

    name = "hpcc-sparsify"
    spec: str  # pyright: ignore[reportIncompatibleMethodOverride]
    kind: str = "fpga"

    def pipeline_pass_spec(self, *, include_default: bool = False) -> ArgSpec:
        """The pass as a pipeline prints it; the base class's own method is hidden by the option `spec`."""
        return ModulePass.spec(self, include_default=include_default)

    def __str__(self) -> str:
        return str(self.pipeline_pass_spec())

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        pattern = parse_pattern(self.spec, self.kind).canonical()
        if not isinstance(pattern, Dense):
            sparsify(op, store_of(ctx, op), pattern)


def sparsify(module: ModuleOp, store: WeightStore, pattern: Pattern) -> None:
    """Prune every linear in scope. Tied weights are masked once; one that is also used out of scope stays as it is."""
    linears = [op for op in module.walk() if isinstance(op, LinearOp) and PRUNABLE.fullmatch(op.role.data)]
    shared = _digests_out_of_scope(module, store)
    reasons = {op: _reason_to_stay_dense(op, pattern, shared) for op in linears}
    weights = dict.fromkeys(stored_weight(op.weight) for op in linears if not reasons[op])
    if not weights:
        raise UsageError("HPCC2210", f"{pattern.spec()} applies to no layer of this model", hint=_why_none(reasons))
    done: dict[tuple[str, bool, str], str] = {}
    for weight in weights:
        assert weight is not None
        identity = weight.digest.data, weight.transposed, _scale_digest(weight)
        if identity not in done:
            done[identity] = _prune(weight, store, pattern)
        _replace(weight, done[identity], store, pattern)
    for op, reason in reasons.items():
        if reason:
            op.attributes[LEFT_DENSE] = StringAttr(reason)


def logical(array: Array, weight: WeightOp) -> Array:
    """The matrix out x in of a stored array, as a view."""
    return array.T if weight.transposed else array


def _dequantize_of(weight: WeightOp) -> DequantizeOp | None:
    """What turns a weight into fp32 if it is codes."""
    user = weight.result.get_user_of_unique_use()
    return user if isinstance(user, DequantizeOp) else None


def _scale_digest(weight: WeightOp) -> str:
    """The digest of the scale of codes, empty for other weights."""
    dequantize = _dequantize_of(weight)
    scale = None if dequantize is None else dequantize.scale.owner
    return scale.digest.data if isinstance(scale, WeightOp) else ""


def _is_pruned_use(operation: Operation, index: int) -> bool:
    if isinstance(operation, DequantizeOp):
        return index == 0 and all(_is_pruned_use(use.operation, use.index) for use in operation.result.uses)
    return isinstance(operation, LinearOp) and index == 1 and PRUNABLE.fullmatch(operation.role.data) is not None


def _in_scope(weight: WeightOp) -> bool:
    return all(_is_pruned_use(use.operation, use.index) for use in weight.result.uses)


def _digests_out_of_scope(module: ModuleOp, store: WeightStore) -> set[str]:
    """Digests, as stored and transposed, of the matrices used out of scope that a linear's weight could be tied to."""
    weights = [op for op in module.walk() if isinstance(op, WeightOp) and len(shape_of(op.result)) == 2]
    shapes = {tuple(sorted(shape_of(op.result))) for op in weights if _in_scope(op)}
    digests: set[str] = set()
    for op in weights:
        if not _in_scope(op) and tuple(sorted(shape_of(op.result))) in shapes:
            digests |= {op.digest.data, content_digest(store.get(op.key.data).T)}
    return digests


def _reason_to_stay_dense(op: LinearOp, pattern: Pattern, shared: set[str]) -> str:
    """Empty if the linear can be pruned."""
    weight, ins = stored_weight(op.weight), shape_of(op.weight)[1]
    if weight is None:
        return "its weight is computed, not stored"
    assert isinstance(op.weight.type, TensorType)
    if not isinstance(op.weight.type.element_type, AnyFloat):
        return f"its weights are {op.weight.type.element_type}, not floating point"
    if not _in_scope(weight) or weight.digest.data in shared:
        return "its weight is used outside of the blocks' linears too"
    if ins < MIN_GROUPS * pattern.group:
        return f"its {ins} inputs are fewer than {MIN_GROUPS} groups of {pattern.group}"
    return ""


def _why_none(reasons: dict[LinearOp, str]) -> str:
    if not reasons:
        return "it has no linear inside an encoder or decoder block; --list-layers prints the layers"
    op, reason = next(iter(reasons.items()))
    return f"{op.role.data}: {reason}"


def _prune(weight: WeightOp, store: WeightStore, pattern: Pattern) -> str:
    """Add the pruned matrix, in the stored layout, and return its key. Codes are ranked by what they stand for; those
    that are pruned become 0."""
    matrix = row_major(logical(store.get(weight.key.data), weight))
    dequantize = _dequantize_of(weight)
    scale = None if dequantize is None else stored_weight(dequantize.scale)
    factor = None if scale is None else np.broadcast_to(logical(store.get(scale.key.data), scale), matrix.shape)
    projected = np.empty_like(matrix)
    for rows in _row_blocks(pattern, len(matrix)):
        values = matrix[rows]
        mask = pattern.mask(values if factor is None else values * factor[rows])
        projected[rows] = np.where(mask, values, matrix.dtype.type(0))
    pattern.check(projected)
    stored = row_major(logical(projected, weight))  # transposing twice gives the stored layout
    return store.add(f"{weight.key.data}.{pattern.spec()}", stored)


def _row_blocks(pattern: Pattern, outs: int) -> Iterator[slice]:
    """Rows whose masks do not depend on each other, some hundred at a time: their scores fit a core's cache."""
    match pattern:
        case NM() if pattern.along == "in":
            step = _CACHED_ROWS
        case HP():
            step = -(-_CACHED_ROWS // pattern.rows) * pattern.rows
        case _:
            step = max(outs, 1)
    return (slice(start, start + step) for start in range(0, outs, step))


def _replace(weight: WeightOp, key: str, store: WeightStore, pattern: Pattern) -> None:
    type = weight.result.type
    assert isinstance(type, TensorType)
    pruned = WeightOp(
        key,
        store.digest(key),
        TensorType(type.element_type, type.get_shape(), attribute_of(pattern)),
        stored=None if weight.stored is None else weight.stored.data,
    )
    replace_weight(weight, pruned)


def replace_weight(old: WeightOp, new: WeightOp) -> None:
    """Put `new` in the place of `old`, with its location, name and other attributes."""
    block = old.parent
    assert block is not None
    new.location = old.location
    new.attributes.update(old.attributes)
    new.result.name_hint = old.result.name_hint
    block.insert_op_before(new, old)
    dequantize = _dequantize_of(old)
    old.result.replace_all_uses_with(new.result)
    if dequantize is not None:
        assert isinstance(new.result.type, TensorType)
        type = TensorType(f32, new.result.type.get_shape(), new.result.type.encoding)
        Rewriter.replace_value_with_new_type(dequantize.result, type)
    old.detach()
    old.erase()


# ---- what was pruned ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerPruning:
    """One linear inside the blocks: its pattern and how many of its `count` weights the pattern makes zero."""

    role: str
    key: str
    pattern: Pattern
    zeros: int
    count: int
    left_dense: str = ""


@dataclass(frozen=True)
class PruningSummary:
    """Zeros are counted by the patterns' closed forms: weights that happen to be 0 do not count. A tied weight counts
    once."""

    layers: tuple[LayerPruning, ...]

    @property
    def pruned_zeros(self) -> float:
        """Share of zeros of the pruned tensors."""
        return _share(layer for layer in self.layers if layer.zeros)

    @property
    def encoder_zeros(self) -> float:
        """Share of zeros of all linear weights inside the blocks."""
        return _share(self.layers)

    @property
    def zeros(self) -> int:
        return sum(layer.zeros for layer in _distinct(self.layers))


def _distinct(layers: Iterable[LayerPruning]) -> list[LayerPruning]:
    return list({layer.key: layer for layer in layers}.values())


def _share(layers: Iterable[LayerPruning]) -> float:
    distinct = _distinct(layers)
    count = sum(layer.count for layer in distinct)
    return sum(layer.zeros for layer in distinct) / count if count else 0.0


def pruning_summary(module: ModuleOp) -> PruningSummary:
    """What the types of the linears inside the blocks say, before or after `quantize` and `encode`."""
    layers: list[LayerPruning] = []
    for op in module.walk():
        if isinstance(op, LinearOp | QLinearOp) and PRUNABLE.fullmatch(op.role.data):
            outs, ins = shape_of(op.weight)
            pattern = pattern_of(op.weight.type)
            stored = stored_weight(op.weight)
            key = op.role.data if stored is None else stored.key.data
            reason = op.attributes.get(LEFT_DENSE)
            left_dense = reason.data if isinstance(reason, StringAttr) else ""
            zeros = outs * ins - pattern.kept(outs, ins)
            layers.append(LayerPruning(op.role.data, key, pattern, zeros, outs * ins, left_dense))
    return PruningSummary(tuple(layers))
