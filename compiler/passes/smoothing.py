"""Which columns of a norm's result are divided by a power of two before they are coded (docs/NUMERICS.md, section 7).

A few channels of a transformer's activations are several times larger than the others, so one scale per token wastes
most of the codes. As in SmoothQuant (arXiv 2211.10438) the weights take over a part of that size; the factors are powers
of two, so that neither division nor multiplication rounds. The sizes come from one made-up batch: no data is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ArrayAttr, DenseArrayBase, ModuleOp, i8
from xdsl.ir import Attribute, SSAValue

from compiler.dialects import nn
from compiler.dialects.sparsity import pattern_of
from compiler.interpreters.evaluate import walk
from compiler.interpreters.probe import probe
from compiler.weights import WeightStore

Array = NDArray[Any]

_NORMS = (nn.LayerNormOp, nn.RmsNormOp)
MOST = 4
"""Factors are 2^-MOST to 2^MOST: all the gain, and weights stay far from overflow."""


ATTRIBUTE = "hpcc.smoothing"
"""A module's factors where they are given: the exponents of every norm in order, none for one that is not smoothed."""


def give_factors(module: ModuleOp, factors: Attribute) -> None:
    """Have `quantize` use these factors, which `factors_of` has made for the same model of another shape."""
    module.attributes[ATTRIBUTE] = factors


def factors_of(module: ModuleOp, store: WeightStore) -> Attribute:
    """The factors of a module as an attribute: programs of one model for several shapes share their weights if they share
    these, which depend on the shape of the made-up batch."""
    found = smoothing_factors(module, store)
    exponents = (np.log2(found[op.result]) if op.result in found else np.zeros(0) for op in _norms(module))
    return ArrayAttr([DenseArrayBase.from_list(i8, [int(e) for e in row]) for row in exponents])


def _given(module: ModuleOp) -> Mapping[SSAValue, Array] | None:
    """The factors that were given to the module, which it then no longer names."""
    given = module.attributes.pop(ATTRIBUTE, None)
    if not isinstance(given, ArrayAttr):
        return None
    rows = [np.exp2(np.array(row.get_values(), np.float32)) for row in given if isinstance(row, DenseArrayBase)]
    return {op.result: row for op, row in zip(_norms(module), rows, strict=True) if len(row)}


def _norms(module: ModuleOp) -> list[nn.LayerNormOp | nn.RmsNormOp]:
    return [op for op in module.walk() if isinstance(op, _NORMS)]


def smoothing_factors(module: ModuleOp, store: WeightStore) -> Mapping[SSAValue, Array]:
    """fp32 factors [columns] by the norm's result they multiply; norms whose readers gain nothing are absent."""
    given = _given(module)
    if given is not None:
        return given
    readers = {op.result: _readers(op, store) for op in _norms(module)}
    norms = {result: weights for result, weights in readers.items() if weights}
    factors: dict[SSAValue, Array] = {}
    if not norms:
        return factors
    for op, results in walk(module, store, probe(module)):
        if isinstance(op, _NORMS) and op.result in norms:
            found = balance(_largest(results[0]), np.maximum.reduce([_largest(w) for w in norms.pop(op.result)]))
            if (found != 1).any():
                factors[op.result] = found
            if not norms:
                break
    return factors


def balance(activations: Array, weights: Array) -> Array:
    """Factors for columns with these largest magnitudes: sqrt(weights / activations), relative to the median column,
    rounded to a power of two. A column that is zero on either side is left out of the median and takes the limit."""
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.log2(weights.astype(np.float64) / activations) / 2
    usable = np.isfinite(exponent)
    if not usable.any():
        return np.ones(len(activations), np.float32)
    exponent = np.nan_to_num(exponent - np.median(exponent[usable]), nan=0.0, posinf=0.0, neginf=-MOST)
    return np.exp2(np.clip(np.rint(exponent), -MOST, MOST)).astype(np.float32)


def _readers(norm: nn.LayerNormOp | nn.RmsNormOp, store: WeightStore) -> list[Array]:
    """The out x in weights of the linears that read a norm's result; empty if the codes of one must stay as they are."""
    found: list[Array] = []
    for use in norm.result.uses:
        if not isinstance(use.operation, nn.LinearOp):
            continue
        owner = use.operation.weight.owner
        if not isinstance(owner, nn.WeightOp) or pattern_of(owner.result.type).sharing:
            return []  # a factor per column would part what is tied
        array = store.get(owner.key.data)
        found.append(array.T if owner.transposed else array)
    return found


def _largest(rows: Array) -> Array:
    """The largest magnitude of every column of [..., columns]."""
    flat = rows.reshape(-1, rows.shape[-1])
    return np.maximum(flat.max(axis=0), -flat.min(axis=0))
