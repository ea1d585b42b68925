"""From whole tensors to a checked program: the bits stay those of the quantize interpreter, for any shape and order."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.backends.fpga import ordering
from compiler.backends.fpga.emission import program_parts
from compiler.backends.fpga.planning import SLOTS, Cut, Extent, Linear, TilePlan, cut, plans
from compiler.backends.fpga.weights import WeightPlan
from compiler.interpreters.evaluate import evaluate
from compiler.interpreters.tile import evaluate_tiles
from hw_targets.catalogue import target_files
from hw_targets.check import Semaphore, check_program
from hw_targets.codec import expand
from hw_targets.load import load_target
from tests.unit import tile_programs as tp


def assert_same_bits(
    batch: int,
    tokens: int,
    width: int,
    heads: int,
    seed: int = 0,
    target: str = "fpga-u280",
    functions: Counter[str] | None = None,
    *,
    causal: bool = False,
    bias: tuple[int, ...] = (),
    stored: bool = True,
) -> int:
    """Quantise, tile, schedule and emit one block, comparing bits on the way; the number of instructions."""
    store = tp.block_store(width, seed, bias)
    ctx = tp.context(store)
    inputs = tp.block_inputs(batch, tokens, seed)
    if bias and not stored:
        inputs["bias"] = 3 * np.random.default_rng(seed).standard_normal(bias).astype(np.float32)
    text = tp.block_text(batch, tokens, width, heads, causal=causal, bias=bias, stored=stored)
    module = tp.apply(ctx, tp.parse(text, ctx), "quantize", "encode-storage")
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


@pytest.mark.parametrize(
    ("bias", "stored", "causal"),
    [
        ((1, 3, 40, 40), True, False),
        ((40, 40), True, True),
        ((3, 1, 40), True, True),
        ((2, 1, 1, 40), False, False),
        ((6, 40, 40), False, True),
        ((40,), False, False),
    ],
    ids=["each head", "all heads", "key and head", "sequence", "sequence and head", "key"],
)
def test_a_bias_of_any_shape(bias: tuple[int, ...], stored: bool, causal: bool) -> None:
    assert_same_bits(2, 40, 24, 3, causal=causal, bias=bias, stored=stored)


@pytest.mark.parametrize(
    "bias", [pytest.param((1, 2, 300, 300), marks=pytest.mark.slow), (2, 1, 300)], ids=["rows", "one row"]
)
def test_a_bias_of_keys_in_pieces(bias: tuple[int, ...], tmp_path: Path) -> None:
    """Maxima first, then probabilities: both read the piece's columns of the bias."""
    functions = Counter[str]()
    board = small_board(tmp_path, acc_bytes=16384)
    assert_same_bits(1, 300, 16, 2, target=board, functions=functions, bias=bias)
    assert functions["vector.maximum"]


def test_a_bias_is_loaded_and_its_bytes_are_counted() -> None:
    """Once for each block of queries, and nothing else moves more."""
    sizes: dict[bool, int] = {}
    for biased in (False, True):
        bias = (1, 2, 64, 64) if biased else ()
        store = tp.block_store(16, 0, bias)
        ctx = tp.context(store)
        passes = ("quantize", "encode-storage", "tile", "schedule", "emit")
        module = tp.apply(ctx, tp.parse(tp.block_text(1, 64, 16, 2, bias=bias), ctx), *passes)
        parts = program_parts(module)
        loads = [i for i in expand(parts.instructions) if i.name == "load.copy"]
        sizes[biased] = sum(load.integer("rows") * load.integer("row_bytes") for load in loads)
    assert sizes[True] - sizes[False] == 2 * 64 * 64 * 4


def test_loops_keep_programs_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight times the sequences are not eight times the instructions, once a program is too long to be list-scheduled."""
    monkeypatch.setattr(ordering, "MOST_TASKS", 8)
    one, four = assert_same_bits(1, 32, 32, 2), assert_same_bits(8, 32, 32, 2)
    assert four < 3 * one


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 1 << 22),
    st.sampled_from([8, 16, 64]),
    st.integers(1, 4096),
    st.integers(1, 512),
    st.integers(1, 300),
    st.booleans(),
)
def test_tiles_fit_the_memories(acc_bytes: int, lanes: int, outs: int, keys: int, tokens: int, spill: bool) -> None:
    """Accumulators in one or two places, temporaries in the activation memory, unless not even one row fits."""
    board = load_target("fpga-pynq-z2")
    target = replace(board, accelerator=replace(board.accelerator, tokens=lanes, acc_bytes=acc_bytes))
    for variants in plans(target.accelerator, Extent(keys)):
        for plan in variants:
            linear = Linear(WeightPlan.dense("w", outs, 64), tokens, 64 * spill, (64 + 3 * outs) * spill, 2)
            choice = cut(target, plan, linear)
            assert 1 <= choice.rows <= max(tokens, 1)
            assert choice.rows == 1 or choice.slots * choice.rows * outs * 4 <= acc_bytes
            staged = choice.rows * (choice.slots * linear.input_bytes + SLOTS * 3 * outs * spill)
            assert choice.rows == 1 or staged <= plan.stage_bytes
            assert not choice.resident or linear.weight.compute_bytes <= plan.weight_bytes


def test_weights_stay_or_stream_as_is_faster() -> None:
    """Two small weights fit side by side, so the next one loads ahead; of two large ones the second would be waited for."""
    target = load_target("fpga-zcu104")
    plan = TilePlan(32, 256, 128, 1 << 20, 1 << 19, 1 << 18, target.accelerator.acc_bytes, 0, 1 << 20, spill=False)
    small, large = (Linear(WeightPlan.dense("w", outs, 768), 128, 0, 0, 2) for outs in (640, 1280))
    assert cut(target, plan, small) == Cut(True, 32, 2)
    assert not cut(target, plan, large).resident
    # With one task's worth of tokens there is nothing to load a weight again for, and nothing that hides the load.
    assert cut(target, plan, replace(small, tokens=8)).resident
    # Where DRAM is slow, streaming past every task costs more than waiting once.
    slow = replace(target, memory=replace(target.memory, gbytes_per_s=1.0))
    assert cut(slow, replace(plan, streaming_tokens=32), large).resident


def test_a_board_without_room_keeps_activations_in_dram_and_streams_weights(tmp_path: Path) -> None:
    """The same bits from a board with a few kilobytes: tensors pass through temporaries, weights in parts."""
    functions = Counter[str]()
    board = small_board(tmp_path, act_bytes=49152, weight_bytes=10240)
    assert_same_bits(2, 150, 64, 2, target=board, functions=functions)
    assert functions["load.rows"]  # keys come back from DRAM
    assert functions["store.copy"] > functions["vector.pool"] + 2  # and more than the outputs goes there
    assert functions["load.weights"] > 4  # four weights in more than four parts


def small_board(folder: Path, **sizes: int) -> str:
    """A pynq-z2 with other memories."""
    text = target_files()["fpga-pynq-z2"].read_text()
    for key, size in sizes.items():
        text = re.sub(rf"^{key} = .*$", f"{key} = {size}", text, flags=re.M)
    board = folder / "tiny.toml"
    board.write_text(text)
    return str(board)


@pytest.mark.parametrize(("tokens", "memories"), [(100, {"acc_bytes": 8192}), (300, {"acc_bytes": 16384})])
def test_causal_keys_in_pieces(tokens: int, memories: dict[str, int], tmp_path: Path) -> None:
    """Only the last piece of a block's keys holds what some of its queries do not see."""
    functions = Counter[str]()
    board = small_board(tmp_path, **memories)
    assert_same_bits(1, tokens, 16, 1, target=board, functions=functions, causal=True)
    assert functions["vector.maximum"]


@pytest.mark.parametrize(("tokens", "target"), [(513, "fpga-u280"), (640, "fpga-zcu104"), (600, "fpga-pynq-z2")])
def test_more_keys_than_one_byte_serves(tokens: int, target: str) -> None:
    assert_same_bits(1, tokens, 16, 2, target=target)


@pytest.mark.parametrize(("batch", "tokens", "memories"), [
    (1, 300, {"acc_bytes": 16384}),
    (1, 530, {"acc_bytes": 32768, "act_bytes": 40960, "weight_bytes": 16384}),
])  # fmt: skip
def test_keys_in_pieces(batch: int, tokens: int, memories: dict[str, int], tmp_path: Path) -> None:
    """Where scores of all keys do not fit, maxima come first; where V of a head does not, its codes come in pieces."""
    functions = Counter[str]()
    assert_same_bits(batch, tokens, 48, 2, target=small_board(tmp_path, **memories), functions=functions)
    assert functions["vector.maximum"]
    assert bool(functions["vector.absmax"]) == ("weight_bytes" in memories)


@pytest.mark.parametrize(
    ("queries", "keys", "target"), [(9, 14, "fpga-u280"), (20, 6, "fpga-u280"), (5, 600, "fpga-pynq-z2")]
)
def test_keys_of_another_sequence(queries: int, keys: int, target: str) -> None:
    store = tp.block_store(16)
    ctx = tp.context(store)
    own = np.random.default_rng(5).integers(0, 50, (2, queries))
    inputs = {**tp.block_inputs(2, keys), "own": own}
    module = tp.apply(ctx, tp.parse(tp.cross_text(2, queries, keys, 16, 2), ctx), "quantize", "encode-storage")
    expected = evaluate(module, store, inputs)["y"].reshape(2 * queries, 16)
    for stage in ("tile", "schedule"):
        tp.apply(ctx, module, stage, target=target)
        np.testing.assert_array_equal(evaluate_tiles(module, store, inputs)["y"], expected, err_msg=stage)
