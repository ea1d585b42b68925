"""GPU bundles: the text of the module, its ledger, and the whole command in Triton's interpreter. No test needs a GPU.

test_gpu_values.py has what kernels compute.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.decoder import Decoder
from benchmarks.decoder import write as write_decoder
from hpcc import load, simulate
from hw_targets.errors import UsageError
from runtime.cli import main_objdump, main_run
from runtime.gpu.program import GpuProgram
from runtime.inference_session import InferenceSession
from tests.e2e.harness import ROOT, call, digests, hpcc, read_json
from tests.graphs import Encoder, write

SMALL = Encoder(hidden=42, heads=3, intermediate=150, layers=1, vocabulary=50, positions=80, head="pooler")
"""Heads of 14 features, and no size that is a multiple of 4: every tile has a tail."""

EVEN = replace(SMALL, hidden=64, heads=2, intermediate=128)
SHAPE = ("--shape", "input_ids:2x9", "--shape", "attention_mask:2x9", "--shape", "token_type_ids:2x9")

Models = Callable[..., Path]

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or importlib.util.find_spec("torch") is None,
    reason="triton and torch are not installed (pip install 'hpcc[gpu]')",
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    model = write(SMALL, folder / "model.onnx", 2, 9)
    done = hpcc(model, "--target", "gpu-sm80", "--sparsity", "hp:0.75", "--emit", "program", "-o", folder / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    assert "nothing was run or verified" in done.out
    return folder / "out.hpcc"


# ---- without triton -------------------------------------------------------------------------------------------------


def test_the_module_stands_alone(bundle: Path) -> None:
    """It reads as Python, imports nothing of hpcc, and has one function for each step, named with its ONNX node."""
    text = (bundle / "model.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"os", "sys", "pathlib", "numpy", "torch", "torch.sparse", "triton", "triton.language"}
    steps = [step["name"] for step in read_json(bundle / "manifest.json")["steps"]]
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("step_")]
    assert len(functions) == len(steps)
    assert "layer.0.ffn.down: 42 x 150, hp:rows=64,window=in,keep=1/4,fine=dense" in text
    assert "product" not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_nothing_is_claimed_without_a_gpu(bundle: Path) -> None:
    run, report = read_json(bundle / "run.json"), read_json(bundle / "report.json")
    assert {entry["source"] for entry in run["latency"].values()} == {"not run"}
    assert (run["device"], run["layers"], run["verify"]) == ("", [], None)
    roofline = report["roofline"]
    assert roofline["source"] == "estimated"
    assert roofline["bound_ms"] >= max(roofline["products_ms"], roofline["memory_ms"])
    assert roofline["bound_ms"] == pytest.approx(sum(layer["bound_ms"] for layer in report["layers"]))
    assert "GPU, not measured" in (bundle / "report.html").read_text(encoding="utf-8")


def test_bytes_and_products_are_those_of_the_arrays(bundle: Path) -> None:
    report = read_json(bundle / "report.json")
    assert report["memory"]["image_bytes"] == (bundle / "weights.bin").stat().st_size
    packed = sum(layer["value_bytes"] + layer["index_bytes"] for layer in report["layers"])
    assert report["memory"]["weights_packed_bytes"] == packed
    down = next(layer for layer in report["layers"] if layer["name"] == "layer.0.ffn.down")
    assert down["macs_dense"] == 2 * 9 * 42 * 150
    assert down["macs_executed"] == round(down["density"] * down["macs_dense"])


def test_the_same_command_writes_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    model = write(SMALL, tmp_path / "model.onnx", 2, 9)
    again = tmp_path / "out.hpcc"
    done = hpcc(model, "--target", "gpu-sm80", "--sparsity", "hp:0.75", "--emit", "program", "-q", "-o", again)
    assert done.status == 0
    told = [{k: v for k, v in digests(folder).items() if k not in ("run.json", "report.html")} for folder in (bundle, again)]
    assert told[0] == told[1]


def test_objdump_and_text(bundle: Path, tmp_path: Path) -> None:
    done = call(main_objdump, str(bundle))
    assert "compute capability 8.0" in done.out
    assert "embeddings.norm" in done.out
    model = write(SMALL, tmp_path / "model.onnx", 2, 9)
    printed = hpcc(model, "--target", "gpu-sm80", "--sparsity", "hp:0.75", "--emit", "triton")
    assert printed.out == (bundle / "model.py").read_text(encoding="utf-8")


def test_whatever_opens_bundles_opens_these(bundle: Path) -> None:
    """load and InferenceSession; what belongs to accelerators alone says so."""
    program = load(bundle)
    assert isinstance(program, GpuProgram)
    session = InferenceSession(bundle)
    assert [entry.name for entry in session.get_inputs()] == [entry.name for entry in program.manifest.model_inputs]
    assert [entry.shape for entry in session.get_inputs()] == [["batch", "sequence"]] * 3
    assert session.get_provider_options() == {"HpccExecutionProvider": {"target": "gpu-sm80"}}
    with pytest.raises(UsageError, match="GpuProgram has no cycles"):
        simulate(program)
    done = call(main_run, str(bundle), "--dump-vectors", str(bundle / "vectors"))
    assert (done.status, done.out) == (2, "")
    assert "[HPCC2608]" in done.line


def test_a_biased_attention_runs_on_the_host(tmp_path: Path) -> None:
    """Behind it the host goes on: a program of steps has one part."""
    model = write(replace(SMALL, mask="weak"), tmp_path / "model.onnx", 2, 9)
    done = hpcc(model, "--target", "gpu-sm80", "--emit", "program", "-q", "-o", tmp_path / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    manifest = read_json(tmp_path / "out.hpcc" / "manifest.json")
    assert [segment["kind"] for segment in manifest["segments"]].count("device") == 1
    assert "attention" not in {step["op"] for step in manifest["steps"]}


# ---- in the interpreter ---------------------------------------------------------------------------------------------


def interpreted(*arguments: object, folder: Path) -> dict[str, Any]:
    """run.json of a command in Triton's interpreter, in a process of its own: triton reads the variable once."""
    command = [sys.executable, "-m", "compiler.tools.hpcc", *map(str, arguments), "-q", "-o", str(folder)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = read_json(folder / "run.json")
    assert run["device"] == "Triton's interpreter on the CPU"
    assert {entry["source"] for entry in run["latency"].values()} == {"not run"}
    halved = any(layer["kernel"] == "sparse" for layer in read_json(folder / "report.json")["layers"])
    assert run["by_marks"] == ("not on a GPU" if halved else "")
    assert run["verify"]["outputs"]
    assert all(output["passed"] for output in run["verify"]["outputs"])
    return run


CASES = [
    ("fp32", "dense"),
    ("fp32", "hp:0.75"),
    ("fp32", "nm:2:8"),
    ("fp32", "block:4x1:0.75"),
    ("fp32", "unstructured:0.9"),
    ("fp16", "nm:2:4"),
    ("bf16", "hp:0.75"),
    ("int8", "hp:0.75"),
    ("int8", "nm:2:8"),
]


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "spec"), CASES)
def test_every_pattern_and_precision(precision: str, spec: str, tmp_path: Path) -> None:
    model = write(EVEN if spec == "nm:2:4" else SMALL, tmp_path / "model.onnx", 2, 9)
    options = ("--target", "gpu-sm80", "--precision", precision, "--sparsity", spec)
    interpreted(model, *options, folder=tmp_path / "out.hpcc")


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("name", ["as torch writes it", "norms of heads", "neighbours of a part"])
def test_a_decoder(name: str, tmp_path: Path) -> None:
    """Causal attention, grouped queries, rotary positions, RMS norms and gates, in fp32."""
    from tests.e2e.test_decoders import SPELLINGS

    spec: Decoder = replace(SPELLINGS[name], padding=True)
    model = write_decoder(spec, tmp_path / "decoder.onnx")
    shapes = ("--shape", "input_ids:2x10", "--shape", "attention_mask:2x10")
    interpreted(model, "--target", "gpu-sm90", "--precision", "fp32", *shapes, folder=tmp_path / "out.hpcc")


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "spec"), [("fp32", "dense"), ("fp16", "hp:0.75"), ("int8", "hp:0.75")])
def test_l3(l3_model: Path, precision: str, spec: str, tmp_path: Path) -> None:
    options = ("--target", "gpu-sm80", "--shape", "input_ids:1x8", "--precision", precision, "--sparsity", spec)
    interpreted(l3_model, *options, folder=tmp_path / "out.hpcc")


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "spec"), [("fp32", "nm:2:8"), ("fp16", "hp:0.75")])
@pytest.mark.parametrize("name", ["l6", "tinybert4", "bertbase"])
def test_larger_models(name: str, precision: str, spec: str, l6_export: Models, generated: Models, tmp_path: Path) -> None:
    """All layers, 8 tokens: a minute for L6, some for BERT-base."""
    model = l6_export() if name == "l6" else generated(name)
    options = ("--target", "gpu-sm90", "--shape", "input_ids:1x8", "--precision", precision, "--sparsity", spec)
    interpreted(model, *options, folder=tmp_path / "out.hpcc")


@needs_triton
@pytest.mark.slow
def test_the_example(bundle: Path, tmp_path: Path) -> None:
    """A bundle's module from a script that knows nothing of hpcc."""
    ids = np.arange(18).reshape(2, 9)
    np.savez(tmp_path / "in.npz", input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids))
    command = [sys.executable, str(ROOT / "examples" / "gpu" / "run_model.py"), str(bundle), str(tmp_path / "in.npz")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ": (2, 9, 42), rms " in done.stdout
    assert ": (2, 42), rms " in done.stdout
