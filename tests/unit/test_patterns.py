"""Patterns: closed-form counts, balance, ties, tails, projection, violations, spelling."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.sparsity.lines import Tile
from compiler.sparsity.patterns import (
    HP,
    NM,
    Block,
    Circulant,
    Column,
    Composed,
    Dense,
    LowRank,
    Monarch,
    Pattern,
    Row,
    Unstructured,
    parse_pattern,
)
from compiler.sparsity.recover import recover_kept
from compiler.sparsity.saliency import PAIRWISE_LIMIT, fill_evenly, keep_largest, keep_largest_of_all
from compiler.sparsity.unbalanced import decimal_text, density_of, share_of
from hw_targets.errors import InputError, UsageError

FAST = settings(max_examples=50, deadline=None)


@st.composite
def fine_patterns(draw: st.DrawFn) -> tuple[int, int]:
    m = draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    return draw(st.integers(1, m)), m


@st.composite
def factored(draw: st.DrawFn) -> Pattern:
    rank = draw(st.integers(1, 99) | st.integers(1, 20).map(lambda part: Fraction(part, 20)))
    return draw(st.sampled_from([LowRank(rank), Monarch(rank, draw(st.integers(2, 16)))]))


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    n, m = draw(fine_patterns())
    if draw(st.booleans()):
        return NM(n, m, draw(st.sampled_from(["in", "out"])))
    rows = draw(st.integers(1, 9))
    if draw(st.integers(0, 3)) == 0:
        return HP(rows, "in", Fraction(draw(st.integers(1, 8)), 8), n, m)
    window = draw(st.integers(m, 40))
    keep = draw(st.integers(1, window // m)) * m
    return HP(rows, window, draw(st.sampled_from([keep, window])), n, m)


DENSITIES = st.fractions(Fraction(1, 1000), 1, max_denominator=1000)


@st.composite
def unbalanced_patterns(draw: st.DrawFn) -> Pattern:
    density = draw(DENSITIES)
    if draw(st.booleans()):
        return Unstructured(density)
    return Block(draw(st.integers(1, 9)), draw(st.integers(1, 9)), density, draw(st.booleans()))


@st.composite
def line_patterns(draw: st.DrawFn) -> Pattern:
    """Rows, columns, and N:M inside blocks or rows."""
    share, tile = draw(DENSITIES), Tile(draw(st.none() | st.integers(1, 20)), draw(st.none() | st.integers(1, 50)))
    kind = draw(st.sampled_from([Row, Column, Composed]))
    if kind is not Composed:
        return kind(share, tile)
    n, m = draw(fine_patterns())
    block = Block(draw(st.integers(1, 9)), m * draw(st.integers(1, 4)), share, draw(st.booleans()))
    return Composed(draw(st.sampled_from([block, Row(share)])), NM(n, m))


ALL = patterns() | unbalanced_patterns() | line_patterns()


@st.composite
def weights(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.integers(1, 40)), draw(st.integers(1, 90))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    w = rng.normal(size=shape).astype(np.float32)
    if draw(st.booleans()):
        w = np.round(w * 2) / 2  # many ties and zeros
    return w


@FAST
@given(patterns(), weights())
def test_mask_keeps_what_the_closed_form_says(pattern: Pattern, w: np.ndarray) -> None:
    mask = pattern.mask(w)
    assert mask.sum() == pattern.kept(*w.shape)
    if isinstance(pattern, NM) and pattern.along == "out":
        mask = mask.T
    assert len(set(mask.sum(axis=1))) == 1, "every row has equal work"


@FAST
@given(ALL, weights())
def test_projection_is_idempotent_and_passes_the_check(pattern: Pattern, w: np.ndarray) -> None:
    projected = pattern.project(w)
    pattern.check(projected)
    assert np.array_equal(pattern.project(projected), projected)


@FAST
@given(ALL, weights())
def test_memory_layout_does_not_matter(pattern: Pattern, w: np.ndarray) -> None:
    assert np.array_equal(pattern.mask(np.asfortranarray(w)), pattern.mask(w))


@FAST
@given(ALL, weights())
def test_canonical_form_has_the_same_masks(pattern: Pattern, w: np.ndarray) -> None:
    simple = pattern.canonical()
    assert np.array_equal(simple.mask(w), pattern.mask(w))
    assert simple.kept(*w.shape) == pattern.kept(*w.shape)


@FAST
@given(ALL | st.builds(Circulant, st.integers(1, 99)) | factored())
def test_print_and_parse_are_inverse(pattern: Pattern) -> None:
    assert parse_pattern(pattern.spec()) == pattern
    assert type(pattern).parse(pattern.body()) == pattern


@FAST
@given(fine_patterns(), weights())
def test_nm_equals_a_plain_loop(fine: tuple[int, int], w: np.ndarray) -> None:
    n, m = fine
    expected = np.zeros(w.shape, bool)
    for row in range(w.shape[0]):
        for start in range(0, w.shape[1], m):
            group = range(start, min(start + m, w.shape[1]))
            keep = -(-n * len(group) // m)
            for i in sorted(group, key=lambda i: (-abs(w[row, i]), i))[:keep]:
                expected[row, i] = True
    assert np.array_equal(NM(n, m).mask(w), expected)


def plain_hp(p: HP, w: np.ndarray) -> np.ndarray:
    """The definition, one loop per level."""
    expected = np.zeros(w.shape, bool)
    full = w.shape[1] if p.window == "in" else p.window
    for top in range(0, w.shape[0], p.rows):
        rows = range(top, min(top + p.rows, w.shape[0]))
        for left in range(0, w.shape[1], full):
            window = range(left, min(left + full, w.shape[1]))
            share = p.keep if p.window == "in" else Fraction(p.keep, full)
            count = -(-share.numerator * len(window) // share.denominator)
            count = min(-(-count // p.fine_m) * p.fine_m, len(window))
            sums = {i: sum(Fraction(float(w[r, i])) ** 2 for r in rows) for i in window}
            kept = sorted(sorted(window, key=lambda i: (-sums[i], i))[:count])
            for r in rows:
                for start in range(0, count, p.fine_m):
                    group = kept[start : start + p.fine_m]
                    quota = -(-p.fine_n * len(group) // p.fine_m)
                    expected[r, sorted(group, key=lambda i: (-abs(w[r, i]), i))[:quota]] = True
    return expected


@settings(max_examples=25, deadline=None)
@given(patterns().filter(lambda p: isinstance(p, HP)), st.integers(0, 2**31))
def test_hp_equals_a_plain_loop(pattern: HP, seed: int) -> None:
    w = np.random.default_rng(seed).integers(1, 9, size=(11, 45)).astype(np.float32)  # exact sums, many ties
    assert np.array_equal(pattern.mask(w), plain_hp(pattern, w))


def test_ties_keep_the_lower_index() -> None:
    assert NM(2, 4).mask(np.ones((1, 6), np.float32)).tolist() == [[True, True, False, False, True, False]]
    kept = HP(2, 8, 4, 1, 2).kept_inputs(np.ones((2, 8), np.float32))
    assert kept.tolist() == [[True] * 4 + [False] * 4]


@pytest.mark.parametrize(
    ("size", "kept"), [(32, 16), (24, 12), (23, 12), (9, 8), (8, 4), (3, 3), (1, 1)], ids=lambda v: str(v)
)
def test_tail_windows_round_up_to_groups(size: int, kept: int) -> None:
    assert HP(64, 32, 16, 2, 4).window_keep(size, 768) == kept


def test_counts_of_tinybert() -> None:
    # 312 = 9 windows of 32 and a tail of 24; 1,200 = 37 windows and a tail of 16.
    pattern = parse_pattern("hp:0.75")
    assert pattern.kept(1200, 312) == 1200 * (9 * 8 + 6)
    assert pattern.kept(312, 1200) == 312 * (37 * 8 + 4)
    assert NM(4, 16).kept(1, 312) == 19 * 4 + 2


@pytest.mark.parametrize(
    ("spec", "full"),
    [
        ("hp:0.5", "hp:rows=64,window=32,keep=32,fine=2:4"),
        ("hp:0.75", "hp:rows=64,window=32,keep=16,fine=2:4"),
        ("hp:0.8", "hp:rows=64,window=32,keep=12,fine=2:4"),
        ("hp:0.9", "hp:rows=64,window=32,keep=12,fine=1:4"),
        ("hp:rows=64, window=32, keep=0.5, fine=2:4", "hp:rows=64,window=32,keep=16,fine=2:4"),
        ("hp:rows=4,window=in,keep=0.25,fine=dense", "hp:rows=4,window=in,keep=1/4,fine=dense"),
        ("nm:2:4,along=in", "nm:2:4"),
    ],
)
def test_sugar_resolves_to_the_full_form(spec: str, full: str) -> None:
    assert parse_pattern(spec).spec() == full


def test_words() -> None:
    assert parse_pattern("nm:2:8").describe() == "2:8 (keeps 2 of 8, 75 % zeros)"
    assert "the same as nm:2:4" in parse_pattern("hp:0.5").describe()
    assert "90.625 % zeros" in parse_pattern("hp:0.9").describe()
    assert parse_pattern("hp:0.5").canonical() == NM(2, 4)
    assert HP(4, 8, 8).canonical() == Dense()
    assert HP(4, 6, 6, 1, 4).canonical() == HP(4, 6, 6, 1, 4), "groups restart at a window"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("2:4", "did you mean 'nm:2:4'?"),
        ("nn:2:4", "did you mean 'nm'?"),
        ("banana", "patterns: dense, nm, hp"),
        ("nm:4:2", "did you mean 2:4?"),
        ("nm:0:4", "at least 1"),
        ("nm:2", "does not read as N:M"),
        ("nm:2:32", "at most 16"),
        ("nm:2:4,along=up", "'in' or 'out'"),
        ("hp:0.3", "from 0.5 to below 1"),
        ("hp:75", "a share of zeros"),
        ("hp:much", "neither a sparsity nor a full form"),
        ("hp:rows=64,window=32", "hp needs keep, fine too"),
        ("hp:rows=64,window=32,keep=40,fine=2:4", "between 1 and 32"),
        ("hp:rows=64,window=32,keep=18,fine=2:4", "keep=20 is the next"),
        ("hp:rows=64,windw=32,keep=16,fine=2:4", "did you mean 'window'?"),
        ("hp:rows=64,rows=32,keep=16,fine=2:4", "given twice"),
        ("hp:rows=0,window=32,keep=16,fine=2:4", "at least one row"),
        ("hp:rows=4,window=in,keep=8,fine=dense", "a share of the row"),
        ("hp:rows=4,window=32,keep=3/0,fine=dense", "a fraction like 1/4"),
        ("dense:2", "takes no arguments"),
        ("unstructured", "'' is no number"),
        ("unstructured:75", "from 0 to below 1"),
        ("unstructured:1", "from 0 to below 1"),
        ("unstuctured:0.5", "did you mean 'unstructured'?"),
        ("block:4x1", "does not read as block:RxC:S"),
        ("block:4:0.75", "does not read as RxC"),
        ("block:4x0:0.75", "at least 1"),
        ("block:4x1:-1", "from 0 to below 1"),
        ("block:4x1,keep=0", "does not lie above 0"),
    ],
)
def test_bad_spellings_are_one_clear_line(spec: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_pattern(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sugar_is_refused_where_no_shapes_are_listed() -> None:
    with pytest.raises(UsageError, match="kind 'tpu'"):
        parse_pattern("hp:0.75", kind="tpu")
    assert parse_pattern("nm:2:32", kind="cpu") == NM(2, 32)


def test_violations_name_the_place() -> None:
    w = NM(2, 4).project(np.arange(1, 33, dtype=np.float32).reshape(4, 8))
    w[2, 4] = 1.0
    with pytest.raises(InputError, match=r"row 2, group 1 \(inputs 4 to 7\) holds 3 weights"):
        NM(2, 4).check(w)
    pattern = HP(2, 8, 4, 1, 2)
    w = np.zeros((4, 16), np.float32)
    w[2, [8, 9, 10, 11]] = 1.0
    with pytest.raises(InputError, match="row 2, inputs 8 to 15: group 0 of 2 kept inputs"):
        pattern.check(w)
    w[3, 12] = 1.0
    with pytest.raises(InputError, match="rows 2 to 3 use 5 of the inputs 8 to 15; "):
        pattern.check(w)


def test_unused_kept_inputs_do_not_shift_the_groups() -> None:
    # Two weights of a row, in different groups of two kept inputs. Filling up with the lowest unused inputs would give
    # the groups (0 1) (2 4) and cut one off; (0 2) (3 4) holds both.
    w = np.zeros((1, 8), np.float32)
    w[0, [2, 4]] = 1.0
    pattern = HP(1, 8, 4, 1, 2)
    pattern.check(w)
    assert pattern.kept_inputs(w)[0].nonzero()[0].tolist() == [0, 2, 3, 4]
    assert np.array_equal(pattern.project(w), w)
    w[0, 6] = 1.0  # three weights never fit into two groups of one
    assert recover_kept(w != 0, 4, 1, 2) is None
    with pytest.raises(InputError, match="group 1 of 2 kept inputs"):
        pattern.check(w)


def test_bad_weights_are_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinity"):
        NM(2, 4).mask(np.array([[1.0, np.nan, 0, 0]], np.float32))
    with pytest.raises(InputError, match="a matrix"):
        NM(2, 4).mask(np.zeros(4, np.float32))


def test_a_given_saliency_ranks() -> None:
    w = np.array([[4.0, 3.0, 2.0, 1.0]], np.float32)
    assert NM(2, 4).mask(w, w[:, ::-1]).tolist() == [[False, False, True, True]]
    assert HP(1, 4, 2, 1, 2).mask(w, w[:, ::-1]).tolist() == [[False, False, False, True]]


# ---- block and unstructured -----------------------------------------------------------------------------------------


@FAST
@given(DENSITIES, weights())
def test_unstructured_equals_a_plain_sort(density: Fraction, w: np.ndarray) -> None:
    flat = np.abs(w).reshape(-1)
    kept = -(-density.numerator * w.size // density.denominator)
    expected = sorted(sorted(range(w.size), key=lambda i: (-flat[i], i))[:kept])
    mask = Unstructured(density).mask(w)
    assert np.flatnonzero(mask).tolist() == expected
    assert Unstructured(density).kept(*w.shape) == kept


@FAST
@given(unbalanced_patterns().filter(lambda p: isinstance(p, Block)), st.integers(0, 2**31))
def test_block_equals_a_plain_loop(pattern: Block, seed: int) -> None:
    w = np.random.default_rng(seed).integers(-3, 4, size=(11, 23)).astype(np.float32)  # exact sums, many ties
    expected = np.zeros(w.shape, bool)
    alike: dict[tuple[int, ...], list[tuple[int, int]]] = {}  # blocks of one size, in one row of blocks if balanced
    for r in range(0, 11, pattern.rows):
        for c in range(0, 23, pattern.cols):
            size = min(pattern.rows, 11 - r), min(pattern.cols, 23 - c)
            alike.setdefault((*size, r) if pattern.balanced else size, []).append((r, c))
    for corners in alike.values():
        sums = [(w[r : r + pattern.rows, c : c + pattern.cols] ** 2).sum() for r, c in corners]
        kept = -(-pattern.keep.numerator * len(corners) // pattern.keep.denominator)
        for number in sorted(range(len(corners)), key=lambda i: (-sums[i], i))[:kept]:
            r, c = corners[number]
            expected[r : r + pattern.rows, c : c + pattern.cols] = True
    mask = pattern.mask(w)
    assert np.array_equal(mask, expected)
    assert mask.sum() == pattern.kept(*w.shape)


@FAST
@given(unbalanced_patterns() | line_patterns(), weights(), st.sampled_from([0.0, 0.5, 1.0]))
def test_slots_cover_the_weights_and_are_as_many_as_kept(pattern: Pattern, w: np.ndarray, zeros: float) -> None:
    w = pattern.project(np.where(np.random.default_rng(0).random(w.shape) < zeros, 0, w))
    slots = pattern.slots(w)
    assert slots.sum() == pattern.kept(*w.shape)
    assert slots[w != 0].all()


def test_slots_of_zeros_do_not_crowd_one_row() -> None:
    slots = Unstructured(Fraction(1, 4)).slots(np.zeros((16, 64), np.int8))
    assert set(slots.sum(axis=1)) == {16}


@FAST
@given(st.integers(1, 3000), st.data())
def test_a_found_density_says_the_count(count: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, count))
    density = density_of(kept, count)
    assert share_of(count, density) == kept
    assert Fraction(decimal_text(density)) == density


def test_exact_decimals() -> None:
    # As a float 1 - 0.9 lies above 0.1, and would keep one weight more.
    assert parse_pattern("unstructured:0.9").kept(10, 100) == 100
    assert parse_pattern("unstructured:0.9").kept(7, 101) == 71
    assert parse_pattern("block:4x1:0.75").kept(312, 1200) == 312 * 300
    assert parse_pattern("block:4x1:0.75").kept(6, 2) == 6  # one of two whole blocks, one of two cut off
    # One whole block and three that the edges cut off: each is the only one of its size and stays.
    assert parse_pattern("block:16x16:0.5").kept(17, 17) == 289
    assert parse_pattern("block:16x16:0.75").kept(70, 70) == 4 * 256 + 2 * 6 * 16 + 36
    assert str(decimal_text(Fraction(1, 3))) == "1/3"


def test_ties_of_whole_tensors_keep_the_lower_index() -> None:
    ones = np.ones((2, 4), np.float32)
    assert Unstructured(Fraction(3, 8)).mask(ones).tolist() == [[True, True, True, False], [False] * 4]
    assert Block(1, 2, Fraction(1, 2)).mask(ones).tolist() == [[True] * 4, [False] * 4]
    assert keep_largest_of_all(np.arange(3), 0).sum() == 0
    assert fill_evenly(np.array([True, False]), 1).tolist() == [True, False]


@FAST
@given(st.integers(1, 3 * PAIRWISE_LIMIT), st.data(), st.sampled_from([np.bool_, np.int8, np.float32, np.float64]))
def test_the_largest_are_those_a_stable_sort_puts_first(size: int, data: st.DataObject, dtype: type) -> None:
    rows, keep = data.draw(st.integers(0, 4)), data.draw(st.integers(0, size + 1))
    values = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, data.draw(st.integers(1, 9)), (rows, size))
    values = values.astype(dtype)  # few different ones: ties are what can go wrong
    first = np.argsort(-values.astype(np.int64), axis=-1, kind="stable")[:, :keep]
    wanted = np.zeros(values.shape, np.bool_)
    np.put_along_axis(wanted, first, True, axis=-1)
    assert np.array_equal(keep_largest(values, keep), wanted)


def test_words_of_unbalanced_patterns() -> None:
    words = "unstructured (keeps 25 % of each matrix, anywhere, 75 % zeros)"
    assert parse_pattern("unstructured:0.75").describe() == words
    words = "blocks of 4 outputs x 1 input (keeps 25 % of them, anywhere, 75 % zeros)"
    assert parse_pattern("block:4x1:0.75").describe() == words
    assert parse_pattern("block:1x1:0.75").canonical() == Unstructured(Fraction(1, 4))
    assert parse_pattern("unstructured:0").canonical() == Dense() == parse_pattern("block:2x2:0").canonical()


def test_violations_of_unbalanced_patterns() -> None:
    with pytest.raises(InputError, match=r"12 of 16 weights are not zero; unstructured:0.5 keeps 8 of them"):
        parse_pattern("unstructured:0.5").check(np.array([[1, 1, 1, 0]] * 4))
    with pytest.raises(InputError, match=r"3 of 4 blocks of 2x2 .* block:2x2:0.5 keeps 2"):
        parse_pattern("block:2x2:0.5").check(np.array([[1, 1, 1, 0]] * 2 + [[1, 0, 0, 0]] * 2))
