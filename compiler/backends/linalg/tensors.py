"""Tensor code: every operation of a model as linalg.generic, linalg.fill and the reshapes and slices of `tensor`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from xdsl.builder import Builder
from xdsl.dialects import arith, linalg, tensor
from xdsl.dialects.builtin import (
    AffineMapAttr,
    ArrayAttr,
    DenseIntOrFPElementsAttr,
    IntegerAttr,
    TensorType,
    i64,
)
from xdsl.dialects.linalg.attrs import IteratorType, IteratorTypeAttr
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap
from xdsl.rewriter import InsertPoint

from compiler.backends.linalg.scalars import Code, Scalars
from compiler.dialects import nn
from compiler.dialects.nn.types import broadcast_shape

Shape = Sequence[int]
ONE = "1"
"""In the axes of `contract`: an axis of size one, whatever the others have there."""


class Tensors:
    """Builds operations on whole tensors of static shapes at the end of a block."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.scalars = Scalars(builder)

    def insert(self, op: Operation) -> SSAValue:
        return self.builder.insert(op).results[0]

    def constant(self, value: DenseIntOrFPElementsAttr) -> SSAValue:
        return self.insert(arith.ConstantOp(value))

    def empty(self, shape: Shape, element: Attribute) -> SSAValue:
        return self.insert(tensor.EmptyOp((), TensorType(element, shape)))

    def filled(self, value: float, shape: Shape, element: Attribute) -> SSAValue:
        start = self.scalars.constant(value, element)
        type = TensorType(element, shape)
        return self.insert(linalg.ops.FillOp([start], [self.empty(shape, element)], [type]))

    # ---- generic loops ----------------------------------------------------------------------------------------------

    def generic(
        self,
        inputs: Sequence[SSAValue],
        maps: Sequence[Sequence[int | None]],
        start: SSAValue,
        result_map: Sequence[int],
        loops: int,
        code: Code,
    ) -> SSAValue:
        """A linalg.generic of one result. A map names the loop of every axis, None for an axis that stays at 0.

        Loops that no axis of the result names are reductions; `code` gets the result's element last.
        """
        element = nn.element_type_of(start)
        block = Block(arg_types=[*(nn.element_type_of(value) for value in inputs), element])
        inside = Builder(InsertPoint.at_end(block))
        inside.insert(linalg.ops.YieldOp(code(Scalars(inside), *block.args)))
        kinds = [IteratorType.PARALLEL if loop in result_map else IteratorType.REDUCTION for loop in range(loops)]
        return self.insert(
            linalg.ops.GenericOp(
                list(inputs),
                [start],
                Region(block),
                [_affine(loops, axes) for axes in (*maps, result_map)],
                [IteratorTypeAttr(kind) for kind in kinds],
                [start.type],
            )
        )

    def elementwise(
        self, inputs: Sequence[SSAValue], element: Attribute, code: Code, shape: Shape | None = None
    ) -> SSAValue:
        """`code` on every element of inputs that broadcast as in numpy; `shape` widens the result further."""
        sizes = broadcast_shape(*(nn.shape_of(value) for value in inputs), *(() if shape is None else (shape,)))
        rank = len(sizes)
        maps: list[list[int | None]] = []
        for value in inputs:
            own = nn.shape_of(value)
            first = rank - len(own)
            maps.append([first + i if size == sizes[first + i] else None for i, size in enumerate(own)])
        start = self.empty(sizes, element)
        return self.generic(inputs, maps, start, range(rank), rank, lambda s, *args: code(s, *args[:-1]))

    def reduce(self, x: SSAValue, axes: Sequence[int], start: float, code: Code, *, keep: bool = False) -> SSAValue:
        """`code(s, element, so far)` over some axes, beginning with `start`."""
        shape, rank = nn.shape_of(x), len(nn.shape_of(x))
        kept = [axis for axis in range(rank) if axis not in axes]
        begin = self.filled(start, [shape[axis] for axis in kept], nn.element_type_of(x))
        result = self.generic([x], [list(range(rank))], begin, kept, rank, code)
        if keep:
            return self.reshape(result, [1 if axis in axes else size for axis, size in enumerate(shape)])
        return result

    def contract(self, axes: str, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """A sum of products, axes named as by numpy.einsum: "bio,po->bip". The axis "1" stays at 0."""
        sources, result = axes.split("->")
        names = [list(source) for source in sources.split(",")]
        letters = list(dict.fromkeys([*result, *"".join(map("".join, names)).replace(ONE, "")]))
        extent = {
            name: size
            for own, value in zip(names, (lhs, rhs), strict=True)
            for name, size in zip(own, nn.shape_of(value), strict=True)
        }
        maps = [[None if name == ONE else letters.index(name) for name in own] for own in names]
        start = self.filled(0, [extent[name] for name in result], nn.element_type_of(lhs))
        target = [letters.index(name) for name in result]
        return self.generic([lhs, rhs], maps, start, target, len(letters), lambda s, a, b, c: s.add(c, s.mul(a, b)))

    # ---- shapes -----------------------------------------------------------------------------------------------------

    def reshape(self, x: SSAValue, shape: Shape) -> SSAValue:
        """Row-major elements in another shape: collapsed where the borders of both shapes meet, then expanded."""
        before, after = list(nn.shape_of(x)), list(shape)
        if before == after:
            return x
        together = _common_groups(before, after)
        middle = [prod(before[i] for i in group) for group, _ in together]
        x = self._collapse(x, [group for group, _ in together], middle)
        return self._expand(x, [group for _, group in together], after)

    def _collapse(self, x: SSAValue, groups: list[list[int]], shape: Shape) -> SSAValue:
        if list(nn.shape_of(x)) == list(shape):
            return x
        type = TensorType(nn.element_type_of(x), shape)
        properties = {"reassociation": _reassociation(groups)}
        return self.insert(tensor.CollapseShapeOp(operands=[x], result_types=[type], properties=properties))

    def _expand(self, x: SSAValue, groups: list[list[int]], shape: Shape) -> SSAValue:
        if list(nn.shape_of(x)) == list(shape):
            return x
        type = TensorType(nn.element_type_of(x), shape)
        return self.insert(tensor.ExpandShapeOp(x, [], _reassociation(groups), list(shape), type))

    def transpose(self, x: SSAValue, permutation: Sequence[int]) -> SSAValue:
        rank = len(permutation)
        if list(permutation) == list(range(rank)):
            return x
        shape = [nn.shape_of(x)[axis] for axis in permutation]
        where: list[int | None] = [list(permutation).index(axis) for axis in range(rank)]
        start = self.empty(shape, nn.element_type_of(x))
        return self.generic([x], [where], start, range(rank), rank, lambda s, a, _: a)

    def slice(self, x: SSAValue, starts: Shape, sizes: Shape, steps: Shape) -> SSAValue:
        """x[start:start + step * size:step] on every axis; steps may be negative."""
        if any(step < 0 for step in steps):
            return self._backwards(x, starts, sizes, steps)
        return self.insert(tensor.ExtractSliceOp.from_static_parameters(x, starts, sizes, steps))

    def _backwards(self, x: SSAValue, starts: Shape, sizes: Shape, steps: Shape) -> SSAValue:
        def code(s: Scalars, _: SSAValue) -> SSAValue:
            places: list[SSAValue] = []
            for axis, (start, step) in enumerate(zip(starts, steps, strict=True)):
                here = s.index(axis)
                places.append(s.add(s.like(start, here), s.mul(s.like(step, here), here)))
            return s.extract(x, places)

        start = self.empty(sizes, nn.element_type_of(x))
        return self.generic([], [], start, range(len(sizes)), len(sizes), code)

    def concat(self, parts: Sequence[SSAValue], axis: int) -> SSAValue:
        shape = list(nn.shape_of(parts[0]))
        shape[axis] = sum(nn.shape_of(part)[axis] for part in parts)
        result = self.empty(shape, nn.element_type_of(parts[0]))
        offset = 0
        for part in parts:
            offsets = [offset if i == axis else 0 for i in range(len(shape))]
            sizes = list(nn.shape_of(part))
            result = self.insert(tensor.InsertSliceOp.from_static_parameters(part, result, offsets, sizes, [1] * len(shape)))
            offset += sizes[axis]
        return result

    def gather(self, x: SSAValue, indices: SSAValue, axis: int, *, unsigned: bool = False) -> SSAValue:
        """ONNX Gather: negative indices count from the end."""
        shape, chosen = nn.shape_of(x), nn.shape_of(indices)
        sizes = [*shape[:axis], *chosen, *shape[axis + 1 :]]

        def code(s: Scalars, index: SSAValue, _: SSAValue) -> SSAValue:
            before = [s.index(i) for i in range(axis)]
            after = [s.index(i) for i in range(axis + len(chosen), len(sizes))]
            return s.extract(x, [*before, s.position(index, shape[axis], unsigned=unsigned), *after])

        where: list[int | None] = list(range(axis, axis + len(chosen)))
        start = self.empty(sizes, nn.element_type_of(x))
        return self.generic([indices], [where], start, range(len(sizes)), len(sizes), code)


def _affine(loops: int, axes: Sequence[int | None]) -> AffineMapAttr:
    expressions = [AffineExpr.constant(0) if axis is None else AffineExpr.dimension(axis) for axis in axes]
    return AffineMapAttr(AffineMap(loops, 0, tuple(expressions)))


def _reassociation(groups: Sequence[Sequence[int]]) -> ArrayAttr[ArrayAttr[IntegerAttr]]:
    return ArrayAttr(ArrayAttr(IntegerAttr(axis, i64) for axis in group) for group in groups)


def _common_groups(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """The finest grouping of the axes of two shapes whose groups hold equally many elements, pair by pair."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        left, right = [i], [j]
        a, b = before[i], after[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                left.append(i)
                a, i = a * before[i], i + 1
            else:
                right.append(j)
                b, j = b * after[j], j + 1
        groups.append((left, right))
    if not groups:  # one of them is a scalar, the other holds one element
        return []
    groups[-1][0].extend(range(i, len(before)))
    groups[-1][1].extend(range(j, len(after)))
    return groups
