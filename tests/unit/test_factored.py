"""Products of two smaller matrices: the nearest one, its factors, its counts; and the pass that makes two linears of one."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.dialects.nn import LinearOp, shape_of
from compiler.dialects.sparsity import pattern_of
from compiler.interpreters.evaluate import evaluate
from compiler.passes.factor import FactorPass
from compiler.passes.sparsify import LEFT_DENSE, pruning_summary
from compiler.sparsity.base import Dense
from compiler.sparsity.factored import Factored
from compiler.sparsity.patterns import NM, parse_pattern
from hw_targets.errors import InputError, UsageError
from tests.unit.test_sparsify import Model

SPECS = ["low_rank:rank=2", "low_rank:0.6", "monarch:2:rank=1", "monarch:3:0.5", "monarch:4:rank=2"]
SHAPES = [(1, 1), (3, 7), (8, 8), (9, 4), (12, 20), (21, 10)]


def factored(spec: str) -> Factored:
    pattern = parse_pattern(spec)
    assert isinstance(pattern, Factored)
    return pattern


def matrix(outs: int, ins: int) -> np.ndarray:
    return np.random.default_rng(outs + 31 * ins).normal(size=(outs, ins)).astype(np.float32)


def plain_nearest(w: np.ndarray, blocks: int, rank: int) -> np.ndarray:
    """Eckart and Young, part by part."""
    result, rows = np.zeros_like(w), -(-len(w) // blocks)
    for top in range(0, len(w), rows):
        for first in range(blocks):
            part = w[top : top + rows, first::blocks].astype(np.float64)
            u, s, v = np.linalg.svd(part, full_matrices=False)
            result[top : top + rows, first::blocks] = (u[:, :rank] * s[:rank]) @ v[:rank]
    return result


@pytest.mark.parametrize("spec", SPECS)
def test_projection_is_the_nearest_and_its_factors_are_exact(spec: str) -> None:
    pattern = factored(spec)
    for outs, ins in SHAPES:
        w, rank = matrix(outs, ins), pattern.rank_of(outs, ins)
        projected = pattern.project(w)
        assert np.allclose(projected, plain_nearest(w, pattern.parts, rank), atol=1e-5)
        pattern.check(projected)
        left, right = pattern.factors(projected)
        assert np.allclose(left @ right, projected, atol=1e-5)
        assert left.shape[1] == right.shape[0] == pattern.hidden(outs, ins)
        for factor in (left, right):
            pattern.factor_pattern().check(factor)
        if outs % pattern.parts == ins % pattern.parts == 0:
            assert np.count_nonzero(left) + np.count_nonzero(right) == pattern.free(outs, ins)


def test_a_share_gives_at_most_that_many_values() -> None:
    for spec in ("low_rank:0.75", "monarch:4:0.75"):
        assert 0.22 * 384 * 1536 < factored(spec).free(384, 1536) <= 0.25 * 384 * 1536


def test_another_matrix_is_no_product() -> None:
    pattern = factored("low_rank:rank=2")
    w = pattern.project(matrix(12, 20))
    w[3, 4] += 0.1
    with pytest.raises(InputError, match="away from the nearest low_rank:rank=2 matrix"):
        pattern.check(w)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("low_rank", "takes a rank or a share"),
        ("low_rank:rank=0", "leaves no values"),
        ("low_rank:1", "leaves no values"),
        ("low_rank:1.5", "leaves no values"),
        ("low_rank:-1", "leaves no values"),
        ("low_rank:many", "is no share"),
        ("monarch:1:0.5", "2 to 256 blocks"),
        ("monarch:4", "takes a rank or a share"),
        ("monarch:x:0.5", "is not a whole number"),
        ("monarch:32:0.5", "do not fit the accelerator"),
        ("low_rank:size=3", "has no parameter"),
    ],
)
def test_bad_spellings(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_pattern(spec)


@pytest.mark.parametrize(("spec", "zeros"), [("low_rank:0.5", Dense()), ("monarch:4:0.5", NM(1, 4))])
def test_a_linear_becomes_two(spec: str, zeros: object) -> None:
    model = Model(("layer.0.attn.q", "a", "oi"), ("layer.0.attn.k", "a", "io"), ("pooler", "b", "oi")).sparsify(spec)
    summary = pruning_summary(model.module)
    assert summary.found().startswith(f"auto: found {parse_pattern(spec).describe()} in 2 matri")
    x = {"input0": matrix(4, 64).reshape(1, 4, 64)}
    before = next(iter(evaluate(model.module, model.store, x).values()))
    FactorPass().apply(model.ctx, model.module)
    model.module.verify()
    assert [op.role.data for op in model.linears] == [
        "layer.0.attn.q.basis",
        "layer.0.attn.q",
        "layer.0.attn.k.basis",
        "layer.0.attn.k",
        "pooler",
    ]
    assert [pattern_of(op.weight.type) for op in model.linears] == [zeros] * 4 + [Dense()]
    after = next(iter(evaluate(model.module, model.store, x).values()))
    assert np.abs(after - before).max() < 1e-5 * np.abs(before).max()
    again = pruning_summary(model.module)
    assert [(layer.role, layer.pattern, layer.count) for layer in again.layers] == [
        (layer.role, layer.pattern, layer.count) for layer in summary.layers
    ]
    FactorPass().apply(model.ctx, model.module)
    assert len(model.linears) == 5, "a second time there is nothing left to do"


def test_factors_with_more_weights_than_the_matrix_are_refused() -> None:
    with pytest.raises(UsageError, match="applies to no layer") as error:
        Model(("layer.0.attn.q", "a", "oi")).sparsify("low_rank:rank=32")
    assert "its factors would have 4,096 weights, it has 4,096" in error.value.hint


def test_shapes_of_both_linears() -> None:
    model = Model(("layer.0.attn.q", "a", "oi")).sparsify("low_rank:rank=5")
    FactorPass().apply(model.ctx, model.module)
    first, second = (op for op in model.module.walk() if isinstance(op, LinearOp))
    assert (shape_of(first.weight), shape_of(second.weight)) == ((5, 64), (64, 5))
    assert LEFT_DENSE not in second.attributes
