"""The torch meaning of the fp32 operations of `hpcc_nn`: what interpreters/nn_float.py says, with gradients.

Each function takes the operation and its arguments as tensors, and gives its one result. Weights and constants are not
here: network.py gives them. Inputs have the shapes of the types.
"""

# torch is an optional dependency, so a type checker may not find it.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, Float64Type, IntegerType, Signedness
from xdsl.ir import Attribute, Operation

from compiler.dialects import nn
from compiler.training.heads import Tensor, attention, rms_norm, rotary

Meaning = Callable[[Any, list[Tensor]], Tensor]


def torch_dtype(element: Attribute) -> Any:
    """The dtype that holds values of an element type; bf16 is held in float32."""
    match element:
        case Float32Type() | BFloat16Type():
            return torch.float32
        case Float16Type():
            return torch.float16
        case Float64Type():
            return torch.float64
        case IntegerType():
            width = element.width.data
            if width == 1:
                return torch.bool
            sign = "u" if element.signedness.data is Signedness.UNSIGNED else ""
            return getattr(torch, f"{sign}int{max(width, 8)}")
        case _:
            raise ValueError(f"{element} has no torch form")


def fit(op: Operation, value: Tensor) -> Tensor:
    """`value` in the element type of the operation's result."""
    element = nn.element_type_of(op.results[0])
    if isinstance(element, BFloat16Type):
        return value.to(torch.bfloat16).to(torch.float32)
    return value.to(torch_dtype(element))


# ---- elementary operations ------------------------------------------------------------------------------------------

_UNARY: dict[nn.UnaryKind, Callable[[Tensor], Tensor]] = {
    nn.UnaryKind.NEG: torch.neg,
    nn.UnaryKind.ABS: torch.abs,
    nn.UnaryKind.SQRT: torch.sqrt,
    nn.UnaryKind.RECIPROCAL: torch.reciprocal,
    nn.UnaryKind.EXP: torch.exp,
    nn.UnaryKind.LOG: torch.log,
    nn.UnaryKind.COS: torch.cos,
    nn.UnaryKind.SIN: torch.sin,
    nn.UnaryKind.ERF: torch.erf,
    nn.UnaryKind.TANH: torch.tanh,
    nn.UnaryKind.SIGMOID: torch.sigmoid,
    nn.UnaryKind.RELU: torch.relu,
    nn.UnaryKind.NOT: torch.logical_not,
    nn.UnaryKind.ISNAN: torch.isnan,
}


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """ONNX Div: integers truncate towards zero."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


_BINARY: dict[nn.BinaryKind, Callable[[Tensor, Tensor], Tensor]] = {
    nn.BinaryKind.ADD: torch.add,
    nn.BinaryKind.SUB: torch.sub,
    nn.BinaryKind.MUL: torch.mul,
    nn.BinaryKind.DIV: _divide,
    nn.BinaryKind.POW: torch.pow,
    nn.BinaryKind.MIN: torch.minimum,
    nn.BinaryKind.MAX: torch.maximum,
    nn.BinaryKind.EQUAL: torch.eq,
    nn.BinaryKind.LESS: torch.lt,
    nn.BinaryKind.LESS_EQUAL: torch.le,
    nn.BinaryKind.GREATER: torch.gt,
    nn.BinaryKind.GREATER_EQUAL: torch.ge,
    nn.BinaryKind.AND: torch.logical_and,
    nn.BinaryKind.OR: torch.logical_or,
}


def _gemm(op: nn.GemmOp, args: list[Tensor]) -> Tensor:
    a = args[0].T if op.trans_a.value.data else args[0]
    b = args[1].T if op.trans_b.value.data else args[1]
    y = op.alpha.value.data * (a @ b)
    return y + op.beta.value.data * args[2] if len(args) > 2 else y


def _gather(op: nn.GatherOp, args: list[Tensor]) -> Tensor:
    x, axis = args[0], op.axis.value.data
    indices = args[1].long()
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    return x.index_select(axis, indices.reshape(-1)).reshape(nn.shape_of(op.result))


def _slice(op: nn.SliceOp, args: list[Tensor]) -> Tensor:
    value, sizes = args[0], nn.shape_of(op.result)
    for axis, (start, step, size) in enumerate(zip(nn.int_values(op.starts), nn.int_values(op.steps), sizes, strict=True)):
        if step == 1:
            value = value.narrow(axis, start, size)
        else:
            value = value.index_select(axis, torch.arange(size) * step + start)
    return value


def _reduce(op: nn.ReduceOp, args: list[Tensor]) -> Tensor:
    x, axes = args[0], op.axis_tuple
    if not axes:
        return x.reshape(nn.shape_of(op.result))
    match op.kind.data:
        case nn.ReduceKind.SUM:
            y = x.sum(dim=axes)
        case nn.ReduceKind.MEAN:
            y = x.mean(dim=axes)
        case nn.ReduceKind.MAX:
            y = torch.amax(x, dim=axes)
        case nn.ReduceKind.MIN:
            y = torch.amin(x, dim=axes)
    return y.reshape(nn.shape_of(op.result))


# ---- fused operations -----------------------------------------------------------------------------------------------


def _embedding(op: nn.EmbeddingOp, args: list[Tensor]) -> Tensor:
    count = len(op.ids)
    total = functional.embedding(args[0].long(), args[count])
    for ids, table in zip(args[1:count], args[count + 1 :], strict=True):
        total = total + functional.embedding(ids.long(), table)
    return total.expand(nn.shape_of(op.result))


def _linear(op: nn.LinearOp, args: list[Tensor]) -> Tensor:
    return functional.linear(args[0], args[1], args[2] if len(args) > 2 else None)


def _activation(op: nn.ActivationOp, args: list[Tensor]) -> Tensor:
    x = args[0]
    match op.kind.data:
        case nn.ActivationKind.GELU:
            return functional.gelu(x)
        case nn.ActivationKind.TANH:
            return torch.tanh(x)
        case nn.ActivationKind.RELU:
            return torch.relu(x)
        case nn.ActivationKind.GELU_TANH:
            return functional.gelu(x, approximate="tanh")
        case nn.ActivationKind.QUICK_GELU:
            return x * torch.sigmoid(1.702 * x)
        case nn.ActivationKind.SILU:
            return functional.silu(x)


def _mean_pool(op: nn.MeanPoolOp, args: list[Tensor]) -> Tensor:
    attended = (args[1] != 0).to(args[0].dtype)
    count = attended.sum(1, keepdim=True).clamp(min=op.minimum.value.data)
    return (args[0] * attended[..., None]).sum(1) / count


MEANINGS: dict[type[Operation], Meaning] = {
    nn.DequantizeOp: lambda op, args: args[0].to(torch.float32) * args[1],
    nn.UnaryOp: lambda op, args: _UNARY[op.kind.data](args[0]),
    nn.BinaryOp: lambda op, args: _BINARY[op.kind.data](args[0], args[1]),
    nn.WhereOp: lambda op, args: torch.where(args[0].bool(), args[1], args[2]),
    nn.CastOp: lambda op, args: args[0],
    nn.MatMulOp: lambda op, args: torch.matmul(args[0], args[1]),
    nn.GemmOp: _gemm,
    nn.TransposeOp: lambda op, args: args[0].permute(op.permutation),
    nn.ReshapeOp: lambda op, args: args[0].reshape(nn.shape_of(op.result)),
    nn.ExpandOp: lambda op, args: args[0].expand(nn.shape_of(op.result)),
    nn.GatherOp: _gather,
    nn.SliceOp: _slice,
    nn.ConcatOp: lambda op, args: torch.cat(args, dim=op.axis.value.data),
    nn.ReduceOp: _reduce,
    nn.SoftmaxOp: lambda op, args: torch.softmax(args[0], dim=op.axis.value.data),
    nn.EmbeddingOp: _embedding,
    nn.LinearOp: _linear,
    nn.AttentionOp: attention,
    nn.RmsNormOp: rms_norm,
    nn.RotaryOp: rotary,
    nn.LayerNormOp: lambda op, args: functional.layer_norm(args[0], args[0].shape[-1:], args[1], args[2], op.eps.value.data),
    nn.ActivationOp: _activation,
    nn.MeanPoolOp: _mean_pool,
    nn.TakeTokenOp: lambda op, args: args[0][:, op.index.value.data],
}
