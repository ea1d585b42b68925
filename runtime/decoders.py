"""Decoders of the storage formats, and the dense view of the compute layout, written from docs/FORMATS.md alone.

They share nothing with the encoders: each checks the other, as hardware would. Stored bytes come from files, so every
decoder validates what it reads and raises InputError naming what is wrong. Section numbers are FORMATS.md's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_targets.errors import InputError
from hw_targets.isa import MatrixMode, StorageCode

Bytes = NDArray[np.uint8]
Codes = NDArray[np.int8]
Integers = NDArray[np.intp]

MAX_GROUP = 16
STORAGE = list(StorageCode)
MODES = list(MatrixMode)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the slots and kept inputs of one row lie (section 2). For N:M the kept inputs are all inputs, one window.

    Arrays over kept inputs (length K): `window_of`, `window_start` and `window_size` of the window each belongs to.
    Arrays over slots (length S): `group_start`, the kept input its group starts at, and `group_size`.
    Arrays over groups: `first`, the kept input it starts at, and `quota`.
    """

    blocks: int
    block_rows: int
    window_of: Integers
    window_start: Integers
    window_size: Integers
    group_start: Integers
    group_size: Integers
    first: Integers
    quota: Integers

    @property
    def inputs(self) -> int:
        return len(self.window_of)

    @property
    def slots(self) -> int:
        return len(self.group_start)


@lru_cache(maxsize=256)
def geometry(outs: int, ins: int, n: int, m: int, block_rows: int, window: int, keep: int) -> Geometry:
    """The geometry of an outs x ins matrix; block_rows = window = keep = 0 for N:M. Raises InputError."""
    if outs < 1 or ins < 1 or not 1 <= n <= m <= MAX_GROUP:
        raise _error(f"a matrix of {outs} x {ins} with groups of {n}:{m} is not possible (1 <= n <= m <= {MAX_GROUP})")
    coarse = block_rows > 0
    if coarse and not 1 <= keep <= window:
        raise _error(f"a window of {window} inputs cannot keep {keep}")
    size = window if coarse else ins
    sizes = np.minimum(size, ins - np.arange(0, ins, size))
    kept = np.minimum(sizes, _ceil(_ceil(keep * sizes, window), m) * m) if coarse else sizes
    starts = np.concatenate([[0], np.cumsum(kept)])
    group_counts = -(-kept // m)
    window_of_group = np.repeat(np.arange(len(sizes)), group_counts)
    place = np.arange(len(window_of_group)) - np.repeat(np.cumsum(group_counts) - group_counts, group_counts)
    sizes_of_groups = np.minimum(m, kept[window_of_group] - place * m)
    quota = -(-n * sizes_of_groups // m)
    first = starts[window_of_group] + place * m
    window_of = np.repeat(np.arange(len(sizes)), kept)
    return Geometry(
        blocks=-(-outs // block_rows) if coarse else 1,
        block_rows=block_rows if coarse else outs,
        window_of=window_of,
        window_start=window_of * size,
        window_size=sizes[window_of],
        group_start=np.repeat(first, quota),
        group_size=np.repeat(sizes_of_groups, quota),
        first=first,
        quota=quota,
    )


def decode(
    format_code: int,
    data: Bytes,
    outs: int,
    ins: int,
    n: int = 1,
    m: int = 1,
    block_rows: int = 0,
    window: int = 0,
    keep: int = 0,
) -> Bytes:
    """Stored bytes (section 3) to the bytes of the compute layout (section 4). Raises InputError."""
    if not 0 <= format_code < len(STORAGE):
        raise _error(f"storage format {format_code} is unknown")
    storage = STORAGE[format_code]
    if storage is StorageCode.DENSE:
        _expect_length(storage, data, outs * ins)
        return data.copy()
    if storage is StorageCode.NM:
        return _decode_nm(data, outs, m, geometry(outs, ins, n, m, 0, 0, 0))
    _expect_coarse(storage, block_rows)
    return _decode_hp_mark(data, outs, m, window, geometry(outs, ins, n, m, block_rows, window, keep))


def expand(
    layout: Bytes,
    mode: int,
    outs: int,
    ins: int,
    n: int = 1,
    m: int = 1,
    block_rows: int = 0,
    window: int = 0,
    keep: int = 0,
) -> Codes:
    """The compute layout (section 4) as dense codes i8[outs, ins]. Raises InputError."""
    if not 0 <= mode < len(MODES):
        raise _error(f"weight layout {mode} is unknown")
    if MODES[mode] is MatrixMode.DENSE:
        _expect_length("dense layout", layout, outs * ins)
        return layout.view(np.int8).reshape(outs, ins).copy()
    coarse = MODES[mode] is MatrixMode.HP
    if coarse:
        _expect_coarse("hp layout", block_rows)
    shape = geometry(outs, ins, n, m, *((block_rows, window, keep) if coarse else (0, 0, 0)))
    return _expand(layout, outs, ins, m, window if coarse else 0, shape)


def compute_bytes(mode: int, outs: int, ins: int, n: int, m: int, block_rows: int, window: int, keep: int) -> int:
    """Bytes of the compute layout (the formulas of section 4)."""
    if MODES[mode] is MatrixMode.DENSE:
        return outs * ins
    coarse = MODES[mode] is MatrixMode.HP
    shape = geometry(outs, ins, n, m, *((block_rows, window, keep) if coarse else (0, 0, 0)))
    selects = -(-shape.slots // 2) if m > 1 or not coarse else 0
    return outs * (shape.slots + selects) + (shape.blocks * shape.inputs * _entry_bytes(window) if coarse else 0)


# ---- storage --------------------------------------------------------------------------------------------------------


def _decode_nm(data: Bytes, outs: int, m: int, shape: Geometry) -> Bytes:
    width, values = _bits(m), outs * shape.slots
    _expect_length("nm", data, values + -(-values * width // 8))
    indices = _fields("nm indices", data[values:], values, width).reshape(outs, shape.slots)
    _check_below("nm index", indices, shape.group_size)
    _check_ascending("nm indices", indices, shape.group_start)
    return np.concatenate([data[:values], _pack_selects(indices)])


def _decode_hp_mark(data: Bytes, outs: int, m: int, window: int, shape: Geometry) -> Bytes:
    width, values, entries = _bits(window), outs * shape.slots, shape.blocks * shape.inputs
    list_bytes = -(-entries * width // 8)
    mark_bytes = -(-outs * shape.inputs // 8) if m > 1 else 0
    _expect_length("hp_mark", data, values + list_bytes + mark_bytes)
    lists = _fields("hp_mark kept lists", data[values : values + list_bytes], entries, width)
    lists = lists.reshape(shape.blocks, shape.inputs)
    _check_below("hp_mark kept input", lists, shape.window_size)
    _check_ascending("hp_mark kept lists", lists, shape.window_of)
    stored = np.ascontiguousarray(lists, np.uint8 if _entry_bytes(window) == 1 else "<u2").reshape(-1).view(np.uint8)
    if m == 1:
        return np.concatenate([data[:values], stored])
    marks = _fields("hp_mark marks", data[values + list_bytes :], outs * shape.inputs, 1).reshape(outs, shape.inputs)
    counts = np.add.reduceat(marks, shape.first, axis=1)
    if (counts != shape.quota).any():
        row, group = np.argwhere(counts != shape.quota)[0]
        raise _error(f"hp_mark: row {row} marks {counts[row, group]} of group {group}, which keeps {shape.quota[group]}")
    positions = np.nonzero(marks)[1].reshape(outs, shape.slots)
    return np.concatenate([data[:values], _pack_selects((positions - shape.group_start).astype(np.uint8)), stored])


# ---- compute layout -------------------------------------------------------------------------------------------------


def _expand(layout: Bytes, outs: int, ins: int, m: int, window: int, shape: Geometry) -> Codes:
    """`window` = 0 means N:M: no kept lists, and selects even for m = 1."""
    select_bytes = -(-shape.slots // 2) if m > 1 or not window else 0
    values, selects = outs * shape.slots, outs * select_bytes
    entry = _entry_bytes(window)
    lists = shape.blocks * shape.inputs * entry if window else 0
    _expect_length("hp layout" if window else "nm layout", layout, values + selects + lists)
    columns = np.broadcast_to(shape.group_start, (outs, shape.slots))
    if select_bytes:
        chosen = _unpack_selects(layout[values : values + selects].reshape(outs, select_bytes), shape.slots)
        _check_below("select", chosen, shape.group_size)
        columns = columns + chosen
    if window:
        local = layout[values + selects :].view(np.uint8 if entry == 1 else "<u2").reshape(shape.blocks, shape.inputs)
        _check_below("kept input", local, shape.window_size)
        inputs = local + shape.window_start
        columns = np.take_along_axis(np.repeat(inputs, shape.block_rows, axis=0)[:outs], columns, axis=1)
    dense = np.zeros((outs, ins), np.int8)
    np.put_along_axis(dense, columns, layout[:values].view(np.int8).reshape(outs, shape.slots), axis=1)
    return dense


def _pack_selects(selects: NDArray[Any]) -> Bytes:
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


# ---- fields and checks ----------------------------------------------------------------------------------------------


def _ceil(a: Integers, b: int) -> Integers:
    return -(-a // b)


def _bits(values: int) -> int:
    return (values - 1).bit_length()


def _entry_bytes(window: int) -> int:
    return 1 if window <= 256 else 2


def _fields(what: str, data: Bytes, count: int, width: int) -> NDArray[Any]:
    """`count` fields of `width` bits, lowest bit first (section 1), as u8 or u16."""
    bits = np.unpackbits(data, bitorder="little")
    if bits[count * width :].any():
        raise _error(f"{what}: the padding bits are not zero")
    kind = np.uint8 if width <= 8 else np.uint16
    if width == 1:
        return bits[:count]
    columns = bits[: count * width].reshape(count, width)
    result = np.zeros(count, kind)
    for place in range(width):
        result |= columns[:, place].astype(kind) << place
    return result


def _check_below(what: str, values: NDArray[Any], limits: Integers) -> None:
    bad = values >= limits.astype(np.uint16)
    if bad.any():
        row, place = np.argwhere(bad)[0]
        raise _error(f"{what} {values[row, place]} (line {row}, entry {place}) is not below {limits[place]}")


def _check_ascending(what: str, values: NDArray[Any], owner: Integers) -> None:
    """Values of one owner (a group, a window) ascend strictly."""
    bad = (values[:, 1:] <= values[:, :-1]) & (owner[1:] == owner[:-1])
    if bad.any():
        row, place = np.argwhere(bad)[0]
        raise _error(f"{what} do not ascend (line {row}, entries {place} and {place + 1})")


def _expect_length(what: str, data: Bytes, length: int) -> None:
    if data.size != length:
        raise _error(f"{what}: {length} bytes expected, {data.size} found")


def _expect_coarse(what: str, block_rows: int) -> None:
    if block_rows < 1:
        raise _error(f"{what}: block_rows is 0")


def _error(message: str) -> InputError:
    return InputError("HPCC1820", message)
