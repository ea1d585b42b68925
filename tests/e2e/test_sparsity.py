"""Patterns whose rows differ in work, from the command line to the last cycle; models that were pruned elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compiler.sparsity.patterns import parse_pattern
from hw_targets.isa import MatrixMode
from hw_targets.layout import MATRIX_MODES
from runtime.decoders import expand
from runtime.program import Program
from tests.e2e.harness import compiled, read_json
from tests.graphs import Encoder, write
from tests.unit.test_unstructured import plain_steps

SPECS = ["block:4x1:0.75", "unstructured:0.75", "unstructured:0.97", "nm:4:8", "nm:2:4,along=out"]
MODEL = Encoder(hidden=96, heads=4, intermediate=208, layers=1, head="pooler")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(MODEL, tmp_path_factory.mktemp("model") / "encoder.onnx")


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def linears(report: Any) -> list[Any]:
    return [row for row in report["layers"] if row["op"] == "linear" and row["name"].startswith("layer.")]


@pytest.mark.parametrize("spec", SPECS)
def test_bit_exact_and_accounted_for(spec: str, model: Path, tmp_path: Path) -> None:
    bundle = compiled(tmp_path, model, "--sparsity", spec, "--verify-each")
    run, report = read_json(bundle / "run.json"), read_json(bundle / "report.json")
    assert run["verify"]["bit_exact"]
    assert all(output["passed"] for output in run["verify"]["outputs"])
    pattern = parse_pattern(spec)
    for row in linears(report):
        assert row["pattern"] == spec
        assert list(row["candidates"])[0] == row["format"]
        assert row["candidates"][row["format"]] == row["value_bytes"] + row["metadata_bytes"]
        assert set(row["candidates"]) >= {"dense", "csr", "bitmap"}
        assert row["density"] == pytest.approx(1 - pattern.sparsity, abs=0.002)
    assert report["cycles"] == sum(row["cycles"] for row in report["layers"])


def test_unstructured_time_is_counted_from_the_weights(model: Path, tmp_path: Path) -> None:
    """Every multiplication takes what a loop over its decoded matrix says."""
    program = Program.load(compiled(tmp_path, model, "--sparsity", "unstructured:0.75"))
    array = program.target.accelerator
    loads = [i for i in program.bundle.expanded if i.name == "load.weights"]
    seen = 0
    for instruction, event in zip(program.bundle.expanded, program.timing().events, strict=True):
        if instruction.name != "matrix.multiply":
            continue
        if MATRIX_MODES[instruction.integer("mode")] is not MatrixMode.UNSTRUCTURED:
            continue
        place = instruction.operands["w"].base
        load = [i for i in loads if i.index < instruction.index and i.operands["dst"].base == place][-1]
        outs, ins, kept = (load.integer(name) for name in ("outs", "ins", "kept"))
        layout = program._decoded(load)  # pyright: ignore[reportPrivateUsage]
        codes = expand(layout, 3, outs, ins, 1, 1, 0, 0, 0, kept)
        codes = np.where(codes == 0, 0, 1).astype(np.int8)
        assert np.count_nonzero(codes) <= kept
        if np.count_nonzero(codes) == kept:  # the loop does not see slots that hold 0
            passes = -(-instruction.integer("rows") // array.tokens)
            assert event.end - event.start == passes * plain_steps(codes, array)
            seen += 1
    assert seen


def pruned_elsewhere(model: Path, out: Path, spec: str, metadata: str | None = None) -> Path:
    """The file with its blocks' linears pruned by magnitude, as another tool would save it."""
    document, pattern = onnx.load(model), parse_pattern(spec)
    for tensor in document.graph.initializer:
        if len(tensor.dims) == 2 and min(tensor.dims) >= 96 and "pooler" not in tensor.name:
            w = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(pattern.project(w.T).T), tensor.name))
    if metadata is not None:
        entry = document.metadata_props.add()
        entry.key, entry.value = "hpcc.sparsity", metadata
    onnx.save(document, out)
    return out


@pytest.mark.parametrize("spec", ["nm:2:4", "block:4x1:0.75", "unstructured:0.75"])
def test_auto_finds_what_another_tool_pruned(spec: str, model: Path, tmp_path: Path) -> None:
    """The same program and the same weights as pruning here, without changing one."""
    here = compiled(folder(tmp_path / "here"), model, "--sparsity", spec)
    other = compiled(folder(tmp_path / "there"), pruned_elsewhere(model, tmp_path / "pruned.onnx", spec))
    report, run = read_json(other / "report.json"), read_json(other / "run.json")
    assert {row["pattern"] for row in linears(report)} == {spec}
    assert report["pruning"]["pattern"] == "auto"
    assert report["pruning"]["words"].startswith(f"auto: found {parse_pattern(spec).describe()} in 6 matrices")
    assert run["verify"]["bit_exact"]
    assert run["damage"] is None, "no weight was changed"
    for name in ("program.bin", "weights.bin"):
        assert (here / name).read_bytes() == (other / name).read_bytes()


def test_auto_believes_the_file_where_the_weights_agree(model: Path, tmp_path: Path) -> None:
    file = pruned_elsewhere(model, tmp_path / "named.onnx", "nm:2:4", "nm:4:8")
    report = read_json(compiled(tmp_path, file) / "report.json")
    assert {row["pattern"] for row in linears(report)} == {"nm:4:8"}


def test_auto_leaves_a_dense_model_alone(model: Path, tmp_path: Path) -> None:
    auto = compiled(folder(tmp_path / "auto"), model)
    dense = compiled(folder(tmp_path / "dense"), model, "--sparsity", "dense")
    report = read_json(auto / "report.json")
    assert report["pruning"]["words"] == "auto: no matrix has 10% zeros, so all stay dense"
    assert {row["reason"] for row in linears(report)} == {"dense"}
    for name in ("program.bin", "weights.bin"):
        assert (auto / name).read_bytes() == (dense / name).read_bytes()
