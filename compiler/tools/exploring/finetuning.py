"""The dearest look at a pruning: it is trained under its pattern, then judged on the whole dev set.

Rungs of a ladder (IDP) inherit: what trains a rung takes up the run of the rung before, so that nothing is trained twice,
and the file is the one that `hpcc-prune --ladder` makes in one go. Runs are kept by what they depend on; one that was cut
off goes on from its last checkpoint. torch is imported when a run begins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from compiler.explore.selection import Fidelity
from compiler.passes.sparsify import AUTO
from compiler.sparsity.patterns import parse_pattern
from compiler.tools.exploring.accuracy import Judged, judge_file
from compiler.tools.exploring.bench import TRAIN, Bench
from compiler.tools.pruning.onnx_output import write_tensors
from compiler.tools.training.run import Request, RungDone, TrainingRun
from compiler.training.plan import Settings

MODEL, RUN = "model.onnx", "run"
THREADS = 1
"""Of torch: sums depend on how many share them, and the result must not depend on the machine's workers."""


@dataclass(frozen=True)
class Course:
    """How every rung is trained: `steps` batches each. Nothing chooses among states: dev is for the search."""

    steps: int
    batch: int
    rate: float
    loss: str
    logits: str | None
    seed: int

    @property
    def digest(self) -> str:
        return _digest(self.as_text())

    def as_text(self) -> str:
        return json.dumps(asdict(self))

    def settings(self, rungs: int) -> Settings:
        return Settings(rungs * self.steps, self.loss, self.seed, batch=self.batch, rate=self.rate, threads=THREADS)

    def words(self, patterns: Sequence[str]) -> list[str]:
        """What hpcc-prune is asked for, but for the files."""
        ladder = ["--ladder", ";".join(patterns)] if len(patterns) > 1 else ["--pattern", patterns[0]]
        words = [*ladder, "--steps", str(len(patterns) * self.steps), "--batch", str(self.batch), "--rate", repr(self.rate)]
        words += ["--loss", self.loss, *(["--logits", self.logits] if self.logits is not None else [])]
        return [*words, "--seed", str(self.seed), "--threads", str(THREADS)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def place_of(bench: Bench, course: Course, patterns: Sequence[str]) -> Path:
    """The folder of a rung: `patterns` are those of its ladder, it the last."""
    return bench.folder / "trained" / f"{_digest(course.as_text() + json.dumps(list(patterns)))}"


def trained_file(bench: Bench, course: Course, patterns: Sequence[str]) -> Path:
    """The model of a rung, trained if it is not there. Raises what a training run raises."""
    place = place_of(bench, course, patterns)
    file = place / MODEL
    if file.is_file():
        return file
    before = None
    if len(patterns) > 1:
        trained_file(bench, course, patterns[:-1])
        before = place_of(bench, course, patterns[:-1]) / RUN
    place.mkdir(parents=True, exist_ok=True)
    request = Request(
        bench.model,
        bench.data / TRAIN,
        [parse_pattern(text, "fpga") for text in patterns],
        course.settings(len(patterns)),
        logits=course.logits,
        folder=place / RUN,
        before=before,
    )

    def finished(done: RungDone) -> None:
        if done.rung == len(patterns) - 1:
            write_tensors(bench.model, done.tensors, file, done.metadata)

    TrainingRun(request).run(finished)
    return file


def teach(bench: Bench, course: Course, patterns: Sequence[str], precisions: Sequence[str]) -> list[Judged]:
    """Train a rung and judge it in each arithmetic."""
    file = trained_file(bench, course, patterns)
    found: list[Judged] = []
    for precision in precisions:
        kept = bench.rows_of(json.dumps(["trained", course.as_text(), list(patterns), precision]))
        judged = judge_file(bench, file, AUTO, precision, None, kept)
        found.append(Judged(Fidelity.TRAINED, judged.score))
    return found
