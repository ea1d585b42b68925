"""Where evaluations run: in this process, on local worker processes, or on a Dask cluster. The results are the same: each
evaluation has one thread for its products wherever it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hw_targets.errors import HpccError, InputError, MissingToolError, UsageError

Array = NDArray[Any]
WAIT = "5s"
"""For an answer of a cluster's scheduler."""
LOCAL: dict[str, Any] = {"threads_per_worker": 1, "processes": True, "dashboard_address": None}
"""Local workers: processes of one thread, nothing served."""
KEEP_MEMORY = {
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 256 << 20,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 << 20,
    "distributed.worker.profile.enabled": False,
}
"""Dask gives freed memory back above 64 KiB, so that every array of an evaluation is paged in anew: 1.6 times the time of
a process of its own. Local workers keep theirs, as large as glibc allows, and nobody reads their profile."""
LOST = 3
"""Workers that an evaluation may lose before it counts as one that kills them."""


@dataclass(frozen=True)
class Outcome:
    """What a call gave: a value, or one line on why there is none; `lost` if its workers died."""

    value: Any = None
    error: str = ""
    lost: bool = False


def told(outcome: Outcome, folder: Path) -> str:
    """What went wrong, in the same words in whatever folder."""
    return outcome.error.replace(f"{folder}/", "").removeprefix("error: ")


def attempt(function: Callable[..., Any], arguments: Sequence[Any]) -> Outcome:
    """Call on one thread; whatever goes wrong is an outcome, not the end of the search."""
    try:
        return Outcome(on_one_thread(function, *arguments))
    except HpccError as error:
        return Outcome(error=str(error))
    except Exception as error:  # an evaluation may die of anything
        lines = str(error).strip().splitlines() or ["no message"]
        return Outcome(error=f"{type(error).__name__}: {lines[0]}")


def on_one_thread(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call with one thread for products of matrices: sums depend on how many share them."""
    from threadpoolctl import threadpool_limits  # pyright: ignore[reportMissingImports]

    with threadpool_limits(1):
        return function(*arguments, **named)


class Executor(Protocol):
    @property
    def width(self) -> int:
        """How many evaluations run side by side."""
        ...

    def map(self, function: Callable[..., Any], calls: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Outcome]]:
        """(number of the call, outcome) as they finish."""
        ...


class InProcess:
    """One evaluation after the other."""

    width = 1

    def map(self, function: Callable[..., Any], calls: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Outcome]]:
        for number, arguments in enumerate(calls):
            yield number, attempt(function, arguments)


class OnDask:
    """Dask's workers; what a lost one had is run again on another."""

    def __init__(self, client: Any) -> None:
        self.client = client

    @property
    def width(self) -> int:
        return max(len(self.client.scheduler_info(n_workers=-1)["workers"]), 1)

    def map(self, function: Callable[..., Any], calls: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Outcome]]:
        from distributed import KilledWorker, as_completed  # pyright: ignore[reportMissingImports]

        futures = {self.client.submit(attempt, function, call, pure=False): n for n, call in enumerate(calls)}
        try:
            for future in as_completed(futures):
                try:
                    yield futures[future], future.result()
                except KilledWorker:
                    yield futures[future], Outcome(error=f"{LOST} workers died of it, one after the other", lost=True)
        finally:
            self.client.cancel(list(futures))


def in_shares(
    executor: Executor, function: Callable[..., Array], arguments: Sequence[Any], count: int, batch: int, what: str
) -> Array:
    """function(*arguments, first, last) for `count` rows, in as many parts of whole batches as there are workers. What fails
    there is done again here, where its error is seen. Raises InputError for `what` killed its workers."""
    size = -(-count // executor.width)
    size = max(-(-size // batch) * batch, 1)
    calls = [(*arguments, first, min(first + size, count)) for first in range(0, count, size)]
    if len(calls) == 1:
        return on_one_thread(function, *calls[0])
    parts: dict[int, Array] = {}
    for number, outcome in executor.map(function, calls):
        if outcome.lost:
            raise InputError("HPCC1588", f"{what} cannot be measured: {outcome.error}")
        parts[number] = on_one_thread(function, *calls[number]) if outcome.error else outcome.value
    return np.concatenate([parts[number] for number in range(len(calls))])


def elsewhere(executor: Executor, function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments) where evaluations run, for what they remember is there. What fails there is done again here."""
    for _, outcome in executor.map(function, [arguments]):
        if not outcome.error:
            return outcome.value
    return on_one_thread(function, *arguments)


@contextmanager
def workers(count: int, address: str | None) -> Iterator[Executor]:
    """The executor that --workers and --dask ask for. Raises MissingToolError, UsageError."""
    if address is None and count == 1:
        yield InProcess()
        return
    try:
        from dask import config as dask_config  # pyright: ignore[reportMissingImports]
        from distributed import Client, LocalCluster  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        message = "--dask and more than one worker need dask"
        raise MissingToolError("HPCC5131", message, hint="pip install 'hpcc[explore]'") from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters comes as an outcome
    with dask_config.set({**KEEP_MEMORY, "distributed.scheduler.allowed-failures": LOST}):
        if address is not None:
            try:
                client = Client(address, timeout=WAIT)
            except (OSError, ValueError, TimeoutError) as error:
                message = f"no Dask scheduler answers at {address}"
                raise UsageError(
                    "HPCC2287", message, hint="dask scheduler prints its address, as tcp://host:8786"
                ) from error
            with client:
                yield OnDask(client)
            return
        with (
            LocalCluster(**LOCAL, n_workers=count) as cluster,
            Client(cluster) as client,
        ):
            yield OnDask(client)
