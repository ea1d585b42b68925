"""Put the values of `hpcc.bridges` into the ONNX graph, as movements of the tensors that it has.

Host segments are cut out of the graph by names, and checks read the same names from ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from xdsl.dialects.builtin import DictionaryAttr, ModuleOp

from compiler.passes.bridges import BRIDGES, Bridge, Step


def build_bridges(module: ModuleOp, model: ir.Model) -> None:
    """Give `model`, in place, the values of `module` that it has no names for; those that are there already stay.

    A tensor that the graph computes of such a value is computed of it from then on, so that a segment that starts at the
    value ends there. What the graph has no tensor for stays without a name, which the cutting of segments reports.
    """
    found = module.attributes.get(BRIDGES)
    if not isinstance(found, DictionaryAttr):
        return
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    for name, entry in found.data.items():
        if name not in values:
            _build(model.graph, values, name, Bridge.read(entry))


def _build(graph: ir.Graph, values: dict[str, ir.Value], name: str, bridge: Bridge) -> None:
    tensor = values.get(bridge.of)
    if tensor is None:
        return
    there = _nodes(graph, tensor, bridge.there, name)
    nodes = list(there)
    values[name] = there[-1].outputs[0]
    if bridge.back:
        back = _nodes(graph, values[name], bridge.back, f"{name}:back")
        again = back[-1].outputs[0]
        ir.convenience.replace_all_uses_with(tensor, again, replace_graph_outputs=True)
        there[0].replace_input_with(0, tensor)
        tensor.name, again.name = f"{bridge.of}:before", bridge.of
        values[bridge.of] = again
        nodes += back
    producer = tensor.producer()
    if producer is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(producer, nodes)


def _nodes(graph: ir.Graph, x: ir.Value, steps: Sequence[Step], name: str) -> list[ir.Node]:
    """A node a step; the last one's result has the name."""
    nodes: list[ir.Node] = []
    for index, step in enumerate(steps):
        title = name if index == len(steps) - 1 else f"{name}:{index}"
        if step.is_transpose:
            node = ir.node("Transpose", [x], {"perm": list(step.numbers)}, name=title)
            shape = [_shape(x)[axis] for axis in step.numbers]
        else:
            node = ir.node("Reshape", [x, _numbers(graph, f"{title}:shape", step.numbers)], name=title)
            shape = list(step.numbers)
        result = node.outputs[0]
        result.name, result.type, result.shape = title, x.type, ir.Shape(shape)
        nodes.append(node)
        x = result
    return nodes


def _shape(value: ir.Value) -> list[int]:
    assert value.shape is not None, "what was imported has a shape"
    return [int(size) for size in value.shape.numpy()]


def _numbers(graph: ir.Graph, name: str, numbers: tuple[int, ...]) -> ir.Value:
    tensor = ir.tensor(np.array(numbers, np.int64), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([len(numbers)]), const_value=tensor)
    graph.register_initializer(value)
    return value
