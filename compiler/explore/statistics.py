"""Scores with the bounds that a sample of texts allows. Plain numpy.

All bounds are one-sided. With k comparisons each takes the confidence 1 - (1 - c) / k (Bonferroni), so that with the
confidence c none of k candidates looks better than it is: of many trials some are lucky.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """A figure of merit, larger being better, between its one-sided bounds, from `count` samples."""

    value: float
    low: float
    high: float
    count: int


def z_of(confidence: float, comparisons: int = 1) -> float:
    """Standard deviations of a one-sided bound that holds for all comparisons at once."""
    return NormalDist().inv_cdf(1 - (1 - confidence) / max(comparisons, 1))


def proportion(hits: NDArray[np.bool_], z: float) -> Score:
    """The share of hits with Wilson's bounds (Wilson, 1927)."""
    count, share = len(hits), float(np.mean(hits))
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Score(share, min(max(middle - reach, 0.0), share), max(min(middle + reach, 1.0), share), count)


def mean(values: Floats, z: float) -> Score:
    """The mean with z standard errors on either side."""
    count, value = len(values), float(np.mean(values))
    error = float(np.std(values, ddof=1)) / sqrt(count) if count > 1 else float("inf")
    return Score(value, value - z * error, value + z * error, count)


def perplexity(losses: Floats, tokens: NDArray[np.int64], z: float) -> Score:
    """Minus the perplexity exp(sum of losses / sum of tokens): larger is better. The error is a ratio's, over texts."""
    rate = float(losses.sum() / tokens.sum())
    residuals = losses - rate * tokens
    error = sqrt(float(np.sum(residuals**2)) * len(losses) / max(len(losses) - 1, 1)) / float(tokens.sum())
    return Score(-exp(rate), -exp(rate + z * error), -exp(rate - z * error), len(losses))


def macro_f1(predicted: NDArray[np.int64], labels: NDArray[np.int64], z: float, seed: int = 0) -> Score:
    """The mean over the classes of F1 = 2 hits / (predicted + labelled), bounded by the bootstrap's standard error."""
    classes = np.unique(labels)

    def value(weights: Floats) -> float:
        hits = np.array([weights[(predicted == c) & (labels == c)].sum() for c in classes])
        both = np.array([weights[predicted == c].sum() + weights[labels == c].sum() for c in classes])
        return float(np.mean(2 * hits / np.maximum(both, 1)))

    return _bootstrapped(value, len(labels), len(labels), z, seed)


def correlation(a: Floats, b: Floats, pairs: NDArray[np.int64], z: float, *, ranks: bool = False, seed: int = 0) -> Score:
    """Pearson's (with `ranks` Spearman's) correlation of two figures of `pairs` [n, 2] of documents.

    Pairs share documents, so it is the documents that the bootstrap draws: a pair counts the product of its two counts.
    """
    x, y = (_ranks(a), _ranks(b)) if ranks else (a.astype(np.float64), b.astype(np.float64))
    documents = int(pairs.max()) + 1

    def value(weights: Floats) -> float:
        w = weights[pairs[:, 0]] * weights[pairs[:, 1]]
        total = w.sum()
        if total <= 0:
            return 0.0
        u, v = x - (w @ x) / total, y - (w @ y) / total
        norm = sqrt(float(w @ u**2) * float(w @ v**2))
        return float(w @ (u * v)) / norm if norm > 0 else 0.0

    return _bootstrapped(value, documents, len(a), z, seed)


def _bootstrapped(value: Callable[[Floats], float], units: int, count: int, z: float, seed: int) -> Score:
    """A figure of weighted units, plus and minus z standard deviations over draws of the units with replacement."""
    random = np.random.default_rng(seed)
    draws = random.multinomial(units, np.full(units, 1 / units), size=RESAMPLES).astype(np.float64)
    found, error = value(np.ones(units)), float(np.std([value(weights) for weights in draws]))
    return Score(found, found - z * error, found + z * error, count)


def _ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
