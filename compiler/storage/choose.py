"""Which storage format a matrix gets: the candidates with their sizes and load times, best first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compiler.sparsity.patterns import Pattern
from compiler.storage.formats import Format, StorageSize, candidates, compute_bytes, compute_mode
from hw_targets.errors import InfeasibleError
from hw_targets.isa import MatrixMode


@dataclass(frozen=True)
class Candidate:
    """A format for one matrix. `load_cycles` is what memory or the decoder takes, whichever is slower; 0 if unknown."""

    format: Format
    size: StorageSize
    compute_bytes: int
    load_cycles: float

    @property
    def mode(self) -> MatrixMode:
        return compute_mode(self.format)


def rank(
    pattern: Pattern,
    outs: int,
    ins: int,
    rates: Mapping[str, float] | None = None,
    bytes_per_cycle: float = 0.0,
) -> tuple[Candidate, ...]:
    """Candidates for an outs x ins matrix, best first: those that keep the pattern's compute layout before dense, which
    gives up the speed-up; then fewer load cycles; then fewer bytes.

    `rates` are the values per cycle of the formats that the target decodes (all formats, unlimited, if None).
    Raises InfeasibleError if it decodes none that can hold the pattern.
    """
    listed = [f for f in candidates(pattern) if rates is None or f.name in rates]
    if not listed:
        names = ", ".join(f.name for f in candidates(pattern))
        raise InfeasibleError("HPCC3210", f"the target decodes no format that stores {pattern.spec()} ({names})")
    return tuple(sorted((_candidate(f, pattern, outs, ins, rates or {}, bytes_per_cycle) for f in listed), key=_order))


def _candidate(
    storage: Format, pattern: Pattern, outs: int, ins: int, rates: Mapping[str, float], bytes_per_cycle: float
) -> Candidate:
    size = storage.size_bits(outs, ins, pattern)
    rate = rates.get(storage.name, 0.0)
    decode = size.value_bits / 8 / rate if rate else 0.0
    transfer = size.total_bytes / bytes_per_cycle if bytes_per_cycle else 0.0
    sparse = compute_mode(storage) is not MatrixMode.DENSE
    layout = compute_bytes(pattern, outs, ins) if sparse else outs * ins
    return Candidate(storage, size, layout, max(decode, transfer))


def _order(candidate: Candidate) -> tuple[bool, float, int]:
    return candidate.mode is MatrixMode.DENSE, candidate.load_cycles, candidate.size.total_bytes
