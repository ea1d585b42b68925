"""Which weights count at a step: a pattern's mask of |w|, made anew as the dense weights move (SR-STE). Plain numpy.

Gradual pruning leaves the largest of the weights to go in place for a while, whatever the pattern. On a ladder, a weight
that an earlier rung has made zero stays zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from compiler.sparsity.base import Pattern
from compiler.sparsity.saliency import Mask, Matrix, keep_largest_of_all, magnitudes


@dataclass
class MaskedWeight:
    """The mask of one matrix [out, in] as it changes; `allowed` are the weights that earlier rungs have kept."""

    pattern: Pattern
    mask: Mask
    allowed: Mask | None = None
    churn: float = field(default=0.0)
    """Share of the matrix whose mask the last refresh has changed."""

    def refresh(self, w: Matrix, extra_share: float) -> None:
        """The pattern's mask of |w|, with the largest `extra_share` of the other weights. Raises InputError for NaN."""
        scores = magnitudes(w)
        if self.allowed is not None:
            scores = np.where(self.allowed, scores, np.float32(0))
        mask = self.pattern.mask(scores)
        room = (
            mask.size - int(np.count_nonzero(mask)) if self.allowed is None else int(np.count_nonzero(self.allowed & ~mask))
        )
        extra = round(extra_share * room)
        if extra:
            mask = mask | keep_largest_of_all(np.where(mask, np.float32(-1), scores), extra)
        if self.allowed is not None:
            mask = mask & self.allowed
        self.churn = float(np.count_nonzero(mask != self.mask)) / mask.size
        self.mask = mask

    def descend(self, pattern: Pattern) -> None:
        """Go on to the next rung: what is masked now does not return."""
        self.allowed = self.mask.copy()
        self.pattern = pattern


def start(pattern: Pattern, shape: tuple[int, int]) -> MaskedWeight:
    """Nothing masked yet."""
    return MaskedWeight(pattern, np.ones(shape, np.bool_))
