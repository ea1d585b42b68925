"""What triggers the errors of hpcc-explore that show only once a search runs, or where a package is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compiler.explore.space import DENSE, Algorithm, Candidate
from compiler.tools.exploring import bench as benches
from compiler.tools.exploring import winner as winners
from compiler.tools.exploring.bench import Bench, load_split, save_split
from compiler.tools.exploring.ledger import import_optuna
from compiler.tools.exploring.measuring import measured
from compiler.tools.exploring.meter import Head, Meter, fit_head
from compiler.tools.exploring.run import Explored, Exploring
from compiler.tools.exploring.samples import Split
from compiler.tools.exploring.task import load_task
from compiler.tools.exploring.workers import InProcess, Outcome, workers
from tests.graphs import Encoder, feeds, write

Case = Callable[[Path, pytest.MonkeyPatch], object]
SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50, position="sliced")
COUNT, TOKENS = 4, 7
SPLITS = '[splits]\ndev = "dev.npz"\ntest = "test.npz"\n'
FROZEN = '[head]\nkind = "file"\nfile = "head.npz"\n'
LOGISTIC = '[head]\nkind = "logistic"\n'


def task(folder: Path, *lines: str, tables: str = SPLITS) -> Path:
    path = folder / "task.toml"
    path.write_text("\n".join(['name = "small"', *lines, tables]), encoding="utf-8")
    return path


def bench_of(folder: Path, *lines: str, tables: str = SPLITS) -> Bench:
    """A search's folder, with no more than the names in it."""
    task(folder, *lines, tables=tables)
    shapes = {name: (COUNT, TOKENS) for name in feeds(SMALL, COUNT, TOKENS)}
    return Bench(Path("model.onnx"), Path("task.toml"), Path("out"), tuple(sorted(shapes.items())), "magnitude", 1.6)


def split(labels: list[int] | None = None) -> Split:
    return Split(feeds(SMALL, COUNT, TOKENS), None if labels is None else np.array(labels))


class Failing:
    """An executor whose every call dies."""

    width = 2

    def map(self, function: Any, calls: Any) -> Any:
        dead = Outcome(error="3 workers died of it, one after the other", lost=True)
        return ((number, dead) for number in range(len(calls)))


# ---- the task and its metric ----------------------------------------------------------------------------------------


def unreadable_task(folder: Path, _: pytest.MonkeyPatch) -> object:
    (folder / "task.toml").write_bytes(b"name = '\xff'\n")
    return load_task(Path("task.toml"))


def metric_of(*lines: str, files: str = "", **outputs: tuple[int, ...]) -> Case:
    """One batch of outputs of these shapes under a metric."""

    def case(folder: Path, _: pytest.MonkeyPatch) -> object:
        (folder / "metric.py").write_text(files, encoding="utf-8")
        meter = Meter(load_task(task(folder, *lines)), Path())
        return meter.reduced({name: np.zeros(shape, np.float32) for name, shape in outputs.items()}, split().inputs, None)

    return case


def headless(folder: Path, _: pytest.MonkeyPatch) -> object:
    np.savez(folder / "head.npz", weight=np.zeros((2, 4)))
    return Head.load(Path("head.npz"))


# ---- its samples and labels -----------------------------------------------------------------------------------------


def samples_elsewhere(_: Path, __: pytest.MonkeyPatch) -> object:
    return load_split(Path("task/dev.npz"))


def fill(folder: Path, lines: tuple[str, ...], splits: dict[str, Split], tables: str = SPLITS + LOGISTIC) -> object:
    write(SMALL, folder / "model.onnx", COUNT, TOKENS, symbolic=True)
    bench = bench_of(folder, *lines, tables=tables)
    return benches.fill(bench, load_task(Path("task.toml")), splits)


def head_without_samples(folder: Path, _: pytest.MonkeyPatch) -> object:
    return fill(folder, ('pool = "mean"',), {"dev": split([0, 1, 0, 1]), "test": split([0, 1, 0, 1])})


def labels_from_one(folder: Path, _: pytest.MonkeyPatch) -> object:
    splits = {name: split([1, 2, 1, 2]) for name in ("train", "dev", "test")}
    return fill(folder, ('pool = "mean"',), splits, SPLITS + 'train = "train.npz"\n' + LOGISTIC)


def label_of_no_class(folder: Path, _: pytest.MonkeyPatch) -> object:
    np.savez(folder / "head.npz", weight=np.zeros((4, SMALL.hidden)), bias=np.zeros(4))
    splits = {"dev": split([0, 1, 4, 3]), "test": split([0, 1, 2, 3])}
    return fill(
        folder, ('metric = "accuracy"', 'pool = "mean"'), splits, SPLITS + '[head]\nkind = "file"\nfile = "head.npz"\n'
    )


# ---- the search and its winner --------------------------------------------------------------------------------------


def nothing_judged(folder: Path, _: pytest.MonkeyPatch) -> object:
    """The first evaluations, the encoder of zeros and the dense model, both lose their workers."""
    zeros, dense = Algorithm(DENSE, DENSE, control="zeroed"), Algorithm(DENSE, DENSE)
    narrator = SimpleNamespace(say=lambda *_: None)
    search: Any = SimpleNamespace(zeros=zeros, dense=dense, bench=bench_of(folder), folder="out", narrator=narrator)
    Path("out").mkdir()
    return Exploring._floor(search, SimpleNamespace(judged={}), Failing())  # pyright: ignore


def program_that_dies(folder: Path, _: pytest.MonkeyPatch) -> object:
    """Nothing where a bundle of a CPU is expected."""
    return measured(Path("model.hpcc"), folder)


def on_test(folder: Path, executor: Any) -> object:
    bench = bench_of(folder)
    bench.data.mkdir(parents=True)
    twice = {name: np.concatenate([array, array]) for name, array in split().inputs.items()}
    save_split(Split(twice), bench.data / "test.npz")
    chosen = Candidate("fpga-u280", Algorithm(DENSE, DENSE))
    return winners.measure_on_test(bench, chosen, Path("winner.hpcc"), executor)


def lost_on_test(folder: Path, _: pytest.MonkeyPatch) -> object:
    return on_test(folder, Failing())


def another_program(folder: Path, patch: pytest.MonkeyPatch) -> object:
    """A bundle that gives ones where the integers of the model gave zeros."""
    patch.setattr(winners, "side_by_side", lambda *_: [np.ones((8, 2)), np.zeros((2 * COUNT, 2))])
    return on_test(folder, InProcess())


def no_device(_: Path, __: pytest.MonkeyPatch) -> object:
    answer: Any = SimpleNamespace(
        found=False,
        relaxation=SimpleNamespace(latency_ms=1.25, accuracy=0.75),
        limits=SimpleNamespace(max_latency_ms=1.0, min_accuracy=0.8),
        task=SimpleNamespace(metric="accuracy"),
    )
    return Explored(answer, Path("folder/out")).raise_if_infeasible()


# ---- what is not installed ------------------------------------------------------------------------------------------


def without(package: str, call: Callable[[], object]) -> Case:
    def case(_: Path, patch: pytest.MonkeyPatch) -> object:
        patch.setitem(sys.modules, package, None)
        return call()

    return case


def two_workers() -> object:
    with workers(2, None) as executor:
        return executor


CASES: dict[str, Case] = {
    "search: unreadable task": unreadable_task,
    "search: output without a row": metric_of("metric = 'accuracy'", y=(COUNT, TOKENS, 3)),
    "search: output that is not there": metric_of("metric = 'accuracy'", "output = 'logits'", y=(COUNT, 2), z=(COUNT, 3)),
    "search: perplexity of no words": metric_of("metric = 'perplexity'", y=(COUNT, 2)),
    "search: head without a bias": headless,
    "search: metric that fails": metric_of(
        "metric = 'metric.py:score'", files="def score(outputs, inputs, labels):\n    raise ValueError('no')\n", y=(COUNT, 2)
    ),
    "search: metric of one figure": metric_of(
        "metric = 'metric.py:score'", files="def score(outputs, inputs, labels):\n    return [1.0]\n", y=(COUNT, 2)
    ),
    "search: samples elsewhere": samples_elsewhere,
    "search: head without samples": head_without_samples,
    "search: labels from one on": labels_from_one,
    "search: label of no class": label_of_no_class,
    "search: nothing judged": nothing_judged,
    "search: program that dies": program_that_dies,
    "search: lost on test": lost_on_test,
    "search: another program": another_program,
    "search: no device": no_device,
    "search: without optuna": without("optuna", import_optuna),
    "search: without dask": without("distributed", two_workers),
    "search: without scikit-learn": without(
        "sklearn.linear_model", lambda: fit_head(np.zeros((2, 2)), np.array([0, 1]), 1.0, 10)
    ),
}
