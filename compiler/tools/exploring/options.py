"""What one search is asked to do: filled in by `hpcc-explore` and by `hpcc.explore`. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from compiler.explore.selection import Objective
from hw_targets.errors import UsageError

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "hp": ("hp:0.5", "hp:rows=64,window=32,keep=24,fine=2:4", "hp:0.75", "hp:0.9"),
    "nm": ("nm:2:4", "nm:2:8", "nm:1:8", "nm:1:16"),
    "block": ("block:4x1:0.5", "block:4x1:0.75", "block:4x1:0.9"),
    "unstructured": ("unstructured:0.5", "unstructured:0.75", "unstructured:0.9"),
}
"""Patterns by the names that --patterns takes, from dense to sparse."""
SAMPLERS = ("tpe", "nsga2")
METHODS = ("magnitude", "activation", "second-order")
FEWEST_STEPS = 5
"""Of a rung: the masks of its last fifth stand still."""
TIME = re.compile(r"(?P<number>[0-9]*\.?[0-9]+)\s*(?P<unit>ms|us|s)?")
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, None: 1.0}


@dataclass(frozen=True)
class ExploreOptions:
    """By the names of the command line; a combination that makes no sense is a UsageError."""

    model: str
    task: str
    max_latency: float
    """Milliseconds."""
    min_accuracy: float
    """By the task's metric; of perplexity, minus the largest one."""
    output: str = "explore"
    targets: tuple[str, ...] = ("fpga-*",)
    patterns: tuple[str, ...] = ("hp", "nm")
    mixed: bool = False
    objective: str = Objective.CHEAPEST.value
    budget: int = 200
    costs: Mapping[str, float] = field(default_factory=dict[str, float])
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    method: str | None = None
    sampler: str = "tpe"
    seed: int = 0
    controls: bool = False
    train_steps: int | None = None
    """Of each rung; 0: nothing is trained; None: what the task says."""
    workers: int = 1
    dask: str | None = None
    json: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if not (isfinite(self.max_latency) and self.max_latency > 0):
            raise UsageError("HPCC2282", f"--max-latency {self.max_latency} ms is none", hint="more than 0, as 5ms")
        if not isfinite(self.min_accuracy):
            raise UsageError("HPCC2282", f"--min-accuracy {self.min_accuracy} is none", hint="a number, as 0.82")
        if self.objective not in set(Objective):
            raise UsageError("HPCC2283", f"--objective {self.objective!r} is none", hint=", ".join(Objective))
        if self.sampler not in SAMPLERS:
            raise UsageError("HPCC2283", f"--sampler {self.sampler!r} is none", hint=", ".join(SAMPLERS))
        if self.method is not None and self.method not in METHODS:
            raise UsageError("HPCC2283", f"--method {self.method!r} is none", hint=", ".join(METHODS))
        for name, value, least in (("budget", self.budget, 1), ("workers", self.workers, 1), ("seed", self.seed, 0)):
            if value < least:
                raise UsageError("HPCC2284", f"--{name} {value} is less than {least}")
        if self.train_steps is not None and 0 != self.train_steps < FEWEST_STEPS:
            raise UsageError("HPCC2284", f"--train-steps {self.train_steps} is less than {FEWEST_STEPS}", hint="or 0: none")
        if self.dask is not None and self.workers != 1:
            raise UsageError("HPCC2284", "--dask and --workers exclude each other", hint="the cluster has its own workers")


def parse_latency(text: str) -> float:
    """Milliseconds of `5ms`, `800us`, `0.01s`; a bare number is milliseconds. Raises UsageError."""
    match = TIME.fullmatch(text.strip())
    if match is None:
        raise UsageError("HPCC2282", f"--max-latency {text!r} is no time", hint="as 5ms, 800us, 0.01s")
    return float(match["number"]) * UNITS[match["unit"]]


def parse_list(text: str) -> tuple[str, ...]:
    """`hp,nm`, one full form with commas of its own, or several of those between `;`."""
    separator = ";" if ";" in text else None if "=" in text else ","
    parts = [text] if separator is None else text.split(separator)
    return tuple(part.strip() for part in parts if part.strip())


def parse_costs(texts: list[str]) -> dict[str, float]:
    """`fpga-kv260=2` and the like. Raises UsageError."""
    costs: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            costs[name] = float(number)
        except ValueError:
            costs[name] = float("nan")
        if not name or not isfinite(costs[name]) or costs[name] < 0:
            raise UsageError("HPCC2285", f"--cost {text!r} is no NAME=CLASS", hint="as fpga-kv260=2")
    return costs
