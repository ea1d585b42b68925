"""Small random models of the transformers library, as both torch exporters write them (tests/export_families.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import TARGET, hpcc, read_json

pytestmark = pytest.mark.slow

TEXT = ["bert", "bert-cls", "roberta", "roberta-cls", "distilbert", "distilbert-cls"]
TEXT += ["albert", "albert-cls", "electra", "electra-cls"]
IMAGE = ["vit", "vit-cls", "deit-cls", "dinov2", "dinov2-cls", "clip-vision"]
DECODERS = ["gpt2", "llama", "llama-tied", "mistral", "qwen2", "qwen3", "gpt-neox", "opt", "phi", "phi3", "gemma"]
MORE_TEXT = ["xlm-roberta", "camembert", "ernie", "mobilebert", "modernbert", "clip-text", "siglip-text"]
SEQUENCES = ["whisper-encoder", "bart", "mbart", "pegasus", "marian", "ast", "wav2vec2", "hubert"]
MORE_TEXT += ["data2vec", "layoutlm", "esm"]
MORE_DECODERS = ["falcon", "gptj", "stablelm", "olmo", "starcoder2", "gemma3", "olmo2", "granite", "smollm3"]
MORE_DECODERS += ["gpt-bigcode"]
TORCHSCRIPT = ["t5-encoder", "t5", "flan-t5", "beit"]
"""Families that the dynamo exporter refuses."""
DYNAMO = ["llama-ids", "cohere", "falcon-alibi", "dinov2-registers", "whisper"]
"""Families that the TorchScript exporter refuses, or writes so that ONNX Runtime refuses them."""
EAGER = ["squeezebert", "swin", "bloom", "rembert", "xlm", "gpt-neo", "mpt", "blip-vision"]
EAGER += ["mpnet", "megatron-bert", "roformer", "xglm"]
"""Families that know no other attention; so do those with a share on the host."""
HOSTED = {"convbert": 0.03, "deberta": 0.1, "gemma2": 0.03, "segformer": 0.035}
"""Largest share of the host: depthwise and generated kernels, disentangled scores, capped scores, depthwise kernels."""

BOTH = ("ts17", "dynamo18")
EXPORTS: list[tuple[list[str], dict[str, tuple[str, ...]]]] = [
    ([*TEXT, *IMAGE], {"sdpa": ("ts17", "ts14", "dynamo18"), "eager": ("ts17", "ts11", "dynamo18")}),
    (DECODERS, {"sdpa": (*BOTH, "dynamo23"), "eager": BOTH}),
    ([*MORE_TEXT, *SEQUENCES, *MORE_DECODERS, "siglip-vision", "vit-msn"], {"sdpa": BOTH}),
    (TORCHSCRIPT, {"sdpa": ("ts17",)}),
    (DYNAMO, {"sdpa": ("dynamo18",)}),
    ([*EAGER, *HOSTED], {"eager": BOTH}),
]
"""Which families are exported with which attention and how."""


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with FAMILY.EXPORTER.onnx below each attention implementation, or $HPCC_FAMILY_EXPORTS."""
    if made := os.environ.get("HPCC_FAMILY_EXPORTS"):
        return Path(made)
    python = os.environ.get("HPCC_TORCH_PYTHON", sys.executable)
    probe = subprocess.run([python, "-c", "import torch, transformers, onnxscript"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("torch and transformers are not installed (pip install hpcc[train], or set HPCC_TORCH_PYTHON)")
    folder = tmp_path_factory.mktemp("families")
    script = Path(__file__).parents[1] / "export_families.py"
    for families, exports in EXPORTS:
        for attention, exporters in exports.items():
            command = [python, script, folder / attention, "--attention", attention, "--families", *families]
            subprocess.run([*map(str, command), "--exporters", *exporters], check=True, capture_output=True)
    return folder


CASES = [
    pytest.param(family, attention, exporter, id=f"{family}-{attention}-{exporter}")
    for families, exports in EXPORTS
    for family in families
    for attention, exporters in exports.items()
    for exporter in exporters
]


@pytest.mark.parametrize(("family", "attention", "exporter"), CASES)
def test_a_family_runs_on_the_accelerator(family: str, attention: str, exporter: str, exports: Path, tmp_path: Path) -> None:
    """At most 0.5 % of the MACs on the host, or what HOSTED says, the simulator's bits, and ONNX Runtime's results."""
    model = exports / attention / f"{family}.{exporter}.onnx"
    assert model.exists(), "the exporter refuses this family"
    shapes = model.with_suffix(".shape").read_text(encoding="utf-8").split()
    check = json.loads(hpcc(model, "--target", TARGET, "--check", "--json", *shapes).out)
    assert check["host_macs"] <= HOSTED.get(family, 0.005) * (check["device_macs"] + check["host_macs"])
    done = hpcc(model, "--target", TARGET, "-q", "-o", tmp_path / "out.hpcc", *shapes)
    assert (done.status, done.err) == (0, "")
    verify = read_json(tmp_path / "out.hpcc" / "run.json")["verify"]
    assert verify["bit_exact"]
    assert all(output["passed"] and output["relative_l2"] <= 0.1 for output in verify["outputs"])
