"""From whole tensors to a checked program: the bits stay those of the quantize interpreter, for any shape and order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.backends.fpga.emission import program_parts
from compiler.backends.fpga.lowering import SLOTS, TileSizes
from compiler.interpreters.evaluate import evaluate
from compiler.interpreters.tile import evaluate_tiles
from hw_targets.check import Semaphore, check_program
from tests.unit import tile_programs as tp


def assert_same_bits(batch: int, tokens: int, width: int, heads: int, seed: int = 0) -> int:
    """Quantise, tile, schedule and emit one block, comparing bits on the way; the number of instructions."""
    store = tp.block_store(width, seed)
    ctx = tp.context(store)
    inputs = tp.block_inputs(batch, tokens, seed)
    module = tp.apply(ctx, tp.parse(tp.block_text(batch, tokens, width, heads), ctx), "quantize", "encode-storage")
    expected = evaluate(module, store, inputs)["y"].reshape(batch * tokens, width)
    for stage in ("tile", "schedule"):
        tp.apply(ctx, module, stage)
        tp.apply(ctx, module, "verify-stage", stage=stage)
        np.testing.assert_array_equal(evaluate_tiles(module, store, inputs)["y"], expected, err_msg=stage)
    tp.apply(ctx, module, "emit")
    tp.apply(ctx, module, "verify-stage", stage="emit")
    parts = program_parts(module)
    semaphores = [Semaphore(str(n), 0, use.producer, use.consumer) for n, use in enumerate(parts.semaphores)]
    check_program(parts.instructions, semaphores, parts.sizes)
    return len(parts.instructions)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 3), st.integers(1, 70), st.sampled_from([(16, 1), (32, 2), (48, 3), (40, 5)]), st.integers(0, 99))
def test_any_shape(batch: int, tokens: int, shape: tuple[int, int], seed: int) -> None:
    assert_same_bits(batch, tokens, *shape, seed)


@pytest.mark.parametrize(("batch", "tokens"), [(1, 200), (1, 257), (2, 300)])
def test_sequences_with_a_tail_of_query_rows(batch: int, tokens: int) -> None:
    assert_same_bits(batch, tokens, 16, 2)


def test_loops_keep_programs_short() -> None:
    """Four times the sequences or the heads are not four times the instructions."""
    one, four = assert_same_bits(1, 32, 32, 2), assert_same_bits(8, 32, 32, 2)
    assert four < 3 * one


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 1 << 22), st.sampled_from([8, 16, 64]), st.integers(1, 4096), st.integers(1, 512))
def test_tiles_fit_the_accumulators(acc_bytes: int, lanes: int, widest: int, keys: int) -> None:
    """Twice, as one is drained while the next is filled, unless not even one row fits (then `schedule` says so)."""
    sizes = TileSizes.for_accumulators(acc_bytes, lanes, widest, keys)
    for rows, width, limit in ((sizes.tokens, widest, max(32, lanes)), (sizes.queries, keys, 128)):
        assert 1 <= rows <= limit
        assert rows == 1 or SLOTS * rows * width * 4 <= acc_bytes
        assert rows == limit or SLOTS * 2 * rows * width * 4 > acc_bytes
