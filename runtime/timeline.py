"""A timing cut into few pieces, for a picture: for each queue and piece of time, how busy it was and with which layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hw_targets.isa import Queue
from runtime.simulator.timing import Timing

PIECES = 480
"""Pieces that a picture as wide as a page can show."""
LEVELS = 8
"""Steps in which a share of busy cycles is told: neighbours of one layer and level become one stretch."""


@dataclass(frozen=True)
class Stretch:
    """From `start` to `end` (cycles) a queue was busy for `level` / LEVELS of the time, mostly with `layer`."""

    start: int
    end: int
    level: int
    layer: str


def stretches(timing: Timing, layers: Sequence[str], pieces: int = PIECES) -> Mapping[Queue, tuple[Stretch, ...]]:
    """The stretches of every queue that computes or moves data; `layers` names the layer of every node number."""
    total = max(timing.total, 1)
    edges = np.unique(np.linspace(0, total, pieces + 1).astype(np.int64))
    numbers = {layer: number for number, layer in enumerate(dict.fromkeys((*layers, "")))}
    names = tuple(numbers)
    result: dict[Queue, tuple[Stretch, ...]] = {}
    for queue in (Queue.LOAD, Queue.MATRIX, Queue.VECTOR, Queue.STORE):
        events = [event for event in timing.events if event.queue is queue and event.end > event.start]
        spans = np.array([(event.start, event.end) for event in events], np.int64).reshape(-1, 2)
        owners = np.array([numbers[layers[event.node] if event.node < len(layers) else ""] for event in events], np.int64)
        result[queue] = _merge(edges, _busy(edges, spans, owners, len(names)), names)
    return result


def _busy(edges: NDArray[np.int64], spans: NDArray[np.int64], owners: NDArray[np.int64], layers: int) -> NDArray[np.int64]:
    """Busy cycles of [piece, layer]: every span is dealt out to the pieces that it touches."""
    busy = np.zeros((len(edges) - 1, layers), np.int64)
    if not len(spans):
        return busy
    first = np.searchsorted(edges, spans[:, 0], "right") - 1
    last = np.searchsorted(edges, spans[:, 1], "left")
    counts = last - first
    which = np.repeat(np.arange(len(spans)), counts)
    piece = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts) + first[which]
    inside = np.minimum(spans[which, 1], edges[piece + 1]) - np.maximum(spans[which, 0], edges[piece])
    np.add.at(busy, (piece, owners[which]), inside)
    return busy


def _merge(edges: NDArray[np.int64], busy: NDArray[np.int64], names: Sequence[str]) -> tuple[Stretch, ...]:
    shares = busy.sum(axis=1) / np.diff(edges)
    levels = np.where(shares > 0, np.clip(np.rint(shares * LEVELS), 1, LEVELS), 0).astype(np.int64)
    owners = busy.argmax(axis=1)
    changes = np.flatnonzero((np.diff(levels) != 0) | (np.diff(owners) != 0)) + 1
    starts = np.concatenate([[0], changes])
    ends = np.concatenate([changes, [len(levels)]])
    return tuple(
        Stretch(int(edges[start]), int(edges[end]), int(levels[start]), names[int(owners[start])])
        for start, end in zip(starts, ends, strict=True)
        if levels[start]
    )
