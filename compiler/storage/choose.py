"""Which storage format a matrix gets: the candidates with their sizes and load times, best first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compiler.sparsity.base import Pattern
from compiler.storage.formats import Format, StorageSize, candidates
from hw_targets.errors import InfeasibleError
from hw_targets.isa import MatrixMode
from hw_targets.layout import Layout


@dataclass(frozen=True)
class Candidate:
    """A format for one matrix. `load_cycles` is what memory or the decoder takes, whichever is slower; 0 if unknown."""

    format: Format
    pattern: Pattern
    size: StorageSize
    layout: Layout
    load_cycles: float

    @property
    def compute_bytes(self) -> int:
        return self.layout.bytes


def rank(
    pattern: Pattern,
    outs: int,
    ins: int,
    rates: Mapping[str, float] | None = None,
    bytes_per_cycle: float = 0.0,
) -> tuple[Candidate, ...]:
    """Candidates for an outs x ins matrix, best first: the layout that the array runs fastest, with the fewest values, then
    fewer load cycles, then fewer bytes.

    `rates` are the values per cycle of the formats that the target decodes (all formats, unlimited, if None).
    Raises InfeasibleError if it decodes none that can hold the pattern.
    """
    listed = [f for f in candidates(pattern) if rates is None or f.name in rates]
    if not listed:
        names = ", ".join(f.name for f in candidates(pattern))
        raise InfeasibleError("HPCC3210", f"the target decodes no format that stores {pattern.spec()} ({names})")
    found = (_candidate(f, pattern, outs, ins, rates or {}, bytes_per_cycle) for f in listed)
    return tuple(sorted(found, key=lambda candidate: _order(candidate, outs * ins)))


def _candidate(
    storage: Format, pattern: Pattern, outs: int, ins: int, rates: Mapping[str, float], bytes_per_cycle: float
) -> Candidate:
    size = storage.size_bits(outs, ins, pattern)
    rate = rates.get(storage.name, 0.0)
    layout = storage.layout(outs, ins, pattern)
    decode = layout.values / rate if rate else 0.0
    transfer = size.total_bytes / bytes_per_cycle if bytes_per_cycle else 0.0
    return Candidate(storage, pattern, size, layout, max(decode, transfer))


BALANCED, UNBALANCED, DENSE, LARGER = range(4)
"""Classes of speed: N:M and HP run without loss, unstructured waits for its busiest row, dense multiplies zeros. A sparse
matrix that takes more bytes than the dense one has so few zeros that no layout makes it faster either."""


def _order(candidate: Candidate, dense_bytes: int) -> tuple[int, int, float, int]:
    speed, layout = DENSE, candidate.layout
    if layout.mode is MatrixMode.UNSTRUCTURED:
        speed = UNBALANCED if candidate.size.total_bytes < dense_bytes else LARGER
    elif layout.mode is not MatrixMode.DENSE:
        speed = BALANCED
    return speed, layout.values, candidate.load_cycles, candidate.size.total_bytes
