"""docs/DIALECTS.md, made from the operation definitions: every dialect, operation, attribute and pass."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from types import UnionType
from typing import Any, get_args

from xdsl.ir import Attribute, Dialect, Operation
from xdsl.irdl import (
    IRDLOperation,
    OptOperandDef,
    OptPropertyDef,
    OptResultDef,
    VarOperandDef,
    VarResultDef,
)
from xdsl.passes import ModulePass

from compiler.dialects import steps
from compiler.pipelines import PASSES, PIPELINES, UPSTREAM, load_pass
from compiler.universe import HPCC_UNIVERSE

INTRODUCTION = """# Dialects and passes

Generated from the definitions (`make docs`); do not edit. Stock `xdsl-opt` knows all of it through the entry point
`xdsl.universe`. An operand or a property in brackets may be left out, `*` stands for any number. Operations of one stage
carry the ONNX node that they come from as their location.

"""


def page() -> str:
    """The page's text."""
    parts = [INTRODUCTION, _stages(), "## Dialects\n"]
    for load in HPCC_UNIVERSE.all_dialects.values():
        parts.append(_dialect(load()))
    parts.append("## Passes\n")
    parts += [_pass(load_pass(name)) for name in PASSES]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _stages() -> str:
    lines = ["## Stages\n", "| kind | stage | passes |", "|---|---|---|"]
    for kind, stages in PIPELINES.items():
        for stage in stages:
            passes = ", ".join(f"`{text.split('{')[0]}`" for text in stage.passes) or "the ONNX importer"
            lines.append(f"| {kind} | `{stage.name}` | {passes} |")
    lines += [f"| any (`--emit {form}`) | `{form}` | `{text.split('{')[0]}` |" for form, text in UPSTREAM.items()]
    return "\n".join(lines) + "\n"


def _dialect(dialect: Dialect) -> str:
    lines = [f"### `{dialect.name}`\n"]
    for operation in dialect.operations:
        lines += _operation(operation)
    attributes = [attribute for attribute in dialect.attributes if attribute.__doc__]
    if attributes:
        lines += ["| attribute | meaning |", "|---|---|"]
        lines += [f"| `#{attribute.name}` | {_one_line(attribute)} |" for attribute in attributes]
        lines.append("")
    return "\n".join(lines)


def _operation(operation: type[Operation]) -> list[str]:
    lines = [f"#### `{operation.name}`\n"]
    text = _paragraphs(operation)
    if text:
        lines += [text, ""]
    if not issubclass(operation, IRDLOperation):
        return lines
    definition = operation.get_irdl_definition()
    rows = [
        ("operands", [_named(name, value) for name, value in definition.operands]),
        ("properties", [_named(name, value) for name, value in definition.properties.items() if "Segment" not in name]),
        ("results", [_named(name, value) for name, value in definition.results]),
        ("traits", sorted(type(trait).__name__ for trait in definition.traits.traits)),
    ]
    lines += [f"* {name}: {', '.join(f'`{entry}`' for entry in entries)}" for name, entries in rows if entries]
    if definition.assembly_format is not None and str(definition.assembly_format).strip():
        lines += [
            "",
            "```",
            f"{operation.name} {operation.assembly_format}",
            "```",
        ]
    lines.append("")
    return lines


def _named(name: str, value: object) -> str:
    if isinstance(value, VarOperandDef | VarResultDef) and not isinstance(value, OptOperandDef | OptResultDef):
        return f"{name}*"
    return f"[{name}]" if isinstance(value, OptOperandDef | OptPropertyDef | OptResultDef) else name


def _pass(found: type[ModulePass]) -> str:
    lines = [f"### `{found.name}`\n"]
    module = inspect.getmodule(found)
    text = inspect.cleandoc(module.__doc__ or "") if module is not None else ""
    lines += [text, ""]
    options = [field for field in fields(found) if field.name != "name"]
    if options:
        lines += ["| option | type | default |", "|---|---|---|"]
        lines += [f"| `{field.name}` | {_type(field.type)} | {_default(field.default)} |" for field in options]
    return "\n".join(lines) + "\n"


def _type(kind: Any) -> str:
    if isinstance(kind, UnionType) or get_args(kind):
        return " or ".join(str(argument) for argument in get_args(kind))
    return str(kind).replace("|", "or").replace("Literal[", "one of [")


def _default(value: object) -> str:
    return "" if value is MISSING or callable(value) else f"`{value!r}`"


def _paragraphs(thing: type[Operation] | type[Attribute]) -> str:
    """The docstring of a definition, or of the step of compiler/dialects/steps.py that it names."""
    own = thing.__dict__.get("__doc__")
    shared = (base.__doc__ for base in thing.__mro__ if base.__module__ == steps.__name__)
    text = own or next((text for text in shared if text), None)
    return inspect.cleandoc(text) if text else ""


def _one_line(thing: type[Attribute]) -> str:
    return " ".join(_paragraphs(thing).split("\n\n")[0].split()).replace("|", "\\|")
