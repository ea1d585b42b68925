"""ONNX file -> `hpcc_nn` module: shapes bound, constants folded, one table row per operator.

The result keeps ONNX semantics; what has no meaning here becomes `hpcc_nn.opaque` with the reason and runs on the host.
Every operation's location is its ONNX node, its attribute `hpcc_nn.tensors` the ONNX names of its results. Weights are
references into a WeightStore over the mapped file: import moves no data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from xdsl.dialects.builtin import (
    AnyFloat,
    ArrayAttr,
    BFloat16Type,
    BytesAttr,
    DenseIntOrFPElementsAttr,
    IntegerType,
    ModuleOp,
    NameLoc,
    NoneAttr,
    Signedness,
    StringAttr,
    TensorType,
    UnrankedTensorType,
    f16,
    f32,
    f64,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.irdl import IRDLOperation
from xdsl.utils.exceptions import VerifyException

from compiler.dialects import nn
from compiler.frontend.fold import fold
from compiler.frontend.onnx_file import open_onnx
from compiler.frontend.patches import cut_patches
from compiler.frontend.quantised import take_out_quantisation
from compiler.frontend.shapes import Shapes, bind_shapes
from compiler.frontend.widen import widen
from compiler.sparsity.base import METADATA_KEY
from compiler.weights import WeightStore
from hw_targets.errors import InputError

Array = NDArray[Any]

TENSORS = "hpcc_nn.tensors"
"""Attribute of an imported operation: the ONNX tensor names of its results."""


@dataclass(frozen=True)
class Imported:
    """A model as IR. `model` is the bound and folded ONNX graph, `parameters` counts the elements of its weights, `notes`
    say what was done to the file's own numbers."""

    module: ModuleOp
    store: WeightStore
    model_name: str
    sha256: str
    parameters: int
    model: ir.Model
    path: Path
    notes: tuple[str, ...] = ()


Element = AnyFloat | IntegerType


class Unsupported(Exception):
    """Why a node has no meaning here; it becomes an opaque operation."""


_ELEMENTS: dict[ir.DataType, Element] = {
    ir.DataType.FLOAT: f32,
    ir.DataType.FLOAT16: f16,
    ir.DataType.DOUBLE: f64,
    ir.DataType.BFLOAT16: BFloat16Type(),
    ir.DataType.BOOL: IntegerType(1),
    ir.DataType.INT8: IntegerType(8),
    ir.DataType.INT16: IntegerType(16),
    ir.DataType.INT32: IntegerType(32),
    ir.DataType.INT64: IntegerType(64),
    ir.DataType.UINT8: IntegerType(8, Signedness.UNSIGNED),
    ir.DataType.UINT16: IntegerType(16, Signedness.UNSIGNED),
    ir.DataType.UINT32: IntegerType(32, Signedness.UNSIGNED),
    ir.DataType.UINT64: IntegerType(64, Signedness.UNSIGNED),
}


def _element_type(dtype: ir.DataType | None) -> Element:
    if dtype is None or dtype not in _ELEMENTS:
        raise Unsupported(f"element type {'unknown' if dtype is None else dtype.name.lower()}")
    return _ELEMENTS[dtype]


def _value_type(value: ir.Value) -> Attribute:
    """The tensor type of a value, unranked where the model does not say. Raises Unsupported for other element types."""
    element = _element_type(value.dtype)
    if value.shape is None or not value.shape.is_static():
        return UnrankedTensorType(element)
    return TensorType(element, [int(size) for size in value.shape.numpy()])


def tensor_type(like: SSAValue, shape: Iterable[int], element: Attribute | None = None) -> TensorType:
    return TensorType(nn.element_type_of(like) if element is None else element, list(shape))


@dataclass
class NodeImport:
    """One node on its way into the IR: what a converter may ask for."""

    owner: ModelImport
    node: ir.Node

    def has(self, index: int) -> bool:
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def operand(self, index: int) -> SSAValue:
        """Input `index` as a statically shaped tensor."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None:
            raise Unsupported(f"input {index} is missing")
        result = self.owner.value(value)
        if not isinstance(result.type, TensorType):
            raise Unsupported("its input shapes are known only at run time")
        return result

    def constant(self, index: int) -> Array | None:
        """The data of input `index`, None if the input is absent."""
        if not self.has(index):
            return None
        value = self.node.inputs[index]
        assert value is not None
        if value.const_value is None:
            raise Unsupported(f"input {index} is not a constant")
        return value.const_value.numpy()

    def attribute(self, name: str, default: Any) -> Any:
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        found = self.attribute(name, default)
        return found.decode() if isinstance(found, bytes) else str(found)

    def axes(self, index: int, rank: int) -> tuple[int, ...] | None:
        """`axes`, an attribute before opset 13 or 18 and an input afterwards, counted from the front."""
        listed = self.constant(index)
        axes = self.attribute("axes", None) if listed is None else listed.reshape(-1).tolist()
        return None if axes is None else tuple(sorted(int(a) % rank for a in axes))

    def emit(self, op: IRDLOperation) -> SSAValue:
        return self.owner.emit(op, self.node).results[0]

    def reshape(self, x: SSAValue, shape: Sequence[int]) -> list[SSAValue]:
        return [self.emit(nn.ReshapeOp(x, tensor_type(x, shape)))]


Converter = Callable[[NodeImport], list[SSAValue]]


# ---- converters -----------------------------------------------------------------------------------------------------


def _unary(kind: nn.UnaryKind) -> Converter:
    def convert(n: NodeImport) -> list[SSAValue]:
        x = n.operand(0)
        element = IntegerType(1) if kind is nn.UnaryKind.ISNAN else nn.element_type_of(x)
        return [n.emit(nn.UnaryOp(kind, x, tensor_type(x, nn.shape_of(x), element)))]

    return convert


_COMPARISONS = {
    nn.BinaryKind.EQUAL,
    nn.BinaryKind.LESS,
    nn.BinaryKind.LESS_EQUAL,
    nn.BinaryKind.GREATER,
    nn.BinaryKind.GREATER_EQUAL,
    nn.BinaryKind.AND,
    nn.BinaryKind.OR,
}


def _emit_binary(n: NodeImport, kind: nn.BinaryKind, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
    element = IntegerType(1) if kind in _COMPARISONS else nn.element_type_of(lhs)
    shape = nn.broadcast_shape(nn.shape_of(lhs), nn.shape_of(rhs))
    return n.emit(nn.BinaryOp(kind, lhs, rhs, tensor_type(lhs, shape, element)))


def _binary(kind: nn.BinaryKind) -> Converter:
    return lambda n: [_emit_binary(n, kind, n.operand(0), n.operand(1))]


def _folded(kind: nn.BinaryKind) -> Converter:
    """ONNX's variadic Min, Max and Sum."""

    def convert(n: NodeImport) -> list[SSAValue]:
        total = n.operand(0)
        for index in range(1, len(n.node.inputs)):
            total = _emit_binary(n, kind, total, n.operand(index))
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
            x = _emit_binary(n, kind, x, n.operand(index))
        elif n.attribute(name, None) is not None:
            x = _emit_binary(n, kind, x, n.owner.scalar(n.attribute(name, None), nn.element_type_of(x)))
    return [x]


def _cast(n: NodeImport) -> list[SSAValue]:
    x = n.operand(0)
    element = _element_type(ir.DataType(n.attribute("to", 0)))
    if element == nn.element_type_of(x):
        return [x]
    return [n.emit(nn.CastOp(x, tensor_type(x, nn.shape_of(x), element)))]


def _matmul(n: NodeImport) -> list[SSAValue]:
    a, b = n.operand(0), n.operand(1)
    left, right = nn.shape_of(a), nn.shape_of(b)
    if not left or not right:
        raise Unsupported("a scalar operand")
    batch = nn.broadcast_shape(left[:-2], right[:-2])
    shape = (*batch, *left[-2:-1], *(right[-1:] if len(right) > 1 else ()))
    return [n.emit(nn.MatMulOp(a, b, tensor_type(a, shape)))]


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
        raise Unsupported("a convolution over more than one position")
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
        y = _emit_binary(n, nn.BinaryKind.ADD, y, n.operand(2))
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
        value = _emit_binary(n, nn.BinaryKind.SUB, value, n.owner.array(f"{n.node.name}.zero", _along(zero, shape)))
    factor = n.owner.array(f"{n.node.name}.scale", _along(factors, shape)) if is_known else n.reshape(scale, shape)[0]
    return [_emit_binary(n, nn.BinaryKind.MUL, value, factor)]


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


def _gather(n: NodeImport) -> list[SSAValue]:
    x, indices = n.operand(0), n.operand(1)
    shape = nn.shape_of(x)
    axis = n.attribute("axis", 0) % len(shape)
    result = (*shape[:axis], *nn.shape_of(indices), *shape[axis + 1 :])
    return [n.emit(nn.GatherOp(x, indices, axis, tensor_type(x, result)))]


def _gather_nd(n: NodeImport) -> list[SSAValue]:
    """GatherND with constant indices is a Gather over the flattened leading axes."""
    x, indices = n.operand(0), n.constant(1)
    if indices is None or n.attribute("batch_dims", 0):
        raise Unsupported("batch dimensions")
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


# ---- the model ------------------------------------------------------------------------------------------------------


def _is_inline(array: Array) -> bool:
    """Whether a constant is written into the text: float scalars, and integers of at most ConstantOp.LIMIT elements.

    A float vector stays a weight however short it is, so that tiny models look like large ones.
    """
    if np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_:
        return 0 < array.size <= nn.ConstantOp.LIMIT
    return array.size == 1


@dataclass
class ModelImport:
    """The state of one import: values seen so far, operations in order, constants made on demand."""

    where: str
    opset: int
    store: WeightStore = field(default_factory=WeightStore)
    constants: list[Operation] = field(default_factory=list)
    ops: list[Operation] = field(default_factory=list)
    values: dict[ir.Value, SSAValue] = field(default_factory=dict)

    def value(self, value: ir.Value) -> SSAValue:
        if value not in self.values:
            if value.const_value is None:
                raise InputError("HPCC1007", f"tensor {value.name!r} is used before it is made", where=self.where)
            self.values[value] = self.array(str(value.name), value.const_value.numpy(), value.const_value.dtype)
        return self.values[value]

    def array(self, name: str, array: Array, dtype: ir.DataType | None = None) -> SSAValue:
        """A constant as a value: text if it is small, else a reference into the store."""
        element = _element_type(ir.DataType.from_numpy(array.dtype) if dtype is None else dtype)
        type = TensorType(element, list(array.shape))
        if _is_inline(array):
            data = BytesAttr(np.ascontiguousarray(array).tobytes())
            return self._constant(nn.ConstantOp(DenseIntOrFPElementsAttr(type, data)), name)
        key = self.store.add(name, array)
        return self._constant(nn.WeightOp(key, self.store.digest(key), type), name)

    def scalar(self, number: float, element: Attribute) -> SSAValue:
        dtype = next(dtype for dtype, known in _ELEMENTS.items() if known == element)
        return self.array("scalar", np.array(number, dtype.numpy()), dtype)

    def _constant(self, op: IRDLOperation, name: str) -> SSAValue:
        op.attributes[TENSORS] = ArrayAttr([StringAttr(name)])
        self.constants.append(op)
        return op.results[0]

    def emit(self, op: IRDLOperation, node: ir.Node) -> IRDLOperation:
        op.location = NameLoc(StringAttr(str(node.name)), NoneAttr())
        self.ops.append(op)
        return op

    def node(self, node: ir.Node) -> None:
        """Convert one node; what fails half way leaves nothing behind."""
        mark = len(self.ops), len(self.constants)
        try:
            results = self._convert(node)
        except Unsupported as reason:
            del self.ops[mark[0] :]
            del self.constants[mark[1] :]
            for value in [value for value, made in self.values.items() if self._is_gone(made, mark[1])]:
                del self.values[value]
            results = self._opaque(node, str(reason))
        for output, result in zip(node.outputs, results, strict=False):
            self.values[output] = result
            self._name(output, result, mark[0])

    def _is_gone(self, made: SSAValue, mark: int) -> bool:
        return isinstance(made.owner, nn.WeightOp | nn.ConstantOp) and all(made.owner is not op for op in self.constants)

    def _convert(self, node: ir.Node) -> list[SSAValue]:
        converter = CONVERTERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if converter is None:
            domain = f" of {node.domain}" if node.domain not in ("", "ai.onnx") else ""
            raise Unsupported(f"the operator {node.op_type}{domain} is not supported")
        try:
            return converter(NodeImport(self, node))
        except (IndexError, ValueError, ZeroDivisionError) as error:
            raise Unsupported(f"its attributes are unusual ({error})") from error
        except VerifyException as error:
            message = f"node {node.name!r} ({node.op_type}): {str(error).splitlines()[0]}"
            raise InputError("HPCC1009", message, where=self.where, hint="do the --shape options fit the model?") from error

    def _opaque(self, node: ir.Node, reason: str) -> list[SSAValue]:
        inputs = [self._opaque_operand(value) for value in inputs_of_node(node)]
        types: list[Attribute] = []
        for output in node.outputs:
            try:
                types.append(_value_type(output))
            except Unsupported:
                types.append(NoneAttr())
        op = nn.OpaqueOp(node.op_type, reason, [value for value in inputs if value is not None], types)
        self.emit(op, node)
        return list(op.results)

    def _opaque_operand(self, value: ir.Value) -> SSAValue | None:
        """Constants of types that the IR cannot say (strings) stay in the ONNX node alone."""
        try:
            return self.value(value)
        except Unsupported:
            return None

    def _name(self, output: ir.Value, result: SSAValue, mark: int) -> None:
        owner = result.owner
        if isinstance(owner, Operation) and any(owner is op for op in self.ops[mark:]):
            known = owner.attributes.get(TENSORS)
            names = list(known.data) if isinstance(known, ArrayAttr) else [StringAttr("")] * len(owner.results)
            names[[value is result for value in owner.results].index(True)] = StringAttr(str(output.name))
            owner.attributes[TENSORS] = ArrayAttr(names)


def inputs_of_node(node: ir.Node) -> list[ir.Value]:
    """The values a node reads, those that its subgraphs capture included."""
    found = {value: None for value in node.inputs if value is not None}
    for attribute in node.attributes.values():
        if attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            continue
        graphs = [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else attribute.as_graphs()
        for graph in graphs:
            inner = [graph.inputs, graph.initializers.values(), *(n.outputs for n in graph.all_nodes())]
            own = {value for values in inner for value in values}
            used = [*(value for n in graph.all_nodes() for value in n.inputs), *graph.outputs]
            found.update({value: None for value in used if value is not None and value not in own})
    return list(found)


def _unique_node_names(model: ir.Model) -> None:
    """Name every node, each name once: reports and host segments refer to nodes by name."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph):
        base = node.name or f"{node.op_type}_{index}"
        name, suffix = base, 0
        while name in seen:
            suffix += 1
            name = f"{base}.{suffix}"
        node.name = name
        seen.add(name)


def import_onnx(path: Path, shapes: Shapes) -> Imported:
    """Read an ONNX file into a verified module whose @main has the model's inputs and outputs.

    `shapes` binds dynamic inputs by name; other inputs that share a symbolic dimension are bound with them.
    Raises InputError (HPCC10xx) for the file, UsageError (HPCC20xx) for shapes that do not fit the model.
    """
    source = open_onnx(Path(path))
    model, where = source.model, str(path)
    bind_shapes(model, shapes, where)
    notes = [*widen(model), *take_out_quantisation(model)]
    fold(model, where)
    cut_patches(model)
    _unique_node_names(model)
    state = ModelImport(where, model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1)))
    block = _arguments(model, state)
    for node in model.graph:
        if node.op_type != "Constant" or node.outputs[0].const_value is None:
            state.node(node)
    results = [state.value(output) for output in model.graph.outputs]
    block.add_ops([*state.constants, *state.ops, ReturnOp(*results)])
    module = _module(model, block, results)
    named = model.metadata_props.get(METADATA_KEY)
    if named:
        module.attributes[METADATA_KEY] = StringAttr(named)
    module.verify()
    parameters = _parameters(state.store)
    return Imported(module, state.store, Path(path).stem, source.sha256, parameters, model, Path(path), tuple(notes))


def _arguments(model: ir.Model, state: ModelImport) -> Block:
    types: list[Attribute] = []
    for value in model.graph.inputs:
        try:
            types.append(_value_type(value))
        except Unsupported as reason:
            raise InputError("HPCC1008", f"input {value.name!r}: {reason}", where=state.where) from reason
    block = Block(arg_types=types)
    state.values.update(zip(model.graph.inputs, block.args, strict=True))
    return block


def _module(model: ir.Model, block: Block, results: Sequence[SSAValue]) -> ModuleOp:
    func = FuncOp("main", (list(block.arg_types), [value.type for value in results]), Region(block))
    for attribute, values in (("input_names", model.graph.inputs), ("output_names", model.graph.outputs)):
        func.attributes[attribute] = ArrayAttr([StringAttr(str(value.name)) for value in values])
    return ModuleOp([func])


def _parameters(store: WeightStore) -> int:
    """Elements of the weights: floats and 8-bit codes, aliases counted once."""
    counted = {store.digest(key): store.get(key) for key in store.keys()}  # noqa: SIM118
    return sum(a.size for a in counted.values() if a.dtype.kind not in "iub" or a.dtype in (np.int8, np.uint8))
