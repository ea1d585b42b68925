"""Which unstructured matrices lie in the weight memory, and how many steps they take: for the timing simulator.

Steps are counted from the bytes that LOAD decodes, never from a density. Followed in program order, which the static
checks prove to be a valid schedule.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hw_targets.check import accesses
from hw_targets.codec import Resolved
from hw_targets.errors import InputError
from hw_targets.extents import Extent, layout_of, operand_extents, overlap
from hw_targets.isa import MatrixMode, Memory
from hw_targets.layout import Layout
from hw_targets.steps import unstructured_steps
from hw_targets.target import Accelerator

Decoded = Callable[[Resolved], NDArray[np.uint8]]
"""The compute layout that a load.weights writes."""


class Residents:
    """The matrices that were loaded and not overwritten since. Without `decoded` no unstructured matrix can be timed."""

    def __init__(self, array: Accelerator, decoded: Decoded | None) -> None:
        self.array = array
        self.decoded = decoded
        self._loaded: dict[Extent, tuple[Resolved, Layout]] = {}
        self._steps: dict[tuple[object, ...], int] = {}

    def execute(self, instruction: Resolved) -> int | None:
        """Follow one instruction; the steps of all its passes over the outputs, if it multiplies an unstructured matrix."""
        if instruction.name == "matrix.multiply":
            layout = layout_of(instruction)
            return self._count(instruction, layout) if layout.mode is MatrixMode.UNSTRUCTURED else None
        for region, writes in accesses(instruction) if self._loaded or instruction.name == "load.weights" else ():
            if writes and region.memory is Memory.WEIGHTS:
                self._write(instruction, region)
        return None

    def _write(self, instruction: Resolved, region: Extent) -> None:
        self._loaded = {kept: entry for kept, entry in self._loaded.items() if not overlap(kept, region)}
        if instruction.name == "load.weights":
            layout = layout_of(instruction)
            if layout.mode is MatrixMode.UNSTRUCTURED:
                self._loaded[region] = instruction, layout

    def _count(self, instruction: Resolved, layout: Layout) -> int:
        load, loaded = self._loaded.get(operand_extents(instruction, "w")[0], (None, None))
        if load is None or loaded != layout:
            message = "multiplies an unstructured matrix that no load.weights has put there"
            raise InputError("HPCC1235", message, where=instruction.place)
        key = load.operands["src"].base, layout
        if key not in self._steps:
            if self.decoded is None:
                message = "the cycles of an unstructured matrix are counted from its weights, which are not given"
                raise InputError("HPCC1235", message, where=instruction.place)
            self._steps[key] = unstructured_steps(self.decoded(load), layout, self.array)
        return self._steps[key]
