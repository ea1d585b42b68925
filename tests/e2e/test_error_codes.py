"""Errors that no plain command line reaches: what raises them, called as the commands call it, and their golden lines."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hw_targets.errors import HpccError
from tests.e2e import (
    error_cases_buckets,
    error_cases_compiler,
    error_cases_exploring,
    error_cases_export,
    error_cases_gpu,
    error_cases_interop,
    error_cases_machine,
    error_cases_programs,
    error_cases_training,
    error_cases_workloads,
)
from tests.e2e.golden_errors import GOLDEN, matches
from tests.e2e.harness import Done, hpcc
from tests.graphs import Encoder, write

PARTS = (
    error_cases_gpu,
    error_cases_programs,
    error_cases_compiler,
    error_cases_export,
    error_cases_buckets,
    error_cases_interop,
    error_cases_machine,
    error_cases_training,
    error_cases_workloads,
    error_cases_exploring,
)
CASES = {name: case for part in PARTS for name, case in part.CASES.items()}
SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50)


@pytest.fixture(scope="module")
def cpu_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cpu")
    model = write(SMALL, folder / "model.onnx", 2, 7)
    done = hpcc(model, "--target", "cpu-host", "-q", "-o", folder / "cpu.hpcc")
    assert (done.status, done.err) == (0, "")
    return folder / "cpu.hpcc"


@pytest.fixture(scope="module")
def gpu_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    model = write(SMALL, folder / "model.onnx", 2, 7)
    done = hpcc(model, "--target", "gpu-sm90", "--emit", "program", "-q", "-o", folder / "gpu.hpcc")
    assert (done.status, done.err) == (0, "")
    return folder / "gpu.hpcc"


@pytest.mark.parametrize("name", CASES)
def test_the_line(name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.startswith("cpu:"):
        shutil.copytree(request.getfixturevalue("cpu_bundle"), tmp_path / "cpu.hpcc")
    if name.startswith("gpu:"):
        shutil.copytree(request.getfixturevalue("gpu_bundle"), tmp_path / "gpu.hpcc")
    monkeypatch.chdir(tmp_path)
    status, line = GOLDEN[name]
    try:
        done = CASES[name](tmp_path, monkeypatch)
    except HpccError as error:
        done = Done(error.exit_status, "", f"{error}\n")
    finally:
        monkeypatch.undo()
    assert isinstance(done, Done), "no error"
    assert matches(done.line.replace(str(tmp_path), "TMP"), line), f"\n  got  {done.line}\n  want {line}"
    assert done.status == status
