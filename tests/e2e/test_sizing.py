"""An array of its own for a pattern: every way to a program finds the same one, and it is faster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compiler.backends.fpga.machine import ATTRIBUTE
from compiler.tools.variants import prepare
from hw_targets.load import load_target
from runtime.program import Program
from tests.e2e.harness import hpcc
from tests.graphs import Encoder, write

BOARD = "fpga-u280"
SMALL = Encoder(hidden=128, heads=2, intermediate=256, layers=1, positions=32)
BASE_LAYER = Encoder(hidden=768, heads=12, intermediate=3072, layers=1, positions=128)
SHAPE = ("--shape", "input_ids:1x32")


def test_stages_resume_on_the_array_that_was_chosen(tmp_path: Path) -> None:
    """`hpcc-tile` notes the choice, so that `--from tile` schedules for it; the bundle says it and the ledger closes."""
    model = write(SMALL, tmp_path / "small.onnx", 1, 32)
    stages = tmp_path / "stages"
    common = ("--target", BOARD, "--timing-only", "-q")
    first = hpcc(
        str(model), *common, *SHAPE, "--sparsity", "hp:0.9", "--dump-stages", str(stages), "-o", str(tmp_path / "a")
    )
    assert first.status == 0, first.err
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    target = Program.load(tmp_path / "a").target
    assert target.workload is not None
    assert target == load_target(BOARD, target.workload)
    assert report["target"]["sized_for"] == target.workload.pattern
    assert sum(layer["cycles"] for layer in report["layers"]) == report["cycles"]
    for stage in ("4.encode", "5.tile"):
        output = tmp_path / stage
        again = hpcc(str(stages / f"{stage}.mlir"), "--from", stage[2:], *common, "-o", str(output))
        assert again.status == 0, again.err
        assert (output / "program.bin").read_bytes() == (tmp_path / "a" / "program.bin").read_bytes()
        assert Program.load(output).target == target
    text = (stages / "5.tile.mlir").read_text()
    assert ATTRIBUTE in text
    damaged = text.replace(r"keep\22: 12", r"keep\22: 64", 1)
    assert damaged != text
    (stages / "5.tile.mlir").write_text(damaged)
    refused = hpcc(str(stages / "5.tile.mlir"), "--from", "tile", *common, "-o", str(tmp_path / "b"))
    assert refused.status == 1
    assert "what the module says of its accelerator is damaged" in refused.err
    assert not (tmp_path / "b").exists()


def test_a_dense_model_keeps_the_common_array(tmp_path: Path) -> None:
    model = write(SMALL, tmp_path / "small.onnx", 1, 32)
    prepared = prepare(model, {"input_ids": (1, 32)}, "dense")
    assert prepared.machine(BOARD) == load_target(BOARD)


@pytest.mark.slow
def test_nine_tenths_of_zeros_are_faster_than_three_quarters(tmp_path: Path) -> None:
    """A layer of BERT-base's width: on the common array VECTOR takes as long for both."""
    model = write(BASE_LAYER, tmp_path / "base.onnx", 1, 128)
    shapes = {"input_ids": (1, 128)}
    sparse, sparser = (prepare(model, shapes, spec) for spec in ("hp:0.75", "hp:0.9"))
    common = sparser.on(load_target(BOARD)).timing.total
    own = sparser.on(sparser.machine(BOARD)).timing.total
    assert own < 0.9 * sparse.on(sparse.machine(BOARD)).timing.total
    assert own < 0.9 * common
