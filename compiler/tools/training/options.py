"""What one training run is asked to do: filled in by `hpcc-prune --train`. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.tools.pruning.options import no_output
from compiler.training.plan import Settings
from hw_targets.errors import UsageError

ONE_SHOT = ("recipe", "method", "calibrate", "text", "tokenizer", "max_length", "shape")
"""What chooses zeros without training."""
TRAINING = (
    "dev",
    "loss",
    "logits",
    "teacher",
    "ladder",
    "steps",
    "rate",
    "batch",
    "gradual",
    "regulariser",
    "threads",
    "resume",
)
"""What says nothing without --train."""


@dataclass(frozen=True)
class TrainOptions:
    """By the names of the command line; None is what docs/TRAINING.md says. A combination without sense is a UsageError."""

    model: str
    train: str
    output: str | None = None
    pattern: str | None = None
    ladder: str | None = None
    target: str | None = None
    scope: tuple[str, ...] = ()
    dev: str | None = None
    loss: str | None = None
    logits: str | None = None
    teacher: str | None = None
    steps: int | None = None
    rate: float | None = None
    batch: int | None = None
    gradual: float | None = None
    regulariser: float | None = None
    threads: int | None = None
    seed: int = 0
    resume: str | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.output is None:
            raise no_output()
        if (self.pattern is None) == (self.ladder is None):
            raise UsageError("HPCC2276", "--train takes one of --pattern and --ladder", hint="--pattern nm:2:4")
        if self.steps is None:
            raise UsageError("HPCC2273", "--train needs a number of steps", hint="--steps N; some hundred are usual")
        for name in ("rate", "gradual", "regulariser"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError("HPCC2277", f"--{name} {value} is none", hint="a number from 0 on")
        for name in ("seed", "threads"):
            if (getattr(self, name) or 0) < 0:
                raise UsageError("HPCC2277", f"--{name} {getattr(self, name)} is none", hint="a whole number from 0 on")

    def settings(self) -> Settings:
        """Raises UsageError for values that no run can have."""
        assert self.steps is not None
        named = ("loss", "batch", "rate", "gradual", "regulariser", "threads")
        given = {name: getattr(self, name) for name in named if getattr(self, name) is not None}
        chosen = Settings(self.steps, seed=self.seed, **given)
        if self.dev is None:
            return chosen
        return Settings(**{**chosen.as_dict(), "evaluate": max(1, self.steps // 50)})


def refuse_mixtures(given: Mapping[str, Any]) -> None:
    """Raises UsageError for options of training without --train, and for options of one-shot pruning with it."""
    training = given.get("train") is not None
    unwanted = [name for name in (ONE_SHOT if training else TRAINING) if given.get(name) not in (None, [], ())]
    if training and given.get("allocate") != "uniform":
        unwanted.append("allocate")
    for name in unwanted:
        flag = f"--{name.replace('_', '-')}"
        if training:
            raise UsageError("HPCC2274", f"{flag} and --train exclude each other", hint="prune first, train what comes out")
        raise UsageError("HPCC2275", f"{flag} says how to train", hint="--train X.npz")


def outputs(output: Path, count: int) -> Sequence[Path]:
    """A file for each rung: the last one has the name that was asked for, the others their number before the ending."""
    return [*(output.with_name(f"{output.stem}.rung{rung}{output.suffix}") for rung in range(1, count)), output]
