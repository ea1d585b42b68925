"""Which number of the file stands behind each entry of a linear's matrix: not matched from spellings but run.

Exporters transpose, reshape, slice, split, cast and scale a weight before a product takes it. The same import and fusion
therefore run again on the same graph with other numbers in its matrices: all 0, all 1, and the position of every number,
digit by digit in a base that its dtype holds exactly. An entry that is `scale * number + offset` of one number of the
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

from compiler.dialects.nn import LinearOp
from compiler.frontend.importer import Imported, import_onnx
from compiler.frontend.shapes import Shapes
from compiler.module import main_function
from compiler.passes.fuse import FusePass
from compiler.passes.fusion.match import Scope
from compiler.tools.pruning.tensors import file_tensors
from compiler.tools.stages import new_context

Array = NDArray[Any]

BASES: Mapping[ir.DataType, int] = {
    ir.DataType.FLOAT: 1 << 22,
    ir.DataType.DOUBLE: 1 << 22,
    ir.DataType.FLOAT16: 1 << 10,
    ir.DataType.BFLOAT16: 1 << 7,
    ir.DataType.INT8: 1 << 7,
    ir.DataType.UINT8: 1 << 7,
}
"""The dtypes of weights, and how many whole numbers from 0 on each tells apart, also after a scale."""
LEAST_SIZE = 16
"""Smaller tensors are constants to the importer, and their values decide what is recognised."""
_LOOKED_AT = 4096
_CLEAR = 0.25
"""How far from a whole number a digit may lie after float arithmetic."""


@dataclass(frozen=True)
class Numbers:
    """One tensor of the file: the name of an initializer or of a Constant node's result, and where its entries stand when
    those of all tensors are counted through."""

    name: str
    first: int
    size: int
    dtype: ir.DataType

    @property
    def is_integer(self) -> bool:
        return not self.dtype.is_floating_point()

    def nearest(self, numbers: Array) -> Array:
        """The numbers of this dtype nearest to float64 ones; codes stay symmetric."""
        if not self.is_integer:
            return numbers.astype(self.dtype.numpy())
        low, high = (-127, 127) if self.dtype == ir.DataType.INT8 else (0, 255)
        return np.clip(np.rint(numbers), low, high).astype(self.dtype.numpy())


@dataclass(frozen=True)
class Source:
    """A matrix [out, in] in the file: its entries are scale * number + offset, `places` [out, in] says of which numbers.

    `scale` and `offset` broadcast to the matrix.
    """

    tensors: tuple[Numbers, ...]
    places: Array
    scale: Array
    offset: Array

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self.tensors)

    def parts(self) -> Iterator[tuple[Numbers, Array | None, Array]]:
        """(tensor, the entries of the matrix that it holds or None for all, their places in it)."""
        if len(self.tensors) == 1:
            yield self.tensors[0], None, self.places - self.tensors[0].first
            return
        for tensor in self.tensors:
            inside = (self.places >= tensor.first) & (self.places < tensor.first + tensor.size)
            yield tensor, inside, self.places[inside] - tensor.first

    def is_tied(self, other: Source) -> bool:
        """Whether both are made of the same numbers of the file, in whatever order."""
        if self.names != other.names or self.places.size != other.places.size:
            return False
        return np.array_equal(self.places, other.places) or np.array_equal(
            np.sort(self.places, axis=None), np.sort(other.places, axis=None)
        )


def fused(path: Path, shapes: Shapes, prepare: Callable[[ir.Model], None] | None = None) -> Imported:
    """The file imported and fused: its linears have their roles."""
    imported = import_onnx(path, shapes, prepare)
    FusePass().apply(new_context(imported.store), imported.module)
    return imported


def linears_of(module: ModuleOp) -> dict[str, LinearOp]:
    """The linears by role, in graph order."""
    return {op.role.data: op for op in module.walk() if isinstance(op, LinearOp)}


def matrix_of(op: LinearOp, imported: Imported) -> Array | None:
    """The linear's matrix [out, in] as fp32 values, None where it is no stored data."""
    return Scope(main_function(imported.module).body.block, imported.store).array(op.weight)


Tracer = Callable[[Path, Shapes, Mapping[str, tuple[int, ...]]], Mapping[str, Source]]
"""`trace`, or what remembers its answers."""

# ---- probes ---------------------------------------------------------------------------------------------------------


def trace(path: Path, shapes: Shapes, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Source]:
    """The source of each wanted linear (its role: its shape out x in); what cannot be traced is left out."""
    tensors: list[Numbers] = []

    def count(model: ir.Model) -> None:
        for name, tensor, _ in _matrices(model):
            first = tensors[-1].first + tensors[-1].size if tensors else 0
            tensors.append(Numbers(name, first, tensor.size, tensor.dtype))

    offset = _probe(path, shapes, wanted, lambda numbers, dtype: np.zeros(numbers.size, dtype), count)
    if not tensors:
        return {}
    one = _probe(path, shapes, wanted, lambda numbers, dtype: np.ones(numbers.size, dtype))
    scale = {role: one[role].astype(np.float64) - offset[role] for role in offset if role in one}
    roles = {role for role, factor in scale.items() if factor.all()}
    base = min(BASES[tensor.dtype] for tensor in tensors)
    total = tensors[-1].first + tensors[-1].size
    places = {role: np.zeros(wanted[role], np.int64 if total >= 1 << 31 else np.int32) for role in roles}
    unit = 1
    while unit < total and roles:
        seen = _probe(path, shapes, {role: wanted[role] for role in roles}, _Digit(base, unit))
        for role in list(roles):
            digits = (seen[role] - offset[role].astype(np.float64)) / scale[role] if role in seen else np.array(np.nan)
            whole = np.rint(digits)
            if not (np.abs(digits - whole) < _CLEAR).all() or whole.min() < 0 or whole.max() >= base:
                roles.remove(role)
                continue
            places[role] += whole.astype(places[role].dtype) * unit
        unit *= base
    return {role: _source(tensors, places[role], scale[role], offset[role]) for role in wanted if role in roles}


@dataclass(frozen=True)
class _Digit:
    """One digit of every entry's place."""

    base: int
    unit: int

    def __call__(self, numbers: Numbers, dtype: Any) -> Array:
        return (np.arange(numbers.first, numbers.first + numbers.size) // self.unit % self.base).astype(dtype)


def _source(tensors: list[Numbers], places: Array, scale: Array, offset: Array) -> Source:
    used = tuple(t for t in tensors if ((places >= t.first) & (places < t.first + t.size)).any())
    return Source(used, places, _short(scale), _short(offset.astype(np.float64)))


def _short(array: Array) -> Array:
    """An array that broadcasts to the given one: one number, one a row, or all."""
    if (array == array[:1, :1]).all():
        return array[:1, :1].copy()
    return array[:, :1].copy() if (array == array[:, :1]).all() else array


def _probe(
    path: Path,
    shapes: Shapes,
    wanted: Mapping[str, tuple[int, ...]],
    numbers: Callable[[Numbers, Any], Array],
    first: Callable[[ir.Model], None] = lambda model: None,
) -> dict[str, Array]:
    """The wanted matrices of the model whose tensors hold other numbers."""

    def prepare(model: ir.Model) -> None:
        first(model)
        start = 0
        for name, tensor, put in _matrices(model):
            entry = Numbers(name, start, tensor.size, tensor.dtype)
            data = numbers(entry, tensor.dtype.numpy()).reshape(tensor.shape.numpy())
            put(ir.Tensor(data, dtype=tensor.dtype, name=tensor.name))
            start += entry.size

    imported = fused(path, shapes, prepare)
    found: dict[str, Array] = {}
    for role, op in linears_of(imported.module).items():
        matrix = matrix_of(op, imported) if role in wanted else None
        if matrix is not None and matrix.shape == wanted[role]:
            found[role] = matrix
    return found


def _matrices(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol, Callable[[ir.Tensor], None]]]:
    """The tensors of the main graph that may hold weights: name, tensor, and what puts another one in its place."""
    return ((name, tensor, put) for name, tensor, put in file_tensors(model) if _may_hold_weights(tensor))


def _may_hold_weights(tensor: ir.TensorProtocol) -> bool:
    """Matrices and kernels of enough different numbers: a stored mask has two, and decides what is recognised; a vector
    is a scale."""
    sizes = tensor.shape.numpy()
    if tensor.dtype not in BASES or len(sizes) < 2 or tensor.size <= max(LEAST_SIZE, *sizes):
        return False
    flat = tensor.numpy().reshape(-1)
    return any(len(np.unique(part)) > 2 for part in (flat[:_LOOKED_AT], flat[-_LOOKED_AT:]))
