"""The storage formats by name, and which of them a pattern has to choose from.

A format from outside is a subclass of Format under the entry point `hpcc.formats`; its decoder stands under
`hpcc.decoders` (hw_targets/storage.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points

from compiler.sparsity.base import Pattern
from compiler.storage.anywhere import BCSRFormat, BitmapFormat, COOFormat, CSRFormat, ELLFormat
from compiler.storage.base import (
    Format,
    SlotFormat,
    StorageSize,
    compute_bytes,
    compute_mode,
    slots_of_rows,
)
from compiler.storage.grouped import CBRFormat, DenseFormat, HPMarkFormat, NMFormat
from compiler.storage.shared import CirculantFormat
from hw_targets.errors import InputError

__all__ = [
    "FORMATS",
    "Format",
    "SlotFormat",
    "StorageSize",
    "all_formats",
    "candidates",
    "compute_bytes",
    "compute_mode",
    "slots_of_rows",
]

ENTRY_POINTS = "hpcc.formats"
"""The entry points that name formats of other packages: subclasses of Format."""

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        DenseFormat(),
        NMFormat(),
        HPMarkFormat(),
        CSRFormat(),
        BitmapFormat(),
        COOFormat(),
        ELLFormat(),
        BCSRFormat(),
        CBRFormat(),
        CirculantFormat(),
    )
}
"""The formats of docs/FORMATS.md."""

FIRST = ("nm", "hp_mark", "cbr", "circulant", "bcsr", "ell", "bitmap", "csr", "coo")
"""The order in which formats are offered: those made for a pattern before those that take any, dense last."""


@cache
def all_formats() -> Mapping[str, Format]:
    """All formats by name, those from outside last. Raises InputError for one that takes the name of another."""
    found = dict(FORMATS)
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        storage: type[Format] = point.load()
        if storage.name in found:
            raise InputError("HPCC1842", f"the storage format {storage.name!r} of {point.value} has the name of another")
        found[storage.name] = storage()
    return found


def candidates(pattern: Pattern) -> tuple[Format, ...]:
    """The formats that can store the pattern. Those made for it come first, dense last."""
    formats = all_formats()
    others = [name for name in formats if name not in FIRST and name != "dense"]
    return tuple(formats[name] for name in (*FIRST, *others, "dense") if formats[name].holds(pattern))
