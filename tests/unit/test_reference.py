"""Distances between results: zero rows, masks, infinities, and what damage means sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compiler.tools.reference import RELATIVE_L2, TOKEN_COSINE, cosines, damage, distance, token_rows

A = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)


def test_equal_results_have_no_distance() -> None:
    d = distance("y", A, A, None)
    assert (d.relative_l2, d.max_abs_error, d.passed) == (0.0, 0.0, True)
    assert (d.min_token_cosine, d.mean_token_cosine) == (pytest.approx(1.0), pytest.approx(1.0))


def test_zero_rows() -> None:
    """Two zero rows are alike; a zero row where there should be something is not."""
    assert list(cosines(A, A)) == [1.0, 1.0]
    assert list(cosines(A, np.array([[3.0, 4.0], [0.0, 1.0]]))) == [1.0, 0.0]
    lost = distance("y", A, np.array([[3.0, 4.0], [0.0, 0.001]], np.float32), None)
    assert lost.relative_l2 < RELATIVE_L2
    assert not lost.passed


def test_a_zero_reference_is_measured_absolutely() -> None:
    d = distance("y", np.array([[0.0, 0.5]], np.float32), np.zeros((1, 2), np.float32), None)
    assert (d.relative_l2, d.max_abs_error, d.passed) == (0.5, 0.5, False)
    assert distance("y", np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32), None).passed


def test_masked_tokens_do_not_count() -> None:
    wanted = np.ones((2, 3, 4), np.float32)
    got = wanted.copy()
    got[0, 2] = -7  # a padded token
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    assert distance("y", got, wanted, mask).passed
    assert distance("y", got, wanted, mask).max_abs_error == 0
    assert not distance("y", got, wanted, None).passed
    assert token_rows(got, mask).shape == (5, 4)
    # A mask that is not [batch, tokens] of this result says nothing about it: pooled results have no tokens.
    assert token_rows(wanted[:, 0], mask).shape == (2, 4)
    assert token_rows(wanted, mask[:1]).shape == (6, 4)


def test_all_tokens_masked() -> None:
    wanted = np.ones((1, 2, 3), np.float32)
    d = distance("y", -wanted, wanted, np.zeros((1, 2), np.int64))
    assert (d.relative_l2, d.min_token_cosine, d.passed) == (0.0, 1.0, True)


def test_scalars_and_vectors_are_one_row() -> None:
    assert distance("y", np.float32(2) * np.ones(()), np.full((), 2.0), None).passed
    assert distance("y", np.ones(3, np.float32), np.ones(3, np.float32), None).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails(bad: float) -> None:
    got = A.copy()
    got[0, 0] = bad
    assert not distance("y", got, A, None).passed
    assert not distance("y", got, A, None, atol=np.inf).passed


def test_integers_must_be_equal() -> None:
    ids = np.array([[1, 2]])
    assert distance("ids", ids, ids.copy(), None).passed
    other = distance("ids", ids + [[0, 1]], ids, None)
    assert (other.passed, other.relative_l2, other.max_abs_error) == (False, 1.0, 1.0)


def test_limits_are_those_of_the_design() -> None:
    assert (RELATIVE_L2, TOKEN_COSINE) == (0.10, 0.985)
    wanted = np.ones((1, 100), np.float32)
    assert distance("y", wanted * np.float32(1.09), wanted, None).passed
    assert not distance("y", wanted * np.float32(1.11), wanted, None).passed
    # One bad token among many hides in the relative distance; its cosine does not.
    many, broken = np.ones((1000, 4), np.float32), np.ones((1000, 4), np.float32)
    broken[0, 0] = -1
    d = distance("y", broken, many, None)
    assert d.relative_l2 < RELATIVE_L2
    assert d.min_token_cosine == pytest.approx(0.5)
    assert not d.passed


def test_tolerances_of_the_user_replace_the_limits() -> None:
    wanted = np.full((1, 2), 10.0, np.float32)
    assert distance("y", wanted + 3, wanted, None, atol=3.0).passed
    assert not distance("y", wanted + 3, wanted, None, atol=2.9).passed
    assert distance("y", wanted + 3, wanted, None, rtol=0.3, atol=0.0).passed
    assert not distance("y", wanted + 3, wanted, None, rtol=0.29, atol=0.0).passed


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32)), st.floats(0.015625, 64, width=32))
def test_cosines_are_cosines(x: np.ndarray, factor: float) -> None:
    values = cosines(x, x * np.float32(factor))
    nonzero = np.linalg.norm(x.astype(np.float64), axis=-1) > 1e-30
    assert (np.abs(values[nonzero] - 1) < 1e-6).all()
    assert (np.abs(cosines(x, x[::-1])) <= 1 + 1e-9).all()


# ---- damage ----------------------------------------------------------------------------------------------------------


def test_damage_counts_samples_not_batches() -> None:
    """Three samples in two batches: one unchanged, one turned by 90 degrees, one turned round."""
    original = [np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 1.0]])]
    pruned = [np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[0.0, -1.0]])]
    d = damage(pruned, original, [None, None])
    assert d.mean_sample_cosine == pytest.approx((1 + 0 - 1) / 3)
    assert d.top1_agreement == pytest.approx(1 / 3)


def test_damage_leaves_padding_out() -> None:
    original = np.ones((3, 2, 2), np.float32)
    pruned = original.copy()
    pruned[0, 1] = -1  # a padded token
    pruned[2] = -1  # a sample that only fills the batch
    mask = np.array([[1, 0], [1, 1], [0, 0]])
    assert damage([pruned], [original], [mask]).mean_sample_cosine == pytest.approx(1.0)
    assert damage([pruned], [original], [None]).mean_sample_cosine < 0.9


def test_embeddings_have_no_top1() -> None:
    wide = np.ones((2, 384), np.float32)
    assert damage([wide], [wide], [None]).top1_agreement is None
    assert damage([wide[:, :1]], [wide[:, :1]], [None]).top1_agreement is None
    assert damage([wide[:, :32]], [wide[:, :32]], [None]).top1_agreement == 1.0
    assert damage([], [], []).mean_sample_cosine == 1.0


def test_the_worst_token_is_judged_on_real_inputs_and_the_mean_on_made_up_ones() -> None:
    wanted = np.tile(np.array([[1.0, 0.0]], np.float32), (100, 1))
    got = wanted.copy()
    got[0] = [0.95, 0.31]  # cosine 0.951
    assert not distance("y", got, wanted, None).passed
    assert distance("y", got, wanted, None, made_up=True).passed
    assert not distance("y", got[:3], wanted[:3], None, made_up=True).passed
