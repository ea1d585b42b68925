"""Bit streams of docs/FORMATS.md: fields of a fixed width, lowest bit first, padded with zeros to a byte at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def width_of(values: int) -> int:
    """Bits that tell `values` values apart: ceil(log2 values), 0 for one."""
    return (values - 1).bit_length()


def padded(bits: int) -> int:
    """Bits of a section after padding to whole bytes."""
    return -(-bits // 8) * 8


def pack(fields: NDArray[Any], width: int) -> Bytes:
    """The fields in row-major order, `width` bits each."""
    flat = fields.reshape(-1)
    if width == 8:
        return flat.astype(np.uint8)
    bits = np.empty((flat.size, width), np.uint8)
    for place in range(width):
        bits[:, place] = flat >> place & 1
    return np.packbits(bits.reshape(-1), bitorder="little")
