"""One model in every opset and in the files that tools around ONNX write: nothing with products is left to the host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import version_converter

from tests.e2e.harness import TARGET, hpcc, read_json
from tests.graphs import Encoder, build, feeds, write
from tests.old_opsets import downgrade, with_probabilities

pytestmark = pytest.mark.slow

NEWEST = onnx.defs.onnx_opset_version()
CONVERTED = [version for version in (17, 18, 20, 21, 22, 23, 24, 25, 26, 27, NEWEST) if version <= NEWEST]
SHAPES = {
    "odd heads": (Encoder(hidden=60, heads=5, intermediate=100), 1, 11),
    "one head": (Encoder(hidden=32, heads=1), 1, 8),
    "three samples": (Encoder(head="mean"), 3, 7),
    "two words": (Encoder(vocabulary=2, head="classifier"), 1, 8),
    "one token": (Encoder(positions=1), 1, 1),
    "512 tokens": (Encoder(positions=512), 1, 512),
    "relative, in two parts": (Encoder(mask="relative", gelu="softplus", linear="conv"), 2, 9),
}


def compiles(path: Path, folder: Path) -> None:
    """No product on the host, the simulator's bits, ONNX Runtime's results."""
    done = hpcc(path, "--target", TARGET, "-q", "-o", folder / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    report, run = read_json(folder / "out.hpcc" / "report.json"), read_json(folder / "out.hpcc" / "run.json")
    assert sum(entry["macs_share"] for entry in report["host_ops"]) == 0
    assert run["verify"]["bit_exact"]
    assert all(output["passed"] for output in run["verify"]["outputs"])


@pytest.mark.parametrize("opset", sorted(set(CONVERTED)))
def test_an_opset(opset: int, tmp_path: Path) -> None:
    write(Encoder(head="classifier"), tmp_path / "source.onnx", 1, 8)
    model = version_converter.convert_version(onnx.load(str(tmp_path / "source.onnx")), opset)
    assert model.opset_import[0].version == opset
    onnx.save(model, str(tmp_path / "m.onnx"))
    compiles(tmp_path / "m.onnx", tmp_path)


@pytest.mark.parametrize(("projections", "head"), [("separate", "classifier"), ("split", "mean")])
@pytest.mark.parametrize("opset", [11, 12, 13, 14, 15, 16])
def test_an_old_opset(opset: int, projections: str, head: str, tmp_path: Path) -> None:
    """Operators whose signature changed: axes, parts, the axis of a softmax. By ONNX Runtime the file means the same."""
    spec = Encoder(layer_norm="decomposed", projections=projections, mask="where", head=head)  # pyright: ignore
    new = with_probabilities(build(spec, 2, 8))
    old = downgrade(new, opset)
    onnx.save(old, tmp_path / "m.onnx")
    wanted, found = (
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds(spec))
        for model in (new, old)
    )
    for before, after in zip(wanted, found, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-5)
    compiles(tmp_path / "m.onnx", tmp_path)


@pytest.mark.parametrize("opset", [11, 12])
def test_a_softmax_over_flattened_axes(opset: int, tmp_path: Path) -> None:
    """Behind [2, 8, 32] without an axis: over 256 entries at once, which the host does."""
    old = downgrade(with_probabilities(build(Encoder(layer_norm="decomposed"), 2, 8)), opset)
    onnx.save(old, tmp_path / "m.onnx")
    compiles(tmp_path / "m.onnx", tmp_path)


@pytest.mark.parametrize("name", ["basic", "extended", "transformers"])
def test_what_onnxruntime_made_of_an_old_opset(name: str, tmp_path: Path) -> None:
    old = downgrade(build(Encoder(layers=2, layer_norm="decomposed", head="classifier"), 1, 8), 12)
    onnx.save(old, tmp_path / "source.onnx")
    OPTIMISED[name](tmp_path / "source.onnx", tmp_path / "m.onnx")
    compiles(tmp_path / "m.onnx", tmp_path)


def session(level: ort.GraphOptimizationLevel) -> Callable[[Path, Path], None]:
    def save(source: Path, path: Path) -> None:
        options = ort.SessionOptions()
        options.graph_optimization_level, options.optimized_model_filepath = level, str(path)
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])

    return save


def transformers(source: Path, path: Path) -> None:
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.onnx_model_bert import BertOnnxModel

    model = BertOnnxModel(onnx.load(str(source)), num_heads=4, hidden_size=32)
    model.optimize(FusionOptions("bert"))
    model.save_model_to_file(str(path))


OPTIMISED = {
    "basic": session(ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
    "extended": session(ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
    "transformers": transformers,
}


@pytest.mark.parametrize("name", OPTIMISED)
def test_what_onnxruntime_optimised(name: str, tmp_path: Path) -> None:
    write(Encoder(layers=2, head="classifier"), tmp_path / "source.onnx", 1, 8)
    OPTIMISED[name](tmp_path / "source.onnx", tmp_path / "m.onnx")
    domains = {node.domain for node in onnx.load(str(tmp_path / "m.onnx")).graph.node}
    assert ("com.microsoft" in domains) == (name != "basic")
    compiles(tmp_path / "m.onnx", tmp_path)


@pytest.mark.parametrize("name", SHAPES)
def test_an_unusual_size(name: str, tmp_path: Path) -> None:
    spec, batch, tokens = SHAPES[name]
    write(spec, tmp_path / "m.onnx", batch, tokens)
    compiles(tmp_path / "m.onnx", tmp_path)


@pytest.mark.parametrize("padding", ["left", "right", "all of one sample"])
def test_padded_ids(padding: str, tmp_path: Path) -> None:
    write(Encoder(head="mean"), tmp_path / "m.onnx", 2, 8)
    mask = np.ones((2, 8), np.int64)
    mask[0, slice(None, 5) if padding == "left" else slice(3, None) if padding == "right" else slice(None)] = 0
    ids = np.where(mask, np.random.default_rng(0).integers(1, 50, (2, 8)), 0)
    np.savez(tmp_path / "in.npz", input_ids=ids, attention_mask=mask, token_type_ids=0 * ids)
    command = (tmp_path / "m.onnx", "--target", TARGET, "-q", "--inputs", tmp_path / "in.npz", "-o", tmp_path / "out.hpcc")
    done = hpcc(*command)
    assert (done.status, done.err) == (0, "")
    assert read_json(tmp_path / "out.hpcc" / "run.json")["verify"]["bit_exact"]
