"""Every storage format and every pattern from the command line to the result: bit-exact, wherever they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.workloads import l3_model
from compiler.sparsity.patterns import parse_pattern
from compiler.storage.formats import FORMATS
from compiler.tools.dense_twin import dense_layers
from compiler.tools.variants import prepare
from hw_targets.load import load_target
from runtime.decoding import formats as decoders
from runtime.decoding.fields import Bytes, Stored
from tests.e2e.harness import compiled, hpcc, read_json
from tests.graphs import Encoder, write

MODEL = Encoder(hidden=96, heads=4, intermediate=208, layers=1, head="pooler")
FORCED = [("dense", "nm:2:4"), ("nm", "nm:2:4"), ("hp_mark", "hp:0.75"), ("csr", "unstructured:0.75")]
FORCED += [("bitmap", "nm:2:4"), ("bitmap", "unstructured:0.75"), ("coo", "unstructured:0.9"), ("ell", "nm:2:4")]
FORCED += [("ell", "block:4x8:0.75:balanced"), ("bcsr", "block:8x8:0.75"), ("bcsr", "row:0.5"), ("cbr", "hp:0.75")]
FORCED += [("cbr", "row:0.5:tile=16x64"), ("circulant", "circulant:8"), ("bcsr", "block:8x8:0.5+nm:2:4")]
PATTERNS = ["row:0.5", "row:0.5:tile=16x64", "column:0.75", "column:0.75:tile=64x32", "block:4x8:0.75:balanced"]
PATTERNS += ["block:8x8:0.5+nm:2:4", "circulant:8", "circulant:5"]
SLOWER = ("row:0.5", "column:0.75", "circulant:8")
"""Their tiles, balance and tails differ from those of a faster one; the forced formats store them too."""
SOME_FAST = [pytest.param(spec, marks=pytest.mark.slow) if spec in SLOWER else spec for spec in PATTERNS]
FACTORED = ["low_rank:0.5", "monarch:4:0.5"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(MODEL, tmp_path_factory.mktemp("model") / "encoder.onnx")


def linears(report: Any) -> list[Any]:
    return [row for row in report["layers"] if row["op"] == "linear" and row["name"].startswith("layer.")]


@pytest.mark.parametrize(("storage", "spec"), FORCED)
def test_a_forced_format_computes_the_same(storage: str, spec: str, model: Path, tmp_path: Path) -> None:
    bundle = compiled(tmp_path, model, "--sparsity", spec, "--storage", storage, "--verify-each")
    run, report = read_json(bundle / "run.json"), read_json(bundle / "report.json")
    assert run["verify"]["bit_exact"]
    rows = linears(report)
    assert {row["format"] for row in rows} == {storage}
    for row in rows:
        assert row["candidates"][storage] == row["value_bytes"] + row["metadata_bytes"]
        assert set(row["candidates"]) >= {"dense", storage}


def test_every_format_is_forced_once() -> None:
    assert {storage for storage, _ in FORCED} == set(FORMATS)


@pytest.mark.parametrize("spec", SOME_FAST)
def test_a_pattern_on_an_accelerator(spec: str, model: Path, tmp_path: Path) -> None:
    bundle = compiled(tmp_path, model, "--sparsity", spec, "--verify-each")
    run, report = read_json(bundle / "run.json"), read_json(bundle / "report.json")
    assert run["verify"]["bit_exact"]
    assert all(output["passed"] for output in run["verify"]["outputs"])
    simple = parse_pattern(spec).canonical()
    for row in linears(report):
        assert row["pattern"] == simple.spec()
        assert list(row["candidates"])[0] == row["format"]
        assert row["value_bytes"] + row["metadata_bytes"] < row["dense_bytes"]
        assert row["density"] == pytest.approx(1 - simple.sparsity, abs=0.02)


ON_A_CPU = ("row:0.5:tile=16x64", "block:8x8:0.5+nm:2:4", "monarch:4:0.5")
"""Rows that share inputs, rows that do not, a product; every C compiler run is seconds, and test_cpu.py has the kernels."""


@pytest.mark.parametrize(
    "spec", [s if s in ON_A_CPU else pytest.param(s, marks=pytest.mark.slow) for s in [*PATTERNS, *FACTORED]]
)
def test_a_pattern_on_a_cpu(spec: str, model: Path, tmp_path: Path) -> None:
    done = hpcc(model, "--target", "cpu-host", "--sparsity", spec, "-o", tmp_path / "out.hpcc", "--verify-each")
    assert (done.status, done.err) == (0, "")
    rows = linears(read_json(tmp_path / "out.hpcc" / "report.json"))
    assert {row["pattern"] for row in rows} == {parse_pattern(spec).canonical().spec()}


def test_bytes_if_dense_are_those_of_the_whole_matrix(model: Path, tmp_path: Path) -> None:
    """On every kind of machine, layer by layer: the first factor stands for nothing, the second for their product."""
    for target, bytes_each in (("cpu-host", 4), ("gpu-sm80", 2)):
        done = hpcc(model, "--target", target, "--sparsity", "low_rank:0.5", "-o", tmp_path / target)
        assert done.status == 0
        report = read_json(tmp_path / target / "report.json")
        bytes_of = {row["name"]: row["dense_bytes"] for row in linears(report)}
        assert bytes_of["layer.0.ffn.up"] == bytes_each * 96 * 208
        assert {size for name, size in bytes_of.items() if name.endswith(".basis")} == {0}
        assert report["memory"]["weights_dense_bytes"] == bytes_each * (5 * 96**2 + 2 * 96 * 208)


@pytest.mark.parametrize("spec", FACTORED)
def test_a_product_of_two_matrices_is_two_linears(spec: str, model: Path, tmp_path: Path) -> None:
    bundle = compiled(tmp_path, model, "--sparsity", spec, "--verify-each")
    run, report = read_json(bundle / "run.json"), read_json(bundle / "report.json")
    assert run["verify"]["bit_exact"]
    assert all(output["passed"] for output in run["verify"]["outputs"])
    rows, pattern = {row["name"]: row for row in linears(report)}, parse_pattern(spec)
    assert len(rows) == 12
    for name in [name for name in rows if not name.endswith(".basis")]:
        both = rows[name], rows[f"{name}.basis"]
        outs, ins = {"up": (208, 96), "down": (96, 208)}.get(name.rpartition(".")[2], (96, 96))
        assert {row["pattern"] for row in both} == {spec}
        assert sum(row["value_bytes"] for row in both) == pattern.free(outs, ins)
    assert sum(row["cycles_if_dense"] or 0 for row in report["layers"]) == report["cycles_if_dense"]
    memory, whole = report["memory"], 5 * 96**2 + 2 * 96 * 208
    assert memory["weights_stored_bytes"] < memory["weights_dense_bytes"] == whole


def test_the_dense_twin_of_a_product_is_the_whole_matrix(model: Path) -> None:
    """Two dense factors of the same shapes would be no yardstick: the twin is that of the model as it came."""
    target = load_target("fpga-u280")
    dense, low = (dense_layers(prepare(model, None, spec).encoded(target), target) for spec in (None, "low_rank:0.75"))
    assert dense is not None
    assert dense == low


def test_a_wrong_decoder_is_found(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of one value in the layout that LOAD writes."""

    def wrong(s: Stored) -> Bytes:
        layout = decoders.decode_coo(s).copy()
        layout[-2 * s.kept] ^= 1
        return layout

    monkeypatch.setattr(decoders, "DECODERS", {**decoders.DECODERS, "coo": wrong})
    monkeypatch.setattr("runtime.decoders.DECODERS", decoders.DECODERS)
    arguments = ("--sparsity", "unstructured:0.9", "--storage", "coo", "-o", tmp_path / "out.hpcc")
    assert hpcc(model, "--target", "fpga-u280", *arguments).status == 4


def test_a_format_that_the_target_does_not_list(model: Path, tmp_path: Path) -> None:
    done = hpcc(model, "--target", "fpga-kv260", "--storage", "coo", "-o", tmp_path / "out.hpcc")
    assert done.status == 2
    assert "the target has no storage format 'coo'" in done.line
    done = hpcc(model, "--target", "cpu-host", "--storage", "coo", "-o", tmp_path / "out.hpcc")
    assert done.status == 2
    assert "reads no storage formats" in done.line


EVERYWHERE = [*PATTERNS, *FACTORED, "nm:2:4", "hp:0.75", "block:32x32:0.75", "unstructured:0.75"]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["fpga-u280", "fpga-zcu104", "fpga-pynq-z2", "cpu-host"])
@pytest.mark.parametrize("spec", EVERYWHERE)
def test_every_pattern_on_every_kind_of_target(spec: str, target: str, tmp_path: Path) -> None:
    shape = ("--shape", "input_ids:1x128")
    done = hpcc(l3_model(), "--target", target, *shape, "--sparsity", spec, "-o", tmp_path / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    run = read_json(tmp_path / "out.hpcc" / "run.json")
    assert target == "cpu-host" or run["verify"]["bit_exact"]
    assert all(output["passed"] for output in run["verify"]["outputs"])
