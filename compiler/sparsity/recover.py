"""Finds the kept inputs of a hierarchical tile whose weights already obey the pattern but do not use all kept inputs.

A kept input may hold zeros in all rows of its tile (few rows, or codes that rounded to 0). The groups of the fine
pattern are counted over KEPT inputs, so which unused inputs are counted in matters: the wrong ones shift the groups.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compiler.sparsity.saliency import Mask, group_quota


def recover_kept(used: Mask, keep: int, n: int, m: int) -> Mask | None:
    """Inputs to keep in one tile, or None if no choice of `keep` inputs makes it obey n:m.

    `used` is bool[rows, window], true where a weight is not zero. Each group of m kept inputs owns an interval of the
    window; a set exists if the window splits into intervals, each with enough inputs for its group, no more used ones
    than the group holds, and in no row more weights than the group's quota.
    """
    sizes = [m] * (keep // m) + [keep % m] * (keep % m > 0)
    columns: Mask = np.logical_or.reduce(used, axis=0)
    ends = _interval_ends(used, columns, sizes, n, m)
    if ends is None:
        return None
    kept = columns.copy()
    for start, end, size in zip([0, *ends[:-1]], ends, sizes, strict=True):
        spare = np.flatnonzero(~columns[start:end])[: size - int(np.count_nonzero(columns[start:end]))]
        kept[start + spare] = True
    assert np.count_nonzero(kept) == keep
    return kept


def _interval_ends(used: Mask, columns: Mask, sizes: list[int], n: int, m: int) -> list[int] | None:
    """The end of each group's interval, found by a forward sweep over reachable ends and a walk back."""
    window = used.shape[1]
    limits = {size: _furthest_ends(used, columns, size, group_quota(size, n, m)) for size in set(sizes)}
    origins: list[NDArray[np.int64]] = []
    reachable = np.zeros(window + 1, np.bool_)
    reachable[0] = True
    for size in sizes:
        origin = np.full(window + 1, -1, np.int64)
        for start in np.flatnonzero(reachable)[::-1]:
            origin[start + size : limits[size][start] + 1] = start
        origins.append(origin)
        reachable = origin >= 0
    if not reachable[window]:
        return None
    ends = [window]
    for origin in origins[:0:-1]:
        ends.append(int(origin[ends[-1]]))
    return ends[::-1]


def _furthest_ends(used: Mask, columns: Mask, size: int, quota: int) -> NDArray[np.int64]:
    """For each start, the largest end such that the interval fits a group of `size` with `quota` weights per row."""
    rows, window = used.shape
    per_row = np.zeros((rows, window + 1), np.int64)
    np.cumsum(used, axis=1, out=per_row[:, 1:])
    per_window = np.concatenate([[0], np.cumsum(columns)])
    result = np.empty(window + 1, np.int64)
    for start in range(window + 1):
        fits = per_window[start:] - per_window[start] <= size
        fits &= (per_row[:, start:] - per_row[:, start : start + 1]).max(axis=0) <= quota
        result[start] = start + np.count_nonzero(fits) - 1
    return result
