"""What tests of CPU bundles share: an encoder of odd sizes, what ONNX Runtime computes of it, and how close is close."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from compiler.backends.cpu.build import CCompiler
from compiler.tools.reference import distance
from tests.e2e.harness import ROOT
from tests.graphs import Encoder
from tests.graphs import build as build_graph

Array = NDArray[Any]
BATCH, TOKENS = 3, 75
"""Samples begin in the middle of a tile, and the last tile is narrower, on every instruction set."""

ODD = Encoder(hidden=42, heads=3, intermediate=150, layers=2, vocabulary=50, positions=80, head="pooler")
"""Heads of 14 features, and no size that is a multiple of 4."""

SHAPES = {name: (BATCH, TOKENS) for name in ("input_ids", "attention_mask", "token_type_ids")}


def reference(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What ONNX Runtime computes with the same weights in a graph of the inputs' shape."""
    content = build_graph(ODD, *inputs["input_ids"].shape).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, dict(inputs)), strict=True))


def assert_close(got: Mapping[str, Array], wanted: Mapping[str, Array], mask: Array | None) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name].shape == value.shape
        rms = float(np.sqrt(np.mean(np.square(value, dtype=np.float64))))
        found = distance(name, got[name], value, mask, atol=1e-4 * rms)
        assert found.passed, found


def quick(compiler: CCompiler) -> CCompiler:
    return CCompiler(compiler.command, compiler.version, tuple("-O1" if flag == "-O3" else flag for flag in compiler.flags))


def assert_clean(bundle: Path, compiler: CCompiler, folder: Path) -> None:
    """The example program, with warnings as errors and the sanitizers, runs random sizes and ids."""
    program = folder / "run_model"
    flags = [flag for flag in compiler.flags if flag not in ("-O3", "-shared")]
    strict = ["-Werror", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{bundle}"]
    sources = [str(ROOT / "examples" / "cpu" / "run_model.c"), str(bundle / "model.c")]
    command = [*compiler.command, *flags, *strict, *sources, "-o", str(program), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cannot find" in done.stderr and "san" in done.stderr:
        pytest.skip("the compiler has no sanitizers here")
    assert (done.returncode, done.stderr) == (0, "")
    for tokens in ([], ["60"]):
        ran = subprocess.run([program, bundle / "weights.bin", *tokens], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, "")
