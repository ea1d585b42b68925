"""Encoders: sizes equal the closed forms to the bit, the worked example of FORMATS.md, refusals."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.sparsity.patterns import HP, NM, Dense, Pattern, parse_pattern
from compiler.storage.formats import FORMATS, candidates, compute_bytes, compute_mode
from hw_targets.errors import InputError
from runtime.decoders import compute_bytes as machine_compute_bytes
from runtime.decoders import decode, expand

FAST = settings(max_examples=50, deadline=None)


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    m = draw(st.sampled_from([1, 2, 3, 4, 5, 8, 16]))
    n = draw(st.integers(1, m))
    kind = draw(st.sampled_from(["dense", "nm", "hp", "hp", "hp-in"]))
    if kind == "dense":
        return Dense()
    if kind == "nm":
        return NM(n, m)
    rows = draw(st.integers(1, 9))
    if kind == "hp-in":
        return HP(rows, "in", Fraction(draw(st.integers(1, 8)), 8), n, m)
    window = draw(st.integers(m, 40))
    return HP(rows, window, draw(st.integers(1, window // m)) * m, n, m)


def codes_of(pattern: Pattern, outs: int, ins: int, seed: int, zeros: float = 0.0) -> np.ndarray:
    """Random codes that obey the pattern; a share of the kept ones is 0."""
    rng = np.random.default_rng(seed)
    codes = pattern.project(rng.integers(-127, 128, (outs, ins)).astype(np.int8))
    return np.where(rng.random(codes.shape) < zeros, 0, codes).astype(np.int8)


@FAST
@given(patterns(), st.integers(1, 30), st.integers(1, 90), st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_round_trip_and_sizes(pattern: Pattern, outs: int, ins: int, seed: int, zeros: float) -> None:
    codes = codes_of(pattern, outs, ins, seed, zeros)
    for storage in candidates(pattern):
        data = storage.encode(codes, pattern)
        size = storage.size_bits(outs, ins, pattern)
        assert data.dtype == np.uint8
        assert 8 * data.size == size.value_bits + size.metadata_bits == 8 * size.total_bytes
        stored = outs * ins if storage.name == "dense" else pattern.kept(outs, ins)
        assert size.value_bits == 8 * stored
        p = pattern.parameters(ins)
        shape = (p.n, p.m, p.block_rows, p.window, p.keep)
        layout = decode(storage.code, data, outs, ins, *shape)
        mode = ["dense", "nm", "hp"].index(compute_mode(storage))
        layout_pattern = Dense() if storage.name == "dense" else pattern
        assert layout.size == compute_bytes(layout_pattern, outs, ins) == machine_compute_bytes(mode, outs, ins, *shape)
        assert np.array_equal(expand(layout, mode, outs, ins, *shape), codes)


EXAMPLE = np.array([[0, 5, 0, 0, 0, -3], [0, 0, 0, 7, 2, 0]], np.int8)


def test_the_worked_example_of_the_page() -> None:
    hp, nm = HP(2, 4, 2, 1, 2), NM(1, 4)
    stored = FORMATS["hp_mark"].encode(EXAMPLE, hp)
    assert stored.tobytes().hex(" ") == "05 fd 07 02 4d 69"
    assert decode(2, stored, 2, 6, 1, 2, 2, 4, 2).tobytes().hex(" ") == "05 fd 07 02 10 01 01 03 00 01"
    packed = FORMATS["nm"].encode(EXAMPLE, nm)
    assert packed.tobytes().hex(" ") == "05 fd 07 02 35"
    assert decode(1, packed, 2, 6, 1, 4).tobytes().hex(" ") == "05 fd 07 02 11 03"


def test_sizes_of_a_bert_matrix() -> None:
    hp = FORMATS["hp_mark"].size_bits(3072, 768, parse_pattern("hp:0.75"))
    assert hp.value_bits == 3072 * 192 * 8
    assert hp.metadata_bits == 48 * 24 * 16 * 5 + 3072 * 384
    nm = FORMATS["nm"].size_bits(3072, 768, NM(2, 4))
    assert nm.total_bytes == 3072 * 384 + 3072 * 384 // 4


def test_a_slice_of_blocks_and_windows_is_a_matrix_of_its_own() -> None:
    pattern = HP(4, 8, 4, 2, 4)
    codes = codes_of(pattern, 12, 40, 5)
    part = codes[4:12, 8:32]
    data = FORMATS["hp_mark"].encode(part, pattern)
    layout = decode(2, data, 8, 24, 2, 4, 4, 8, 4)
    assert np.array_equal(expand(layout, 2, 8, 24, 2, 4, 4, 8, 4), part)


def test_candidates() -> None:
    names = {
        spec: [f.name for f in candidates(parse_pattern(spec, kind="cpu"))] for spec in ("dense", "nm:2:4", "nm:2:32")
    }
    assert names == {"dense": ["dense"], "nm:2:4": ["nm", "dense"], "nm:2:32": ["dense"]}
    assert [f.name for f in candidates(parse_pattern("hp:0.75"))] == ["hp_mark", "dense"]
    assert [f.name for f in candidates(NM(2, 4, "out"))] == ["dense"]


def test_codes_that_break_the_pattern_are_refused() -> None:
    with pytest.raises(InputError, match="row 1, group 0"):
        FORMATS["nm"].encode(np.array([[1, 0, 0, 0], [1, 2, 3, 0]], np.int8), NM(2, 4))
    with pytest.raises(InputError, match="does not store nm:2:4"):
        FORMATS["hp_mark"].encode(EXAMPLE, NM(2, 4))
    with pytest.raises(InputError, match="only int8"):
        FORMATS["dense"].encode(EXAMPLE.astype(np.float32), Dense())
