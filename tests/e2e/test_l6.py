"""all-MiniLM-L6-v2 as both torch exporters write it: bit-exact and close to ONNX Runtime on real sentences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import TARGET, hpcc, read_json
from tests.e2e.test_first_light import HOST_SHARE, RELATIVE_L2, TOKEN_COSINE, write_texts

pytestmark = pytest.mark.slow

EXPORTERS = ("torchscript", "dynamo")
SHAPES = {1: 128, 4: 37}


@pytest.mark.parametrize("batch", SHAPES)
@pytest.mark.parametrize("pattern", ["dense", "nm:2:4", "hp:0.75"])
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_l6(
    l6_export: Callable[..., Path], tokenizer_file: Path, tmp_path: Path, exporter: str, pattern: str, batch: int
) -> None:
    texts, _ = write_texts(tmp_path / "texts.txt", tokenizer_file, 3 if batch == 1 else 6)
    arguments = ["--shape", f"input_ids:{batch}x{SHAPES[batch]}", "--sparsity", pattern, "--text", texts]
    arguments += ["--tokenizer", tokenizer_file, "-o", tmp_path / "out.hpcc", "--verify-each", "-q"]
    done = hpcc(l6_export(exporter), "--target", TARGET, *arguments)
    assert (done.status, done.err) == (0, "")
    run, report = (read_json(tmp_path / "out.hpcc" / file) for file in ("run.json", "report.json"))
    assert run["verify"]["bit_exact"] is True
    assert len(run["verify"]["outputs"]) == 2
    for output in run["verify"]["outputs"]:
        assert output["passed"] is True
        assert output["relative_l2"] <= RELATIVE_L2
        assert output["min_token_cosine"] >= TOKEN_COSINE
    assert sum(op["macs_share"] for op in report["host_ops"]) <= HOST_SHARE
    assert sum(layer["cycles"] for layer in report["layers"]) == report["cycles"]
    linears = [layer for layer in report["layers"] if layer["op"] == "linear" and layer["name"].startswith("layer.")]
    assert len(linears) == 36
    kept = {"dense": 1.0, "nm:2:4": 0.5, "hp:0.75": 0.25}[pattern]
    assert all(layer["density"] == pytest.approx(kept) for layer in linears)
