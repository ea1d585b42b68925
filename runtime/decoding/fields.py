"""Bit streams and values of stored weights (section 1 of docs/FORMATS.md), and the checks that all decoders share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_targets.errors import InputError

Bytes = NDArray[np.uint8]
Codes = NDArray[Any]
Integers = NDArray[np.intp]


@dataclass(frozen=True)
class Stored:
    """The bytes of an encoded matrix and what the instruction says of it; a code takes `value_bits`."""

    data: Bytes
    outs: int
    ins: int
    n: int = 1
    m: int = 1
    block_rows: int = 0
    window: int = 0
    keep: int = 0
    kept: int = 0
    value_bits: int = 8

    def value_bytes(self, count: int) -> int:
        """Bytes of a section of `count` codes."""
        return -(-count * self.value_bits // 8)

    def values(self, what: str, start: int, count: int) -> Bytes:
        """`count` codes from byte `start` on as the compute layout holds them: one byte each, two if they have 16 bits."""
        section = self.data[start : start + self.value_bytes(count)]
        if self.value_bits != 4:
            return section
        nibbles = fields(f"{what} values", section, count, 4)
        return ((nibbles ^ 8) - 8).astype(np.uint8)  # two's complement of four bits


def ceil(a: Integers, b: int) -> Integers:
    return -(-a // b)


def bits(values: int) -> int:
    return (values - 1).bit_length()


def stream_bytes(count: int, width: int) -> int:
    return -(-count * width // 8)


def fields(what: str, data: Bytes, count: int, width: int) -> NDArray[Any]:
    """`count` fields of `width` bits, lowest bit first, as u8, u16 or u32."""
    stream = np.unpackbits(data, bitorder="little")
    if stream[count * width :].any():
        raise damaged(f"{what}: the padding bits are not zero")
    kind = np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32
    if width == 1:
        return stream[:count]
    columns = stream[: count * width].reshape(count, width)
    result = np.zeros(count, kind)
    for place in range(width):
        result |= columns[:, place].astype(kind) << place
    return result


def check_below(what: str, values: NDArray[Any], limits: Integers) -> None:
    bad = values >= limits.astype(np.uint16)
    if bad.any():
        row, place = np.argwhere(bad)[0]
        raise damaged(f"{what} {values[row, place]} (line {row}, entry {place}) is not below {limits[place]}")


def check_ascending(what: str, values: NDArray[Any], owner: Integers) -> None:
    """Values of one owner (a group, a window) ascend strictly."""
    bad = (values[:, 1:] <= values[:, :-1]) & (owner[1:] == owner[:-1])
    if bad.any():
        row, place = np.argwhere(bad)[0]
        raise damaged(f"{what} do not ascend (line {row}, entries {place} and {place + 1})")


def expect_length(what: str, data: Bytes, length: int) -> None:
    if data.size != length:
        raise damaged(f"{what}: {length} bytes expected, {data.size} found")


def expect_coarse(what: str, block_rows: int) -> None:
    if block_rows < 1:
        raise damaged(f"{what}: block_rows is 0")


def expect_kept(what: str, outs: int, ins: int, kept: int) -> int:
    if outs < 1 or ins < 1 or not 1 <= kept <= outs * ins:
        raise damaged(f"{what}: {kept} values in a matrix of {outs} x {ins} are not possible")
    return kept


def damaged(message: str) -> InputError:
    return InputError("HPCC1820", message)
