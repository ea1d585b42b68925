"""Decoders of the storage formats, and the dense view of the compute layout, written from docs/FORMATS.md alone.

They share nothing with the encoders: each checks the other, as hardware would. Stored bytes come from files, so every
decoder validates what it reads and raises InputError naming what is wrong. Section numbers are FORMATS.md's. A decoder
from outside is an object under the entry point `hpcc.decoders` with a `storage` and a method `decode`, which takes a Stored.
"""

from __future__ import annotations

from hw_targets.isa import MatrixMode
from hw_targets.storage import plugin_decoders, storage_of_code
from runtime.decoding.fields import Bytes, Codes, Stored, damaged, expect_coarse, expect_kept, expect_length
from runtime.decoding.formats import DECODERS
from runtime.decoding.geometry import geometry
from runtime.decoding.layouts import (
    LAYOUT_WINDOW,
    code_type,
    entry_bytes,
    expand_groups,
    expand_unstructured,
    select_bytes,
)

__all__ = ["Bytes", "Codes", "Stored", "compute_bytes", "decode", "expand", "geometry"]

MODES = list(MatrixMode)


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
    kept: int = 0,
    value_bits: int = 8,
) -> Bytes:
    """Stored bytes (section 3) to the bytes of the compute layout (section 4). Raises InputError."""
    storage = storage_of_code(format_code)
    if outs < 1 or ins < 1:
        raise damaged(f"{storage.name}: a matrix of {outs} x {ins} is empty")
    stored = Stored(data, outs, ins, n, m, block_rows, window, keep, kept, value_bits)
    if storage.name in DECODERS:
        return DECODERS[storage.name](stored)
    return next(plugin for plugin in plugin_decoders().values() if plugin.storage == storage).decode(stored)


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
    kept: int = 0,
    value_bits: int = 8,
) -> Codes:
    """The compute layout (section 4) as dense codes i8[outs, ins], i16 if they have 16 bits. Raises InputError."""
    if not 0 <= mode < len(MODES):
        raise damaged(f"weight layout {mode} is unknown")
    kind = code_type(value_bits)
    if MODES[mode] is MatrixMode.DENSE:
        expect_length("dense layout", layout, outs * ins * kind.itemsize)
        return layout.view(kind).reshape(outs, ins).copy()
    if MODES[mode] is MatrixMode.UNSTRUCTURED:
        return expand_unstructured(layout, outs, ins, expect_kept("unstructured layout", outs, ins, kept), value_bits)
    coarse = MODES[mode] is MatrixMode.HP
    if coarse:
        expect_coarse("hp layout", block_rows)
    shape = geometry(outs, ins, n, m, *((block_rows, window, keep) if coarse else (0, 0, 0)))
    return expand_groups(layout, outs, ins, m, window if coarse else 0, shape, value_bits)


def compute_bytes(
    mode: int, outs: int, ins: int, n: int, m: int, block_rows: int, window: int, keep: int, kept: int = 0
) -> int:
    """Bytes of the compute layout of codes of at most 8 bits (the formulas of section 4)."""
    if MODES[mode] is MatrixMode.DENSE:
        return outs * ins
    if MODES[mode] is MatrixMode.UNSTRUCTURED:
        return outs * -(-ins // LAYOUT_WINDOW) + 2 * kept
    coarse = MODES[mode] is MatrixMode.HP
    shape = geometry(outs, ins, n, m, *((block_rows, window, keep) if coarse else (0, 0, 0)))
    selects = select_bytes(shape.slots, m, coarse)
    return outs * (shape.slots + selects) + (shape.blocks * shape.inputs * entry_bytes(window) if coarse else 0)
