"""float16, bfloat16 and float64 models as fp32 ones: the accelerator's own formats are int8, bf16 and fp32 in between."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def widen(model: ir.Model) -> list[str]:
    """Rewrite `model` in place; returns what to say about it. Every float16 and bfloat16 weight is exact in fp32.

    Inputs and outputs become fp32 too. float64 constants are rounded; of float64 inputs and results nothing is left.
    """
    found: dict[ir.DataType, int] = {}
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype in _NARROW:
            found[value.const_value.dtype] = found.get(value.const_value.dtype, 0) + value.const_value.size
            value.const_value = _fp32(value.const_value)
    for node in model.graph.all_nodes():
        _widen_attributes(node, found)
        for value in node.outputs:
            _widen_type(value)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        _widen_type(value)
    kinds = [kind for kind in _NARROW[:2] if kind in found]
    return [f"{found[kind]:,} {kind.name.lower()} parameters are widened to fp32, inputs and outputs too" for kind in kinds]


def _fp32(tensor: ir.TensorProtocol) -> ir.Tensor:
    with np.errstate(over="ignore"):
        return ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _widen_type(value: ir.Value) -> None:
    if value.dtype in _NARROW:
        value.type = ir.TensorType(ir.DataType.FLOAT)


def _widen_attributes(node: ir.Node, found: dict[ir.DataType, int]) -> None:
    for attribute in list(node.attributes.values()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _NARROW:
            tensor = attribute.as_tensor()
            found[tensor.dtype] = found.get(tensor.dtype, 0) + tensor.size
            node.attributes[attribute.name] = ir.AttrTensor(attribute.name, _fp32(tensor))
    target = node.attributes.get("to")
    if node.op_type == "Cast" and target is not None and target.as_int() in _NARROW:
        node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    kind = node.attributes.get("dtype")
    if kind is not None and kind.type == ir.AttributeType.INT and kind.as_int() in _NARROW:
        node.attributes["dtype"] = ir.AttrInt64("dtype", int(ir.DataType.FLOAT))
