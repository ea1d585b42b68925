"""T2's split, its unlabelled sentences and its statistics: what the accuracy of fine-tuned models is compared by."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import finetuning, texts
from benchmarks.finetuning_report import lower_bound
from hw_targets.errors import MissingToolError


def test_a_stratified_split_is_disjoint_balanced_and_decided_by_its_seed() -> None:
    labels = np.repeat([0, 1], [300, 100])[np.random.default_rng(0).permutation(400)]
    parts = texts.stratified(labels, (200, 40, 80), 7)
    assert [len(part) for part in parts] == [200, 40, 80]
    together = np.concatenate(parts)
    assert len(set(together.tolist())) == len(together)
    assert [np.bincount(labels[part])[1] for part in parts] == pytest.approx([50, 10, 20], abs=1)
    again, other = texts.stratified(labels, (200, 40, 80), 7), texts.stratified(labels, (200, 40, 80), 8)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not np.array_equal(parts[0], other[0])


def test_the_lower_bound_is_that_of_the_paired_difference() -> None:
    random = np.random.default_rng(1)
    base = random.random(2000) < 0.8
    assert lower_bound(base, base) == 0
    worse = base & (random.random(2000) < 0.97)
    difference = worse.mean() - base.mean()
    bound = lower_bound(worse, base)
    spread = (worse.astype(float) - base).std() / np.sqrt(2000)
    assert bound < difference
    assert bound == pytest.approx(difference - 1.645 * spread, abs=0.3 * spread)


def test_the_settings_of_both_phases_are_fixed_and_the_same_for_all_patterns() -> None:
    assert finetuning.PLAIN.loss == "labels"
    assert finetuning.DISTIL.loss == "distill"
    assert "dense" in finetuning.PATTERNS
    assert finetuning.PLAIN.steps == 2 * (finetuning.SIZES[0] // finetuning.PLAIN.batch)


@pytest.mark.slow
def test_no_sentence_of_the_test_set_is_trained_on() -> None:
    try:
        split = texts.rotten_tomatoes()
    except MissingToolError as error:
        pytest.skip(str(error))
    parts = texts.stratified(split.labels, finetuning.SIZES, finetuning.SPLIT_SEED)
    assert [len(part) for part in parts] == list(finetuning.SIZES)
    tested = {" ".join(split.texts[row].lower().split()) for row in parts[2]}
    trained = {" ".join(split.texts[row].lower().split()) for row in np.concatenate(parts[:2])}
    assert not tested & trained
    some = [split.texts[row] for row in parts[2]]
    sentences = texts.review_sentences(200, 0, some)
    assert len(set(sentences)) == 200
    known = set(texts.review_sentences(10**9, 0, ()))
    planted = sorted(known)[:50]
    assert not set(planted) & set(texts.review_sentences(10**9, 0, planted))
