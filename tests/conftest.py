"""Fixtures for the real models; a test that wants one is skipped, with the reason, only where it cannot be had."""

from __future__ import annotations

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
