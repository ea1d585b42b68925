"""From `hpcc_nn` after `sparsify` to `hpcc_cpu`: which C kernel multiplies a linear, and how large buffers are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from xdsl.ir import Block, Operation, SSAValue

from compiler.backends import lowering
from compiler.backends.cpu.packing import WINDOW, block_inputs, choose_byte_kernel, choose_kernel
from compiler.backends.lowering import StepLowering, matrix_of
from compiler.dialects import cpu, nn
from compiler.dialects.steps import Activation, Buffer
from hw_targets.cpu import CpuTarget

PADDING = 12
"""Rows of a buffer come in multiples of this, so that groups of 4 and of 6 rows need no tails."""

SCALE_ROWS = 4
"""Rows of codes that hold the scales of a tile's tokens, as kernels/codes.c has them."""


def padded(features: int) -> int:
    return -(-features // PADDING) * PADDING


def rows_of(type: Buffer) -> int:
    """Rows that a buffer takes; codes have their scales before them."""
    if type.per.data == cpu.WINDOWS:
        return -(-type.features.data // WINDOW) * WINDOW + SCALE_ROWS
    return padded(type.features.data + (SCALE_ROWS if type.per.data == cpu.CODES else 0))


@dataclass
class Lowering(StepLowering):
    """Lowers @main for the C library; with `in_bytes` linears on tokens are int8 products."""

    dialect: ClassVar[Any] = cpu
    what: ClassVar[str] = "CPU library"

    target: CpuTarget
    in_bytes: bool = False

    def _rows_of(self, type: Buffer) -> int:
        return rows_of(type)

    def _multiplied(
        self, op: nn.LinearOp, x: SSAValue, residual: SSAValue | None, type: Buffer, activation: Activation
    ) -> Operation:
        if self.in_bytes and type.per.data == cpu.TOKENS:
            kernel = choose_byte_kernel(matrix_of(op.weight, self.store) != 0, self.target)
            x = self._codes_of(op, x, cpu.WINDOWS if kernel is cpu.Kernel.PICKS else cpu.CODES)
        else:
            kernel = choose_kernel(matrix_of(op.weight, self.store) != 0)
        return cpu.LinearOp(
            op.role.data,
            x,
            self._new(op.weight),
            None if op.bias is None else self._new(op.bias),
            residual,
            type,
            kernel=kernel,
            block=block_inputs(kernel, self.target),
            activation=activation,
        )


def memory_sizes(block: Block) -> dict[str, int]:
    """Rows of the activation memories; see compiler.backends.lowering."""
    return lowering.memory_sizes(block, rows_of)
