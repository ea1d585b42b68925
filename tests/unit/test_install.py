"""What an installation gives: the commands, and stock xDSL tools that see the dialects and passes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from compiler.pipelines import PASSES
from compiler.tools.options import Options
from compiler.tools.session import open_session
from compiler.universe import DIALECTS
from tests.graphs import Encoder, write

pytestmark = pytest.mark.skipif(
    not any(entry.name == "hpcc" for entry in entry_points(group="xdsl.universe")),
    reason="hpcc is not installed: pip install -e .",
)
COMMANDS = ("hpcc", "hpcc-opt", "hpcc-run", "hpcc-objdump")


def run(command: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command of the environment that runs the tests."""
    beside = Path(sys.executable).with_name(command)
    path = str(beside) if beside.exists() else shutil.which(command)
    assert path, f"{command} is not installed"
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every stage of a small encoder."""
    folder = tmp_path_factory.mktemp("stages")
    model = write(Encoder(), folder / "tiny.onnx")
    open_session(Options(str(model), "fpga-u280", sparsity="nm:2:4", verify=False, dump_stages=str(folder))).compile()
    cpu = Options(str(model), "cpu-avx2", sparsity="nm:2:4", emit="tile", output=str(folder / "cpu.mlir"))
    assert open_session(cpu).run() == 0
    gpu = Options(str(model), "gpu-sm90", sparsity="nm:2:4", emit="tile", output=str(folder / "gpu.mlir"))
    assert open_session(gpu).run() == 0
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: {command}" in done.stdout


def test_stock_xdsl_opt_lists_every_pass() -> None:
    shown = run("xdsl-opt", "--help").stdout.replace("\n", " ")
    words = "".join(shown.split())  # argparse breaks lines inside the names
    assert all(name in words for name in PASSES)


def test_stock_xdsl_opt_parses_every_dialect(stages: Path) -> None:
    seen: set[str] = set()
    for name in ("2.sparsify", "4.encode", "5.tile", "7.emit", "cpu", "gpu"):
        done = run("xdsl-opt", str(stages / f"{name}.mlir"))
        assert done.returncode == 0, f"{name}: {done.stderr}"
        seen |= {name for name in DIALECTS if f"{name}." in done.stdout}
    assert seen == set(DIALECTS)


def test_stock_xdsl_opt_runs_our_passes(stages: Path) -> None:
    passes = 'hpcc-encode-storage,hpcc-tile{target="fpga-u280"},hpcc-schedule{target="fpga-u280"},hpcc-emit'
    done = run("xdsl-opt", "3.quantize.mlir", "-p", passes, cwd=stages)
    assert done.returncode == 0, done.stderr
    assert "hpcc_isa." in done.stdout


def test_hpcc_opt_finds_the_weights_beside_a_dump(stages: Path, tmp_path: Path) -> None:
    done = run("hpcc-opt", str(stages / "1.fuse.mlir"), "-p", 'hpcc-sparsify{spec="nm:1:4"}', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "#hpcc_sparsity.nm<1:4>" in done.stdout
