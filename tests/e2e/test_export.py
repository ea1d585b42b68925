"""hpcc-export with torch: folders of small random models, and the real one; each file then compiles and verifies."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks import workloads
from tests.e2e.harness import ROOT, TARGET, hpcc

pytestmark = pytest.mark.slow

FOLDERS = """
import sys, torch, transformers as hf
torch.manual_seed(0)
text = dict(vocab_size=1000, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
image = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8)
hf.BertForSequenceClassification(hf.BertConfig(**text)).save_pretrained(sys.argv[1] + "/bert")
distil = dict(vocab_size=1000, dim=64, n_layers=2, n_heads=4, hidden_dim=128)
hf.DistilBertModel(hf.DistilBertConfig(**distil)).save_pretrained(sys.argv[1] + "/distilbert")
hf.ViTForImageClassification(hf.ViTConfig(**image)).save_pretrained(sys.argv[1] + "/vit")
gpt = dict(vocab_size=1000, n_embd=64, n_layer=2, n_head=4, n_positions=64)
hf.GPT2LMHeadModel(hf.GPT2Config(**gpt)).save_pretrained(sys.argv[1] + "/gpt2")
llama = dict(**text, num_key_value_heads=2, max_position_embeddings=64)
hf.LlamaForCausalLM(hf.LlamaConfig(**llama)).save_pretrained(sys.argv[1] + "/llama")
"""
EXPORT = "import sys; from compiler.tools.hpcc_export import main; sys.exit(main())"
SHAPES = {"vit": "pixel_values:1x3x32x32"}


def torch_run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a Python that has torch: HPCC_TORCH_PYTHON, or this one."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [workloads.torch_python(), "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    done = torch_run(FOLDERS, folder)
    if done.returncode:
        pytest.skip(f"no torch here: {done.stderr.splitlines()[-1]}")
    return folder


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["bert", "distilbert", "vit", "gpt2", "llama"])
def test_a_folder_becomes_a_file_that_compiles(folders: Path, name: str, exporter: str, tmp_path: Path) -> None:
    model = tmp_path / f"{name}.onnx"
    done = torch_run(EXPORT, folders / name, "-o", model, "--exporter", exporter)
    assert (done.returncode, done.stderr) == (0, "")
    assert "checked  largest error" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [model.name], "nothing is left over"
    compiled = hpcc(model, "--target", TARGET, "--shape", SHAPES.get(name, "input_ids:1x12"), "-o", tmp_path / "out.hpcc")
    assert (compiled.status, compiled.err) == (0, "")


def test_options_of_the_export(folders: Path, tmp_path: Path) -> None:
    done = torch_run(EXPORT, folders / "bert", "-o", tmp_path / "m.onnx", "--shape", "input_ids:1x12", "--opset", "14")
    assert done.returncode == 0, done.stderr
    assert "opset 14" in done.stdout
    assert "input_ids 1x12, attention_mask 1x12" in done.stdout


def test_weights_that_the_task_needs(folders: Path, tmp_path: Path) -> None:
    done = torch_run(EXPORT, folders / "bert", "-o", tmp_path / "m.onnx", "--task", "fill-mask")
    assert done.returncode == 1
    assert "[HPCC1047]" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_real_folder(folders: Path, tmp_path: Path) -> None:
    done = torch_run(EXPORT, workloads.l6_folder(), "-o", tmp_path / "l6.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert "bert for features, opset 17, 22,713,216 parameters" in done.stdout
