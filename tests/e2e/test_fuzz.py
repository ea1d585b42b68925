"""A fixed share of `make fuzz`: the same judge, some cases of every kind, and what was once found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.fuzz import cases, corpus
from tests.fuzz.__main__ import attempt

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cases run in forked processes with limits")

EACH = 6
FIRST = 7000


FAST = ("targets", "arrays", "programs")


@pytest.fixture(scope="module")
def whole_shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    corpus.build(folder)
    return folder


@pytest.fixture(scope="module")
def small_shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    corpus.build(folder, everything=False)
    return folder


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k in FAST else pytest.mark.slow) for k in cases.KINDS])
def test_damaged_files(kind: str, request: pytest.FixtureRequest) -> None:
    shelf: Path = request.getfixturevalue("small_shelf" if kind in FAST else "whole_shelf")
    for number in range(FIRST, FIRST + EACH):
        outcome = attempt(kind, number, shelf, None)
        assert outcome.problems == (), f"python -m tests.fuzz --case {outcome.case.name}\n{outcome.err}"
