"""Every shipped board with every kind of pattern: the bits of the integer reference, weights in parts where they must."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.workloads import l3_model
from hw_targets.catalogue import list_targets, target_files
from runtime.program import Program
from tests.e2e.harness import hpcc, read_json
from tests.graphs import Encoder, write

BOARDS = [name for name, kind, _ in list_targets() if kind == "fpga"]
SPECS = ["dense", "nm:2:4", "hp:0.75", "block:4x1:0.75", "unstructured:0.75"]
UNBALANCED = ["block:4x1:0.75", "unstructured:0.75"]
MODEL = Encoder(hidden=96, heads=4, intermediate=208, layers=1, head="pooler")


def tiny_board(folder: Path) -> Path:
    """A PYNQ-Z2 whose weight memory holds a part of each of MODEL's matrices, whose activations lie in DRAM."""
    text = target_files()["fpga-pynq-z2"].read_text(encoding="utf-8")
    for key, size in (("act_bytes", 24576), ("weight_bytes", 9216)):
        text = re.sub(rf"^{key} = .*$", f"{key} = {size}", text, flags=re.MULTILINE)
    board = folder / "tiny.toml"
    board.write_text(text, encoding="utf-8")
    return board


@pytest.mark.parametrize("spec", ["hp:0.75", *UNBALANCED])
def test_weights_that_do_not_fit_stream_in_parts(spec: str, tmp_path: Path) -> None:
    """Their sizes come from the data: the parts of one unstructured matrix differ, and hold all its values."""
    model = write(MODEL, tmp_path / "encoder.onnx")
    done = hpcc(model, "--target", tiny_board(tmp_path), "--sparsity", spec, "--verify-each", "-o", tmp_path / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    assert read_json(tmp_path / "out.hpcc" / "run.json")["verify"]["bit_exact"]
    name = spec.partition(":")[0]
    rows = [r for r in read_json(tmp_path / "out.hpcc" / "report.json")["layers"] if r["pattern"].startswith(name)]
    streamed = [row for row in rows if row["weights"] == "streamed"]
    assert streamed
    assert all(row["weight_bytes_loaded"] >= row["value_bytes"] + row["metadata_bytes"] // 2 for row in streamed)
    if spec in UNBALANCED:
        loads = [i for i in Program.load(tmp_path / "out.hpcc").bundle.expanded if i.name == "load.weights"]
        sparse = [i for i in loads if i.integer("format") > 0]
        assert len({i.integer("kept") for i in sparse}) > len(rows)


@pytest.mark.parametrize("board", BOARDS)
def test_every_board_computes_the_bits_of_the_reference(board: str, tmp_path: Path) -> None:
    bundle = tmp_path / "out.hpcc"
    model = write(Encoder(hidden=64, heads=2, intermediate=128, layers=1, head="pooler"), tmp_path / "m.onnx")
    done = hpcc(model, "--target", board, "--sparsity", "hp:0.75", "-q", "-o", bundle)
    assert (done.status, done.out, done.err) == (0, "", "")
    assert read_json(bundle / "run.json")["verify"]["bit_exact"]
    report = read_json(bundle / "report.json")
    assert {layer["format"] for layer in report["layers"] if layer["pattern"].startswith("hp:")} == {"hp_mark"}
    assert report["roofline"]["attained"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("spec", SPECS)
def test_a_real_model_on_every_board(board: str, spec: str, tmp_path: Path) -> None:
    bundle = tmp_path / "out.hpcc"
    done = hpcc(l3_model(), "--target", board, "--shape", "input_ids:1x128", "--sparsity", spec, "-o", bundle)
    assert (done.status, done.err) == (0, "")
    assert read_json(bundle / "run.json")["verify"]["bit_exact"]
    report = read_json(bundle / "report.json")
    assert sum(node["macs_share"] for node in report["host_ops"]) <= 0.001
    assert all(entry["used"] <= entry["usable"] for entry in report["memory"]["on_chip"].values())
