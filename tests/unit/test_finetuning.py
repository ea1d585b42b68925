"""T2's split, its unlabelled sentences and its statistics: what the accuracy of fine-tuned models is compared by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import finetuning, inheritance, texts
from benchmarks.finetuning_report import lower_bound
from compiler.sparsity.base import Pattern
from compiler.training.plan import Settings, parse_ladder
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


def test_each_way_of_spending_a_budget_spends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is trained from what for how many steps, and where the table puts it."""
    (tmp_path / "teacher-3.onnx").touch()
    runs: list[tuple[list[str], int, str]] = []

    def train(model: Path, samples: Path, dev: Path, patterns: list[Pattern], settings: Settings, *rest: Any) -> None:
        runs.append(([pattern.spec() for pattern in patterns], settings.steps, model.name))
        assert len(rest[1]) == len(patterns)

    monkeypatch.setattr(finetuning, "train", train)
    monkeypatch.setattr(finetuning, "start_of", lambda folder, spec, seed: folder / f"{spec}-{seed}")
    ladder = parse_ladder("4:8,2:8,1:8")
    made = inheritance.models(tmp_path, ladder, 3, 300, {})
    specs = ["nm:4:8", "nm:2:8", "nm:1:8"]
    assert runs[0] == (specs, 300, "teacher-3.onnx")
    assert runs[1:4] == [([spec], 100, "teacher-3.onnx") for spec in specs]
    assert runs[4:] == [(specs[-1:], 300, "teacher-3.onnx")]
    assert {way: len(paths) for way, paths in made.items()} == {"ladder": 3, "each": 3, "last": 1, "one-shot": 3}
    assert len({path for paths in made.values() for path in paths}) == 10
    scores = {"ladder": [0.8, 0.7, 0.6], "each": [0.5, 0.4, 0.3], "last": [0.2], "one-shot": [0.1, 0.1, 0.1]}
    rows = inheritance.table(ladder, [scores, {way: [score + 0.1 for score in row] for way, row in scores.items()}])
    assert [row.split(" | ")[3][:6] for row in rows[2:]] == ["-", "-", "0.2500"]
    assert "0.8500 (0.8000 to 0.9000)" in rows[2]


def test_a_teacher_that_is_remembered_answers_alike(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="training needs torch (pip install 'hpcc[train]')")
    from compiler.training.network import Result

    asked: list[int] = []

    def teacher(length: int, inputs: Mapping[str, np.ndarray]) -> Result:
        asked.append(length)
        return Result({"logits": torch.tensor([[1.25, 2.0]])}, [torch.ones(1, 2, 4)], torch.ones(1, 2, dtype=torch.bool))

    remembered = finetuning.Remembered(teacher, tmp_path)
    for ids in (np.array([[1, 2]]), np.array([[1, 2]]), np.array([[2, 1]])):
        result = remembered(2, {"input_ids": ids})
        assert torch.equal(result.outputs["logits"], torch.tensor([[1.25, 2.0]]))
        assert torch.equal(result.hidden[0].float(), torch.ones(1, 2, 4))
    assert len(asked) == 2


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
