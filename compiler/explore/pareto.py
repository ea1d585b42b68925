"""Points that no other point beats. Plain numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether the first is nowhere worse (larger) and somewhere better."""
    return all(a <= b for a, b in zip(first, second, strict=True)) and tuple(first) != tuple(second)


def front(rows: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the rows that none dominates, every column being better when smaller; equal rows stay together."""
    if not rows:
        return []
    values = np.asarray(rows, np.float64)
    kept: list[int] = []
    for index, row in enumerate(values):
        beaten = (values <= row).all(axis=1) & (values < row).any(axis=1)
        if not beaten.any():
            kept.append(index)
    return kept
