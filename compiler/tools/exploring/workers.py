"""Where evaluations run: in this process, on local worker processes, or on a Dask cluster. The results are the same: each
evaluation has one thread for its products wherever it runs."""

from __future__ import annotations

import logging
from collections import deque
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
LOCAL_CONFIG = {
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 256 << 20,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 << 20,
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.memory.monitor-interval": "2s",
}
"""Dask gives freed memory back above 64 KiB, so that every array of an evaluation is paged in anew: 1.6 times the time of
a process of its own. Local workers keep theirs, as large as glibc allows. Nobody reads their profile, and that Dask watches
itself 50 times a second costs a twentieth of two cores. A busy worker is given no second call: one may be free before."""
PARTS = 2
"""Of one thing, for each worker."""
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
        """(number of the call, outcome) as they finish. Calls may be added meanwhile, at the end."""
        ...


class InProcess:
    """One evaluation after the other."""

    width = 1

    def map(self, function: Callable[..., Any], calls: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Outcome]]:
        waiting, known = deque(range(len(calls))), len(calls)
        while waiting:
            number = waiting.popleft()
            yield number, attempt(function, calls[number])
            waiting.extendleft(reversed(range(known, len(calls))))  # what follows from a call comes right after it
            known = len(calls)


class OnDask:
    """Dask's workers; what a lost one had is run again on another."""

    def __init__(self, client: Any) -> None:
        self.client = client

    @property
    def width(self) -> int:
        return max(len(self.client.scheduler_info(n_workers=-1)["workers"]), 1)

    def map(self, function: Callable[..., Any], calls: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Outcome]]:
        from distributed import KilledWorker, as_completed  # pyright: ignore[reportMissingImports]

        futures: dict[Any, int] = {}
        running = as_completed()

        def submit_new() -> None:
            for number in range(len(futures), len(calls)):
                future = self.client.submit(attempt, function, calls[number], pure=False)
                futures[future] = number
                running.add(future)

        submit_new()
        try:
            for future in running:
                try:
                    yield futures[future], future.result()
                except KilledWorker:
                    yield futures[future], Outcome(error=f"{LOST} workers died of it, one after the other", lost=True)
                submit_new()
        finally:
            self.client.cancel(list(futures))


def parts_of(count: int, batch: int, parts: int) -> list[tuple[int, int]]:
    """(first, last) of at most so many parts of `count` rows, of whole batches: a batch is made of the same rows whatever
    the parts."""
    size = -(-count // parts // batch) * batch
    return [(first, min(first + size, count)) for first in range(0, count, max(size, 1))]


def cut_for(executor: Executor) -> int:
    """The parts that rows are cut into: more than one for each worker, so that none waits long for the last."""
    return 1 if executor.width == 1 else PARTS * executor.width


def in_parts(
    executor: Executor, function: Callable[..., Array], arguments: Sequence[Any], count: int, batch: int, what: str
) -> Array:
    """function(*arguments, first, last) for `count` rows, as many side by side as there are workers; failures as in
    `side_by_side`."""
    calls = [(function, *arguments, *rows) for rows in parts_of(count, batch, executor.width)]
    return np.concatenate(side_by_side(executor, what, calls))


def side_by_side(executor: Executor, what: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
    """What each call (function, *arguments) gives; it runs where evaluations do, for what they remember is there. One that
    fails is made again here, where its error is seen. Raises InputError that begins with `what` if one kills its workers."""
    found: dict[int, Any] = {}
    for number, outcome in executor.map(called, calls):
        if outcome.lost:
            raise InputError("HPCC1588", f"{what}: {outcome.error}")
        found[number] = on_one_thread(called, *calls[number]) if outcome.error else outcome.value
    return [found[number] for number in range(len(calls))]


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """For a map of different functions."""
    return function(*arguments)


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
    with dask_config.set({**LOCAL_CONFIG, "distributed.scheduler.allowed-failures": LOST}):
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
