"""One decoder for each storage format (section 3 of docs/FORMATS.md): stored bytes to the compute layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.decoding.fields import (
    Bytes,
    Integers,
    Stored,
    bits,
    check_ascending,
    check_below,
    damaged,
    expect_coarse,
    expect_kept,
    expect_length,
    fields,
    stream_bytes,
)
from runtime.decoding.geometry import Geometry, geometry
from runtime.decoding.layouts import entry_bytes, pack_selects, unstructured_layout


def decode_dense(s: Stored) -> Bytes:
    expect_length("dense", s.data, s.value_bytes(s.outs * s.ins))
    return s.values("dense", 0, s.outs * s.ins).copy()


# ---- groups and windows ---------------------------------------------------------------------------------------------


def _nm_geometry(s: Stored) -> Geometry:
    return geometry(s.outs, s.ins, s.n, s.m, 0, 0, 0)


def decode_nm(s: Stored) -> Bytes:
    shape, width = _nm_geometry(s), bits(s.m)
    slots = s.outs * shape.slots
    start = s.value_bytes(slots)
    expect_length("nm", s.data, start + stream_bytes(slots, width))
    indices = fields("nm indices", s.data[start:], slots, width).reshape(s.outs, shape.slots)
    check_below("nm index", indices, shape.group_size)
    check_ascending("nm indices", indices, shape.group_start)
    return np.concatenate([s.values("nm", 0, slots), pack_selects(indices)])


def _hp_geometry(what: str, s: Stored) -> Geometry:
    expect_coarse(what, s.block_rows)
    return geometry(s.outs, s.ins, s.n, s.m, s.block_rows, s.window, s.keep)


def _kept_lists(what: str, s: Stored, shape: Geometry, data: Bytes) -> Bytes:
    """The lists of kept inputs as the layout hp holds them."""
    lists = fields(f"{what} kept lists", data, shape.blocks * shape.inputs, bits(s.window))
    lists = lists.reshape(shape.blocks, shape.inputs)
    check_below(f"{what} kept input", lists, shape.window_size)
    check_ascending(f"{what} kept lists", lists, shape.window_of)
    return np.ascontiguousarray(lists, np.uint8 if entry_bytes(s.window) == 1 else "<u2").reshape(-1).view(np.uint8)


def decode_hp_mark(s: Stored) -> Bytes:
    shape = _hp_geometry("hp_mark", s)
    slots = s.outs * shape.slots
    start = s.value_bytes(slots)
    end = start + stream_bytes(shape.blocks * shape.inputs, bits(s.window))
    expect_length("hp_mark", s.data, end + (stream_bytes(s.outs * shape.inputs, 1) if s.m > 1 else 0))
    lists, values = _kept_lists("hp_mark", s, shape, s.data[start:end]), s.values("hp_mark", 0, slots)
    if s.m == 1:
        return np.concatenate([values, lists])
    marks = fields("hp_mark marks", s.data[end:], s.outs * shape.inputs, 1).reshape(s.outs, shape.inputs)
    _check_quota("hp_mark", marks, shape)
    positions = np.nonzero(marks)[1].reshape(s.outs, shape.slots)
    return np.concatenate([values, pack_selects((positions - shape.group_start).astype(np.uint8)), lists])


def decode_cbr(s: Stored) -> Bytes:
    if s.kept:
        return _decode_cbr_rows(s)
    if s.n != s.m:
        raise damaged(f"cbr: its lines are whole, but {s.n} of {s.m} inputs are said to be kept")
    shape = _hp_geometry("cbr", s)
    slots = s.outs * shape.slots
    start = s.value_bytes(slots)
    expect_length("cbr", s.data, start + stream_bytes(shape.blocks * shape.inputs, bits(s.window)))
    lists, values = _kept_lists("cbr", s, shape, s.data[start:]), s.values("cbr", 0, slots)
    if s.m == 1:
        return np.concatenate([values, lists])
    place = np.arange(shape.slots) - shape.group_start
    return np.concatenate([values, pack_selects(np.broadcast_to(place, (s.outs, shape.slots))), lists])


def _decode_cbr_rows(s: Stored) -> Bytes:
    """Kept rows of tiles of block_rows x window."""
    expect_coarse("cbr", s.block_rows)
    if not (1 <= s.keep <= s.block_rows and s.window >= 1):
        raise damaged(f"cbr: tiles of {s.block_rows} rows x {s.window} inputs cannot keep {s.keep} rows")
    across = -(-s.ins // s.window)
    heights = np.minimum(s.block_rows, s.outs - np.arange(0, s.outs, s.block_rows))
    quotas = -(-s.keep * heights // s.block_rows)
    lines, width = int(quotas.sum()) * across, bits(s.block_rows)
    kept = int(quotas.sum()) * s.ins
    if kept != s.kept:
        raise damaged(f"cbr: its tiles keep {kept} values, not {s.kept}")
    start = s.value_bytes(kept)
    expect_length("cbr", s.data, start + stream_bytes(lines, width))
    rows = fields("cbr kept rows", s.data[start:], lines, width).astype(np.intp)
    tile = np.repeat(np.arange(len(heights) * across), np.repeat(quotas, across))
    bad = rows >= heights[tile // across]
    if bad.any():
        raise damaged(f"cbr: kept row {rows[np.argmax(bad)]} of tile {tile[np.argmax(bad)]} is not in it")
    if ((rows[1:] <= rows[:-1]) & (tile[1:] == tile[:-1])).any():
        raise damaged("cbr: the kept rows of a tile do not ascend")
    stays = np.zeros((s.outs, across), np.bool_)
    stays[tile // across * s.block_rows + rows, tile % across] = True
    slot_rows, columns = np.nonzero(np.repeat(stays, s.window, axis=1)[:, : s.ins])
    return unstructured_layout(s.values("cbr", 0, kept), kept, slot_rows, columns, s.outs, s.ins)


# ---- slots anywhere -------------------------------------------------------------------------------------------------


def decode_csr(s: Stored) -> Bytes:
    kept = expect_kept("csr", s.outs, s.ins, s.kept)
    width, places, start = bits(s.ins), bits(kept + 1), s.value_bytes(kept)
    end = start + stream_bytes(kept, width)
    expect_length("csr", s.data, end + stream_bytes(s.outs + 1, places))
    columns = fields("csr columns", s.data[start:end], kept, width).astype(np.intp)
    starts = fields("csr row starts", s.data[end:], s.outs + 1, places).astype(np.intp)
    if starts[0] != 0 or starts[-1] > kept:
        raise damaged(f"csr: the row starts run from {starts[0]} to {starts[-1]}, not from 0 to at most {kept}")
    lengths = np.diff(starts)
    if (lengths < 0).any():
        row = int(np.argmax(lengths < 0))
        raise damaged(f"csr: row {row} starts at {starts[row]} and ends before, at {starts[row + 1]}")
    rows = np.repeat(np.arange(s.outs), lengths)
    return _of_slots("csr", s, s.values("csr", 0, kept), rows, columns)


def decode_coo(s: Stored) -> Bytes:
    kept = expect_kept("coo", s.outs, s.ins, s.kept)
    start = s.value_bytes(kept)
    end = start + stream_bytes(kept, bits(s.outs))
    expect_length("coo", s.data, end + stream_bytes(kept, bits(s.ins)))
    rows = fields("coo rows", s.data[start:end], kept, bits(s.outs)).astype(np.intp)
    columns = fields("coo columns", s.data[end:], kept, bits(s.ins)).astype(np.intp)
    unused = np.flatnonzero((rows[1:] == 0) & (columns[1:] == 0))
    used = int(unused[0]) + 1 if unused.size else kept
    if rows[used:].any():
        raise damaged(f"coo: behind the last of its {used} slots stands another")
    bad = rows[:used] >= s.outs
    if bad.any():
        raise damaged(f"coo: row {rows[int(np.argmax(bad))]} is not below {s.outs}")
    if (rows[1:used] < rows[: used - 1]).any():
        raise damaged("coo: the rows do not ascend")
    return _of_slots("coo", s, s.values("coo", 0, kept), rows[:used], columns)


def decode_ell(s: Stored) -> Bytes:
    kept = expect_kept("ell", s.outs, s.ins, s.kept)
    start = s.value_bytes(kept)
    if kept % s.outs:
        raise damaged(f"ell: {kept} slots are not equally many in {s.outs} rows")
    expect_length("ell", s.data, start + stream_bytes(kept, bits(s.ins)))
    columns = fields("ell columns", s.data[start:], kept, bits(s.ins)).astype(np.intp)
    return _of_slots("ell", s, s.values("ell", 0, kept), np.repeat(np.arange(s.outs), kept // s.outs), columns)


def _of_slots(what: str, s: Stored, values: Bytes, rows: Integers, columns: Integers) -> Bytes:
    """The unstructured layout of slots given by their rows and columns; columns behind the last of them are 0."""
    used = len(rows)
    if columns[used:].any():
        raise damaged(f"{what}: behind the last of its {used} slots stands another")
    columns = columns[:used]
    if (columns >= s.ins).any():
        bad = int(np.argmax(columns >= s.ins))
        raise damaged(f"{what}: column {columns[bad]} of row {rows[bad]} is not below {s.ins}")
    backwards = (columns[1:] <= columns[:-1]) & (rows[1:] == rows[:-1])
    if backwards.any():
        raise damaged(f"{what}: the columns of row {rows[int(np.argmax(backwards))]} do not ascend")
    return unstructured_layout(values, s.kept, rows, columns, s.outs, s.ins)


def decode_bitmap(s: Stored) -> Bytes:
    shape = None if s.kept else _nm_geometry(s)
    slots = s.kept if shape is None else s.outs * shape.slots
    expect_kept("bitmap", s.outs, s.ins, slots)
    start = s.value_bytes(slots)
    expect_length("bitmap", s.data, start + stream_bytes(s.outs * s.ins, 1))
    marks = fields("bitmap marks", s.data[start:], s.outs * s.ins, 1).reshape(s.outs, s.ins)
    values = s.values("bitmap", 0, slots)
    if shape is not None:  # N:M keeps its layout
        _check_quota("bitmap", marks, shape)
        selects = np.nonzero(marks)[1].reshape(s.outs, shape.slots) - shape.group_start
        return np.concatenate([values, pack_selects(selects.astype(np.uint8))])
    rows, columns = np.nonzero(marks)
    if len(rows) > slots:
        raise damaged(f"bitmap: {len(rows)} of the marks are set, {slots} values are stored")
    return unstructured_layout(values, slots, rows, columns, s.outs, s.ins)


def _check_quota(what: str, marks: NDArray[Any], shape: Geometry) -> None:
    """Every group has as many marks as slots."""
    counts = np.add.reduceat(marks, shape.first, axis=1)
    if (counts != shape.quota).any():
        row, group = np.argwhere(counts != shape.quota)[0]
        raise damaged(f"{what}: row {row} marks {counts[row, group]} of group {group}, which keeps {shape.quota[group]}")


def decode_bcsr(s: Stored) -> Bytes:
    kept = expect_kept("bcsr", s.outs, s.ins, s.kept)
    if s.block_rows < 1 or s.window < 1:
        raise damaged(f"bcsr: blocks of {s.block_rows} x {s.window} are not possible")
    down, across = -(-s.outs // s.block_rows), -(-s.ins // s.window)
    width = bits(down * across + 1)
    first = stream_bytes(down + 1, width)
    starts = fields("bcsr block row starts", s.data[:first], down + 1, width).astype(np.intp)
    if len(s.data) < first or starts[0] != 0 or (np.diff(starts) < 0).any() or (np.diff(starts) > across).any():
        raise damaged(f"bcsr: the block row starts do not ascend from 0 by at most {across}")
    blocks = int(starts[-1])
    end = len(s.data) - s.value_bytes(kept)
    if end - first < stream_bytes(blocks, bits(across)):
        raise damaged(f"bcsr: {blocks} blocks and {kept} values do not fit {len(s.data)} bytes")
    columns = fields("bcsr block columns", s.data[first:end], blocks, bits(across)).astype(np.intp)
    owner = np.repeat(np.arange(down), np.diff(starts))
    if (columns >= across).any() or ((columns[1:] <= columns[:-1]) & (owner[1:] == owner[:-1])).any():
        raise damaged(f"bcsr: the block columns of a row of blocks do not ascend below {across}")
    heights = np.minimum(s.block_rows, s.outs - owner * s.block_rows)
    widths = np.minimum(s.window, s.ins - columns * s.window)
    sizes = heights * widths
    used = int(sizes.sum())
    if used > kept:
        raise damaged(f"bcsr: its blocks hold {used} values, {kept} are stored")
    block = np.repeat(np.arange(blocks), sizes)
    place = np.arange(used) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    rows = owner[block] * s.block_rows + place // widths[block]
    inputs = columns[block] * s.window + place % widths[block]
    order = np.lexsort((inputs, rows))
    values = s.values("bcsr", end, kept).reshape(kept, -1).copy()
    values[:used] = values[:used][order]
    return unstructured_layout(values.reshape(-1), kept, rows[order], inputs[order], s.outs, s.ins)


# ---- weight sharing -------------------------------------------------------------------------------------------------


def decode_circulant(s: Stored) -> Bytes:
    b = s.block_rows
    expect_coarse("circulant", b)
    down, across = -(-s.outs // b), -(-s.ins // b)
    expect_length("circulant", s.data, s.value_bytes(down * across * b))
    vectors = s.values("circulant", 0, down * across * b).reshape(down, across, b, -1)
    row, column = np.arange(b)[:, None], np.arange(b)[None, :]
    whole = vectors[:, :, (column - row) % b].transpose(0, 2, 1, 3, 4).reshape(down * b, across * b, -1)
    return np.ascontiguousarray(whole[: s.outs, : s.ins]).reshape(-1)


DECODERS: Mapping[str, Callable[[Stored], Bytes]] = {
    "dense": decode_dense,
    "nm": decode_nm,
    "hp_mark": decode_hp_mark,
    "csr": decode_csr,
    "bitmap": decode_bitmap,
    "coo": decode_coo,
    "ell": decode_ell,
    "bcsr": decode_bcsr,
    "cbr": decode_cbr,
    "circulant": decode_circulant,
}
