"""The bytes of one memory while a schedule is made: which are free, and whether what is left to do will find enough.

Plain Python and numpy: it knows nothing of tasks or buffers.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np


class Room:
    """`size` bytes, taken and given back in runs. `free` are those that nobody has."""

    def __init__(self, size: int) -> None:
        self.free = size
        self._starts = [0] if size > 0 else []
        self._stops = [size] if size > 0 else []

    def take(self, size: int, *, high: bool = False) -> int | None:
        """The address of `size` bytes in a row, in the smallest hole that has them; None where none has.

        What lasts is taken from the `high` end, what comes and goes from the low one, so that neither cuts up the other.
        """
        best: tuple[int, int, int] | None = None
        for hole, (start, stop) in enumerate(zip(self._starts, self._stops, strict=True)):
            if stop - start >= size:
                fit = (stop - start, -start if high else start, hole)
                best = fit if best is None or fit < best else best
        if best is None:
            return None
        hole = best[2]
        start, stop = self._starts[hole], self._stops[hole]
        address = stop - size if high else start
        if stop - start == size:
            del self._starts[hole], self._stops[hole]
        elif high:
            self._stops[hole] = address
        else:
            self._starts[hole] = start + size
        self.free -= size
        return address

    def take_at(self, address: int, size: int) -> int | None:
        """`size` bytes from `address` on, if they are free, and that address."""
        hole = bisect_right(self._starts, address) - 1
        if hole < 0 or self._stops[hole] < address + size:
            return None
        rest = [(self._starts[hole], address), (address + size, self._stops[hole])]
        rest = [(start, stop) for start, stop in rest if start < stop]
        self._starts[hole : hole + 1] = [start for start, _ in rest]
        self._stops[hole : hole + 1] = [stop for _, stop in rest]
        self.free -= size
        return address

    def give_back(self, address: int, size: int) -> None:
        """Free bytes that were taken; they join the holes beside them."""
        hole, stop = bisect_left(self._starts, address), address + size
        if hole < len(self._starts) and self._starts[hole] == stop:
            stop = self._stops[hole]
            del self._starts[hole], self._stops[hole]
        if hole and self._stops[hole - 1] == address:
            self._stops[hole - 1] = stop
        else:
            self._starts.insert(hole, address)
            self._stops.insert(hole, stop)
        self.free += size


class Foresight:
    """Whether all that is left to do would still find room if it were done one after the other, in the planned order.

    A schedule that keeps the bytes of every step left within the size always has a way to go on, as far as they count
    and not where they lie: the banker's algorithm, with the planned order as the way that stays open.
    """

    def __init__(self, size: int, steps: int) -> None:
        self.size = size
        self._left = np.zeros(steps, np.int64)
        """Bytes in use in each step, if all steps before it are complete: what is planned, and what was taken early."""

    def plan(self, first: int, last: int, size: int) -> None:
        """Bytes that are in use in the steps `first` to `last`, if all goes as planned."""
        self._left[first : last + 1] += size

    def allows(self, oldest: int, first: int, size: int) -> bool:
        """Whether the steps from `oldest` on leave `size` bytes to what was planned to begin with step `first`."""
        return first <= oldest or int(self._left[oldest:first].max()) + size <= self.size

    def take_early(self, first: int, size: int) -> None:
        """Bytes that were planned from step `first` on are in use from now on."""
        self._left[:first] += size

    def give_back(self, last: int, size: int) -> None:
        """Bytes that were planned until step `last` are free from now on."""
        self._left[: last + 1] -= size
