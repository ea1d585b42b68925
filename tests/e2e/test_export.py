"""hpcc-export with torch: folders of small random models, and the real one; each file then compiles and verifies."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import workloads
from compiler.tools import hpcc_prune
from runtime.cli import main_objdump, main_run
from tests.e2e.harness import ROOT, SENTENCES, TARGET, call, hpcc
from tests.page_session import write_tokenizer

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


def test_a_classifier_from_its_folder_to_the_comparison(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way of the tutorial: export, check, compile with texts, prune with texts, compile, compare, run."""
    monkeypatch.chdir(tmp_path)
    done = torch_run(EXPORT, folders / "bert", "-o", tmp_path / "model.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    write_tokenizer(tmp_path / "tokenizer.json")
    aimed = ("--target", TARGET, "--shape", "input_ids:1x32")
    texts = ("--text", SENTENCES, "--tokenizer", "tokenizer.json", "--max-length", "32")
    checked = hpcc("model.onnx", *aimed, "--check")
    assert (checked.status, checked.err) == (0, "")
    for model, bundle in (("model.onnx", "dense.hpcc"), ("pruned.onnx", "pruned.hpcc")):
        done = hpcc(model, *aimed, *texts, "-o", bundle)
        assert (done.status, done.err) == (0, "")
        assert "verify     logits: " in done.out
        if model == "model.onnx":
            pruned = call(hpcc_prune.main, model, "--pattern", "nm:2:4", *texts, "-o", "pruned.onnx")
            assert (pruned.status, pruned.err) == (0, "")
            assert "second-order" in pruned.out
    difference = call(main_objdump, "--diff", "dense.hpcc", "pruned.hpcc")
    assert (difference.status, difference.err) == (0, "")
    assert difference.out.count("dense -> nm  dense -> nm") == 12, "six matrices of two layers"
    assert call(main_run, "pruned.hpcc", "-o", "outputs.npz").status == 0


def refused(done: subprocess.CompletedProcess[str], code: str, folder: Path) -> None:
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"[{code}]" in done.stderr
    assert list(folder.glob("*.onnx")) == []


def test_weights_of_another_model(folders: Path, tmp_path: Path) -> None:
    """Other names, and other sizes."""
    shutil.copytree(folders / "bert", tmp_path / "other")
    shutil.copyfile(folders / "distilbert" / "model.safetensors", tmp_path / "other" / "model.safetensors")
    refused(torch_run(EXPORT, tmp_path / "other", "-o", tmp_path / "m.onnx"), "HPCC1047", tmp_path)
    config = tmp_path / "other" / "config.json"
    shutil.copyfile(folders / "bert" / "model.safetensors", tmp_path / "other" / "model.safetensors")
    config.write_text(
        config.read_text(encoding="utf-8").replace('"hidden_size": 64', '"hidden_size": 128'), encoding="utf-8"
    )
    refused(torch_run(EXPORT, tmp_path / "other", "-o", tmp_path / "m.onnx"), "HPCC1046", tmp_path)


def test_damaged_weights(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "bert", tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    refused(torch_run(EXPORT, tmp_path / "cut", "-o", tmp_path / "m.onnx"), "HPCC1046", tmp_path)


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    refused(torch_run(EXPORT, tmp_path / "t5", "-o", tmp_path / "m.onnx"), "HPCC1042", tmp_path)
