"""Rolls an unrolled sequence up into loops: finds bodies that repeat with coordinates moving by constant steps.

Plain Python and numpy: an item has a key (what must be equal) and coordinates (what may move). Two levels, as in the
ISA.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LONGEST_BODY = 192
"""Items of a loop body; longer repetitions are left unrolled."""

LOOP_COST = 2
"""Instructions that a loop itself takes: LOOP and END."""


@dataclass(frozen=True)
class Item:
    """One instruction: `payload` is opaque, `coordinates` are the numbers that a loop may step."""

    key: Hashable
    coordinates: tuple[int, ...]
    payload: object


@dataclass(frozen=True)
class Loop:
    """`count` runs of `body`; `steps[k]` are what body[k]'s coordinates move by per iteration."""

    count: int
    body: tuple[Item | Loop, ...]
    steps: tuple[tuple[int, ...], ...]

    @property
    def key(self) -> Hashable:
        return ("loop", self.count, tuple(node.key for node in self.body), self.steps)

    @property
    def coordinates(self) -> tuple[int, ...]:
        return tuple(value for node in self.body for value in node.coordinates)


def roll(items: Sequence[Item], levels: int = 2) -> list[Item | Loop]:
    """Loops over `items`, at most `levels` deep, inner ones first."""
    nodes: list[Item | Loop] = list(items)
    for _ in range(levels):
        nodes = _roll_once(nodes)
    return nodes


def depth(node: Item | Loop) -> int:
    return 0 if isinstance(node, Item) else 1 + max(depth(inner) for inner in node.body)


def size(node: Item | Loop) -> int:
    """Instructions of a node as written."""
    return 1 if isinstance(node, Item) else LOOP_COST + sum(size(inner) for inner in node.body)


def _roll_once(nodes: Sequence[Item | Loop]) -> list[Item | Loop]:
    count = len(nodes)
    if count < 2:
        return list(nodes)
    numbers: dict[Hashable, int] = {}
    keys = np.array([numbers.setdefault(node.key, len(numbers)) for node in nodes])
    width = max(len(node.coordinates) for node in nodes) or 1
    table = np.zeros((count, width), np.int64)
    for row, node in enumerate(nodes):
        table[row, : len(node.coordinates)] = node.coordinates
    sizes = np.array([size(node) for node in nodes])
    runs: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
    repeats_here = np.zeros(count, np.bool_)
    for length in range(1, min(LONGEST_BODY, count // 2) + 1):
        same = _count_ahead(keys[:-length] == keys[length:])
        if (same >= length).any():
            runs[length] = same, _linear_runs(keys, table, length)
            repeats_here[: len(same)] |= same >= length
    result: list[Item | Loop] = []
    start = 0
    while start < count:
        if not repeats_here[start]:
            result.append(nodes[start])
            start += 1
            continue
        best_gain, best_length, best_count = 0, 0, 0
        for length, (same, linear) in runs.items():
            if start >= len(same) or same[start] < length:
                continue
            repeats = 1 + same[start] // length
            if repeats > 2:  # every further iteration must step like the first
                repeats = min(repeats, 2 + linear[start] // length) if start < len(linear) else 2
            gain = int((repeats - 1) * sizes[start : start + length].sum()) - LOOP_COST
            if gain > best_gain:
                best_gain, best_length, best_count = gain, length, int(repeats)
        if best_gain <= 0:
            result.append(nodes[start])
            start += 1
            continue
        body = tuple(nodes[start : start + best_length])
        steps = tuple(
            tuple(int(v) for v in table[start + k + best_length, : len(node.coordinates)] - node.coordinates)
            for k, node in enumerate(body)
        )
        result.append(Loop(best_count, body, steps))
        start += best_length * best_count
    return result


def _linear_runs(keys: NDArray[np.int64], table: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """From every position: how many items equal the item `length` later and step by the same amount twice."""
    same = keys[:-length] == keys[length:]
    candidates = np.flatnonzero(same[: max(len(same) - length, 0)] & same[length:])
    first, second, third = (table[candidates + step * length] for step in range(3))
    linear = np.zeros(max(len(same) - length, 0), np.bool_)
    linear[candidates] = (second - first == third - second).all(axis=1)
    return _count_ahead(linear)


def _count_ahead(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For every position the number of consecutive True values that start there."""
    result = np.zeros(len(flags), np.int64)
    if len(flags):
        stops = np.flatnonzero(~flags)
        nxt = np.searchsorted(stops, np.arange(len(flags)))
        ends = np.append(stops, len(flags))[nxt]
        result = ends - np.arange(len(flags))
    return result
