"""Meaning of the elementary and the fused operations, in fp32 as ONNX Runtime computes them.

erf is evaluated in float64 by W. J. Cody's rational approximations (Math. Comp. 23, 1969; NETLIB specfun/erf), whose
error is below 1e-15; its fp32 rounding is then the correctly rounded one in all but rare ties.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import (
    BFloat16Type,
    Float16Type,
    Float32Type,
    Float64Type,
    IntegerType,
    Signedness,
    TensorType,
)
from xdsl.ir import Attribute, Operation

from compiler.dialects import nn
from compiler.interpreters.evaluate import Array, meaning_of
from compiler.weights import WeightStore

Float64 = NDArray[np.float64]

# ---- erf ------------------------------------------------------------------------------------------------------------

_SMALL = (
    (
        1.85777706184603153e-1,
        3.16112374387056560e0,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
_MIDDLE = (
    (
        2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
        2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
        3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
    ),
)  # fmt: skip
_LARGE = (
    (
        1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
        1.60837851487422766e-2, 6.58749161529837803e-4,
    ),
    (
        1.0, 2.56852019228982242e0, 1.87295284992346047e0, 5.27905102951428412e-1, 6.05183413124413191e-2,
        2.33520497626869185e-3,
    ),
)  # fmt: skip
_ONE_OVER_SQRT_PI = 5.6418958354775628695e-1


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Float64) -> Float64:
    top, bottom = coefficients
    return np.polyval(top, x) / np.polyval(bottom, x)


def erf(x: Array) -> Array:
    """The error function, elementwise, in the dtype of x. NaN stays NaN."""
    value = np.asarray(x, dtype=np.float64)
    a = np.abs(value)
    result = np.where(np.isnan(value), value, 1.0)
    small, middle, large = a <= 0.46875, (a > 0.46875) & (a <= 4.0), (a > 4.0) & (a < 6.0)
    s, m, g = a[small], a[middle], a[large]
    result[small] = s * _ratio(_SMALL, s * s)
    result[middle] = 1.0 - np.exp(-m * m) * _ratio(_MIDDLE, m)
    inverse = 1.0 / (g * g)
    result[large] = 1.0 - np.exp(-g * g) / g * (_ONE_OVER_SQRT_PI - inverse * _ratio(_LARGE, inverse))
    return np.copysign(result, value).astype(np.asarray(x).dtype, copy=False)


# ---- element types --------------------------------------------------------------------------------------------------


def round_to_bf16(x: Array) -> Array:
    """fp32 rounded to nearest even bf16, kept as fp32; NaN stays NaN."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), np.float32(np.nan), rounded.view(np.float32))


def numpy_dtype(element: Attribute) -> np.dtype[Any]:
    """The dtype that holds values of an element type; bf16 is held in float32."""
    match element:
        case Float32Type() | BFloat16Type():
            return np.dtype(np.float32)
        case Float16Type():
            return np.dtype(np.float16)
        case Float64Type():
            return np.dtype(np.float64)
        case IntegerType():
            width = element.width.data
            if width == 1:
                return np.dtype(np.bool_)
            sign = "u" if element.signedness.data is Signedness.UNSIGNED else ""
            return np.dtype(f"{sign}int{max(width, 8)}")
        case _:
            raise ValueError(f"{element} has no numpy form")


def _element(op: Operation) -> Attribute:
    result = op.results[0].type
    assert isinstance(result, TensorType)
    return result.element_type


def _fit(op: Operation, array: Array) -> Array:
    """`array` in the element type of the operation's result."""
    element = _element(op)
    if isinstance(element, BFloat16Type):
        return round_to_bf16(array)
    return np.asarray(array).astype(numpy_dtype(element), copy=False)


# ---- weights and elementary operations ------------------------------------------------------------------------------


def dequantized(codes: Array, scale: Array) -> Array:
    """f32(codes) * scale, one rounding each."""
    return codes.astype(np.float32) * scale


@meaning_of(nn.DequantizeOp)
def _dequantize(op: nn.DequantizeOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [dequantized(*args)]


@meaning_of(nn.WeightOp)
def _weight(op: nn.WeightOp, args: list[Array], store: WeightStore) -> list[Array]:
    array = store.get(op.key.data)
    array = array.T if op.transposed else array
    element = _element(op)
    if isinstance(element, BFloat16Type) and array.dtype != np.float32:
        return [array.astype(np.float32)]
    return [array]


def constant_array(op: nn.ConstantOp) -> Array:
    """The constant's value, read-only, without boxing its elements."""
    dtype = numpy_dtype(op.value.get_element_type())
    array = np.frombuffer(op.value.data.data, dtype)
    shape = nn.shape_of(op.result)
    return np.broadcast_to(array[0], shape) if array.size == 1 else array.reshape(shape)


@meaning_of(nn.ConstantOp)
def _constant(op: nn.ConstantOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [constant_array(op)]


_UNARY: dict[nn.UnaryKind, Callable[[Array], Array]] = {
    nn.UnaryKind.NEG: np.negative,
    nn.UnaryKind.ABS: np.abs,
    nn.UnaryKind.SQRT: np.sqrt,
    nn.UnaryKind.RECIPROCAL: np.reciprocal,
    nn.UnaryKind.EXP: np.exp,
    nn.UnaryKind.LOG: np.log,
    nn.UnaryKind.COS: np.cos,
    nn.UnaryKind.SIN: np.sin,
    nn.UnaryKind.ERF: erf,
    nn.UnaryKind.TANH: np.tanh,
    nn.UnaryKind.SIGMOID: lambda x: 1 / (1 + np.exp(-x)),
    nn.UnaryKind.RELU: lambda x: np.maximum(x, x.dtype.type(0)),
    nn.UnaryKind.NOT: np.logical_not,
    nn.UnaryKind.ISNAN: np.isnan,
}


def _divide(a: Array, b: Array) -> Array:
    """ONNX Div: integers truncate towards zero."""
    if np.issubdtype(a.dtype, np.integer):
        quotient = np.abs(a) // np.abs(b)
        return np.where((a < 0) != (b < 0), -quotient, quotient)
    return np.divide(a, b)


_BINARY: dict[nn.BinaryKind, Callable[[Array, Array], Array]] = {
    nn.BinaryKind.ADD: np.add,
    nn.BinaryKind.SUB: np.subtract,
    nn.BinaryKind.MUL: np.multiply,
    nn.BinaryKind.DIV: _divide,
    nn.BinaryKind.POW: np.power,
    nn.BinaryKind.MIN: np.minimum,
    nn.BinaryKind.MAX: np.maximum,
    nn.BinaryKind.EQUAL: np.equal,
    nn.BinaryKind.LESS: np.less,
    nn.BinaryKind.LESS_EQUAL: np.less_equal,
    nn.BinaryKind.GREATER: np.greater,
    nn.BinaryKind.GREATER_EQUAL: np.greater_equal,
    nn.BinaryKind.AND: np.logical_and,
    nn.BinaryKind.OR: np.logical_or,
}


@meaning_of(nn.UnaryOp)
def _unary(op: nn.UnaryOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [_fit(op, _UNARY[op.kind.data](args[0]))]


@meaning_of(nn.BinaryOp)
def _binary(op: nn.BinaryOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [_fit(op, _BINARY[op.kind.data](args[0], args[1]))]


@meaning_of(nn.WhereOp)
def _where(op: nn.WhereOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [_fit(op, np.where(args[0], args[1], args[2]))]


@meaning_of(nn.CastOp)
def _cast(op: nn.CastOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [_fit(op, args[0])]


@meaning_of(nn.MatMulOp)
def _matmul(op: nn.MatMulOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [_fit(op, np.matmul(args[0], args[1]))]


@meaning_of(nn.GemmOp)
def _gemm(op: nn.GemmOp, args: list[Array], store: WeightStore) -> list[Array]:
    a = args[0].T if op.trans_a.value.data else args[0]
    b = args[1].T if op.trans_b.value.data else args[1]
    y = np.float32(op.alpha.value.data) * (a @ b)
    return [_fit(op, y + np.float32(op.beta.value.data) * args[2] if len(args) > 2 else y)]


@meaning_of(nn.TransposeOp)
def _transpose(op: nn.TransposeOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [args[0].transpose(op.permutation)]


@meaning_of(nn.ReshapeOp)
def _reshape(op: nn.ReshapeOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [args[0].reshape(nn.shape_of(op.result))]


@meaning_of(nn.ExpandOp)
def _expand(op: nn.ExpandOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [np.broadcast_to(args[0], nn.shape_of(op.result))]


@meaning_of(nn.GatherOp)
def _gather(op: nn.GatherOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [np.take(args[0], args[1], axis=op.axis.value.data, mode="raise")]


@meaning_of(nn.SliceOp)
def _slice(op: nn.SliceOp, args: list[Array], store: WeightStore) -> list[Array]:
    sizes = nn.shape_of(op.result)
    starts, steps = (nn.int_values(a) for a in (op.starts, op.steps))
    index: list[slice] = []
    for start, step, size in zip(starts, steps, sizes, strict=True):
        stop = start + step * size
        index.append(slice(start, None if stop < 0 else stop, step))
    return [args[0][tuple(index)]]


@meaning_of(nn.ConcatOp)
def _concat(op: nn.ConcatOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [np.concatenate(args, axis=op.axis.value.data)]


_REDUCE: dict[nn.ReduceKind, Callable[..., Array]] = {
    nn.ReduceKind.SUM: np.sum,
    nn.ReduceKind.MEAN: np.mean,
    nn.ReduceKind.MAX: np.max,
    nn.ReduceKind.MIN: np.min,
}


@meaning_of(nn.ReduceOp)
def _reduce(op: nn.ReduceOp, args: list[Array], store: WeightStore) -> list[Array]:
    reduced = _REDUCE[op.kind.data](args[0], axis=op.axis_tuple)
    return [_fit(op, reduced).reshape(nn.shape_of(op.result))]


def softmax(x: Array, axis: int) -> Array:
    """exp(x - max) / sum. A row of -inf gives NaN, as in ONNX Runtime."""
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@meaning_of(nn.SoftmaxOp)
def _softmax(op: nn.SoftmaxOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [_fit(op, softmax(args[0], op.axis.value.data))]


# ---- fused operations -----------------------------------------------------------------------------------------------


@meaning_of(nn.EmbeddingOp)
def _embedding(op: nn.EmbeddingOp, args: list[Array], store: WeightStore) -> list[Array]:
    count = len(op.ids)
    total = args[count][args[0]]
    for ids, table in zip(args[1:count], args[count + 1 :], strict=True):
        total = total + table[ids]
    return [_fit(op, np.broadcast_to(total, nn.shape_of(op.result)))]


@meaning_of(nn.LinearOp)
def _linear(op: nn.LinearOp, args: list[Array], store: WeightStore) -> list[Array]:
    y = np.matmul(args[0], args[1].T)
    return [_fit(op, y + args[2] if len(args) > 2 else y)]


@meaning_of(nn.LayerNormOp)
def _layer_norm(op: nn.LayerNormOp, args: list[Array], store: WeightStore) -> list[Array]:
    x, gamma, beta = args
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    return [_fit(op, centred / np.sqrt(variance + np.float32(op.eps.value.data)) * gamma + beta)]


@meaning_of(nn.ActivationOp)
def _activation(op: nn.ActivationOp, args: list[Array], store: WeightStore) -> list[Array]:
    x = args[0]
    match op.kind.data:
        case nn.ActivationKind.GELU:
            y = x * np.float32(0.5) * (1 + erf(x * np.float32(np.sqrt(0.5))))
        case nn.ActivationKind.TANH:
            y = np.tanh(x)
        case nn.ActivationKind.RELU:
            y = np.maximum(x, np.float32(0))
        case nn.ActivationKind.GELU_TANH:
            inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
            y = np.float32(0.5) * x * (1 + np.tanh(inner))
        case nn.ActivationKind.QUICK_GELU:
            y = x / (1 + np.exp(np.float32(-1.702) * x))
        case nn.ActivationKind.SILU:
            y = x / (1 + np.exp(-x))
    return [_fit(op, y)]


@meaning_of(nn.MeanPoolOp)
def _mean_pool(op: nn.MeanPoolOp, args: list[Array], store: WeightStore) -> list[Array]:
    x, mask = args
    attended = (mask != 0).astype(np.float32)
    count = np.maximum(attended.sum(axis=1, keepdims=True), np.float32(op.minimum.value.data))
    return [_fit(op, (x * attended[..., None]).sum(axis=1) / count)]


@meaning_of(nn.TakeTokenOp)
def _take_token(op: nn.TakeTokenOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [args[0][:, op.index.value.data]]


@meaning_of(nn.HandOverOp)
def _hand_over(op: nn.HandOverOp, args: list[Array], store: WeightStore) -> list[Array]:
    return args
