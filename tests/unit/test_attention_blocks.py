"""Long sequences: attention by blocks of queries is attention of all of them, and needs a block's memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from xdsl.context import Context

from compiler.frontend.importer import import_onnx
from compiler.interpreters import nn_attention
from compiler.interpreters.evaluate import evaluate
from compiler.interpreters.nn_attention import Heads, attend, blocks
from compiler.passes.fuse import FusePass
from compiler.passes.partition import PartitionPass
from compiler.passes.quantize import QuantizePass
from compiler.weights import attach_store
from hw_targets.numerics import NARROW_KEYS
from tests.graphs import Encoder, feeds, write

TOKENS = 37


def test_blocks_cover_the_queries_once() -> None:
    assert [(b.start, b.stop) for b in blocks(10, nn_attention.SCORES_AT_ONCE // 4)] == [(0, 4), (4, 8), (8, 10)]
    assert [(b.start, b.stop) for b in blocks(3, 2 * nn_attention.SCORES_AT_ONCE)] == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["none", "mask", "row", "matrix"])
def test_in_floating_point(kind: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    q, k, v = (random.standard_normal((2, TOKENS, 8)).astype(np.float32) for _ in range(3))
    mask = random.integers(0, 2, (2, TOKENS)) if kind == "mask" else None
    biases = {
        "row": random.standard_normal((2, 1, 1, TOKENS)).astype(np.float32),
        "matrix": random.standard_normal((1, 2, TOKENS, TOKENS)).astype(np.float32),
    }
    heads, bias = Heads(2, 2, 0.5, causal), biases.get(kind)
    whole = attend(q, k, v, mask, bias, heads)
    monkeypatch.setattr(nn_attention, "SCORES_AT_ONCE", 5 * 4 * TOKENS)
    np.testing.assert_allclose(attend(q, k, v, mask, bias, heads), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tokens", [TOKENS, NARROW_KEYS + 3])
@pytest.mark.parametrize("mask", ["finfo", "causal"])
def test_in_integers_bit_for_bit(mask: str, tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Encoder(hidden=16, heads=2, intermediate=16, layers=1, positions=tokens, mask=mask)  # pyright: ignore
    imported = import_onnx(write(spec, tmp_path / "model.onnx", 1, tokens), {})
    ctx = Context()
    attach_store(ctx, imported.store)
    for stage in (FusePass(), PartitionPass(), QuantizePass()):
        stage.apply(ctx, imported.module)
    given = feeds(spec, 1, tokens)
    whole = evaluate(imported.module, imported.store, given)
    monkeypatch.setattr(nn_attention, "SCORES_AT_ONCE", 16 * tokens)
    parts = evaluate(imported.module, imported.store, given)
    assert all(np.array_equal(parts[name], value) for name, value in whole.items())


def test_memory_does_not_grow_with_the_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn_attention, "SCORES_AT_ONCE", 1 << 14)
    random = np.random.default_rng(4)
    q, k, v = (random.standard_normal((1, 2048, 4)).astype(np.float32) for _ in range(3))
    tracemalloc.start()
    attend(q, k, v, None, None, Heads(1, 1, 0.5))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2048 * 2048  # a byte a score, where they have four
