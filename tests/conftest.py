"""Fixtures for the real models; a test that wants one is skipped, with the reason, only where it cannot be had."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from benchmarks import workloads
from hw_targets.errors import MissingToolError


def pytest_configure() -> None:
    """A shell's background jobs ignore Ctrl-C, and so would every test of it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
def l6_export() -> Callable[..., Path]:
    """all-MiniLM-L6-v2 by exporter, head and attention, see `workloads.l6_model`; torch may be $HPCC_TORCH_PYTHON's."""
    return lambda *kind: _or_skip(partial(workloads.l6_model, *kind))


@pytest.fixture(scope="session")
def generated() -> Callable[..., Path]:
    """A random encoder of a known size by name and exporter, see `workloads.generated_model`."""
    return lambda *kind: _or_skip(partial(workloads.generated_model, *kind))


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
