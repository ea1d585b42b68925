"""ITA's integer streaming softmax, to the bit (docs/NUMERICS.md, 5.11; arXiv 2307.03493): an option of the accelerator.

A row's scores arrive in groups of 16. The unit keeps the largest logit and an integer sum of powers of two, which it shifts
down whenever the largest grows: it never needs the whole row. Numpy only, rows first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hw_targets import numerics
from hw_targets.numerics import I32, U8, AnyArray

GROUP = 16
"""Logits that arrive together."""
MAX_SHIFT = 5
"""The paper's; its successor's hardware has 0."""
MAX_KEYS = 2048
"""Keys up to which ITA's accumulator is documented."""
ONE = 256
"""2^8, the exponential of 0."""
INVERSE = 255 * 256
"""What is divided by the sum: 65,280."""
TOTAL = 255
"""What the probabilities of a row stand for together; their sum is about that."""

_LOG2E = np.uint32(0x3FB8AA3B).view(np.float32)
_LARGEST_SHIFT = 31

Logits = NDArray[np.int64]


def logits(s: AnyArray, shift: int) -> Logits:
    """clip(rne(s * (log2 e * 2^shift)), -128, 127) of fp32 scores; NaN gives -128."""
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.rint(np.asarray(s, np.float32) * np.float32(_LOG2E * np.float32(1 << shift)))
    return np.nan_to_num(np.clip(steps, -128, 127), nan=-128.0).astype(np.int64)


def _shift_of(distance: Logits, shift: int) -> Logits:
    """sh(d) = d / 2^shift, rounded half up; what shifts everything out is cut to 31."""
    half = (1 << shift) >> 1
    return np.minimum((distance + half) >> shift, _LARGEST_SHIFT)


def probabilities(x: Logits, attended: AnyArray, shift: int) -> U8:
    """u8 [R, C] of logits [R, C]; 0 where `attended` [R, C] is not set, and such a column does not count."""
    rows, cols = x.shape
    maximum = np.full(rows, -128, np.int64)
    total = np.zeros(rows, np.int64)
    for first in range(0, cols, GROUP):
        part, live = x[:, first : first + GROUP], attended[:, first : first + GROUP]
        larger = np.maximum(maximum, np.where(live, part, -128).max(axis=1))
        total >>= _shift_of(larger - maximum, shift)
        distance = np.where(live, larger[:, None] - part, 0)
        total += np.where(live, ONE >> _shift_of(distance, shift), 0).sum(axis=1)
        maximum = larger
    inverse = INVERSE // np.maximum(total, 1)
    distance = np.where(attended, maximum[:, None] - x, 0)
    return np.where(attended, inverse[:, None] >> _shift_of(distance, shift), 0).astype(np.uint8)


def from_scores(s: AnyArray, attended: AnyArray | None, shift: int) -> tuple[U8, I32]:
    """Probabilities u8 [..., R, C] of fp32 scores [..., R, C], and l [..., R]: 255, or 0 in a row without attended columns.

    `attended` is [C], [R, C], or None for all.
    """
    live = np.ones(s.shape, np.bool_) if attended is None else np.broadcast_to(attended, s.shape)
    rows = (-1, s.shape[-1])
    p = probabilities(logits(s, shift).reshape(rows), live.reshape(rows), shift).reshape(s.shape)
    return p, np.where(live.any(axis=-1), TOTAL, 0).astype(np.int32)


def softmax(
    acc: AnyArray,
    q_scale: AnyArray,
    k_scale: AnyArray,
    score_scale: float,
    mask: AnyArray | None = None,
    additive: AnyArray | None = None,
    *,
    shift: int,
    causal: bool = False,
    later: int = 0,
) -> tuple[U8, I32]:
    """Probabilities and l of score sums acc i32 [..., R, C]; the arguments are those of numerics.softmax.

    Raises ValueError for more than MAX_KEYS columns.
    """
    if acc.shape[-1] > MAX_KEYS:
        raise ValueError(f"a streaming softmax row of {acc.shape[-1]} keys exceeds {MAX_KEYS}")
    s = numerics.scores(acc, q_scale, k_scale, score_scale, additive)
    return from_scores(s, numerics.attended_columns(acc.shape[-2:], mask, causal=causal, later=later), shift)
