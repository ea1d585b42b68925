"""Weights for the Triton kernels: what is packed is the matrix, tails included, and the choice follows the pattern."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.backends.gpu.packing import MARKED_INPUTS, Packed, pack, plan, quantized
from compiler.dialects.gpu import Kernel
from compiler.sparsity.patterns import parse_pattern
from hw_targets.errors import InputError
from hw_targets.gpu import GpuTarget
from hw_targets.load import load_any_target

SHAPES = [(128, 256), (100, 75), (312, 1200), (3, 33)]
SPECS = ["hp:0.75", "nm:2:4", "nm:2:8", "block:4x1:0.75", "unstructured:0.9"]


def target(name: str = "gpu-sm80") -> GpuTarget:
    found = load_any_target(name)
    assert isinstance(found, GpuTarget)
    return found


def matrix(spec: str, outs: int, ins: int) -> NDArray[np.float32]:
    w = np.random.default_rng(7).standard_normal((outs, ins)).astype(np.float32)
    return np.asarray(parse_pattern(spec, "gpu").project(w), np.float32)


def unpacked(packed: Packed, outs: int, ins: int) -> NDArray[Any]:
    """The matrix that the kernels multiply, written from the comments in kernels/linear.py alone."""
    w = np.zeros((len(packed.bounds) * packed.rows, ins + 1), packed.values.dtype)
    for tile, (first, end) in enumerate(packed.bounds):
        for chunk in range(first, end):
            for row in range(packed.rows):
                for step in range(packed.inputs):
                    column = (chunk - first) * packed.inputs + step
                    value = None
                    if packed.kernel in (Kernel.MARKS, Kernel.SPARSE):
                        word = int(packed.marks[chunk * packed.rows + row]) & 0xFFFFFFFF
                        if word >> step & 1:
                            below = bin(word & ((1 << step) - 1)).count("1")
                            value = packed.values[packed.begins[chunk * packed.rows + row] + below]
                    else:
                        value = packed.values[(chunk * packed.rows + row) * packed.inputs + step]
                        if packed.kernel is Kernel.GATHER:
                            column = packed.kept[chunk * packed.inputs + step]
                    if value is not None and column < ins:
                        w[tile * packed.rows + row, column] += value
                    elif value is not None:
                        assert value == 0, "padding has a value"
    return w[:outs, :ins]


@pytest.mark.parametrize("kernel", list(Kernel))
@pytest.mark.parametrize("spec", SPECS)
def test_what_is_packed_is_the_matrix(spec: str, kernel: Kernel) -> None:
    for (outs, ins), rows, inputs in zip(((40, 75), (3, 33)), (32, 16), (64, 32), strict=True):
        w = matrix(spec, outs, ins)
        inputs = MARKED_INPUTS if kernel in (Kernel.MARKS, Kernel.SPARSE) else inputs
        packed = pack(w, kernel, rows, inputs, in_bytes=False)
        np.testing.assert_array_equal(unpacked(packed, outs, ins), w)
        codes = pack(w, kernel, rows, inputs, in_bytes=True)
        np.testing.assert_array_equal(unpacked(codes, outs, ins), quantized(w)[0])
        assert len(codes.row_scales) == len(codes.bounds) * rows


def test_a_tile_of_zeros_has_no_chunks() -> None:
    w = np.zeros((32, 64), np.float32)
    w[16:, 5] = 1
    packed = pack(w, Kernel.GATHER, 16, 32, in_bytes=False)
    assert packed.bounds.tolist() == [[0, 0], [0, 1]]
    assert packed.multiplied == 16 * 32


@pytest.mark.parametrize("name", ["gpu-sm80", "gpu-sm90"])
def test_the_plan_follows_the_pattern(name: str) -> None:
    """Full size: shared inputs are skipped; where rows share nothing, bytes are saved only while bytes bind."""
    machine = target(name)
    kernels: dict[tuple[str, int], Kernel] = {}
    for spec in ("dense", "hp:0.75", "nm:2:4", "unstructured:0.9"):
        used = np.ones((768, 768), np.bool_) if spec == "dense" else matrix(spec, 768, 768) != 0
        for columns in (8, 4096):
            chosen = plan(used, columns, machine, "fp16", is_2_4=spec == "nm:2:4")
            kernels[spec, columns] = chosen.kernel
            shared = chosen.stages * chosen.inputs * (chosen.rows + chosen.tokens) * 2
            assert shared <= machine.block_shared_bytes
    assert kernels["dense", 8] is kernels["dense", 4096] is Kernel.DENSE
    assert kernels["hp:0.75", 8] is kernels["hp:0.75", 4096] is Kernel.GATHER
    # Bias and activation are a pass of their own behind torch's product: on the faster machine they cost more than it saves.
    assert kernels["nm:2:4", 4096] is (Kernel.SPARSE if name == "gpu-sm80" else Kernel.DENSE)
    assert kernels["unstructured:0.9", 4096] is Kernel.DENSE


def test_hp_of_a_gpu_shares_inputs_among_64_rows() -> None:
    assert parse_pattern("hp:0.75", "gpu").spec() == "hp:rows=64,window=in,keep=1/4,fine=dense"


def test_a_snapshot_comes_back() -> None:
    machine = target("gpu-sm90")
    assert GpuTarget.from_snapshot(machine.snapshot()) == machine
    assert machine.peak("bf16") == machine.peak("fp16") == 989.5e12
    with pytest.raises(InputError, match="HPCC1322"):
        GpuTarget.from_snapshot({**machine.snapshot(), "extra": 1})
