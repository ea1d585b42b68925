"""Which weights matter most: magnitudes, column sums in a fixed order, selection with ties to the lower index.

Plain numpy. Results never depend on the memory layout of the weights or on numpy's summation order, so that the same
matrix stored the other way round is pruned alike.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_targets.errors import InputError

Matrix = NDArray[Any]
Mask = NDArray[np.bool_]
Scores = NDArray[Any]

PAIRWISE_LIMIT = 16
"""Up to this group size, ranks come from pairwise comparisons (t^2 / 2 vector operations), above it from a partition."""


def magnitudes(w: Matrix) -> NDArray[np.float32]:
    """|w| as contiguous float32, which orders single weights as w^2 does. Raises InputError on NaN and infinity."""
    if w.ndim != 2:
        raise InputError("HPCC1801", f"a pattern applies to a matrix, not to an array of shape {w.shape}")
    result = np.ascontiguousarray(np.abs(w.astype(np.float32, copy=False)))
    if result.size and not np.isfinite(result.max()):
        raise InputError("HPCC1802", "the weights hold NaN or infinity", hint="they cannot be ranked for pruning")
    return result


def block_sums(values: Scores, rows: int) -> NDArray[np.float64]:
    """Sums over each block of `rows` rows: [outs, ins] to [ceil(outs / rows), ins], in float64.

    The order is an aligned pairwise tree over the rows of a block, padded with zeros: the same for any layout.
    """
    outs, ins = values.shape
    rows = max(min(rows, outs), 1)  # a block higher than the matrix would add zeros alone
    blocks = -(-outs // rows)
    if outs % rows:
        values = np.concatenate([values, np.zeros((blocks * rows - outs, ins), values.dtype)])
    level = values.astype(np.float64, copy=False).reshape(blocks, rows, ins)
    while level.shape[1] > 1:
        pairs = level[:, 0 : level.shape[1] // 2 * 2 : 2] + level[:, 1::2]
        level = np.concatenate([pairs, level[:, -1:]], axis=1) if level.shape[1] % 2 else pairs
    return level[:, 0]


def keep_largest(values: Scores, keep: int) -> Mask:
    """True at the `keep` largest entries along the last axis; of equal entries the lower index stays."""
    size = values.shape[-1]
    if keep >= size:
        return np.ones(values.shape, np.bool_)
    if size > PAIRWISE_LIMIT:
        return _above_a_rank(values, keep)
    lanes = np.ascontiguousarray(np.moveaxis(values, -1, 0))
    ranks = np.zeros(lanes.shape, np.uint8)
    for later in range(1, size):
        for earlier in range(later):
            wins = lanes[earlier] >= lanes[later]
            ranks[later] += wins
            ranks[earlier] += ~wins
    return np.moveaxis(ranks < keep, 0, -1)


def _above_a_rank(values: Scores, keep: int) -> Mask:
    """`keep_largest` by the value of rank `keep`, which takes linear time: a tenth of a sort's for floats."""
    if keep <= 0:
        return np.zeros(values.shape, np.bool_)
    rank = values.shape[-1] - keep
    least = np.partition(values, rank, axis=-1)[..., rank : rank + 1]
    mask, ties = values > least, values == least
    missing = keep - np.count_nonzero(mask, axis=-1, keepdims=True)
    crowded: Mask = np.greater(np.count_nonzero(ties, axis=-1), missing[..., 0])
    if crowded.any():
        ties[crowded] &= np.cumsum(ties[crowded], axis=-1) <= missing[crowded]
    return mask | ties


def group_quota(size: int, n: int, m: int) -> int:
    """Entries kept of `size` consecutive ones in groups of m: n per full group, ceil(n t / m) of a tail of t < m."""
    return size // m * n + -(-n * (size % m) // m)


def keep_per_group(values: Scores, n: int, m: int) -> Mask:
    """Groups of m along the last axis keep their n largest entries, a tail group of t < m its ceil(n t / m) largest."""
    size = values.shape[-1]
    body = size // m * m
    lead = values.shape[:-1]
    mask = np.empty(values.shape, np.bool_)
    grouped = values[..., :body].reshape(*lead, body // m, m)
    mask[..., :body] = keep_largest(grouped, n).reshape(*lead, body)
    if body < size:
        mask[..., body:] = keep_largest(values[..., body:], group_quota(size - body, n, m))
    return mask


def group_excess(used: Mask, n: int, m: int) -> NDArray[np.int64]:
    """By how many each group of m along the last axis, a tail group included, exceeds its quota; <= 0 = it does not."""
    size = used.shape[-1]
    groups = -(-size // m)
    padded = np.zeros((*used.shape[:-1], groups * m), np.bool_)
    padded[..., :size] = used
    counts = np.count_nonzero(padded.reshape(*used.shape[:-1], groups, m), axis=-1)
    quota = np.full(groups, n)
    if size % m:
        quota[-1] = group_quota(size % m, n, m)
    return counts - quota


def keep_largest_of_all(values: Scores, keep: int) -> Mask:
    """True at the `keep` largest entries of the whole array; of equal entries the one of lower index (row by row) stays.

    Selects by the keep-th largest value, which takes linear time.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    if keep >= flat.size:
        return np.ones(values.shape, np.bool_)
    if keep <= 0:
        return np.zeros(values.shape, np.bool_)
    least = np.partition(flat, flat.size - keep)[flat.size - keep]
    mask = flat > least
    mask[np.flatnonzero(flat == least)[: keep - np.count_nonzero(mask)]] = True
    return mask.reshape(values.shape)


def fill_evenly(mask: Mask, count: int) -> Mask:
    """The mask with further entries, spread evenly over those that are false (row by row), until `count` are true."""
    missing = count - int(np.count_nonzero(mask))
    if missing <= 0:
        return mask
    filled = np.ascontiguousarray(mask).reshape(-1).copy()
    free = np.flatnonzero(~filled)
    filled[free[np.arange(missing) * len(free) // missing]] = True
    return filled.reshape(mask.shape)


def activation_scores(w: Matrix, energies: NDArray[np.float64]) -> NDArray[np.float64]:
    """(|w| x input norm)^2 for W[out, in] and the squared norms of its inputs, [in] (Wanda, Sun et al., 2023).

    Inputs that are always 0 rank below all others, among themselves by magnitude.
    """
    least = energies[energies > 0].min(initial=1.0) * 1e-12
    return w.astype(np.float64) ** 2 * np.where(energies > 0, energies, least)


def random_scores(shape: tuple[int, ...], seed: int, name: str) -> NDArray[np.float64]:
    """Scores without meaning, the same for the same seed and name."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest)]).random(shape) + 1e-9
