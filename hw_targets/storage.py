"""The storage formats as the instruction set knows them: name, number, and the compute layout that their decoder writes.

docs/FORMATS.md specifies their bytes, compiler/storage encodes and runtime/decoders.py decodes them. A format from outside
registers its decoder under the entry point `hpcc.decoders`, with a number of PLUGIN_CODES; it is known here by that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from hw_targets.errors import InputError
from hw_targets.isa import MatrixMode

DECODERS = "hpcc.decoders"
"""The entry points that name decoders: objects with a `storage` (StorageFormat) and a method `decode`."""

PLUGIN_CODES = range(12, 16)
"""Numbers of load.weights' field `format` that formats from outside may take."""

BASIS = ".basis"
"""What a layer's name ends in that multiplies by the first of two factors; the second keeps the name of their product."""


@dataclass(frozen=True)
class StorageFormat:
    """`mode` is the layout of a matrix whose slots follow from its pattern, `counted` that of one with `kept` slots."""

    name: str
    code: int
    mode: MatrixMode
    counted: MatrixMode
    summary: str

    def loads(self, kept: int) -> MatrixMode:
        """The layout that load.weights writes, of a matrix with `kept` slots (0: they follow from its pattern)."""
        return self.counted if kept else self.mode


_UNSTRUCTURED = MatrixMode.UNSTRUCTURED
BUILT_IN = (
    StorageFormat("dense", 0, MatrixMode.DENSE, MatrixMode.DENSE, "every code"),
    StorageFormat("nm", 1, MatrixMode.NM, MatrixMode.NM, "slots and packed indices inside their groups"),
    StorageFormat("hp_mark", 2, MatrixMode.HP, MatrixMode.HP, "slots, kept inputs of each tile, marks over them"),
    StorageFormat("csr", 3, _UNSTRUCTURED, _UNSTRUCTURED, "slots, their columns, row starts"),
    StorageFormat("bitmap", 4, MatrixMode.NM, _UNSTRUCTURED, "slots and one bit for every place"),
    StorageFormat("coo", 5, _UNSTRUCTURED, _UNSTRUCTURED, "slots, their rows and columns"),
    StorageFormat("ell", 6, _UNSTRUCTURED, _UNSTRUCTURED, "equally many slots in every row, and their columns"),
    StorageFormat("bcsr", 7, _UNSTRUCTURED, _UNSTRUCTURED, "blocks, their block columns, block row starts"),
    StorageFormat("cbr", 8, MatrixMode.HP, _UNSTRUCTURED, "kept lines of each tile, whole, and which they are"),
    StorageFormat("circulant", 9, MatrixMode.DENSE, MatrixMode.DENSE, "the first row of every circulant block"),
)
"""The formats of docs/FORMATS.md."""


@cache
def storage_formats() -> Mapping[str, StorageFormat]:
    """All formats by name, those from outside last. Raises InputError for one that takes the place of another."""
    formats = {storage.name: storage for storage in BUILT_IN}
    for name, decoder in plugin_decoders().items():
        storage: StorageFormat = decoder.storage
        taken = {known.code for known in formats.values()}
        if storage.name in formats or storage.code not in PLUGIN_CODES or storage.code in taken:
            raise InputError(
                "HPCC1840",
                f"the decoder {name!r} of another package names its format {storage.name!r}, number {storage.code}",
                hint=f"a name of its own and a free number of {PLUGIN_CODES.start} to {PLUGIN_CODES.stop - 1}",
            )
        formats[storage.name] = storage
    return formats


@cache
def plugin_decoders() -> Mapping[str, Any]:
    """The decoders that other packages bring, by entry point."""
    return {point.name: point.load() for point in sorted(entry_points(group=DECODERS), key=lambda point: point.name)}


@cache
def formats_by_code() -> Mapping[int, StorageFormat]:
    return {storage.code: storage for storage in storage_formats().values()}


def storage_of_code(code: int) -> StorageFormat:
    """The format of a number. Raises InputError."""
    found = formats_by_code().get(code)
    if found is None:
        raise InputError("HPCC1843", f"storage format {code} is unknown")
    return found
