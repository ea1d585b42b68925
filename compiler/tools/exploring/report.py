"""`explore.json`: the answer of a search. The pydantic models are its schema (docs/schemas/explore.schema.json)."""

from __future__ import annotations

from typing import Any, Literal

from compiler.explore.selection import Limits, Objective, Point, Rejection, Relaxation
from compiler.explore.statistics import Score
from compiler.tools.report import Form


class ScorePart(Form):
    """A score, larger being better, with its one-sided bounds, over `count` samples or pairs."""

    value: float
    low: float
    high: float
    count: int


class TrialPart(Form):
    """A candidate. `fidelity` says how well its accuracy is known: not at all, by the sensitivity estimate (no figure), on
    the subset, on the dev set, there after training. `one_shot` is the accuracy before that. `latency_is` says where the
    latency is from: the accelerator's cycles simulated, or the median of runs on this machine, whose quartiles are
    `spread_ms` apart. `cost` is the device's class. `problem`: why it does not fit, or could not be measured."""

    device: str
    pattern: str
    attention: str
    feed_forward: str
    precision: str
    control: str
    cost: float
    latency_ms: float | None
    accelerator_ms: float | None
    transfer_ms: float | None
    host_ms: float | None
    latency_is: Literal["simulated", "measured"]
    spread_ms: float | None
    bytes: int | None
    resources: dict[str, float]
    fidelity: str
    accuracy: ScorePart | None
    one_shot: ScorePart | None
    estimated_damage: float | None
    meets_latency: bool
    meets_accuracy: bool
    on_front: bool
    problem: str


class RejectedPart(Form):
    """`failed` is latency, accuracy or capacity, machine where this one cannot run what has to be measured, or objective
    for a device that meets both limits but is not the best; `by` says how far the nearest candidate is beyond the limit,
    `needs` what it has, in the limit's unit."""

    device: str
    failed: Literal["latency", "accuracy", "capacity", "machine", "objective"]
    by: float | None
    needs: float | None
    nearest: str
    reason: str


class WinnerPart(Form):
    """The chosen trial. Margins are distances to the limits, both positive; `test` was measured once, after the choice, on
    what the bundle computes; `commands` rebuild the bundle, whose manifest has the `digest`."""

    trial: TrialPart
    latency_margin_ms: float
    accuracy_margin: float
    test: ScorePart
    bundle: str
    digest: str
    commands: tuple[str, ...]


class RelaxationPart(Form):
    """The value that one limit would need, the other staying as it is; None where none would do."""

    latency_ms: float | None
    accuracy: float | None


class ModelPart(Form):
    name: str
    sha256: str


class TaskPart(Form):
    name: str
    metric: str
    confidence: float
    comparisons: int
    """Candidates that the confidence holds for at once."""
    dev: int
    test: int


class TrainingPart(Form):
    """How prunings were trained: `steps` for each rung of a ladder."""

    steps: int
    batch: int
    rate: float
    loss: str
    logits: str | None
    seed: int


class LimitsPart(Form):
    max_latency_ms: float
    min_accuracy: float


class SpacePart(Form):
    devices: tuple[str, ...]
    patterns: tuple[str, ...]
    mixed: bool
    candidates: int
    exhaustive: bool
    sampler: str
    seed: int
    budget: int


class CountsPart(Form):
    """Candidates timed; prunings by the last look that was taken at them before training, and those that were trained."""

    timed: int
    dev: int
    subset: int
    estimate: int
    trained: int
    failed: int


class Exploration(Form):
    """explore.json. A search that was interrupted is not `complete`: nothing is chosen yet, the rest is what was found."""

    schema_version: int = 1
    hpcc_version: str
    complete: bool
    found: bool
    model: ModelPart
    shapes: dict[str, tuple[int, ...]]
    task: TaskPart
    limits: LimitsPart
    objective: str
    method: str
    training: TrainingPart | None
    space: SpacePart
    counts: CountsPart
    dense: ScorePart | None
    zeroed: ScorePart
    winner: WinnerPart | None
    relaxation: RelaxationPart | None
    front: tuple[TrialPart, ...]
    rejected: tuple[RejectedPart, ...]
    trials: tuple[TrialPart, ...]
    problems: tuple[str, ...]


def score_part(score: Score | None) -> ScorePart | None:
    return None if score is None else ScorePart(**vars(score))


def trial_part(point: Point, limits: Limits, front: set[str], estimate: float | None, one_shot: Score | None) -> TrialPart:
    algorithm, hardware, fits = point.candidate.algorithm, point.hardware, point.fits
    return TrialPart(
        device=point.candidate.device,
        pattern=algorithm.label,
        attention=algorithm.attention,
        feed_forward=algorithm.feed_forward,
        precision=algorithm.precision,
        control=algorithm.control,
        cost=point.cost,
        latency_ms=hardware.latency_ms if fits else None,
        accelerator_ms=hardware.accelerator_ms if fits else None,
        transfer_ms=hardware.transfer_ms if fits else None,
        host_ms=hardware.host_ms if fits else None,
        bytes=hardware.bytes if fits else None,
        latency_is="measured" if hardware.measured else "simulated",
        spread_ms=hardware.spread_ms if fits and hardware.measured else None,
        resources=dict(hardware.resources or {}),
        fidelity=point.fidelity.value,
        accuracy=score_part(point.score),
        one_shot=score_part(one_shot),
        estimated_damage=estimate,
        meets_latency=limits.latency_met(point),
        meets_accuracy=limits.accuracy_met(point),
        on_front=point.candidate.label in front,
        problem=hardware.problem or point.problem,
    )


def rejected_parts(rejections: list[Rejection]) -> tuple[RejectedPart, ...]:
    return tuple(RejectedPart.model_validate(vars(rejection)) for rejection in rejections)


def relaxation_part(found: Relaxation) -> RelaxationPart:
    return RelaxationPart(latency_ms=found.latency_ms, accuracy=found.accuracy)


def schema() -> dict[str, Any]:
    """JSON Schema of explore.json, as written."""
    return Exploration.model_json_schema(mode="serialization")


OBJECTIVES = {
    Objective.CHEAPEST: "the cheapest class of device",
    Objective.FASTEST: "the lowest latency",
    Objective.SMALLEST: "the fewest bytes",
}
"""What each objective prefers, in words."""
