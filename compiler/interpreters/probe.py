"""One made-up batch for @main, from types and uses alone: for passes that want to see typical values of a module."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import Float32Type, ModuleOp, TensorType
from xdsl.ir import BlockArgument, Operation, SSAValue

from compiler.dialects import nn
from compiler.module import main_function, names_of

Array = NDArray[Any]


def id_limits(module: ModuleOp) -> dict[str, int]:
    """Rows of the smallest table that each input of @main is looked up in, before or after `fuse`."""
    function = main_function(module)
    names = names_of(function, "input_names")
    limits: dict[str, int] = {}

    def note(ids: SSAValue, table: SSAValue) -> None:
        ids = _behind_casts(ids)
        if isinstance(ids, BlockArgument):
            name, rows = names[ids.index], nn.shape_of(table)[0]
            limits[name] = min(rows, limits.get(name, rows))

    for op in function.body.block.ops:
        if isinstance(op, nn.EmbeddingOp):
            for ids, table in zip(op.ids, op.tables, strict=True):
                note(ids, table)
        elif isinstance(op, nn.GatherOp) and op.axis.value.data == 0:
            note(op.indices, op.x)
    return limits


def _behind_casts(value: SSAValue) -> SSAValue:
    while isinstance(value.owner, Operation) and isinstance(value.owner, nn.CastOp | nn.ReshapeOp):
        value = value.owner.x
    return value


def probe(module: ModuleOp, seed: int = 0) -> dict[str, Array]:
    """Arguments of @main by name: ids anywhere in their tables, other integers 1 (every token attends), normal floats."""
    function = main_function(module)
    limits, random = id_limits(module), np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for name, argument in zip(names_of(function, "input_names"), function.body.block.args, strict=True):
        assert isinstance(argument.type, TensorType)
        shape = argument.type.get_shape()
        if name in limits:
            arrays[name] = random.integers(0, limits[name], shape)
        elif isinstance(argument.type.element_type, Float32Type):
            arrays[name] = random.standard_normal(shape).astype(np.float32)
        else:
            arrays[name] = np.ones(shape, np.int64)
    return arrays
