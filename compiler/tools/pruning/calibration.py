"""Runs calibration data through a fused module, one operation at a time over all samples, and shows each linear's inputs.

A linear that was pruned meanwhile runs with its new weights, so what comes later sees what the pruned model would see.
Only values that are still wanted are kept: the residual stream, the operands of one operation, and its result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue

from compiler.dialects.nn import BinaryKind, BinaryOp, LinearOp, ReshapeOp, shape_of
from compiler.interpreters import load_meanings
from compiler.interpreters.evaluate import node_name, run_op
from compiler.module import main_function, names_of
from compiler.sparsity.reconstruction import Moments
from compiler.weights import WeightStore
from hw_targets.errors import InputError

Array = NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """Inputs by name, and which tokens of them are real: bool [batch, tokens], or [batch] where there is no mask."""

    inputs: Mapping[str, Array]
    real: Array


@dataclass
class Calibration:
    """Walks @main; `replaced` holds the new matrices of linears, [out, in] fp32, as the caller fills it in."""

    module: ModuleOp
    store: WeightStore
    batches: Sequence[Batch]
    replaced: dict[LinearOp, Array] = field(default_factory=dict[LinearOp, Array])
    results: list[list[Array]] = field(default_factory=list[list[Array]])
    """Of each batch, once `linears` has come to its end."""
    computed: dict[Operation, tuple[Array, ...]] | None = None
    """What is computed from constants alone, as weights behind a scale are; an empty one is filled for the next walk."""
    _values: list[dict[SSAValue, Array]] = field(default_factory=list[dict[SSAValue, Array]])

    def __post_init__(self) -> None:
        if not any(batch.real.any() for batch in self.batches):
            raise InputError("HPCC1862", "the calibration data is padding only", hint="its mask needs tokens that are 1")

    def linears(self) -> Iterator[tuple[LinearOp, list[Array]]]:
        """Every linear in graph order with its inputs in each batch, before it runs."""
        load_meanings()
        function = main_function(self.module)
        block = function.body.block
        names = names_of(function, "input_names")
        constants: dict[SSAValue, Array] = {}
        values: list[dict[SSAValue, Array]] = [
            {argument: batch.inputs[name] for name, argument in zip(names, block.args, strict=True)}
            for batch in self.batches
        ]
        self._values = values
        left = {value: len(list(value.uses)) for op in block.ops for value in op.operands}
        for op in block.ops:
            if isinstance(op, ReturnOp):
                self.results = [[constants[o] if o in constants else known[o] for o in op.operands] for known in values]
                return
            if isinstance(op, LinearOp):
                yield op, [known[op.x] for known in values]
            if all(operand in constants for operand in op.operands):
                constants.update(zip(op.results, self._constant(op, [constants[o] for o in op.operands]), strict=True))
                continue
            for known in values:
                arguments = [constants[o] if o in constants else known[o] for o in op.operands]
                known.update(zip(op.results, self._run(op, arguments), strict=True))
            for operand in op.operands:
                left[operand] -= 1
                if not left[operand]:
                    constants.pop(operand, None)
                    for known in values:
                        known.pop(operand, None)

    def _constant(self, op: Operation, arguments: list[Array]) -> Sequence[Array]:
        if self.computed is None or not arguments:
            return self._run(op, arguments)
        if op not in self.computed:
            self.computed[op] = tuple(self._run(op, arguments))
        return self.computed[op]

    def residual(self, op: LinearOp) -> list[Array] | None:
        """What is added to the linear's result, [rows, out] in each batch, where that is known before it runs."""
        value = op.result
        user = value.get_user_of_unique_use()
        while isinstance(user, ReshapeOp):
            value = user.result
            user = value.get_user_of_unique_use()
        if not isinstance(user, BinaryOp) or user.kind.data is not BinaryKind.ADD:
            return None
        other = user.rhs if user.lhs is value else user.lhs
        while isinstance(other.owner, ReshapeOp) and any(other not in known for known in self._values):
            other = other.owner.x
        if prod(shape_of(other)) != prod(shape_of(op.result)) or any(other not in known for known in self._values):
            return None
        return [known[other].reshape(-1, shape_of(op.result)[-1]) for known in self._values]

    def outputs(self) -> list[list[Array]]:
        """The model's results in each batch."""
        for _ in self.linears():
            pass
        return self.results

    def _run(self, op: Operation, arguments: list[Array]) -> list[Array]:
        if isinstance(op, LinearOp) and op in self.replaced:
            arguments = [arguments[0], self.replaced[op], *arguments[2:]]
        try:
            with np.errstate(all="ignore"):
                return run_op(op, arguments, self.store)
        except InputError as error:
            message = f"calibration cannot run it ({error.message})"
            hint = "--method magnitude needs no data"
            raise InputError("HPCC1863", message, where=f"node {node_name(op)!r}", hint=hint) from error

    def rows(self, inputs: Sequence[Array]) -> Iterator[Array]:
        """The inputs [rows, in] of each batch without those of padding."""
        for value, batch in zip(inputs, self.batches, strict=True):
            yield real_rows(value, batch.real)

    def moments(self, op: LinearOp, inputs: Sequence[Array]) -> Moments:
        """X^T X over the real tokens of all batches, in float64."""
        ins = shape_of(op.weight)[1]
        gram, tokens = np.zeros((ins, ins)), 0
        for x in self.rows(inputs):
            gram += x.T @ x
            tokens += len(x)
        return Moments(gram, tokens)

    def energies(self, op: LinearOp, inputs: Sequence[Array]) -> Array:
        """The diagonal of `moments` alone, [in]."""
        total = np.zeros(shape_of(op.weight)[1])
        for x in self.rows(inputs):
            total += np.einsum("ij,ij->j", x, x, dtype=np.float64)
        return total


def real_rows(value: Array, real: Array) -> Array:
    """Rows [n, features] of a value without padding: one row a token, or one a sample."""
    rows = value.reshape(-1, value.shape[-1])
    if len(rows) == real.size:
        return rows[real.reshape(-1)]
    samples = np.asarray(real if real.ndim == 1 else real.any(axis=1))
    if len(rows) % len(samples) == 0:
        return rows[np.repeat(samples, len(rows) // len(samples))]
    return rows


def products_of(first: Iterator[Array], second: Iterator[Array]) -> Array:
    """X^T Y over the rows of all batches, in float64."""
    total: Array | None = None
    for x, y in zip(first, second, strict=True):
        product = (x.T @ y).astype(np.float64)
        total = product if total is None else total + product
    assert total is not None
    return total


def residual_products(op: LinearOp, dense: Calibration, pruned: Calibration, inputs: Sequence[Array]) -> Array | float:
    """Products of what the residual stream has lost with the linear's inputs, [out, in]: a linear whose result is added to
    the stream can give it back. 0 where nothing is added."""
    had, has = dense.residual(op), pruned.residual(op)
    if had is None or has is None:
        return 0.0
    lost = (a - b for a, b in zip(dense.rows(had), pruned.rows(has), strict=True))
    return products_of(lost, pruned.rows(inputs))
