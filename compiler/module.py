"""The shape every stage's module has: one function @main whose attributes name its inputs and outputs."""

from __future__ import annotations

from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp

from hw_targets.errors import InputError

MAIN = "main"


def main_function(module: ModuleOp) -> FuncOp:
    """The function @main. Raises InputError if there is none with a body."""
    for op in module.ops:
        if isinstance(op, FuncOp) and op.sym_name.data == MAIN and op.body.blocks:
            return op
    raise InputError("HPCC1420", "the module has no function @main", hint="start from an ONNX file or a dumped stage")


def names_of(function: FuncOp, attribute: str) -> list[str]:
    """A list of strings among the function's attributes: `input_names` or `output_names`."""
    value = function.attributes.get(attribute)
    if isinstance(value, ArrayAttr):
        return [name.data for name in value if isinstance(name, StringAttr)]
    count = len(function.function_type.inputs if attribute == "input_names" else function.function_type.outputs)
    return [f"{attribute.removesuffix('_names')}{index}" for index in range(count)]
