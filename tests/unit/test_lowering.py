"""From whole tensors to a checked program: the bits stay those of the quantize interpreter, for any shape and order."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.backends.fpga.emission import program_parts
from compiler.backends.fpga.lowering import SLOTS
from compiler.backends.fpga.planning import MOST_QUERIES, MOST_TOKENS, Extent, plans
from compiler.interpreters.evaluate import evaluate
from compiler.interpreters.tile import evaluate_tiles
from hw_targets.catalogue import target_files
from hw_targets.check import Semaphore, check_program
from hw_targets.target import Accelerator
from tests.unit import tile_programs as tp


def assert_same_bits(
    batch: int,
    tokens: int,
    width: int,
    heads: int,
    seed: int = 0,
    target: str = "fpga-u280",
    functions: Counter[str] | None = None,
) -> int:
    """Quantise, tile, schedule and emit one block, comparing bits on the way; the number of instructions."""
    store = tp.block_store(width, seed)
    ctx = tp.context(store)
    inputs = tp.block_inputs(batch, tokens, seed)
    module = tp.apply(ctx, tp.parse(tp.block_text(batch, tokens, width, heads), ctx), "quantize", "encode-storage")
    expected = evaluate(module, store, inputs)["y"].reshape(batch * tokens, width)
    for stage in ("tile", "schedule"):
        tp.apply(ctx, module, stage, target=target)
        tp.apply(ctx, module, "verify-stage", stage=stage)
        np.testing.assert_array_equal(evaluate_tiles(module, store, inputs)["y"], expected, err_msg=stage)
    tp.apply(ctx, module, "emit")
    tp.apply(ctx, module, "verify-stage", stage="emit")
    parts = program_parts(module)
    semaphores = [Semaphore(str(n), 0, use.producer, use.consumer) for n, use in enumerate(parts.semaphores)]
    check_program(parts.instructions, semaphores, parts.sizes)
    if functions is not None:
        functions.update(instruction.name for instruction in parts.instructions)
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
    accelerator = Accelerator(1, lanes, 8, 8, 32, 8, 1, 1, 1 << 20, acc_bytes, 1, 1)
    first = next(plans(accelerator, Extent(widest, keys)))[0]
    assert not first.spill
    for rows, width, limit in ((first.tokens, widest, max(MOST_TOKENS, lanes)), (first.queries, keys, MOST_QUERIES)):
        assert 1 <= rows <= limit
        assert rows == 1 or SLOTS * rows * width * 4 <= acc_bytes
        assert rows == limit or SLOTS * 2 * rows * width * 4 > acc_bytes


def test_a_board_without_room_keeps_activations_in_dram_and_streams_weights(tmp_path: Path) -> None:
    """The same bits from a board with a few kilobytes: tensors pass through temporaries, weights in parts."""
    text = target_files()["fpga-pynq-z2"].read_text()
    for key, size in (("act_bytes", 49152), ("weight_bytes", 21504)):
        text = re.sub(rf"^{key} = .*$", f"{key} = {size}", text, flags=re.M)
    board = tmp_path / "tiny.toml"
    board.write_text(text)
    functions = Counter[str]()
    assert_same_bits(2, 150, 64, 2, target=str(board), functions=functions)
    assert functions["load.rows"]  # keys come back from DRAM
    assert functions["store.copy"] > functions["vector.pool"] + 2  # and more than the outputs goes there
    assert functions["load.weights"] > 4  # four weights in more than four parts
