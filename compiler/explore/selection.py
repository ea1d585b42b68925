"""Which candidate wins under two limits, why each other device does not, and what would have to give where none does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from compiler.explore.pareto import front
from compiler.explore.space import Candidate
from compiler.explore.statistics import Score


class Fidelity(StrEnum):
    """How well the accuracy of a candidate is known; only the last two can win."""

    NONE = "none"
    ESTIMATE = "estimate"
    SUBSET = "subset"
    DEV = "dev"
    TRAINED = "trained"


FINAL = (Fidelity.DEV, Fidelity.TRAINED)


class Objective(StrEnum):
    CHEAPEST = "cheapest"
    FASTEST = "fastest"
    SMALLEST = "smallest"


@dataclass(frozen=True)
class Hardware:
    """What the device says. Milliseconds of one batch, bytes of all constants; `problem` where the model does not fit.

    `measured`: the latency is the median of runs on this machine, between whose quartiles lie `spread_ms`; else simulated.
    """

    accelerator_ms: float = 0.0
    transfer_ms: float = 0.0
    host_ms: float = 0.0
    bytes: int = 0
    resources: Mapping[str, float] | None = None
    problem: str = ""
    measured: bool = False
    spread_ms: float = 0.0

    @property
    def latency_ms(self) -> float:
        return self.accelerator_ms + self.transfer_ms + self.host_ms


@dataclass(frozen=True)
class Point:
    """A candidate with everything that is known of it."""

    candidate: Candidate
    cost: float
    hardware: Hardware
    score: Score | None = None
    fidelity: Fidelity = Fidelity.NONE
    problem: str = ""
    """Why the accuracy could not be measured."""

    @property
    def fits(self) -> bool:
        return not self.hardware.problem

    @property
    def is_final(self) -> bool:
        return self.fidelity in FINAL and self.score is not None and not self.problem


@dataclass(frozen=True)
class Limits:
    """`latency_ms` at most, accuracy at least (its lower bound). `floor` is what an encoder of zeros scores: what is not
    above it has learnt nothing from the encoder, and is never chosen."""

    latency_ms: float
    accuracy: float
    floor: float = float("-inf")

    def latency_met(self, point: Point) -> bool:
        return point.fits and self.latency_met_by(point.hardware)

    def latency_met_by(self, hardware: Hardware) -> bool:
        return hardware.latency_ms <= self.latency_ms

    def accuracy_met(self, point: Point) -> bool:
        score = point.score
        return point.is_final and score is not None and score.low >= self.accuracy and score.value > self.floor

    def both_met(self, point: Point) -> bool:
        return not point.candidate.algorithm.control and self.latency_met(point) and self.accuracy_met(point)


def order_of(objective: Objective) -> Callable[[Point], tuple[float | str, ...]]:
    """The key to sort by: the objective, then the other figures, accuracy and names, so that no two are equal."""

    def key(point: Point) -> tuple[float | str, ...]:
        cost, latency, size = point.cost, point.hardware.latency_ms, float(point.hardware.bytes)
        first = {
            Objective.CHEAPEST: (cost, latency, size),
            Objective.FASTEST: (latency, cost, size),
            Objective.SMALLEST: (size, cost, latency),
        }[objective]
        low = float("inf") if point.score is None else -point.score.low
        return (*first, low, point.candidate.label)

    return key


def choose(points: Iterable[Point], limits: Limits, objective: Objective) -> Point | None:
    """The best point that meets both limits, None where none does. The order of the points makes no difference."""
    return min((point for point in points if limits.both_met(point)), key=order_of(objective), default=None)


@dataclass(frozen=True)
class Relaxation:
    """The least change of one limit that lets a point in, the other limit staying; None where no change of it would."""

    latency_ms: float | None
    accuracy: float | None


def relaxation(points: Sequence[Point], limits: Limits) -> Relaxation:
    """For each limit the value that the nearest point needs."""
    real = [point for point in points if not point.candidate.algorithm.control and point.fits and point.is_final]
    above = [point for point in real if point.score is not None and point.score.value > limits.floor]
    latency = min((p.hardware.latency_ms for p in above if limits.accuracy_met(p)), default=None)
    accuracy = max((p.score.low for p in above if p.score is not None and limits.latency_met(p)), default=None)
    return Relaxation(latency, accuracy)


@dataclass(frozen=True)
class Rejection:
    """Why a device was not chosen: the limit that failed (`latency`, `accuracy`, `capacity`; `machine` where this
    one cannot run what has to be measured), or `objective` where it fits.

    `by` is how far its nearest candidate is beyond the limit, in the limit's unit; `needs` what that candidate has.
    """

    device: str
    failed: str
    by: float | None
    needs: float | None
    nearest: str
    reason: str = ""


def rejections(points: Sequence[Point], limits: Limits, winner: Point | None, objective: Objective) -> list[Rejection]:
    """One for each device but the winner's, by name."""
    by_device: dict[str, list[Point]] = {}
    for point in points:
        if not point.candidate.algorithm.control:
            by_device.setdefault(point.candidate.device, []).append(point)
    own = winner.candidate.device if winner is not None else None
    return [_rejection(device, found, limits, objective) for device, found in sorted(by_device.items()) if device != own]


def _rejection(device: str, points: Sequence[Point], limits: Limits, objective: Objective) -> Rejection:
    fitting = [point for point in points if point.fits]
    if not fitting:
        failed = "machine" if points[0].hardware.measured else "capacity"
        return Rejection(device, failed, None, None, points[0].candidate.algorithm.label, points[0].hardware.problem)
    good = choose(fitting, limits, objective)
    if good is not None:
        return Rejection(device, "objective", None, None, good.candidate.algorithm.label)
    fast = [point for point in fitting if limits.latency_met(point)]
    accurate = [point for point in fitting if limits.accuracy_met(point)]
    if not fast or accurate:
        nearest = min(accurate or fitting, key=lambda point: (point.hardware.latency_ms, point.candidate.label))
        needs = nearest.hardware.latency_ms
        return Rejection(device, "latency", needs - limits.latency_ms, needs, nearest.candidate.algorithm.label)
    known = [point for point in fast if point.score is not None]
    if not known:
        return Rejection(device, "accuracy", None, None, fast[0].candidate.algorithm.label, _why_unknown(fast))
    nearest = max(known, key=lambda point: (point.is_final, point.score.low if point.score else 0.0, point.candidate.label))
    assert nearest.score is not None
    needs, label = nearest.score.low, nearest.candidate.algorithm.label
    if needs >= limits.accuracy and nearest.is_final:
        return Rejection(device, "accuracy", None, needs, label, f"an encoder of zeros scores as much: {limits.floor:.4f}")
    return Rejection(device, "accuracy", limits.accuracy - needs, needs, label)


def _why_unknown(points: Sequence[Point]) -> str:
    return next(
        (point.problem for point in points if point.problem), "the sensitivity estimate says it cannot meet the limit"
    )


def pareto(points: Sequence[Point]) -> list[Point]:
    """The front over latency, accuracy (the measured value), cost class and bytes; controls and rough guesses apart."""
    real = [p for p in points if p.fits and p.is_final and not p.candidate.algorithm.control]
    rows = [(p.hardware.latency_ms, -p.score.value, p.cost, p.hardware.bytes) for p in real if p.score is not None]
    kept = [real[index] for index in front(rows)]
    return sorted(kept, key=lambda p: (p.hardware.latency_ms, p.candidate.label))
