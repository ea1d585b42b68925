"""Rows, columns, compositions and weight sharing against their definitions, for every small shape."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pytest

from compiler.sparsity.patterns import HP, Circulant, Pattern, parse_pattern
from hw_targets.errors import InputError, UsageError

SHAPES = [(outs, ins) for outs in range(1, 7) for ins in range(1, 10)]
SPECS = ["row:0.5", "row:0.75:tile=4x3", "row:0.3:tile=2xin", "row:2/3:tile=outx4", "column:0.5", "column:0.75:tile=4x3"]
SPECS += ["column:0.6:tile=outx4", "block:2x3:0.5", "block:2x3:0.5:balanced", "block:2x4:0.5+nm:1:2", "row:0.5+nm:2:4"]


def matrix(outs: int, ins: int) -> np.ndarray:
    return np.random.default_rng(10 * outs + ins).integers(1, 9, (outs, ins)).astype(np.float32)  # exact sums, many ties


@pytest.mark.parametrize("spec", SPECS)
def test_counts_projection_and_check_of_every_small_shape(spec: str) -> None:
    pattern = parse_pattern(spec)
    for outs, ins in SHAPES:
        w = matrix(outs, ins)
        mask = pattern.mask(w)
        assert mask.sum() == pattern.kept(outs, ins), (outs, ins)
        projected = pattern.project(w)
        pattern.check(projected)
        assert np.array_equal(projected, np.where(mask, w, 0))
        slots = pattern.slots(projected)
        assert slots.sum() == pattern.kept(outs, ins)
        assert slots[projected != 0].all()
        if pattern.row_slots(ins) is not None:
            assert set(mask.sum(axis=1)) == {pattern.row_slots(ins)}
        if pattern.kept(outs, ins) < outs * ins:
            with pytest.raises(InputError):
                pattern.check(w)


def plain_rows(w: np.ndarray, keep: Fraction, rows: int, cols: int) -> np.ndarray:
    expected = np.zeros(w.shape, bool)
    full = ceil(keep * rows)
    for top in range(0, len(w), rows):
        for left in range(0, w.shape[1], cols):
            tile = w[top : top + rows, left : left + cols]
            sums = (tile**2).sum(axis=1)
            for row in sorted(range(len(tile)), key=lambda i: (-sums[i], i))[: ceil(Fraction(full * len(tile), rows))]:
                expected[top + row, left : left + cols] = True
    return expected


def test_rows_and_columns_equal_plain_loops() -> None:
    for outs, ins in SHAPES:
        w = matrix(outs, ins)
        assert np.array_equal(parse_pattern("row:0.5").mask(w), plain_rows(w, Fraction(1, 2), outs, ins))
        assert np.array_equal(parse_pattern("row:0.6:tile=4x3").mask(w), plain_rows(w, Fraction(2, 5), 4, 3))
        turned = parse_pattern("column:0.5").mask(w).T
        assert np.array_equal(turned, plain_rows(w.T, Fraction(1, 2), ins, outs))


def test_columns_of_tiles_are_hierarchical() -> None:
    assert parse_pattern("column:0.75:tile=64x32").canonical() == HP(64, 32, 8)
    assert "the same as hp:rows=64" in parse_pattern("column:0.75:tile=64x32").describe()
    assert parse_pattern("row:0").canonical() == parse_pattern("column:0").canonical() == parse_pattern("dense")
    assert parse_pattern("block:4x4:0+nm:2:4").canonical() == parse_pattern("nm:2:4")


def plain_circulant(w: np.ndarray, b: int) -> np.ndarray:
    result = np.zeros_like(w)
    for top in range(0, len(w), b):
        for left in range(0, w.shape[1], b):
            tile = w[top : top + b, left : left + b]
            row, column = np.indices(tile.shape)
            for d in range(b):
                diagonal = (column - row) % b == d
                if diagonal.any():
                    result[top : top + b, left : left + b][diagonal] = tile[diagonal].astype(np.float64).mean()
    return result


@pytest.mark.parametrize("block", [1, 2, 3, 4, 7])
def test_circulant_is_the_mean_of_diagonals(block: int) -> None:
    pattern: Pattern = Circulant(block)
    for outs, ins in SHAPES:
        w = matrix(outs, ins)
        projected = pattern.project(w)
        assert np.allclose(projected, plain_circulant(w, block), rtol=1e-6)
        pattern.check(projected)
        assert np.allclose(pattern.project(projected), projected, rtol=1e-6)
        assert pattern.kept(outs, ins) == w.size, "no zeros"
        assert pattern.free(outs, ins) == ceil(outs / block) * ceil(ins / block) * block


def test_a_value_that_is_not_tied_is_named() -> None:
    w = np.ones((8, 8), np.float32)
    w[5, 6] = 2
    with pytest.raises(InputError, match=r"row 5, input 6 differs|row \d, input \d differs"):
        Circulant(4).check(w)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("row:0.5:tile=8", "does not read as RxC"),
        ("row:0.5:tile=0x4", "does not read as RxC"),
        ("row:1", "from 0 to below 1"),
        ("column", "is no number"),
        ("column:0.5:balanced", "does not read as column:S:tile=RxC"),
        ("block:4x4:0.5:balance", "does not read as block:RxC:S"),
        ("block:4x4:0.5+nm:2:4+nm:1:2", "does not name two patterns"),
        ("unstructured:0.5+nm:2:4", "is no composition"),
        ("block:4x6:0.5+nm:2:4", "do not split into groups of 4"),
        ("block:4x4:0.5+nm:2:4,along=out", "run along the inputs"),
        ("circulant:0", "1 to 4096 rows"),
        ("circulant:x", "is not a whole number"),
    ],
)
def test_bad_spellings(spec: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_pattern(spec)
    assert message in str(caught.value)
