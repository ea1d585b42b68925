"""What a training run does at each step, the masks it does it with and the order of its samples: no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler import training
from compiler.sparsity.patterns import parse_pattern
from compiler.tools.inputs import InputSpec
from compiler.tools.training import data
from compiler.training.batches import Samples, batch_at, epoch_order, fitting, in_order
from compiler.training.masks import MaskedWeight, start
from compiler.training.plan import Plan, Settings, ladder, parse_ladder
from compiler.training.state import Checkpoint, RunFolder
from hw_targets.errors import InputError, MissingToolError, UsageError

LADDER = "4:8,2:8,1:8"
PATTERNS = ("nm:2:4", "nm:2:8", "hp:0.75", "hp:rows=4,window=in,keep=1/4,fine=dense", "block:4x1:0.75", "unstructured:0.9")


def plan(steps: int = 100, patterns: str = "2:8", **changes: object) -> Plan:
    setting = Settings(steps, **changes)  # pyright: ignore[reportArgumentType]
    return Plan(setting, ladder(parse_ladder(patterns), steps))


# ---- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "text"), [(100, "2:8"), (100, LADDER), (17, LADDER), (15, LADDER)])
def test_the_rungs_of_a_ladder_share_the_whole_budget(steps: int, text: str) -> None:
    rungs = plan(steps, text).rungs
    assert rungs[0].first == 0
    assert rungs[-1].end == steps
    assert all(before.end == after.first for before, after in zip(rungs, rungs[1:], strict=False))
    assert max(rung.steps for rung in rungs) - min(rung.steps for rung in rungs) <= 1


def test_masks_stand_still_for_the_last_fifth_of_each_rung() -> None:
    made = plan(300, LADDER, refresh=1)
    for rung in made.rungs:
        refreshed = [step for step in range(rung.first, rung.end) if made.refreshes(step)]
        assert refreshed == list(range(rung.first, rung.frozen_from + 1))
        assert rung.end - rung.frozen_from == rung.steps / 5


def test_masks_are_made_anew_every_k_steps_and_once_when_they_freeze() -> None:
    made = plan(100, refresh=7)
    assert [step for step in range(100) if made.refreshes(step)] == [*range(0, 80, 7), 80]


def test_weights_go_by_a_cubic_schedule_and_none_stays_when_masks_freeze() -> None:
    made = plan(100, gradual=0.5)
    shares = [made.extra_share(step) for step in range(100)]
    assert shares[0] == 1
    assert shares[25] == pytest.approx(0.5**3)
    assert shares[50:] == [0] * 50
    assert all(later <= earlier for earlier, later in zip(shares, shares[1:], strict=False))
    assert plan(100, gradual=1.0).extra_share(80) == 0
    assert plan(100, gradual=0.0).extra_share(0) == 0


def test_the_rate_rises_then_falls_in_each_rung() -> None:
    made = plan(200, "4:8,2:8", warmup=0.1)
    shares = [made.rate_share(step) for step in range(200)]
    assert max(shares) <= 1
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert 0 < shares[99] < 0.02
    assert shares[100:] == shares[:100]


def test_the_dev_set_is_scored_only_with_masks_that_no_longer_change() -> None:
    made = plan(100, evaluate=6)
    scored = [step for step in range(100) if made.evaluates(step)]
    assert scored == [81, 87, 93, 99]
    assert all(step >= made.rungs[0].frozen_from for step in scored)
    assert [step for step in range(100) if plan(100).evaluates(step)] == [99]


@pytest.mark.parametrize(
    ("code", "steps", "text", "changes"),
    [
        ("HPCC2251", 3, "2:8", {}),
        ("HPCC2251", 14, LADDER, {}),
        ("HPCC2250", 100, "2:8", {"loss": "mse"}),
        ("HPCC2252", 100, "2:8", {"batch": 0}),
        ("HPCC2252", 100, "2:8", {"refresh": 0}),
        ("HPCC2253", 100, "2:8,4:8", {}),
        ("HPCC2253", 100, "2:8,hp:0.75", {}),
        ("HPCC2254", 100, " , ", {}),
        ("HPCC2254", 100, "dense,2:8", {}),
        ("HPCC2201", 100, "nn:2:8", {}),
    ],
)
def test_a_run_that_cannot_be_is_refused(code: str, steps: int, text: str, changes: dict[str, object]) -> None:
    with pytest.raises(UsageError) as error:
        plan(steps, text, **changes)
    assert error.value.code == code


def test_a_ladder_is_read_in_short_and_in_full() -> None:
    assert [p.spec() for p in parse_ladder(LADDER)] == ["nm:4:8", "nm:2:8", "nm:1:8"]
    full = "hp:rows=64,window=32,keep=32,fine=2:4; hp:0.75;hp:0.9"
    assert [p.sparsity for p in parse_ladder(full)] == pytest.approx([0.5, 0.75, 0.90625])


# ---- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", PATTERNS)
@given(seed=st.integers(0, 99), outs=st.integers(1, 70), ins=st.integers(1, 70))
@settings(max_examples=10, deadline=None)
def test_a_mask_is_the_patterns_of_the_dense_weights_when_nothing_extra_stays(
    spec: str, seed: int, outs: int, ins: int
) -> None:
    pattern, w = parse_pattern(spec), np.random.default_rng(seed).standard_normal((outs, ins)).astype(np.float32)
    weight = start(pattern, w.shape)
    weight.refresh(w, 0.0)
    assert np.array_equal(weight.mask, pattern.mask(w))
    assert np.count_nonzero(weight.mask) <= pattern.kept(outs, ins)  # an edge block may be smaller than others
    assert np.count_nonzero(weight.mask) == pattern.kept(outs, ins) or spec.startswith("block")


def test_the_mask_follows_the_dense_weights() -> None:
    pattern, random = parse_pattern("nm:2:8"), np.random.default_rng(0)
    first, second = (random.standard_normal((8, 32)).astype(np.float32) for _ in range(2))
    weight = start(pattern, (8, 32))
    weight.refresh(first, 0.0)
    before = weight.mask.copy()
    weight.refresh(second, 0.0)
    assert np.array_equal(weight.mask, pattern.mask(second))
    assert weight.churn == np.count_nonzero(before != weight.mask) / before.size > 0
    weight.refresh(second, 0.0)
    assert weight.churn == 0


@pytest.mark.parametrize("spec", PATTERNS)
def test_gradual_pruning_keeps_the_largest_of_those_that_go(spec: str) -> None:
    pattern, w = parse_pattern(spec), np.random.default_rng(3).standard_normal((64, 64)).astype(np.float32)
    weight = start(pattern, w.shape)
    weight.refresh(w, 0.25)
    target = pattern.mask(w)
    extra = weight.mask & ~target
    assert (weight.mask | ~target).all()
    assert np.count_nonzero(extra) == round(0.25 * np.count_nonzero(~target))
    assert np.abs(w[extra]).min() >= np.abs(w[~weight.mask]).max()
    weight.refresh(w, 1.0)
    assert weight.mask.all()


@pytest.mark.parametrize("text", [LADDER, "hp:0.5,hp:0.75,hp:0.9", "nm:2:4,hp:0.75"])
def test_a_weight_returns_within_a_rung_but_not_across(text: str) -> None:
    first, *others = parse_ladder(text)
    random = np.random.default_rng(1)
    w = random.standard_normal((128, 64)).astype(np.float32)
    weight = start(first, w.shape)
    weight.refresh(w, 0.0)
    gone = ~weight.mask
    w = w[::-1].copy()
    weight.refresh(w, 0.0)
    assert (weight.mask & gone).any()  # within the rung
    for pattern in others:
        gone = ~weight.mask
        weight.descend(pattern)
        w = random.standard_normal(w.shape).astype(np.float32)
        for extra in (1.0, 0.5, 0.0):
            weight.refresh(w, extra)
            assert not (weight.mask & gone).any()
        pattern.check(np.where(weight.mask, w, 0))
        if text == LADDER:
            assert np.count_nonzero(weight.mask) == pattern.kept(*w.shape)


def test_weights_that_are_no_numbers_are_an_error() -> None:
    weight = start(parse_pattern("nm:2:8"), (4, 32))
    with pytest.raises(InputError, match="NaN"):
        weight.refresh(np.full((4, 32), np.nan, np.float32), 0.0)


# ---- samples --------------------------------------------------------------------------------------------------------


def samples(count: int = 50, length: int = 16, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    tokens = random.integers(1, length + 1, count)
    mask = (np.arange(length) < tokens[:, None]).astype(np.int64)
    ids = random.integers(1, 90, (count, length)) * mask
    return Samples({"ids": ids, "mask": mask}, random.integers(0, 2, count), "mask")


def test_an_epoch_sees_each_sample_once_in_an_order_that_the_seed_decides() -> None:
    tokens = samples(96).tokens
    order = epoch_order(tokens, 8, 5, 0)
    assert sorted(np.concatenate(order).tolist()) == list(range(96))
    assert all(np.array_equal(a, b) for a, b in zip(order, epoch_order(tokens, 8, 5, 0), strict=True))
    assert not np.array_equal(np.concatenate(order), np.concatenate(epoch_order(tokens, 8, 6, 0)))
    assert not np.array_equal(np.concatenate(order), np.concatenate(epoch_order(tokens, 8, 5, 1)))


def test_a_step_sees_its_samples_whatever_came_before() -> None:
    tokens = samples(50).tokens
    steps = [batch_at(tokens, 8, 0, step) for step in range(20)]
    assert all(len(rows) == 8 for rows in steps)
    assert np.array_equal(steps[13], batch_at(tokens, 8, 0, 13))
    assert len(batch_at(tokens[:5], 8, 0, 3)) == 5


def test_batches_are_cut_to_the_shortest_length_that_holds_their_tokens() -> None:
    given_samples = samples(40, 16)
    rows = np.argsort(given_samples.tokens)[:4]
    longest = int(given_samples.tokens[rows].max())
    length = fitting((2, 4, 8, 16), longest)
    assert length >= longest
    cut, labels = given_samples.take(rows, length, 6)
    assert cut["ids"].shape == (6, length)
    assert cut["mask"][:4].sum() == given_samples.inputs["mask"][rows].sum()
    assert np.array_equal(cut["ids"][4], cut["ids"][0])
    assert labels is not None
    assert len(labels) == 4
    assert sorted(np.concatenate(list(in_order(given_samples, 7))).tolist()) == list(range(40))


# ---- files ----------------------------------------------------------------------------------------------------------

SPECS = (InputSpec("ids", "int64", (8, 16), 90), InputSpec("mask", "int64", (8, 16)))


@pytest.mark.parametrize(
    ("code", "labels"),
    [
        ("HPCC1555", None),
        ("HPCC1556", np.zeros(49, np.int64)),
        ("HPCC1556", np.zeros((50, 1), np.int64)),
        ("HPCC1556", np.zeros(50, np.float32)),
        ("HPCC1557", np.full(50, 2)),
        ("HPCC1557", np.full(50, -2)),
    ],
)
def test_labels_that_do_not_fit_the_model_are_refused(tmp_path: Path, code: str, labels: np.ndarray | None) -> None:
    arrays = dict(samples().inputs) if labels is None else {**samples().inputs, "labels": labels}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError) as error:
        data.read(tmp_path / "x.npz", SPECS, "mask", 2, labelled=True)
    assert error.value.code == code
    assert str(tmp_path / "x.npz") in str(error.value)


def test_minus_one_is_a_sample_without_a_label(tmp_path: Path) -> None:
    labels = np.resize([0, 1, -1], 50)
    np.savez(tmp_path / "x.npz", **samples().inputs, labels=labels)
    found = data.read(tmp_path / "x.npz", SPECS, "mask", 2, labelled=True)
    assert found.labels is not None
    assert np.array_equal(found.labels, labels)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    run = {"model": "abc", "settings": "s"}
    RunFolder(tmp_path, run).save(Checkpoint(7, {"weight/w": np.ones(3, np.float32)}, 0.5, 6))
    found = RunFolder(tmp_path, run).load()
    assert found is not None
    assert (found.step, found.score, found.chosen) == (7, 0.5, 6)
    assert found.group("weight")["w"].tolist() == [1, 1, 1]
    with pytest.raises(InputError, match="its model is abc, not xyz") as error:
        RunFolder(tmp_path, {**run, "model": "xyz"}).load()
    assert error.value.code == "HPCC1553"


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {"model": "abc"})
    assert folder.load() is None
    folder.save(Checkpoint(7, {"weight/w": np.ones(300, np.float32)}))
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError) as error:
        folder.load()
    assert error.value.code == "HPCC1552"


def test_the_log_forgets_the_steps_that_are_done_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in range(6):
        folder.log(step=step, loss=1.0)
    folder.keep_log(4)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match=r"hpcc\[train\]") as error:
        training.require_torch()
    assert error.value.code == "HPCC5110"
    assert error.value.exit_status == 5


def test_a_restored_mask_knows_what_earlier_rungs_kept() -> None:
    weight = start(parse_pattern("nm:4:8"), (4, 32))
    weight.refresh(np.arange(128, dtype=np.float32).reshape(4, 32), 0.0)
    weight.descend(parse_pattern("nm:2:8"))
    again = MaskedWeight(weight.pattern, weight.mask, weight.allowed)
    w = -np.arange(128, dtype=np.float32).reshape(4, 32)
    weight.refresh(w, 0.3)
    again.refresh(w, 0.3)
    assert np.array_equal(weight.mask, again.mask)
