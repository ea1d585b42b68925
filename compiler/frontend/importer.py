"""ONNX file -> `hpcc_nn` module: shapes bound, constants folded, one row of the table in operators.py per operator.

The result keeps ONNX semantics; what has no meaning here becomes `hpcc_nn.opaque` with the reason and runs on the host.
Every operation's location is its ONNX node, its attribute `hpcc_nn.tensors` the ONNX names of its results. Weights are
references into a WeightStore over the mapped file: import moves no data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
from xdsl.dialects.builtin import (
    ArrayAttr,
    BytesAttr,
    DenseIntOrFPElementsAttr,
    ModuleOp,
    NameLoc,
    NoneAttr,
    StringAttr,
    TensorType,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.irdl import IRDLOperation
from xdsl.utils.exceptions import VerifyException

from compiler.dialects import nn
from compiler.frontend.contrib import spell_out
from compiler.frontend.fold import fold
from compiler.frontend.node import ELEMENTS, Array, NodeImport, Unsupported, element_type, tell_type, value_type
from compiler.frontend.onnx_file import open_onnx
from compiler.frontend.operators import CONVERTERS, MICROSOFT
from compiler.frontend.patches import cut_patches
from compiler.frontend.quantised import take_out_quantisation
from compiler.frontend.rewrite import REASON
from compiler.frontend.rules import as_the_standard_says, check_attributes
from compiler.frontend.shapes import Shapes, bind_shapes
from compiler.frontend.widen import widen
from compiler.sparsity.base import METADATA_KEY, METADATA_LAYERS_KEY
from compiler.weights import WeightStore
from hw_targets.errors import InputError

_CACHE = re.compile(r"past(_key_values?)?[._]|past_?(key|value|kv)|((k|v|kv|key|value)_?)?caches?([._]|$)|use_cache_branch$")
"""Names of inputs that exporters give to keys and values of earlier tokens, and to the choice of a graph with them."""

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
        element = element_type(ir.DataType.from_numpy(array.dtype) if dtype is None else dtype)
        type = TensorType(element, list(array.shape))
        if _is_inline(array):
            data = BytesAttr(np.ascontiguousarray(array).tobytes())
            return self._constant(nn.ConstantOp(DenseIntOrFPElementsAttr(type, data)), name)
        key = self.store.add(name, array)
        return self._constant(nn.WeightOp(key, self.store.digest(key), type), name)

    def scalar(self, number: float, element: Attribute) -> SSAValue:
        dtype = next(dtype for dtype, known in ELEMENTS.items() if known == element)
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
            tell_type(output, result)
            self._name(output, result, mark[0])

    def _is_gone(self, made: SSAValue, mark: int) -> bool:
        return isinstance(made.owner, nn.WeightOp | nn.ConstantOp) and all(made.owner is not op for op in self.constants)

    def _convert(self, node: ir.Node) -> list[SSAValue]:
        converters = CONVERTERS if node.domain in ("", "ai.onnx") else MICROSOFT if node.domain == "com.microsoft" else {}
        converter = converters.get(node.op_type)
        if converter is None:
            domain = f" of {node.domain}" if node.domain not in ("", "ai.onnx") else ""
            raise Unsupported(node.meta.get(REASON) or f"the operator {node.op_type}{domain} is not supported")
        try:
            return converter(NodeImport(self, node))
        except (IndexError, KeyError, OverflowError, TypeError, ValueError, ZeroDivisionError) as error:
            raise Unsupported(f"its attributes are unusual ({error})") from error
        except VerifyException as error:
            message = f"node {node.name!r} ({node.op_type}): {str(error).splitlines()[0]}"
            raise InputError("HPCC1009", message, where=self.where, hint="do the --shape options fit the model?") from error

    def _opaque(self, node: ir.Node, reason: str) -> list[SSAValue]:
        inputs = [self._opaque_operand(value) for value in inputs_of_node(node)]
        types: list[Attribute] = []
        for output in node.outputs:
            try:
                types.append(value_type(output))
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


def import_onnx(path: Path, shapes: Shapes, prepare: Callable[[ir.Model], None] | None = None) -> Imported:
    """Read an ONNX file into a verified module whose @main has the model's inputs and outputs.

    `shapes` binds dynamic inputs by name; other inputs that share a symbolic dimension are bound with them. `prepare` may
    change the opened graph, the file's own nodes and names, before anything else does.
    Raises InputError (HPCC10xx) for the file, UsageError (HPCC20xx) for shapes that do not fit the model.
    """
    source = open_onnx(Path(path))
    model, where = source.model, str(path)
    if prepare is not None:
        prepare(model)
    _refuse_cache(model, where)
    bind_shapes(model, shapes, where)
    check_attributes(model, where)
    with as_the_standard_says(where):
        notes = [*widen(model), *take_out_quantisation(model)]
        spells = spell_out(model)
        fold(model, where)
        while more := spell_out(model):  # what one pass has spelled out may tell other operators their shapes
            spells += more
            fold(model, where)
        notes += [note for note in dict.fromkeys(spells) if note]
        cut_patches(model)
        _unique_node_names(model)
    state = ModelImport(where, model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1)))
    block = _arguments(model, state)
    for node in model.graph:
        if node.op_type != "Constant" or node.outputs[0].const_value is None:
            state.node(node)
    results = [state.value(output) for output in model.graph.outputs]
    _require_shapes(model, results, where)
    block.add_ops([*state.constants, *state.ops, ReturnOp(*results)])
    module = _module(model, block, results)
    for key in (METADATA_KEY, METADATA_LAYERS_KEY):
        if named := model.metadata_props.get(key):
            module.attributes[key] = StringAttr(named)
    _verify(module, where)
    parameters = _parameters(state.store)
    return Imported(module, state.store, Path(path).stem, source.sha256, parameters, model, Path(path), tuple(notes))


def _verify(module: ModuleOp, where: str) -> None:
    """Every op obeys its own rules: shapes that do not fit together end here."""
    for op in module.walk():
        try:
            op.verify(verify_nested_ops=False)
        except VerifyException as error:
            node = f"node {op.location.desc.data!r}: " if isinstance(op.location, NameLoc) else ""
            message = f"{node}{str(error).splitlines()[0]}"
            raise InputError("HPCC1009", message, where=where, hint="do the --shape options fit the model?") from error


def _arguments(model: ir.Model, state: ModelImport) -> Block:
    types: list[Attribute] = []
    for value in model.graph.inputs:
        try:
            types.append(value_type(value))
        except Unsupported as reason:
            raise InputError("HPCC1008", f"input {value.name!r}: {reason}", where=state.where) from reason
        if not isinstance(types[-1], TensorType):
            raise InputError("HPCC1008", f"input {value.name!r}: its shape is not known", where=state.where)
        if not types[-1].get_num_dims():
            message = f"input {value.name!r} has no axes, of which the first would count samples"
            raise InputError("HPCC1017", message, where=state.where, hint="make it a constant of the model")
    block = Block(arg_types=types)
    state.values.update(zip(model.graph.inputs, block.args, strict=True))
    return block


def _refuse_cache(model: ir.Model, where: str) -> None:
    names = [str(value.name) for value in model.graph.inputs]
    past = next((name for name in names if _CACHE.match(name)), None)
    if past is not None:
        raise InputError(
            "HPCC1012",
            f"the model decodes with a key-value cache (input {past!r}), which is not supported",
            where=where,
            hint="export it without past keys and values: the prefill of a whole sequence",
        )


def _require_shapes(model: ir.Model, results: Sequence[SSAValue], where: str) -> None:
    for output, result in zip(model.graph.outputs, results, strict=True):
        if not isinstance(result.type, TensorType):
            raise InputError(
                "HPCC1013",
                f"the shape of output {output.name!r} is known only at run time",
                where=where,
                hint="export with fixed shapes, or simplify the graph first",
            )


def _module(model: ir.Model, block: Block, results: Sequence[SSAValue]) -> ModuleOp:
    func = FuncOp("main", (list(block.arg_types), [value.type for value in results]), Region(block))
    for attribute, values in (("input_names", model.graph.inputs), ("output_names", model.graph.outputs)):
        func.attributes[attribute] = ArrayAttr([StringAttr(str(value.name)) for value in values])
    return ModuleOp([func])


def _parameters(store: WeightStore) -> int:
    """Elements of the weights: floats and 8-bit codes, aliases counted once."""
    counted = {store.digest(key): store.get(key) for key in store.keys()}  # noqa: SIM118
    return sum(a.size for a in counted.values() if a.dtype.kind not in "iub" or a.dtype in (np.int8, np.uint8))
