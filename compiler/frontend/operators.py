"""The table of ONNX operators that have a meaning here: a converter each, from node to `hpcc_nn` operations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from xdsl.dialects.builtin import IntegerType, f32
from xdsl.ir import SSAValue

from compiler.dialects import nn
from compiler.frontend.einsum import einsum
from compiler.frontend.node import Array, Converter, NodeImport, Unsupported, element_type, emit_binary, tensor_type
from compiler.frontend.rewrite import REASON


def _unary(kind: nn.UnaryKind) -> Converter:
    def convert(n: NodeImport) -> list[SSAValue]:
        x = n.operand(0)
        element = IntegerType(1) if kind is nn.UnaryKind.ISNAN else nn.element_type_of(x)
        return [n.emit(nn.UnaryOp(kind, x, tensor_type(x, nn.shape_of(x), element)))]

    return convert


def _binary(kind: nn.BinaryKind) -> Converter:
    return lambda n: [emit_binary(n, kind, n.operand(0), n.operand(1))]


def _folded(kind: nn.BinaryKind) -> Converter:
    """ONNX's variadic Min, Max and Sum."""

    def convert(n: NodeImport) -> list[SSAValue]:
        total = n.operand(0)
        for index in range(1, len(n.node.inputs)):
            total = emit_binary(n, kind, total, n.operand(index))
        return [total]

    return convert


def _where(n: NodeImport) -> list[SSAValue]:
    condition, lhs, rhs = (n.operand(index) for index in range(3))
    shape = nn.broadcast_shape(*map(nn.shape_of, (condition, lhs, rhs)))
    return [n.emit(nn.WhereOp(condition, lhs, rhs, tensor_type(lhs, shape)))]


def _clip(n: NodeImport) -> list[SSAValue]:
    x = n.operand(0)
    for index, name, kind in ((1, "min", nn.BinaryKind.MAX), (2, "max", nn.BinaryKind.MIN)):
        if n.has(index):
            x = emit_binary(n, kind, x, n.operand(index))
        elif n.attribute(name, None) is not None:
            x = emit_binary(n, kind, x, n.owner.scalar(n.attribute(name, None), nn.element_type_of(x)))
    return [x]


def _cast(n: NodeImport) -> list[SSAValue]:
    x = n.operand(0)
    element = element_type(ir.DataType(n.attribute("to", 0)))
    if element == nn.element_type_of(x):
        return [x]
    return [n.emit(nn.CastOp(x, tensor_type(x, nn.shape_of(x), element)))]


def _matmul(n: NodeImport) -> list[SSAValue]:
    return [_product(n, n.operand(0), n.operand(1))]


def _product(n: NodeImport, a: SSAValue, b: SSAValue) -> SSAValue:
    left, right = nn.shape_of(a), nn.shape_of(b)
    if not left or not right:
        raise Unsupported("a scalar operand")
    batch = nn.broadcast_shape(left[:-2], right[:-2])
    shape = (*batch, *left[-2:-1], *(right[-1:] if len(right) > 1 else ()))
    return n.emit(nn.MatMulOp(a, b, tensor_type(a, shape)))


def _fused_matmul(n: NodeImport) -> list[SSAValue]:
    """alpha * op(a) op(b), where op swaps the last two axes."""
    if n.attribute("transBatchA", 0) or n.attribute("transBatchB", 0):
        raise Unsupported("transposed batch axes")
    a, b = (_swapped(n, n.operand(index)) if n.attribute(name, 0) else n.operand(index) for index, name in _OPERANDS)
    product = _product(n, a, b)
    alpha = n.attribute("alpha", 1.0)
    return [product if alpha == 1 else emit_binary(n, nn.BinaryKind.MUL, product, n.owner.scalar(alpha, f32))]


_OPERANDS = ((0, "transA"), (1, "transB"))


def _swapped(n: NodeImport, x: SSAValue) -> SSAValue:
    shape = list(nn.shape_of(x))
    perm = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    return n.emit(nn.TransposeOp(x, perm, tensor_type(x, [shape[axis] for axis in perm])))


def _gemm(n: NodeImport) -> list[SSAValue]:
    a, b = n.operand(0), n.operand(1)
    trans_a, trans_b = bool(n.attribute("transA", 0)), bool(n.attribute("transB", 0))
    rows = nn.shape_of(a)[1 if trans_a else 0]
    columns = nn.shape_of(b)[0 if trans_b else 1]
    op = nn.GemmOp(
        a,
        b,
        n.operand(2) if n.has(2) else None,
        tensor_type(a, (rows, columns)),
        alpha=n.attribute("alpha", 1.0),
        beta=n.attribute("beta", 1.0),
        trans_a=trans_a,
        trans_b=trans_b,
    )
    return [n.emit(op)]


def _conv(n: NodeImport) -> list[SSAValue]:
    """A convolution whose kernel is one position is a product over the channels: [b, c, ..] by W [o, c, 1, ..]."""
    x, kernel = n.operand(0), n.constant(1)
    shape = nn.shape_of(x)
    if kernel is None or len(shape) < 3:
        raise Unsupported("an unusual convolution")
    pads, strides = n.attribute("pads", ()) or (), n.attribute("strides", ()) or ()
    is_pointwise = set(kernel.shape[2:]) == {1} and n.attribute("group", 1) == 1
    if not is_pointwise or any(pads) or set(strides) - {1} or n.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Unsupported(n.node.meta.get(REASON) or "a convolution over more than one position")
    outs, ins = kernel.shape[:2]
    batch, space = shape[0], shape[2:]
    weight = n.owner.array(str(n.node.inputs[1].name), kernel.reshape(outs, ins))  # pyright: ignore
    rank = len(shape)
    last = [0, *range(2, rank), 1]
    moved = n.emit(nn.TransposeOp(x, last, tensor_type(x, [shape[axis] for axis in last])))
    rows = n.emit(nn.ReshapeOp(moved, tensor_type(x, (batch, math.prod(space), ins))))
    turned = n.emit(nn.TransposeOp(weight, (1, 0), tensor_type(weight, (ins, outs))))
    y = n.emit(nn.MatMulOp(rows, turned, tensor_type(x, (batch, math.prod(space), outs))))
    if n.has(2):
        y = emit_binary(n, nn.BinaryKind.ADD, y, n.operand(2))
    y = n.emit(nn.ReshapeOp(y, tensor_type(x, (batch, *space, outs))))
    first = [0, rank - 1, *range(1, rank - 1)]
    return [n.emit(nn.TransposeOp(y, first, tensor_type(x, (batch, outs, *space))))]


def _dequantize_linear(n: NodeImport) -> list[SSAValue]:
    """(codes - zero point) * scale, per tensor or along one axis."""
    codes, scale = n.operand(0), n.operand(1)
    rank, along = len(nn.shape_of(codes)), nn.shape_of(scale)
    if n.attribute("block_size", 0) or len(along) > 1:
        raise Unsupported("scales per block")
    axis = n.attribute("axis", 1) % max(rank, 1)
    is_per_tensor = math.prod(along) == 1
    shape = [] if is_per_tensor else [math.prod(along) if a == axis else 1 for a in range(rank)]
    value = n.emit(nn.CastOp(codes, tensor_type(codes, nn.shape_of(codes), nn.element_type_of(scale))))
    zero = n.constant(2)
    scales = n.node.inputs[1]
    factors = np.zeros(0) if scales is None or scales.const_value is None else scales.const_value.numpy()
    is_known = factors.size > 0
    if zero is not None and zero.any():
        value = emit_binary(n, nn.BinaryKind.SUB, value, n.owner.array(f"{n.node.name}.zero", _along(zero, shape)))
    factor = n.owner.array(f"{n.node.name}.scale", _along(factors, shape)) if is_known else n.reshape(scale, shape)[0]
    return [emit_binary(n, nn.BinaryKind.MUL, value, factor)]


def _along(array: Array, shape: list[int]) -> Array:
    """Scales or zero points in fp32, in a shape that broadcasts to the codes."""
    return np.ascontiguousarray(array, dtype=np.float32).reshape(shape)


def _transpose(n: NodeImport) -> list[SSAValue]:
    x = n.operand(0)
    shape = nn.shape_of(x)
    perm = [int(a) for a in n.attribute("perm", None) or reversed(range(len(shape)))]
    return [n.emit(nn.TransposeOp(x, perm, tensor_type(x, [shape[a] for a in perm])))]


def _reshape(n: NodeImport) -> list[SSAValue]:
    x = n.operand(0)
    wanted = n.constant(1)
    if wanted is None:
        raise Unsupported("no shape is given")
    source = nn.shape_of(x)
    keep_zero = bool(n.attribute("allowzero", 0))
    shape = [source[i] if size == 0 and not keep_zero else int(size) for i, size in enumerate(wanted.tolist())]
    if -1 in shape:
        known = math.prod(size for size in shape if size != -1)
        shape[shape.index(-1)] = math.prod(source) // max(known, 1)
    if math.prod(shape) != math.prod(source):
        raise Unsupported(f"cannot reshape {source} into {tuple(shape)}")
    return n.reshape(x, shape)


def _flatten(n: NodeImport) -> list[SSAValue]:
    x = n.operand(0)
    shape = nn.shape_of(x)
    axis = n.attribute("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return n.reshape(x, (math.prod(shape[:axis]), math.prod(shape[axis:])))


def _squeeze(n: NodeImport) -> list[SSAValue]:
    x = n.operand(0)
    shape = nn.shape_of(x)
    axes = n.axes(1, len(shape))
    drop = axes if axes is not None else tuple(axis for axis, size in enumerate(shape) if size == 1)
    return n.reshape(x, [size for axis, size in enumerate(shape) if axis not in drop])


def _unsqueeze(n: NodeImport) -> list[SSAValue]:
    x = n.operand(0)
    shape = list(nn.shape_of(x))
    listed = n.constant(1)
    count = len(n.attribute("axes", ()) if listed is None else listed.reshape(-1))
    for axis in n.axes(1, len(shape) + count) or ():
        shape.insert(axis, 1)
    return n.reshape(x, shape)


def _expand(n: NodeImport) -> list[SSAValue]:
    x = n.operand(0)
    wanted = n.constant(1)
    if wanted is None:
        raise Unsupported("no shape is given")
    shape = nn.broadcast_shape(nn.shape_of(x), [int(size) for size in wanted.tolist()])
    return [x] if shape == nn.shape_of(x) else [n.emit(nn.ExpandOp(x, tensor_type(x, shape)))]


def _tile(n: NodeImport) -> list[SSAValue]:
    """Copies side by side along an axis: an expansion where the axis has one entry, else a concatenation."""
    x, repeats = n.operand(0), n.constant(1)
    if repeats is None or repeats.min(initial=1) < 1:
        raise Unsupported("no copies, or an unusual number of them")
    for axis, count in enumerate(repeats.tolist()):
        shape = list(nn.shape_of(x))
        whole = tensor_type(x, [*shape[:axis], shape[axis] * count, *shape[axis + 1 :]])
        if count > 1:
            x = n.emit(nn.ExpandOp(x, whole) if shape[axis] == 1 else nn.ConcatOp([x] * count, axis, whole))
    return [x]


def _gather(n: NodeImport) -> list[SSAValue]:
    x, indices = n.operand(0), n.operand(1)
    if not isinstance(nn.element_type_of(indices), IntegerType):
        raise Unsupported("indices that are no integers")
    shape = nn.shape_of(x)
    axis = n.attribute("axis", 0) % len(shape)
    result = (*shape[:axis], *nn.shape_of(indices), *shape[axis + 1 :])
    return [n.emit(nn.GatherOp(x, indices, axis, tensor_type(x, result)))]


def _gather_nd(n: NodeImport) -> list[SSAValue]:
    """GatherND with constant indices is a Gather over the flattened leading axes."""
    x, indices = n.operand(0), n.constant(1)
    if indices is None or n.attribute("batch_dims", 0):
        raise Unsupported("batch dimensions")
    if indices.dtype.kind not in "iu":
        raise Unsupported("indices that are no integers")
    shape, depth = nn.shape_of(x), indices.shape[-1]
    lead = shape[:depth]
    flat = np.asarray(np.ravel_multi_index(tuple(np.moveaxis(indices % np.array(lead), -1, 0)), lead), np.int64)
    rows = n.emit(nn.ReshapeOp(x, tensor_type(x, (math.prod(lead), *shape[depth:]))))
    index = n.owner.array(f"{n.node.outputs[0].name}.indices", flat)
    return [n.emit(nn.GatherOp(rows, index, 0, tensor_type(x, (*flat.shape, *shape[depth:]))))]


def _slice(n: NodeImport) -> list[SSAValue]:
    x = n.operand(0)
    shape = nn.shape_of(x)
    given = [n.constant(index) for index in (1, 2, 3, 4)]
    if given[0] is None:  # opset 9: attributes
        given = [np.array(n.attribute(name, None)) for name in ("starts", "ends")] + [
            None if n.attribute("axes", None) is None else np.array(n.attribute("axes", None)),
            None,
        ]
    starts_in, ends_in, axes_in, steps_in = given
    if starts_in is None or ends_in is None:
        raise Unsupported("no bounds are given")
    axes = range(starts_in.size) if axes_in is None else [int(a) % len(shape) for a in axes_in]
    steps_list = [1] * starts_in.size if steps_in is None else steps_in.tolist()
    starts, steps, sizes = [0] * len(shape), [1] * len(shape), list(shape)
    for axis, start, end, step in zip(axes, starts_in.tolist(), ends_in.tolist(), steps_list, strict=True):
        taken = range(shape[axis])[slice(start, end, step)]
        if not taken:
            raise Unsupported("an empty slice")
        starts[axis], steps[axis], sizes[axis] = taken.start, taken.step, len(taken)
    return [n.emit(nn.SliceOp(x, starts, steps, tensor_type(x, sizes)))]


def _concat(n: NodeImport) -> list[SSAValue]:
    inputs = [n.operand(index) for index in range(len(n.node.inputs))]
    shape = list(nn.shape_of(inputs[0]))
    axis = n.attribute("axis", 0) % len(shape)
    shape[axis] = sum(nn.shape_of(value)[axis] for value in inputs)
    return [n.emit(nn.ConcatOp(inputs, axis, tensor_type(inputs[0], shape)))]


def _split(n: NodeImport) -> list[SSAValue]:
    x = n.operand(0)
    shape = list(nn.shape_of(x))
    axis = n.attribute("axis", 0) % len(shape)
    listed = n.constant(1)
    sizes = n.attribute("split", None) if listed is None else listed.tolist()
    if sizes is None:
        count = len(n.node.outputs)
        chunk = -(-shape[axis] // count)
        sizes = [min(chunk, shape[axis] - chunk * i) for i in range(count)]
    if not all(sizes):
        raise Unsupported("an empty part")
    results: list[SSAValue] = []
    start = 0
    for size in sizes:
        starts = [start if a == axis else 0 for a in range(len(shape))]
        sliced = [*shape[:axis], int(size), *shape[axis + 1 :]]
        results.append(n.emit(nn.SliceOp(x, starts, [1] * len(shape), tensor_type(x, sliced))))
        start += int(size)
    return results


def _reduce(kind: nn.ReduceKind) -> Converter:
    def convert(n: NodeImport) -> list[SSAValue]:
        x = n.operand(0)
        shape = nn.shape_of(x)
        axes = n.axes(1, len(shape))
        if not axes:
            if n.attribute("noop_with_empty_axes", 0):
                return [x]
            axes = tuple(range(len(shape)))
        keep = bool(n.attribute("keepdims", 1))
        result = [1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes]
        return [n.emit(nn.ReduceOp(kind, x, axes, tensor_type(x, result)))]

    return convert


def _softmax(n: NodeImport) -> list[SSAValue]:
    x = n.operand(0)
    rank = len(nn.shape_of(x))
    version = n.owner.opset
    axis = n.attribute("axis", -1 if version >= 13 else 1) % rank
    if version < 13 and axis != rank - 1:
        raise Unsupported("Softmax over flattened axes (opset < 13)")
    return [n.emit(nn.SoftmaxOp(x, axis, tensor_type(x, nn.shape_of(x))))]


def _layer_normalization(n: NodeImport) -> list[SSAValue]:
    x, gamma = n.operand(0), n.operand(1)
    shape = nn.shape_of(x)
    if n.attribute("axis", -1) % len(shape) != len(shape) - 1 or nn.shape_of(gamma) != shape[-1:]:
        raise Unsupported("normalisation over several axes")
    if any(not output.name or output.uses() or output.is_graph_output() for output in n.node.outputs[1:]):
        raise Unsupported("its mean or deviation is used")
    beta = n.operand(2) if n.has(2) else n.owner.array(f"{n.node.name}.beta", np.zeros(shape[-1:], np.float32))
    return [n.emit(nn.LayerNormOp(x, gamma, beta, n.attribute("epsilon", 1e-5), tensor_type(x, shape)))]


def _gelu(n: NodeImport) -> list[SSAValue]:
    x = n.operand(0)
    kind = nn.ActivationKind.GELU_TANH if n.text("approximate", "none") == "tanh" else nn.ActivationKind.GELU
    return [n.emit(nn.ActivationOp(kind, x, tensor_type(x, nn.shape_of(x))))]


def _forward(n: NodeImport) -> list[SSAValue]:
    return [n.operand(0)]


def _dropout(n: NodeImport) -> list[SSAValue]:
    if any(output.uses() or output.is_graph_output() for output in n.node.outputs[1:]):
        raise Unsupported("its mask is used")
    training = n.constant(2)
    if training is not None and training.any():
        raise Unsupported("training mode")
    return [n.operand(0)]


CONVERTERS: Mapping[str, Converter] = {
    **{
        name: _unary(kind)
        for name, kind in {
            "Neg": nn.UnaryKind.NEG,
            "Abs": nn.UnaryKind.ABS,
            "Sqrt": nn.UnaryKind.SQRT,
            "Reciprocal": nn.UnaryKind.RECIPROCAL,
            "Exp": nn.UnaryKind.EXP,
            "Log": nn.UnaryKind.LOG,
            "Cos": nn.UnaryKind.COS,
            "Sin": nn.UnaryKind.SIN,
            "Erf": nn.UnaryKind.ERF,
            "Tanh": nn.UnaryKind.TANH,
            "Sigmoid": nn.UnaryKind.SIGMOID,
            "Relu": nn.UnaryKind.RELU,
            "Not": nn.UnaryKind.NOT,
            "IsNaN": nn.UnaryKind.ISNAN,
        }.items()
    },
    **{
        name: _binary(kind)
        for name, kind in {
            "Add": nn.BinaryKind.ADD,
            "Sub": nn.BinaryKind.SUB,
            "Mul": nn.BinaryKind.MUL,
            "Div": nn.BinaryKind.DIV,
            "Pow": nn.BinaryKind.POW,
            "Equal": nn.BinaryKind.EQUAL,
            "Less": nn.BinaryKind.LESS,
            "LessOrEqual": nn.BinaryKind.LESS_EQUAL,
            "Greater": nn.BinaryKind.GREATER,
            "GreaterOrEqual": nn.BinaryKind.GREATER_EQUAL,
            "And": nn.BinaryKind.AND,
            "Or": nn.BinaryKind.OR,
        }.items()
    },
    "Min": _folded(nn.BinaryKind.MIN),
    "Max": _folded(nn.BinaryKind.MAX),
    "Sum": _folded(nn.BinaryKind.ADD),
    "Where": _where,
    "Clip": _clip,
    "Cast": _cast,
    "MatMul": _matmul,
    "Einsum": einsum,
    "Gemm": _gemm,
    "Conv": _conv,
    "DequantizeLinear": _dequantize_linear,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Slice": _slice,
    "Concat": _concat,
    "Split": _split,
    "Tile": _tile,
    "ReduceSum": _reduce(nn.ReduceKind.SUM),
    "ReduceMean": _reduce(nn.ReduceKind.MEAN),
    "ReduceMax": _reduce(nn.ReduceKind.MAX),
    "ReduceMin": _reduce(nn.ReduceKind.MIN),
    "Softmax": _softmax,
    "LayerNormalization": _layer_normalization,
    "Gelu": _gelu,
    "Identity": _forward,
    "Dropout": _dropout,
}
"""Operators of the default ONNX domain that have a meaning here."""

MICROSOFT: Mapping[str, Converter] = {"FusedMatMul": _fused_matmul}
"""Operators of ONNX Runtime's own domain, beside those that compiler/frontend/contrib.py spells out."""
