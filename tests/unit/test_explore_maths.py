"""compiler/explore: fronts, choices and relaxations by their definitions, bounds by simulation, spaces by counting."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.explore import statistics
from compiler.explore.fidelity import WORSE, is_beyond, is_hopeless
from compiler.explore.pareto import dominates, front
from compiler.explore.selection import (
    Fidelity,
    Hardware,
    Limits,
    Objective,
    Point,
    choose,
    order_of,
    pareto,
    rejections,
    relaxation,
)
from compiler.explore.space import DENSE, RANDOM, ZEROED, Algorithm, Candidate, Part, Space
from compiler.explore.statistics import Score

DEVICES, PATTERNS = ("a", "b", "c"), (DENSE, "nm:2:4", "nm:2:8")
rows = st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12)


@given(rows)
def test_the_front_is_what_none_dominates(values: list[tuple[int, ...]]) -> None:
    kept = set(front(values))
    for index, row in enumerate(values):
        assert (index in kept) == (not any(dominates(other, row) for other in values))


@st.composite
def points(draw: st.DrawFn) -> list[Point]:
    """Some of the candidates of a small space: accuracies belong to patterns, the rest to candidates."""
    scores = {name: draw(st.floats(0, 1)) for name in PATTERNS}
    judged = {name: draw(st.sampled_from((Fidelity.DEV, Fidelity.SUBSET, Fidelity.NONE))) for name in PATTERNS}
    found: list[Point] = []
    for device, name in product(DEVICES, PATTERNS):
        if draw(st.booleans()):
            control = draw(st.sampled_from(("", "", "", RANDOM)))
            problem = draw(st.sampled_from(("", "", "", "too large")))
            hardware = Hardware(
                draw(st.sampled_from((0.5, 1.0, 2.0, 4.0))), 0.1, 0.0, draw(st.integers(1, 3)), None, problem
            )
            value = scores[name]
            score = None if judged[name] is Fidelity.NONE else Score(value, value - 0.05, value + 0.05, 100)
            candidate = Candidate(device, Algorithm(name, name, control=control))
            found.append(Point(candidate, draw(st.integers(1, 2)), hardware, score, judged[name]))
    return found


limits = st.builds(Limits, st.sampled_from((0.05, 0.7, 1.5, 5.0)), st.floats(0, 1), st.sampled_from((float("-inf"), 0.5)))


@given(points(), limits, st.sampled_from(Objective))
def test_the_winner_meets_both_limits_and_none_that_does_is_better(
    found: list[Point], asked: Limits, objective: Objective
) -> None:
    winner = choose(found, asked, objective)
    able = [p for p in found if p.fits and not p.candidate.algorithm.control and p.is_final]
    able = [p for p in able if p.hardware.latency_ms <= asked.latency_ms and p.score and p.score.low >= asked.accuracy]
    able = [p for p in able if p.score and p.score.value > asked.floor]
    assert (winner is None) == (not able)
    if winner is not None:
        assert winner in able
        assert all(order_of(objective)(winner) <= order_of(objective)(other) for other in able)
    assert choose(list(reversed(found)), asked, objective) == winner


@given(points(), limits)
def test_a_relaxed_limit_lets_a_point_in_and_a_tighter_one_does_not(found: list[Point], asked: Limits) -> None:
    if choose(found, asked, Objective.FASTEST) is not None:
        return
    relaxed = relaxation(found, asked)
    if relaxed.latency_ms is not None:
        assert choose(found, replace(asked, latency_ms=relaxed.latency_ms), Objective.FASTEST) is not None
        assert choose(found, replace(asked, latency_ms=np.nextafter(relaxed.latency_ms, 0)), Objective.FASTEST) is None
    else:
        assert choose(found, replace(asked, latency_ms=1e9), Objective.FASTEST) is None
    if relaxed.accuracy is not None:
        assert choose(found, replace(asked, accuracy=relaxed.accuracy), Objective.FASTEST) is not None
        assert choose(found, replace(asked, accuracy=np.nextafter(relaxed.accuracy, 2)), Objective.FASTEST) is None
    else:
        assert choose(found, replace(asked, accuracy=-1e9), Objective.FASTEST) is None


@given(points(), limits, st.sampled_from(Objective))
def test_every_other_device_has_one_reason_and_it_is_true(found: list[Point], asked: Limits, objective: Objective) -> None:
    winner = choose(found, asked, objective)
    told = rejections(found, asked, winner, objective)
    devices = {p.candidate.device for p in found if not p.candidate.algorithm.control}
    assert {entry.device for entry in told} == devices - ({winner.candidate.device} if winner else set())
    for entry in told:
        own = [p for p in found if p.candidate.device == entry.device and not p.candidate.algorithm.control]
        assert (entry.failed == "capacity") == (not any(p.fits for p in own))
        assert (entry.failed == "objective") == (choose(own, asked, objective) is not None)
        if entry.failed == "latency":
            assert entry.by is not None
            assert entry.by > 0


@given(points())
def test_the_front_of_points_holds_no_control_and_nothing_unmeasured(found: list[Point]) -> None:
    for point in pareto(found):
        assert point.is_final
        assert point.fits
        assert not point.candidate.algorithm.control


def test_a_control_never_wins_however_good_its_figures() -> None:
    best = Score(1.0, 1.0, 1.0, 100)
    for control in (ZEROED, RANDOM):
        point = Point(Candidate("a", Algorithm("nm:2:4", "nm:2:4", control=control)), 1, Hardware(0.1), best, Fidelity.DEV)
        assert choose([point], Limits(1.0, 0.5), Objective.CHEAPEST) is None


def test_what_scores_no_more_than_zeros_never_wins() -> None:
    point = Point(Candidate("a", Algorithm(DENSE, DENSE)), 1, Hardware(0.1), Score(0.7, 0.6, 0.8, 9), Fidelity.DEV)
    assert choose([point], Limits(1.0, 0.5, floor=0.7), Objective.CHEAPEST) is None
    assert choose([point], Limits(1.0, 0.5, floor=0.69), Objective.CHEAPEST) == point
    (told,) = rejections([point], Limits(1.0, 0.5, floor=0.7), None, Objective.CHEAPEST)
    assert (told.failed, told.by, told.reason) == ("accuracy", None, "an encoder of zeros scores as much: 0.7000")


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_bounds_of_a_proportion_cover_as_often_as_they_say(share: float) -> None:
    random = np.random.default_rng(0)
    z = statistics.z_of(0.95)
    scores = [statistics.proportion(random.random(200) < share, z) for _ in range(1000)]
    assert np.mean([s.low <= share for s in scores]) >= 0.93
    assert np.mean([s.high >= share for s in scores]) >= 0.93


def test_more_comparisons_need_wider_bounds() -> None:
    assert statistics.z_of(0.95) == pytest.approx(1.645, abs=1e-3)
    assert statistics.z_of(0.95, 10) == pytest.approx(statistics.z_of(0.995))


def test_f1_and_correlations_agree_with_their_definitions() -> None:
    from sklearn.metrics import f1_score  # pyright: ignore[reportMissingImports]

    random = np.random.default_rng(1)
    labels, predicted = random.integers(0, 3, 60), random.integers(0, 3, 60)
    score = statistics.macro_f1(predicted, labels, 1.0)
    assert score.value == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert score.low < score.value < score.high
    a = random.standard_normal(45)
    b = a + random.standard_normal(45)
    pairs = np.array([(i, j) for i in range(10) for j in range(i + 1, 10)])
    assert statistics.correlation(a, b, pairs, 1.0).value == pytest.approx(np.corrcoef(a, b)[0, 1])
    grown = statistics.correlation(np.exp(a), b, pairs, 1.0, ranks=True)
    assert grown.value == pytest.approx(statistics.correlation(a, b, pairs, 1.0, ranks=True).value)


def test_perplexity_is_better_when_larger_since_it_is_negative() -> None:
    tokens = np.array([4, 6, 5])
    low, high = (statistics.perplexity(rate * tokens, tokens, 1.6) for rate in (1.0, 2.0))
    assert low.value == pytest.approx(-np.e)
    assert high.value < low.value


@settings(max_examples=30)
@given(st.booleans())
def test_a_space_has_each_algorithm_once(mixed: bool) -> None:
    space = Space({"fpga": Part(("a", "b"), {"nm": ("nm:2:4", "nm:2:8"), "hp": ("hp:0.75",)}, mixed)})
    algorithms = space.algorithms()
    assert len(set(algorithms)) == len(algorithms) == (9 + 3 if mixed else 4)
    assert len(list(space)) == len(space) == 2 * len(algorithms)
    assert algorithms[0].is_dense
    assert len({algorithm.label for algorithm in algorithms}) == len(algorithms)


def test_screens_rule_out_only_what_is_beyond_their_uncertainty() -> None:
    assert is_hopeless(Score(0.5, 0.4, 0.6, 50), 0.61)
    assert not is_hopeless(Score(0.5, 0.4, 0.6, 50), 0.6)
    assert is_beyond(0.3, {"nm:2:8": 0.3 / WORSE}) == "nm:2:8"
    assert is_beyond(0.3, {"nm:2:8": 0.25}) == ""
    assert is_beyond(0.3, {}) == ""
