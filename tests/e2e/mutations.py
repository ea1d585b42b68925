"""What a mutation is, the model and the board that it is tried on, and how to break things."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from runtime.decoding import formats
from tests.graphs import Encoder

Array = NDArray[Any]
Patch = pytest.MonkeyPatch

MODEL = Encoder(hidden=72, heads=4, intermediate=84, layers=1, vocabulary=50, positions=11)
"""84 inputs are two windows of 32 and a tail; 9 rows of tokens are two tiles of 4 and a tail."""
BIASED = replace(MODEL, mask="relative", gelu="softplus")
"""With numbers added to its scores, and in two parts: the host computes the activation between them."""
BATCH, TOKENS = 1, 9
BOARD = {
    "cores": 1,
    "tokens": 4,
    "outputs": 8,
    "multipliers": 4,
    "window": 32,
    "selector": 8,
    "lanes": 32,
    "acc_bytes": 4096,
}

ONNX_RUNTIME = r"output '.*' is off: relative L2"
GRAPH = r"stage 'sparsify': output '.*' is off by .* of its rms; the first op that diverges is "
PARAMETERS = r"stage 'quantize': "
BITS = r"the simulator's values differ from the integer reference"
PATTERN = r"weights that are not zero; nm:2:4 keeps \d"
LEDGER = r"the layers' cycles add up to"
ENCODED = r"stage 'encode': layer\.0\.\S+ does not decode to its codes"
TILED = r"stage 'tile': [\d,]+ values of '.*' differ from stage 'quantize'"
LOADED = r"instruction \d+ \(load\.weights\)"


@dataclass(frozen=True)
class Mutation:
    """A fault: `make` installs it, an ordinary run answers with `says` (a regular expression) and `status`."""

    make: Callable[[Patch], None]
    says: str
    status: int = 4
    pattern: str = "dense"
    each: str = ""
    """What --verify-each says of it, where it says something else: it names the stage."""
    biased: bool = False
    """Whether it is a fault in what only the biased model in two parts has."""


# ---- how to break things --------------------------------------------------------------------------------------------


def after(patch: Patch, which: type[ModulePass], edit: Callable[[ModuleOp], None]) -> None:
    """Let `edit` spoil what a pass has made."""
    apply: Any = which.apply

    def broken(self: Any, ctx: Any, op: ModuleOp) -> None:
        apply(self, ctx, op)
        edit(op)

    patch.setattr(which, "apply", broken)


def ops(module: ModuleOp, kind: type[Any]) -> list[Any]:
    return [op for op in module.walk() if isinstance(op, kind)]


def swap_out(old: Any, new: Any) -> None:
    new.attributes.update(old.attributes)
    new.location = old.location
    Rewriter.replace_op(old, new)


def wrapped(patch: Patch, module: Any, name: str, spoil: Callable[[Any], Any]) -> None:
    """Let `spoil` change what a function returns."""
    true = getattr(module, name)
    patch.setattr(module, name, lambda *arguments, **options: spoil(true(*arguments, **options)))


def decoded(patch: Patch, name: str, spoil: Callable[[Any], Any]) -> None:
    """Let `spoil` change what the decoder of a format returns."""
    true = formats.DECODERS[name]
    patch.setitem(formats.DECODERS, name, lambda stored: spoil(true(stored)))


def altered(module: ModuleType, **changes: Any) -> SimpleNamespace:
    """A module with some names replaced, for one of those who import it."""
    return SimpleNamespace(**{**vars(module), **changes})
