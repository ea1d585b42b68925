"""The splits of a task as arrays: texts are tokenised, labels become numbers, and what does not match is said at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.tools.exploring.task import NEED_LABELS, NEED_PAIRS, Task, data_folder
from compiler.tools.inputs import InputSpec, fitted, role_of, texts_as_arrays
from hw_targets.errors import InputError

Array = NDArray[Any]


@dataclass(frozen=True)
class Split:
    """Samples by input name; `labels` are classes from 0 on, or with `pairs` [n, 2] of samples one figure a pair."""

    inputs: Mapping[str, Array]
    labels: Array | None = None
    pairs: Array | None = None

    @property
    def count(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, rows: Array) -> Split:
        """Some samples; only of a split without pairs."""
        labels = None if self.labels is None else self.labels[rows]
        return Split({name: array[rows] for name, array in self.inputs.items()}, labels)


@dataclass(frozen=True)
class _Raw:
    """A split as its file has it."""

    path: Path
    texts: tuple[str, ...] | None
    arrays: Mapping[str, Array] | None
    labels: Sequence[Any] | None
    pairs: Array | None


def read_splits(task: Task, path: Path, specs: Sequence[InputSpec]) -> tuple[dict[str, Split], tuple[str, ...]]:
    """The splits by name, and the names of the classes. Raises InputError naming the file and what does not fit."""
    folder = data_folder(task, path)
    names = {"dev": task.splits.dev, "test": task.splits.test, "train": task.splits.train}
    raws = {key: _read(folder / name, key) for key, name in names.items() if name is not None}
    classes = _classes(raws) if task.known_metric not in NEED_PAIRS else ()
    splits: dict[str, Split] = {}
    for key, raw in raws.items():
        where = str(raw.path)
        labels = _numbers(raw, classes, task)
        if raw.texts is not None:
            if task.text is None:
                raise InputError("HPCC1575", "texts need a table [text] in the task", where=where)
            arrays = texts_as_arrays(list(raw.texts), folder / task.text.tokenizer, specs, None, where).arrays
        else:
            arrays = fitted("npz", raw.path.name, raw.arrays or {}, specs, where).arrays
        split = Split(arrays, labels, raw.pairs)
        if key != "train" or task.head is not None:
            _check(task, split, where, of_train=key == "train")
        splits[key] = split
    return splits, classes


def _read(path: Path, key: str) -> _Raw:
    where = str(path)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as data:
                arrays = {name: np.asarray(data[name]) for name in data.files if name not in ("labels", "pairs")}
                labels = list(data["labels"]) if "labels" in data.files else None
                return _Raw(path, None, arrays, labels, data["pairs"] if "pairs" in data.files else None)
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except Exception as error:  # numpy, zipfile and zlib have errors of their own
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError("HPCC1573", f"cannot read the {key} samples: {reason}", where=where) from error
    if not lines:
        raise InputError("HPCC1573", f"cannot read the {key} samples: there are none", where=where)
    if path.suffix == ".txt":
        return _Raw(path, tuple(lines), None, None, None)
    rows = [line.split("\t") for line in lines]
    width = len(rows[0])
    wrong = next((number for number, row in enumerate(rows, 1) if len(row) != width or width not in (2, 3)), None)
    if wrong is not None:
        message = f"line {wrong} has {len(rows[wrong - 1])} columns; a row is label, text or score, text, text"
        raise InputError("HPCC1573", message, where=where, hint="columns are separated by tabs")
    if width == 2:
        return _Raw(path, tuple(row[1] for row in rows), None, [row[0] for row in rows], None)
    places: dict[str, int] = {}
    pairs = np.array([[places.setdefault(text, len(places)) for text in row[1:]] for row in rows])
    return _Raw(path, tuple(places), None, [row[0] for row in rows], pairs)


def _classes(raws: Mapping[str, _Raw]) -> tuple[str, ...]:
    """Names of the classes where labels are words: those of train, without it of all splits."""
    chosen = [raws["train"]] if "train" in raws and raws["train"].labels is not None else list(raws.values())
    words = {label for raw in chosen for label in raw.labels or () if isinstance(label, str)}
    if words and all(word.isdigit() for word in words):
        return tuple(sorted(words, key=int))
    return tuple(sorted(words))


def _numbers(raw: _Raw, classes: tuple[str, ...], task: Task) -> Array | None:
    """Labels as numbers: indices of classes, or the figures of pairs."""
    if raw.labels is None:
        return None
    where = str(raw.path)
    if task.known_metric in NEED_PAIRS:
        try:
            return np.array(raw.labels, np.float64)
        except ValueError as error:
            raise InputError("HPCC1574", f"the score of a pair is no number: {error}", where=where) from error
    if raw.labels and isinstance(raw.labels[0], str):
        unknown = next((label for label in raw.labels if label not in classes), None)
        if unknown is not None:
            hint = f"classes: {', '.join(classes[:12])}"
            raise InputError("HPCC1574", f"label {unknown!r} is no class of the train split", where=where, hint=hint)
        return np.array([classes.index(label) for label in raw.labels], np.int64)
    labels = np.asarray(raw.labels)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise InputError("HPCC1574", f"labels are {labels.dtype} of shape {labels.shape}, not whole numbers", where=where)
    return labels.astype(np.int64)


def _check(task: Task, split: Split, where: str, *, of_train: bool) -> None:
    metric = task.known_metric
    needed = metric in NEED_LABELS or (of_train and task.head is not None and task.head.kind == "logistic")
    if needed and split.labels is None:
        hint = "metric = 'agreement' or 'cosine' compares with the dense model and needs none"
        raise InputError("HPCC1575", f"the metric {task.metric} needs labels", where=where, hint=hint)
    if metric in NEED_PAIRS and not of_train and split.pairs is None:
        raise InputError("HPCC1575", f"the metric {task.metric} needs pairs", where=where, hint="score, text, text")
    if split.labels is not None:
        count = len(split.pairs) if split.pairs is not None else split.count
        if len(split.labels) != count:
            raise InputError("HPCC1574", f"{len(split.labels)} labels for {count} samples", where=where)
    if split.pairs is not None and (split.pairs.ndim != 2 or split.pairs.shape[1] != 2 or split.pairs.max() >= split.count):
        raise InputError("HPCC1574", "pairs are no rows of two samples", where=where)


def mask_of(inputs: Mapping[str, Array]) -> Array | None:
    """The attention mask among inputs [n, tokens], if there is one."""
    return next((a for name, a in inputs.items() if role_of(name) == "mask" and a.ndim == 2), None)
