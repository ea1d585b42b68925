"""Einsum of two operands as a product: which axes are shared, summed over or belong to one side decides the layout."""

from __future__ import annotations

import math

from xdsl.ir import SSAValue

from compiler.dialects import nn
from compiler.frontend.node import NodeImport, Unsupported, tensor_type


def einsum(n: NodeImport) -> list[SSAValue]:
    """out[batch, left, right] = sum over inner of a[batch, left, inner] * b[batch, inner, right], in any order of axes."""
    inputs, arrow, out = n.text("equation", "").replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow or "." in inputs or len(terms) != 2 or any(len(set(t)) != len(t) for t in (*terms, out)):
        raise Unsupported("an Einsum that is not a plain product of two operands")
    first, second = terms
    batch = "".join(label for label in first if label in second and label in out)
    inner = "".join(label for label in first if label in second and label not in out)
    left = "".join(label for label in out if label not in second)
    right = "".join(label for label in out if label not in first)
    if {*batch, *inner, *left} != {*first} or {*batch, *inner, *right} != {*second} or not inner:
        raise Unsupported("an Einsum that is not a plain product of two operands")
    a, b = n.operand(0), n.operand(1)
    sizes = dict(zip(first + second, (*nn.shape_of(a), *nn.shape_of(b)), strict=True))
    x = _grouped(n, a, first, batch, left, inner, sizes)
    y = _matrix(n, b, second, inner, right, sizes) if not batch else _grouped(n, b, second, batch, inner, right, sizes)
    shape = [*_sizes(batch, sizes), _count(left, sizes), _count(right, sizes)]
    product = n.emit(nn.MatMulOp(x, y, tensor_type(a, shape)))
    flat = batch + left + right
    wide = n.reshape(product, _sizes(flat, sizes))[0]
    return [_moved(n, wide, flat, out)]


def _sizes(labels: str, sizes: dict[str, int]) -> list[int]:
    return [sizes[label] for label in labels]


def _count(labels: str, sizes: dict[str, int]) -> int:
    return math.prod(_sizes(labels, sizes))


def _moved(n: NodeImport, x: SSAValue, source: str, wanted: str) -> SSAValue:
    """The axes in another order."""
    if source == wanted:
        return x
    perm = [source.index(label) for label in wanted]
    return n.emit(nn.TransposeOp(x, perm, tensor_type(x, [nn.shape_of(x)[axis] for axis in perm])))


def _grouped(
    n: NodeImport, x: SSAValue, source: str, batch: str, rows: str, columns: str, sizes: dict[str, int]
) -> SSAValue:
    """x as [batch.., rows, columns], each group of axes flattened."""
    moved = _moved(n, x, source, batch + rows + columns)
    return n.reshape(moved, [*_sizes(batch, sizes), _count(rows, sizes), _count(columns, sizes)])[0]


def _matrix(n: NodeImport, x: SSAValue, source: str, rows: str, columns: str, sizes: dict[str, int]) -> SSAValue:
    """x as [rows, columns]; a matrix stored the other way round is flattened first, so that its layout can be kept."""
    if source != columns + rows:
        return _grouped(n, x, source, "", rows, columns, sizes)
    flat = n.reshape(x, [_count(columns, sizes), _count(rows, sizes)])[0]
    return n.emit(nn.TransposeOp(flat, (1, 0), tensor_type(x, [_count(rows, sizes), _count(columns, sizes)])))
