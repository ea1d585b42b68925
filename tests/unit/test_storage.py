"""Encoders: sizes equal the closed forms to the bit, the worked example of FORMATS.md, refusals."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.sparsity.base import Dense, Pattern
from compiler.sparsity.lines import Tile
from compiler.sparsity.patterns import HP, NM, Block, Circulant, Column, Composed, Row, Unstructured, parse_pattern
from compiler.storage.bits import width_of
from compiler.storage.formats import FORMATS, candidates, compute_bytes, compute_mode
from hw_targets.errors import InputError
from hw_targets.isa import MatrixMode
from runtime.decoders import compute_bytes as machine_compute_bytes
from runtime.decoders import decode, expand

FAST = settings(max_examples=50, deadline=None)


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    m = draw(st.sampled_from([1, 2, 3, 4, 5, 8, 16]))
    n = draw(st.integers(1, m))
    kinds = ["dense", "nm", "nm", "hp", "hp", "hp-in", "block", "unstructured", "row", "column", "composed", "circulant"]
    kind = draw(st.sampled_from(kinds))
    if kind == "dense":
        return Dense()
    if kind == "circulant":
        return Circulant(draw(st.integers(1, 12)))
    share = draw(st.fractions(Fraction(1, 100), 1, max_denominator=100))
    if kind in ("row", "column"):
        sides = st.none() | st.integers(1, 40)
        return (Row if kind == "row" else Column)(share, Tile(draw(sides), draw(sides)))
    if kind == "composed":
        rows, balanced = draw(st.integers(1, 9)), draw(st.booleans())
        outer = Row(share) if draw(st.booleans()) else Block(rows, m * draw(st.integers(1, 4)), share, balanced)
        return Composed(outer, NM(n, m))
    if kind == "nm":
        return NM(n, m, draw(st.sampled_from(["in", "in", "out"])))
    if kind in ("block", "unstructured"):
        density = draw(st.fractions(Fraction(1, 500), 1, max_denominator=500))
        sides = draw(st.integers(1, 9)), draw(st.integers(1, 9))
        return Block(*sides, density, draw(st.booleans())) if kind == "block" else Unstructured(density)
    rows = draw(st.integers(1, 9))
    if kind == "hp-in":
        return HP(rows, "in", Fraction(draw(st.integers(1, 8)), 8), n, m)
    window = draw(st.integers(m, 40))
    return HP(rows, window, draw(st.integers(1, window // m)) * m, n, m)


def codes_of(pattern: Pattern, outs: int, ins: int, seed: int, zeros: float = 0.0, bits: int = 8) -> np.ndarray:
    """Random codes that obey the pattern; a share of those that stay is 0."""
    rng, limit = np.random.default_rng(seed), (1 << (bits - 1)) - 1
    kind = np.int16 if bits == 16 else np.int8
    codes = pattern.project(rng.integers(-limit, limit + 1, (outs, ins)).astype(kind))
    if pattern.sharing:
        return codes
    return np.where(rng.random(codes.shape) < zeros, 0, codes).astype(kind)


@settings(max_examples=200, deadline=None)
@given(
    patterns(),
    st.integers(1, 30),
    st.integers(1, 90),
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    st.sampled_from([8, 8, 16, 4]),
)
def test_round_trip_and_sizes(pattern: Pattern, outs: int, ins: int, seed: int, zeros: float, bits: int) -> None:
    codes = codes_of(pattern, outs, ins, seed, zeros, bits)
    for storage in candidates(pattern):
        data = storage.encode(codes, pattern, bits)
        size = storage.size_bits(outs, ins, pattern, bits)
        assert data.dtype == np.uint8
        assert 8 * data.size == size.value_bits + size.metadata_bits == 8 * size.total_bytes
        layout = storage.layout(outs, ins, pattern)
        assert not layout.problem()
        stored = pattern.free(outs, ins) if storage.name == "circulant" else layout.values
        assert size.value_bits == bits * stored
        if storage.name not in ("dense", "bcsr", "cbr", "circulant"):
            assert stored == pattern.kept(outs, ins)
        shape = (layout.n, layout.m, layout.block_rows, layout.window, layout.keep, layout.kept)
        decoded = decode(storage.code, data, outs, ins, *shape, bits)
        mode = list(MatrixMode).index(layout.mode)
        if bits <= 8:
            assert decoded.size == layout.bytes == compute_bytes(storage, pattern, outs, ins)
            assert decoded.size == machine_compute_bytes(mode, outs, ins, *shape)
        assert np.array_equal(expand(decoded, mode, outs, ins, *shape, bits), codes)


EXAMPLE = np.array([[0, 5, 0, 0, 0, -3], [0, 0, 0, 7, 2, 0]], np.int8)


def test_the_worked_example_of_the_page() -> None:
    hp, nm = HP(2, 4, 2, 1, 2), NM(1, 4)
    stored = FORMATS["hp_mark"].encode(EXAMPLE, hp)
    assert stored.tobytes().hex(" ") == "05 fd 07 02 4d 69"
    assert decode(2, stored, 2, 6, 1, 2, 2, 4, 2).tobytes().hex(" ") == "05 fd 07 02 10 01 01 03 00 01"
    packed = FORMATS["nm"].encode(EXAMPLE, nm)
    assert packed.tobytes().hex(" ") == "05 fd 07 02 35"
    assert decode(1, packed, 2, 6, 1, 4).tobytes().hex(" ") == "05 fd 07 02 11 03"
    anywhere = Unstructured(Fraction(1, 3))
    rows = FORMATS["csr"].encode(EXAMPLE, anywhere)
    assert rows.tobytes().hex(" ") == "05 fd 07 02 e9 08 10 01"
    places = FORMATS["bitmap"].encode(EXAMPLE, anywhere)
    assert places.tobytes().hex(" ") == "05 fd 07 02 22 06"
    kept = (1, 1, 0, 0, 0, 4)
    for code, data in ((3, rows), (4, places)):
        assert decode(code, data, 2, 6, *kept).tobytes().hex(" ") == "02 02 05 fd 07 02 01 05 03 04"
    marked = FORMATS["bitmap"].encode(EXAMPLE, nm)
    assert decode(4, marked, 2, 6, 1, 4).tobytes().hex(" ") == "05 fd 07 02 11 03"


def test_sizes_of_a_bert_matrix() -> None:
    hp = FORMATS["hp_mark"].size_bits(3072, 768, parse_pattern("hp:0.75"))
    assert hp.value_bits == 3072 * 192 * 8
    assert hp.metadata_bits == 48 * 24 * 16 * 5 + 3072 * 384
    nm = FORMATS["nm"].size_bits(3072, 768, NM(2, 4))
    assert nm.total_bytes == 3072 * 384 + 3072 * 384 // 4
    sparse = Unstructured(Fraction(1, 10))
    kept = -(-3072 * 768 // 10)
    csr, bitmap = (FORMATS[name].size_bits(3072, 768, sparse) for name in ("csr", "bitmap"))
    assert csr.value_bits == bitmap.value_bits == 8 * kept
    assert csr.metadata_bits == -(-kept * 10 // 8) * 8 + -(-3073 * width_of(kept + 1) // 8) * 8
    assert width_of(kept + 1) == 18
    assert bitmap.metadata_bits == 3072 * 768


def test_a_slice_of_blocks_and_windows_is_a_matrix_of_its_own() -> None:
    pattern = HP(4, 8, 4, 2, 4)
    codes = codes_of(pattern, 12, 40, 5)
    part = codes[4:12, 8:32]
    data = FORMATS["hp_mark"].encode(part, pattern)
    layout = decode(2, data, 8, 24, 2, 4, 4, 8, 4)
    assert np.array_equal(expand(layout, 2, 8, 24, 2, 4, 4, 8, 4), part)


def test_candidates() -> None:
    names = {spec: [f.name for f in candidates(parse_pattern(spec, kind="cpu"))] for spec in ("dense", "nm:2:4", "nm:2:32")}
    anywhere = ["bitmap", "csr", "coo", "dense"]
    assert names == {"dense": ["dense"], "nm:2:4": ["nm", "ell", *anywhere], "nm:2:32": ["ell", *anywhere]}

    def of(spec: str) -> list[str]:
        return [f.name for f in candidates(parse_pattern(spec))]

    assert of("hp:0.75") == of("column:0.5") == ["hp_mark", "cbr", "ell", *anywhere]
    assert [f.name for f in candidates(NM(2, 4, "out"))] == anywhere
    assert of("block:4x1:0.75") == of("row:0.5") == of("block:8x8:0.5+nm:2:4") == ["bcsr", *anywhere]
    assert of("block:4x1:0.75:balanced") == of("block:8x8:0.5:balanced+nm:2:4") == ["bcsr", "ell", *anywhere]
    assert of("row:0.5:tile=16x64") == ["cbr", "bcsr", *anywhere]
    assert of("unstructured:0.5") == anywhere
    assert of("circulant:8") == ["circulant", "dense"]


def test_layouts_of_formats() -> None:
    bitmap, csr = FORMATS["bitmap"], FORMATS["csr"]
    assert compute_mode(bitmap, NM(2, 4)) is MatrixMode.NM
    assert compute_mode(csr, NM(2, 4)) is MatrixMode.UNSTRUCTURED
    for pattern in (NM(2, 4, "out"), NM(2, 32), parse_pattern("hp:0.75"), parse_pattern("unstructured:0.75")):
        assert compute_mode(bitmap, pattern) is MatrixMode.UNSTRUCTURED
    assert compute_bytes(bitmap, parse_pattern("unstructured:0.75"), 768, 768) == 768 * 24 + 2 * 768 * 192


def test_codes_that_break_the_pattern_are_refused() -> None:
    with pytest.raises(InputError, match="row 1, group 0"):
        FORMATS["nm"].encode(np.array([[1, 0, 0, 0], [1, 2, 3, 0]], np.int8), NM(2, 4))
    with pytest.raises(InputError, match="does not store nm:2:4"):
        FORMATS["hp_mark"].encode(EXAMPLE, NM(2, 4))
    with pytest.raises(InputError, match="only int8"):
        FORMATS["dense"].encode(EXAMPLE.astype(np.float32), Dense())
    for name in ("csr", "bitmap"):
        with pytest.raises(InputError, match="4 of 12 weights are not zero; unstructured:0.75 keeps 3"):
            FORMATS[name].encode(EXAMPLE, parse_pattern("unstructured:0.75"))
        with pytest.raises(InputError, match="does not store dense"):
            FORMATS[name].encode(EXAMPLE, Dense())
