"""Bad input to hpcc-prune --train: one line, the documented exit status, nothing written. Torch is not needed for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler import training
from compiler.tools.hpcc_prune import main
from compiler.training.state import Checkpoint, RunFolder
from tests.e2e.golden_errors import GOLDEN, matches
from tests.e2e.harness import call
from tests.graphs import Encoder, feeds, write

SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50)
BATCH, TOKENS, SAMPLES = 4, 8, 16
MODEL = ("model.onnx", "-o", "out.onnx")
ON = ("--train", "good.npz", "--steps", "10", "--logits", "logits", "--batch", "4")
PATTERN = ("--pattern", "nm:2:4")
CASES: dict[str, tuple[str, ...]] = {
    "train: no steps": (*MODEL, *PATTERN, "--train", "good.npz"),
    "train: too few steps": (*MODEL, *PATTERN, *ON, "--steps", "3"),
    "train: no pattern": (*MODEL, *ON),
    "train: pattern and ladder": (*MODEL, *PATTERN, *ON, "--ladder", "4:8,2:8"),
    "train: ladder that goes up": (*MODEL, *ON, "--ladder", "2:8,4:8"),
    "train: empty ladder": (*MODEL, *ON, "--ladder", ","),
    "train: pattern that shares weights": (*MODEL, *ON, "--pattern", "circulant:4"),
    "train: with an option of one-shot pruning": (*MODEL, *PATTERN, *ON, "--calibrate", "good.npz"),
    "train: option without samples": (*MODEL, *PATTERN, "--steps", "10"),
    "train: unknown loss": (*MODEL, *PATTERN, *ON, "--loss", "mse"),
    "train: empty batch": (*MODEL, *PATTERN, *ON, "--batch", "0"),
    "train: rate that is none": (*MODEL, *PATTERN, *ON, "--rate", "nan"),
    "train: loss of labels without logits": (*MODEL, *PATTERN, *ON[:4], "--batch", "4", "--loss", "labels"),
    "train: unknown output": (*MODEL, *PATTERN, *ON, "--logits", "logit"),
    "train: output without scores": (*MODEL, *PATTERN, *ON, "--logits", "tokens"),
    "train: missing samples": (*MODEL, *PATTERN, *ON, "--train", "nowhere.npz"),
    "train: samples of a wrong name": (*MODEL, *PATTERN, *ON, "--train", "wrong name.npz"),
    "train: samples of a wrong shape": (*MODEL, *PATTERN, *ON, "--dev", "wrong length.npz"),
    "train: no labels": (*MODEL, *PATTERN, *ON, "--train", "unlabelled.npz", "--loss", "labels"),
    "train: labels of a wrong shape": (*MODEL, *PATTERN, *ON, "--train", "short labels.npz"),
    "train: labels out of range": (*MODEL, *PATTERN, *ON, "--dev", "wide labels.npz"),
    "train: pattern that no layer holds": (*MODEL, *ON, "--pattern", "nm:2:16"),
    "train: scope that matches nothing": (*MODEL, *PATTERN, *ON, "--scope", "layer.*.fnn.*"),
    "train: integer weights": ("int8.onnx", *MODEL[1:], *PATTERN, *ON),
    "train: output is the model": ("model.onnx", "-o", "model.onnx", *PATTERN, *ON),
    "train: output in no folder": ("model.onnx", "-o", "nowhere/out.onnx", *PATTERN, *ON),
    "train: damaged checkpoint": (*MODEL, *PATTERN, *ON, "--resume", "damaged"),
    "train: checkpoint of another run": (*MODEL, *PATTERN, *ON, "--resume", "other"),
    "train: checkpoints in a file": (*MODEL, *PATTERN, *ON, "--resume", "text.txt"),
}


def with_logits(path: Path) -> None:
    """The small encoder whose outputs are called tokens [4, 8, 32] and logits [4, 2]."""
    write(SMALL, path, BATCH, TOKENS)
    model = onnx.load(str(path))
    old = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["tokens" if name == old else name for name in node.output]
    model.graph.output[0].name = "tokens"
    weight = np.random.default_rng(0).standard_normal((2, SMALL.hidden)).astype(np.float32)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(weight, "head.weight"),
            numpy_helper.from_array(np.zeros(2, np.float32), "head.bias"),
            numpy_helper.from_array(np.array(0), "first"),
        ]
    )
    model.graph.node.append(helper.make_node("Gather", ["tokens", "first"], ["token"], axis=1))
    model.graph.node.append(helper.make_node("Gemm", ["token", "head.weight", "head.bias"], ["logits"], "head", transB=1))
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, [BATCH, 2]))
    onnx.save(model, str(path))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train-shelf")
    with_logits(folder / "model.onnx")
    write(Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50, weights="int8"), folder / "int8.onnx", 4, 8)
    good = feeds(SMALL, SAMPLES, TOKENS)
    labels = np.arange(SAMPLES) % 2
    np.savez(folder / "good.npz", **good, labels=labels)
    np.savez(folder / "unlabelled.npz", **good)
    np.savez(folder / "short labels.npz", **good, labels=labels[1:])
    np.savez(folder / "wide labels.npz", **good, labels=np.where(np.arange(SAMPLES) == 3, 7, labels))
    np.savez(folder / "wrong name.npz", **{name.replace("ids", "id"): array for name, array in good.items()})
    np.savez(folder / "wrong length.npz", **{name: array[:, :5] for name, array in good.items()}, labels=labels)
    (folder / "text.txt").write_text("no folder\n")
    (folder / "damaged").mkdir()
    (folder / "damaged" / "checkpoint.safetensors").write_bytes(b"\x00" * 100)
    RunFolder(folder / "other", {"model": "abc"}).save(Checkpoint(3, {"weight/w": np.ones(2, np.float32)}))
    return folder


@pytest.fixture
def place(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "place"
    shutil.copytree(shelf, folder)
    monkeypatch.chdir(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_hpcc_prune_train(place: Path, name: str) -> None:
    before = contents(place)
    done, (status, line) = call(main, *CASES[name]), GOLDEN[name]
    assert matches(done.line, line), f"\n  got  {done.line}\n  want {line}"
    assert (done.status, done.out) == (status, "")
    assert contents(place) == before


def test_without_torch_the_extra_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    before = contents(place)
    done, (status, line) = call(main, *MODEL, *PATTERN, *ON), GOLDEN["train: no torch"]
    assert matches(done.line, line)
    assert done.status == status == 5
    assert contents(place) == before
