"""Decoders refuse damaged data and say what is wrong with it."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.sparsity.patterns import HP, NM, Unstructured
from compiler.storage.formats import FORMATS
from hw_targets.errors import InputError
from runtime.decoders import decode, expand, geometry

NM_SHAPE = (2, 6, 1, 4)
HP_SHAPE = (2, 6, 1, 2, 2, 4, 2)
VALUES = [5, 0xFD, 7, 2]


def bytes_of(*parts: int) -> np.ndarray:
    return np.array([*VALUES, *parts], np.uint8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes_of(), "nm: 5 bytes expected, 4 found"),
        (bytes_of(0x35, 0), "nm: 5 bytes expected, 6 found"),
        (bytes_of(0x39), r"nm index 2 \(line 0, entry 1\) is not below 2"),
    ],
)
def test_damaged_nm(data: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(1, data, *NM_SHAPE)


def test_nm_padding_and_order() -> None:
    good = FORMATS["nm"].encode(np.array([[1, 2, 0, 0, 3]], np.int8), NM(2, 4))  # indices 0, 1, 0: six bits
    assert decode(1, good, 1, 5, 2, 4).size == 5
    damaged = good.copy()
    damaged[-1] |= 0x80
    with pytest.raises(InputError, match="padding bits are not zero"):
        decode(1, damaged, 1, 5, 2, 4)
    damaged = good.copy()
    damaged[-1] = 0b01  # indices 1, 0, 0
    with pytest.raises(InputError, match=r"do not ascend \(line 0, entries 0 and 1\)"):
        decode(1, damaged, 1, 5, 2, 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes_of(0x4D), "hp_mark: 6 bytes expected, 5 found"),
        (bytes_of(0x45, 0x69), "kept lists do not ascend"),  # 1, 1, 0, 1
        (bytes_of(0x8D, 0x69), r"kept input 2 \(line 0, entry 3\) is not below 2"),  # the tail window has two inputs
        (bytes_of(0x4D, 0x6B), "row 0 marks 2 of group 0, which keeps 1"),
        (bytes_of(0x4D, 0x68), "row 0 marks 0 of group 0, which keeps 1"),
    ],
)
def test_damaged_hp_mark(data: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(2, data, *HP_SHAPE)


KEPT = (2, 6, 1, 1, 0, 0, 0, 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes_of(0xE9, 0x08, 0x10), "csr: 8 bytes expected, 7 found"),
        (bytes_of(0xEF, 0x08, 0x10, 0x01), "csr: column 7 of row 0 is not below 6"),
        (bytes_of(0xCD, 0x08, 0x10, 0x01), "csr: the columns of row 0 do not ascend"),  # 5, 1, 3, 4
        (bytes_of(0xE9, 0xF8, 0x10, 0x01), "csr columns: the padding bits are not zero"),
        (bytes_of(0xE9, 0x08, 0x11, 0x01), "csr: the row starts run from 1 to 4, not from 0 to at most 4"),
        (bytes_of(0xE9, 0x08, 0xD0, 0x00), "csr: behind the last of its 3 slots stands another"),
        (bytes_of(0xE9, 0x08, 0x50, 0x01), "csr: the row starts run from 0 to 5, not from 0 to at most 4"),
        (bytes_of(0xE9, 0x08, 0x28, 0x01), "csr: row 1 starts at 5 and ends before, at 4"),
    ],
)
def test_damaged_csr(data: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(3, data, *KEPT)


@pytest.mark.parametrize(
    ("data", "shape", "message"),
    [
        (bytes_of(0x22), KEPT, "bitmap: 6 bytes expected, 5 found"),
        (bytes_of(0x32, 0x06), KEPT, "bitmap: 5 of the marks are set, 4 values are stored"),
        (bytes_of(0x22, 0x16), KEPT, "bitmap marks: the padding bits are not zero"),
        (bytes_of(0x23, 0x06), NM_SHAPE, "bitmap: row 0 marks 2 of group 0, which keeps 1"),
        (bytes_of(0x22, 0x06), (2, 6), "bitmap: 14 bytes expected, 6 found"),
    ],
)
def test_damaged_bitmap(data: np.ndarray, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(4, data, *shape)


@pytest.mark.parametrize(
    ("counts", "indices", "message"),
    [
        ((2, 2), (1, 5, 3), "10 bytes expected, 9 found"),
        ((2, 3), (1, 5, 3, 4), "its counts add up to 5, more than 4"),
        ((2, 1), (1, 5, 3, 4), "what is behind its 3 slots is not zero"),
        ((2, 2), (1, 6, 3, 4), "index 6 of row 0 leaves its window"),
        ((2, 2), (1, 5, 4, 4), "do not ascend"),
    ],
)
def test_damaged_unstructured_layout(counts: tuple[int, ...], indices: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        expand(np.array([*counts, *VALUES, *indices], np.uint8), 3, *KEPT)


def test_parameters_are_checked() -> None:
    with pytest.raises(InputError, match="storage format 11 is unknown"):
        decode(11, bytes_of(), 2, 6)
    with pytest.raises(InputError, match="groups of 3:2"):
        decode(1, bytes_of(), 2, 6, 3, 2)
    with pytest.raises(InputError, match="groups of 1:17"):
        decode(1, bytes_of(), 2, 6, 1, 17)
    with pytest.raises(InputError, match="cannot keep 5"):
        decode(2, bytes_of(), 2, 6, 1, 2, 2, 4, 5)
    with pytest.raises(InputError, match="block_rows is 0"):
        decode(2, bytes_of(), 2, 6, 1, 2)
    with pytest.raises(InputError, match="dense: 12 bytes expected, 4 found"):
        decode(0, bytes_of(), 2, 6)
    with pytest.raises(InputError, match="weight layout 4 is unknown"):
        expand(bytes_of(), 4, 2, 6)
    with pytest.raises(InputError, match="nm layout: 6 bytes expected"):
        expand(bytes_of(), 1, *NM_SHAPE)
    with pytest.raises(InputError, match="select 15"):
        expand(bytes_of(0xFF, 0), 1, *NM_SHAPE)


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=6), st.integers(0, 2**16))
def test_any_damage_is_an_error_or_another_valid_matrix(noise: bytes, seed: int) -> None:
    pattern = HP(4, 8, 4, 2, 4)
    rng = np.random.default_rng(seed)
    data = FORMATS["hp_mark"].encode(pattern.project(rng.integers(-127, 128, (9, 21)).astype(np.int8)), pattern)
    data[rng.integers(0, data.size, len(noise))] = np.frombuffer(noise, np.uint8)
    shape = (9, 21, 2, 4, 4, 8, 4)
    try:
        layout = decode(2, data, *shape)
    except InputError:
        return
    assert expand(layout, 2, *shape).shape == (9, 21)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["csr", "bitmap"]), st.binary(min_size=1, max_size=4), st.integers(0, 2**16))
def test_damage_of_unstructured_data(name: str, noise: bytes, seed: int) -> None:
    pattern = Unstructured(Fraction(1, 5))
    rng = np.random.default_rng(seed)
    codes = pattern.project(rng.integers(-127, 128, (9, 70)).astype(np.int8))
    data = FORMATS[name].encode(codes, pattern)
    data[rng.integers(0, data.size, len(noise))] = np.frombuffer(noise, np.uint8)
    shape = (9, 70, 1, 1, 0, 0, 0, 126)
    try:
        layout = decode(FORMATS[name].code, data, *shape)
    except InputError:
        return
    assert expand(layout, 3, *shape).shape == (9, 70)


def test_wide_windows_take_two_bytes_per_entry() -> None:
    pattern = HP(2, 300, 30)
    codes = pattern.project(np.random.default_rng(0).integers(1, 128, (3, 500)).astype(np.int8))
    layout = decode(2, FORMATS["hp_mark"].encode(codes, pattern), 3, 500, 1, 1, 2, 300, 30)
    assert layout.size == 3 * 50 + 2 * 50 * 2
    assert np.array_equal(expand(layout, 2, 3, 500, 1, 1, 2, 300, 30), codes)


def test_geometry_of_tails() -> None:
    shape = geometry(10, 23, 1, 4, 4, 8, 4)  # windows 8, 8, 7; each keeps 4, one group of 4
    assert (shape.blocks, shape.inputs, shape.slots) == (3, 12, 3)
    assert shape.window_start.tolist() == [0] * 4 + [8] * 4 + [16] * 4
