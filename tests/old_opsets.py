"""Models of opset 11 to 17 made by hand of newer ones: no exporter writes 12 and 13 any more, and no converter goes back."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

AXES_BECAME_AN_INPUT = {"Squeeze": 13, "Unsqueeze": 13, "ReduceSum": 13, "ReduceMean": 18}
IR_VERSIONS = {11: 6, 12: 7, 13: 7}


def downgrade(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A copy whose operators are those of `opset`: axes and parts are attributes where they were, softmaxes over the last
    axis say so. Every operator must exist there; the checker says if not."""
    old = onnx.ModelProto.FromString(model.SerializeToString())
    constants = {tensor.name: tensor for tensor in old.graph.initializer}
    for node in old.graph.node:
        attribute = None
        if opset < AXES_BECAME_AN_INPUT.get(node.op_type, 0) and len(node.input) == 2:
            attribute = "axes"
        elif node.op_type == "Split" and opset < 13 and len(node.input) == 2:
            attribute = "split"
        if attribute is not None:
            numbers = numpy_helper.to_array(constants[node.input.pop()]).reshape(-1).tolist()
            node.attribute.append(helper.make_attribute(attribute, numbers))
    used = {name for node in old.graph.node for name in node.input}
    for tensor in [tensor for tensor in old.graph.initializer if tensor.name not in used]:
        old.graph.initializer.remove(tensor)
    del old.opset_import[:]
    old.opset_import.append(helper.make_opsetid("", opset))
    old.ir_version = IR_VERSIONS.get(opset, 8)
    onnx.checker.check_model(old, full_check=True)
    return old


def with_probabilities(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that ends in a softmax without an axis: 1, and everything behind it, before opset 13, the last one since."""
    new = onnx.ModelProto.FromString(model.SerializeToString())
    logits = new.graph.output[-1]
    new.graph.node.append(helper.make_node("Softmax", [logits.name], ["probabilities"], name="probabilities"))
    shape = [dim.dim_value for dim in logits.type.tensor_type.shape.dim]
    new.graph.output.append(helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, shape))
    return new
