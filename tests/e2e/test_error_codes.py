"""Errors that no plain command line reaches: what raises them, called as the commands call it, and their golden lines."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from hw_targets.errors import HpccError
from tests.e2e import error_cases_programs
from tests.e2e.golden_errors import GOLDEN, matches
from tests.e2e.harness import hpcc
from tests.graphs import Encoder, write

CASES = {**error_cases_programs.CASES}
SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50)


@pytest.fixture(scope="module")
def cpu_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cpu")
    model = write(SMALL, folder / "model.onnx", 2, 7)
    done = hpcc(model, "--target", "cpu-host", "-q", "-o", folder / "cpu.hpcc")
    assert (done.status, done.err) == (0, "")
    return folder / "cpu.hpcc"


@pytest.mark.parametrize("name", CASES)
def test_the_line(name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.startswith("cpu:"):
        shutil.copytree(request.getfixturevalue("cpu_bundle"), tmp_path / "cpu.hpcc")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HpccError) as caught:
        CASES[name](tmp_path, monkeypatch)
    monkeypatch.undo()
    status, line = GOLDEN[name]
    assert matches(str(caught.value).replace(str(tmp_path), "TMP"), line), f"\n  got  {caught.value}\n  want {line}"
    assert caught.value.exit_status == status
    assert re.search(r" \[HPCC\d{4}\]$", line)
