"""Rewriting nodes of the ONNX graph before import: new nodes get names, so host segments can be cut between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Tensor = ir.Value | None


REASON = "hpcc.reason"
"""Key of a node's `meta`: why it was not rewritten."""


class NotRewritten(Exception):
    """Why a node stays as it is."""


class NodeRewrite:
    """One node on its way out: new nodes are put before it and take its name with a number behind."""

    def __init__(self, model: ir.Model, node: ir.Node) -> None:
        self.model, self.node = model, node
        self.opset = model.opset_imports.get("", 18)
        self.count = 0

    # ---- what the node says ---------------------------------------------------------------------------------------

    def input(self, index: int) -> Tensor:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def required(self, index: int) -> ir.Value:
        value = self.input(index)
        if value is None:
            raise NotRewritten(f"input {index} is missing")
        return value

    def data(self, index: int) -> np.ndarray:
        value = self.required(index)
        if value.const_value is None:
            raise NotRewritten(f"input {index} is not a constant")
        return value.const_value.numpy()

    def integer(self, name: str, default: int = 0) -> int:
        return self.node.attributes.get_int(name, default)

    def number(self, name: str, default: float) -> float:
        return self.node.attributes.get_float(name, default)

    def is_used(self, index: int) -> bool:
        if index >= len(self.node.outputs) or not self.node.outputs[index].name:
            return False
        return bool(self.node.outputs[index].uses()) or self.node.outputs[index].is_graph_output()

    def refuse_used(self, *outputs: int) -> None:
        if any(self.is_used(index) for index in outputs):
            raise NotRewritten("one of its further outputs is used")

    # ---- what takes its place -------------------------------------------------------------------------------------

    def emit(self, op_type: str, inputs: Sequence[Tensor], attributes: Mapping[str, Any] | None = None) -> ir.Value:
        """One new fp32 value."""
        base = self.node.name or str(self.node.outputs[0].name)
        name = f"{base}.{self.count}"
        self.count += 1
        made = ir.node(op_type, list(inputs), dict(attributes or {}), name=name)
        made.outputs[0].name = name
        made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        assert self.node.graph is not None
        self.node.graph.insert_before(self.node, [made])
        return made.outputs[0]

    def constant(self, array: Any, dtype: Any = np.float32) -> ir.Value:
        name = f"{self.node.name or self.node.outputs[0].name}.{self.count}"
        self.count += 1
        tensor = ir.tensor(np.asarray(array, dtype), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(np.shape(array)), const_value=tensor)
        self.model.graph.register_initializer(value)
        return value

    def reshape(self, x: ir.Value, *shape: int) -> ir.Value:
        """0 copies a size of x, -1 is what remains."""
        return self.emit("Reshape", [x, self.constant(shape, np.int64)])

    def finish(self, *results: ir.Value | None) -> None:
        """Put results into the place of the node's outputs and remove it."""
        for old, new in zip(self.node.outputs, results, strict=False):
            if new is None:
                continue
            if old.is_graph_output():
                new.name = old.name
            if new.shape is None:
                new.shape = old.shape
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        assert self.node.graph is not None
        self.node.graph.remove(self.node, safe=True)
