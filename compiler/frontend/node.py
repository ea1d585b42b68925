"""One ONNX node on its way into the IR: element types, and what a converter may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from numpy.typing import NDArray
from xdsl.dialects.builtin import (
    AnyFloat,
    BFloat16Type,
    IntegerType,
    Signedness,
    TensorType,
    UnrankedTensorType,
    f16,
    f32,
    f64,
)
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import IRDLOperation

from compiler.dialects import nn

if TYPE_CHECKING:
    from compiler.frontend.importer import ModelImport

Array = NDArray[Any]

Element = AnyFloat | IntegerType


class Unsupported(Exception):
    """Why a node has no meaning here; it becomes an opaque operation."""


ELEMENTS: dict[ir.DataType, Element] = {
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


def element_type(dtype: ir.DataType | None) -> Element:
    if dtype is None or dtype not in ELEMENTS:
        raise Unsupported(f"element type {'unknown' if dtype is None else dtype.name.lower()}")
    return ELEMENTS[dtype]


def value_type(value: ir.Value) -> Attribute:
    """The tensor type of a value, unranked where the model does not say. Raises Unsupported for other element types."""
    element = element_type(value.dtype)
    if value.shape is None or not value.shape.is_static():
        return UnrankedTensorType(element)
    return TensorType(element, [int(size) for size in value.shape.numpy()])


def tell_type(value: ir.Value, known: SSAValue) -> None:
    """Write what import found out about a value into the graph, of which host segments are cut: ONNX's own inference
    gives up on the whole graph where one node is against the standard."""
    if isinstance(known.type, TensorType) and (value.shape is None or value.dtype is None):
        value.shape = ir.Shape(known.type.get_shape())
        value.type = ir.TensorType(next(dtype for dtype, element in ELEMENTS.items() if element == known.type.element_type))


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
        if 0 in result.type.get_shape():
            raise Unsupported("an empty tensor")
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


_COMPARISONS = {
    nn.BinaryKind.EQUAL,
    nn.BinaryKind.LESS,
    nn.BinaryKind.LESS_EQUAL,
    nn.BinaryKind.GREATER,
    nn.BinaryKind.GREATER_EQUAL,
    nn.BinaryKind.AND,
    nn.BinaryKind.OR,
}


def emit_binary(n: NodeImport, kind: nn.BinaryKind, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
    element = IntegerType(1) if kind in _COMPARISONS else nn.element_type_of(lhs)
    shape = nn.broadcast_shape(nn.shape_of(lhs), nn.shape_of(rhs))
    return n.emit(nn.BinaryOp(kind, lhs, rhs, tensor_type(lhs, shape, element)))
