"""Multiply-accumulates of an operation on dense weights: the unit of the preflight table and of the reports."""

from __future__ import annotations

import math

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Operation

from compiler.dialects import nn


def macs_of(op: Operation) -> int:
    """Products of y = x W^T, of q k^T and p v; elementwise work counts as none."""
    match op:
        case nn.LinearOp() | nn.QLinearOp():
            return math.prod(nn.shape_of(op.result)) * nn.shape_of(op.x)[-1]
        case nn.AttentionOp() | nn.QAttentionOp():
            return 2 * math.prod(nn.shape_of(op.q)) * nn.shape_of(op.k)[1]
        case nn.MatMulOp():
            return math.prod(nn.shape_of(op.result)) * nn.shape_of(op.lhs)[-1]
        case nn.GemmOp():
            inner = nn.shape_of(op.a)[0 if op.trans_a.value.data else 1]
            return math.prod(nn.shape_of(op.result)) * inner
        case nn.OpaqueOp():
            return _opaque_macs(op)
        case _:
            return 0


def _opaque_macs(op: nn.OpaqueOp) -> int:
    """Of a convolution that only the host runs: its outputs times the weights of one output."""
    if op.op_type.data != "Conv" or not all(isinstance(v.type, TensorType) for v in (op.inputs[1], op.outputs[0])):
        return 0
    return math.prod(nn.shape_of(op.outputs[0])) * math.prod(nn.shape_of(op.inputs[1])[1:])
