"""The judging of several algorithms where evaluations run, in steps that are short, so that no worker waits long for the
last of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compiler.explore.space import Algorithm
from compiler.tools.exploring.accuracy import CANDIDATE, Begun, finished, kept_rows, look, rest_of
from compiler.tools.exploring.bench import Bench, opened
from compiler.tools.exploring.workers import Executor, Outcome, attempt, called, cut_for, parts_of


@dataclass
class _Rest:
    """What is left of the dev set for an algorithm: `parts` calls, and what those that are done gave, by their numbers."""

    algorithm: int
    begun: Begun
    parts: int
    done: dict[int, Outcome] = field(default_factory=dict[int, Outcome])

    def outcome(self, bench: Bench, kept: Path) -> Outcome:
        found = [self.done[number] for number in sorted(self.done)]
        failed = next((part for part in found if part.error), None)
        rows = np.concatenate([part.value for part in found]) if found and failed is None else None
        return failed or attempt(finished, (bench, self.begun, rows, kept))


def judge_all(
    executor: Executor, bench: Bench, algorithms: Sequence[Algorithm], limit: float | None
) -> Iterator[tuple[int, Outcome]]:
    """(number of the algorithm, outcome of `accuracy.judge`) as they finish. Looks come first; what is left of the dev set
    for those that these do not rule out is cut into parts, and whoever is free takes the next."""
    with tempfile.TemporaryDirectory(dir=bench.folder, prefix=CANDIDATE, ignore_cleanup_errors=True) as name:
        folders = [_made(Path(name) / str(number)) for number in range(len(algorithms))]
        calls: list[tuple[Any, ...]] = [(look, bench, a, limit, f) for a, f in zip(algorithms, folders, strict=True)]
        owners: dict[int, _Rest] = {}
        for number, outcome in executor.map(called, calls):
            if number >= len(algorithms):
                rest = owners[number]
                rest.done[number] = outcome
            elif isinstance(outcome.value, Begun):
                known, begun = opened(bench), outcome.value
                parts = parts_of(begun.rest(known), begun.batch(known), cut_for(executor))
                rest = _Rest(number, begun, len(parts))
                owners |= dict.fromkeys(range(len(calls), len(calls) + len(parts)), rest)
                calls += [(rest_of, bench, begun, *rows) for rows in parts]
            else:
                yield number, outcome
                continue
            if len(rest.done) == rest.parts:
                yield rest.algorithm, rest.outcome(bench, kept_rows(bench, algorithms[rest.algorithm]))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
