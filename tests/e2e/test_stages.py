"""Stages can be printed, dumped, taken up again and listed; a user's own target file works like a shipped one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import hw_targets
from compiler.tools.hpcc_opt import main as hpcc_opt
from compiler.tools.options import STAGES
from tests.e2e.harness import TARGET, call, digests, hpcc, read_json
from tests.graphs import Encoder, feeds, write

SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, head="mean", gelu="dynamo", linear="transposed")
PATTERN = "hp:0.5"
SHAPE = ("--shape", "input_ids:2x7")
OPTIONS = ("--target", TARGET, *SHAPE, "--sparsity", PATTERN)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(SMALL, tmp_path_factory.mktemp("model") / "small.onnx", 2, 7, symbolic=True)


@pytest.fixture(scope="module")
def dumped(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle out.hpcc and all stages in stages/."""
    folder = tmp_path_factory.mktemp("dumped")
    done = hpcc(model, *OPTIONS, "-o", folder / "out.hpcc", "--dump-stages", folder / "stages")
    assert done.status == 0, done.err
    return folder


def dump_of(dumped: Path, stage: str) -> Path:
    return dumped / "stages" / f"{STAGES.index(stage)}.{stage}.mlir"


def test_every_stage_is_dumped_with_its_weights(dumped: Path) -> None:
    names = sorted(path.name for path in (dumped / "stages").iterdir())
    assert names == sorted(f"{i}.{stage}.{kind}" for i, stage in enumerate(STAGES) for kind in ("mlir", "safetensors"))
    for stage in STAGES:
        text = dump_of(dumped, stage).read_text(encoding="utf-8")
        assert f'"{STAGES.index(stage)}.{stage}.safetensors"' in text
        assert len(text) < 200_000, "weights are named, never written"


@pytest.mark.parametrize("stage", STAGES)
def test_emit_prints_what_was_dumped(model: Path, dumped: Path, stage: str, tmp_path: Path) -> None:
    """--emit prints the stage; -o FILE.mlir writes it with weights, byte for byte what --dump-stages wrote."""
    done = hpcc(model, *OPTIONS, "--emit", stage)
    assert (done.status, done.err) == (0, "")
    written = tmp_path / f"{STAGES.index(stage)}.{stage}.mlir"
    assert hpcc(model, *OPTIONS, "--emit", stage, "-o", written).status == 0
    assert digests(tmp_path).items() <= digests(dumped / "stages").items()
    assert len(digests(tmp_path)) == 2
    printed = tmp_path / "printed.mlir"
    printed.write_text(done.out, encoding="utf-8")
    again = call(hpcc_opt, printed, "--print-debuginfo")
    assert (again.status, again.err) == (0, "")
    assert again.out.rstrip() == done.out.rstrip()


@pytest.mark.parametrize("stage", STAGES)
def test_going_on_from_a_dump_gives_the_same_program(dumped: Path, stage: str, tmp_path: Path) -> None:
    done = hpcc(dump_of(dumped, stage), "--from", stage, *OPTIONS, "--timing-only", "-o", tmp_path / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    for name in ("program.bin", "program.asm", "weights.bin"):
        assert (tmp_path / "out.hpcc" / name).read_bytes() == (dumped / "out.hpcc" / name).read_bytes(), name
    ours, theirs = (read_json(folder / "out.hpcc" / "manifest.json") for folder in (tmp_path, dumped))
    assert ours["nodes"] == theirs["nodes"]
    assert ours["dram"] == theirs["dram"]


def test_a_dump_can_be_run_and_verified(dumped: Path, tmp_path: Path) -> None:
    done = hpcc(dump_of(dumped, "quantize"), "--from", "quantize", *OPTIONS, "-o", tmp_path / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    assert read_json(tmp_path / "out.hpcc" / "run.json")["verify"]["bit_exact"] is True


def test_the_printed_pipeline_is_what_hpcc_opt_takes(dumped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = hpcc("--print-pipeline", "--target", TARGET, "--sparsity", PATTERN)
    assert done.status == 0
    rows = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert tuple(rows) == STAGES
    for before, after in zip(STAGES, STAGES[1:], strict=False):
        made = tmp_path / f"{after}.mlir"
        shutil.copy(dump_of(dumped, before).with_suffix(".safetensors"), tmp_path)
        source = shutil.copy(dump_of(dumped, before), tmp_path)
        again = call(hpcc_opt, source, "-p", f"{rows[after]},hpcc-verify-stage{{stage={after}}}", "-o", made)
        assert again.status == 0, (after, again.err)
        assert made.stat().st_size > 0


def test_emit_asm_prints_the_listing(model: Path, dumped: Path) -> None:
    done = hpcc(model, *OPTIONS, "--emit", "asm")
    assert (done.status, done.err) == (0, "")
    assert done.out == (dumped / "out.hpcc" / "program.asm").read_text(encoding="utf-8")


def test_emit_program_writes_the_same_bundle_without_a_run(model: Path, dumped: Path, tmp_path: Path) -> None:
    assert hpcc(model, *OPTIONS, "--emit", "program", "-o", tmp_path / "out.hpcc").status == 0
    assert digests(tmp_path / "out.hpcc", without=["run.json", "report.html"]) == digests(
        dumped / "out.hpcc", without=["run.json", "report.html"]
    )
    assert read_json(tmp_path / "out.hpcc" / "run.json")["verify"] is None


def test_list_layers(model: Path) -> None:
    done = hpcc(model, *OPTIONS, "--list-layers")
    assert (done.status, done.err) == (0, "")
    roles = [f"layer.0.{part}" for part in ("attn.q", "attn.k", "attn.v", "attn.o", "ffn.up", "ffn.down")]
    assert [line.split()[0] for line in done.out.splitlines()] == roles
    rows = json.loads(hpcc(model, *OPTIONS, "--list-layers", "--json").out)
    assert [row["role"] for row in rows] == roles
    assert (rows[4]["out"], rows[4]["in"]) == (48, 32)
    assert rows[4]["initializer"] == "layer.0.up.weight"


def test_check_is_the_table_of_host_work_alone(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = hpcc(model, *OPTIONS, "--check")
    assert (done.status, done.err) == (0, "")
    document = json.loads(hpcc(model, *OPTIONS, "--check", "--json").out)
    assert document["device_macs"] > 0
    assert document["host_macs"] == 0
    assert list(tmp_path.iterdir()) == []


def test_check_of_l3_names_its_host_nodes(l3_model: Path) -> None:
    done = hpcc(l3_model, "--target", TARGET, "--shape", "input_ids:1x16", "--check")
    assert done.status == 0
    assert "Identity" in done.out
    document = json.loads(hpcc(l3_model, "--target", TARGET, "--shape", "input_ids:1x16", "--check", "--json").out)
    assert [row["op"] for row in document["host_ops"]] == ["Identity", "Identity"]


def test_time_passes_prints_every_stage(model: Path, tmp_path: Path) -> None:
    done = hpcc(model, *OPTIONS, "--time-passes", "--timing-only", "-o", tmp_path / "out.hpcc")
    assert done.status == 0
    assert [line.split()[0] for line in done.err.splitlines()] == [*STAGES, "total"]
    assert all(float(line.split()[1]) >= 0 for line in done.err.splitlines())


def test_json_is_the_two_reports(model: Path, tmp_path: Path) -> None:
    done = hpcc(model, *OPTIONS, "--json", "-o", tmp_path / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    document = json.loads(done.out)
    assert document["report"] == read_json(tmp_path / "out.hpcc" / "report.json")
    assert document["run"] == read_json(tmp_path / "out.hpcc" / "run.json")


def test_quiet_prints_nothing(model: Path, tmp_path: Path) -> None:
    done = hpcc(model, *OPTIONS, "-q", "-o", tmp_path / "out.hpcc")
    assert (done.status, done.out, done.err) == (0, "", "")


def test_the_default_output_is_named_after_model_target_and_pattern(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hpcc(model, *OPTIONS, "--timing-only").status == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"small.{TARGET}.hp-0.5.hpcc"]


def test_an_older_bundle_is_replaced(model: Path, tmp_path: Path) -> None:
    for pattern in ("dense", PATTERN):
        done = hpcc(model, "--target", TARGET, *SHAPE, "--sparsity", pattern, "--timing-only", "-o", tmp_path / "out.hpcc")
        assert done.status == 0
    assert read_json(tmp_path / "out.hpcc" / "report.json")["pruning"]["asked"] == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["out.hpcc"]


def test_a_users_own_target(model: Path, dumped: Path, tmp_path: Path) -> None:
    """A file in place of a name: the array becomes smaller, the values stay, the cycles grow."""
    text = (Path(hw_targets.__file__).parent / f"{TARGET}.toml").read_text(encoding="utf-8")
    text = text.replace(f'name = "{TARGET}"', 'name = "my-board"').replace('cores = "auto"', "cores = 1")
    text = text.replace('tokens = "auto"', "tokens = 4").replace('outputs = "auto"', "outputs = 4")
    text = text.replace('lanes = "auto"', "lanes = 8")
    own = tmp_path / "my board.toml"
    own.write_text(text, encoding="utf-8")
    np.savez(tmp_path / "in.npz", allow_pickle=False, **feeds(SMALL, 3, 7))
    options = ("--target", own, *SHAPE, "--sparsity", PATTERN, "--inputs", tmp_path / "in.npz")
    done = hpcc(model, *options, "-o", tmp_path / "out.hpcc", "--verify-each")
    assert (done.status, done.err) == (0, "")
    report, run = (read_json(tmp_path / "out.hpcc" / name) for name in ("report.json", "run.json"))
    assert report["target"]["name"] == "my-board"
    assert report["cycles"] > 1.5 * read_json(dumped / "out.hpcc" / "report.json")["cycles"]
    assert run["verify"]["bit_exact"] is True
