"""hpcc-explore: one golden line for every fault that shows before a search begins, and nothing left behind by it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compiler import training
from compiler.tools.hpcc_explore import main
from tests.e2e.golden_errors import GOLDEN, matches
from tests.e2e.harness import ROOT, call
from tests.graphs import Encoder, feeds, write

SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50, position="sliced")
TOKENS = 8
TASK = """name = "small"
metric = "accuracy"
pool = "mean"
[splits]
dev = "dev.npz"
test = "dev.npz"
"""
USUAL = ("--task", "task.toml", "--max-latency", "1ms", "--min-accuracy", "0.5", "--shape", f"input_ids:1x{TOKENS}")
Change = Callable[[Path], None]


def text(name: str, content: str) -> Change:
    def change(place: Path) -> None:
        (place / name).write_text(content, encoding="utf-8")

    return change


def task(old: str, new: str) -> Change:
    assert old in TASK
    return text("task.toml", TASK.replace(old, new))


def without_labels(place: Path) -> None:
    np.savez(place / "dev.npz", **feeds(SMALL, 8, TOKENS))  # pyright: ignore[reportArgumentType]


def few_labels(place: Path) -> None:
    np.savez(place / "dev.npz", **feeds(SMALL, 8, TOKENS), labels=np.zeros(3, np.int64))  # pyright: ignore[reportArgumentType]


def label_of_no_class(place: Path) -> None:
    table = 'train = "train.tsv"\n[text]\ntokenizer = "t.json"\n'
    for name, content in (("dev.tsv", "spam\tgood\n"), ("train.tsv", "0\tbad\n1\tgood\n")):
        (place / name).write_text(content, encoding="utf-8")
    (place / "task.toml").write_text(TASK.replace("dev.npz", "dev.tsv") + table, encoding="utf-8")


def bad_metric(place: Path) -> None:
    (place / "metric.py").write_text("raise OSError('no')", encoding="utf-8")
    (place / "task.toml").write_text(TASK.replace('"accuracy"', '"metric.py:score"'), encoding="utf-8")


def bad_fetch(place: Path) -> None:
    (place / "get.py").write_text("def make(folder):\n    raise OSError('no network')\n", encoding="utf-8")
    (place / "task.toml").write_text(TASK + '[fetch]\npython = "get.py:make"\nfolder = "data"\n', encoding="utf-8")


def busy(place: Path) -> None:
    (place / "busy").mkdir()
    (place / "busy" / "mine.txt").touch()


def journal(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "journal.log").write_text('{"op_code": 0\nnonsense\n', encoding="utf-8")


def other_search(place: Path) -> None:
    from compiler.explore.space import Space
    from compiler.tools.exploring.ledger import Ledger
    from compiler.tools.exploring.options import ExploreOptions
    from compiler.tools.exploring.run import Exploring

    options = ExploreOptions("model.onnx", "task.toml", 1.0, 0.5, output="out", shapes={"input_ids": (1, TOKENS)})
    identity = Exploring(options)._identity() | {"method": "second-order"}  # pyright: ignore[reportPrivateUsage]
    (place / "out").mkdir()
    Ledger(place / "out", Space({}), identity, {}, "search", "tpe", 0)


def board(place: Path) -> None:
    shutil.copyfile(ROOT / "examples" / "my-board.toml", place / "board.toml")


CASES: dict[str, tuple[Change | None, tuple[str, ...]]] = {
    "no task given": (None, ("--max-latency", "1ms", "--min-accuracy", "0.5")),
    "missing task": (None, (*USUAL, "--task", "nowhere.toml")),
    "no time": (None, (*USUAL, "--max-latency", "soon")),
    "no objective": (None, (*USUAL, "--objective", "best")),
    "no budget": (None, (*USUAL, "--budget", "0")),
    "cost without a class": (None, (*USUAL, "--cost", "fpga-kv260")),
    "other method": (other_search, (*USUAL, "-o", "out")),
    "dead cluster": (None, (*USUAL, "--dask", "tcp://127.0.0.1:9")),
    "no such targets": (None, (*USUAL, "--targets", "xpu-*")),
    "targets that are not timed": (None, (*USUAL, "--targets", "gpu-*")),
    "no such patterns": (None, (*USUAL, "--patterns", "np")),
    "board without a cost": (board, (*USUAL, "--targets", "board.toml")),
    "too few steps": (None, (*USUAL, "--train-steps", "3")),
    "nothing to train on": (None, (*USUAL, "--train-steps", "10")),
    "no torch": (task('dev = "dev.npz"', 'train = "dev.npz"\ndev = "dev.npz"'), (*USUAL, "--train-steps", "10")),
    "a target that is not timed": (None, (*USUAL, "--targets", "gpu-sm80")),
    "task is no TOML": (text("task.toml", "name = "), USUAL),
    "unknown key": (task("metric", "metrik"), USUAL),
    "unknown metric": (task('"accuracy"', '"acuracy"'), USUAL),
    "missing samples": (lambda place: (place / "dev.npz").unlink(), USUAL),
    "label of no class": (label_of_no_class, USUAL),
    "too few labels": (few_labels, USUAL),
    "no labels": (without_labels, USUAL),
    "entry point fails to load": (bad_metric, USUAL),
    "fetching fails": (bad_fetch, USUAL),
    "damaged journal": (journal, (*USUAL, "-o", "out")),
    "busy folder": (busy, (*USUAL, "-o", "busy")),
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    write(SMALL, folder / "model.onnx", 4, TOKENS, symbolic=True)
    labels = np.arange(8) % 2
    np.savez(folder / "dev.npz", **feeds(SMALL, 8, TOKENS), labels=labels)  # pyright: ignore[reportArgumentType]
    (folder / "task.toml").write_text(TASK, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", CASES)
def test_the_line(name: str, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in shelf.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    change, arguments = CASES[name]
    if change is not None:
        change(tmp_path)
    before = {path.name for path in tmp_path.rglob("*")} - {"__pycache__"}
    targets = () if "--targets" in arguments else ("--targets", "fpga-kv260")
    done, (status, line) = call(main, "model.onnx", *arguments, *targets), GOLDEN[f"explore: {name}"]
    assert matches(done.line.replace(str(tmp_path), "TMP"), line), f"\n  got  {done.line}\n  want {line}"
    assert (done.status, done.out) == (status, "")
    left = {path.name for path in tmp_path.rglob("*")} - {"__pycache__"}
    assert {name for name in left if not name.endswith(".pyc")} == before
