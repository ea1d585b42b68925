"""The compute layout (section 4 of docs/FORMATS.md): written by the decoders, read as dense codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.decoding.fields import Bytes, Codes, Integers, check_below, damaged, expect_length
from runtime.decoding.geometry import Geometry

LAYOUT_WINDOW = 32


def code_type(value_bits: int) -> np.dtype[Any]:
    """Codes in the compute layout."""
    return np.dtype("<i2") if value_bits == 16 else np.dtype(np.int8)


def entry_bytes(window: int) -> int:
    """Bytes of a kept input."""
    return 1 if window <= 256 else 2


def select_bytes(slots: int, m: int, coarse: bool) -> int:
    """Bytes of the selects of a row: an nm layout has them even for m = 1."""
    return -(-slots // 2) if m > 1 or not coarse else 0


def expand_groups(layout: Bytes, outs: int, ins: int, m: int, window: int, shape: Geometry, value_bits: int) -> Codes:
    """Dense codes of the layouts nm (`window` = 0) and hp."""
    packed, kind = select_bytes(shape.slots, m, bool(window)), code_type(value_bits)
    values, selects = outs * shape.slots * kind.itemsize, outs * packed
    entry = entry_bytes(window)
    lists = shape.blocks * shape.inputs * entry if window else 0
    expect_length("hp layout" if window else "nm layout", layout, values + selects + lists)
    columns = np.broadcast_to(shape.group_start, (outs, shape.slots))
    if packed:
        chosen = _unpack_selects(layout[values : values + selects].reshape(outs, packed), shape.slots)
        check_below("select", chosen, shape.group_size)
        columns = columns + chosen
    if window:
        local = layout[values + selects :].view(np.uint8 if entry == 1 else "<u2").reshape(shape.blocks, shape.inputs)
        check_below("kept input", local, shape.window_size)
        inputs = local + shape.window_start
        by_row = np.repeat(inputs, min(shape.block_rows, outs), axis=0)[:outs]
        columns = np.take_along_axis(by_row, columns, axis=1)
    dense = np.zeros((outs, ins), kind)
    np.put_along_axis(dense, columns, layout[:values].view(kind).reshape(outs, shape.slots), axis=1)
    return dense


def unstructured_layout(values: Bytes, kept: int, rows: Integers, columns: Integers, outs: int, ins: int) -> Bytes:
    """Section 4.4, of the slots in ascending order of row and column; room for more than there are is filled with 0."""
    windows, used = -(-ins // LAYOUT_WINDOW), len(columns)
    if values[used * (values.size // kept) :].any():
        raise damaged(f"behind the last of {used} slots stands a value")
    counts = np.bincount(rows * windows + columns // LAYOUT_WINDOW, minlength=outs * windows)
    local = np.zeros(kept, np.uint8)
    local[:used] = columns % LAYOUT_WINDOW
    return np.concatenate([counts.astype(np.uint8), values, local])


def expand_unstructured(layout: Bytes, outs: int, ins: int, kept: int, value_bits: int) -> Codes:
    windows, kind = -(-ins // LAYOUT_WINDOW), code_type(value_bits)
    counts = layout[: outs * windows]
    end = counts.size + kept * kind.itemsize
    expect_length("unstructured layout", layout, end + kept)
    used = int(counts.sum())
    if used > kept:
        raise damaged(f"unstructured layout: its counts add up to {used}, more than {kept}")
    place = np.repeat(np.arange(outs * windows), counts)
    values, local = layout[counts.size : end].view(kind), layout[end:]
    if local[used:].any() or values[used:].any():
        raise damaged(f"unstructured layout: what is behind its {used} slots is not zero")
    local = local[:used]
    columns = place % windows * LAYOUT_WINDOW + local
    bad = (local >= LAYOUT_WINDOW) | (columns >= ins)
    if bad.any():
        entry = int(np.argmax(bad))
        raise damaged(f"unstructured layout: index {local[entry]} of row {place[entry] // windows} leaves its window")
    if ((local[1:] <= local[:-1]) & (place[1:] == place[:-1])).any():
        raise damaged("unstructured layout: the indices of a window do not ascend")
    dense = np.zeros((outs, ins), kind)
    dense[place // windows, columns] = values[:used]
    return dense


def pack_selects(selects: NDArray[Any]) -> Bytes:
    outs, slots = selects.shape
    halves = np.zeros((outs, -(-slots // 2) * 2), np.uint8)
    halves[:, :slots] = selects
    high = np.left_shift(halves[:, 1::2], 4, dtype=np.uint8)
    return (halves[:, ::2] | high).reshape(-1)


def _unpack_selects(packed: Bytes, slots: int) -> Bytes:
    halves = np.empty((len(packed), 2 * packed.shape[1]), np.uint8)
    halves[:, ::2] = packed & 15
    halves[:, 1::2] = packed >> 4
    return halves[:, :slots]
