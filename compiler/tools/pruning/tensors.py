"""Where the numbers of an ONNX model stand: initializers and Constant nodes of its main graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir


def file_tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol, Callable[[ir.Tensor], None]]]:
    """Name (of an initializer, or of a Constant node's result), tensor, and what puts another one in its place."""
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            yield str(name), value.const_value, lambda tensor, value=value: setattr(value, "const_value", tensor)
    for node in model.graph:
        attribute = node.attributes.get("value") if node.op_type == "Constant" else None
        if attribute is not None and attribute.type == ir.AttributeType.TENSOR:

            def put(tensor: ir.Tensor, node: ir.Node = node) -> None:
                node.attributes["value"] = ir.AttrTensor("value", tensor)
                if node.outputs[0].const_value is not None:
                    node.outputs[0].const_value = tensor

            yield str(node.outputs[0].name), attribute.as_tensor(), put
