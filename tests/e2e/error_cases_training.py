"""What triggers the errors of training, called as its tools call it. Those that need torch are skipped without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compiler import training
from compiler.sparsity.base import Dense
from compiler.sparsity.patterns import parse_pattern
from compiler.tools.training.run import Request, TrainingRun
from compiler.training.plan import Settings, ladder, parse_ladder
from compiler.training.state import Checkpoint, RunFolder
from tests.e2e import error_cases_compiler
from tests.graphs import Encoder, feeds, write

Case = Callable[[Path, pytest.MonkeyPatch], object]
SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50, head="classifier")
STEPS = Settings(10, batch=2)
LABELS = replace(STEPS, loss="labels")
COUNT, TOKENS = 16, 7


def started(
    settings: Settings = STEPS,
    logits: str | None = "logits",
    pattern: str = "nm:2:4",
    labels: Any = None,
    change: Callable[[onnx.ModelProto], None] | None = None,
    encoder: Encoder = SMALL,
    teacher: Encoder | None = None,
) -> Case:
    """A run on a small classifier up to its first step; `change` edits the model."""

    def case(folder: Path, _: pytest.MonkeyPatch) -> object:
        named(write(encoder, folder / "model.onnx", 2, TOKENS), change)
        arrays: dict[str, Any] = dict(feeds(encoder, COUNT, TOKENS))
        if labels is not None:
            arrays["labels"] = labels
        np.savez(folder / "train.npz", **arrays)
        if teacher is not None:
            named(write(teacher, folder / "teacher.onnx", 2, TOKENS))
        taught = Path("teacher.onnx") if teacher is not None else None
        patterns = [parse_pattern(pattern)]
        return TrainingRun(Request(Path("model.onnx"), Path("train.npz"), patterns, settings, teacher=taught, logits=logits))

    return case


def named(path: Path, change: Callable[[onnx.ModelProto], None] | None = None) -> None:
    """The only output of the model is called `logits` from here on."""
    model = onnx.load(path)
    old = model.graph.output[0].name
    model.graph.output[0].name = "logits"
    for node in model.graph.node:
        node.output[:] = ["logits" if name == old else name for name in node.output]
    if change is not None:
        change(model)
    onnx.save(model, path)


def with_torch(case: Case) -> Case:
    def needs(folder: Path, patch: pytest.MonkeyPatch) -> object:
        pytest.importorskip("torch")
        return case(folder, patch)

    return needs


def without_torch(folder: Path, patch: pytest.MonkeyPatch) -> object:
    patch.setattr(training, "find_spec", lambda name: None)
    return started()(folder, patch)


def diverging(folder: Path, patch: pytest.MonkeyPatch) -> object:
    """An infinite embedding of a token: the first loss is no number."""

    def infinite(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if list(t.dims) == [SMALL.vocabulary, SMALL.hidden])
        tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, 3e38, np.float32), tensor.name))

    run = started(LABELS, labels=np.zeros(COUNT, np.int64), change=infinite)(folder, patch)
    assert isinstance(run, TrainingRun)
    return run.run(lambda done: None)


def unknown_node(model: onnx.ModelProto) -> None:
    """The logits pass a node that only the host runs."""
    for node in model.graph.node:
        node.output[:] = ["before" if name == "logits" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Mish", ["before"], ["logits"], name="mish"))


def save_into(place: str) -> Case:
    def case(folder: Path, patch: pytest.MonkeyPatch) -> object:
        (folder / "occupied").write_text("precious\n", encoding="utf-8")
        return RunFolder(Path(place), {}).save(Checkpoint(1, {"w": np.ones(2, np.float32)}))

    return case


def damaged(folder: Path, _: pytest.MonkeyPatch) -> object:
    run = RunFolder(Path("run"), {"model": "abc"})
    run.save(Checkpoint(7, {"w": np.ones(300, np.float32)}))
    path = folder / "run" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    return run.load()


def another_run(folder: Path, _: pytest.MonkeyPatch) -> object:
    RunFolder(Path("run"), {"model": "abc"}).save(Checkpoint(7, {"w": np.ones(3, np.float32)}))
    return RunFolder(Path("run"), {"model": "xyz"}).load()


def computed_weights(folder: Path, _: pytest.MonkeyPatch) -> object:
    """One linear, whose weight the file holds in halves."""
    cast = error_cases_compiler.node("Cast", "w", out="wide", to=onnx.TensorProto.FLOAT)
    halves = np.eye(4, dtype=np.float16)
    error_cases_compiler.model(
        folder,
        [cast, error_cases_compiler.node("MatMul", "x", "wide")],
        weights={"w": halves},
        out=(onnx.TensorProto.FLOAT, [2, 4]),
    )
    np.savez(folder / "train.npz", x=np.ones((COUNT, 4), np.float32))
    return TrainingRun(Request(Path("model.onnx"), Path("train.npz"), [Dense()], STEPS))


def rungs(text: str, steps: int = 100) -> Case:
    return lambda folder, patch: ladder(parse_ladder(text), steps)


CASES: dict[str, Case] = {
    "train: node without a meaning": with_torch(started(change=unknown_node, logits=None)),
    "train: checkpoint below a file": save_into("occupied/run"),
    "train: damaged checkpoint": damaged,
    "train: checkpoint of another run": another_run,
    "train: loss that is no number": with_torch(diverging),
    "train: no labels": started(LABELS),
    "train: labels of another count": started(LABELS, labels=np.zeros(COUNT - 1, np.int64)),
    "train: label that is no class": started(LABELS, labels=np.full(COUNT, 7)),
    "train: weights that the file computes": computed_weights,
    "train: teacher of another depth": with_torch(started(teacher=replace(SMALL, layers=2))),
    "train: no torch": without_torch,
    "train: unknown loss": lambda folder, patch: Settings(10, loss="mse"),
    "train: too few steps": rungs("4:8", 3),
    "train: empty batch": lambda folder, patch: Settings(10, batch=0),
    "train: ladder that goes up": rungs("2:8,4:8"),
    "train: ladder of nothing": rungs(" , "),
    "train: labels for no output": started(LABELS, logits=None),
    "train: unknown output": started(logits="logit"),
    "train: output without scores": started(encoder=replace(SMALL, head="none")),
    "train: pattern for nobody": started(pattern="nm:2:16"),
}
