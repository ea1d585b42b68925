"""`hpcc-factor`: a linear whose weight is the product of two smaller matrices becomes two linears.

Before: a weight's type says `low_rank` or `monarch`. After: `x right^T` and then `left^T` with the bias, the factors in new
entries of the store (`KEY.right`, `KEY.left`), their types with the zeros that the pattern gives them. The first linear's
role ends in `.basis`. Both carry the pattern as the attribute `hpcc.factor_of`, by which reports know them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr, TensorType
from xdsl.passes import ModulePass

from compiler.dialects.nn import LinearOp, WeightOp, shape_of, stored_weight
from compiler.dialects.sparsity import attribute_of, pattern_of
from compiler.passes.sparsify import FACTOR_OF, logical
from compiler.sparsity.base import Pattern
from compiler.sparsity.factored import Factored
from compiler.weights import Array, WeightStore, row_major, store_of
from hw_targets.storage import BASIS


@dataclass(frozen=True)
class FactorPass(ModulePass):
    """Split every linear with a factored weight; the others stay as they are."""

    name: ClassVar[str] = "hpcc-factor"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        factor(op, store_of(ctx, op))


def factor(module: ModuleOp, store: WeightStore) -> None:
    """Split every linear with a factored weight into two; tied weights are factorised once."""
    done: dict[tuple[str, bool], tuple[str, str]] = {}
    for linear in [found for found in module.walk() if isinstance(found, LinearOp)]:
        pattern, weight = pattern_of(linear.weight.type), stored_weight(linear.weight)
        if isinstance(pattern, Factored) and weight is not None:
            identity = weight.key.data, weight.transposed
            if identity not in done:
                done[identity] = _factorise(weight, pattern, store)
            _split(linear, weight, pattern, done[identity], store)


def dense_size(role: str, shape: tuple[int, int], inputs: Mapping[str, int]) -> int:
    """Weights that a layer's matrix of this shape has as it came: of two factors the second counts their product, the first
    nothing. `inputs` are those of all layers by role."""
    return 0 if role.endswith(BASIS) else shape[0] * inputs.get(role + BASIS, shape[1])


def _factorise(weight: WeightOp, pattern: Factored, store: WeightStore) -> tuple[str, str]:
    """The keys of left and right of a stored weight."""
    left, right = pattern.factors(row_major(logical(store.get(weight.key.data), weight)))
    return store.add(f"{weight.key.data}.left", left), store.add(f"{weight.key.data}.right", right)


def _split(linear: LinearOp, weight: WeightOp, pattern: Factored, keys: tuple[str, str], store: WeightStore) -> None:
    block = linear.parent_block()
    assert block is not None and isinstance(linear.result.type, TensorType) and isinstance(weight.result.type, TensorType)
    left, right = (_factor(weight, key, store.get(key), pattern.factor_pattern(), store) for key in keys)
    shape = (*shape_of(linear.x)[:-1], pattern.hidden(*shape_of(linear.weight)))
    between = TensorType(linear.result.type.element_type, shape)
    first = LinearOp(linear.role.data + BASIS, linear.x, right.result, None, between)
    second = LinearOp(linear.role.data, first.result, left.result, linear.bias, linear.result.type)
    for op in (first, second):
        op.location = linear.location
        op.attributes.update({**linear.attributes, FACTOR_OF: StringAttr(pattern.spec())})
    second.result.name_hint = linear.result.name_hint
    block.insert_ops_before([right, left, first, second], linear)
    linear.result.replace_all_uses_with(second.result)
    linear.detach()
    linear.erase()
    if not weight.result.uses:
        weight.detach()
        weight.erase()


def _factor(weight: WeightOp, key: str, array: Array, pattern: Pattern, store: WeightStore) -> WeightOp:
    assert isinstance(weight.result.type, TensorType)
    type = TensorType(weight.result.type.element_type, array.shape, attribute_of(pattern))
    factor = WeightOp(key, store.digest(key), type)
    factor.location = weight.location
    return factor
