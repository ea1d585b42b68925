"""Where the slots and kept inputs of N:M and HP matrices lie (section 2 of docs/FORMATS.md)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from runtime.decoding.fields import Integers, ceil, damaged

MAX_GROUP = 16


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
        raise damaged(f"a matrix of {outs} x {ins} with groups of {n}:{m} is not possible (1 <= n <= m <= {MAX_GROUP})")
    coarse = block_rows > 0
    if coarse and not 1 <= keep <= window:
        raise damaged(f"a window of {window} inputs cannot keep {keep}")
    size = window if coarse else ins
    sizes = np.minimum(size, ins - np.arange(0, ins, size))
    kept = np.minimum(sizes, ceil(ceil(keep * sizes, window), m) * m) if coarse else sizes
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
