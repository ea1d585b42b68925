"""Which number of the file stands behind each entry of a linear's matrix: not matched from spellings but run.

Exporters transpose, reshape, slice, split, cast and scale a weight before a product takes it. The same import and fusion
therefore run again on the same graph with other numbers in its matrices: all 0, all 1, and the position of every number,
digit by digit in a base that each dtype holds exactly. An entry that is `scale * number + offset` of one number of the
file shows it, whatever stands between; one that is not is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp

from compiler.dialects.nn import DequantizeOp, LinearOp
from compiler.frontend.importer import Imported, import_onnx
from compiler.frontend.shapes import Shapes
from compiler.interpreters.evaluate import run_op
from compiler.passes.fuse import FusePass
from compiler.passes.fusion.match import Scope
from compiler.tools.stages import new_context
from hw_targets.errors import InputError

Array = NDArray[Any]

EXACT: Mapping[ir.DataType, int] = {
    ir.DataType.FLOAT: 1 << 22,
    ir.DataType.DOUBLE: 1 << 22,
    ir.DataType.FLOAT16: 1 << 10,
    ir.DataType.BFLOAT16: 1 << 7,
    ir.DataType.INT8: 1 << 7,
    ir.DataType.UINT8: 1 << 7,
}
"""The dtypes a weight is stored in, and the base of the digits: every whole number below it is exact after scaling too."""
LEAST_SIZE = 16
"""Smaller tensors are constants to the importer, whose values decide what is recognised."""
_LOOKED_AT = 4096


@dataclass(frozen=True)
class Source:
    """Where an [out, in] matrix stands in the file: entry e is scale[e] * number[e] + offset[e].

    `tensors` are the initializers (or outputs of Constant nodes) it is read from, `which` [out, in] says from which of
    them, `index` [out, in] the position in its row-major data.
    """

    tensors: tuple[str, ...]
    which: Array
    index: Array
    scale: Array
    offset: Array

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for the same entries of the same tensors, in whatever order they are read."""
        order = np.argsort(self.index, axis=None)
        return self.tensors, self.index.size, int(self.index.min()), int(self.index.max()), int(self.index.flat[order[0]])


def fused(path: Path, shapes: Shapes, prepare: Callable[[ir.Model], None] | None = None) -> Imported:
    """The file imported and fused: its linears have their roles."""
    imported = import_onnx(path, shapes, prepare)
    FusePass().apply(new_context(imported.store), imported.module)
    return imported


def linears(module: ModuleOp) -> dict[str, LinearOp]:
    """The linears by role, in graph order."""
    return {op.role.data: op for op in module.walk() if isinstance(op, LinearOp)}


def matrix_of(op: LinearOp, imported: Imported) -> Array | None:
    """The linear's matrix [out, in] in fp32, None where it is no stored data."""
    array = Scope(imported.module.body.block, imported.store).array(op.weight)
    return array if array is None or array.ndim == 2 else None


# ---- probes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Candidate:
    name: str
    size: int
    first: int
    """The number of its first entry when all candidates' entries are counted through."""


def trace(path: Path, shapes: Shapes, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Source]:
    """The source of each wanted linear (role: shape out x in); a role that cannot be traced is left out."""
    candidates: list[_Candidate] = []
    bases: list[int] = []
    _probe(path, shapes, wanted, lambda tensor, known: _note(candidates, bases, tensor, known))
    ...
