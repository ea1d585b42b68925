"""Fold a bound model: shapes inferred, constant subgraphs evaluated, identities gone, weights untouched.

Transposed, gathered or dequantised weight matrices are never computed here: import keeps references to the file, and
`hpcc-fuse` resolves a transposition as a storage layout.
"""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants

from hw_targets.errors import InputError

MATRIX_LIMIT = 16
"""Floating-point tensors of two or more dimensions and more elements than this are weights, and never folded."""
INPUT_LIMIT = 1 << 20
OUTPUT_LIMIT = 1 << 20
_ALWAYS = frozenset({"ConstantOfShape"})


def _is_weight(value: ir.Value | None) -> bool:
    tensor = None if value is None else value.const_value
    return tensor is not None and tensor.dtype.is_floating_point() and len(tensor.shape) > 1 and tensor.size > MATRIX_LIMIT


def _is_codes(value: ir.Value | None) -> bool:
    """Integer weights behind Cast x scale: matrices of 8-bit codes."""
    tensor = None if value is None else value.const_value
    return tensor is not None and tensor.dtype.bitwidth <= 8 and len(tensor.shape) > 1 and tensor.dtype != ir.DataType.BOOL


def _interpolations(model: ir.Model) -> set[ir.Node]:
    """The Resize nodes of stored tables (positions of a vision transformer) and what makes their arguments."""
    found: set[ir.Node] = set()
    for node in model.graph:
        above = _above(node) if node.op_type == "Resize" else set()
        inputs = {value for member in above if member.op_type != "Shape" for value in member.inputs if value is not None}
        if not any(value.is_graph_input() for value in inputs if not value.is_initializer()):
            found |= above
    return found


def _kernels(model: ir.Model) -> set[ir.Node]:
    """What makes the kernel of a convolution of stored tensors alone, such as a direction and a length (weight norm)."""
    found: set[ir.Node] = set()
    for node in model.graph:
        kernel = node.inputs[1] if node.op_type == "Conv" and len(node.inputs) > 1 else None
        producer = None if kernel is None else kernel.producer()
        if producer is None:
            continue
        above = _above(producer)
        inputs = {value for member in above for value in member.inputs if value is not None}
        is_plain = not any(value.is_graph_input() and not value.is_initializer() for value in inputs)
        if is_plain and not any(_is_codes(value) for value in inputs):
            found |= above
    return found


def _above(node: ir.Node) -> set[ir.Node]:
    """A node and those whose data it depends on; a Shape needs no data."""
    found, stack = {node}, [node]
    while stack:
        member = stack.pop()
        makers = [] if member.op_type == "Shape" else [value.producer() for value in member.inputs if value is not None]
        stack += [maker for maker in makers if maker is not None and maker not in found]
        found |= {maker for maker in makers if maker is not None}
    return found


def _should_fold(node: ir.Node, wanted: set[ir.Node]) -> bool | None:
    if node in wanted or node.op_type == "QuantizeLinear":
        return True  # stored matrices as a file that quantises them says: 8-bit codes
    if any(_is_weight(value) or _is_codes(value) for value in node.inputs):
        return False
    return True if node.op_type in _ALWAYS else None


def fold(model: ir.Model, where: str) -> None:
    """Fold `model` in place. Raises InputError HPCC1005 if a constant subgraph cannot be evaluated."""
    logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)
    _forget_initializer_inputs(model)
    try:
        InlinePass()(model)
        wanted = _interpolations(model) | _kernels(model)
        with np.errstate(all="ignore"):  # what overflows here would overflow at run time, and says nothing there
            fold_constants(
                model,
                onnx_shape_inference=True,
                input_size_limit=INPUT_LIMIT,
                output_size_limit=OUTPUT_LIMIT,
                should_fold=lambda node: _should_fold(node, wanted),
            )
        _forward_identities(model)
        RemoveUnusedNodesPass()(model)
    except (RuntimeError, ir.passes.InvariantError, ir.passes.PassError) as error:
        raise InputError("HPCC1005", f"constant folding failed: {error}", where=where) from error


def _forget_initializer_inputs(model: ir.Model) -> None:
    """Old exporters list initializers among the inputs; they are constants here."""
    for value in [value for value in model.graph.inputs if value.is_initializer()]:
        model.graph.inputs.remove(value)


def _forward_identities(model: ir.Model) -> None:
    """An Identity that only names a graph output gives its name to the value, unless that one has a name to keep."""
    for node in list(model.graph):
        if node.op_type != "Identity" or node.domain not in ("", "ai.onnx") or node.inputs[0] is None:
            continue
        source, output = node.inputs[0], node.outputs[0]
        if source.is_graph_input() or source.is_initializer() or source.is_graph_output():
            continue
        name, is_output = output.name, output.is_graph_output()
        ir.convenience.replace_all_uses_with(output, source, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        if is_output:
            source.name = name
