"""Packed weights hold their matrix, whatever its size; the kernel that is chosen is the one that takes least time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from compiler.backends.cpu.packing import (
    Packed,
    block_inputs,
    choose_byte_kernel,
    choose_kernel,
    group_rows,
    pack,
    quantized,
)
from compiler.dialects.cpu import Kernel
from compiler.sparsity.patterns import parse_pattern
from compiler.tools.cpu_report import CPU_EXPLANATIONS, CpuReason
from compiler.tools.steps_report import StepReason
from hw_targets import cpu
from hw_targets.cpu import ISAS, CpuTarget

Matrix = NDArray[np.float32]
TARGETS = [
    CpuTarget("made up", "cpu", "", isa, l1_bytes=8192, l2_bytes=64 * 1024, sources=()) for isa in ("avx512", "avx2", "neon")
]


def unpacked(packed: Packed, outs: int, ins: int, target: CpuTarget) -> Matrix:
    """The matrix behind a packed one, read slot by slot as the C does."""
    rows = group_rows(packed.kernel, target)
    groups = -(-outs // rows)
    w = np.zeros((groups * rows, ins), np.float32)
    at = 0
    for number, low in enumerate(range(0, ins, packed.block)):
        size = min(packed.block, ins - low)
        for group in range(groups):
            if packed.kernel is Kernel.DENSE:
                columns = np.arange(size)
            else:
                begin, end = packed.starts[number * groups + group : number * groups + group + 2]
                assert begin * rows == at
                columns = packed.columns[begin:end].astype(np.int64)
                assert (np.diff(columns) > 0).all()
                assert columns.size == 0 or columns[-1] < size
            values = packed.values[at : at + columns.size * rows].reshape(columns.size, rows)
            w[group * rows : (group + 1) * rows, low + columns] = values.T
            at += values.size
    assert at == packed.values.size
    assert not w[outs:].any()
    return w[:outs]


@settings(max_examples=40, deadline=None)
@given(
    outs=st.integers(1, 40),
    ins=st.integers(1, 300),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    kernel=st.sampled_from([Kernel.DENSE, Kernel.VECTORS, Kernel.SINGLES]),
    target=st.sampled_from(TARGETS),
    seed=st.integers(0, 9),
)
def test_a_packed_matrix_is_the_matrix(
    outs: int, ins: int, density: float, kernel: Kernel, target: CpuTarget, seed: int
) -> None:
    random = np.random.default_rng(seed)
    w = np.where(random.random((outs, ins)) < density, random.standard_normal((outs, ins)), 0).astype(np.float32)
    packed = pack(w, kernel, target)
    assert packed.block == block_inputs(kernel, target)
    assert packed.values.dtype == np.float32
    np.testing.assert_array_equal(unpacked(packed, outs, ins, target), w)


@settings(max_examples=30, deadline=None)
@given(
    outs=st.integers(1, 20), ins=st.integers(1, 70), density=st.sampled_from([0.0, 0.1, 0.5, 1.0]), seed=st.integers(0, 9)
)
def test_packed_bytes_are_the_codes(outs: int, ins: int, density: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    w = np.where(random.random((outs, ins)) < density, random.standard_normal((outs, ins)), 0).astype(np.float32)
    codes, scales = quantized(w)
    for isa in ("avx512-vnni", "avx2"):
        products = ISAS[isa].int8
        assert products is not None
        packed = pack(w, Kernel.BYTES, CpuTarget("made up", "cpu", "", isa, 8192, 65536, ()))
        found = np.zeros((-(-outs // 4) * 4, ins), np.int32)
        values, columns = packed.values.reshape(-1, 4, products.inputs), packed.columns.reshape(-1, products.inputs)
        assert values.itemsize == products.code_bytes
        assert packed.shared if density == 1.0 else len(columns) == len(values) or packed.shared
        for group in range(len(found) // 4):
            begin, end = packed.starts[group : group + 2]
            for slot in range(begin, end):
                listed = columns[slot - begin if packed.shared else slot]
                for number in range(products.inputs):
                    found[group * 4 : group * 4 + 4, listed[number]] += values[slot, :, number]
        np.testing.assert_array_equal(found[:outs], codes)
        np.testing.assert_array_equal(packed.row_scales[:outs], scales)
        np.testing.assert_array_equal(packed.begins, -products.offset * found.sum(axis=1))
    assert np.abs(codes * scales[:, None] - w).max(initial=0) <= scales.max() / 2 * 1.001


@settings(max_examples=30, deadline=None)
@given(
    outs=st.integers(1, 40),
    ins=st.integers(1, 200),
    density=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    seed=st.integers(0, 9),
)
def test_tiles_are_the_codes(outs: int, ins: int, density: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    w = np.where(random.random((outs, ins)) < density, random.standard_normal((outs, ins)), 0).astype(np.float32)
    packed = pack(w, Kernel.TILES, TARGETS[0])
    codes, scales = quantized(w)
    found = np.zeros((-(-outs // 16) * 16, ins), np.int32)
    values, columns = packed.values.reshape(-1, 16, 64), packed.columns.reshape(-1, 64)
    for group in range(len(found) // 16):
        begin, end = packed.starts[group : group + 2]
        for block in range(begin, end):
            listed = columns[block - begin if packed.shared else block]
            np.add.at(found[group * 16 : group * 16 + 16].T, listed, values[block].T.astype(np.int32))
    np.testing.assert_array_equal(found[:outs], codes)
    np.testing.assert_array_equal(packed.row_scales[:outs], scales)
    np.testing.assert_array_equal(packed.begins, -128 * found.sum(axis=1))


def test_tiles_take_only_what_16_rows_share() -> None:
    w = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    shares = {spec: pack(parse_pattern(spec).project(w), Kernel.TILES, TARGETS[0]).multiplied / w.size for spec in SHARED}
    assert shares == {"dense": 1.0, "block:16x1:0.75:balanced": 0.25, "block:4x1:0.75": 1.0, "unstructured:0.9": 1.0}


SHARED = ("dense", "block:16x1:0.75:balanced", "block:4x1:0.75", "unstructured:0.9")


@settings(max_examples=30, deadline=None)
@given(
    outs=st.integers(1, 40), ins=st.integers(1, 200), density=st.sampled_from([0.0, 0.1, 0.5, 1.0]), seed=st.integers(0, 9)
)
def test_picked_bytes_are_the_codes(outs: int, ins: int, density: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    w = np.where(random.random((outs, ins)) < density, random.standard_normal((outs, ins)), 0).astype(np.float32)
    packed = pack(w, Kernel.PICKS, TARGETS[0])
    codes, scales = quantized(w)
    groups, windows = -(-outs // 16), -(-ins // 64)
    found = np.zeros((groups * 16, windows * 64), np.int32)
    values, columns = packed.values.reshape(-1, 16, 4), packed.columns.reshape(-1, 16, 4)
    for group, window in np.ndindex(groups, windows):
        begin, end = packed.starts[group * windows + window : group * windows + window + 2]
        most = np.count_nonzero(w[group * 16 : group * 16 + 16, window * 64 : window * 64 + 64], axis=1).max(initial=0)
        assert end - begin == -(-most // 4), "as many lists as the row with most inputs needs"
        for slot, row in np.ndindex(int(end - begin), 16):
            np.add.at(found[group * 16 + row], window * 64 + columns[begin + slot, row], values[begin + slot, row])
    assert packed.starts[-1] == len(values)
    assert not found[outs:].any()
    assert not found[:, ins:].any()
    np.testing.assert_array_equal(found[:outs, :ins], codes)
    np.testing.assert_array_equal(packed.row_scales[:outs], scales)
    np.testing.assert_array_equal(packed.begins, -128 * found.sum(axis=1))


@pytest.mark.parametrize(
    ("spec", "kernel"),
    [
        ("dense", Kernel.BYTES),
        ("hp:0.75", Kernel.BYTES),
        ("block:4x1:0.9", Kernel.BYTES),
        ("nm:2:4", Kernel.PICKS),
        ("nm:1:8", Kernel.PICKS),
        ("unstructured:0.75", Kernel.PICKS),
        ("hp:rows=64,window=32,keep=16,fine=2:4", Kernel.PICKS),
    ],
)
def test_the_kernel_of_bytes_suits_the_pattern_and_the_machine(spec: str, kernel: Kernel) -> None:
    mask = parse_pattern(spec, "cpu").mask(np.random.default_rng(0).standard_normal((96, 384)).astype(np.float32))
    picking, without = (CpuTarget("made up", "cpu", "", f"avx512-{isa}", 8192, 65536, ()) for isa in ("vbmi", "vnni"))
    assert choose_byte_kernel(mask, picking) is kernel
    assert choose_byte_kernel(mask, without) is Kernel.BYTES


def test_what_a_pick_costs_is_asked_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(cpu, "CPU_INFO", info)
    assert cpu.detect_pick_cost(1.5) == 1.5  # the system says nothing
    for vendor, cost in (("GenuineIntel", cpu.INTEL_PICK_COST), ("AuthenticAMD", 1.5)):
        info.write_text(f"processor : 0\nvendor_id : {vendor}\n", encoding="utf-8")
        assert cpu.detect_pick_cost(1.5) == cost


def test_where_picks_are_slow_half_of_the_weights_are_multiplied_densely() -> None:
    """Of `nm:2:4` a dense product takes less than picks at 2.2 times the time, of `nm:2:8` it does not."""
    intel = CpuTarget("made up", "cpu", "", "avx512-vbmi", 8192, 65536, (), pick_cost=2.2)
    w = np.random.default_rng(0).standard_normal((96, 384)).astype(np.float32)
    half, quarter = (parse_pattern(spec, "cpu").mask(w) for spec in ("nm:2:4", "nm:2:8"))
    assert choose_byte_kernel(half, intel) is Kernel.BYTES
    assert pack(np.where(half, w, 0), Kernel.BYTES, intel).shared
    assert choose_byte_kernel(quarter, intel) is Kernel.PICKS


@pytest.mark.parametrize(
    ("spec", "kernel"),
    [
        ("dense", Kernel.DENSE),
        ("hp:0.5", Kernel.VECTORS),
        ("hp:0.75", Kernel.VECTORS),
        ("block:4x1:0.9", Kernel.VECTORS),
        ("block:8x1:0.75", Kernel.VECTORS),
        ("nm:3:4", Kernel.DENSE),
        ("nm:2:4", Kernel.SINGLES),
        ("unstructured:0.75", Kernel.SINGLES),
        ("hp:rows=64,window=32,keep=16,fine=2:4", Kernel.SINGLES),
        ("hp:rows=64,window=32,keep=16,fine=dense", Kernel.VECTORS),
    ],
)
def test_the_kernel_suits_the_pattern(spec: str, kernel: Kernel) -> None:
    w = np.random.default_rng(0).standard_normal((96, 384)).astype(np.float32)
    assert choose_kernel(parse_pattern(spec, "cpu").mask(w)) is kernel


def test_hp_of_a_share_is_four_row_vectors_on_a_cpu() -> None:
    pattern = parse_pattern("hp:0.9", "cpu")
    assert pattern.spec() == "hp:rows=4,window=in,keep=1/10,fine=dense"
    assert pattern.sparsity == pytest.approx(0.9)


def test_the_page_lists_every_reason() -> None:
    page = (Path(__file__).parents[2] / "docs" / "CPU.md").read_text(encoding="utf-8")
    for reason, explanation in CPU_EXPLANATIONS.items():
        assert f"| {reason.value} | {explanation} |" in page
    assert set(CPU_EXPLANATIONS) == {*StepReason, *CpuReason}
