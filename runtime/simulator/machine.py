"""The simulator's memories: plain bytes, and the views through which instructions read and write them.

On-chip memories are one array each. DRAM is a list of regions (weights are mapped from the bundle, read-only); an
access must lie inside one of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hw_targets.codec import Place, Resolved
from hw_targets.errors import InputError
from hw_targets.isa import Memory

Bytes = NDArray[np.uint8]
AnyArray = NDArray[Any]

POISON = 0xC7
"""What memories hold before they are written, so that reading unwritten bytes shows in the result: -57 as a code, -1e5
as bf16 or fp32 (0xAA would be -3e-13, which vanishes in any sum)."""


@dataclass(frozen=True)
class DramRegion:
    """Bytes of DRAM from `offset` on; `data` may be a read-only view of a file."""

    name: str
    offset: int
    data: Bytes

    @property
    def end(self) -> int:
        return self.offset + self.data.size


class Memories:
    """The memories of one machine."""

    def __init__(self, sizes: Mapping[Memory, int], dram: Sequence[DramRegion]) -> None:
        self.chip: dict[Memory, Bytes] = {
            memory: np.zeros(sizes.get(memory, 0), np.uint8) for memory in Memory if memory is not Memory.DRAM
        }
        self.dram = sorted(dram, key=lambda region: region.offset)
        self._offsets = [region.offset for region in self.dram]

    def fill(self, value: int) -> None:
        """Overwrite all on-chip memories."""
        for data in self.chip.values():
            data.fill(value)

    def view(self, place: Place, dtype: type[np.generic], shape: tuple[int, ...]) -> AnyArray:
        """The bytes at `place` as an array of `shape`, without a copy.

        Two dimensions lie in rows `place.pitch` bytes apart (0: packed), one is packed. Raises InputError for bytes
        outside the memory.
        """
        size = np.dtype(dtype).itemsize
        if len(shape) == 2:
            strides = (place.pitch or shape[1] * size, size)
            end = place.base + (shape[0] - 1) * strides[0] + shape[1] * size
        else:
            strides = (size,)
            end = place.base + shape[0] * size
        return self._strided(place, end, dtype, shape, strides)

    def pitched(self, place: Place, dtype: type[np.generic], count: int) -> AnyArray:
        """`count` elements, each `place.pitch` bytes (0: packed) after the one before."""
        size = np.dtype(dtype).itemsize
        stride = place.pitch or size
        return self._strided(place, place.base + (count - 1) * stride + size, dtype, (count,), (stride,))

    def _strided(
        self, place: Place, end: int, dtype: type[np.generic], shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> AnyArray:
        data, offset = self._locate(place, end)
        return np.ndarray(shape, dtype, buffer=data.data, offset=offset, strides=strides)

    def _locate(self, place: Place, end: int) -> tuple[Bytes, int]:
        """The array that holds bytes place.base .. end, and where they begin in it."""
        if place.memory is not Memory.DRAM:
            data = self.chip[place.memory]
            if place.base >= 0 and end <= data.size:
                return data, place.base
        else:
            number = bisect_right(self._offsets, place.base) - 1
            if number >= 0 and end <= self.dram[number].end:
                return self.dram[number].data, place.base - self.dram[number].offset
        raise InputError("HPCC1230", f"bytes {place.base}..{end} lie in no region of the {place.memory} memory")


class Watch(Protocol):
    """Sees the memories around every instruction that computes or moves something."""

    def before(self, instruction: Resolved, memories: Memories) -> None: ...

    def after(self, instruction: Resolved, memories: Memories) -> None: ...


def read_bf16(view: AnyArray) -> NDArray[np.float32]:
    """float32 values of a bf16 view (uint16)."""
    values = np.zeros(view.shape, np.float32)
    values.view(np.uint16)[..., 1::2] = view
    return values


def write_bf16(view: AnyArray, values: AnyArray) -> None:
    """Store float32 values that are bf16 numbers into a bf16 view: their upper halves."""
    view[...] = np.ascontiguousarray(values, np.float32).view(np.uint16)[..., 1::2]
