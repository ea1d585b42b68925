"""Which weight meets which input in which step of MATRIX, for one output row: what docs/ACCELERATOR.md prices, spelled out.

The number of steps is that of hw_targets/timing.py and steps.py; here every step says what its multipliers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_targets.isa import MatrixMode
from hw_targets.layout import BYTE_WINDOW, Layout, ceil_div
from hw_targets.steps import indices_of, sub_windows
from hw_targets.target import Accelerator

Bytes = NDArray[np.uint8]


class Product(NamedTuple):
    """One multiplier in one step: a weight and the input that it meets."""

    multiplier: int
    weight: int
    input: int


Steps = Sequence[Sequence[Product]]


def row_steps(data: Bytes, layout: Layout, array: Accelerator, row: int) -> Steps:
    """The steps of output `row`, of a matrix whose packed compute layout is `data`; in some no multiplier may work."""
    match layout.mode:
        case MatrixMode.DENSE:
            return _dense(data, layout, array, row)
        case MatrixMode.NM:
            return _nm(data, layout, array, row)
        case MatrixMode.HP:
            return _hp(data, layout, array, row)
        case MatrixMode.UNSTRUCTURED:
            return _unstructured(data, layout, array, row)


def _values(data: Bytes, layout: Layout, row: int) -> list[int]:
    slots = layout.slots
    return data[row * slots : (row + 1) * slots].view(np.int8).tolist()


def _selects(data: Bytes, layout: Layout, row: int) -> list[int]:
    """The position of every slot inside its group; 0 where groups are single inputs."""
    if not layout.has_selects:
        return [0] * layout.slots
    packed = ceil_div(layout.slots, 2)
    first = layout.values + row * packed
    halves = [half for byte in data[first : first + packed].tolist() for half in (byte & 15, byte >> 4)]
    return halves[: layout.slots]


def _dense(data: Bytes, layout: Layout, array: Accelerator, row: int) -> Steps:
    values, width = _values(data, layout, row), array.multipliers
    return [
        [Product(j, value, first + j) for j, value in enumerate(values[first : first + width])]
        for first in range(0, layout.ins, width)
    ]


def _nm(data: Bytes, layout: Layout, array: Accelerator, row: int) -> Steps:
    n, m = layout.n, layout.m
    groups = ceil_div(layout.ins, m)
    together = min(array.multipliers // n, array.window // m)
    each = 1 if together else max(ceil_div(n, array.multipliers), ceil_div(m, array.window))
    steps: list[list[Product]] = [[] for _ in range(ceil_div(groups, together) if together else groups * each)]
    for slot, (value, select) in enumerate(zip(_values(data, layout, row), _selects(data, layout, row), strict=True)):
        group, place = divmod(slot, n)
        if together:
            step, multiplier = group // together, group % together * n + place
        else:
            step, multiplier = group * each + place // array.multipliers, place % array.multipliers
        steps[step].append(Product(multiplier, value, group * m + select))
    return steps


def _hp(data: Bytes, layout: Layout, array: Accelerator, row: int) -> Steps:
    kind = np.dtype(np.uint8 if layout.window <= BYTE_WINDOW else "<u2")
    lists = data[layout.values + layout.select_bytes :].view(kind)
    kept_all = lists.reshape(-1, sum(layout.kept_inputs))[row // layout.block_rows].tolist()
    values, selects = _values(data, layout, row), _selects(data, layout, row)
    steps: list[list[Product]] = []
    start = slot = at = 0
    for width, kept in zip(layout.windows, layout.kept_inputs, strict=True):
        slots = layout.slots_of(kept)
        base = len(steps)
        steps += [[] for _ in range(max(ceil_div(slots, array.multipliers), ceil_div(width, array.window), 1))]
        for j in range(slots):
            position = j // layout.n * layout.m + selects[slot + j]
            product = Product(j % array.multipliers, values[slot + j], start + kept_all[at + position])
            steps[base + j // array.multipliers].append(product)
        start, slot, at = start + width, slot + slots, at + kept
    return steps


def _unstructured(data: Bytes, layout: Layout, array: Accelerator, row: int) -> Steps:
    """Windows in step with the other rows of the pass: as long as the busiest row and sub-window of them all."""
    rows, inputs = indices_of(data, layout)
    reach, share = sub_windows(array)
    together = array.outputs * array.cores
    first = row // together * together
    windows = ceil_div(layout.ins, array.window)
    width = windows * (array.window // reach)
    here = (rows >= first) & (rows < first + together)
    busy = np.bincount((rows[here] - first) * width + inputs[here] // reach, minlength=together * width)
    slowest = busy.reshape(-1, windows, array.window // reach).max(axis=(0, 2))
    lengths = np.maximum(-(-slowest // share), 1)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    steps: list[list[Product]] = [[] for _ in range(int(starts[-1]))]
    counts = layout.outs * ceil_div(layout.ins, 32)
    values = data[counts : counts + layout.kept].view(np.int8)
    seen: dict[int, int] = {}
    for slot in np.flatnonzero(rows == row).tolist():
        place = int(inputs[slot])
        part, number = place // reach, seen.get(place // reach, 0)
        seen[part] = number + 1
        window = place // array.window
        multiplier = part % (array.window // reach) * share + number % share
        steps[int(starts[window]) + number // share].append(Product(multiplier, int(values[slot]), place))
    return steps
