"""What another package brings, installed: a pattern, a storage format and its decoder, chosen and bit-exact; a target and a
pass, known by name."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

from hw_targets.catalogue import target_files
from tests.e2e.harness import ROOT, read_json
from tests.graphs import Encoder, write

PACKAGE = ROOT / "tests" / "packages" / "diagonal"
WORKSHOP = ROOT / "tests" / "packages" / "workshop"
OPT = "import sys; from compiler.tools.hpcc_opt import main; sys.exit(main())"
HPCC = "import sys; from compiler.tools.hpcc import main; sys.exit(main())"


def wheel_of(package: Path, folder: Path) -> Path:
    """The wheel of a package of plain modules, as its build backend makes it; nothing has to be downloaded for it."""
    about = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))
    name, version = about["project"]["name"].replace("-", "_"), about["project"]["version"]
    groups = about["project"]["entry-points"].items()
    points = [line for group, entries in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in entries.items()))]
    info = f"{name}-{version}.dist-info"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        for module in about["tool"]["setuptools"].get("py-modules", ()):
            archive.write(package / f"{module}.py", f"{module}.py")
        for folder in about["tool"]["setuptools"].get("packages", ()):
            for file in sorted((package / folder).glob("*.*")):
                archive.write(file, f"{folder}/{file.name}")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/entry_points.txt", "\n".join(points) + "\n")
        archive.writestr(f"{info}/RECORD", "\n".join(f"{file},," for file in archive.namelist()) + "\n")
    return wheel


def installed(package: Path, folder: Path) -> Path:
    """A package, installed into a folder of its own."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(folder / "installed"), str(wheel_of(package, folder))], check=True, capture_output=True)
    return folder / "installed"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(PACKAGE, tmp_path_factory.mktemp("site"))


def run(site: Path | None, *arguments: object, command: str = HPCC) -> subprocess.CompletedProcess[str]:
    path = f"{ROOT}:{site}" if site else str(ROOT)
    return subprocess.run(
        [sys.executable, "-c", command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
    )


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board that decodes the format of the package."""
    text = target_files()["fpga-u280"].read_text(encoding="utf-8")
    file = tmp_path_factory.mktemp("board") / "board.toml"
    file.write_text(f"{text}diagonal = {{ values_per_cycle = 512, lut_per_value = 4 }}\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(
        Encoder(hidden=96, heads=4, intermediate=208, layers=1, head="pooler"), tmp_path_factory.mktemp("m") / "e.onnx"
    )


def test_it_is_chosen_and_exact(site: Path, board: Path, model: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "out.hpcc"
    done = run(site, model, "--target", board, "--sparsity", "diagonal:4", "-o", bundle, "--verify-each")
    assert (done.returncode, done.stderr) == (0, "")
    report, outcome = read_json(bundle / "report.json"), read_json(bundle / "run.json")
    rows = [row for row in report["layers"] if row["op"] == "linear" and row["name"].startswith("layer.")]
    assert {(row["pattern"], row["format"]) for row in rows} == {("diagonal:4", "diagonal")}
    assert {row["metadata_bytes"] for row in rows} == {0}
    assert outcome["verify"]["bit_exact"]
    assert "format=diagonal" in (bundle / "program.asm").read_text(encoding="utf-8")
    ir = run(site, model, "--target", board, "--sparsity", "diagonal:4", "--emit", "encode", "-o", tmp_path / "e.mlir")
    assert ir.returncode == 0, ir.stderr
    assert "#hpcc_storage.diagonal<of = #hpcc_sparsity.diagonal<4>>" in (tmp_path / "e.mlir").read_text(encoding="utf-8")


def test_on_a_target_that_does_not_decode_it_another_format_is_taken(site: Path, model: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "out.hpcc"
    done = run(site, model, "--target", "fpga-u280", "--sparsity", "diagonal:4", "-o", bundle)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    rows = [row for row in report["layers"] if row["name"].startswith("layer.") and row["op"] == "linear"]
    assert all(row["format"] in ("bitmap", "csr") for row in rows)


def test_without_the_package_neither_is_known(board: Path, model: Path, tmp_path: Path) -> None:
    done = run(None, model, "--target", "fpga-u280", "--sparsity", "diagonal:4", "-o", tmp_path / "out.hpcc")
    assert done.returncode == 2
    assert "unknown sparsity pattern 'diagonal'" in done.stderr
    done = run(None, model, "--target", board, "-o", tmp_path / "out.hpcc")
    assert done.returncode == 1
    assert "unknown key 'diagonal' in [decode]" in done.stderr


def test_a_board_and_a_pass_are_known_by_name(model: Path, tmp_path: Path) -> None:
    workshop = installed(WORKSHOP, tmp_path)
    listed = run(workshop, "--list-targets")
    assert "fpga-workbench" in listed.stdout
    assert "fpga-workbench" not in run(None, "--list-targets").stdout
    done = run(workshop, model, "--target", "fpga-workbench", "--json", "-o", tmp_path / "out.hpcc")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["report"]["target"]["name"] == "fpga-workbench"
    assert document["run"]["verify"]["bit_exact"]
    passes = 'hpcc-fuse,workshop-count-linears{role="attn"}'
    counted = run(workshop, model, "-p", passes, command=OPT)
    assert counted.returncode == 0, counted.stderr
    assert "workshop.linears = 4 : i64" in counted.stdout
    unknown = run(None, model, "-p", passes, command=OPT)
    assert unknown.returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("target", ["fpga-u280", "cpu-avx2", "gpu-sm80"])
def test_a_pass_takes_part_in_a_compilation(target: str, model: Path, tmp_path: Path) -> None:
    """What the package's pass writes is in the module when its stage ends, and the program is made all the same."""
    workshop = installed(WORKSHOP, tmp_path)
    more = ("--pass-after", 'fuse:workshop-count-linears{role="attn"}', "--sparsity", "nm:2:4")
    stages = tmp_path / "stages"
    options = (*more, "--emit", "program", "--dump-stages", stages, "-q", "-o", tmp_path / "out.hpcc")
    done = run(workshop, model, "--target", target, *options)
    assert (done.returncode, done.stderr) == (0, "")
    texts = {file.stem.partition(".")[2]: file.read_text(encoding="utf-8") for file in stages.glob("*.mlir")}
    assert "workshop.linears" not in texts["import"]
    assert "workshop.linears = 4 : i64" in texts["fuse"]
    told = run(workshop, "--print-pipeline", "--target", target, *more[:2]).stdout
    assert 'workshop-count-linears{role="attn"}' in next(line for line in told.splitlines() if line.startswith("fuse"))


def test_a_pass_that_changes_weights_is_what_is_compared(model: Path, tmp_path: Path) -> None:
    """After `sparsify` a pass may change values: the reference has the same ones."""
    workshop = installed(WORKSHOP, tmp_path)
    bundle = tmp_path / "out.hpcc"
    done = run(workshop, model, "--target", "fpga-u280", "--pass-after", "sparsify:workshop-halve", "--json", "-o", bundle)
    assert (done.returncode, done.stderr) == (0, "")
    outcome = json.loads(done.stdout)["run"]
    assert outcome["verify"]["bit_exact"]
    assert all(output["passed"] for output in outcome["verify"]["outputs"])
    assert outcome["damage"]["mean_sample_cosine"] < 0.9999
    without = run(None, model, "--target", "fpga-u280", "--pass-after", "sparsify:workshop-halve", "-o", bundle)
    assert without.returncode == 2
    assert "[HPCC2062]" in without.stderr
