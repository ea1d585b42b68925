"""The loop: candidates are asked for, timed, where fast enough judged, cheap looks first; then one is chosen."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from compiler.explore.fidelity import is_beyond
from compiler.explore.selection import Fidelity, Hardware, Limits, Objective, Point, choose, order_of
from compiler.explore.space import RANDOM, Algorithm, Candidate, Space
from compiler.tools.exploring.accuracy import Judged, Sensitivity, by_estimate
from compiler.tools.exploring.bench import Bench
from compiler.tools.exploring.finetuning import Course
from compiler.tools.exploring.hardware import time_on
from compiler.tools.exploring.judging import judge_all
from compiler.tools.exploring.ladders import Training, ladders_of
from compiler.tools.exploring.ledger import Ledger
from compiler.tools.exploring.measuring import measure_on
from compiler.tools.exploring.workers import Executor, InProcess, told

WAVE = 4
"""Algorithms judged side by side before the next are looked at: as many whatever the workers."""
FAR = 1e6
"""Added to the value of a trial that misses a limit."""


class Narrator:
    """Trials done, the best so far, the time left: on stderr, overwritten in place; silent where it is no terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._on = not quiet and sys.stderr.isatty()
        self._began = time.perf_counter()
        self._done_before = 0
        self.best = ""

    def say(self, what: str, done: int, total: int) -> None:
        if not self._on:
            return
        if done < self._done_before or self._done_before == 0:
            self._began = time.perf_counter()
        self._done_before = max(done, 1)
        left = ""
        if 0 < done < total:
            seconds = (time.perf_counter() - self._began) / done * (total - done)
            left = f", {seconds:.0f} s left" if seconds < 90 else f", {seconds / 60:.0f} min left"
        best = f", best: {self.best}" if self.best else ""
        print(f"\r\033[K[{done}/{total}] {what}{best}{left}", end="", file=sys.stderr, flush=True)

    def stop(self) -> None:
        if self._on:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@dataclass
class Search:
    """One search over a space; everything it learns goes into the ledger."""

    bench: Bench
    space: Space
    costs: Callable[[str], float]
    limits: Limits
    objective: Objective
    budget: int
    controls: bool
    ledger: Ledger
    executor: Executor
    narrator: Narrator
    host_ms: float
    sensitivity: Callable[[], Sensitivity]
    course: Course | None = None
    """How prunings are fine-tuned, None where they are not."""
    _sensitivity: Sensitivity | None = None

    @property
    def is_exhaustive(self) -> bool:
        """Whether the budget covers the space, so that each candidate is tried and none is left to a sampler."""
        return len(self.space) <= self.budget

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> Point | None:
        """The winner, None where nothing meets both limits; then enough is known to say what the limits would have to be."""
        if self.is_exhaustive:
            self.ledger.ask_all([*self.space, *self._controls()])
            self._finish_waiting()
        else:
            self._finish_waiting()
            while len(self.ledger.done) < self.budget and self.ledger.sample():
                self._finish_waiting()
            self.ledger.ask_all(self._controls())
            self._finish_waiting()
        self._judge(self.ledger.failed_before)
        self._train()
        if self.winner() is None:
            self._learn_for_relaxation()
        return self.winner()

    def _train(self) -> None:
        """The last and dearest look."""
        if self.course is None:
            return
        ladders = ladders_of(self.space)
        what = (self.limits, self.objective, self.ledger, self.executor, self.points, self._estimated, self.narrator.say)
        Training(self.bench, self.course, ladders, *what).run()

    def winner(self) -> Point | None:
        return choose(self.points(), self.limits, self.objective)

    def _controls(self) -> list[Candidate]:
        """The patterns with random zeros, on every device."""
        if not self.controls:
            return []
        return [
            Candidate(device, replace(algorithm, control=RANDOM))
            for part in self.space.parts.values()
            for algorithm in part.algorithms()
            if algorithm.is_uniform and not algorithm.is_dense
            for device in part.devices
        ]

    def _finish_waiting(self) -> None:
        waiting = list(self.ledger.waiting)
        self._time(waiting)
        fast = [c for c in waiting if self._is_fast(self.ledger.hardware[c])]
        self._judge(list(dict.fromkeys(candidate.algorithm for candidate in fast)))
        for candidate in waiting:
            self.ledger.finish(candidate, *self._values(self.point(candidate)))

    def _is_fast(self, hardware: Hardware) -> bool:
        return not hardware.problem and hardware.latency_ms <= self.limits.latency_ms

    def _time(self, candidates: Sequence[Candidate]) -> None:
        """The hardware side: accelerators are simulated, one call for all devices of an algorithm; CPUs are measured here,
        one after the other, when no worker is busy."""
        missing = [candidate for candidate in candidates if candidate not in self.ledger.hardware]
        cpus = [candidate for candidate in missing if self._is_cpu(candidate)]
        groups: dict[Algorithm, list[Candidate]] = {}
        for candidate in missing:
            if not self._is_cpu(candidate):
                groups.setdefault(_timed_as(candidate.algorithm), []).append(candidate)
        bench, folder, done = self.bench, self.bench.folder, 0
        what = (bench.model, bench.compiled_shapes)
        devices = {algorithm: list(dict.fromkeys(c.device for c in group)) for algorithm, group in groups.items()}
        timed = [(*what, algorithm, names, bench.data, self.host_ms) for algorithm, names in devices.items()]
        for number, outcome in self.executor.map(time_on, timed):
            algorithm = list(groups)[number]
            names, group = devices[algorithm], groups[algorithm]
            values = outcome.value if not outcome.error else [Hardware(problem=told(outcome, folder))] * len(names)
            found = dict(zip(names, values, strict=True))
            for candidate in group:
                self.ledger.note_hardware(candidate, found[candidate.device])
            done += len(group)
            self.narrator.say("on the devices", done, len(missing))
        measured = [(*what, candidate.algorithm, candidate.device, bench.data) for candidate in cpus]
        for number, outcome in InProcess().map(measure_on, measured):
            hardware = outcome.value if not outcome.error else Hardware(problem=told(outcome, folder), measured=True)
            self.ledger.note_hardware(cpus[number], hardware)
            self.narrator.say("on this machine", done + number + 1, len(missing))

    def _is_cpu(self, candidate: Candidate) -> bool:
        return "cpu" in self.space.parts and candidate.device in self.space.parts["cpu"].devices

    def _judge(self, algorithms: Sequence[Algorithm], *, thorough: bool = False) -> None:
        """The algorithm side, the least damaged first, in waves; each wave learns from those before it. A `thorough` look
        leaves nothing out."""
        known = {a for a, judged in self.ledger.judged.items() if not thorough or judged.fidelity == Fidelity.DEV}
        missing = [a for a in algorithms if a not in known and a not in self.ledger.problems]
        left = by_estimate(self._estimated(missing), missing) if missing else []
        total = len(left)
        limit = None if thorough else self.limits.accuracy
        while left:
            wave: list[Algorithm] = []
            while left and len(wave) < WAVE:
                algorithm = left.pop(0)
                if not thorough and self._beyond(algorithm):
                    self.ledger.note_judged(algorithm, Judged(Fidelity.ESTIMATE, None))
                else:
                    wave.append(algorithm)
            for number, outcome in judge_all(self.executor, self.bench, wave, limit):
                if outcome.error:
                    self.ledger.note_problem(wave[number], told(outcome, self.bench.folder))
                else:
                    self.ledger.note_judged(wave[number], outcome.value)
            best = self.winner()
            self.narrator.best = "" if best is None else best.candidate.label
            self.narrator.say("accuracy", total - len(left), total)

    def _beyond(self, algorithm: Algorithm) -> str:
        if algorithm.control:
            return ""
        failed = {
            other.label: self.ledger.estimates[other]
            for other, judged in self.ledger.judged.items()
            if other in self.ledger.estimates
            and not other.control
            and other.precision == algorithm.precision
            and judged.score is not None
            and judged.score.high < self.limits.accuracy
        }
        return is_beyond(self.ledger.estimates[algorithm], failed)

    def _estimated(self, algorithms: Sequence[Algorithm]) -> dict[Algorithm, float]:
        known = self.ledger.estimates
        for algorithm in dict.fromkeys((*algorithms, *self.ledger.judged)):
            if algorithm not in known:
                self._sensitivity = self._sensitivity or self.sensitivity()
                self.ledger.note_estimate(algorithm, self._sensitivity.of(algorithm))
        return known

    def _learn_for_relaxation(self) -> None:
        """Where nothing meets both limits: the accuracy of all that is fast enough, and of slower ones from the fastest on
        until one is accurate enough."""
        points = [p for p in self.points() if p.fits and not p.candidate.algorithm.control]
        fast = dict.fromkeys(p.candidate.algorithm for p in points if self.limits.latency_met(p))
        self._judge(list(fast), thorough=True)
        for point in sorted(points, key=lambda p: (p.hardware.latency_ms, p.candidate.label)):
            if self.limits.latency_met(point):
                continue
            self._judge([point.candidate.algorithm])
            if self.limits.accuracy_met(self.point(point.candidate)):
                return

    # ---- what is known ----------------------------------------------------------------------------------------------

    def points(self) -> list[Point]:
        """Everything that was tried, in the order of names."""
        return sorted((self.point(c) for c in {*self.ledger.done, *self.ledger.waiting}), key=lambda p: p.candidate.label)

    def point(self, candidate: Candidate) -> Point:
        nothing = Judged(Fidelity.NONE, None)
        judged = self.ledger.trained.get(candidate.algorithm) or self.ledger.judged.get(candidate.algorithm, nothing)
        hardware = self.ledger.hardware.get(candidate, Hardware(problem="not timed yet"))
        problem = self.ledger.problems.get(candidate.algorithm, "")
        return Point(candidate, self.costs(candidate.device), hardware, judged.score, judged.fidelity, problem)

    def _values(self, point: Point) -> tuple[list[float] | None, list[float]]:
        """What the sampler is told: values to make small, or None for a candidate that was given up; and the steps."""
        if not point.fits or point.problem:
            return None, []
        excess = max(point.hardware.latency_ms / self.limits.latency_ms - 1, 0.0)
        steps = [FAR * (1 + excess)]
        if excess > 0 or not point.is_final or point.score is None:
            return None, steps
        missing = max(self.limits.accuracy - point.score.low, 0.0)
        first, second, *_ = order_of(self.objective)(point)
        value = float(first) + 1e-3 * float(second) / self.limits.latency_ms + (FAR * (1 + missing) if missing else 0.0)
        return [value, point.score.low], [*steps, value]


def _timed_as(algorithm: Algorithm) -> Algorithm:
    """The algorithm whose cycles are counted: those of random zeros are those of the pattern."""
    return replace(algorithm, control="") if algorithm.control == RANDOM else algorithm
