"""What the ONNX standard asks of a node, checked before anything reads it: attributes of the operator's own types.

Operators of other domains have no table to be checked against.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_ir as ir

from hw_targets.errors import InputError

MOST_OPSET = 1 << 20
"""A number that no release of the standard will reach; newer ones than the package knows are read as its newest."""

NOT_AS_THE_STANDARD_SAYS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError),
    ir.serde.SerdeError,
)
"""What reading a graph that nobody has checked raises: types, counts and sizes that an operator cannot have."""


def check_attributes(model: ir.Model, where: str) -> None:
    """Raises InputError HPCC1016 for an opset that is none, and for the first attribute whose type is not that of its
    operator."""
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
    if not 1 <= version <= MOST_OPSET:
        raise _broken(f"opset {version} is none", where)
    for node in model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx"):
            continue
        try:
            known: Any = onnx.defs.get_schema(node.op_type, version, "").attributes
        except onnx.defs.SchemaError:
            continue  # what an unknown operator is, is said where it would run
        for attribute in node.attributes.values():
            if attribute.is_ref():  # in a function it stands for what its caller gives; a graph has none
                message = f"attribute {attribute.name!r} refers to an attribute of a function, and stands in none"
                raise _broken(message, f"{where}: node {node.name!r}")
            wanted = known.get(attribute.name)
            if wanted is not None and wanted.type.name != attribute.type.name:
                message = (
                    f"attribute {attribute.name!r} is of type {attribute.type.name}, {node.op_type} takes {wanted.type.name}"
                )
                raise _broken(message, f"{where}: node {node.name!r}")


@contextmanager
def as_the_standard_says(where: str) -> Iterator[None]:
    """Work on a graph which no checker has seen: what breaks ends as InputError HPCC1016."""
    try:
        yield
    except NOT_AS_THE_STANDARD_SAYS as error:
        raise _broken(f"the graph breaks the standard's rules: {type(error).__name__}: {error}", where) from error


def _broken(message: str, where: str) -> InputError:
    return InputError("HPCC1016", message, where=where, hint="onnx.checker may say more; export the model again")
