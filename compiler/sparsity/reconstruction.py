"""Second-order pruning of one matrix: which weights go, and what the others become so that the layer's results stay.

Plain numpy, no IR. Minimises tr((W - V) H (W - V)^T) over the V[out, in] that obey a pattern, H = X^T X being the second
moments of the layer's inputs. Sources: Optimal Brain Surgeon (Hassibi & Stork, 1993) for the saliency w^2 / [H^-1]_jj and
the update; SparseGPT (Frantar & Alistarh, 2023) for the sweep over the columns, which shares one Cholesky factor among all
rows and chooses the mask of a group when the sweep reaches it. The sweep only corrects columns that are still to come, so
its mask is kept and the weights are then solved for: conjugate gradients inside the mask lead to what the full updates of
OBS, one weight after the other, end with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.sparsity.base import Pattern
from compiler.sparsity.blocks import Block
from compiler.sparsity.patterns import HP, NM
from compiler.sparsity.saliency import Mask, Matrix, keep_largest_of_all, magnitudes
from compiler.sparsity.unbalanced import Unstructured
from hw_targets.errors import InputError

Float64 = NDArray[np.float64]

DAMPING = 0.01
"""Added to the diagonal of H, as a share of its mean."""
COLUMNS = 128
"""Columns swept before the rest of the matrix is corrected: their errors are applied as one product."""
RESIDUAL = 1e-6
"""The gradient, as a share of the first one, at which a row is done; MOST_STEPS come first in large layers."""
MOST_STEPS = 30
"""The layer's error is then within a thousandth of the least one. A fixed number, since one that depends on the values would
turn a rounding difference upstream into a step more or less."""


@dataclass(frozen=True)
class Moments:
    """H = X^T X of a layer's inputs, [in, in] in float64, over `tokens` rows of X that are no padding."""

    gram: Float64
    tokens: int

    def __post_init__(self) -> None:
        if not np.isfinite(np.trace(self.gram)):
            raise InputError("HPCC1860", "the calibration data makes inputs that are NaN or infinite")

    @property
    def energies(self) -> Float64:
        """Squared norms of the inputs, [in]."""
        return np.diagonal(self.gram)


def damping(gram: Float64) -> float:
    """What is added to the diagonal; where nothing but zeros came in, 1, so that H is the identity."""
    level = DAMPING * float(np.mean(np.diagonal(gram)))
    return level if level > 0 else 1.0


def damped(gram: Float64) -> Float64:
    """H with its damping: inputs that are always 0 get a curvature too, and stay uncoupled."""
    result = gram.copy()
    result[np.diag_indices_from(result)] += damping(gram)
    return result


def inverse_factor(h: Float64) -> Float64:
    """U, upper triangular, with U^T U = H^-1. Rows k.. of U factor the inverse of H without its first k inputs."""
    reverse = np.linalg.cholesky(h[::-1, ::-1])[::-1, ::-1]  # h = R R^T with R upper triangular
    return np.asarray(np.linalg.inv(reverse), np.float64)


Rounding = Callable[[Float64, int], Float64]
"""The numbers that a file can hold nearest to a column [out] of given index: codes times scale, or a short float."""


@dataclass(frozen=True)
class Curvature:
    """H of a layer's inputs with its damping, and the factor of its inverse: made once for all that read these inputs."""

    h: Float64
    factor: Float64
    level: float
    """The damping: what was added to the diagonal."""

    @classmethod
    def of(cls, moments: Moments) -> Curvature:
        h = damped(moments.gram)
        return cls(h, inverse_factor(h), damping(moments.gram))


def corrected(w: Matrix, curvature: Curvature, products: Float64) -> Float64:
    """The dense matrix whose results on the inputs X of now come closest to wanted ones Y: `products` is Y X^T, [out, in].

    The damping pulls towards W, so that inputs which say little change little.
    """
    return ((products + curvature.level * w) @ curvature.factor.T) @ curvature.factor


def reconstruct(w: Matrix, curvature: Curvature, pattern: Pattern, rounded: Rounding | None = None) -> tuple[Float64, Mask]:
    """The V[out, in] that obeys `pattern` and keeps V X close to W X, and the mask it was chosen with.

    What rounding does to one column is made up for in the later ones. Raises InputError for a W that is not finite.
    """
    magnitudes(w)  # which says what is wrong with weights that cannot be ranked
    target = w.astype(np.float64)
    mask = choose_mask(target, curvature.factor, pattern)
    values = solve_inside(target, curvature.h, mask)
    return values if rounded is None else round_inside(values, curvature.factor, mask, rounded), mask


def output_error(w: Matrix, v: Matrix, moments: Moments) -> float:
    """||(W - V) X||^2 / ||W X||^2: what a layer's results lose; 0 where nothing comes in."""
    change, whole = w.astype(np.float64) - v, w.astype(np.float64)
    lost, had = (float(((m @ moments.gram) * m).sum()) for m in (change, whole))
    return lost / had if had > 0 else 0.0


# ---- masks ----------------------------------------------------------------------------------------------------------


def obs_saliency(w: Float64, factor: Float64, start: int = 0, stop: int | None = None) -> Float64:
    """w^2 / [H^-1]_jj of the columns start to stop, H without the inputs before `start`."""
    stop = len(factor) if stop is None else stop
    return w[:, start:stop] ** 2 / (factor[start:stop, start:stop] ** 2).sum(axis=0)


def choose_mask(w: Float64, factor: Float64, pattern: Pattern) -> Mask:
    """Sweep the columns: the mask of a strip is chosen when the sweep reaches it, on weights corrected until then."""
    choose, strip = _chooser(w, factor, pattern)
    if strip >= w.shape[1]:
        return choose(obs_saliency(w, factor), 0)
    mask = np.empty(w.shape, np.bool_)

    def decide(current: Float64, start: int, stop: int) -> Mask:
        mask[:, start:stop] = choose(obs_saliency_of(current, factor, start, stop), start)
        return mask[:, start:stop]

    _sweep(w, factor, strip, decide)
    return mask


def obs_saliency_of(current: Float64, factor: Float64, start: int, stop: int) -> Float64:
    """`obs_saliency` of columns that stand alone in `current`."""
    return current**2 / (factor[start:stop, start:stop] ** 2).sum(axis=0)


def _chooser(w: Float64, factor: Float64, pattern: Pattern) -> tuple[Callable[[Float64, int], Mask], int]:
    """What chooses the mask of a strip of columns from its saliency and first column, and the strips' width.

    N:M and HP choose inside a group or a window. Where a whole tensor shares one budget, it is split over the strips by the
    saliency at the start. What else there is chooses once, for the whole matrix.
    """

    def whole(scores: Float64, start: int) -> Mask:
        return pattern.mask(scores, scores)

    match pattern:
        case NM() if pattern.along == "in":
            return whole, pattern.m
        case HP() if isinstance(pattern.window, int):
            return whole, pattern.window
        case NM():
            return whole, 1
        case Unstructured():
            chosen = pattern.mask(w, obs_saliency(w, factor))
            counts = _strip_sums(chosen, COLUMNS)
            return lambda scores, start: keep_largest_of_all(scores, int(counts[start // COLUMNS])), COLUMNS
        case Block() if _splits_into_strips(pattern, w):
            strip = COLUMNS // pattern.cols * pattern.cols
            used = pattern.used_blocks(pattern.mask(w, obs_saliency(w, factor)))
            per_strip = _strip_sums(used, strip // pattern.cols)
            return lambda scores, start: _blocks_of_count(pattern, scores, int(per_strip[start // strip])), strip
        case _:
            return whole, w.shape[1]


def _splits_into_strips(pattern: Block, w: Float64) -> bool:
    """Whether all blocks share one budget: none is smaller at an edge, no row of blocks has its own."""
    even = w.shape[0] % pattern.rows == 0 and w.shape[1] % pattern.cols == 0
    return even and pattern.cols <= COLUMNS and not pattern.balanced


def _strip_sums(chosen: Mask, width: int) -> NDArray[np.int64]:
    """How many are true in each strip of `width` columns."""
    columns = chosen.sum(axis=0, dtype=np.int64)
    return np.asarray(np.add.reduceat(columns, np.arange(0, len(columns), width)), np.int64)


def _blocks_of_count(pattern: Block, scores: Float64, count: int) -> Mask:
    if not count:
        return np.zeros(scores.shape, np.bool_)
    blocks = -(-scores.shape[0] // pattern.rows) * -(-scores.shape[1] // pattern.cols)
    return replace(pattern, keep=Fraction(count, blocks)).mask(scores, scores)


Decide = Callable[[Float64, int, int], Mask]


def _sweep(w: Float64, factor: Float64, strip: int, decide: Decide) -> Float64:
    """SparseGPT's sweep: the weights that `decide` drops go to zero, later columns make up for it. Returns the result."""
    current, ins = w.copy(), w.shape[1]
    width = max(COLUMNS // strip, 1) * strip
    for start in range(0, ins, width):
        stop = min(start + width, ins)
        errors, keep = np.zeros((len(w), stop - start)), np.empty((0, 0), np.bool_)
        for column in range(start, stop):
            if (column - start) % strip == 0:
                first, last = column, min(column + strip, stop)
                keep = decide(current[:, first:last], first, last)
            dropped = np.where(keep[:, (column - start) % strip], 0.0, current[:, column])
            errors[:, column - start] = dropped / factor[column, column]
            current[:, column:stop] -= np.outer(errors[:, column - start], factor[column, column:stop])
        current[:, stop:] -= errors @ factor[start:stop, stop:]
    return current


# ---- values ---------------------------------------------------------------------------------------------------------


def solve_inside(w: Float64, h: Float64, mask: Mask, residual: float = RESIDUAL) -> Float64:
    """argmin of tr((W - V) H (W - V)^T) over V that are zero outside the mask; all rows at once.

    Conjugate gradients, scaled by the diagonal, until each row's gradient is `residual` of the first one. They start from
    W inside the mask and never step out of it. In single precision where no more is asked for; H is brought near 1 by a
    power of two, which changes no bit of the result and keeps its products in range.
    """
    dtype = np.float32 if residual >= RESIDUAL else np.float64
    h = np.ldexp(h, -np.frexp(np.mean(np.diagonal(h)))[1])
    curvature, inside = h.astype(dtype), mask.astype(dtype)
    inverse_diagonal = 1 / np.diagonal(curvature)
    values = np.where(mask, w, 0.0).astype(dtype)
    gradient = ((w - values) @ h).astype(dtype) * inside
    direction = gradient * inverse_diagonal
    energy = _dots(gradient, direction)
    least = energy * residual**2
    for _ in range(MOST_STEPS if dtype == np.float32 else 4 * MOST_STEPS):
        busy: Mask = energy > least
        if not busy.any():
            break
        curved = (direction @ curvature) * inside
        step = np.where(busy, energy / _nonzero(_dots(direction, curved)), 0).astype(dtype)
        values += step[:, None] * direction
        gradient -= step[:, None] * curved
        scaled = gradient * inverse_diagonal
        new = _dots(gradient, scaled)
        direction = scaled + np.where(busy, new / _nonzero(energy), 0).astype(dtype)[:, None] * direction
        energy = np.where(busy, new, energy)
    return values.astype(np.float64)


def _dots(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Row by row."""
    return np.asarray(np.einsum("ij,ij->i", a, b))


def _nonzero(values: NDArray[Any]) -> NDArray[Any]:
    return np.where(values == 0, 1.0, values)


def round_inside(values: Float64, factor: Float64, mask: Mask, rounded: Rounding) -> Float64:
    """Round column by column as GPTQ does, each error made up for by the columns that follow."""
    current = values.copy()
    for column in range(values.shape[1]):
        wanted = current[:, column].copy()
        current[:, column] = np.where(mask[:, column], rounded(wanted, column), 0.0)
        error = (wanted - current[:, column]) / factor[column, column]
        current[:, column + 1 :] -= np.outer(error, factor[column, column + 1 :])
    return current
