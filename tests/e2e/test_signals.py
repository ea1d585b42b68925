"""Ctrl-C at any moment of the commands that write models: the older file or the new one, whole, and nothing beside it."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest

from benchmarks import workloads
from compiler.tools import hpcc_prune
from tests.e2e.harness import ROOT, call, digests
from tests.graphs import Encoder, write
from tests.small_task import small_task

SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50)
AT = """
import importlib, os, signal, sys, threading, time
main = importlib.import_module(sys.argv[2]).main
if float(sys.argv[1]):
    timer = threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
start = time.monotonic()
status = main(sys.argv[3:])
print("seconds", time.monotonic() - start)
sys.stdout.flush()
os._exit(status)
"""
PRUNE = ("compiler.tools.hpcc_prune", "model.onnx", "-q", "-o", "out.onnx", "--pattern", "nm:2:4")
COMMANDS: dict[str, tuple[str, ...]] = {
    "prune": (*PRUNE, "--calibrate", "train.npz"),
    "train": (*PRUNE, "--train", "train.npz", "--steps", "30", "--batch", "8", "--threads", "1", "--resume", "kept"),
    "export": ("compiler.tools.hpcc_export", "folder", "-o", "out.onnx"),
    "explore": (
        *("compiler.tools.hpcc_explore", "model.onnx", "--task", "task.toml", "--max-latency", "1ms", "-q", "-o", "kept"),
        *("--min-accuracy", "0.3", "--targets", "fpga-kv260", "--patterns", "nm:2:4,hp:0.75"),
    ),
}
KEPT = "kept"
"""The folder of what goes on from where it was interrupted."""
MOMENTS = (0.02, 0.2, 0.5, 0.7, 0.9, 0.97, 1.0)
"""Shares of the time that the whole run takes."""


def test_a_model_and_its_data_are_one_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C as each of its files gets its name."""
    monkeypatch.chdir(tmp_path)
    write(SMALL, tmp_path / "inline.onnx", 2, 7)
    onnx.save(onnx.load("inline.onnx"), "model.onnx", save_as_external_data=True, location="model.data")
    rename = os.replace
    seen: list[bytes] = []

    def prune(pattern: str) -> int:
        return call(hpcc_prune.main, "model.onnx", "--pattern", pattern, "-q", "-o", "pruned.onnx").status

    def whole() -> bytes:
        return onnx.load("pruned.onnx").SerializeToString(deterministic=True)

    def interrupted(source: Any, target: Any) -> None:
        seen.append(whole())
        os.kill(os.getpid(), signal.SIGINT)
        rename(source, target)

    assert prune("nm:1:4") == 0
    old = whole()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        assert prune("nm:2:4") == 130
    assert seen == [old, old], "first the data, then the model"
    new = whole()
    assert prune("nm:2:4") == 0
    assert whole() == new != old
    assert len(list(tmp_path.glob("pruned*"))) == 2, "the older data is gone"
    assert not list(tmp_path.glob(".*"))


def run_until(folder: Path, seconds: float, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in another process, with a SIGINT after so many seconds (0: none)."""
    torch = command[0] in ("compiler.tools.hpcc_export", "tests.e2e.small_folder")
    return subprocess.run(
        [workloads.torch_python() if torch else sys.executable, "-c", AT, str(seconds), *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def fill(folder: Path, name: str) -> None:
    """What the command reads, and an older output."""
    if name == "export":
        done = run_until(folder, 0, "tests.e2e.small_folder", "folder")
        assert done.returncode == 0, done.stderr
    else:
        small_task(folder)
    (folder / "out.onnx").write_bytes(b"older")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[float, Mapping[str, str]]]:
    """By command: the seconds that it takes when nobody interrupts it, and what it writes."""

    @functools.cache
    def run(name: str) -> tuple[float, Mapping[str, str]]:
        folder = tmp_path_factory.mktemp(name)
        fill(folder, name)
        done = run_until(folder, 0, *COMMANDS[name])
        assert done.returncode == 0, done.stderr
        return float(done.stdout.split()[-1]), results(folder)

    return run


def results(folder: Path) -> Mapping[str, str]:
    """What has to be the same however often a run was interrupted: a model, the bundle that a search has found."""
    found = digests(folder, without=("run.json", "report.html"))
    return {name: value for name, value in found.items() if name == "out.onnx" or name.startswith(f"{KEPT}/winner")}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_at_any_moment(name: str, moment: float, uninterrupted: Any, tmp_path: Path) -> None:
    if name == "train":
        pytest.importorskip("torch", reason="needs the extra train")
    if name == "export":
        workloads.torch_python()
    seconds, wanted = uninterrupted(name)
    fill(tmp_path, name)
    before = digests(tmp_path)
    done = run_until(tmp_path, moment * seconds, *COMMANDS[name])
    assert done.returncode in (0, 130), done.stderr
    assert "Traceback" not in done.stderr
    if results(tmp_path) != wanted:
        assert done.returncode == 130
        after = {path: value for path, value in digests(tmp_path).items() if not path.startswith(f"{KEPT}/")}
        assert after == before
    assert not list(tmp_path.glob(".*")), "what was under way is gone"
    again = run_until(tmp_path, 0, *COMMANDS[name])
    assert again.returncode == 0, again.stderr
    assert results(tmp_path) == wanted
