"""Several shapes in one bundle: one image of weights, the smallest program that holds the input, the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpcc as api
from compiler.tools.arguments import parse_buckets
from compiler.tools.histogram import read_histogram
from runtime.buckets import BucketProgram
from runtime.bundle import BUCKETS
from runtime.cli import main_objdump, main_run
from runtime.program import Program
from tests.e2e.harness import call, digests, hpcc, read_json
from tests.graphs import Encoder, feeds, write

MODEL = Encoder(hidden=96, heads=4, intermediate=208, layers=2, vocabulary=60, positions=32, position="sliced")
LENGTHS = (4, 8, 24)
TARGET = ("--target", "fpga-zcu104", "--sparsity", "hp:0.75")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """b.hpcc with three shapes, and 24.hpcc with the largest of them alone."""
    folder = tmp_path_factory.mktemp("buckets")
    model = write(MODEL, folder / "m.onnx", 1, 8, symbolic=True)
    (folder / "lengths.csv").write_text("length,count\n3,10\n4,20\n5,30\n24,40\n25,7\n")
    several = ("--shape", "input_ids:1x{24,4,8}", "--length-histogram", folder / "lengths.csv")
    done = hpcc(model, *TARGET, *several, "-o", folder / "b.hpcc")
    assert (done.status, done.err) == (0, "")
    (folder / "said.txt").write_text(done.out)
    alone = hpcc(model, *TARGET, "--shape", "input_ids:1x24", "-q", "-o", folder / "24.hpcc")
    assert (alone.status, alone.err) == (0, "")
    return folder


def sample(tokens: int, count: int = 1) -> dict[str, Any]:
    arrays = feeds(MODEL, count, tokens)
    return {**arrays, "attention_mask": np.ones_like(arrays["attention_mask"])}


def test_the_image_of_weights_is_that_of_one_shape(shelf: Path) -> None:
    assert (shelf / "b.hpcc" / "weights.bin").read_bytes() == (shelf / "24.hpcc" / "weights.bin").read_bytes()
    assert [path.name for path in shelf.joinpath("b.hpcc").rglob("weights.bin")] == ["weights.bin"]
    manifest = read_json(shelf / "b.hpcc" / "manifest.json")
    assert [bucket["name"] for bucket in manifest["buckets"]] == ["1x4", "1x8", "1x24"]
    for bucket in manifest["buckets"]:
        folder = shelf / "b.hpcc" / BUCKETS / bucket["name"]
        assert {path.name for path in folder.iterdir()} >= {"program.bin", "report.json", "run.json", "report.html"}
        assert read_json(folder / "run.json")["verify"]["bit_exact"]


@pytest.mark.parametrize(("tokens", "bucket"), [(3, "1x4"), (4, "1x4"), (5, "1x8"), (9, "1x24"), (24, "1x24")])
def test_an_input_runs_in_the_smallest_shape_that_holds_it(shelf: Path, tokens: int, bucket: str) -> None:
    """And gives what the largest gives for it, bit for bit: padding is masked, and factors are shared."""
    program = BucketProgram.load(shelf / "b.hpcc")
    inputs = sample(tokens, 3)
    entry, result = program.run(inputs)
    assert entry.name == bucket
    assert result.batches == 3
    alone = Program.load(shelf / "24.hpcc")
    longer = {name: np.pad(array, [(0, 0), (0, 24 - tokens)]) for name, array in inputs.items()}
    wanted = alone.run(longer).outputs
    for name, array in result.outputs.items():
        assert array.shape == (3, tokens, MODEL.hidden)
        assert np.array_equal(array, wanted[name][:, :tokens])


def test_cycles_are_those_of_each_shape_alone(shelf: Path) -> None:
    alone = read_json(shelf / "24.hpcc" / "report.json")
    largest = read_json(shelf / "b.hpcc" / BUCKETS / "1x24" / "report.json")
    assert largest["cycles"] == alone["cycles"] == BucketProgram.load(shelf / "b.hpcc").program("1x24").timing().total
    cycles = [read_json(shelf / "b.hpcc" / BUCKETS / f"1x{n}" / "report.json")["cycles"] for n in LENGTHS]
    assert cycles == sorted(cycles)
    assert cycles[0] < cycles[-1]


def test_the_table_is_weighed_by_the_lengths(shelf: Path) -> None:
    table = read_json(shelf / "b.hpcc" / "buckets.json")
    assert [line["inputs"] for line in table["buckets"]] == [30, 30, 40]
    counted = table["histogram"]
    assert (counted["inputs"], counted["too_long"]) == (107, 7)
    mean = sum(line["inputs"] * line["ms"] for line in table["buckets"]) / 100
    assert counted["mean_ms"] == pytest.approx(mean)
    assert counted["mean_ms"] < counted["largest_only_ms"] == table["buckets"][-1]["ms"]
    said = (shelf / "said.txt").read_text()
    assert f"{counted['mean_ms']:.3f} ms over 100 inputs of lengths.csv" in said
    assert "7 inputs of more than 24 fit no bucket" in said
    assert table["weight_bytes"] == (shelf / "b.hpcc" / "weights.bin").stat().st_size


def test_the_commands_know_such_a_bundle(shelf: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", **sample(5))
    done = call(main_run, shelf / "b.hpcc", "--inputs", tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--json")
    assert (done.status, done.err) == (0, "")
    told = json.loads(done.out)
    assert (told["bucket"], told["buckets"]) == ("1x8", ["1x4", "1x8", "1x24"])
    (output,) = np.load(tmp_path / "out.npz").values()
    assert output.shape == (1, 5, MODEL.hidden)
    assert "1x24" in call(main_objdump, shelf / "b.hpcc").out
    assert "matrix.multiply" in call(main_objdump, shelf / "b.hpcc" / BUCKETS / "1x4").out
    loaded = api.load(shelf / "b.hpcc")
    assert isinstance(loaded, BucketProgram)
    shown = call(main_objdump, "--diff", shelf / "b.hpcc" / BUCKETS / "1x4", shelf / "b.hpcc" / BUCKETS / "1x24").out
    assert "note: the inputs have other shapes" in shown


def test_the_same_command_writes_the_same_bytes(shelf: Path, tmp_path: Path) -> None:
    several = ("--shape", "input_ids:1x{4,8,24}", "--length-histogram", shelf / "lengths.csv", "-q")
    done = hpcc(shelf / "m.onnx", *TARGET, *several, "-o", tmp_path / "b.hpcc")
    assert (done.status, done.out, done.err) == (0, "", "")
    clock = [f"{BUCKETS}/1x{n}/{name}" for n in LENGTHS for name in ("run.json", "report.html")]
    known = [digests(folder) for folder in (shelf / "b.hpcc", tmp_path / "b.hpcc")]
    assert len(known[0]) > len(clock)
    first, second = ({k: v for k, v in found.items() if k not in clock} for found in known)
    assert first == second


def test_braces_go_together_and_are_sorted() -> None:
    assert parse_buckets(["a:1x{64,16}", "b:{2,1}x3"]) == [
        {"a": (1, 16), "b": (1, 3)},
        {"a": (1, 64), "b": (2, 3)},
    ]
    assert parse_buckets(["a:1x8"]) == [{"a": (1, 8)}]
    assert parse_buckets([]) == [{}]


@pytest.mark.parametrize("kind", ["csv", "json", "pairs", "npz"])
def test_lengths_are_read_from_all_three_kinds_of_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"h.{'json' if kind == 'pairs' else kind}"
    match kind:
        case "csv":
            path.write_text("length,count\n16,2\n8,3\n16,1\n")
        case "json":
            path.write_text('{"16": 3, "8": 3}')
        case "pairs":
            path.write_text("[[8, 3], [16, 3]]")
        case _:
            np.savez(path, length=[16, 8], count=[3, 3])
    found = read_histogram(path)
    assert found.counts == ((8, 3), (16, 3))
    assert (found.between(0, 8), found.between(8, 16), found.total) == (3, 3, 6)
