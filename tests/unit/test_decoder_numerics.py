"""hw_targets/decoder_numerics.py and the causal softmax against the scalar reference, bit for bit."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hw_targets import decoder_numerics, numerics
from tests.golden import scalar_reference as scalar
from tests.unit.test_numerics import EXAMPLES, F32, ORDINARY, TINY, assert_same_bits, bf16_matrices, number, numbers, vector


@EXAMPLES
@given(st.data())
def test_rms_norm(data):
    rows, heads, size = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    element = data.draw(st.sampled_from([ORDINARY, TINY, st.just(0.0), F32]))
    y = vector(data, element, rows * heads * size).reshape(rows, heads * size)
    gamma = vector(data, st.one_of(ORDINARY, TINY), size)
    eps = data.draw(st.sampled_from([1e-12, 1e-5, 2.0**-126]))
    got = decoder_numerics.rms_norm(y, gamma, eps)
    assert_same_bits(got, scalar.rms_norm(numbers(y), numbers(gamma), number(np.float32(eps))))


@EXAMPLES
@given(st.data())
def test_rotation(data):
    x = data.draw(bf16_matrices())
    rows, size = x.shape
    heads = data.draw(st.integers(1, 2))
    x = np.tile(x, (1, heads))
    half = data.draw(st.integers(0, size // 2))
    interleaved = data.draw(st.booleans())
    table = vector(data, st.one_of(ORDINARY, TINY), rows * 2 * half).reshape(rows, 2 * half)
    got = decoder_numerics.rotate(x, table, size, interleaved=interleaved)
    assert_same_bits(got, scalar.rotate(numbers(numerics.ftz(x)), numbers(table), size, interleaved))


def test_a_rotation_turns_pairs_the_way_positions_grow() -> None:
    """By hand: the first of a pair goes to the cosine, the second to the sine; columns that do not turn stay."""
    x = np.array([[1.0, 0.0, 5.0, 0.0, 1.0, 7.0]], np.float32)  # two heads of three columns, two of them turn
    table = np.array([[0.5, 0.25]], np.float32)
    turned = decoder_numerics.rotate(x, table, 3, interleaved=False)
    assert turned.tolist() == [[0.5, 0.25, 5.0, -0.25, 0.5, 7.0]]


def test_halves_and_neighbours_pair_differently() -> None:
    x = np.array([[1.0, 0.0, 0.0, 0.0]], np.float32)
    table = np.array([[0.5, 1.0, 0.25, 0.0]], np.float32)
    assert decoder_numerics.rotate(x, table, 4, interleaved=False).tolist() == [[0.5, 0.0, 0.25, 0.0]]
    assert decoder_numerics.rotate(x, table, 4, interleaved=True).tolist() == [[0.5, 0.25, 0.0, 0.0]]


@EXAMPLES
@given(st.data())
def test_gate(data):
    gate = data.draw(bf16_matrices(finite=True))
    y = vector(data, F32, gate.size).reshape(gate.shape)
    assert_same_bits(decoder_numerics.gated(y, gate), scalar.gated(numbers(y), numbers(numerics.ftz(gate))))


def test_a_causal_row_sees_itself_and_what_comes_before() -> None:
    """A key behind the query has no share, whatever its score, and does not enter the maximum."""
    acc = np.array([[4, 900, 900], [4, 4, 900], [4, 4, 4]], np.int32)
    scales = np.full(3, 0.5, np.float32)
    p, total = numerics.softmax(acc, scales, scales, 1.0, causal=True)
    assert p.tolist() == [[255, 0, 0], [255, 255, 0], [255, 255, 255]]
    assert total.tolist() == [255, 510, 765]
    block, _ = numerics.softmax(acc[1:], scales[1:], scales, 1.0, causal=True)
    assert np.array_equal(block, p[1:])
    assert scalar.softmax(acc.tolist(), numbers(scales), numbers(scales), Fraction(1), None, None, True)[0] == p.tolist()


def test_leaving_out_what_no_query_of_a_block_sees_changes_no_bit() -> None:
    rng = np.random.default_rng(4)
    acc, scales = rng.integers(-3000, 3000, (40, 40)).astype(np.int32), np.full(40, 0.02, np.float32)
    mask = (rng.random(40) < 0.8).astype(np.uint8)
    whole, total = numerics.softmax(acc, scales, scales, 1.0, mask, causal=True)
    for first in range(0, 40, 8):
        rows, seen = slice(first, first + 8), first + 8
        block = acc[rows, :seen]
        p, sums = numerics.softmax(block, scales[rows], scales[:seen], 1.0, mask[:seen], causal=True)
        assert np.array_equal(p, whole[rows, :seen])
        assert np.array_equal(sums, total[rows])
        assert not whole[rows, seen:].any()
