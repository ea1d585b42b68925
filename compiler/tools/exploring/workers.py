"""Where evaluations run: in this process, on local worker processes, or on a Dask cluster. The results are the same: each
evaluation has one thread for its products wherever it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hw_targets.errors import HpccError, MissingToolError, UsageError

WAIT = "5s"
"""For an answer of a cluster's scheduler."""
LOCAL: dict[str, Any] = {"threads_per_worker": 1, "processes": True, "dashboard_address": None}
"""Local workers: processes of one thread, nothing served."""
LOST = 3
"""Workers that an evaluation may lose before it counts as one that kills them."""


@dataclass(frozen=True)
class Outcome:
    """What a call gave: a value, or one line on why there is none."""

    value: Any = None
    error: str = ""


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
    def map(self, function: Callable[..., Any], calls: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Outcome]]:
        """(number of the call, outcome) as they finish."""
        ...


class InProcess:
    """One evaluation after the other."""

    def map(self, function: Callable[..., Any], calls: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Outcome]]:
        for number, arguments in enumerate(calls):
            yield number, attempt(function, arguments)


class OnDask:
    """Dask's workers; what a lost one had is run again on another."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def map(self, function: Callable[..., Any], calls: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Outcome]]:
        from distributed import KilledWorker, as_completed  # pyright: ignore[reportMissingImports]

        futures = {self.client.submit(attempt, function, call, pure=False): n for n, call in enumerate(calls)}
        try:
            for future in as_completed(futures):
                try:
                    yield futures[future], future.result()
                except KilledWorker:
                    yield futures[future], Outcome(error=f"{LOST} workers died of it, one after the other")
        finally:
            self.client.cancel(list(futures))


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
    with dask_config.set({"distributed.scheduler.allowed-failures": LOST}):
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
