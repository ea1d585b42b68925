"""Static shapes: binding the sizes of `--shape` to a model's inputs.

A symbolic dimension is bound once for the whole model: inputs that share its name share its size.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import onnx_ir as ir

from hw_targets.errors import InputError, UsageError

Shapes = Mapping[str, tuple[int, ...]]


def bind_shapes(model: ir.Model, shapes: Shapes, where: str) -> None:
    """Make every input of `model` static, in place, and replace the bound symbols in the other values' shapes.

    Raises UsageError for a specification that does not fit the model, InputError HPCC1004 for an unbound dimension.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    bound: dict[str, int] = {}
    for name, sizes in shapes.items():
        _bind_input(_find(inputs, name, where), sizes, bound, where)
    for value in inputs.values():
        value.shape = _substitute(value.shape, bound)
        _require_static(value, where)
    for node in model.graph.all_nodes():
        for output in node.outputs:
            output.shape = _substitute(output.shape, bound)


def _find(inputs: Mapping[str, ir.Value], name: str, where: str) -> ir.Value:
    if name not in inputs:
        near = difflib.get_close_matches(name, inputs, n=3, cutoff=0.4) or list(inputs)
        raise UsageError(
            "HPCC2022",
            f"--shape names {name!r}, which is no input of the model",
            where=where,
            hint=f"did you mean {', '.join(near)}?" if near else "the model has no inputs",
        )
    return inputs[name]


def _bind_input(value: ir.Value, sizes: tuple[int, ...], bound: dict[str, int], where: str) -> None:
    given = "x".join(map(str, sizes))
    if value.shape is not None and value.shape.rank() != len(sizes):
        raise UsageError(
            "HPCC2023",
            f"--shape {value.name}:{given} has {len(sizes)} dimensions, the input has {value.shape.rank()}",
            where=where,
            hint=f"the model says {_text(value.shape)}",
        )
    for axis, size in enumerate(sizes):
        dim = value.shape[axis] if value.shape is not None else None
        if isinstance(dim, int) and dim != size:
            raise UsageError(
                "HPCC2024",
                f"--shape {value.name}:{given} contradicts the model, whose dimension {axis} is fixed to {dim}",
                where=where,
                hint=f"the model says {_text(value.shape)}",
            )
        symbol = dim.value if isinstance(dim, ir.SymbolicDim) else None
        if symbol is None:
            continue
        if bound.setdefault(symbol, size) != size:
            raise UsageError(
                "HPCC2024",
                f"--shape {value.name}:{given} binds {symbol} to {size}, another --shape to {bound[symbol]}",
                where=where,
                hint=f"inputs that share {symbol} share its size",
            )
    value.shape = ir.Shape(list(sizes))


def _substitute(shape: ir.Shape | None, bound: Mapping[str, int]) -> ir.Shape | None:
    """The shape with bound symbols replaced. Symbols that stay keep their name."""
    if shape is None or shape.is_static():
        return shape
    return ir.Shape([dim if isinstance(dim, int) else bound.get(dim.value or "", dim) for dim in shape])


def _require_static(value: ir.Value, where: str) -> None:
    if value.shape is not None and value.shape.is_static():
        if 0 in value.shape.numpy():
            raise InputError("HPCC1011", f"input {value.name!r} is empty: the model says {_text(value.shape)}", where=where)
        return
    if value.shape is None:
        example, dims = "1x128", "of unknown rank"
    else:
        sizes = [dim if isinstance(dim, int) else 1 if axis == 0 else 128 for axis, dim in enumerate(value.shape)]
        example, dims = "x".join(map(str, sizes)), _text(value.shape)
    raise InputError(
        "HPCC1004",
        f"input {value.name!r} has a dynamic shape, {dims}",
        where=where,
        hint=f"fix it, as in --shape {value.name}:{example}",
    )


def _text(shape: ir.Shape | None) -> str:
    if shape is None:
        return "nothing"
    return "[" + ", ".join(str(dim) if isinstance(dim, int) else dim.value or "?" for dim in shape) + "]"
