"""From a model's outputs to a score: what is kept of each batch, the frozen head, the metric with its bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.explore import statistics
from compiler.explore.statistics import Score
from compiler.tools.exploring.samples import Split, mask_of
from compiler.tools.exploring.task import Metric, Task, entry_point
from compiler.tools.inputs import role_of
from hw_targets.errors import HpccError, InputError, MissingToolError

Array = NDArray[Any]


@dataclass(frozen=True)
class Head:
    """A frozen linear classifier: scores [n, classes] of rows [n, width]."""

    weight: Array
    bias: Array

    def __call__(self, rows: Array) -> Array:
        return rows @ self.weight.T + self.bias

    def save(self, path: Path) -> None:
        np.savez(path, weight=self.weight, bias=self.bias)

    @classmethod
    def load(cls, path: Path) -> Head:
        """Raises InputError for a file without a classifier."""
        try:
            with np.load(path, allow_pickle=False) as data:
                missing = [name for name in ("weight", "bias") if name not in data]
                if missing:
                    raise ValueError(f"it has no {' and no '.join(missing)}")
                return cls(np.asarray(data["weight"], np.float64), np.asarray(data["bias"], np.float64))
        except Exception as error:  # numpy, zipfile and zlib have errors of their own
            raise InputError("HPCC1577", f"cannot read the head: {error}", where=str(path)) from error


def fit_head(rows: Array, labels: Array, c: float, iterations: int) -> Head:
    """scikit-learn's logistic regression (lbfgs, no scaling). Raises MissingToolError without it."""
    try:
        from sklearn.linear_model import LogisticRegression  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        message = "a head of kind 'logistic' needs scikit-learn"
        raise MissingToolError("HPCC5132", message, hint="pip install 'hpcc[explore]'") from error
    model: Any = LogisticRegression(C=c, max_iter=iterations).fit(rows.astype(np.float64), labels)
    weight, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(weight) == 1:  # two classes share one row of scores
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return Head(weight, bias)


@dataclass(frozen=True)
class Meter:
    """The metric of a task. `reduced` is called with every batch, `score` with all of its rows together."""

    task: Task
    folder: Path
    """Of the task file, for its entry points."""
    head: Head | None = None

    def reduced(self, outputs: Mapping[str, Array], inputs: Mapping[str, Array], labels: Array | None) -> Array:
        """[samples, features]: all that is kept of a batch. Raises InputError for an output that does not suit."""
        metric = self.task.known_metric
        if metric is None:
            return self._by_entry_point(outputs, inputs, labels)
        value = outputs[self._output(outputs)]
        if metric is Metric.PERPLEXITY:
            return _losses(value, inputs)
        if self.task.pool != "none":
            value = _pooled(value, inputs, self.task.pool)
        count = len(next(iter(inputs.values())))
        if value.ndim != 2 or len(value) != count:
            shape = "x".join(map(str, value.shape))
            message = f"the output {self._output(outputs)!r} of shape {shape} has no row for each sample"
            raise InputError("HPCC1576", message, where="TASK", hint="pool = 'mean' or 'first', or another output")
        return value

    def score(self, rows: Array, split: Split, dense: Array, z: float) -> Score:
        """The metric of all rows of a split, `dense` being the same of the dense model."""
        metric, labels = self.task.known_metric, split.labels
        if metric is None:
            return statistics.mean(rows[:, 0].astype(np.float64), z)
        if metric is Metric.PERPLEXITY:
            return statistics.perplexity(rows[:, 0].astype(np.float64), rows[:, 1].astype(np.int64), z)
        if metric is Metric.COSINE:
            return statistics.mean(_cosines(rows, dense), z)
        if metric is Metric.AGREEMENT:
            return statistics.proportion(self._classes(rows) == self._classes(dense), z)
        assert labels is not None
        if metric is Metric.ACCURACY:
            return statistics.proportion(self._classes(rows) == labels, z)
        if metric is Metric.F1:
            return statistics.macro_f1(self._classes(rows), labels, z)
        assert split.pairs is not None
        alike = _cosines(rows[split.pairs[:, 0]], rows[split.pairs[:, 1]])
        return statistics.correlation(alike, labels, split.pairs, z, ranks=metric is Metric.SPEARMAN)

    def _classes(self, rows: Array) -> NDArray[np.int64]:
        scores = rows if self.head is None else self.head(rows.astype(np.float64))
        return scores.argmax(axis=1)

    def _output(self, outputs: Mapping[str, Array]) -> str:
        floats = [name for name, value in outputs.items() if value.dtype.kind == "f"]
        rows = [name for name in floats if outputs[name].ndim == 2]
        wanted = self.task.output
        if wanted is None and 1 in (len(floats), len(rows)):
            return floats[0] if len(floats) == 1 else rows[0]
        if wanted is None or wanted not in outputs:
            message = "the model has several outputs" if wanted is None else f"the model has no output {wanted!r}"
            raise InputError("HPCC1576", message, where="TASK", hint=f"output = one of {', '.join(floats)}")
        return wanted

    def _by_entry_point(self, outputs: Mapping[str, Array], inputs: Mapping[str, Array], labels: Array | None) -> Array:
        function: Callable[..., Any] = entry_point(self.task.metric, self.folder)
        count = len(next(iter(inputs.values())))
        try:
            figures = np.asarray(function(outputs, inputs, labels), np.float64)
        except HpccError:
            raise
        except Exception as error:  # whatever the user's function raises
            raise InputError("HPCC1579", f"the metric fails: {error}", where=self.task.metric) from error
        if figures.shape != (count,) or not np.isfinite(figures).all():
            message = f"the metric gives {figures.shape}, not a finite figure for each of {count} samples"
            raise InputError("HPCC1579", message, where=self.task.metric)
        return figures[:, None]


def _pooled(value: Array, inputs: Mapping[str, Array], how: str) -> Array:
    if value.ndim != 3:
        return value
    if how == "first":
        return value[:, 0]
    mask = mask_of(inputs)
    weights = np.ones(value.shape[:2], np.float32) if mask is None else (mask != 0).astype(np.float32)
    return (value * weights[..., None]).sum(1) / np.maximum(weights.sum(1), 1)[:, None]


def _losses(logits: Array, inputs: Mapping[str, Array]) -> Array:
    """[samples, 2]: the summed loss of predicting each next token in nats, and how many there are."""
    ids = next((array for name, array in inputs.items() if role_of(name) == "ids"), None)
    if ids is None or logits.ndim != 3:
        raise InputError("HPCC1576", "perplexity needs token ids and an output [samples, tokens, words]", where="TASK")
    mask = mask_of(inputs)
    real = np.ones(ids.shape, np.bool_) if mask is None else mask != 0
    counted = real[:, 1:] & real[:, :-1]
    values = logits[:, :-1].astype(np.float64)
    values = values - values.max(axis=-1, keepdims=True)
    own = np.take_along_axis(values, ids[:, 1:, None], axis=-1)[..., 0]
    loss = np.log(np.exp(values).sum(axis=-1)) - own
    return np.stack([(loss * counted).sum(axis=1), counted.sum(axis=1)], axis=1)


def _cosines(a: Array, b: Array) -> NDArray[np.float64]:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return (x * y).sum(1) / np.maximum(np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1), 1e-30)
