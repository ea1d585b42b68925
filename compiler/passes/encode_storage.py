"""`hpcc-encode-storage`: decides the storage format of every quantised weight and says so in its type.

Before: int8 weights of `hpcc_nn.qlinear`, with or without a sparsity encoding. After: their types carry an
`#hpcc_storage` encoding; byte layout and size are decided (docs/FORMATS.md). The store still holds plain codes: the
bytes are made when the program is emitted (`encoded_bytes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.passes import ModulePass

from compiler.dialects.nn import QLinearOp, WeightOp, shape_of
from compiler.dialects.sparsity import pattern_of
from compiler.dialects.storage import StorageAttr, storage_attribute_of
from compiler.passes.sparsify import logical, replace_weight
from compiler.sparsity.base import Pattern
from compiler.storage.choose import Candidate, rank
from compiler.storage.formats import Format, SlotFormat, all_formats, slots_of_rows
from compiler.weights import WeightStore
from hw_targets.errors import UsageError
from hw_targets.load import load_target


@dataclass(frozen=True)
class EncodeStoragePass(ModulePass):
    """`target` says what is decoded and how fast the memory is: a name, or the path of a .toml file. Without one, `decode`
    lists the formats, as `nm=32` (values per cycle), all if it is empty, and `bytes_per_cycle` is the memory's rate, 0 if
    unknown. `format` overrules the choice where it can store the weight."""

    name = "hpcc-encode-storage"
    target: str = ""
    format: str = "auto"
    decode: tuple[str, ...] = ()
    bytes_per_cycle: float = 0.0

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        rates, bytes_per_cycle = _rates(self.decode), self.bytes_per_cycle
        if self.target:
            target = load_target(self.target)
            rates, bytes_per_cycle = dict[str, float](target.decode), target.dram_bytes_per_cycle
        if self.format != "auto" and (self.format not in all_formats() or (rates is not None and self.format not in rates)):
            raise UsageError(
                "HPCC2220",
                f"the target has no storage format {self.format!r}",
                hint=f"formats: auto, {', '.join(rates or all_formats())}",
            )
        choose_formats(op, rates, bytes_per_cycle, self.format)


def choose_formats(
    module: ModuleOp, rates: Mapping[str, float] | None, bytes_per_cycle: float, format: str = "auto"
) -> None:
    """Give every quantised weight its storage format: `format` where that can store it, else the best of those in `rates`.

    `rates` are values per cycle by format name (None: all formats, without limit), `bytes_per_cycle` the memory's, 0 if
    unknown.
    """
    for weight in _quantised_weights(module):
        outs, ins = shape_of(weight.result)
        pattern = pattern_of(weight.result.type)
        ranked = rank(pattern, outs, ins, dict(rates) if rates is not None else None, bytes_per_cycle)
        asked = [candidate for candidate in ranked if candidate.format.name == format]
        _set_format(weight, (asked or ranked)[0], pattern)


def _rates(decode: tuple[str, ...]) -> dict[str, float] | None:
    """Values per cycle by format name; a name alone decodes without limit."""
    rates: dict[str, float] = {}
    for item in decode:
        name, _, rate = item.partition("=")
        try:
            rates[name] = float(rate or 0.0)
        except ValueError:
            raise UsageError("HPCC2221", f"decode: {item!r} is not of the form format=values_per_cycle") from None
        if name not in all_formats():
            raise UsageError("HPCC2221", f"decode: unknown format {name!r}", hint=f"formats: {', '.join(all_formats())}")
    return rates or None


def _quantised_weights(module: ModuleOp) -> list[WeightOp]:
    owners = dict.fromkeys(op.weight.owner for op in module.walk() if isinstance(op, QLinearOp))
    return [owner for owner in owners if isinstance(owner, WeightOp)]


def _set_format(weight: WeightOp, chosen: Candidate, pattern: Pattern) -> None:
    type = weight.result.type
    assert isinstance(type, TensorType)
    encoded = TensorType(type.element_type, type.get_shape(), storage_attribute_of(chosen.format, pattern))
    stored = None if weight.stored is None else weight.stored.data
    replace_weight(weight, WeightOp(weight.key.data, weight.digest.data, encoded, stored=stored))


def storage_of(weight: WeightOp) -> tuple[Format, Pattern]:
    """Format and pattern of an encoded weight."""
    type = weight.result.type
    assert isinstance(type, TensorType)
    assert isinstance(type.encoding, StorageAttr)
    return type.encoding.format, type.encoding.pattern


def encoded_bytes(weight: WeightOp, store: WeightStore, outs: slice = slice(None)) -> NDArray[np.uint8]:
    """The stored bytes of a weight, or of some of its outputs (whole row blocks of its pattern)."""
    storage, pattern = storage_of(weight)
    codes = logical(store.get(weight.key.data), weight)
    if outs == slice(None) or not isinstance(storage, SlotFormat):
        return storage.encode(codes[outs], pattern)
    return storage.encode_slots(codes[outs], slots_of_rows(storage.mask_of(codes, pattern), outs), pattern)
