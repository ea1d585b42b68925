"""Encoded matrices in DRAM as the simulator keeps them, and the products of one of them that are computed together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hw_targets import numerics
from hw_targets.errors import InputError
from hw_targets.isa import MatrixMode
from hw_targets.layout import MATRIX_MODES, Layout
from runtime import decoders
from runtime.simulator.machine import AnyArray

Step = Callable[[], None]


class LoadedWeights:
    """One encoded matrix in DRAM: decoded once for all inputs, expanded once for all multiplications."""

    def __init__(self, stored: AnyArray, format_code: int, layout: Layout, where: str) -> None:
        self.stored = stored
        self.format_code = format_code
        self.layout = layout
        self.where = where
        self._decoded: NDArray[np.uint8] | None = None
        self._dense: NDArray[np.int8] | None = None
        self._floats: NDArray[np.float32] | None = None

    @property
    def decoded(self) -> NDArray[np.uint8]:
        """The compute layout."""
        if self._decoded is None:
            data = decoders.decode(self.format_code, self.stored, *_parameters(self.layout))
            if data.size != self.layout.bytes:
                message = f"decoded weights take {data.size} bytes, their compute layout {self.layout.bytes}"
                raise InputError("HPCC1231", message, where=self.where)
            self._decoded = data
        return self._decoded

    @property
    def floats(self) -> NDArray[np.float32]:
        """The dense matrix [outs, ins], its codes as float32, for as long as it is in the weight memory."""
        if self._floats is None:
            if self._dense is None:
                self._dense = expand_layout(self.decoded, self.layout)
            self._floats = self._dense.astype(np.float32)
        return self._floats

    def evict(self) -> None:
        """Forget the float32 form: the weight memory has been overwritten."""
        self._floats = None


def _parameters(layout: Layout) -> tuple[int, ...]:
    return layout.outs, layout.ins, layout.n, layout.m, layout.block_rows, layout.window, layout.keep, layout.kept


def expand_layout(data: AnyArray, layout: Layout) -> NDArray[np.int8]:
    """int8 [outs, ins] of the bytes of a compute layout."""
    if layout.mode is MatrixMode.DENSE:
        return data.view(np.int8).reshape(layout.outs, layout.ins)
    return decoders.expand(data, MATRIX_MODES.index(layout.mode), *_parameters(layout))


class Batch:
    """Multiplications by one resident matrix whose operands x are all there when the first of them executes.

    They are computed together then, because a product of few rows costs the time of reading the matrix; each writes its
    own accumulators in its turn.
    """

    def __init__(self, matrix: LoadedWeights, first: int) -> None:
        self.matrix = matrix
        self.first = first
        self._operands: list[AnyArray] = []
        self._results: list[AnyArray] = []

    def takes(self, x: AnyArray) -> bool:
        return not self._operands or self._operands[0].dtype == x.dtype

    def add(self, x: AnyArray, acc: AnyArray) -> Step:
        """The step of one more multiplication."""
        member = len(self._operands)
        self._operands.append(x)
        return partial(self._execute, member, acc)

    def _execute(self, member: int, acc: AnyArray) -> None:
        if member == 0:
            product = numerics.matmul_i32(np.concatenate(self._operands), self.matrix.floats)
            self._results = np.split(product, np.cumsum([len(x) for x in self._operands])[:-1])
        np.copyto(acc, self._results[member])
