"""`import hpcc`: what it promises a script, on a small encoder and on a user's own target file."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import hpcc
from compiler.pipelines import STAGE_NAMES
from compiler.tools.hpcc import build_parser
from compiler.tools.options import STAGES, Options
from hw_targets.errors import HpccError, InputError, UsageError, VerificationError
from tests.graphs import Encoder, feeds, write

SPEC = Encoder(head="mean")
BOARD = Path(__file__).parents[2] / "examples" / "my-board.toml"
HEAVY = {"numpy", "onnx", "onnx_ir", "onnxruntime", "pydantic", "xdsl", "rich"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of one layer, for batches of 2 x 8 tokens."""
    return write(SPEC, tmp_path_factory.mktemp("model") / "tiny.onnx")


def imported_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_import_is_cheap() -> None:
    assert not imported_by("import hpcc; hpcc.__version__") & HEAVY


def test_loading_a_bundle_needs_no_compiler(model: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "tiny.hpcc"
    hpcc.compile(model, "fpga-u280", output=bundle, verify=False)
    loaded = imported_by(f"import hpcc; hpcc.load({str(bundle)!r}).timing()")
    assert "runtime" in loaded
    assert not loaded & {"compiler", "xdsl", "onnx_ir"}


def test_compile_runs_the_given_inputs_and_verifies_them(model: Path) -> None:
    inputs = feeds(SPEC)
    compiled = hpcc.compile(model, "fpga-u280", sparsity="nm:2:4", inputs=inputs)
    assert compiled.report.inputs.kind == "arrays"
    assert compiled.report.inputs.count == 2
    assert compiled.run_report.verify is not None
    assert compiled.run_report.verify.bit_exact
    assert all(check.passed for check in compiled.run_report.verify.outputs)
    again = compiled.run(inputs).outputs
    assert compiled.outputs.keys() == again.keys()
    assert all(np.array_equal(compiled.outputs[name], again[name]) for name in again)


def test_a_users_own_target_file_works_in_place_of_a_name(model: Path) -> None:
    compiled = hpcc.compile(model, BOARD, sparsity="hp:0.75", inputs=feeds(SPEC))
    assert compiled.report.target.name == "my-board"
    assert "clock.mhz" in " ".join(compiled.report.target.unverified)
    assert compiled.run_report.verify is not None
    assert compiled.run_report.verify.bit_exact


def test_nothing_is_written_unless_asked(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hpcc.compile(model, "fpga-u280", verify=False)
    assert not list(tmp_path.iterdir())


def test_a_saved_bundle_loads_and_computes_the_same(model: Path, tmp_path: Path) -> None:
    inputs = feeds(SPEC)
    compiled = hpcc.compile(model, "fpga-u280", inputs=inputs, output=tmp_path / "tiny.hpcc", verify=False)
    program = hpcc.load(tmp_path / "tiny.hpcc")
    assert program.timing().total == compiled.report.cycles
    outputs = program.run(inputs).outputs
    assert all(np.array_equal(compiled.outputs[name], outputs[name]) for name in outputs)
    run = json.loads((tmp_path / "tiny.hpcc" / "run.json").read_text())
    assert run["paths"]["bundle"] == str(tmp_path / "tiny.hpcc")


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"target": "fpga-u281"}, UsageError, "HPCC2101"),
        ({"sparsity": "nm:5:4"}, UsageError, "HPCC2"),
        ({"model": "missing.onnx"}, InputError, "HPCC1"),
        ({"inputs": {"ids": np.zeros((2, 8), np.int64)}}, InputError, "HPCC1503"),
        ({"inputs": "missing.npz"}, InputError, "HPCC1501"),
    ],
)
def test_errors_are_typed_and_have_codes(
    model: Path, tmp_path: Path, change: dict[str, object], error: type[HpccError], code: str
) -> None:
    arguments = {"model": model, "target": "fpga-u280", "output": tmp_path / "tiny.hpcc", **change}
    with pytest.raises(error) as caught:
        hpcc.compile(**arguments)  # type: ignore[arg-type]
    assert caught.value.code.startswith(code)
    assert not list(tmp_path.iterdir())


def test_a_wrong_result_raises_and_keeps_the_bundle(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compiler.tools.fpga_session import FpgaSession

    monkeypatch.setattr(FpgaSession, "_bit_exact", lambda *_: False)
    with pytest.raises(VerificationError, match="kept for a look"):
        hpcc.compile(model, "fpga-u280", output=tmp_path / "tiny.hpcc")
    assert (tmp_path / "tiny.hpcc" / "run.json").is_file()


def test_the_command_line_sets_every_option_with_the_same_defaults() -> None:
    parsed = vars(build_parser().parse_args([]))
    assert STAGES == STAGE_NAMES
    for option in fields(Options):
        if option.name == "shapes":
            assert parsed["shape"] == []
        elif option.name not in ("model", "target"):
            assert parsed[option.name] == option.default, option.name
