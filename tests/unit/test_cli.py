"""hpcc-run and hpcc-objdump: output, exit statuses, one-line errors."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from hw_targets.asm import assemble
from hw_targets.command_line import Parser, guarded
from runtime.bundle import save_bundle
from runtime.cli import main_objdump, main_run
from tests.unit.hand_programs import LinearData, linear, linear_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_bundle(linear_bundle(LinearData()), tmp_path / "linear.hpcc")
    return tmp_path / "linear.hpcc"


def test_run_writes_the_outputs(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = LinearData()
    np.savez(tmp_path / "in.npz", x=data.x, labels=np.zeros(4))
    out = tmp_path / "out.npz"
    assert main_run([str(bundle), "--inputs", str(tmp_path / "in.npz"), "-o", str(out), "--repeat", "3", "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert captured.err == ""
    assert report["cycles"] > 0
    assert report["median_ms"] == pytest.approx(report["accelerator_ms"] + report["transfer_ms"])
    assert report["p90_ms"] >= report["median_ms"]
    with np.load(out) as archive:
        np.testing.assert_array_equal(archive["y"], data.expected())


def test_inputs_are_made_up_with_a_note(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_run([str(bundle)]) == 0
    captured = capsys.readouterr()
    assert captured.err == "note: no --inputs: made up x from names and types\n"
    assert "linear on fpga-u280" in captured.out
    assert "output y: 4x16" in captured.out


def test_timing_only(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_run([str(bundle), "--timing-only", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "outputs" not in report
    assert report["accelerator_ms"] > 0


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_errors_are_one_line(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_run([str(tmp_path)]) == 1
    assert "no manifest.json" in one_line(capsys)
    assert main_run([str(bundle), "--repeat", "0"]) == 2
    assert "HPCC2601" in one_line(capsys)
    for name, content in (("a.npz", b"not a zip"), ("b.npz", b""), ("c.npz", b"PK\x03\x04 but no more")):
        (tmp_path / name).write_bytes(content)
        assert main_run([str(bundle), "--inputs", str(tmp_path / name)]) == 1
        assert name in one_line(capsys)
    np.save(tmp_path / "d.npy", np.zeros(3))
    np.savez(tmp_path / "e.npz", x=np.array([{"a": 1}], dtype=object))
    for name in ("missing.npz", "d.npy", "e.npz"):
        assert main_run([str(bundle), "--inputs", str(tmp_path / name)]) == 1
        assert name in one_line(capsys)
    np.savez(tmp_path / "f.npz", y=np.zeros(3))
    assert main_run([str(bundle), "--inputs", str(tmp_path / "f.npz")]) == 1
    assert "no input 'y'" in one_line(capsys)


def test_the_command_line_is_at_fault(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_run([str(bundle), "--unknown"]) == 2
    assert one_line(capsys) == "error: unrecognized arguments: --unknown (hpcc-run --help) [HPCC2000]\n"


def test_objdump_shows_instructions_that_assemble(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_objdump([str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "; node 1 /fc/MatMul (head.0)" in text
    assert assemble(text) == linear()


def test_objdump_sections(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_objdump([str(bundle), "--sections"]) == 0
    text = capsys.readouterr().out
    assert "8 instructions, 8 executed" in text
    assert "0x0000001000..0x0000001080 weights  columns (128 bytes)" in text
    assert "acc: 8,192 bytes" in text
    assert "3 acc: matrix -> vector, initially 0" in text


def test_help_is_light() -> None:
    """--help imports neither numpy nor pydantic."""
    code = (
        "import sys\nfrom runtime.cli import main_run\n"
        "try:\n    main_run(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'numpy', 'pydantic', 'onnxruntime', 'xdsl'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("debug", [False, True])
def test_libraries_warn_only_with_debug(debug: bool) -> None:
    """A product beyond fp32 in numpy: one line of ours stays one line."""

    def overflow(_: argparse.Namespace) -> None:
        np.full((2, 2), 3e38, np.float32) @ np.full((2, 2), 3e38, np.float32)

    parser = Parser()
    parser.add_argument("--debug", action="store_true")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert guarded(parser, overflow, ["--debug"] if debug else []) == 0
    assert bool(told) == debug
