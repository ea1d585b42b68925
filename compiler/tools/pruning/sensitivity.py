"""What a layer costs when it alone is pruned: measured on the model's results, for `--allocate global`.

Every layer is pruned alone once, at the level that was asked for, and the model runs on calibration data: the damage to its
results, next to what the layer's own results lose, says how much the model minds. At the other levels the layer's own loss
is computed from the moments of its inputs, and scaled by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compiler.sparsity.allocation import Level, allocate, levels_of
from compiler.sparsity.base import Dense
from compiler.sparsity.reconstruction import Moments, output_error
from compiler.sparsity.saliency import activation_scores
from compiler.tools.pruning.calibration import Calibration, real_rows

if TYPE_CHECKING:
    from compiler.tools.pruning.session import Site

Array = NDArray[Any]

SAMPLES = 32
"""Samples that the model runs on once per layer."""


def allocate_globally(sites: Sequence[Site], calibration: Calibration) -> None:
    """Give each site the level of its pattern that `allocate` chooses; the sum of zeros is at least the uniform one."""
    moments = _moments(sites, calibration)
    size = len(calibration.batches[0].real)
    batches = calibration.batches[: max(SAMPLES // size, 1)]
    few = Calibration(calibration.module, calibration.store, batches, computed={})
    wanted = few.outputs()
    levels: dict[str, list[Level]] = {}
    least = 0
    for site in sites:
        own = moments[site.role]
        scores = activation_scores(site.matrix, own.energies)

        def pruned(pattern: Any, site: Site = site, scores: Array = scores) -> Array:
            return np.where(pattern.mask(site.matrix, scores), site.matrix, np.float32(0))

        asked = pruned(site.pattern)
        few.replaced = dict.fromkeys(site.ops, asked)
        loss = output_error(site.matrix, asked, own)
        gain = _distance(few.outputs(), wanted, few) / loss if loss > 0 else 0.0
        outs, ins = site.matrix.shape
        least += site.matrix.size - site.pattern.kept(outs, ins)
        levels[site.role] = [
            Level(p, site.matrix.size - p.kept(outs, ins), gain * output_error(site.matrix, pruned(p), own))
            for p in levels_of(site.pattern)
            if ins >= 4 * p.group
        ]
    few.replaced = {}
    for role, level in allocate(levels, least).items():
        site = next(site for site in sites if site.role == role)
        site.pattern = level.pattern if level.zeros else Dense()


def _moments(sites: Sequence[Site], calibration: Calibration) -> dict[str, Moments]:
    """Of each site's inputs in the unpruned model, over all of its uses."""
    by_op = {op: site.role for site in sites for op in site.ops}
    found: dict[str, Moments] = {}
    last: tuple[object, Moments] | None = None
    for op, inputs in calibration.linears():
        if op in by_op:
            if last is None or last[0] is not op.x:
                last = (op.x, calibration.moments(op, inputs))
            role, known = by_op[op], found.get(by_op[op])
            found[role] = last[1] if known is None else Moments(known.gram + last[1].gram, known.tokens + last[1].tokens)
    return found


def _distance(got: list[list[Array]], wanted: list[list[Array]], calibration: Calibration) -> float:
    """Squared distance over squared norm, of real tokens, summed over the float results."""
    total = 0.0
    for mine, theirs in zip(zip(*got, strict=True), zip(*wanted, strict=True), strict=True):
        if theirs[0].dtype.kind != "f" or theirs[0].ndim < 2:
            continue
        pairs = [
            (real_rows(a, batch.real), real_rows(b, batch.real))
            for a, b, batch in zip(mine, theirs, calibration.batches, strict=True)
        ]
        norm = sum(float(np.square(b, dtype=np.float64).sum()) for _, b in pairs)
        total += sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs) / max(norm, 1e-30)
    return total
