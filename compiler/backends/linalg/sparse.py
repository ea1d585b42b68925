"""Patterns as `#sparse_tensor.encoding`, for MLIR's sparsifier, where that dialect can say them.

A level map on a weight out x in (mlir.llvm.org/docs/Dialects/SparseTensorOps): unstructured is CSR, blocks of R x C are
BSR, N:M along the inputs is `structured[n, m]` inside dense groups. What has another shape (HP, weight sharing, N:M with
a row that does not end with a group) stays dense.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import StringAttr
from xdsl.ir import ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.printer import Printer

from compiler.sparsity.base import Pattern
from compiler.sparsity.patterns import NM, Block, Unstructured

Array = NDArray[Any]


@irdl_attr_definition
class SparseEncodingAttr(ParametrizedAttribute):
    """`#sparse_tensor.encoding<{ map = ... }>`, as upstream prints and parses it."""

    name = "sparse_tensor.encoding"
    body: StringAttr = param_def()

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(self.body.data)


def level_map(pattern: Pattern, shape: tuple[int, int]) -> str | None:
    """The levels of a weight of `shape` (out, in) under a pattern, None where the dialect cannot say it."""
    outs, ins = shape
    match pattern:
        case Unstructured():
            return "(i, j) -> (i : dense, j : compressed)"
        case Block() if outs % pattern.rows == 0 and ins % pattern.cols == 0:
            r, c = pattern.rows, pattern.cols
            return f"(i, j) -> (i floordiv {r} : dense, j floordiv {c} : compressed, i mod {r} : dense, j mod {c} : dense)"
        case NM(along="in") if ins % pattern.m == 0:
            n, m = pattern.n, pattern.m
            return f"(i, j) -> (i : dense, j floordiv {m} : dense, j mod {m} : structured[{n}, {m}])"
        case _:
            return None


def encoding_of(pattern: Pattern, shape: tuple[int, int]) -> SparseEncodingAttr | None:
    """The encoding of a weight's tensor type, None where it stays dense."""
    levels = level_map(pattern, shape)
    return None if levels is None else SparseEncodingAttr(StringAttr(f"{{ map = {levels} }}"))


def buffers(pattern: Pattern, weight: Array) -> dict[str, Array]:
    """What MLIR's sparse-assembler takes for a weight out x in, in its order: `positions` (where levels are compressed),
    `coordinates`, `values`. Positions and coordinates are int64, as the encoding's default widths want them."""
    match pattern:
        case Unstructured():
            rows, columns = np.nonzero(weight)
            positions = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=weight.shape[0]))))
            return _named(positions, columns, weight[rows, columns])
        case Block():
            r, c = pattern.rows, pattern.cols
            blocks = weight.reshape(weight.shape[0] // r, r, weight.shape[1] // c, c).transpose(0, 2, 1, 3)
            down, across = np.nonzero(blocks.any(axis=(2, 3)))
            positions = np.concatenate(([0], np.cumsum(np.bincount(down, minlength=len(blocks)))))
            return _named(positions, across, blocks[down, across].reshape(-1))
        case NM():
            groups = weight.reshape(weight.shape[0], -1, pattern.m)
            # Those that are not zero first, in their order; a kept weight may be zero.
            chosen = np.sort(np.argsort(groups == 0, axis=-1, kind="stable")[..., : pattern.n], axis=-1)
            return _named(None, chosen.reshape(-1), np.take_along_axis(groups, chosen, -1).reshape(-1))
        case _:
            raise ValueError(f"{pattern} has no sparse_tensor encoding")


def _named(positions: Array | None, coordinates: Array, values: Array) -> dict[str, Array]:
    first = {} if positions is None else {"positions": positions.astype(np.int64)}
    return {**first, "coordinates": coordinates.astype(np.int64), "values": np.ascontiguousarray(values)}
