"""`hpcc-prune --train`: checks, trains with a progress bar, and writes the model of each rung as soon as it is done."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compiler.sparsity.base import Pattern
from compiler.sparsity.patterns import parse_pattern
from compiler.tools.hpcc import installed_version
from compiler.tools.pruning.onnx_output import check_output, write_tensors
from compiler.tools.training.options import TrainOptions, outputs
from compiler.tools.training.run import Request, RungDone, TrainingRun
from compiler.training.plan import parse_ladder
from hw_targets.load import load_any_target


@dataclass(frozen=True)
class Written:
    """A rung and its file."""

    path: Path
    done: RungDone

    def as_dict(self) -> dict[str, Any]:
        done = self.done
        return {
            "file": self.path.name,
            "pattern": done.pattern.spec(),
            "zeros": done.zeros,
            "layers": list(done.roles),
            "dev": done.score,
            "chosen_step": done.chosen,
        }


@dataclass
class Trained:
    """What came out."""

    source: str
    written: list[Written]
    left_dense: Mapping[str, str]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "hpcc_version": installed_version(),
            "model": self.source,
            "left_dense": dict(self.left_dense),
            "notes": self.notes,
            "rungs": [rung.as_dict() for rung in self.written],
        }


def patterns_of(options: TrainOptions) -> list[Pattern]:
    """Raises UsageError."""
    kind = "fpga" if options.target is None else load_any_target(options.target).kind
    if options.ladder is not None:
        return parse_ladder(options.ladder, kind)
    assert options.pattern is not None
    return [parse_pattern(options.pattern, kind).canonical()]


def train(options: TrainOptions) -> Trained:
    """Train and write. Raises HpccError; what was done before a fault or an interruption is in the folder of --resume."""
    assert options.output is not None
    patterns, model = patterns_of(options), Path(options.model)
    files = outputs(Path(options.output), len(patterns))
    for file in files:
        check_output(file, model)
    request = Request(
        model,
        Path(options.train),
        patterns,
        options.settings(),
        None if options.dev is None else Path(options.dev),
        None if options.teacher is None else Path(options.teacher),
        options.logits,
        None if options.resume is None else Path(options.resume),
        options.scope,
    )
    with _Bar(request.settings.steps, quiet=options.quiet) as bar:
        run = TrainingRun(request, bar.show)
        trained = Trained(model.name, [], run.trainable.left_dense, run.notes)

        def finished(done: RungDone) -> None:
            path = files[done.rung]
            write_tensors(model, done.tensors, path, done.metadata)
            trained.written.append(Written(path, done))

        run.run(finished)
    return trained


class _Bar:
    """Steps done, the loss and the time left, on stderr; silent where that is no terminal."""

    def __init__(self, steps: int, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._progress = Progress(
            *columns,
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task("", total=steps)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, step: int, loss: float) -> None:
        self._progress.update(self._task, completed=step, description=f"loss {loss:.4f}")
