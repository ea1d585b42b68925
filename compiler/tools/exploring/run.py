"""One `hpcc-explore` run from options to files. What can fail early is checked before the output folder is made."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compiler.explore.selection import Fidelity, Limits, Objective, Point, pareto, rejections, relaxation
from compiler.explore.space import DENSE, ZEROED, Algorithm
from compiler.explore.statistics import z_of
from compiler.frontend.onnx_file import open_onnx
from compiler.tools.exploring import report as forms
from compiler.tools.exploring import winner as winners
from compiler.tools.exploring.accuracy import CANDIDATE, Sensitivity
from compiler.tools.exploring.bench import Bench, fill, host_milliseconds, opened
from compiler.tools.exploring.finetuning import Course
from compiler.tools.exploring.judging import judge_all
from compiler.tools.exploring.ladders import ladders_of
from compiler.tools.exploring.ledger import JOURNAL, Ledger, import_optuna
from compiler.tools.exploring.models import Shapes, input_specs
from compiler.tools.exploring.options import ExploreOptions
from compiler.tools.exploring.samples import Split, read_splits
from compiler.tools.exploring.search import Narrator, Search
from compiler.tools.exploring.spaces import check_costs, cost_of, digests_of, space_of
from compiler.tools.exploring.task import entry_point, fetch, load_task
from compiler.tools.exploring.workers import Executor, on_one_thread, told, workers
from compiler.tools.hpcc import installed_version
from compiler.tools.inputs import role_of
from compiler.tools.report import text_of
from compiler.training import require_torch
from hw_targets.errors import InfeasibleError, InputError, UsageError
from runtime.html.explore_views import explore_page

JSON, HTML = "explore.json", "explore.html"
HOST, SECOND = "host_ms", "second latency"


@dataclass(frozen=True)
class Explored:
    """A finished search: the answer and the folder that holds it."""

    exploration: forms.Exploration
    folder: Path

    @property
    def found(self) -> bool:
        return self.exploration.found

    def raise_if_infeasible(self) -> None:
        """Raises InfeasibleError that says what the limits would have to be."""
        if self.found:
            return
        answer = self.exploration
        relaxed = answer.relaxation
        hints: list[str] = []
        if relaxed is not None and relaxed.latency_ms is not None:
            hints.append(f"--max-latency {_up(relaxed.latency_ms)}ms")
        if relaxed is not None and relaxed.accuracy is not None:
            hints.append(f"--min-accuracy {_down(relaxed.accuracy)}")
        limits = f"{answer.limits.max_latency_ms:g} ms and {answer.task.metric} {answer.limits.min_accuracy:g}"
        hint = f"the least that would do: {', or '.join(hints)}" if hints else "no change of one limit alone would do"
        raise InfeasibleError("HPCC3401", f"no device meets {limits}", where=str(self.folder), hint=hint)


def _up(value: float) -> str:
    return f"{value * (1 + 1e-9) + 5e-4:.3f}"


def _down(value: float) -> str:
    return f"{value - 5e-5:.4f}"


class Exploring:
    """The state of one run."""

    def __init__(self, options: ExploreOptions) -> None:
        import_optuna()
        self.options = options
        self.model, self.task_file = Path(options.model).resolve(), Path(options.task).resolve()
        self.task = load_task(Path(options.task))
        self.space = space_of(options)
        self.objective = Objective(options.objective)
        check_costs(self.space, options.costs, self.objective)
        self.digests = digests_of(self.space)
        self.folder = Path(options.output).resolve()
        self._check_folder()
        self.sha256 = open_onnx(self.model).sha256
        fetch(self.task, self.task_file)
        if self.task.known_metric is None:
            entry_point(self.task.metric, self.task_file.parent)
        self.shapes = self._shapes()
        self.splits, self.classes = read_splits(self.task, self.task_file, input_specs(self.model, self.shapes))
        self.course = self._course()
        trained = 0 if self.course is None else sum(map(len, ladders_of(self.space)))
        self.comparisons = len(self.space.algorithms()) + trained
        self.z = z_of(self.task.confidence, self.comparisons)
        self.method = options.method
        if self.method is None and "train" not in self.splits:
            self.method = "magnitude"
        first = next(iter(self.space.parts.values())).precision
        self.dense, self.zeros = Algorithm(DENSE, DENSE, first), Algorithm(ZEROED, ZEROED, first, ZEROED)
        shapes = tuple(sorted(self.shapes.items()))
        self.bench = Bench(self.model, self.task_file, self.folder, shapes, self.method, self.z)
        self.narrator = Narrator(quiet=options.quiet)

    # ---- what is asked ----------------------------------------------------------------------------------------------

    def cost(self, device: str) -> float:
        """The class of a device; where none is known and none is needed, 0."""
        return cost_of(device, self.options.costs) or 0.0

    def _course(self) -> Course | None:
        """How prunings are trained. Raises MissingToolError without torch, UsageError without samples."""
        table, asked = self.task.training, self.options.train_steps
        steps = table.steps if asked is None else asked
        if not steps:
            return None
        if "train" not in self.splits:
            message = "fine-tuning needs samples, and the task has no split for them"
            raise UsageError("HPCC2291", message, hint="splits.train in the task, or --train-steps 0")
        require_torch()
        return Course(steps, table.batch, table.rate, table.loss, table.logits, self.options.seed)

    def _check_folder(self) -> None:
        """Only a folder of a search is taken up again."""
        folder = self.folder
        if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / JOURNAL).is_file())):
            message = "the output is no folder of a search; only such a one is taken up again"
            raise InputError("HPCC1582", message, where=str(folder), hint="-o DIR")
        parent = next(place for place in (folder, *folder.parents) if place.exists())
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError("HPCC1582", "cannot write there", where=str(parent), hint="-o DIR")

    def _shapes(self) -> Shapes:
        """The compiled shapes: as given, else one sample of the task's length."""
        if self.options.shapes or self.task.text is None:
            return dict(self.options.shapes)
        names = [str(v.name) for v in open_onnx(self.model).model.graph.inputs if not v.is_initializer()]
        return {name: (1, self.task.text.length) for name in names if role_of(name) is not None}

    # ---- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> Explored:
        """Search, choose, build the winner, measure it on test, write the answer."""
        options = self.options
        with workers(options.workers, options.dask) as executor, self._writable():
            ledger = Ledger(
                self.folder,
                self.space,
                self._identity(),
                self.digests,
                self._search(),
                options.sampler,
                options.seed,
                judging=f"{self.z:.9f}",
                training="" if self.course is None else self.course.digest,
            )
            self.narrator.say("reading the task", 0, 0)
            fill(self.bench, self.task, self.splits, executor, trained=self.course is not None)
            opened.cache_clear()
            host_ms = self._host_ms(ledger)
            floor = self._floor(ledger, executor)
            limits = Limits(options.max_latency, options.min_accuracy, floor.value)
            search = Search(
                self.bench,
                self.space,
                self.cost,
                limits,
                self.objective,
                options.budget,
                options.controls,
                ledger,
                executor,
                self.narrator,
                host_ms,
                self._sensitivity,
                self.course,
            )
            try:
                chosen = search.run()
            except KeyboardInterrupt:
                self._write(self._answer(search, ledger, None, None, complete=False))
                raise
            built = None
            while chosen is not None and built is None:
                built, chosen = self._built(search, chosen, host_ms)
            answer = self._answer(search, ledger, chosen, built)
            self._write(answer)
        self.narrator.stop()
        if not any(point.is_final for point in search.points()) and ledger.problems:
            first = next(iter(ledger.problems.values()))
            raise InputError("HPCC1585", f"no evaluation came to its end; the first: {first}", where=str(self.folder))
        return Explored(answer, self.folder)

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        """Make the folder; take it away again if nothing was put into it."""
        made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(f"{CANDIDATE}*"):  # of a search that was killed
            shutil.rmtree(left, ignore_errors=True)
        try:
            yield
        finally:
            self.narrator.stop()
            if made and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _identity(self) -> dict[str, str]:
        """What measurements depend on, and a search that is taken up again must agree in."""
        digest = hashlib.sha256(self.task_file.read_bytes())
        for name, split in sorted(self.splits.items()):
            digest.update(name.encode())
            for array in (*split.inputs.values(), split.labels, split.pairs):
                digest.update(b"" if array is None else array.tobytes())
        return {
            "hpcc": installed_version(),
            "model": self.sha256,
            "task": digest.hexdigest(),
            "shapes": json.dumps(self.bench.shapes),
            "method": str(self.method),
        }

    def _search(self) -> str:
        """Everything that decides what is tried and chosen, but the budget and the workers: these may change."""
        options = self.options
        what: list[object] = [
            self.digests,
            {kind: part.families for kind, part in self.space.parts.items()},
            options.mixed,
            options.controls,
            sorted(options.costs.items()),
        ]
        what += [options.max_latency, options.min_accuracy, options.objective, options.sampler, options.seed, self.z]
        what += [] if self.course is None else [self.course.digest]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def _host_ms(self, ledger: Ledger) -> float:
        """Beside accelerators; measured once for a search: a second measurement would make other figures."""
        if "fpga" not in self.space.parts:
            return 0.0
        known = ledger.fact(HOST)
        if known is None:
            known = on_one_thread(host_milliseconds, self.bench, self.splits["dev"])
            ledger.note_fact(HOST, known)
        return float(known)

    def _floor(self, ledger: Ledger, executor: Executor) -> Any:
        """What an encoder of zeros scores; the dense model is judged beside it, the other end of the scale."""
        missing = [algorithm for algorithm in (self.zeros, self.dense) if algorithm not in ledger.judged]
        if missing:
            self.narrator.say("the dense model, and the control: an encoder of zeros", 0, 0)
        for number, outcome in judge_all(executor, self.bench, missing, None):
            algorithm = missing[number]
            if not outcome.error:
                ledger.note_judged(algorithm, outcome.value)
            elif algorithm == self.dense:
                ledger.note_problem(algorithm, told(outcome, self.folder))
            else:
                message = f"the encoder of zeros cannot be judged: {told(outcome, self.folder)}"
                raise InputError("HPCC1585", message, where=str(self.folder))
        return ledger.judged[self.zeros].score

    def _sensitivity(self) -> Sensitivity:
        self.narrator.say("sensitivity estimate", 0, 0)
        return on_one_thread(Sensitivity, self.bench, opened(self.bench).float_shapes)

    def _built(self, search: Search, chosen: Point, host_ms: float) -> tuple[winners.Winner | None, Point | None]:
        """The winner's files and test score; (None, the next best) where another is better now that the bundle's own time is
        known."""
        candidate = chosen.candidate
        self.narrator.say(f"building {candidate.label}", 0, 0)
        lessons = self._lessons(chosen)
        bundle, digest = winners.built(self.bench, candidate, lessons, search.executor)
        self._correct(search, chosen, bundle, host_ms)
        best = search.winner()
        if best is None or best.candidate != candidate:
            return None, best
        lines = winners.commands(self.bench, candidate, lessons)
        self.narrator.say("reading the test set", 0, 0)
        test = winners.measure_on_test(self.bench, candidate, bundle, search.executor)
        return winners.Winner(bundle, digest, lines, best.hardware.latency_ms, test), best

    def _correct(self, search: Search, chosen: Point, bundle: Path, host_ms: float) -> None:
        """Note the bundle's own time: cycles of some patterns depend on which weights are zero. A measured one is measured
        a second time, once for all, and the slower figure counts: of many fast ones some are lucky."""
        candidate, ledger, old = chosen.candidate, search.ledger, chosen.hardware
        name = f"{SECOND} {self.digests[candidate.device]} {candidate.label} {chosen.fidelity}"
        if old.measured and ledger.fact(name) is not None:
            return
        new = on_one_thread(winners.time_of, self.bench, candidate, bundle, host_ms)
        if old.measured:
            ledger.note_fact(name, new.latency_ms)
        if new.latency_ms > old.latency_ms or (new.latency_ms != old.latency_ms and not old.measured):
            parts = {"accelerator_ms": new.accelerator_ms, "transfer_ms": new.transfer_ms, "host_ms": new.host_ms}
            ledger.note_hardware(candidate, replace(old, **parts, spread_ms=new.spread_ms))

    def _lessons(self, chosen: Point) -> winners.Lessons | None:
        if self.course is None or chosen.fidelity is not Fidelity.TRAINED:
            return None
        algorithm = chosen.candidate.algorithm
        ladder = next(ladder for ladder in ladders_of(self.space) if algorithm in ladder)
        rungs = ladder[: ladder.index(algorithm) + 1]
        return winners.Lessons(self.course, tuple(rung.attention for rung in rungs))

    # ---- the answer -------------------------------------------------------------------------------------------------

    def _answer(
        self,
        search: Search,
        ledger: Ledger,
        chosen: Point | None,
        built: winners.Winner | None,
        *,
        complete: bool = True,
    ) -> forms.Exploration:
        """`complete`: whether the search came to its end; else it holds what was found until then."""
        points, limits, options = search.points(), search.limits, self.options
        best = pareto(points)
        labels = {point.candidate.label for point in best}

        def part(point: Point) -> forms.TrialPart:
            algorithm = point.candidate.algorithm
            before = (
                ledger.judged[algorithm].score if point.fidelity is Fidelity.TRAINED and algorithm in ledger.judged else None
            )
            return forms.trial_part(point, limits, labels, ledger.estimates.get(algorithm), before)

        own = None
        if chosen is not None and built is not None and chosen.score is not None:
            test = forms.score_part(built.test)
            assert test is not None
            own = forms.WinnerPart(
                trial=part(chosen),
                latency_margin_ms=limits.latency_ms - built.latency_ms,
                accuracy_margin=chosen.score.low - limits.accuracy,
                test=test,
                bundle=str(built.bundle),
                digest=built.digest,
                commands=built.commands,
            )
        dense = ledger.judged.get(self.dense)
        zeroed = forms.score_part(ledger.judged[self.zeros].score)
        assert zeroed is not None
        found = rejections(points, limits, chosen, self.objective)
        return forms.Exploration(
            hpcc_version=installed_version(),
            complete=complete,
            found=own is not None,
            model=forms.ModelPart(name=self.model.stem, sha256=self.sha256),
            shapes=self.bench.compiled_shapes,
            task=forms.TaskPart(
                name=self.task.name,
                metric=self.task.metric,
                confidence=self.task.confidence,
                comparisons=self.comparisons,
                dev=_count(self.splits["dev"]),
                test=_count(self.splits["test"]),
            ),
            limits=forms.LimitsPart(max_latency_ms=options.max_latency, min_accuracy=options.min_accuracy),
            objective=options.objective,
            method=self.method or "second-order",
            training=None if self.course is None else forms.TrainingPart(**asdict(self.course)),
            space=forms.SpacePart(
                devices=tuple(self.space.devices),
                patterns=tuple(algorithm.label for algorithm in self.space.algorithms()),
                mixed=options.mixed,
                candidates=len(self.space),
                exhaustive=search.is_exhaustive,
                sampler=options.sampler,
                seed=options.seed,
                budget=options.budget,
            ),
            counts=_counts(ledger, len(points)),
            dense=None if dense is None else forms.score_part(dense.score),
            zeroed=zeroed,
            winner=own,
            relaxation=None if own is not None or not complete else forms.relaxation_part(relaxation(points, limits)),
            front=tuple(part(point) for point in best),
            rejected=forms.rejected_parts(found),
            trials=tuple(part(point) for point in points),
            problems=_problems(ledger),
        )

    def _write(self, answer: forms.Exploration) -> None:
        document = answer.model_dump(mode="json")
        for name, text in ((JSON, text_of(answer)), (HTML, explore_page(document))):
            part = self.folder / f"{name}.part"
            part.write_text(text, encoding="utf-8")
            part.replace(self.folder / name)


def _count(split: Split) -> int:
    return split.count if split.pairs is None else len(split.pairs)


def _counts(ledger: Ledger, timed: int) -> forms.CountsPart:
    own = [j.fidelity for a, j in ledger.judged.items() if a.control != ZEROED]
    counts = {fidelity.value: own.count(fidelity) for fidelity in (Fidelity.DEV, Fidelity.SUBSET, Fidelity.ESTIMATE)}
    return forms.CountsPart(timed=timed, failed=len(ledger.problems), trained=len(ledger.trained), **counts)


def _problems(ledger: Ledger) -> tuple[str, ...]:
    lines = [f"{a.label}: {text}" for a, text in sorted(ledger.problems.items())]
    return (*lines, *(f"{a.label}, training: {text}" for a, text in sorted(ledger.untrained.items())))


def explore(options: ExploreOptions) -> Explored:
    """Run a search. Raises HpccError; where nothing meets the limits the result says so, see `raise_if_infeasible`."""
    return Exploring(options).run()
