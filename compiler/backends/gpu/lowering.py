"""From `hpcc_nn` after `sparsify` to `hpcc_gpu`: which kernel multiplies a linear, and in which tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from xdsl.ir import Operation, SSAValue

from compiler.backends.gpu.packing import plan
from compiler.backends.lowering import StepLowering, infeasible, matrix_of
from compiler.dialects import gpu, nn
from compiler.dialects.sparsity import pattern_of
from compiler.dialects.steps import CODES, TOKENS, Activation, Buffer
from compiler.sparsity.patterns import NM
from hw_targets.gpu import GpuTarget

SCALE_ROWS = 4
"""Rows of codes (a byte for each token) before a buffer of codes that hold a scale of 4 bytes for each token."""

ROWS = 16
"""Buffers begin at multiples of this many rows."""

MAX_TABLES = 3


def rows_of(type: Buffer) -> int:
    """Rows that a buffer takes; codes have their scales before them."""
    features = type.features.data + (SCALE_ROWS if type.per.data == CODES else 0)
    return -(-features // ROWS) * ROWS


@dataclass
class Lowering(StepLowering):
    """Lowers @main for Triton kernels with products of a precision."""

    dialect: ClassVar[Any] = gpu
    what: ClassVar[str] = "Triton module"

    target: GpuTarget
    precision: str = "fp16"

    def _rows_of(self, type: Buffer) -> int:
        return rows_of(type)

    def _embedding(self, op: nn.EmbeddingOp) -> None:
        if len(op.tables) > MAX_TABLES:
            raise infeasible(op, f"the {self.what} sums at most {MAX_TABLES} tables, not {len(op.tables)}")
        super()._embedding(op)

    def _multiplied(
        self, op: nn.LinearOp, x: SSAValue, residual: SSAValue | None, type: Buffer, activation: Activation
    ) -> Operation:
        shape = nn.shape_of(op.result)
        per_token = type.per.data == TOKENS
        in_bytes = self.precision == "int8" and per_token
        precision = self.precision if in_bytes or self.precision != "int8" else "fp16"
        pattern = pattern_of(op.weight.type)
        is_2_4 = isinstance(pattern, NM) and (pattern.n, pattern.m, pattern.along) == (2, 4, "in")
        columns = shape[0] * (shape[1] if per_token else 1)
        used = matrix_of(op.weight, self.store) != 0
        chosen = plan(used, columns, self.target, precision, is_2_4=is_2_4 and not (used.shape[0] | used.shape[1]) % 32)
        return gpu.LinearOp(
            op.role.data,
            self._codes_of(op, x, CODES) if in_bytes else x,
            self._new(op.weight),
            None if op.bias is None else self._new(op.bias),
            residual,
            type,
            kernel=chosen.kernel,
            rows=chosen.rows,
            tokens=chosen.tokens,
            inputs=chosen.inputs,
            stages=chosen.stages,
            activation=activation,
        )
