"""Which prunings are fine-tuned, rung by rung: those alone that the cheap looks leave a chance to win.

A ladder is the plain prunings of one kind of pattern, from dense to sparse. Rungs of the same height of all ladders are
trained side by side; what is trained next is decided when all of them are done, and noted, so that neither the number of
workers nor an interruption changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from compiler.explore.fidelity import is_beyond, may_reach
from compiler.explore.selection import Limits, Objective, Point, choose, order_of
from compiler.explore.space import DENSE, Algorithm, Space
from compiler.sparsity.patterns import parse_pattern
from compiler.tools.exploring.accuracy import Judged
from compiler.tools.exploring.bench import Bench
from compiler.tools.exploring.finetuning import Course, teach
from compiler.tools.exploring.ledger import Ledger
from compiler.tools.exploring.workers import Executor

Ladder = tuple[Algorithm, ...]


def ladders_of(space: Space) -> list[Ladder]:
    """The ladders of all kinds of device; what shares weights is not trained."""
    found: list[Ladder] = []
    for part in space.parts.values():
        by_name: dict[str, list[tuple[float, Algorithm]]] = {}
        for algorithm in part.algorithms():
            pattern = parse_pattern(algorithm.attention, "fpga")
            if algorithm.is_uniform and not algorithm.is_dense and not pattern.sharing:
                by_name.setdefault(pattern.name, []).append((pattern.sparsity, algorithm))
        for rungs in by_name.values():
            by_sparsity = dict(sorted(rungs, reverse=True))  # of two as sparse, one
            found.append(tuple(by_sparsity[sparsity] for sparsity in sorted(by_sparsity)))
    return found


@dataclass
class Training:
    """The training of one search."""

    bench: Bench
    course: Course
    ladders: Sequence[Ladder]
    limits: Limits
    objective: Objective
    ledger: Ledger
    executor: Executor
    points: Callable[[], list[Point]]
    estimates: Callable[[Sequence[Algorithm]], Mapping[Algorithm, float]]
    say: Callable[[str, int, int], None]

    def run(self) -> None:
        """Train what may win, the lowest rungs first."""
        height = max(map(len, self.ladders), default=0)
        for level in range(height):
            asked = self.ledger.lessons(level)
            if asked is None:
                asked = [ladder[level] for ladder in self._worthwhile(level)]
                self.ledger.note_lessons(level, asked)
            if not asked:
                return
            self._teach(level, asked, height)

    def _teach(self, level: int, asked: Sequence[Algorithm], height: int) -> None:
        """One call for the prunings that are the same but for the arithmetic."""
        missing = [a for a in asked if a not in self.ledger.trained and a not in self.ledger.untrained]
        groups: dict[tuple[str, ...], list[Algorithm]] = {}
        for ladder in self.ladders:
            for algorithm in ladder[level : level + 1]:
                if algorithm in missing:
                    groups.setdefault(tuple(rung.attention for rung in ladder[: level + 1]), []).append(algorithm)
        calls = [(self.bench, self.course, rungs, [a.precision for a in group]) for rungs, group in groups.items()]
        self.say(f"training rung {level + 1} of at most {height}", 0, len(calls))
        for number, outcome in self.executor.map(teach, calls):
            group = list(groups.values())[number]
            judged: Sequence[Judged | None] = [None] * len(group) if outcome.error else outcome.value
            for algorithm, found in zip(group, judged, strict=True):
                if found is None:
                    self.ledger.note_untrained(algorithm, outcome.error)
                else:
                    self.ledger.note_trained(algorithm, found)
            self.say(f"training rung {level + 1} of at most {height}", number + 1, len(calls))

    # ---- what is worth it -------------------------------------------------------------------------------------------

    def _worthwhile(self, level: int) -> Iterator[Ladder]:
        """The ladders that are climbed on: none of whose rungs has failed, and that have a rung left which may win."""
        points = self.points()
        best = choose(points, self.limits, self.objective)
        wanted = {point.candidate.algorithm for point in points if self._would_win(point, best)}
        possible = self._possible(sorted(wanted))
        for ladder in self.ladders:
            below, left = ladder[:level], ladder[level:]
            if all(self._goes_on(rung) for rung in below) and any(rung in possible for rung in left):
                yield ladder

    def _goes_on(self, rung: Algorithm) -> bool:
        """Whether a trained rung leaves those above it a chance."""
        judged = self.ledger.trained.get(rung)
        return judged is not None and judged.score is not None and judged.score.high >= self.limits.accuracy

    def _would_win(self, point: Point, best: Point | None) -> bool:
        """Whether a point would be chosen were it accurate enough."""
        if point.candidate.algorithm.control or not self.limits.latency_met(point) or self.limits.accuracy_met(point):
            return False
        order = order_of(self.objective)
        return best is None or order(point)[:3] < order(best)[:3]

    def _possible(self, algorithms: Sequence[Algorithm]) -> set[Algorithm]:
        """Those that the cheap looks do not rule out."""
        known = self.estimates([*algorithms, *self.ledger.trained])
        limit = self.limits.accuracy
        failed = {
            other.label: known[other]
            for other, judged in self.ledger.trained.items()
            if judged.score is not None and judged.score.high < limit
        }
        found: set[Algorithm] = set()
        for algorithm in algorithms:
            dense = self.ledger.judged.get(Algorithm(DENSE, DENSE, algorithm.precision))
            judged = self.ledger.judged.get(algorithm)
            reachable = may_reach(judged.score if judged else None, dense.score if dense else None, limit)
            if reachable and not is_beyond(known[algorithm], failed):
                found.add(algorithm)
        return found
