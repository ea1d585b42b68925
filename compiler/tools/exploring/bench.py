"""What every evaluation of a search shares: the model, the task's arrays, the dense results, the frozen head.

It is on disk, so that a worker process opens it by the path of its folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.importer import import_onnx
from compiler.frontend.onnx_file import open_onnx
from compiler.tools.exploring.meter import Head, Meter, fit_head
from compiler.tools.exploring.models import CALIBRATION, Shapes, lower
from compiler.tools.exploring.samples import Split
from compiler.tools.exploring.task import NEED_CLASSES, NEED_LABELS, Task, load_task
from compiler.tools.exploring.workers import Executor, InProcess, in_parts, on_one_thread
from compiler.tools.reference import Reference
from hw_targets.errors import InputError

Array = NDArray[Any]
SEED = 0
HOST_RUNS = 3
TRAIN = "train.npz"
DEV_SET = "the dev set cannot be measured"
SAMPLES, TIMED = "latency.npz", 16
"""What measured devices run, in turn: that many batches of the dev set."""


@dataclass(frozen=True)
class Bench:
    """Names the evaluations of one search; a worker gets no more than this."""

    model: Path
    task_file: Path
    folder: Path
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    method: str | None
    z: float
    """Of the one-sided bounds."""

    @property
    def compiled_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self.shapes)

    @property
    def batch(self) -> int:
        """Samples of a compiled batch; 1 where only the model says."""
        return _first_axis(self.compiled_shapes, 1)

    @property
    def data(self) -> Path:
        """The folder of the task's arrays and of the calibration data."""
        return self.folder / "task"

    def rows_of(self, what: str) -> Path:
        """Where the rows of the dev set are kept that something gives: bounds at other confidences need no second run."""
        return self.folder / "rows" / f"{hashlib.sha256(what.encode()).hexdigest()[:24]}.npy"


@dataclass(frozen=True)
class Opened:
    """A bench in memory. `order` is the fixed order in which dev samples are run; a subset is its beginning."""

    bench: Bench
    task: Task
    meter: Meter
    dev: Split
    dense: Array
    order: Array
    float_shapes: Shapes
    """Of runs in fp32: the compiled ones with the task's batch."""

    @property
    def float_batch(self) -> int:
        return _first_axis(self.float_shapes, self.task.batch)

    @property
    def subset(self) -> int:
        """Samples of the subset; 0 where the metric needs all of them."""
        if self.dev.pairs is not None:
            return 0
        return min(max(round(self.task.subset * self.dev.count), 2), self.dev.count)


@cache
def opened(bench: Bench) -> Opened:
    """Read once in a process. Raises InputError where the folder cannot be seen from here."""
    task, meter = _task_and_meter(bench)
    dev = load_split(bench.data / "dev.npz")
    order = np.random.default_rng(SEED).permutation(dev.count)
    shapes = float_shapes(bench.model, bench.compiled_shapes, task.batch)
    return Opened(bench, task, meter, dev, np.load(bench.data / "dense.npy"), order, shapes)


def _task_and_meter(bench: Bench) -> tuple[Task, Meter]:
    task = load_task(bench.task_file)
    head = bench.data / "head.npz"
    return task, Meter(task, bench.task_file.parent, Head.load(head) if head.is_file() else None)


def save_split(split: Split, path: Path) -> None:
    arrays = {f"input {name}": array for name, array in split.inputs.items()}
    arrays |= {} if split.labels is None else {"labels": split.labels}
    arrays |= {} if split.pairs is None else {"pairs": split.pairs}
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]


def load_split(path: Path) -> Split:
    try:
        with np.load(path, allow_pickle=False) as data:
            inputs = {name.removeprefix("input "): data[name] for name in data.files if name.startswith("input ")}
            return Split(inputs, *(data[key] if key in data.files else None for key in ("labels", "pairs")))
    except Exception as error:  # numpy, zipfile and zlib have errors of their own
        hint = "workers need a file system that they share with this machine"
        raise InputError("HPCC1583", f"cannot read the search's samples: {error}", where=str(path), hint=hint) from error


def float_shapes(model: Path, shapes: Shapes, batch: int) -> dict[str, tuple[int, ...]]:
    """The shapes with another batch, unless the model fixes its own."""
    inputs = [value for value in open_onnx(model).model.graph.inputs if not value.is_initializer()]
    fixed = any(value.shape is not None and isinstance(value.shape[0], int) for value in inputs if value.shape)
    return dict(shapes) if fixed else {name: (batch, *shape[1:]) for name, shape in shapes.items()}


def _first_axis(shapes: Shapes, otherwise: int) -> int:
    return next(iter(shapes.values()))[0] if shapes else otherwise


def save_rows(path: Path, rows: Array) -> None:
    """Whole or not at all: workers share the folder."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.save(file, rows)
    part.replace(path)


def batches(split: Split, rows: Array, size: int) -> Iterator[tuple[dict[str, Array], Array]]:
    """(inputs of `size` samples, the rows that they are); the last batch is filled up with its first sample."""
    for start in range(0, len(rows), size):
        chosen = rows[start : start + size]
        filled = np.concatenate([chosen, np.repeat(chosen[:1], size - len(chosen))])
        yield {name: array[filled] for name, array in split.inputs.items()}, chosen


def reduced(meter: Meter, run: Any, split: Split, rows: Array, size: int) -> Array:
    """The meter's rows of the chosen samples, in their order."""
    found: list[Array] = []
    for inputs, chosen in batches(split, rows, size):
        count = len(chosen)
        outputs = {name: value[:count] if len(value) == size else value for name, value in run(inputs).items()}
        labels = split.labels[chosen] if split.labels is not None and split.pairs is None else None
        found.append(meter.reduced(outputs, {name: array[:count] for name, array in inputs.items()}, labels))
    return np.concatenate(found)


def float_reference(model: Path, shapes: Shapes) -> Reference:
    """ONNX Runtime in fp32 on one thread: a file as it is."""
    imported = import_onnx(model, dict(shapes))
    return Reference(imported.model, imported.store, {}, threads=1)


def reference_rows(bench: Bench, name: str, first: int, last: int) -> Array:
    """The meter's rows of some samples of a split by the dense model in fp32."""
    task, meter = _task_and_meter(bench)
    shapes = float_shapes(bench.model, bench.compiled_shapes, task.batch)
    split, run = load_split(bench.data / f"{name}.npz"), float_reference(bench.model, shapes).run
    return reduced(meter, run, split, np.arange(first, last), _first_axis(shapes, task.batch))


def fill(
    bench: Bench, task: Task, splits: Mapping[str, Split], executor: Executor | None = None, *, trained: bool = False
) -> None:
    """Write what evaluations need: samples, calibration data, head, dense results. Parts that are there stay."""
    bench.data.mkdir(parents=True, exist_ok=True)
    for name in ("dev", "test"):
        save_split(splits[name], bench.data / f"{name}.npz")
    train = splits.get("train")
    if train is not None and bench.method != "magnitude":
        np.savez(bench.data / CALIBRATION, **_calibration(train, task.calibration))  # pyright: ignore[reportArgumentType]
    if train is not None and trained:
        labels = {} if train.labels is None else {"labels": train.labels}
        np.savez(bench.data / TRAIN, **train.inputs, **labels)  # pyright: ignore[reportArgumentType]
    few = {name: array[: TIMED * bench.batch] for name, array in splits["dev"].inputs.items()}
    np.savez(bench.data / SAMPLES, **few)  # pyright: ignore[reportArgumentType]
    shapes = float_shapes(bench.model, bench.compiled_shapes, task.batch)
    size = _first_axis(shapes, task.batch)
    if task.head is not None:
        on_one_thread(_head, task, bench, shapes, train, size)
    dense = bench.data / "dense.npy"
    if not dense.is_file():
        rows = in_parts(executor or InProcess(), reference_rows, (bench, "dev"), splits["dev"].count, size, DEV_SET)
        np.save(dense, rows)
    if task.known_metric in NEED_CLASSES and task.known_metric in NEED_LABELS:
        head = _task_and_meter(bench)[1].head
        scored = np.load(dense).shape[1] if head is None else len(head.weight)
        for name in ("dev", "test"):
            _check_labels(splits[name], scored, str(bench.task_file), name)


def _check_labels(split: Split, scored: int, where: str, name: str) -> None:
    """Whether every label is one of the classes that are scored. Raises InputError."""
    assert split.labels is not None
    strange = split.labels[(split.labels < 0) | (split.labels >= scored)]
    if len(strange):
        message = f"label {strange[0]} of {name} is none of the classes that are scored, 0 to {scored - 1}"
        raise InputError("HPCC1587", message, where=where, hint=f"correct splits.{name}, or the head")


def _calibration(train: Split, count: int) -> dict[str, Array]:
    chosen = np.sort(np.random.default_rng(SEED).permutation(train.count)[:count])
    return {name: array[chosen] for name, array in train.inputs.items()}


def _head(task: Task, bench: Bench, shapes: Shapes, train: Split | None, size: int) -> None:
    """Keep the frozen head, fitted once, on the dense model."""
    assert task.head is not None
    path = bench.data / "head.npz"
    if path.is_file():
        return
    if task.head.file is not None:
        head = Head.load(bench.task_file.parent / task.head.file)
    elif train is None or train.labels is None:
        message = "head.kind = 'logistic' is fitted on the split train, which the task does not name"
        raise InputError("HPCC1584", message, where=str(bench.task_file), hint="splits.train, or head.kind = 'file'")
    elif not np.array_equal(found := np.unique(train.labels), np.arange(len(found))):
        message = f"the labels of train are {', '.join(map(str, found[:12]))}, not 0 to {len(found) - 1}"
        raise InputError("HPCC1587", message, where=str(bench.task_file), hint="number the classes from 0 on")
    else:
        meter, run = Meter(task, bench.task_file.parent), float_reference(bench.model, shapes).run
        rows = reduced(meter, run, train, np.arange(train.count), size)
        head = fit_head(rows, train.labels, task.head.c, task.head.iterations)
    head.save(path)


def host_milliseconds(bench: Bench, split: Split) -> float:
    """What the parts of the model that run on the host take for one batch as compiled, measured here: the least of three."""
    lowered = lower(bench.model, bench.compiled_shapes, "dense")
    if not lowered.hosts:
        return 0.0
    size = lowered.facts.inputs[0].shape[0]
    inputs = next(batches(split, np.arange(min(size, split.count)), size))[0]
    return 1e3 * min(lowered.run_timed(inputs)[1] for _ in range(HOST_RUNS))
