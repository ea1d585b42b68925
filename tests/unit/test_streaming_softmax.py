"""The streaming softmax: arrays against the scalar reference, ITA's published behaviour, its place in quantize and tiles."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.interpreters.evaluate import evaluate
from compiler.interpreters.tile import evaluate_tiles
from compiler.passes.quantize import QuantizePass
from compiler.passes.tile import tile_module
from hw_targets import resources, streaming_softmax
from hw_targets.load import load_target
from hw_targets.target import Target
from tests.golden import scalar_reference as scalar
from tests.golden.vector_reader import number
from tests.unit.tile_programs import apply, block_inputs, block_store, block_text, context, parse

U280 = load_target("fpga-u280")
SHIFTS = range(streaming_softmax.MAX_SHIFT + 1)


def exact(values: Any) -> list[Any]:
    return [number(int(bits)) for bits in np.asarray(values, np.float32).view(np.uint32).reshape(-1)]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(SHIFTS), st.integers(1, 4), st.integers(1, 40), st.booleans())
def test_the_scalar_reference_agrees(data: st.DataObject, shift: int, rows: int, cols: int, causal: bool) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    acc = random.integers(-40000, 40000, (rows, cols)).astype(np.int32)
    q, k = (random.uniform(0.001, 0.05, n).astype(np.float32) for n in (rows, cols))
    mask = random.integers(0, 2, cols).astype(np.uint8) if data.draw(st.booleans()) else None
    additive = random.normal(size=(rows, cols)).astype(np.float32) if data.draw(st.booleans()) else None
    p, total = streaming_softmax.softmax(acc, q, k, 0.125, mask, additive, shift=shift, causal=causal)
    additive_rows = None if additive is None else [exact(row) for row in additive]
    masks = None if mask is None else mask.tolist()
    wanted, sums = scalar.streaming_softmax(
        acc.tolist(), exact(q), exact(k), Fraction(1, 8), masks, additive_rows, causal, shift
    )
    assert (p.tolist(), total.tolist()) == (wanted, sums)


def test_what_ita_publishes() -> None:
    """64 random logits at shift 5: sums of probabilities around 210 of 255 (one draw of theirs; here the mean of 200)."""
    random = np.random.default_rng(0)
    live = np.ones((200, 64), np.bool_)
    fine = streaming_softmax.probabilities(random.integers(-128, 128, (200, 64)), live, 5).sum(axis=1)
    assert 190 < fine.mean() < 240
    alone = np.full((1, 64), -128)
    alone[0, 40] = 127
    assert streaming_softmax.probabilities(alone, live[:1], 0).tolist() == [[255 * (c == 40) for c in range(64)]]
    # By hand: two equal logits of which one arrives a group later; then one that is a factor of two below.
    row = np.full((1, 17), -128)
    row[0, 0], row[0, 16] = 10, 10
    p = streaming_softmax.probabilities(row, np.ones((1, 17), np.bool_), 5)
    assert p[0, [0, 16]].tolist() == [65280 // (2 * 256 + 15 * (256 >> 4))] * 2
    row[0, 16] = 42
    p = streaming_softmax.probabilities(row, np.ones((1, 17), np.bool_), 5)
    total = (256 + 15 * 16 >> 1) + 256
    assert p[0, [0, 16]].tolist() == [65280 // total >> 1, 65280 // total]


def test_scores_that_are_no_numbers_and_rows_without_keys() -> None:
    s = np.array([[np.nan, 1.0], [np.inf, 0.0], [1.0, 2.0]], np.float32)
    p, total = streaming_softmax.from_scores(s, np.array([[1, 1], [1, 1], [0, 0]], np.bool_), 5)
    assert p[0, 1] > p[0, 0]
    assert p[1, 0] > p[1, 1]
    assert total.tolist() == [255, 255, 0]
    assert not p[2].any()
    with pytest.raises(ValueError, match="2049 keys"):
        streaming_softmax.softmax(np.zeros((1, 2049), np.int32), np.ones(1), np.ones(2049), 1.0, shift=5)


def streaming(target: Target, shift: int) -> Target:
    design = replace(target.accelerator.design, softmax="streaming", softmax_shift=shift)
    return replace(target, accelerator=replace(target.accelerator, design=design))


@pytest.mark.parametrize(("shift", "causal"), [(0, False), (3, True), (5, False)])
def test_tiles_equal_the_whole_tensors(shift: int, causal: bool) -> None:
    store, inputs = block_store(32), block_inputs(2, 20)
    ctx = context(store)
    module = parse(block_text(2, 20, 32, 2, causal=causal), ctx)
    QuantizePass(streaming=shift).apply(ctx, module)
    golden = evaluate(module, store, inputs)["y"].reshape(40, 32)
    plain = apply(ctx, parse(block_text(2, 20, 32, 2, causal=causal), ctx), "quantize")
    assert not np.array_equal(golden, evaluate(plain, store, inputs)["y"].reshape(40, 32))
    apply(ctx, module, "encode-storage")
    tile_module(module, streaming(U280, shift), store)
    np.testing.assert_array_equal(evaluate_tiles(module, store, inputs)["y"], golden)


def test_it_is_priced() -> None:
    plain, built = U280.accelerator, streaming(U280, 5).accelerator
    more = resources.softmax_takes(built)
    assert resources.softmax_takes(plain) == resources.NO_RESOURCES
    assert more.lut == plain.lanes * resources.LUT_PER_STREAMING_LANE
    used = {p.name: p.takes for p in resources.bill(U280, built)}["VECTOR"].lut
    assert used - {p.name: p.takes for p in resources.bill(U280)}["VECTOR"].lut == more.lut
