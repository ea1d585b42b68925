"""How many threads the simulator's products of matrices take: one, set for the time of a run and set back after it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

from threadpoolctl import ThreadpoolController  # pyright: ignore[reportMissingTypeStubs]


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[object]:
    """Products are small and come between vector work: a second thread mostly spins, and where other programs want the
    cores both wait for it, at ten times the processor's time. An environment variable would have to be set before numpy
    is loaded, and would speak for the whole process."""
    return _libraries().limit(limits=1, user_api="blas")  # pyright: ignore[reportUnknownMemberType]
