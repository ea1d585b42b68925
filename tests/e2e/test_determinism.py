"""The same command writes the same bytes, whatever the hash seed, the folder or the day; and small talk is quick."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.e2e.harness import SENTENCES, TARGET, digests, hpcc, python, read_json
from tests.graphs import Encoder, feeds, write

HEAVY = ("numpy", "xdsl", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "pydantic", "rich", "safetensors", "tokenizers")
SMALL = Encoder(hidden=48, heads=3, intermediate=80, layers=2, head="mean", token_types="input")


def compile_twice(folder: Path, *arguments: object) -> tuple[Path, Path]:
    """The command in two folders by two interpreters with different hash seeds; returns the bundles."""
    bundles: list[Path] = []
    for seed, name in ((1, "first"), (4242, "second folder")):
        place = folder / name
        place.mkdir()
        done = python("-m", "compiler.tools.hpcc", *arguments, "-o", "out.hpcc", seed=seed, folder=place)
        assert done.returncode == 0, done.stderr
        bundles.append(place / "out.hpcc")
    return bundles[0], bundles[1]


@pytest.mark.parametrize("pattern", ["hp:0.75", pytest.param("nm:2:4", marks=pytest.mark.slow)])
def test_the_same_command_writes_the_same_bytes(tmp_path: Path, pattern: str) -> None:
    model = write(SMALL, tmp_path / "model.onnx", 2, 9, symbolic=True)
    np.savez(tmp_path / "in.npz", allow_pickle=False, **feeds(SMALL, 5, 9))
    arguments = (model, "--target", TARGET, "--shape", "input_ids:2x9", "--sparsity", pattern)
    first, second = compile_twice(tmp_path, *arguments, "--inputs", tmp_path / "in.npz", "--dump-stages", "dump")
    written = digests(first)
    assert {"manifest.json", "program.bin", "program.asm", "weights.bin", "report.json", "run.json", "trace.json"} <= set(
        written
    )
    assert digests(first, without=["run.json", "report.html"]) == digests(second, without=["run.json", "report.html"])
    assert set(digests(second)) == set(written)
    assert digests(first.parent / "dump") == digests(second.parent / "dump")
    assert len(digests(first.parent / "dump")) == 16, "eight stages, each with its weights"


@pytest.mark.slow
def test_the_same_bytes_for_l3(l3_model: Path, tokenizer_file: Path, tmp_path: Path) -> None:
    arguments = (l3_model, "--target", TARGET, "--shape", "input_ids:1x64", "--sparsity", "hp:0.75")
    first, second = compile_twice(tmp_path, *arguments, "--text", SENTENCES, "--tokenizer", tokenizer_file)
    assert digests(first, without=["run.json", "report.html"]) == digests(second, without=["run.json", "report.html"])


def test_another_command_writes_other_bytes(tmp_path: Path) -> None:
    """The control: the comparison above can fail."""
    model = write(SMALL, tmp_path / "model.onnx", 2, 9, symbolic=True)
    found: list[str] = []
    for pattern in ("hp:0.75", "hp:0.5"):
        output = tmp_path / f"{pattern[3:]}.hpcc"
        arguments = ("--target", TARGET, "--shape", "input_ids:2x9", "--sparsity", pattern, "--timing-only")
        assert hpcc(model, *arguments, "-o", output).status == 0
        found.append(digests(output)["weights.bin"])
    assert found[0] != found[1]


def test_a_bundle_says_nothing_of_the_machine_outside_run_json(tmp_path: Path) -> None:
    model = write(SMALL, tmp_path / "model.onnx", 1, 5)
    output = tmp_path / "out.hpcc"
    assert hpcc(model, "--target", TARGET, "-o", output).status == 0
    for file in output.rglob("*"):
        if file.is_file() and file.name != "run.json":
            assert str(tmp_path).encode() not in file.read_bytes(), file.name
    assert read_json(output / "run.json")["paths"] == {"model": str(model), "bundle": str(output)}


@pytest.mark.parametrize(
    ("module", "call", "text"),
    [
        ("compiler.tools.hpcc", "main(['--help'])", "--target"),
        ("compiler.tools.hpcc", "main(['--version'])", "hpcc "),
        ("compiler.tools.hpcc", "main(['--list-targets'])", "fpga-u280"),
        ("compiler.tools.hpcc", "main(['--list-targets', '--json'])", '"fpga-u280"'),
        ("compiler.tools.hpcc", "main(['--nonsense'])", ""),
        ("runtime.cli", "main_run(['--help'])", "--inputs"),
        ("runtime.cli", "main_objdump(['--help'])", "--sections"),
    ],
)
def test_small_talk_imports_nothing_heavy(module: str, call: str, text: str) -> None:
    """What takes time is imports; they are counted here because a clock on a busy machine proves nothing."""
    code = (
        "import sys\n"
        f"import {module} as tool\n"
        "try:\n"
        f"    tool.{call}\n"
        "except SystemExit:\n"
        "    pass\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        f"print('heavy:', sorted(names & set({HEAVY!r})), 'modules:', len(sys.modules), file=sys.stderr)\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert text in done.stdout
    said = done.stderr.splitlines()[-1]
    assert said.startswith("heavy: [] "), said
    assert int(said.rpartition(" ")[2]) < 250
