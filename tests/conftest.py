"""Fixtures for the real models; a test that wants one is skipped, with the reason, only where it cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import workloads
from hw_targets.errors import MissingToolError


def _or_skip(get: Callable[[], Path]) -> Path:
    try:
        return get()
    except MissingToolError as error:  # a wrong digest or a wrong variable is a failure, not a reason to skip
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def l3_model() -> Path:
    """paraphrase-MiniLM-L3-v2.onnx."""
    return _or_skip(workloads.l3_model)


@pytest.fixture(scope="session")
def l6_folder() -> Path:
    """The folder with all-MiniLM-L6-v2's model.safetensors, config.json and tokenizer.json."""
    return _or_skip(workloads.l6_folder)


@pytest.fixture(scope="session")
def l6_exports(l6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all-MiniLM-L6-v2 as both torch exporters write it (tests/export_l6.py), or $HPCC_L6_EXPORTS.

    Exporting needs torch and transformers, here or in the environment of the interpreter $HPCC_TORCH_PYTHON.
    """
    if made := os.environ.get("HPCC_L6_EXPORTS"):
        return Path(made)
    python = os.environ.get("HPCC_TORCH_PYTHON", sys.executable)
    probe = subprocess.run([python, "-c", "import torch, transformers, onnxscript"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("torch and transformers are not installed (pip install hpcc[train], or set HPCC_TORCH_PYTHON)")
    folder = tmp_path_factory.mktemp("l6")
    script = Path(__file__).parent / "export_l6.py"
    for attention in ("sdpa", "eager"):
        command = [python, str(script), str(l6_folder), str(folder), "--attention", attention]
        subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def tokenizer_file() -> Path:
    """tokenizer.json of the MiniLM models."""
    return _or_skip(workloads.tokenizer)


@pytest.fixture(scope="session")
def l6_int8_model() -> Path:
    """all-MiniLM-L6-v2 with int8 weights behind Cast x scale."""
    return _or_skip(workloads.l6_int8_model)


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """The demo's sentences, 8 to 100 words each."""
    text = (Path(__file__).parent.parent / "examples" / "sentences.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]
