"""How a lowered module gets at its weights: as the last arguments of @main, or as parameters that IREE loads.

Either way the values are no part of the text: they stand in a safetensors file beside it, each under its key, row-major in
the logical layout (out x in for a linear's weight).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from xdsl.builder import Builder
from xdsl.dialects.builtin import ModuleOp, StringAttr, SymbolNameConstraint, SymbolRefAttr, TensorType
from xdsl.ir import Attribute, Block, ParametrizedAttribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    param_def,
    prop_def,
    result_def,
)
from xdsl.printer import Printer
from xdsl.rewriter import InsertPoint

SCOPE = "model"
"""The scope of IREE parameters: `iree-run-module --parameters=model=FILE.safetensors`."""

ARGUMENTS = "arguments"
PARAMETERS = "parameters"


class WeightAccess(Protocol):
    """Makes the value of a weight; a key is asked for once."""

    def value(self, key: str, type: TensorType) -> SSAValue: ...


@dataclass
class AsArguments:
    """Every weight is an argument of the function, behind the model's inputs."""

    block: Block
    keys: list[str] = field(default_factory=list[str])

    def value(self, key: str, type: TensorType) -> SSAValue:
        self.keys.append(key)
        return self.block.insert_arg(type, len(self.block.args))


@irdl_attr_definition
class NamedParameterAttr(ParametrizedAttribute):
    """IREE's `#flow.parameter.named<"scope"::"key"> : type`: contents that are known when the program is loaded."""

    name = "flow.parameter.named"
    scope: StringAttr = param_def()
    key: StringAttr = param_def()
    type: Attribute = param_def()

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string_literal(self.scope.data)
            printer.print_string("::")
            printer.print_string_literal(self.key.data)
        printer.print_string(" : ")
        printer.print_attribute(self.type)


@irdl_op_definition
class GlobalOp(IRDLOperation):
    """IREE's `util.global`, private and constant."""

    name = "util.global"
    sym_name = prop_def(SymbolNameConstraint())
    initial_value = prop_def(NamedParameterAttr)

    def __init__(self, name: str, value: NamedParameterAttr) -> None:
        super().__init__(properties={"sym_name": StringAttr(name), "initial_value": value})

    def print(self, printer: Printer) -> None:
        printer.print_string(" private ")
        printer.print_symbol_name(self.sym_name.data)
        printer.print_string(" = ")
        printer.print_attribute(self.initial_value)


@irdl_op_definition
class GlobalLoadOp(IRDLOperation):
    """IREE's `util.global.load` of a constant global."""

    name = "util.global.load"
    target = prop_def(SymbolRefAttr)
    result = result_def(TensorType)

    def __init__(self, name: str, type: TensorType) -> None:
        super().__init__(properties={"target": SymbolRefAttr(name)}, result_types=[type])

    def print(self, printer: Printer) -> None:
        printer.print_string(" immutable ")
        printer.print_attribute(self.target)
        printer.print_string(" : ")
        printer.print_attribute(self.result.type)


@dataclass
class AsParameters:
    """Every weight is a `util.global` of IREE's, before the function."""

    module: ModuleOp
    builder: Builder
    count: int = 0

    def value(self, key: str, type: TensorType) -> SSAValue:
        name = f"weight{self.count}"
        self.count += 1
        parameter = NamedParameterAttr(StringAttr(SCOPE), StringAttr(key), type)
        first = self.module.body.block.first_op
        assert first is not None
        Builder(InsertPoint.before(first)).insert(GlobalOp(name, parameter))
        return self.builder.insert(GlobalLoadOp(name, type)).result
