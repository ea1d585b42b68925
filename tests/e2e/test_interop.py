"""Bridges to other tools, with the foreign tool for real: IREE, upstream MLIR, ONNX Runtime's surface, torch, stock xDSL."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

import hpcc
from compiler.tools import torch_modules
from tests.e2e.harness import ROOT, TARGET
from tests.e2e.harness import hpcc as hpcc_command
from tests.e2e.test_vision import MODELS as VISION
from tests.graphs import Encoder, feeds, write
from tests.interop import iree, sparsified
from tests.vision import feeds as vision_feeds
from tests.vision import write as write_vision

Models = Callable[..., Path]

SPEC = Encoder(head="pooler")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra export")


def close(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    """Within 1e-4 of the rms, as every stage in fp32."""
    rms = np.sqrt(np.mean(np.square(wanted.astype(np.float64))))
    return found.shape == wanted.shape and bool(np.abs(found - wanted).max() <= 1e-4 * rms)


def text_like(tokens: int) -> dict[str, NDArray[np.int64]]:
    """Ids of L3 for one text, its last quarter hidden."""
    mask = np.ones((1, tokens), np.int64)
    mask[:, 3 * tokens // 4 :] = 0
    return {"input_ids": np.random.default_rng(0).integers(1000, 20000, (1, tokens)), "attention_mask": mask}


# ---- MLIR ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("form", ["linalg", "iree"])
def test_l3_by_iree_is_onnx_runtimes(form: str, l3_model: Path, tmp_path: Path) -> None:
    done = hpcc_command(l3_model, "--shape", "input_ids:1x32", "--emit", form, "-q", "-o", tmp_path / "l3.mlir")
    assert (done.status, done.err) == (0, "")
    inputs = text_like(32)
    wanted = onnxruntime.InferenceSession(str(l3_model)).run(None, inputs)
    for found, want in zip(iree(tmp_path / "l3.mlir", inputs), wanted, strict=True):
        assert close(found, want)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["l6", "tinybert4"])
def test_larger_encoders_by_iree(name: str, l6_export: Models, generated: Models, tmp_path: Path) -> None:
    model = l6_export() if name == "l6" else generated(name)
    inputs = text_like(16)
    inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
    shapes = [part for key in inputs for part in ("--shape", f"{key}:1x16")]
    done = hpcc_command(model, *shapes, "--emit", "iree", "-q", "-o", tmp_path / "m.mlir")
    assert (done.status, done.err) == (0, "")
    wanted = onnxruntime.InferenceSession(str(model)).run(None, inputs)
    for found, want in zip(iree(tmp_path / "m.mlir", inputs), wanted, strict=True):
        assert close(found, want)


@pytest.mark.slow
@pytest.mark.parametrize("name", VISION)
def test_vision_transformers_by_iree(name: str, tmp_path: Path) -> None:
    model, inputs = write_vision(VISION[name], tmp_path / "model.onnx"), vision_feeds(VISION[name])
    done = hpcc_command(model, "--emit", "linalg", "-q", "-o", tmp_path / "m.mlir")
    assert (done.status, done.err) == (0, "")
    wanted = onnxruntime.InferenceSession(str(model)).run(None, inputs)
    for found, want in zip(iree(tmp_path / "m.mlir", inputs), wanted, strict=True):
        assert close(found, want)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["unstructured:0.75", "block:4x4:0.75", "nm:2:4"])
def test_l3_sparsified_by_mlir_is_our_kernels(spec: str, l3_model: Path, tmp_path: Path) -> None:
    """The same pruned weights: MLIR's sparse loops over our buffers, and hpcc's own kernels on this CPU."""
    shape = ("--shape", "input_ids:1x8")
    file = tmp_path / "l3.mlir"
    done = hpcc_command(l3_model, *shape, "--sparsity", spec, "--emit", "sparse-tensor", "-q", "-o", file)
    assert (done.status, done.err) == (0, "")
    assert file.read_text(encoding="utf-8").count("sparse_tensor.encoding") == 18 * 2  # arguments, and where they are used
    inputs = text_like(8)
    ours = hpcc.compile(l3_model, "cpu-host", shapes={"input_ids": (1, 8)}, sparsity=spec, inputs=inputs)
    results = [(array.ndim, str(array.dtype)) for array in ours.outputs.values()]
    for found, wanted in zip(sparsified(file, inputs, results), ours.outputs.values(), strict=True):
        assert close(found, wanted)


# ---- ONNX Runtime's surface -----------------------------------------------------------------------------------------------


def asked(session: Any, inputs: dict[str, NDArray[Any]]) -> tuple[list[Any], list[NDArray[Any]]]:
    """What inference code does with a session, whoever made it."""
    taken = {entry.name: inputs[entry.name] for entry in session.get_inputs()}
    names = [entry.name for entry in session.get_outputs()]
    types = [(entry.name, entry.type) for entry in (*session.get_inputs(), *session.get_outputs())]
    return types, session.run(names[::-1], taken)


@pytest.mark.parametrize("target", ["cpu-host", TARGET])
def test_code_for_onnx_runtime_runs_unchanged(target: str, tmp_path: Path) -> None:
    model, inputs = write(SPEC, tmp_path / "model.onnx"), feeds(SPEC)
    hpcc.compile(model, target, output=tmp_path / "out.hpcc", inputs=inputs)
    types, wanted = asked(onnxruntime.InferenceSession(str(model)), inputs)
    session = hpcc.InferenceSession(tmp_path / "out.hpcc", providers=["CPUExecutionProvider"])
    assert asked(session, inputs)[0] == types
    for found, want in zip(asked(session, inputs)[1], wanted, strict=True):
        assert found.shape == want.shape
        limit = 1e-4 if target == "cpu-host" else 0.1
        assert np.linalg.norm(found - want) <= limit * np.linalg.norm(want)
    assert len(session.run(None, inputs)) == len(wanted)
    assert session.get_inputs()[0].shape == ["batch", "sequence"] if target == "cpu-host" else ["batch", 8]
    assert session.get_provider_options()["HpccExecutionProvider"]["target"].startswith(target[:4])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu-host", TARGET])
def test_l3_answers_like_a_session_of_onnx_runtime(target: str, l3_model: Path, tmp_path: Path) -> None:
    inputs = text_like(32)
    hpcc.compile(l3_model, target, shapes={"input_ids": (1, 32)}, output=tmp_path / "out.hpcc", inputs=inputs)
    wanted = onnxruntime.InferenceSession(str(l3_model)).run(None, inputs)
    limit = 1e-4 if target == "cpu-host" else 0.1
    for found, want in zip(hpcc.InferenceSession(tmp_path / "out.hpcc").run(None, inputs), wanted, strict=True):
        assert np.linalg.norm(found - want) <= limit * np.linalg.norm(want)


def test_simulate_counts_with_and_without_values(tmp_path: Path) -> None:
    model, inputs = write(SPEC, tmp_path / "model.onnx"), feeds(SPEC)
    compiled = hpcc.compile(model, TARGET, output=tmp_path / "out.hpcc", inputs=inputs)
    counted = hpcc.simulate(tmp_path / "out.hpcc")
    assert counted.cycles == compiled.report.cycles == sum(layer.total for layer in counted.layers)
    assert not counted.outputs
    ran = hpcc.simulate(hpcc.load(tmp_path / "out.hpcc"), inputs)
    assert ran.cycles == counted.cycles
    assert all(np.array_equal(ran.outputs[name], array) for name, array in compiled.outputs.items())


# ---- torch ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def module() -> Any:
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 60}
    return transformers.BertModel(transformers.BertConfig(**sizes)).eval()


def l3_module(path: Path) -> Any:
    """L3 as transformers has it. The file names its parameters, but for the matrices: those have their node's path."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    graph, prefix = onnx.load(path).graph, "model.0.auto_model."
    arrays = {entry.name: onnx.numpy_helper.to_array(entry).copy() for entry in graph.initializer}
    state = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:
            owner = node.name.removesuffix("/MatMul").rpartition("auto_model/")[2]
            state[f"{owner.replace('/', '.')}.weight"] = arrays[node.input[1]].T.copy()
    sizes = {"hidden_size": 384, "num_hidden_layers": 3, "num_attention_heads": 12, "intermediate_size": 1536}
    module = transformers.BertModel(transformers.BertConfig(**sizes), add_pooling_layer=False).eval()
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return module


def tensors() -> dict[str, Any]:
    torch = importlib.import_module("torch")
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": torch.randint(0, 60, (2, 8), generator=torch.Generator().manual_seed(1)), "attention_mask": mask}


@needs_torch
@pytest.mark.slow
def test_a_module_compiles(module: Any) -> None:
    torch, given = importlib.import_module("torch"), tensors()
    compiled = hpcc.compile(module, "cpu-host", example_inputs=given)
    with torch.no_grad():
        wanted = module(**given)
    outputs = compiled.run({name: tensor.numpy() for name, tensor in given.items()}).outputs
    assert close(next(iter(outputs.values())), wanted.last_hidden_state.numpy())


@needs_torch
@pytest.mark.slow
def test_torch_compile_runs_our_program(module: Any) -> None:
    torch, given = importlib.import_module("torch"), tensors()
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="hpcc")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compiled(**given)
        assert close(found.last_hidden_state.numpy(), module(**given).last_hidden_state.numpy())
        module.embeddings.LayerNorm.weight.mul_(2.0)  # the program follows its parameters
        assert close(compiled(**given).last_hidden_state.numpy(), module(**given).last_hidden_state.numpy())


@needs_torch
@pytest.mark.slow
def test_torch_compile_takes_sizes_that_vary(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock torch.compile makes sizes variable at the second shape that it sees; from then on each has its own program."""
    torch, given = importlib.import_module("torch"), tensors()
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="hpcc")
    monkeypatch.setattr(torch_modules, "MAX_SHAPES", 2)

    def check(tokens: int) -> None:
        part = {name: tensor[:, :tokens].contiguous() for name, tensor in given.items()}
        assert close(compiled(**part).last_hidden_state.numpy(), module(**part).last_hidden_state.numpy())

    with torch.no_grad():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for tokens in (8, 6, 7, 6):
                check(tokens)
        with pytest.warns(UserWarning, match="2 programs of other shapes"):
            check(5)


@needs_torch
@pytest.mark.slow
def test_l3_in_torch_is_onnx_runtimes(l3_model: Path) -> None:
    """The weights of the ONNX file in a module of transformers: eager, by both bridges, and in ONNX Runtime."""
    torch, module, inputs = importlib.import_module("torch"), l3_module(l3_model), text_like(32)
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    outputs = onnxruntime.InferenceSession(str(l3_model)).run(None, inputs)
    wanted = next(array for array in outputs if array.shape == (1, 32, 384))
    torch._dynamo.reset()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert close(module(**given).last_hidden_state.numpy(), wanted)
        assert close(torch.compile(module, backend="hpcc")(**given).last_hidden_state.numpy(), wanted)
    compiled = hpcc.compile(module, "cpu-host", example_inputs=given)
    assert close(next(iter(compiled.run(inputs).outputs.values())), wanted)


@needs_torch
@pytest.mark.slow
def test_torch_keeps_what_cannot_be_compiled(module: Any) -> None:
    torch, given = importlib.import_module("torch"), tensors()
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="hpcc")
    with pytest.warns(UserWarning, match="gradients are on"):
        found = compiled(**given)
    assert found.last_hidden_state.requires_grad
    assert torch.equal(found.last_hidden_state, module(**given).last_hidden_state)


# ---- stock xDSL, with the wheel alone -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stock_xdsl_opt_with_the_wheel_alone(tmp_path: Path) -> None:
    """A fresh environment, the wheel, nothing of this folder: xdsl-opt reads our dialects and runs our passes."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)], check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python, wheel = tmp_path / "env" / "bin" / "python", next(tmp_path.glob("hpcc-*.whl"))
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", str(wheel)]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip("pip cannot fetch hpcc's dependencies here")
    module = 'func.func @main(%x: tensor<2x4xf32>) -> tensor<2x4xf32> attributes {input_names = ["x"], output_names = ["y"]}'
    body = "{\n %y = hpcc_nn.unary relu %x : tensor<2x4xf32> -> tensor<2x4xf32>\n func.return %y : tensor<2x4xf32>\n}\n"
    (tmp_path / "m.mlir").write_text(f"{module} {body}", encoding="utf-8")
    command = [str(tmp_path / "env" / "bin" / "xdsl-opt"), str(tmp_path / "m.mlir"), "-p", "hpcc-fuse,hpcc-lower-linalg"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=clean)
    assert done.returncode == 0, done.stderr
    assert "linalg.generic" in done.stdout
    assert "hpcc_nn" not in done.stdout
