"""hw_targets/numerics.py against the scalar reference, bit for bit, and the properties docs/NUMERICS.md promises."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_targets import activations, numerics
from tests.golden import scalar_reference as scalar

PAGE = Path(__file__).parents[2] / "docs" / "NUMERICS.md"
EXAMPLES = settings(max_examples=50, deadline=None)


# ---- between arrays and scalars -------------------------------------------------------------------------------------


def number(v):
    v = float(v)
    return Fraction(v) if math.isfinite(v) else v


def numbers(x):
    x = np.asarray(x)
    return number(x) if x.ndim == 0 else [numbers(row) for row in x]


def assert_same_bits(array, expected):
    expected = np.array(expected, dtype=object)
    flat = [np.float32(float(v)) for v in expected.reshape(-1)]
    reference = np.array(flat, np.float32).reshape(expected.shape)
    reference[np.isnan(reference)] = np.float32(np.nan)
    array = np.array(array, np.float32)
    array[np.isnan(array)] = np.float32(np.nan)
    np.testing.assert_array_equal(array.view(np.uint32), reference.view(np.uint32))


SPECIAL_BF16 = [0x0000, 0x8000, 0x0001, 0x807F, 0x0080, 0x8080, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0x0D80, 0x0D7F]
ORDINARY = st.floats(-8, 8, width=32)
TINY = st.floats(-(2.0**-90), 2.0**-90, width=32)
F32 = st.one_of(ORDINARY, TINY, st.floats(-(2.0**100), 2.0**100, width=32))
SCALE = st.one_of(st.floats(2.0**-107, 2.0**-90, width=32), st.floats(2.0**-20, 4, width=32))


@st.composite
def bf16_matrices(draw, finite=False):
    rows, cols = draw(st.integers(1, 4)), draw(st.integers(1, 13))
    kind = draw(st.sampled_from(["ordinary", "tiny", "huge", "any"]))
    if kind == "any" and not finite:
        element = st.one_of(st.sampled_from(SPECIAL_BF16), st.integers(0, 0xFFFF))
        bits = draw(st.lists(element, min_size=rows * cols, max_size=rows * cols))
        return numerics.bf16(numerics.bf16_from_bits(np.array(bits, np.uint16))).reshape(rows, cols)
    element = {
        "tiny": st.floats(-(2.0**-99), 2.0**-99, width=32),
        "huge": st.floats(-1.5 * 2.0**127, 1.5 * 2.0**127, width=32),
    }.get(kind, ORDINARY)
    values = draw(st.lists(element, min_size=rows * cols, max_size=rows * cols))
    return numerics.bf16(np.array(values, np.float32)).reshape(rows, cols)


def vector(data, element, size):
    return numerics.ftz(np.array(data.draw(st.lists(element, min_size=size, max_size=size)), np.float32))


def codes(data, shape, limit=127):
    size = int(np.prod(shape))
    element = st.integers(-limit, limit)
    return np.array(data.draw(st.lists(element, min_size=size, max_size=size))).reshape(shape)


# ---- one operation --------------------------------------------------------------------------------------------------


@EXAMPLES
@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_bf16_rounds_to_nearest_even_after_a_flush(values):
    assert_same_bits(numerics.bf16(np.array(values, np.float32)), [scalar.bf16(number(v)) for v in values])


def test_bf16_ties_and_edges():
    ties = [0x3F808000, 0x3F818000, 0x3F808001]
    edges = [0x7F7FFFFF, 0x007FFFFF, 0x807FFFFF, 0x80000000, 0x7F800001, 0xFFFFFFFF]
    bits = np.array(ties + edges, np.uint32)
    expected = [0x3F80, 0x3F82, 0x3F81, 0x7F80, 0, 0, 0, 0x7FC0, 0x7FC0]
    assert numerics.bf16_bits(bits.view(np.float32)).tolist() == expected


def test_bf16_bits_round_trip():
    every = np.arange(65536, dtype=np.uint32).astype(np.uint16)
    values = numerics.bf16_from_bits(every)
    normal = np.isfinite(values) & (np.abs(values) >= numerics.TINY)
    np.testing.assert_array_equal(numerics.bf16_bits(values[normal]), every[normal])


def test_ftz_flushes_subnormals_and_negative_zero_only():
    x = np.array([-0.0, 1e-45, -1e-39, 2.0**-126, -(2.0**-126), np.inf, 3.0], np.float32)
    flushed = numerics.ftz(x)
    assert flushed.view(np.uint32)[:3].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(flushed[3:], x[3:])


@EXAMPLES
@given(st.lists(F32, min_size=0, max_size=40))
def test_tree_sum(values):
    x = numerics.ftz(np.array(values, np.float32))
    assert_same_bits(numerics.tree_sum(x), scalar.tree(numbers(x)))


def test_tree_sum_flushes_between_levels():
    # 2^-126 * 1.5 - 2^-126 is subnormal: flushed, so the last pair adds nothing to it.
    x = np.array([1.5 * 2.0**-126, -(2.0**-126), 2.0**-126, 0], np.float32)
    assert numerics.tree_sum(x) == np.float32(2.0**-126)


def test_sums_of_normal_numbers_that_are_subnormal_are_flushed():
    """Far above 2^-126 too: 2^-110 (1 + 2^-20) - 2^-110 = 2^-130. In each place that skips flushes where it may."""
    x = np.array([2.0**-110 * (1 + 2.0**-20), -(2.0**-110)], np.float32)
    assert numerics.tree_sum(x) == 0
    assert numerics.embed(x.reshape(2, 1, 1)) == 0
    one, scale = np.ones((1, 1), np.int32), np.ones(1, np.float32)
    assert numerics.finish(one, x[:1], scale, x[1:], None) == 0
    assert numerics.finish(0 * one, scale, scale, x[:1], x[1:].reshape(1, 1)) == 0
    tiny = np.array([1.5 * 2.0**-126], np.float32)
    assert numerics.finish(one, tiny, scale, np.array([-(2.0**-126)], np.float32), None) == 0
    exact = np.array([2.0**-103, -(2.0**-103) * (1 - 2.0**-23)], np.float32)
    assert numerics.tree_sum(exact) == np.float32(2.0**-126)


def test_tree_sum_is_not_sequential():
    x = np.array([1, 2.0**-24, 2.0**-24, 2.0**-24], np.float32)
    assert numerics.tree_sum(x) == np.float32(1 + 2.0**-23)


# ---- quantisers -----------------------------------------------------------------------------------------------------


@EXAMPLES
@given(bf16_matrices(), st.data())
def test_quantize_rows(x, data):
    group = data.draw(st.sampled_from([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0]))
    got_codes, got_scale = numerics.quantize_rows(x, group)
    expected_codes, expected_scale = scalar.quantize_rows(numbers(x), group)
    assert got_codes.tolist() == expected_codes
    assert_same_bits(got_scale, expected_scale)


@EXAMPLES
@given(bf16_matrices(), st.data())
def test_quantize_smoothed_rows(x, data):
    exponents = data.draw(st.lists(st.integers(-4, 4), min_size=x.shape[1], max_size=x.shape[1]))
    smooth = np.exp2(np.array(exponents, np.float32))
    got_codes, got_scale = numerics.quantize_rows(x, x.shape[1], smooth)
    expected_codes, expected_scale = scalar.quantize_rows(numbers(x), x.shape[1], numbers(smooth[None])[0])
    assert got_codes.tolist() == expected_codes
    assert_same_bits(got_scale, expected_scale)


@EXAMPLES
@given(bf16_matrices(), st.data())
def test_quantize_columns(x, data):
    mask = data.draw(st.none() | st.lists(st.integers(0, 1), min_size=len(x), max_size=len(x)))
    got_codes, got_scale = numerics.quantize_columns(x, None if mask is None else np.array(mask))
    expected_codes, expected_scale = scalar.quantize_columns(numbers(x), mask)
    assert got_codes.tolist() == expected_codes
    assert_same_bits(got_scale, expected_scale)


def test_quantisers_at_the_floor():
    below, at = numerics.bf16(np.array([[2.0**-100 * 0.99, 0]])), np.array([[2.0**-100, 0]], np.float32)
    assert numerics.quantize_rows(below, 2)[0].tolist() == [[0, 0]]
    assert numerics.quantize_rows(below, 2)[1].tolist() == [[1.0]]
    assert numerics.quantize_rows(at, 2)[0].tolist() == [[127, 0]]


def test_quantize_columns_of_a_masked_sequence():
    x = np.array([[1, -2], [900, -900]], np.float32)
    codes_, scale = numerics.quantize_columns(x, np.array([1, 0]))
    assert codes_.tolist() == [[64, -127], [127, -127]]
    assert scale == np.float32(2) / np.float32(127)
    codes_, scale = numerics.quantize_columns(x, np.array([0, 0]))
    assert not codes_.any()
    assert scale == 1


@EXAMPLES
@given(st.lists(st.lists(F32, min_size=5, max_size=5), min_size=1, max_size=4))
def test_quantize_weights(values):
    w = np.array(values, np.float32)
    got_codes, got_scale = numerics.quantize_weights(w)
    expected_codes, expected_scale = scalar.quantize_rows(numbers(w), 5)
    assert got_codes.tolist() == expected_codes
    assert_same_bits(got_scale, [row[0] for row in expected_scale])


# ---- MATRIX ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 7, 512, 513, 1024, 1025, 3072])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_matmul_is_exact_at_the_extremes(k, dtype):
    x = np.full((2, k), 255 if dtype is np.uint8 else -127, dtype)
    w = np.full((3, k), -127, np.int8)
    w[1, ::2] = 126
    np.testing.assert_array_equal(numerics.matmul_i32(x, w), x.astype(np.int64) @ w.astype(np.int64).T)


def test_matmul_against_the_scalar_reference_and_batched():
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (2, 3, 5)).astype(np.uint8)
    w = rng.integers(-127, 128, (2, 4, 5)).astype(np.int8)
    got = numerics.matmul_i32(x, w)
    assert got.dtype == np.int32
    assert got.tolist() == [scalar.matmul(a.tolist(), b.tolist()) for a, b in zip(x, w, strict=True)]


# ---- VECTOR ---------------------------------------------------------------------------------------------------------


@EXAMPLES
@given(bf16_matrices(), st.data())
def test_finish(residual, data):
    rows, cols = residual.shape
    acc = codes(data, (rows, cols), 2**31 - 1).astype(np.int32)
    row_scale, col_scale = vector(data, SCALE, rows), vector(data, SCALE, cols)
    bias = vector(data, F32, cols) if data.draw(st.booleans()) else None
    added = residual if data.draw(st.booleans()) else None
    got = numerics.finish(acc, row_scale, col_scale, bias, added)
    expected = scalar.finish(
        acc.tolist(),
        numbers(row_scale),
        numbers(col_scale),
        None if bias is None else numbers(bias),
        None if added is None else numbers(added),
    )
    assert_same_bits(got, expected)


@EXAMPLES
@given(st.data())
def test_layer_norm(data):
    rows, cols = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 13))
    element = data.draw(st.sampled_from([ORDINARY, TINY, st.just(0.0), F32]))
    y = vector(data, element, rows * cols).reshape(rows, cols)
    gamma, beta = vector(data, ORDINARY, cols), vector(data, st.one_of(ORDINARY, TINY), cols)
    eps = data.draw(st.sampled_from([1e-12, 1e-5, 2.0**-126]))
    got = numerics.layer_norm(y, gamma, beta, eps)
    expected = scalar.layer_norm(numbers(y), numbers(gamma), numbers(beta), number(np.float32(eps)))
    assert_same_bits(got, expected)


@EXAMPLES
@given(st.data())
def test_softmax(data):
    rows, cols = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    acc = codes(data, (rows, cols), data.draw(st.sampled_from([3, 5000, 2**20]))).astype(np.int32)
    q, k = vector(data, SCALE, rows), vector(data, SCALE, cols)
    mask = data.draw(st.none() | st.lists(st.integers(0, 1), min_size=cols, max_size=cols))
    fill = st.one_of(ORDINARY, st.sampled_from([-1e4, -3.4e38, -math.inf, math.inf, math.nan]))
    additive = None
    if data.draw(st.booleans()):
        values = data.draw(st.lists(fill, min_size=rows * cols, max_size=rows * cols))
        additive = numerics.ftz(np.array(values, np.float32)).reshape(rows, cols)
    causal = data.draw(st.booleans()) and rows <= cols
    p, total = numerics.softmax(acc, q, k, 0.125, None if mask is None else np.array(mask), additive, causal=causal)
    added = None if additive is None else numbers(additive)
    expected = scalar.softmax(acc.tolist(), numbers(q), numbers(k), Fraction(1, 8), mask, added, causal)
    assert (p.tolist(), total.tolist()) == expected


def test_softmax_of_a_fully_masked_row_is_zero_and_its_context_too():
    acc = np.array([[5, 9]], np.int32)
    p, total = numerics.softmax(acc, np.ones(1), np.ones(2), 1.0, np.zeros(2, np.uint8))
    assert p.tolist() == [[0, 0]]
    assert total.tolist() == [0]
    assert numerics.context(np.array([[7]], np.int32), total, np.float32(0.5)).tolist() == [[0.0]]


def test_softmax_close_to_exact():
    rng = np.random.default_rng(2)
    acc = rng.integers(-3000, 3000, (40, 128)).astype(np.int32)
    p, total = numerics.softmax(acc, np.full(40, 0.03, np.float32), np.full(128, 0.03, np.float32), 1.0)
    exact = np.exp(acc * 0.0009 - (acc * 0.0009).max(axis=1, keepdims=True))
    assert np.abs(p / 255 - exact).max() < 1 / 255
    assert (p.max(axis=1) == 255).all()
    assert (total == p.astype(np.int64).sum(axis=1)).all()


def test_softmax_refuses_more_keys_than_an_int32_sums():
    keys = numerics.MAX_KEYS
    assert keys * 65280 < 2**31
    one = np.ones(1, np.float32)
    p, total = numerics.softmax(np.zeros((1, keys), np.int32), one, np.ones(keys, np.float32), 1.0)
    assert (p.shape, total[0]) == ((2, keys), keys * 65280)
    with pytest.raises(ValueError, match="32769"):
        numerics.softmax(np.zeros((1, keys + 1), np.int32), one, np.ones(keys + 1, np.float32), 1.0)


@EXAMPLES
@given(st.data())
def test_two_byte_probabilities(data):
    """Those of the scalar reference, in one piece and in two."""
    rows, cols = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    acc = codes(data, (rows, cols), data.draw(st.sampled_from([3, 200, 5000, 2**20]))).astype(np.int32)
    q, k = vector(data, SCALE, rows), vector(data, SCALE, cols)
    mask = data.draw(st.none() | st.lists(st.integers(0, 1), min_size=cols, max_size=cols))
    fill = st.one_of(ORDINARY, st.sampled_from([-1e4, -3.4e38, -math.inf, math.inf, math.nan]))
    additive = None
    if data.draw(st.booleans()):
        values = data.draw(st.lists(fill, min_size=rows * cols, max_size=rows * cols))
        additive = numerics.ftz(np.array(values, np.float32)).reshape(rows, cols)
    cut = data.draw(st.integers(0, cols))
    pieces = [part for part in (slice(0, cut), slice(cut, cols)) if acc[:, part].size]

    def part_of(array, part):
        return None if array is None else np.asarray(array)[..., part]

    attended = None if mask is None else np.array(mask) != 0

    maximum = None
    for part in pieces:
        s = numerics.scores(acc[:, part], q, k[part], 0.125, part_of(additive, part))
        maximum = numerics.row_maximum(s, part_of(attended, part), maximum)
    made = []
    for part in pieces:
        s = numerics.scores(acc[:, part], q, k[part], 0.125, part_of(additive, part))
        made.append(numerics.wide_probabilities(s, maximum, part_of(attended, part)))
    p = np.concatenate(made, axis=1)
    high, low, total = scalar.wide_softmax(
        acc.tolist(), numbers(q), numbers(k), Fraction(1, 8), mask, None if additive is None else numbers(additive)
    )
    assert numerics.high_and_low(p).tolist() == [*high, *low]
    assert p.sum(axis=1, dtype=np.int32).tolist() == total


def test_how_many_keys_decide_the_bytes_of_a_probability():
    rng = np.random.default_rng(3)
    acc = rng.integers(-3000, 3000, (2, 513)).astype(np.int32)
    q, k = np.full(2, 0.03, np.float32), np.full(513, 0.03, np.float32)
    narrow, narrow_sum = numerics.softmax(acc[:, :512], q, k[:512], 1.0)
    wide, wide_sum = numerics.softmax(acc, q, k, 1.0)
    assert narrow.shape == (2, 512)
    assert wide.shape == (4, 513)
    exact = np.exp(acc * 0.0009 - (acc * 0.0009).max(axis=1, keepdims=True))
    both = wide[:2].astype(np.int64) * 256 + wide[2:]
    assert np.abs(both / 65280 - exact).max() < 2**-9  # T has 8 fraction bits
    assert (both.sum(axis=1) == wide_sum).all()
    assert (narrow_sum < wide_sum).all()


def test_far_keys_weigh_nothing_however_many_they_are():
    """2^-16 of the row's largest still counts with two bytes, 2^-17 does not."""
    distance = np.array([[0, 15.99, 16.99, 17.01, 300, np.inf]], np.float32) * np.float32(np.log(2))
    p = numerics.wide_probabilities(-distance, np.zeros(1, np.float32))
    assert p.tolist() == [[65280, 1, 1, 0, 0, 0]]


@EXAMPLES
@given(st.data())
def test_context_of_two_byte_probabilities(data):
    rows, cols = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    high = codes(data, (rows, cols), 2**30).astype(np.int32)
    low = codes(data, (rows, cols), 2**24 + 5).astype(np.int32)
    sums = np.abs(codes(data, (rows,), 65280 * 4096)).astype(np.int32)
    v_scale = vector(data, SCALE, 1)[0]
    got = numerics.context(np.concatenate([high, low]), sums, v_scale)
    assert_same_bits(got, scalar.wide_context(high.tolist(), low.tolist(), sums.tolist(), number(v_scale)))


@EXAMPLES
@given(bf16_matrices(), st.data())
def test_columns_quantised_in_pieces(x, data):
    """The largest magnitude of all pieces first, then the codes of each."""
    mask = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(x), max_size=len(x))))
    cut = data.draw(st.integers(0, len(x)))
    absmax = max(numerics.columns_absmax(x[part], mask[part]) for part in (slice(0, cut), slice(cut, None)))
    whole, scale = numerics.quantize_columns(x, mask)
    for part in (slice(0, cut), slice(cut, None)):
        codes_, scale_ = numerics.quantize_columns(x[part], None, absmax)
        np.testing.assert_array_equal(codes_, whole[part])
        assert scale_ == scale


@EXAMPLES
@given(st.data())
def test_context(data):
    rows, cols = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    acc = codes(data, (rows, cols), 2**24 + 5).astype(np.int32)
    sums = np.abs(codes(data, (rows,), 130560)).astype(np.int32)
    v_scale = vector(data, SCALE, 1)[0]
    got = numerics.context(acc, sums, v_scale)
    assert_same_bits(got, scalar.context(acc.tolist(), sums.tolist(), number(v_scale)))


def test_context_divides_first():
    """Among many random values, those where (acc * v) / l or acc * (v * (1 / l)) would round to another bf16."""
    rng = np.random.default_rng(5)
    acc = rng.integers(-(2**22), 2**22, (1000, 4000)).astype(np.int32)
    sums = rng.integers(255, 130560, 1000).astype(np.int32)
    v, length = np.float32(0.0123), sums.astype(np.float32)[:, None]
    got = numerics.context(acc, sums, v)
    others = [numerics.bf16(acc.astype(np.float32) * v / length), numerics.bf16(acc * (v * (np.float32(1) / length)))]
    for other in others:
        rows, cols = np.nonzero(got != other)
        assert len(rows) >= 3
        for r, c in zip(rows[:20], cols[:20], strict=True):
            assert_same_bits(got[r, c], scalar.context([[int(acc[r, c])]], [int(sums[r])], number(v))[0][0])


def test_layer_norm_orders_its_products():
    """Rows where d * (r * gamma), a fused last step or a one-pass variance would round to another bf16."""
    rng = np.random.default_rng(6)
    y = (rng.standard_normal((400000, 4)) * 3).astype(np.float32)
    gamma, beta = rng.standard_normal((2, 4)).astype(np.float32)
    got = numerics.layer_norm(y, gamma, beta, 1e-12)
    mean = numerics.tree_sum(y) / np.float32(4)
    d = y - mean[:, None]
    variance = numerics.tree_sum(d * d) / np.float32(4) + np.float32(1e-12)
    r = (np.float32(1) / np.sqrt(variance))[:, None]
    one_pass = numerics.tree_sum(y * y) / np.float32(4) - mean * mean
    others = [
        d * (r * gamma) + beta,
        ((d * r).astype(np.float64) * gamma + beta).astype(np.float32),
        (d / np.sqrt(variance)[:, None]) * gamma + beta,
        d * (np.float32(1) / np.sqrt(one_pass + np.float32(1e-12)))[:, None] * gamma + beta,
    ]
    for other in others:
        rows = np.nonzero((got != numerics.bf16(other)).any(axis=1))[0]
        assert len(rows) >= 3
        expected = scalar.layer_norm(numbers(y[rows[:10]]), numbers(gamma), numbers(beta), number(np.float32(1e-12)))
        assert_same_bits(got[rows[:10]], expected)


@EXAMPLES
@given(bf16_matrices(finite=True), st.data())
def test_embed_and_mean_pool(x, data):
    tables = np.stack([x, x[::-1], -x])
    assert_same_bits(numerics.embed(tables), scalar.embed(numbers(tables)))
    mask = data.draw(st.lists(st.integers(0, 2), min_size=len(x), max_size=len(x)))
    got = numerics.mean_pool(x, np.array(mask), 1e-9)
    assert_same_bits(got, scalar.mean_pool(numbers(x), mask, number(np.float32(1e-9))))


# ---- activations ----------------------------------------------------------------------------------------------------


def every_bf16():
    return numerics.bf16(numerics.bf16_from_bits(np.arange(65536, dtype=np.uint32).astype(np.uint16)))


PIECEWISE = ["gelu", "tanh", "gelu_tanh", "quick_gelu", "silu"]


@pytest.mark.parametrize("name", PIECEWISE)
def test_coefficients_are_the_correctly_rounded_ones(name):
    table = getattr(activations, f"{name}_coefficients")()
    assert_same_bits(table, scalar.coefficients(name))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("gelu", "silu") else pytest.mark.slow) for name in PIECEWISE]
)
def test_piecewise_form_against_the_table_exhaustively(name):
    """All 65,536 arguments: the scalar piecewise form in fractions gives the table, bit for bit."""
    function = getattr(scalar, name)
    x = every_bf16()
    got = activations.ACTIVATIONS[name](x)
    assert_same_bits(got, [function(number(v)) for v in x])


@pytest.mark.parametrize("name", PIECEWISE)
def test_table_is_the_piecewise_form_for_every_argument(name):
    x = every_bf16()
    piecewise = getattr(activations, f"{name}_piecewise")(x)
    got = activations.ACTIVATIONS[name](x)
    np.testing.assert_array_equal(got.view(np.uint32), piecewise.view(np.uint32))


def test_relu():
    x = np.array([-1.0, -0.0, 2.5, np.inf, -np.inf], np.float32)
    expected = np.array([0, 0, 2.5, np.inf, 0], np.float32)
    assert activations.relu(x).view(np.uint32).tolist() == expected.view(np.uint32).tolist()


def finite_arguments():
    x = every_bf16()
    return x[np.isfinite(x) & (np.abs(x) < 1e30)]


def test_gelu_accuracy_against_erf():
    """Against x (1 - erf(-x / sqrt 2)) / 2: at most half a bf16 unit, plus 2.0e-6 of the piecewise form."""
    x = finite_arguments().astype(np.float64)
    exact = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x])
    error = np.abs(activations.gelu(x.astype(np.float32)) - exact)
    half_unit = np.abs(exact) * 2.0**-8
    assert (error - half_unit).max() <= 2.0e-6
    assert error[np.abs(x) <= 8].max() <= 2.0**-6


EXACT = {
    "gelu_tanh": lambda v: v / (1 + math.exp(min(-2 * math.sqrt(2 / math.pi) * (v + 0.044715 * v**3), 700))),
    "quick_gelu": lambda v: v / (1 + math.exp(min(-1.702 * v, 700))),
    "silu": lambda v: v / (1 + math.exp(min(-v, 700))),
}


@pytest.mark.parametrize("name", EXACT)
def test_accuracy_of_the_other_gates(name):
    """At most half a bf16 unit, plus 4e-5 of the piecewise form."""
    x = finite_arguments().astype(np.float64)
    exact = np.array([EXACT[name](v) for v in x])
    error = np.abs(activations.ACTIVATIONS[name](x.astype(np.float32)) - exact)
    assert (error - np.abs(exact) * 2.0**-8).max() <= 4e-5


def test_tanh_accuracy():
    x = finite_arguments()
    exact = np.tanh(x.astype(np.float64))
    rounded = numerics.bf16(exact.astype(np.float32))
    assert np.abs(activations.tanh(x) - exact).max() <= 2.0**-9
    np.testing.assert_array_equal(activations.tanh(x), rounded)


def test_activations_of_what_is_no_number():
    x = np.array([np.inf, -np.inf, np.nan, -0.0], np.float32)
    assert numerics.bf16_bits(activations.gelu(x)).tolist() == [0x7F80, 0, 0x7FC0, 0]
    assert numerics.bf16_bits(activations.tanh(x)).tolist() == [0x3F80, 0xBF80, 0x7FC0, 0]


# ---- the page -------------------------------------------------------------------------------------------------------


def hex_block(title):
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"### {re.escape(title)}.*?```\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return [int(word, 16) for word in found.group(1).split()]


def test_the_page_prints_the_tables():
    assert hex_block("A.1") == numerics.exp2_table().tolist() == [scalar.exp2_entry(f) for f in range(256)]
    assert hex_block("A.2") == activations.gelu_coefficients().view(np.uint32).reshape(-1).tolist()
    assert hex_block("A.3") == activations.tanh_coefficients().view(np.uint32).reshape(-1).tolist()
    assert hex_block("A.4") == activations.gelu_tanh_coefficients().view(np.uint32).reshape(-1).tolist()
    assert hex_block("A.5") == activations.quick_gelu_coefficients().view(np.uint32).reshape(-1).tolist()
    assert hex_block("A.6") == activations.silu_coefficients().view(np.uint32).reshape(-1).tolist()


# ---- tiling ---------------------------------------------------------------------------------------------------------


@EXAMPLES
@given(st.lists(st.integers(1, 36), max_size=5, unique=True))
def test_rows_may_be_split_anywhere(cuts):
    """A fused chain over row slices has the bits of the whole, whatever order numpy and BLAS add in."""
    rng = np.random.default_rng(3)
    x = rng.integers(-127, 128, (37, 1100)).astype(np.int8)
    w = rng.integers(-127, 128, (96, 1100)).astype(np.int8)
    row_scale, col_scale, bias, gamma, beta = (rng.standard_normal(n).astype(np.float32) for n in (37, 96, 96, 96, 96))
    row_scale, col_scale = np.abs(row_scale) * 0.01, np.abs(col_scale) * 0.01
    mask = (np.arange(37) % 5 > 0).astype(np.uint8)

    def chain(rows):
        acc = numerics.matmul_i32(x[rows], w)
        y = numerics.finish(acc, row_scale[rows], col_scale, bias, None)
        normed = numerics.layer_norm(y, gamma, beta, 1e-12)
        q, q_scale = numerics.quantize_rows(activations.gelu(normed), 32)
        scores = numerics.matmul_i32(q[:, :32], x[:, :32])
        p, total = numerics.softmax(scores, q_scale[:, 0], row_scale, 0.2, mask)
        out = numerics.context(numerics.matmul_i32(p, np.ascontiguousarray(x[:, :8].T)), total, np.float32(0.01))
        return y, q, p, out

    bounds = [0, *sorted(cuts), 37]
    pieces = [chain(slice(a, b)) for a, b in zip(bounds, bounds[1:], strict=False)]
    for whole, *parts in zip(chain(slice(0, 37)), *pieces, strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_outputs_may_be_split_anywhere():
    rng = np.random.default_rng(4)
    x = rng.integers(-127, 128, (9, 300)).astype(np.int8)
    w = rng.integers(-127, 128, (64, 300)).astype(np.int8)
    parts = [numerics.matmul_i32(x, w[a:b]) for a, b in [(0, 5), (5, 37), (37, 64)]]
    np.testing.assert_array_equal(numerics.matmul_i32(x, w), np.concatenate(parts, axis=1))
