"""`hpcc-run --dump-vectors`: an independent reader computes every instruction again from its images, to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hw_targets.codec import decode
from runtime.cli import main_run
from tests.e2e.harness import Done, call, hpcc, unchanged
from tests.golden.vector_reader import Replay
from tests.graphs import Encoder, feeds, write

SPEC = Encoder(hidden=48, heads=4, intermediate=72, vocabulary=40, head="mean")
SHAPE = (1, 5)
COMPUTED = {
    "load.copy",
    "load.gather",
    "store.copy",
    "matrix.multiply",
    "vector.finish",
    "vector.softmax",
    "vector.context",
    "vector.quantize_columns",
    "vector.embed",
    "vector.pool",
}
PATTERNS = ("dense", "nm:2:4", "hp:rows=16,window=32,keep=16,fine=2:4", "unstructured:0.7")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, its inputs, and a bundle for each pattern."""
    import numpy as np

    folder = tmp_path_factory.mktemp("vectors")
    write(SPEC, folder / "m.onnx", *SHAPE)
    np.savez(folder / "in.npz", **feeds(SPEC, *SHAPE))
    for number, pattern in enumerate(PATTERNS):
        board = "fpga-kv260" if number % 2 else "fpga-pynq-z2"
        bundle = folder / f"{number}.hpcc"
        done = hpcc(folder / "m.onnx", "--target", board, "--sparsity", pattern, "-q", "--no-verify", "-o", bundle)
        assert done.status == 0, done.err
    return folder


def dump(bundle: Path, folder: Path, *arguments: object) -> Done:
    return call(main_run, bundle, "--inputs", bundle.parent / "in.npz", "--dump-vectors", folder, *arguments)


@pytest.mark.parametrize("number", range(len(PATTERNS)))
def test_an_independent_reader_gets_the_outputs(shelf: Path, tmp_path: Path, number: int) -> None:
    done = dump(shelf / f"{number}.hpcc", tmp_path / "v", "--group", f"0,{number % 2},{number}")
    assert (done.status, done.err) == (0, "")
    replay = Replay(tmp_path / "v")
    assert replay.problems == []
    assert set(replay.computed) >= COMPUTED
    modes = {i["immediates"]["mode"] for i in replay.index["instructions"] if i["name"] == "matrix.multiply"}
    assert number in modes
    for entry in replay.index["instructions"]:  # as many steps as the instruction takes cycles, over all passes
        if "steps" in entry and entry["immediates"]["outs"] <= replay.index["array"]["outputs"]:
            lines = (tmp_path / "v" / entry["steps"]).read_text().splitlines()
            assert len(lines) - 1 == entry["cycles"]["end"] - entry["cycles"]["start"]


def test_the_entries_are_the_program(shelf: Path, tmp_path: Path) -> None:
    assert dump(shelf / "1.hpcc", tmp_path / "v").status == 0
    program = decode((shelf / "1.hpcc" / "program.bin").read_bytes())
    index = json.loads((tmp_path / "v" / "vectors.json").read_text())
    numbers = [entry["number"] for entry in index["instructions"]]
    assert numbers == sorted(set(numbers))
    for entry in index["instructions"]:
        instruction = program[entry["index"]]
        assert (entry["name"], entry["opcode"]) == (instruction.name, instruction.function.opcode)
        assert (entry["waits"], entry["signals"]) == (list(instruction.waits), list(instruction.signals))
        assert len(entry["operands"]) == len(instruction.operands)


@pytest.mark.parametrize("word", ["acc.after.hex", "out.after.hex", "p.after.hex", "x.before.hex", "steps.txt"])
def test_the_reader_sees_one_wrong_byte(shelf: Path, tmp_path: Path, word: str) -> None:
    assert dump(shelf / "0.hpcc", tmp_path / "v", "--layer", "layer.0.attn").status == 0
    path = sorted((tmp_path / "v").glob(f"*/{word}"))[-1]
    text = path.read_text()
    path.write_text(text[:-2] + ("1" if text[-2] != "1" else "2") + "\n")
    assert Replay(tmp_path / "v").problems != []


def test_a_layer_or_a_range_is_a_part(shelf: Path, tmp_path: Path) -> None:
    def numbers(*arguments: object) -> list[int]:
        assert dump(shelf / "2.hpcc", tmp_path / "v", *arguments).status == 0
        return [entry["number"] for entry in json.loads((tmp_path / "v" / "vectors.json").read_text())["instructions"]]

    whole = numbers()
    assert numbers("--instructions", "10:20") == [number for number in whole if 10 <= number < 20]
    assert sorted(path.name for path in (tmp_path / "v").iterdir() if path.is_dir()) == [
        f"{number:05}" for number in whole if 10 <= number < 20
    ]
    layer = numbers("--layer", "layer.0.ffn.up")
    assert set() < set(layer) < set(whole)


WRONG = {
    "no range": ("--instructions", "5"),
    "backwards": ("--instructions", "9:3"),
    "beyond the end": ("--instructions", "0:99999"),
    "unknown layer": ("--layer", "layer.0.ffn.upp"),
    "no group": ("--group", "1"),
    "group outside": ("--group", "0,0,999"),
    "cycles only": ("--timing-only",),
    "an output, too": ("-o", "x.npz"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_sense_is_one_line(shelf: Path, tmp_path: Path, name: str) -> None:
    with unchanged(shelf, tmp_path):
        done = dump(shelf / "0.hpcc", tmp_path / "v", *WRONG[name])
    assert done.status == 2
    assert done.out == ""
    assert "[HPCC260" in done.line


def test_other_things_at_the_place_are_left_alone(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with unchanged(tmp_path):
        done = dump(shelf / "0.hpcc", tmp_path / "mine")
        assert (done.status, "left alone" in done.line) == (1, True)
    done = call(main_run, shelf / "0.hpcc", "--layer", "layer.0.attn")
    assert (done.status, "--dump-vectors" in done.line) == (2, True)
    shutil.copytree(shelf / "0.hpcc", tmp_path / "copy.hpcc")
    assert dump(tmp_path / "copy.hpcc", tmp_path / "copy.hpcc").status == 1, "not over the program itself"
