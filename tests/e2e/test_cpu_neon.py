"""AArch64 from any machine: bundles are cross-compiled by zig, statically linked, and run by qemu in user mode."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import hpcc
from compiler.backends.cpu.build import find_compiler
from hw_targets.cpu import ISAS
from runtime.cpu.manifest import CpuManifest
from runtime.steps.manifest import parse_manifest
from tests.e2e.cpu_harness import BATCH, ODD, SHAPES, TOKENS, assert_close
from tests.e2e.harness import ROOT
from tests.e2e.harness import hpcc as hpcc_command
from tests.e2e.plain_quantiser import evaluate_quantized, with_rounded_weights
from tests.graphs import feeds, write

Array = NDArray[Any]
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
HAS_ZIG = importlib.util.find_spec("ziglang") is not None
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EMULATOR is None, reason="no qemu-aarch64 here (Debian: qemu-user)"),
    pytest.mark.skipif(not HAS_ZIG, reason="no cross-compiler here (pip install 'hpcc[cc]')"),
]


class Emulated:
    """A model compiled for an instruction set of AArch64, with a program that runs it."""

    def __init__(self, model: Path, isa: str, folder: Path, *options: str) -> None:
        self.folder, self.bundle = folder, folder / "neon.hpcc"
        done = hpcc_command(model, "--target", f"cpu-{isa}", "-q", "-o", self.bundle, *options)
        assert (done.status, done.err) == (0, "")
        self.manifest = parse_manifest((self.bundle / "manifest.json").read_text(), "manifest.json", CpuManifest)
        compiler = find_compiler(ISAS[isa])
        flags = [flag for flag in compiler.flags if flag not in ("-shared", "-fPIC")]
        flags[flags.index("-target") + 1] = "aarch64-linux-musl"
        sources = [ROOT / "tests/e2e/run_raw.c", self.bundle / "model.c"]
        command = [*compiler.command, *flags, "-static", f"-I{self.bundle}", *sources, "-o", folder / "run", "-lm"]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        batch, tokens = inputs["input_ids"].shape
        np.concatenate([inputs[entry.name].ravel() for entry in self.manifest.inputs]).tofile(self.folder / "inputs")
        files = [self.bundle / "weights.bin", batch, tokens, self.folder / "inputs", self.folder / "outputs"]
        subprocess.run([str(EMULATOR), str(self.folder / "run"), *map(str, files)], check=True)
        numbers, found = np.fromfile(self.folder / "outputs", np.float32), dict[str, Array]()
        for entry in self.manifest.outputs:
            shape = (batch, tokens)[: len(entry.shape) - 1] + (entry.shape[-1],)
            part, numbers = np.split(numbers, [int(np.prod(shape))])
            found[entry.name] = part.reshape(shape)
        assert numbers.size == 0
        return found


@pytest.mark.parametrize(("pattern", "gelu"), [("dense", "op"), ("hp:0.75", "tanh"), ("unstructured:0.75", "silu")])
def test_neon_in_an_emulator(tmp_path: Path, pattern: str, gelu: Any) -> None:
    """The C computes what ONNX Runtime does."""
    encoder = dataclasses.replace(ODD, gelu=gelu)
    model = write(encoder, tmp_path / "odd.onnx", BATCH, TOKENS)
    there = Emulated(model, "neon", tmp_path, "--sparsity", pattern)
    here = hpcc.compile(model, "cpu-host", sparsity=pattern)
    for batch, tokens in ((BATCH, TOKENS), (1, 1), (2, 33)):
        inputs = feeds(encoder, batch, tokens, seed=tokens)
        inputs["attention_mask"][:, tokens // 2 + 1 :] = 0
        assert_close(there.run(inputs), here.run(inputs).outputs, inputs["attention_mask"])


@pytest.mark.parametrize("spec", ["dense", "hp:0.75", "nm:2:4"])
def test_int8_of_neon_equals_a_plain_quantiser(tmp_path: Path, spec: str) -> None:
    """The same codes in numpy, layer by layer, give the same result but for the last bits of fp32."""
    model = write(ODD, tmp_path / "odd.onnx", BATCH, TOKENS)
    there = Emulated(model, "neon-dotprod", tmp_path, "--sparsity", spec, "--precision", "int8")
    module, store = with_rounded_weights(model, SHAPES, spec, "cpu")
    worst: list[float] = []
    for batch, tokens in ((BATCH, TOKENS), (3, 60), (2, 19)):
        inputs = feeds(ODD, batch, tokens, seed=tokens)
        inputs["attention_mask"][0, 3], inputs["attention_mask"][1, 11:] = 0, 0
        padded = {name: np.pad(a, [(0, BATCH - batch), (0, TOKENS - tokens)]) for name, a in inputs.items()}
        wanted = evaluate_quantized(module, store, padded, attention=False)
        for name, value in there.run(inputs).items():
            reference = wanted[name][:batch, :tokens] if value.ndim == 3 else wanted[name][:batch]
            errors = np.abs(value - reference).reshape(batch, -1).max(axis=1) / np.sqrt(np.square(reference).mean())
            worst += errors.tolist()
    # A code may round the other way: 1/254 of a token's largest value, which its whole sample sees.
    assert max(worst) < 0.05
    assert np.median(worst) < 1e-5
