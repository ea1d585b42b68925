"""Sparsity patterns of a logical weight W[out, in] by name: which entries are zero, or tied; their counts and spelling.

A pattern is a small immutable object, plain numpy, no IR. The command line and the IR attributes only wrap it:
`parse_pattern("nm:2:4")`, `#hpcc_sparsity.nm<2:4>`. They stand in balanced.py (N:M, hierarchical: every row has equal
work), blocks.py, lines.py (whole rows, whole columns), unbalanced.py (unstructured), composed.py (one inside another),
sharing.py (weight sharing) and factored.py (products of two smaller matrices). A pattern from outside is a class under the
entry point `hpcc.patterns`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points

from compiler.sparsity.balanced import FPGA_SHAPES, HP, NM
from compiler.sparsity.base import Dense, Pattern
from compiler.sparsity.blocks import Block
from compiler.sparsity.composed import PLUS, Composed
from compiler.sparsity.factored import LowRank, Monarch
from compiler.sparsity.lines import Column, Row
from compiler.sparsity.sharing import Circulant
from compiler.sparsity.unbalanced import Unstructured
from hw_targets.errors import InputError, UsageError

__all__ = [
    "BUILT_IN",
    "FPGA_SHAPES",
    "HP",
    "NM",
    "Block",
    "Circulant",
    "Column",
    "Composed",
    "Dense",
    "LowRank",
    "Monarch",
    "Pattern",
    "Row",
    "Unstructured",
    "parse_pattern",
    "patterns",
]

ENTRY_POINTS = "hpcc.patterns"
"""The entry points that name patterns of other packages: subclasses of Pattern."""

BUILT_IN: tuple[type[Pattern], ...] = (
    Dense,
    NM,
    HP,
    Block,
    Row,
    Column,
    Unstructured,
    Composed,
    Circulant,
    LowRank,
    Monarch,
)


@cache
def patterns() -> Mapping[str, type[Pattern]]:
    """All patterns by name, those from outside last. Raises InputError for one that takes the name of another."""
    found = {pattern.name: pattern for pattern in BUILT_IN}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        pattern: type[Pattern] = point.load()
        if pattern.name in found:
            raise InputError("HPCC1841", f"the pattern {pattern.name!r} of {point.value} has the name of another")
        found[pattern.name] = pattern
    return found


def parse_pattern(spec: str, kind: str = "fpga") -> Pattern:
    """The pattern that a command line spells: `dense`, `nm:2:4`, `hp:0.75`, `hp:rows=64,window=32,keep=16,fine=2:4`,
    `block:4x1:0.75`, `row:0.5`, `column:0.75:tile=64x32`, `unstructured:0.9`, `block:32x32:0.5+nm:2:4`, `circulant:8`,
    `low_rank:rank=32`, `monarch:4:0.75`.

    `kind` is the kind of the target, whose list of shapes `hp:S` is resolved with. Raises UsageError.
    """
    if PLUS in spec:
        return Composed.parse(spec, kind)
    name, _, arguments = spec.strip().partition(":")
    known = patterns()
    if name in known:
        return known[name].parse(arguments, kind)
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
    if not near and name[:1].isdigit():
        near = [f"nm:{spec.strip()}"]
    hint = f"did you mean {near[0]!r}?" if near else f"patterns: {', '.join(known)}"
    raise UsageError("HPCC2201", f"unknown sparsity pattern {name!r}", hint=hint)
