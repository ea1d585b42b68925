"""Which rectangles of a buffer share bytes, asked again and again as a program's tasks touch them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from compiler.backends.fpga.tasks import Extent

State = TypeVar("State")


def rectangles_overlap(a: Extent, b: Extent) -> bool:
    """Whether two rectangles of one buffer share a byte. Exact for equal pitches whose rows do not wrap, else safe."""
    a_end = a[0] + (a[1] - 1) * a[3] + a[2]
    b_end = b[0] + (b[1] - 1) * b[3] + b[2]
    if a_end <= b[0] or b_end <= a[0]:
        return False
    if a[1] == 1 and b[1] == 1:
        return True
    pitch = a[3] if a[1] > 1 else b[3]
    if (a[1] > 1 and b[1] > 1 and a[3] != b[3]) or pitch == 0:
        return True
    a_col, b_col = a[0] % pitch, b[0] % pitch
    if a_col + a[2] > pitch or b_col + b[2] > pitch:
        return True
    return a_col < b_col + b[2] and b_col < a_col + a[2]


class Overlaps(Generic[State]):
    """The rectangles of one buffer that were touched, each with a state of its own."""

    def __init__(self, new: Callable[[], State]) -> None:
        self._new = new
        self._known: dict[Extent, list[State]] = {}

    def at(self, extent: Extent) -> list[State]:
        """The states of all rectangles that share bytes with this one, its own first. Rectangles are compared once."""
        found = self._known.get(extent)
        if found is None:
            found = [self._new()]
            for other, states in self._known.items():
                if rectangles_overlap(extent, other):
                    found.append(states[0])
                    states.append(found[0])
            self._known[extent] = found
        return found
