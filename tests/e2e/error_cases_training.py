"""What triggers the errors of training that no command line of test_train_errors.py meets; most need torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.sparsity.base import Dense
from compiler.tools.training.run import Request, TrainingRun
from compiler.training.plan import Settings
from tests.e2e.error_cases_compiler import model, node
from tests.graphs import Encoder, feeds, write

Case = Callable[[Path, pytest.MonkeyPatch], object]
SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50, head="classifier")
STEPS = Settings(10, batch=2)
COUNT, TOKENS = 16, 7


def classifier(path: Path, encoder: Encoder = SMALL) -> onnx.ModelProto:
    """A small classifier whose only output is called `logits`."""
    made = onnx.load(write(encoder, path, 2, TOKENS))
    old = made.graph.output[0].name
    made.graph.output[0].name = "logits"
    for step in made.graph.node:
        step.output[:] = ["logits" if name == old else name for name in step.output]
    onnx.save(made, path)
    return made


def run_on(made: onnx.ModelProto, folder: Path, settings: Settings = STEPS, teacher: Path | None = None) -> TrainingRun:
    onnx.save(made, folder / "model.onnx")
    samples = {**feeds(SMALL, COUNT, TOKENS), "labels": np.zeros(COUNT, np.int64)}
    np.savez(folder / "train.npz", **samples)  # pyright: ignore[reportArgumentType]
    request = Request(Path("model.onnx"), Path("train.npz"), [Dense()], settings, teacher=teacher, logits="logits")
    return TrainingRun(request)


def node_of_the_host(folder: Path, _: pytest.MonkeyPatch) -> object:
    """A second output passes a node that only the host runs."""
    pytest.importorskip("torch")
    made = classifier(folder / "model.onnx")
    made.graph.node.append(helper.make_node("Mish", ["logits"], ["more"], name="mish"))
    made.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [2, 3]))
    return run_on(made, folder)


def no_number(folder: Path, _: pytest.MonkeyPatch) -> object:
    """Embeddings as large as numbers get: the first loss is none."""
    pytest.importorskip("torch")
    made = classifier(folder / "model.onnx")
    table = next(t for t in made.graph.initializer if list(t.dims) == [SMALL.vocabulary, SMALL.hidden])
    table.CopyFrom(numpy_helper.from_array(np.full(table.dims, 3e38, np.float32), table.name))
    return run_on(made, folder, replace(STEPS, loss="labels")).run(lambda done: None)


def deeper_teacher(folder: Path, _: pytest.MonkeyPatch) -> object:
    pytest.importorskip("torch")
    classifier(folder / "teacher.onnx", replace(SMALL, layers=2))
    return run_on(classifier(folder / "model.onnx"), folder, teacher=Path("teacher.onnx"))


def computed_weights(folder: Path, _: pytest.MonkeyPatch) -> object:
    """One linear, whose weight the file holds in halves."""
    nodes = [node("Cast", "w", out="wide", to=TensorProto.FLOAT), node("MatMul", "x", "wide")]
    model(folder, nodes, weights={"w": np.eye(4, dtype=np.float16)}, out=(TensorProto.FLOAT, [2, 4]))
    np.savez(folder / "train.npz", x=np.ones((COUNT, 4), np.float32))
    return TrainingRun(Request(Path("model.onnx"), Path("train.npz"), [Dense()], STEPS))


CASES: dict[str, Case] = {
    "train: node without a meaning": node_of_the_host,
    "train: loss that is no number": no_number,
    "train: teacher of another depth": deeper_teacher,
    "train: weights that the file computes": computed_weights,
}
