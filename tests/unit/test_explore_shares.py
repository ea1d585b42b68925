"""Evaluations in parts: who runs them, in which order they come back, and what happens to a part that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.tools.exploring import models
from compiler.tools.exploring.workers import InProcess, Outcome, attempt, elsewhere, in_shares, workers
from hw_targets.errors import InputError


class Backwards:
    """Three workers that answer in the opposite order; `spoilt` calls fail, or lose their workers."""

    width = 3

    def __init__(self, spoilt: dict[int, Outcome] | None = None) -> None:
        self.spoilt = spoilt or {}
        self.sizes: list[int] = []

    def map(self, function: Callable[..., Any], calls: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Outcome]]:
        for number, call in reversed(list(enumerate(calls))):
            self.sizes.append(call[-1] - call[-2])
            yield number, self.spoilt.get(number) or attempt(function, call)


def rows(scale: int, first: int, last: int) -> NDArray[np.int64]:
    return scale * np.arange(first, last)


@pytest.mark.parametrize(
    ("count", "batch", "sizes"), [(96, 32, [32] * 3), (100, 32, [36, 64]), (7, 1, [1, 3, 3]), (5, 8, [])]
)
def test_parts_are_whole_batches_in_order(count: int, batch: int, sizes: list[int]) -> None:
    """So every batch is made of the same samples, however many workers there are."""
    executor = Backwards()
    assert in_shares(executor, rows, (10,), count, batch, "it").tolist() == [10 * n for n in range(count)]
    assert executor.sizes == sizes
    assert in_shares(InProcess(), rows, (10,), count, batch, "it").tolist() == [10 * n for n in range(count)]


def test_a_part_that_fails_is_done_here_where_its_error_is_seen() -> None:
    executor = Backwards({1: Outcome(error="no file there")})
    assert in_shares(executor, rows, (1,), 9, 1, "it").tolist() == list(range(9))

    def refuse(first: int, last: int) -> NDArray[np.int64]:
        raise InputError("HPCC1576", "no such output")

    with pytest.raises(InputError, match="no such output") as raised:
        in_shares(Backwards(), refuse, (), 9, 1, "it")
    assert raised.value.code == "HPCC1576"


def test_what_kills_its_workers_is_not_tried_here() -> None:
    executor = Backwards({2: Outcome(error="3 workers died of it", lost=True)})
    with pytest.raises(InputError, match="the test set cannot be measured: 3 workers died of it"):
        in_shares(executor, rows, (1,), 9, 1, "the test set")


def test_elsewhere_falls_back_to_here() -> None:
    assert elsewhere(InProcess(), rows, 2, 1, 3).tolist() == [2, 4]
    assert elsewhere(Backwards({0: Outcome(error="gone")}), rows, 2, 1, 3).tolist() == [2, 4]


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
