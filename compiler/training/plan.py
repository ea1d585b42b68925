"""What a training run does at each step: which rung of the ladder, learning rate, share of extra weights, masks or not.

A run is a list of rungs (one, unless a ladder is trained), each with a pattern and a fixed number of steps. Everything
that a step does follows from its number and the settings, so that a resumed run needs no more than the number.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from compiler.sparsity.base import Dense, Pattern
from hw_targets.errors import UsageError

FROZEN_SHARE = 5
"""Masks stand still for the last fifth of a rung's steps."""
LOSSES = ("labels", "distill")


@dataclass(frozen=True)
class Settings:
    """How to train; `steps` is the budget of the whole ladder.

    `regulariser` pulls the masked weights towards zero: after the optimizer's step each is multiplied by
    1 - rate * regulariser, outside of Adam's moments; `coupled` adds it to the gradient instead (Zhou et al., ICLR 2021).
    `gradual` is the share of a rung's steps over which weights go little by little (cubic schedule, Zhu and Gupta 2017).
    """

    steps: int
    loss: str = "distill"
    seed: int = 0
    batch: int = 32
    rate: float = 1e-4
    head_rate: float = 1e-3
    warmup: float = 0.06
    weight_decay: float = 0.01
    regulariser: float = 2.0
    coupled: bool = False
    refresh: int = 10
    gradual: float = 0.5
    clip: float = 1.0
    temperature: float = 2.0
    hidden: float = 1.0
    labels: float = 0.0
    evaluate: int = 0
    save: int = 100
    precision: str = "fp32"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UsageError("HPCC2250", f"--loss {self.loss!r} is none of {', '.join(LOSSES)}")
        for name in ("batch", "refresh", "save"):
            if getattr(self, name) < 1:
                raise UsageError("HPCC2252", f"--{name} {getattr(self, name)} is less than 1")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Rung:
    """Steps `first` to `end` - 1, in which the weights are brought to `pattern`."""

    pattern: Pattern
    first: int
    end: int

    @property
    def steps(self) -> int:
        return self.end - self.first

    @property
    def frozen_from(self) -> int:
        """The first step whose masks no longer change."""
        return self.end - -(-self.steps // FROZEN_SHARE)


def ladder(patterns: list[Pattern], steps: int) -> tuple[Rung, ...]:
    """`steps` shared by the patterns in order, as evenly as whole steps go. Raises UsageError for too few and for a
    pattern without zeros of its own."""
    shared = next((pattern for pattern in patterns if pattern.sharing), None)
    if shared is not None:
        message = f"{shared.spec()} shares weights; what is trained here are patterns of zeros"
        raise UsageError("HPCC2259", message, hint="without --train hpcc-prune takes the nearest shared weights")
    count = len(patterns)
    bounds = [steps * index // count for index in range(count + 1)]
    rungs = tuple(
        Rung(pattern, *ends) for pattern, ends in zip(patterns, zip(bounds, bounds[1:], strict=False), strict=True)
    )
    short = next((rung for rung in rungs if rung.steps < FROZEN_SHARE), None)
    if short is not None:
        raise UsageError(
            "HPCC2251",
            f"--steps {steps}: a run has at least {FROZEN_SHARE} steps a rung",
            hint=f"--steps {FROZEN_SHARE * count}",
        )
    for before, after in zip(patterns, patterns[1:], strict=False):
        if after.sparsity <= before.sparsity:
            raise UsageError(
                "HPCC2253",
                f"the ladder goes from {before.spec()} to {after.spec()}, which has no more zeros",
                hint="each rung is sparser than the one before, as in --ladder 4:8,2:8,1:8",
            )
    return rungs


def parse_ladder(text: str, kind: str = "fpga") -> list[Pattern]:
    """The patterns of `4:8,2:8,1:8`, `hp:0.5,hp:0.75` or full forms separated by `;`. Raises UsageError."""
    from compiler.sparsity.patterns import parse_pattern

    items = [item.strip() for item in text.split(";" if ";" in text else ",") if item.strip()]
    if not items:
        raise UsageError("HPCC2254", "--ladder names no pattern", hint="as in --ladder 4:8,2:8,1:8")
    specs = [f"nm:{item}" if item[:1].isdigit() else item for item in items]
    patterns = [parse_pattern(spec, kind).canonical() for spec in specs]
    if any(isinstance(pattern, Dense) for pattern in patterns):
        raise UsageError("HPCC2254", f"--ladder {text}: a rung that keeps all weights trains nothing")
    return patterns


@dataclass(frozen=True)
class Plan:
    """The settings and the rungs they are spent on."""

    settings: Settings
    rungs: tuple[Rung, ...]

    def rung_of(self, step: int) -> int:
        return next(index for index, rung in enumerate(self.rungs) if step < rung.end)

    def rate_share(self, step: int) -> float:
        """The learning rate at a step as a share of the peak: a linear rise, then a linear fall, in each rung anew."""
        rung = self.rungs[self.rung_of(step)]
        at, rise = step - rung.first, max(1, round(self.settings.warmup * rung.steps))
        return min((at + 1) / rise, (rung.steps - at) / max(1, rung.steps - rise))

    def extra_share(self, step: int) -> float:
        """The share of the weights to go that still stay at a step: (1 - progress)^3, 0 from the end of the ramp on."""
        rung = self.rungs[self.rung_of(step)]
        ramp = min(self.settings.gradual * rung.steps, rung.frozen_from - rung.first)
        return max(0.0, 1 - (step - rung.first) / ramp) ** 3 if ramp > 0 else 0.0

    def refreshes(self, step: int) -> bool:
        """Whether the masks are made anew before a step: every `refresh` steps, and last when they freeze."""
        rung = self.rungs[self.rung_of(step)]
        due = (step - rung.first) % self.settings.refresh == 0
        return step == rung.frozen_from or (due and step < rung.frozen_from)

    def evaluates(self, step: int) -> bool:
        """Whether the dev set is scored after a step: at the end of each rung, and before it while masks are frozen."""
        rung = self.rungs[self.rung_of(step)]
        every = self.settings.evaluate
        return step + 1 == rung.end or bool(every and step >= rung.frozen_from and (rung.end - step - 1) % every == 0)
