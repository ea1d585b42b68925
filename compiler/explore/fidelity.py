"""When a cheap look at a candidate is enough to know that the dear one would be wasted.

The steps are: a sensitivity estimate (no run of the pruned model), a subset of the dev set, the dev set, training. A step
rules out only what lies beyond its own uncertainty, so that the winner is the one that a full sweep would find.
"""

from __future__ import annotations

from collections.abc import Mapping

from compiler.explore.statistics import Score

RULED_OUT_Z = 3.0
"""Standard deviations of the subset's upper bound: one candidate in 740 is ruled out wrongly."""
WORSE = 1.5
"""An estimate of damage this many times that of one that failed outright is not tried."""
RECOVERED = 0.95
"""The share of what one-shot pruning has lost that training is believed to bring back at most. 200 steps brought back 0.70
of it (nm:2:8 in docs/RESULTS.md). A share that is too high costs time, one that is too low costs winners."""


def is_hopeless(subset: Score, limit: float) -> bool:
    """Whether even the upper bound of the subset's score (at RULED_OUT_Z) misses the limit."""
    return subset.high < limit


def is_beyond(estimate: float, failed: Mapping[str, float]) -> str:
    """The candidate that failed with so much less estimated damage that this one need not be tried, else an empty string.

    `failed` holds the estimates of candidates whose upper bound misses the limit.
    """
    return next((name for name, other in failed.items() if other > 0 and estimate >= WORSE * other), "")


def may_reach(one_shot: Score | None, dense: Score | None, limit: float) -> bool:
    """Whether training may bring a pruning to the limit: its upper bound, and most of what the dense model is above it."""
    if dense is None:
        return True
    if one_shot is None:
        return dense.high >= limit
    return one_shot.high + RECOVERED * max(dense.high - one_shot.high, 0.0) >= limit
