"""`make bench`: the budgets that the first release states, measured on this machine, one line each."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.commands import Measured, run
from benchmarks.workloads import l3_model
from compiler.tools.inputs import SEED
from hw_targets.errors import HpccError

PACKAGES = ("hpcc", "numpy", "onnx", "onnxruntime", "xdsl")
ROOT = Path(__file__).parents[1]


def best_of(times: int, command: Sequence[str]) -> Measured:
    return min((run(command) for _ in range(times)), key=lambda measured: measured.seconds)


def report(what: str, measured: Measured, budget: str) -> None:
    print(f"{what:<58} {measured.seconds:8.2f} s {measured.peak_mb:8.0f} MB   {budget}")


def conditions() -> str:
    """What a reader has to know to compare the figures: machine, versions, commit, seed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{platform.system()} {platform.machine()}, {cores} cores; Python {platform.python_version()}, {versions}\n"
        f"commit {commit()}; made-up inputs of seed {SEED}; best of 5 for the first two, else one run each\n"
    )


def commit() -> str:
    """The commit of this checkout, with a + if files have changed; "unknown" without git."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else "unknown"


def main() -> int:
    print(conditions())
    tool = str(Path(sys.executable).with_name("hpcc"))
    report("hpcc --help", best_of(5, [tool, "--help"]), "budget 0.3 s")
    report("hpcc --list-targets", best_of(5, [tool, "--list-targets"]), "budget 0.3 s")
    try:
        model = str(l3_model())
    except HpccError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    with tempfile.TemporaryDirectory() as folder:
        common = [tool, model, "--target", "fpga-u280", "--shape", "input_ids:1x128", "-q", "-o", f"{folder}/l3.hpcc"]
        for pattern in ("dense", "nm:2:4", "hp:0.75"):
            command = [*common, "--sparsity", pattern]
            report(f"L3 {pattern}: compile", run([*command, "--emit", "program", "--no-verify"]), "")
            report(f"L3 {pattern}: compile, simulate, verify", run(command), "budget of the demo 60 s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
