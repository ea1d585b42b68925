"""Evaluations in parts: who runs them, in which order they come back, and what happens to a part that fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.tools.exploring import models
from compiler.tools.exploring.workers import Executor, InProcess, Outcome, cut_for, in_parts, parts_of, side_by_side, workers
from hw_targets.errors import InputError
from tests.executors import Backwards


def rows(scale: int, first: int, last: int) -> NDArray[np.int64]:
    return scale * np.arange(first, last)


@pytest.mark.parametrize(
    ("count", "batch", "sizes"),
    [(96, 32, [32] * 3), (300, 32, [96, 96, 96, 12]), (7, 1, [2, 2, 2, 1]), (5, 8, [5]), (0, 8, [])],
)
def test_parts_are_whole_batches_in_order(count: int, batch: int, sizes: list[int]) -> None:
    """So every batch is made of the same samples, however many workers there are."""
    parts = parts_of(count, batch, cut_for(Backwards()))
    assert [last - first for first, last in parts] == sizes
    assert [row for first, last in parts for row in range(first, last)] == list(range(count))
    for executor in (InProcess(), Backwards()) if count else ():
        found = in_parts(executor, rows, (10,), count, batch, "it cannot")
        assert found.tolist() == [10 * n for n in range(count)]


def test_a_part_that_fails_is_done_here_where_its_error_is_seen() -> None:
    executor = Backwards({1: Outcome(error="no file there")})
    assert in_parts(executor, rows, (1,), 9, 1, "it cannot").tolist() == list(range(9))

    def refuse(first: int, last: int) -> NDArray[np.int64]:
        raise InputError("HPCC1576", "no such output")

    with pytest.raises(InputError, match="no such output") as raised:
        in_parts(Backwards(), refuse, (), 9, 1, "it cannot")
    assert raised.value.code == "HPCC1576"


def test_what_kills_its_workers_is_not_tried_here() -> None:
    executor = Backwards({1: Outcome(error="3 workers died of it", lost=True)})
    with pytest.raises(InputError, match="the test set cannot be measured: 3 workers died of it"):
        in_parts(executor, rows, (1,), 9, 1, "the test set cannot be measured")


def test_different_calls_stand_side_by_side_in_their_order() -> None:
    calls = [(rows, 2, 1, 3), (max, 4, 7, 5)]
    for executor in (InProcess(), Backwards(), Backwards({0: Outcome(error="gone")})):
        first, second = side_by_side(executor, "it cannot be done", calls)
        assert (first.tolist(), second) == ([2, 4], 7)
    with pytest.raises(InputError, match="it cannot be done: 3 workers died of it"):
        side_by_side(Backwards({1: Outcome(error="3 workers died of it", lost=True)}), "it cannot be done", calls)


@pytest.mark.parametrize("executor", [InProcess(), Backwards()])
def test_calls_that_are_added_meanwhile_are_made_too(executor: Executor) -> None:
    """Here right after the call from which they follow, so that what that one has opened is still at hand."""
    calls: list[tuple[int, int, int]] = [(1, 0, 1), (1, 10, 11)]
    seen: list[int] = []
    for number, outcome in executor.map(rows, calls):
        seen.append(int(outcome.value[0]))
        if number == 0:
            calls += [(1, 1, 2), (1, 2, 3)]
    assert sorted(seen) == [0, 1, 2, 10]
    assert isinstance(executor, Backwards) or seen == [0, 1, 2, 10]


def test_a_search_traces_a_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(models, "trace", lambda path, *_: asked.append(path) or {})
    models._traced.cache_clear()  # pyright: ignore[reportPrivateUsage]
    shapes, wanted = {"input_ids": (1, 8)}, {"layer.0.attn.q": (4, 4)}
    for name in ("a.onnx", "a.onnx", "b.onnx"):
        models.remembered_trace(Path(name), shapes, wanted)
    models.remembered_trace(Path("b.onnx"), {"input_ids": (2, 8)}, wanted)
    models._traced.cache_clear()  # pyright: ignore[reportPrivateUsage]
    assert asked == [Path("a.onnx"), Path("b.onnx"), Path("b.onnx")]


def memory_settings() -> dict[str, str | None]:
    """Of the worker that runs it."""
    import os

    return {name: os.environ.get(name) for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")}


@pytest.mark.slow
def test_local_workers_keep_their_memory() -> None:
    """Dask's own setting, 64 KiB, makes an evaluation take 1.6 times as long."""
    with workers(2, None) as executor:
        assert executor.width == 2
        found = [outcome.value for _, outcome in executor.map(memory_settings, [(), ()])]
    assert found == [{"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}] * 2
