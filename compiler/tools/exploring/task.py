"""TASK.toml: on what data and by which figure a pruned model is judged. The pydantic models are its schema."""

from __future__ import annotations

import difflib
import importlib.util
import tomllib
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hw_targets.errors import HpccError, InputError, UsageError


class Metric(StrEnum):
    ACCURACY = "accuracy"
    F1 = "f1"
    PEARSON = "pearson"
    SPEARMAN = "spearman"
    AGREEMENT = "agreement"
    COSINE = "cosine"
    PERPLEXITY = "perplexity"


NEED_LABELS = (Metric.ACCURACY, Metric.F1, Metric.PEARSON, Metric.SPEARMAN)
NEED_CLASSES = (Metric.ACCURACY, Metric.F1, Metric.AGREEMENT)
NEED_PAIRS = (Metric.PEARSON, Metric.SPEARMAN)


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextTable(_Form):
    """How texts become the model's inputs."""

    tokenizer: str
    length: int = Field(64, ge=1, le=32768)


class SplitTable(_Form):
    """Files of samples: .tsv (`label<TAB>text`, for pairs `score<TAB>text<TAB>text`), .txt (a text a line), .npz (arrays by
    input name, `labels`, `pairs`). The search sees dev, the winner alone is measured on test, once."""

    dev: str
    test: str
    train: str | None = None


class HeadTable(_Form):
    """A frozen classifier behind the model: fitted once on the dense model's results for `train`, or from a file with
    `weight` [classes, width] and `bias` [classes]."""

    kind: Literal["logistic", "file"] = "logistic"
    file: str | None = None
    c: float = Field(100.0, gt=0)
    iterations: int = Field(1000, ge=1)


class TrainingTable(_Form):
    """How prunings are fine-tuned (docs/TRAINING.md): `steps` batches for each rung of a ladder, unless --train-steps says
    how many. `loss` is the distance to the dense model, or that to the labels of the output `logits`."""

    steps: int = Field(0, ge=0)
    batch: int = Field(32, ge=1, le=1024)
    rate: float = Field(1e-4, gt=0, lt=1)
    loss: Literal["distill", "labels"] = "distill"
    logits: str | None = None


class FetchTable(_Form):
    """What makes the files where they are missing: `FILE.py:FUNCTION`, called with the folder that they go to."""

    python: str
    folder: str


class Task(_Form):
    """A checked task; paths are relative to its file, those of the splits and the tokenizer to `fetch.folder` if there."""

    name: str
    metric: str = Metric.AGREEMENT
    """One of `Metric`, or `FILE.py:FUNCTION` of (outputs, inputs, labels): a figure for each sample, its mean counts."""
    output: str | None = None
    pool: Literal["none", "mean", "first"] = "none"
    """What becomes of an output with a row for each token: the mean of the unmasked ones, or the first."""
    batch: int = Field(16, ge=1, le=1024)
    """Samples in a step of the dense model; candidates run in the compiled shapes."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    subset: float = Field(0.25, gt=0, le=1)
    """The share of the dev set that rules out hopeless candidates."""
    calibration: int = Field(128, ge=1)
    """Samples of train (without it: none, and pruning is by magnitude) that pruning sees."""
    text: TextTable | None = None
    splits: SplitTable
    head: HeadTable | None = None
    training: TrainingTable = Field(default_factory=lambda: TrainingTable.model_validate({}))
    fetch: FetchTable | None = None

    @property
    def known_metric(self) -> Metric | None:
        """None for an entry point."""
        return Metric(self.metric) if self.metric in set(Metric) else None


TABLES: Mapping[str, type[_Form]] = {
    "text": TextTable,
    "splits": SplitTable,
    "head": HeadTable,
    "training": TrainingTable,
    "fetch": FetchTable,
}
"""The tables of a task by key."""


def load_task(path: Path) -> Task:
    """Read and check a task file. Raises UsageError for a missing file, InputError for its content."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError("HPCC2281", f"there is no task file {str(path)!r}", hint="docs/EXPLORE.md shows one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("HPCC1570", f"cannot read the task file: {error}", where=str(path)) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError("HPCC1571", f"not valid TOML: {error}", where=str(path)) from error
    try:
        task = Task.model_validate(document)
    except ValidationError as error:
        raise _form_error(error, str(path)) from error
    if task.known_metric is None and ":" not in task.metric:
        near = difflib.get_close_matches(task.metric, [metric.value for metric in Metric], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"{', '.join(Metric)}, or FILE.py:FUNCTION"
        raise InputError("HPCC1572", f"there is no metric {task.metric!r}", where=str(path), hint=hint)
    if task.head is not None and (task.head.kind == "file") != (task.head.file is not None):
        raise InputError("HPCC1572", "head.kind = 'file' and head.file go together", where=str(path))
    return task


def _form_error(error: ValidationError, where: str) -> InputError:
    """The first fault of a form: its dotted key, what is wrong, and what may be meant."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        table: Any = Task
        for part in first["loc"][:-1]:
            table = TABLES.get(str(part), table)
        near = difflib.get_close_matches(str(first["loc"][-1]), list(table.model_fields), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(table.model_fields)}"
        return InputError("HPCC1572", f"unknown key {key!r}", where=where, hint=hint)
    return InputError("HPCC1572", f"{key}: {first['msg'].lower()}", where=where)


def entry_point(text: str, folder: Path) -> Callable[..., Any]:
    """The function of `FILE.py:FUNCTION`, the file being relative to `folder`. Raises InputError."""
    file, _, name = text.rpartition(":")
    path = folder / file
    spec = importlib.util.spec_from_file_location(f"hpcc_task_{path.stem}", path)
    try:
        if spec is None or spec.loader is None:
            raise ImportError("it is no Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, name)
    except HpccError:
        raise
    except Exception as error:  # whatever the user's file raises
        raise InputError("HPCC1578", f"cannot load {name!r}: {error}", where=str(path)) from error


def data_folder(task: Task, path: Path) -> Path:
    return path.parent / task.fetch.folder if task.fetch is not None else path.parent


def fetch(task: Task, path: Path) -> None:
    """Make the files of the splits and the tokenizer if one is missing. Raises what the task's function raises."""
    if task.fetch is None:
        return
    folder = data_folder(task, path)
    wanted = [task.splits.dev, task.splits.test, *([task.splits.train] if task.splits.train else [])]
    wanted += [task.text.tokenizer] if task.text is not None else []
    if all((folder / name).is_file() for name in wanted):
        return
    make = entry_point(task.fetch.python, path.parent)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        make(folder)
    except HpccError:
        _remove_if_empty(folder)
        raise
    except Exception as error:  # whatever the user's function raises
        _remove_if_empty(folder)
        raise InputError("HPCC1580", f"{task.fetch.python} fails: {error}", where=str(path)) from error
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise InputError("HPCC1580", f"{task.fetch.python} made no {missing[0]}", where=str(path))


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()
