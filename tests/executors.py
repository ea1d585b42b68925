"""Where evaluations run in tests, without processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from compiler.tools.exploring.workers import Outcome, attempt


class Backwards:
    """Two workers of which the last call comes back first; `spoilt` calls fail, or lose their workers."""

    width = 2

    def __init__(self, spoilt: dict[int, Outcome] | None = None) -> None:
        self.spoilt = spoilt or {}

    def map(self, function: Callable[..., Any], calls: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Outcome]]:
        waiting = list(range(len(calls)))
        while waiting:
            number, known = waiting.pop(), len(calls)
            yield number, self.spoilt.get(number) or attempt(function, calls[number])
            waiting += range(known, len(calls))
