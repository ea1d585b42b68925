"""Steps of an unstructured weight matrix on the array, counted from its real indices.

A step feeds each token's window of W inputs to all rows of a pass. A multiplier's selector reaches `selector` of these
inputs, so the window falls into sub-windows, each with its share of a row's L multipliers. All rows of a pass advance
together: a window takes as many steps as its busiest row and sub-window needs, and at least one, in which it is read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hw_targets.isa import MatrixMode
from hw_targets.layout import LAYOUT_WINDOW, Layout, ceil_div
from hw_targets.target import Accelerator


def sub_windows(array: Accelerator) -> tuple[int, int]:
    """(inputs of a sub-window, multipliers of a row that serve it).

    The selector's reach, or more where a window has more reaches than a row multipliers: then one serves several in turn.
    All are powers of two, so that a window is whole sub-windows.
    """
    least = ceil_div(array.window, array.multipliers)
    inputs = min(max(array.selector, 1 << (least - 1).bit_length()), array.window)
    return inputs, max(array.multipliers * inputs // array.window, 1)


def indices_of(data: NDArray[np.uint8], layout: Layout) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(row, input) of every value of an unstructured compute layout, in its order."""
    windows = ceil_div(layout.ins, LAYOUT_WINDOW)
    counts = data[: layout.outs * windows]
    place = np.repeat(np.arange(layout.outs * windows), counts)
    local = data[counts.size + layout.kept :][: place.size]  # what is behind is room that no slot takes
    return place // windows, place % windows * LAYOUT_WINDOW + local


def unstructured_steps(data: NDArray[np.uint8], layout: Layout, array: Accelerator) -> int:
    """Steps of all passes over the outputs, for one block of tokens; `data` is the matrix's compute layout."""
    if layout.mode is not MatrixMode.UNSTRUCTURED:
        raise ValueError(f"the steps of the layout {layout.mode.value} have a closed form")
    rows, inputs = indices_of(data, layout)
    reach, multipliers = sub_windows(array)
    windows = ceil_div(layout.ins, array.window)
    width = windows * (array.window // reach)
    busy = np.bincount(rows * width + inputs // reach, minlength=layout.outs * width).reshape(layout.outs, width)
    together = array.outputs * array.cores
    busiest = np.maximum.reduceat(busy, range(0, layout.outs, together), axis=0)
    slowest = busiest.reshape(len(busiest), windows, -1).max(axis=2)
    return int(np.maximum(-(-slowest // multipliers), 1).sum())
