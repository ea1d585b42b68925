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
FAMILIES = [*TEXT, *IMAGE]
EXPORTS = {"sdpa": ("ts17", "ts14", "dynamo18"), "eager": ("ts17", "ts11", "dynamo18")}
DECODER_EXPORTS = {"sdpa": ("ts17", "dynamo18", "dynamo23"), "eager": ("ts17", "dynamo18")}


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
    for families, exports in ((FAMILIES, EXPORTS), (DECODERS, DECODER_EXPORTS)):
        for attention, exporters in exports.items():
            command = [python, script, folder / attention, "--attention", attention, "--families", *families]
            subprocess.run([*map(str, command), "--exporters", *exporters], check=True, capture_output=True)
    return folder


CASES = [
    pytest.param(family, attention, exporter, id=f"{family}-{attention}-{exporter}")
    for families, exports in ((FAMILIES, EXPORTS), (DECODERS, DECODER_EXPORTS))
    for family in families
    for attention, exporters in exports.items()
    for exporter in exporters
]


@pytest.mark.parametrize(("family", "attention", "exporter"), CASES)
def test_a_family_runs_on_the_accelerator(family: str, attention: str, exporter: str, exports: Path, tmp_path: Path) -> None:
    """At most 0.5 % of the MACs on the host, the simulator's bits, and ONNX Runtime's results."""
    model = exports / attention / f"{family}.{exporter}.onnx"
    assert model.exists(), "the exporter refuses this family"
    shapes = model.with_suffix(".shape").read_text(encoding="utf-8").split()
    check = json.loads(hpcc(model, "--target", TARGET, "--check", "--json", *shapes).out)
    assert check["host_macs"] <= 0.005 * (check["device_macs"] + check["host_macs"])
    done = hpcc(model, "--target", TARGET, "-q", "-o", tmp_path / "out.hpcc", *shapes)
    assert (done.status, done.err) == (0, "")
    verify = read_json(tmp_path / "out.hpcc" / "run.json")["verify"]
    assert verify["bit_exact"]
    assert all(output["passed"] and output["relative_l2"] <= 0.1 for output in verify["outputs"])
