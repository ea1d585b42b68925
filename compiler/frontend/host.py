"""Host segments: the parts of the folded ONNX graph that run through ONNX Runtime, cut out by tensor names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx import helper
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, IntegerAttr, ModuleOp, StringAttr
from xdsl.ir import Attribute

from compiler.frontend.bridging import build_bridges
from compiler.frontend.importer import inputs_of_node
from compiler.frontend.node import ELEMENTS
from compiler.frontend.rules import as_the_standard_says
from compiler.passes.partition import HOST
from hw_targets.errors import InputError


@dataclass(frozen=True)
class HostNode:
    """A node that the host runs: its ONNX name, what it computes, why it is not on the accelerator."""

    onnx_node: str
    op: str
    reason: str
    macs: int


@dataclass(frozen=True)
class HostSegment:
    """An ONNX model that runs `before` or `after` the device part; inputs and outputs are tensor names of the model."""

    when: str
    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[HostNode, ...]


@dataclass(frozen=True)
class HostPart:
    """What `hpcc.host` says of one segment."""

    when: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[HostNode, ...]


def host_parts(module: ModuleOp) -> tuple[HostPart, ...]:
    """The host work of a partitioned module, in order of execution; empty if everything runs on the device."""
    found = module.attributes.get(HOST)
    entries = found.data if isinstance(found, ArrayAttr) else ()
    return tuple(_part(entry) for entry in entries if isinstance(entry, DictionaryAttr))


def _part(entry: DictionaryAttr) -> HostPart:
    nodes = entry.data["nodes"]
    assert isinstance(nodes, ArrayAttr)
    return HostPart(
        _text(entry.data["when"]),
        _texts(entry.data["inputs"]),
        _texts(entry.data["outputs"]),
        tuple(_host_node(node) for node in nodes if isinstance(node, DictionaryAttr)),
    )


def _host_node(entry: DictionaryAttr) -> HostNode:
    macs = entry.data["macs"]
    assert isinstance(macs, IntegerAttr)
    return HostNode(_text(entry.data["node"]), _text(entry.data["op"]), _text(entry.data["reason"]), macs.value.data)


def _text(value: Attribute) -> str:
    assert isinstance(value, StringAttr)
    return value.data


def _texts(value: Attribute) -> tuple[str, ...]:
    assert isinstance(value, ArrayAttr)
    return tuple(_text(item) for item in value)


def host_segments(module: ModuleOp, model: ir.Model) -> list[HostSegment]:
    """The host parts as runnable models. `model` is the folded graph the module was imported from; it gets names for what
    crosses without one."""
    build_bridges(module, model)
    with as_the_standard_says("the part of the model for the host"):
        return [
            HostSegment(part.when, extract(model, part.inputs, part.outputs), part.inputs, part.outputs, part.nodes)
            for part in host_parts(module)
        ]


def extract(model: ir.Model, inputs: Iterable[str], outputs: Iterable[str]) -> onnx.ModelProto:
    """The subgraph from `inputs` and initializers to `outputs`. Raises InputError HPCC1010 if there is none."""
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    borders = {name: values[name] for name in inputs if name in values}
    wanted = [_known(values, name) for name in outputs]
    nodes, constants = _slice(model, set(borders.values()), wanted)
    graph = helper.make_graph(
        [ir.to_proto(node) for node in nodes],
        "host",
        [_value_info(value) for value in borders.values()],
        [_value_info(value) for value in wanted],
        [_tensor(value) for value in constants],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version, producer_name="hpcc")


@dataclass(frozen=True)
class SingleNode:
    """A node as a model: `operands` are its inputs in the order of an opaque operation's operands."""

    model: onnx.ModelProto
    operands: tuple[str, ...]
    outputs: tuple[str, ...]


def single_node(model: ir.Model, name: str) -> SingleNode:
    """The node of this name as a model of its own."""
    node = next(node for node in model.graph if node.name == name)
    operands = [value for value in inputs_of_node(node) if value.const_value is None or value.dtype in ELEMENTS]
    computed = [str(value.name) for value in operands if value.const_value is None]
    outputs = tuple(str(value.name) for value in node.outputs if value.name)
    return SingleNode(extract(model, computed, outputs), tuple(str(value.name) for value in operands), outputs)


def _known(values: dict[str, ir.Value], name: str) -> ir.Value:
    if name not in values:
        raise InputError("HPCC1010", f"the host part needs tensor {name!r}, which the ONNX graph does not name")
    return values[name]


def _slice(model: ir.Model, borders: set[ir.Value], wanted: list[ir.Value]) -> tuple[list[ir.Node], list[ir.Value]]:
    """Nodes in graph order and the initializers they read, backwards from `wanted` up to `borders`."""
    nodes: set[ir.Node] = set()
    constants: dict[ir.Value, None] = {}
    stack = list(wanted)
    while stack:
        value = stack.pop()
        if value in borders:
            continue
        if value.is_initializer():
            constants[value] = None
            continue
        node = value.producer()
        if node is None:
            raise InputError("HPCC1010", f"the host part needs tensor {value.name!r}, which only the device has")
        if node not in nodes:
            nodes.add(node)
            stack += inputs_of_node(node)
    return [node for node in model.graph if node in nodes], list(constants)


def _value_info(value: ir.Value) -> onnx.ValueInfoProto:
    if value.dtype is None:
        raise InputError("HPCC1010", f"the host part needs tensor {value.name!r}, whose type the ONNX graph does not say")
    shape = None if value.shape is None else [dim if isinstance(dim, int) else None for dim in value.shape]
    return helper.make_tensor_value_info(str(value.name), int(value.dtype), shape)


def _tensor(value: ir.Value) -> onnx.TensorProto:
    assert value.const_value is not None
    proto = ir.to_proto(value.const_value)
    proto.name = str(value.name)
    return proto
