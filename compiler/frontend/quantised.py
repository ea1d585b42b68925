"""Quantised models as float ones with integer weights: codes and scales of weights stay, those of activations go.

The accelerator quantises activations itself, one scale per token, so what a file says about theirs (QuantizeLinear and
DequantizeLinear around them, DynamicQuantizeLinear, QLinear operators) is left out, and that is said. Weights become
DequantizeLinear(codes, scale, zero point), which `hpcc-fuse` resolves: int8 codes that the accelerator can use are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Floats = dict[ir.Value, ir.Value]
"""The float value that a quantised activation stands for."""
Floats32 = NDArray[np.float32]
Rewrite = Callable[[Floats, ir.Node], bool]


def take_out_quantisation(model: ir.Model) -> list[str]:
    """Rewrite `model` in place; returns what to say about it."""
    counts: dict[str, int] = {}
    floats: Floats = {}
    for node in list(model.graph):
        rewrite = REWRITES.get((node.domain if node.domain != "ai.onnx" else "", node.op_type))
        if node.graph is not None and rewrite is not None and rewrite(floats, node):
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    listed = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if name not in _MOVEMENTS)
    if not listed:
        return []
    return [f"quantised operators became float ones with the file's weights ({listed}): activations are quantised anew"]


# ---- tools ----------------------------------------------------------------------------------------------------------


def _is_constant(value: ir.Value | None) -> bool:
    if value is None or value.const_value is not None:
        return value is not None
    producer = value.producer()
    return producer is not None and producer.op_type == "Constant"


def _stored(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of a constant."""
    if value is None or value.const_value is not None:
        return None if value is None else value.const_value
    producer = value.producer()
    found = producer.attributes.get("value") if producer is not None and producer.op_type == "Constant" else None
    return None if found is None else found.as_tensor()


def _is_matrix(tensor: ir.TensorProtocol) -> bool:
    """Whether it has several rows and columns; numbers and biases have not."""
    return sum(size > 1 for size in tensor.shape.numpy()) > 1


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type in op_types else None


def _sole_user(value: ir.Value) -> ir.Node | None:
    uses = value.uses()
    return next(iter(uses)).node if len(uses) == 1 and not value.is_graph_output() else None


def _emit(
    node: ir.Node,
    op_type: str,
    inputs: list[ir.Value | None],
    label: str,
    attributes: Mapping[str, Any] | None = None,
) -> ir.Value:
    """A new fp32 value, made just before `node`."""
    made = ir.node(op_type, inputs, dict(attributes or {}), name=f"{node.name or node.outputs[0].name}.{label}")
    made.outputs[0].name = f"{node.outputs[0].name}.{label}"
    made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    assert node.graph is not None
    node.graph.insert_before(node, [made])
    return made.outputs[0]


def _replace(old: ir.Value, new: ir.Value) -> None:
    if new.shape is None:
        new.shape = old.shape
    if old.is_graph_output() and not new.is_graph_input() and not new.is_graph_output():
        new.name = old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _weight(
    node: ir.Node, codes: ir.Value, scale: ir.Value, zero: ir.Value | None, *, axis: int, label: str = "weight"
) -> ir.Value:
    """The float matrix behind constant codes."""
    return _emit(node, "DequantizeLinear", [codes, scale, zero], label, {"axis": axis})


# ---- rewrites -------------------------------------------------------------------------------------------------------


def _float_of(floats: Floats, node: ir.Node, at: int) -> ir.Value | None:
    """What the operand triple (codes, scale, zero point) at input `at` stands for; rows of a stored table included."""
    codes, scale, zero = (_input(node, at + k) for k in range(3))
    if codes is None or scale is None or codes in floats:
        return None if codes is None else floats.get(codes)
    gather = _made_by(codes, "Gather")
    if _is_constant(codes):
        return _numbers(node, at) or _weight(
            node, codes, scale, zero, axis=node.attributes.get_int("axis", 1), label=f"weight{at}"
        )
    if gather is None or gather.inputs[0] is None or not _is_constant(gather.inputs[0]) or not _is_single(scale):
        return None
    table = _weight(node, gather.inputs[0], scale, zero, axis=0, label=f"table{at}")
    return _emit(node, "Gather", [table, gather.inputs[1]], f"rows{at}", {"axis": gather.attributes.get_int("axis", 0)})


def _is_single(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.size == 1


def _quantise(floats: Floats, node: ir.Node) -> bool:
    """QuantizeLinear(x) stands for x, unless x is a stored matrix, whose codes the file says so."""
    stored = _stored(node.inputs[0])
    if node.inputs[0] is None or (stored is not None and _is_matrix(stored)):
        return False
    floats[node.outputs[0]] = node.inputs[0]
    return True


def _dequantise(floats: Floats, node: ir.Node) -> bool:
    if _is_constant(node.inputs[0]):
        value = _numbers(node)
    else:
        value = _float_of(floats, node, 0)
    if value is not None:
        _replace(node.outputs[0], value)
    return value is not None


def _numbers(node: ir.Node, at: int = 0) -> ir.Value | None:
    """The floats behind a constant triple that is no linear layer's weight: a scale of scores, a bias, a convolution's
    windows (which are laid out anew for their product). None for others."""
    codes = _stored(_input(node, at))
    if codes is None or (_is_matrix(codes) and not _is_window(codes)):
        return None
    floats = _dequantised(node, at, node.attributes.get_int("axis", 1))
    return None if floats is None else _constant(node, floats, f"numbers{at}")


def _dequantised(node: ir.Node, at: int, axis: int) -> Floats32 | None:
    """The numbers of a constant triple (codes, scale, zero point) of a node; `axis` counts its scales, if several."""
    codes, scale, zero = (_stored(_input(node, at + k)) for k in range(3))
    if codes is None or scale is None:
        return None
    if scale.size > 1 and (codes.shape.rank() <= axis or codes.shape[axis] != scale.size):
        return None
    along = (-1, *(1,) * (codes.shape.rank() - axis - 1)) if scale.size > 1 else ()
    shifted = codes.numpy().astype(np.int64) - (0 if zero is None else zero.numpy().astype(np.int64).reshape(along))
    return shifted.astype(np.float32) * scale.numpy().astype(np.float32).reshape(along)


def _is_window(kernel: ir.TensorProtocol) -> bool:
    """Whether it is a kernel [outs, ins, *window] of several positions."""
    return kernel.shape.rank() > 2 and prod(kernel.shape.numpy()[2:]) > 1


def _constant(node: ir.Node, floats: Floats32, label: str) -> ir.Value:
    """A stored tensor for what takes the place of a node."""
    tensor = ir.Tensor(floats, name=f"{node.outputs[0].name}.{label}")
    value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(floats.shape), const_value=tensor)
    assert node.graph is not None
    node.graph.register_initializer(value)
    return value


def _moved(floats: Floats, node: ir.Node) -> bool:
    """Data movement of quantised values moves the float ones."""
    x = node.inputs[0]
    if x is None or x not in floats:
        return False
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    floats[node.outputs[0]] = _emit(node, node.op_type, [floats[x], *node.inputs[1:]], "float", attributes)
    return True


def _linear(op_type: str, *triples: int) -> Rewrite:
    """A QLinear operator: the float operator on what its operands stand for."""

    def rewrite(floats: Floats, node: ir.Node) -> bool:
        values = [_float_of(floats, node, at) for at in triples]
        if any(value is None for value in values):
            return False
        attributes = {name: node.attributes[name].value for name in ("axis",) if name in node.attributes}
        floats[node.outputs[0]] = _emit(node, op_type, values, "float", attributes)
        return True

    return rewrite


def _bias(node: ir.Node, at: int, x_scale: int, weight_scale: int) -> ir.Value | None:
    """The int32 bias of a quantised product, whose scale is that of its sums. None if it has none or it is not stored."""
    codes, *scales = (_stored(_input(node, index)) for index in (at, x_scale, weight_scale))
    if codes is None or any(scale is None for scale in scales):
        return None
    factors = [np.ravel(scale.numpy()).astype(np.float32) for scale in scales if scale is not None]
    return _constant(node, codes.numpy().astype(np.float32) * factors[0] * factors[1], "bias")


def _gemm(floats: Floats, node: ir.Node) -> bool:
    """com.microsoft QGemm(a, its scale and zero point, b, ..., int32 c, y's scale and zero point)."""
    turned = node.attributes.get_int("transB", 0)
    codes, scale = _input(node, 3), _input(node, 4)
    x, bias = _float_of(floats, node, 0), _bias(node, 6, 1, 4)
    if x is None or codes is None or scale is None or not _is_constant(codes) or (bias is None and _input(node, 6)):
        return False
    weight = _weight(node, codes, scale, _input(node, 5), axis=1 - turned)
    kept = {name: node.attributes[name].value for name in ("alpha", "transA", "transB") if name in node.attributes}
    y = _emit(node, "Gemm", [x, weight, bias], "float", kept)
    if _input(node, 7) is None:
        _replace(node.outputs[0], y)
    else:
        floats[node.outputs[0]] = y
    return True


def _convolution(floats: Floats, node: ir.Node) -> bool:
    """QLinearConv(x, its scale and zero point, w, ..., y's scale and zero point, int32 bias)."""
    x, kernel, bias = _float_of(floats, node, 0), _dequantised(node, 3, 0), _bias(node, 8, 1, 4)
    if x is None or kernel is None or (bias is None and _input(node, 8)):
        return False
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    floats[node.outputs[0]] = _emit(node, "Conv", [x, _constant(node, kernel, "kernel"), bias], "float", attributes)
    return True


def _concat(floats: Floats, node: ir.Node) -> bool:
    """com.microsoft QLinearConcat(y's scale and zero point, (codes, scale, zero point)...)."""
    parts = [_float_of(floats, node, at) for at in range(2, len(node.inputs), 3)]
    if any(part is None for part in parts):
        return False
    floats[node.outputs[0]] = _emit(node, "Concat", parts, "float", {"axis": node.attributes.get_int("axis", 0)})
    return True


def _dynamic_product(floats: Floats, node: ir.Node) -> bool:
    """Mul(Cast(MatMulInteger(DynamicQuantizeLinear(x), codes)), x_scale * w_scale) -> MatMul(x, weight), or Conv."""
    quantise = _made_by(node.inputs[0], "DynamicQuantizeLinear")
    codes = node.inputs[1]
    cast = _sole_user(node.outputs[0])
    scaling = _sole_user(cast.outputs[0]) if cast is not None and cast.op_type == "Cast" else None
    if quantise is None or codes is None or not _is_constant(codes) or cast is None:
        return False
    if scaling is None or scaling.op_type != "Mul":
        return False
    factor = next(value for value in scaling.inputs if value is not cast.outputs[0])
    product = _made_by(factor, "Mul")
    scale = None if product is None else next((v for v in product.inputs if _is_constant(v)), None)
    if scale is None or quantise.outputs[1] not in (product.inputs if product is not None else ()):
        return False
    if node.op_type == "ConvInteger":
        stored, factors, zero = _stored(codes), _stored(scale), _stored(_input(node, 3))
        if stored is None or factors is None or factors.size != 1 or (zero is not None and zero.size != 1):
            return False
        shifted = stored.numpy().astype(np.float32) - (0 if zero is None else zero.numpy().astype(np.float32))
        kernel = _constant(scaling, shifted * factors.numpy().astype(np.float32), "kernel")
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        _replace(scaling.outputs[0], _emit(scaling, "Conv", [quantise.inputs[0], kernel], "product", attributes))
        return True
    weight = _weight(scaling, codes, scale, _input(node, 3), axis=1)
    _replace(scaling.outputs[0], _emit(scaling, "MatMul", [quantise.inputs[0], weight], "product"))
    return True


def _product_with_bias(node: ir.Node, x: ir.Value | None, codes: int, scale: int, zero: int, bias: int) -> bool:
    values = [_input(node, index) for index in (codes, scale, zero, bias)]
    if x is None or values[0] is None or values[1] is None or not _is_constant(values[0]):
        return False
    weight = _weight(node, values[0], values[1], values[2], axis=1)
    y = _emit(node, "MatMul", [x, weight], "product")
    _replace(node.outputs[0], y if values[3] is None else _emit(node, "Add", [y, values[3]], "bias"))
    return True


def _dynamic_matmul(floats: Floats, node: ir.Node) -> bool:
    """com.microsoft DynamicQuantizeMatMul(x, codes, scale, zero point, bias)."""
    return _product_with_bias(node, node.inputs[0], 1, 2, 3, 4)


def _integer_to_float(floats: Floats, node: ir.Node) -> bool:
    """com.microsoft MatMulIntegerToFloat(quantised x, codes, x scale, scale, x zero point, zero point, bias)."""
    quantise = _made_by(node.inputs[0], "DynamicQuantizeLinear", "QuantizeLinear")
    return _product_with_bias(node, None if quantise is None else quantise.inputs[0], 1, 3, 5, 6)


_MOVEMENTS = ("Reshape", "Transpose", "Gather", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Slice")

REWRITES: Mapping[tuple[str, str], Rewrite] = {
    **{("", name): _moved for name in _MOVEMENTS},
    ("", "QuantizeLinear"): _quantise,
    ("", "DequantizeLinear"): _dequantise,
    ("", "MatMulInteger"): _dynamic_product,
    ("", "ConvInteger"): _dynamic_product,
    ("", "QLinearConv"): _convolution,
    ("com.microsoft", "QGemm"): _gemm,
    ("com.microsoft", "QLinearConcat"): _concat,
    ("", "QLinearMatMul"): _linear("MatMul", 0, 3),
    ("com.microsoft", "QLinearAdd"): _linear("Add", 0, 3),
    ("com.microsoft", "QLinearMul"): _linear("Mul", 0, 3),
    ("com.microsoft", "QLinearSigmoid"): _linear("Sigmoid", 0),
    ("com.microsoft", "QLinearSoftmax"): _linear("Softmax", 0),
    ("com.microsoft", "QuantizeLinear"): _quantise,
    ("com.microsoft", "DequantizeLinear"): _dequantise,
    ("com.microsoft", "DynamicQuantizeMatMul"): _dynamic_matmul,
    ("com.microsoft", "MatMulIntegerToFloat"): _integer_to_float,
}
"""By domain and operator: rewrites a node in place if it can."""
