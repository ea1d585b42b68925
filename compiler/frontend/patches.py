"""Patch embeddings: a convolution whose windows do not overlap, rewritten as a product over patches, in the ONNX graph.

The patches are cut by Reshape and Transpose nodes, which move data and run on the host; the product is a linear layer for
the accelerator. The rewrite stands before import because host segments are cut out of the ONNX graph by tensor names.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir


def cut_patches(model: ir.Model) -> None:
    """Rewrite, in place, every such convolution with a constant kernel and static shapes."""
    for node in list(model.graph):
        if node.op_type == "Conv" and node.domain in ("", "ai.onnx") and _is_patch_embedding(node):
            _Rewriting(model, node).run()


def _static(value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(size) for size in value.shape.numpy())


def _is_patch_embedding(node: ir.Node) -> bool:
    """A kernel of more than one position that moves by its own size over an input it divides, without padding."""
    x = _static(node.inputs[0])
    kernel = node.inputs[1]
    if x is None or kernel is None or kernel.const_value is None:
        return False
    window = _static(kernel)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    if window is None or len(window) < 3 or math.prod(window[2:]) == 1:
        return False
    return (
        attributes.get("group", 1) == 1
        and not any(attributes.get("pads") or ())
        and attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        and set(attributes.get("dilations") or (1,)) == {1}
        and tuple(attributes.get("strides") or ()) == window[2:]
        and all(size % step == 0 for size, step in zip(x[2:], window[2:], strict=True))
    )


class _Rewriting:
    """x [b, c, h p, w q] -> patches [b, h w, c p q] -> times W^T, plus the bias -> [b, o, h, w]."""

    def __init__(self, model: ir.Model, node: ir.Node) -> None:
        self.model, self.node = model, node
        self.name = node.name or str(node.outputs[0].name)
        self.new: list[ir.Node] = []

    def run(self) -> None:
        x, kernel = self.node.inputs[0], self.node.inputs[1]
        assert x is not None
        assert kernel is not None
        assert kernel.const_value is not None
        source, window = _static(x), _static(kernel)
        assert source is not None
        assert window is not None
        steps, counts = window[2:], [size // step for size, step in zip(source[2:], window[2:], strict=True)]
        rank = len(steps)
        split = [source[0], source[1], *(n for pair in zip(counts, steps, strict=True) for n in pair)]
        positions, inside = range(2, 2 + 2 * rank, 2), range(3, 3 + 2 * rank, 2)
        moved = self.op("Transpose", [self.reshape(x, split, "cut")], "move", perm=[0, *positions, 1, *inside])
        patches = self.reshape(moved, [source[0], math.prod(counts), math.prod(window[1:])], "patches")
        weight = self.constant(kernel.const_value.numpy().reshape(window[0], -1), str(kernel.name))
        y = self.op("MatMul", [patches, self.op("Transpose", [weight], "turn", perm=[1, 0])], "product")
        if len(self.node.inputs) > 2 and self.node.inputs[2] is not None:
            y = self.op("Add", [y, self.node.inputs[2]], "bias")
        y = self.op("Transpose", [y], "channels", perm=[0, 2, 1])
        result = self.reshape(y, [source[0], window[0], *counts], "place")
        self._replace(result)

    def _replace(self, result: ir.Value) -> None:
        output = self.node.outputs[0]
        result.type, result.shape, result.name = output.type, output.shape, output.name
        self.model.graph.insert_before(self.node, self.new)
        ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
        self.model.graph.remove(self.node, safe=True)

    def op(self, op_type: str, inputs: list[ir.Value], label: str, *, perm: list[int] | None = None) -> ir.Value:
        attributes = {} if perm is None else {"perm": perm}
        node = ir.node(op_type, inputs, attributes, name=f"{self.name}.{label}")
        value = node.outputs[0]
        value.name, value.type = f"{self.name}.{label}", inputs[0].type
        self.new.append(node)
        return value

    def reshape(self, x: ir.Value, shape: list[int], label: str) -> ir.Value:
        value = self.op("Reshape", [x, self.constant(np.array(shape, np.int64), f"{self.name}.{label}.shape")], label)
        value.shape = ir.Shape(shape)
        return value

    def constant(self, array: np.ndarray, name: str) -> ir.Value:
        name = name if name not in self.model.graph.initializers else f"{name}.rows"
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self.model.graph.register_initializer(value)
        return value
