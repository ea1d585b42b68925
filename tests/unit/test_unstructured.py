"""The unstructured layout on the array: steps counted from indices, against a loop; the time of real weights."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import TensorType, i8

from compiler.backends.fpga.weights import plan_weight, slots_by_row
from compiler.dialects.nn import WeightOp
from compiler.dialects.storage import storage_attribute_of
from compiler.sparsity.patterns import Block, Unstructured
from compiler.storage.base import Room
from compiler.storage.formats import FORMATS, SlotFormat, slots_of_rows
from compiler.weights import WeightStore
from hw_targets.asm import assemble
from hw_targets.codec import expand
from hw_targets.errors import InputError
from hw_targets.isa import MatrixMode, Queue
from hw_targets.layout import Layout
from hw_targets.load import load_target
from hw_targets.steps import indices_of, sub_windows, unstructured_steps
from hw_targets.target import Accelerator
from hw_targets.timing import MATRIX_FILL, cost, matrix_steps
from runtime.decoders import decode
from runtime.decoders import expand as expand_weights
from runtime.program import Program
from runtime.simulator.timing import simulate_timing
from tests.unit.hand_programs import INS, OUTS, LinearData, linear, linear_bundle

U280 = load_target("fpga-u280")
ARRAY = replace(U280.accelerator, cores=3, tokens=16, outputs=32, multipliers=8, window=32, selector=8)


def layout_of(codes: np.ndarray, pattern: Unstructured | Block) -> tuple[np.ndarray, Layout]:
    """The compute layout of codes, through encoder and decoder."""
    outs, ins = codes.shape
    kept = pattern.kept(outs, ins)
    data = decode(3, FORMATS["csr"].encode(codes, pattern), outs, ins, 1, 1, 0, 0, 0, kept)
    return data, Layout(MatrixMode.UNSTRUCTURED, outs, ins, kept=kept)


def random_codes(pattern: Unstructured | Block, outs: int, ins: int, seed: int) -> np.ndarray:
    codes = np.random.default_rng(seed).integers(1, 128, (outs, ins)).astype(np.int8)
    return np.where(pattern.mask(np.random.default_rng(seed + 1).random((outs, ins))), codes, 0).astype(np.int8)


def plain_steps(codes: np.ndarray, array: Accelerator) -> int:
    """The definition, window by window."""
    outs, ins = codes.shape
    reach, multipliers = sub_windows(array)
    total = 0
    for top in range(0, outs, array.outputs * array.cores):
        rows = range(top, min(top + array.outputs * array.cores, outs))
        for left in range(0, ins, array.window):
            steps = 1
            for row in rows:
                for start in range(left, min(left + array.window, ins), reach):
                    work = int(np.count_nonzero(codes[row, start : min(start + reach, left + array.window)]))
                    steps = max(steps, -(-work // multipliers))
            total += steps
    return total


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 200),
    st.fractions(Fraction(1, 200), 1, max_denominator=200),
    st.sampled_from([(1, 2), (2, 8), (3, 16)]),
    st.sampled_from([(8, 32, 8), (8, 32, 32), (4, 64, 8), (8, 8, 4), (2, 16, 4), (16, 32, 2), (3, 32, 4)]),
    st.integers(0, 2**20),
)
def test_steps_equal_a_plain_loop(
    outs: int, ins: int, density: Fraction, rows: tuple[int, int], shape: tuple[int, int, int], seed: int
) -> None:
    multipliers, window, selector = shape
    array = replace(ARRAY, cores=rows[0], outputs=rows[1], multipliers=multipliers, window=window, selector=selector)
    codes = random_codes(Unstructured(density), outs, ins, seed)
    data, layout = layout_of(codes, Unstructured(density))
    steps = unstructured_steps(data, layout, array)
    assert steps == plain_steps(codes, array)
    passes = -(-outs // (array.outputs * array.cores))
    assert steps >= passes * -(-ins // window)
    assert steps * array.multipliers * array.outputs * array.cores >= layout.kept
    slowest = -(-window // (1 << multipliers.bit_length() - 1))
    assert steps <= passes * -(-ins // window) * slowest, "never slower than dense on as many multipliers as are in use"


def test_sub_windows() -> None:
    assert sub_windows(ARRAY) == (8, 2)
    assert sub_windows(replace(ARRAY, selector=32)) == (32, 8)
    assert sub_windows(replace(ARRAY, multipliers=2)) == (16, 1)  # two reaches share a multiplier, in turn
    assert sub_windows(replace(ARRAY, multipliers=3)) == (16, 1)  # the third has nothing to do
    assert sub_windows(replace(ARRAY, multipliers=12, selector=4)) == (4, 1)
    assert sub_windows(replace(ARRAY, window=8, selector=16)) == (8, 8)


@pytest.mark.parametrize(("selector", "gain"), [(8, 1.3), (16, 1.45), (32, 1.95)])
def test_gain_of_random_zeros_at_three_quarters(selector: int, gain: float) -> None:
    """What a selector's reach buys, on a matrix of BERT's size."""
    pattern = Unstructured(Fraction(1, 4))
    data, layout = layout_of(random_codes(pattern, 768, 768, 3), pattern)
    array = replace(ARRAY, selector=selector)
    dense = 8 * matrix_steps(Layout(MatrixMode.DENSE, 768, 768), array)
    assert dense / unstructured_steps(data, layout, array) == pytest.approx(gain, abs=0.04)


def test_equal_rows_reach_the_balanced_minimum() -> None:
    # One 0/1 row for all: 2 of each 8 inputs, so every sub-window takes one step.
    codes = np.tile(np.array([1, 1, 0, 0, 0, 0, 0, 0], np.int8), (96, 96))
    data, layout = layout_of(codes, Unstructured(Fraction(1, 4)))
    assert unstructured_steps(data, layout, ARRAY) == matrix_steps(layout, ARRAY) == 24
    rows, inputs = indices_of(data, layout)
    assert np.array_equal(np.stack([rows, inputs], axis=1), np.argwhere(codes))


def test_one_busy_row_holds_up_its_pass_only() -> None:
    codes = np.tile(np.array([1, 1, 0, 0, 0, 0, 0, 0], np.int8), (192, 4))
    codes[100, :8] = 1
    codes[101, :6] = 0
    data, layout = layout_of(codes, Unstructured(Fraction(1540, 192 * 32)))
    assert unstructured_steps(data, layout, ARRAY) == 1 + 4


# ---- parts ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 100),
    st.fractions(Fraction(1, 100), 1, max_denominator=100),
    st.sampled_from(["csr", "bitmap", "coo"]),
    st.sampled_from([1, 8, 32]),
    st.integers(200, 4000),
    st.integers(0, 2**20),
)
def test_parts_are_as_large_as_their_own_rows_make_them(
    outs: int, ins: int, density: Fraction, name: str, step: int, limit: int, seed: int
) -> None:
    """The decoder gives back each part's rows from as many bytes as were planned; the parts are the whole matrix."""
    pattern, storage = Unstructured(density), FORMATS[name]
    codes = random_codes(pattern, outs, ins, seed)
    codes[: outs // 2] = 0  # rows without any weight
    type, store = TensorType(i8, [outs, ins], storage_attribute_of(storage, pattern)), WeightStore()
    whole = plan_weight(WeightOp(store.add("w", codes), store.digest("w"), type).result)
    if whole.mode != MatrixMode.UNSTRUCTURED.value:
        return  # density 1
    parts = whole.parts(limit, step, slots_by_row(whole, store))
    assert [part.first for part in parts] == list(range(0, outs, parts[0].outs))
    assert sum(part.outs for part in parts) == outs
    assert parts[0].outs % step == 0 or len(parts) == 1
    assert all(part.compute_bytes <= limit for part in parts) or parts[0].outs in (step, outs)
    slots = pattern.slots(codes)
    for part in parts:
        rows = slice(part.first, part.first + part.outs)
        assert isinstance(storage, SlotFormat)
        kept = part.pattern_fields["kept"]
        data = storage.encode_slots(codes[rows], slots_of_rows(slots, rows), pattern, room=Room(kept))
        assert len(data) == part.stored_bytes
        alike = [slots[other.first : other.first + other.outs] for other in parts if other.outs == part.outs]
        own = max(np.count_nonzero(slots[rows]), 1)
        assert kept in (own, max(1, *(np.count_nonzero(other) for other in alike))), "its own, or that of the fullest"
        layout = decode(storage.code, data, part.outs, ins, 1, 1, 0, 0, 0, kept)
        assert len(layout) == part.compute_bytes
        np.testing.assert_array_equal(expand_weights(layout, 3, part.outs, ins, 1, 1, 0, 0, 0, kept), codes[rows])
    room = sum(part.pattern_fields["kept"] for part in parts)
    assert room <= 1.05 * max(np.count_nonzero(slots), len(parts)) + len(parts)


# ---- in a program ---------------------------------------------------------------------------------------------------

TARGET = replace(U280, accelerator=ARRAY)
LOAD = "load.weights src={src} dst=0x0 format=csr outs=96 ins=32 n=1 m=1 stored_bytes=9 kept=768 signal=0\n"
MULTIPLY = "matrix.multiply x=0x0 w=0x0 acc=0x0 rows={rows} outs=96 ins=32 mode=unstructured n=1 m=1 kept=768\n"


def matrices() -> dict[int, np.ndarray]:
    """Two matrices by DRAM address: one step and four."""
    even = np.tile(np.array([1, 1, 0, 0, 0, 0, 0, 0], np.int8), (96, 4))
    crowded = np.zeros((96, 32), np.int8)
    crowded[:, :8] = 1
    return {base: layout_of(codes, Unstructured(Fraction(1, 4)))[0] for base, codes in ((0, even), (4096, crowded))}


def matrix_cycles(text: str, given: bool = True) -> list[int]:
    program = expand(assemble(text.replace(" signal=0", "") + "control.halt"))
    stored = matrices()
    timing = simulate_timing(program, [], TARGET, (lambda load: stored[load.operands["src"].base]) if given else None)
    return [event.end - event.start for event in timing.events if event.queue is Queue.MATRIX]


def test_the_time_is_that_of_the_matrix_in_the_memory() -> None:
    text = LOAD.format(src="0x0") + MULTIPLY.format(rows=16) + LOAD.format(src="0x1000") + MULTIPLY.format(rows=33)
    assert matrix_cycles(text) == [1, 3 * 4]
    assert cost(expand(assemble(MULTIPLY.format(rows=16) + "control.halt"))[0], ARRAY) == (1, MATRIX_FILL)


@pytest.mark.parametrize(
    "text",
    [
        MULTIPLY.format(rows=16),
        LOAD.format(src="0x0") + MULTIPLY.format(rows=16).replace("w=0x0", "w=0x40"),
        LOAD.format(src="0x0")
        + "vector.quantize x=0x100 codes=0x10 codes_in_weights=1 scale=0x200 rows=1 cols=4 group=4\n"
        + MULTIPLY.format(rows=16),
        LOAD.format(src="0x0").replace("kept=768", "kept=700") + MULTIPLY.format(rows=16),
    ],
    ids=["never loaded", "elsewhere", "overwritten", "another layout"],
)
def test_a_matrix_that_is_not_there_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match=r"instruction \d \(matrix.multiply\): .*that no load.weights has put there"):
        matrix_cycles(text)


def test_without_weights_there_is_no_time() -> None:
    with pytest.raises(InputError, match="counted from its weights, which are not given"):
        matrix_cycles(LOAD.format(src="0x0") + MULTIPLY.format(rows=16), given=False)


def test_a_bundle_is_timed_by_its_own_weights() -> None:
    """Functional and timing read one decoded matrix; damaged weights are an error of both."""
    data, pattern = LinearData(), Unstructured(Fraction(1, 4))
    data.codes = np.where(pattern.mask(data.codes.astype(np.float32)), data.codes, 0).astype(np.int8)
    kept = pattern.kept(OUTS, INS)
    stored = FORMATS["bitmap"].encode(data.codes, pattern)
    fields = f"n=1 m=1 kept={kept}"
    program = tuple(linear(f"format=bitmap {fields}", f"mode=unstructured {fields}", stored.size))
    bundle = replace(linear_bundle(data), instructions=program)
    weights = bundle.weights.copy()
    weights[: stored.size] = stored
    bundle = replace(bundle, weights=weights)
    runner = Program(bundle)
    np.testing.assert_array_equal(runner.run({"x": data.x}).outputs["y"], data.expected())
    layout = Layout(MatrixMode.UNSTRUCTURED, OUTS, INS, kept=kept)
    array = runner.target.accelerator
    steps = unstructured_steps(layout_of(data.codes, pattern)[0], layout, array)
    (multiply,) = [event for event in runner.timing().events if event.queue is Queue.MATRIX]
    assert multiply.end - multiply.start == steps
    assert runner.timing().macs_executed == 4 * kept
    damaged = weights.copy()
    damaged[stored.size - 1] ^= 1
    with pytest.raises(InputError, match=r"instruction 1 \(load.weights\).*marks are set"):
        Program(replace(bundle, weights=damaged)).timing()
