"""hpcc-prune --train as a user runs it: a file with hard zeros that hpcc picks up; killed or interrupted, then resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from compiler.tools.hpcc_prune import main
from tests.e2e.harness import ROOT, call, hpcc
from tests.e2e.test_train_errors import MODEL, PATTERN, SMALL, TOKENS, with_logits
from tests.graphs import feeds

pytest.importorskip("torch", reason="training needs torch (pip install 'hpcc[train]')")
pytestmark = pytest.mark.slow
ON = ("--train", "good.npz", "--logits", "logits", "--batch", "4", "--threads", "1")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with_logits(tmp_path / "model.onnx")
    np.savez(tmp_path / "good.npz", **feeds(SMALL, 16, TOKENS), labels=np.arange(16) % 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}


def test_a_trained_file_has_its_zeros_says_so_and_is_compiled(place: Path) -> None:
    done = call(main, *MODEL, *PATTERN, *ON, "--steps", "10", "--dev", "good.npz")
    assert (done.status, done.err) == (0, "")
    assert "2:4 (keeps 2 of 4, 50 % zeros) in 6 matrices" in done.out
    assert "dev        accuracy" in done.out
    said = metadata(place / "out.onnx")
    assert said["hpcc.sparsity"] == "nm:2:4"
    assert json.loads(said["hpcc.sparsity.layers"])["layer.0.ffn.up"] == "nm:2:4"
    assert json.loads(said["hpcc.pruning.history"])[-1]["methods"] == ["SR-STE"]
    compiled = hpcc("out.onnx", "--target", "fpga-u280", "--shape", "input_ids:4x8", "-o", "out.hpcc")
    assert compiled.status == 0, compiled.err
    report = json.loads((place / "out.hpcc" / "report.json").read_text())
    assert {layer["pattern"] for layer in report["layers"] if layer["name"] == "layer.0.ffn.up"} == {"nm:2:4"}


def test_a_scope_leaves_the_rest_dense_and_history_grows(place: Path) -> None:
    assert call(main, "model.onnx", *PATTERN, "-o", "first.onnx").status == 0
    done = call(main, "first.onnx", "-o", "out.onnx", *PATTERN, *ON, "--steps", "10", "--scope", "layer.0.ffn.*", "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["rungs"][0]["layers"] == ["layer.0.ffn.up", "layer.0.ffn.down"]
    history = json.loads(metadata(place / "out.onnx")["hpcc.pruning.history"])
    assert [entry["methods"] for entry in history] == [["magnitude"], ["SR-STE"]]
    assert json.loads(metadata(place / "out.onnx")["hpcc.sparsity.layers"])["layer.0.attn.q"] == "dense"


def test_a_ladder_writes_a_file_for_each_rung(place: Path) -> None:
    done = call(main, *MODEL, "--ladder", "4:8,2:8", *ON, "--steps", "20")
    assert done.status == 0, done.err
    assert metadata(place / "out.rung1.onnx")["hpcc.sparsity"] == "nm:4:8"
    assert metadata(place / "out.onnx")["hpcc.sparsity"] == "nm:2:8"


def test_an_older_output_stays_when_a_run_fails(place: Path) -> None:
    (place / "out.onnx").write_bytes(b"older")
    done = call(main, *MODEL, *PATTERN, *ON, "--steps", "10", "--rate", "1e30")
    assert done.status == 1
    assert done.line.endswith(("[HPCC1554]", "[HPCC1802]"))
    assert (place / "out.onnx").read_bytes() == b"older"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_and_resumed_writes_the_same_file(place: Path, sign: signal.Signals) -> None:
    command = (*MODEL[:1], *PATTERN, *ON, "--steps", "400", "--rate", "1e-3")
    assert call(main, *command, "-o", "whole.onnx", "--resume", "whole").status == 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    words = [sys.executable, "-m", "compiler.tools.hpcc_prune", *command, "-o", "out.onnx", "--resume", "run"]
    process = subprocess.Popen(words, cwd=place, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 120
    while not (place / "run" / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(sign)
    _, err = process.communicate(timeout=60)
    if sign == signal.SIGINT:
        assert (process.returncode, err) == (130, "interrupted\n")
    assert not (place / "out.onnx").exists()
    assert call(main, *command, "-o", "out.onnx", "--resume", "run").status == 0
    assert (place / "out.onnx").read_bytes() == (place / "whole.onnx").read_bytes()
