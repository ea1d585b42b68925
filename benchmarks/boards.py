"""`python -m benchmarks.boards [MODEL.onnx ...]`: models on every shipped board, dense and pruned: latency and attained.

Cycles come from timing alone (`--timing-only`), so a table takes minutes and depends on no machine; every figure is
simulated. Without a model: BERT-base, or L3 where torch is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accelerator import hpcc_command
from benchmarks.commands import run
from benchmarks.workloads import generated_model, l3_model
from hw_targets.catalogue import list_targets
from hw_targets.errors import HpccError
from hw_targets.load import load_target

BOARDS = tuple(name for name, kind, _ in list_targets() if kind == "fpga")
PATTERNS = ("dense", "hp:0.75")
INFEASIBLE = 3


def table(model: Path, shape: str, boards: Sequence[str], patterns: Sequence[str], folder: Path) -> None:
    """One line for every board: its array, and for every pattern milliseconds and the share of the bound attained."""
    print(f"\n{model.name}, {shape}, simulated")
    heads = "".join(f" {pattern + ' ms':>12} {'attained':>8}" for pattern in patterns)
    print(f"{'board':<14} {'MAC/cycle':>9} {'lanes':>5} {'MHz':>4} {'DSP':>5}{heads}")
    for board in boards:
        target = load_target(board)
        dsp = target.resources()["dsp"]
        line = f"{board:<14} {target.accelerator.macs_per_cycle:>9,} {target.accelerator.lanes:>5}"
        line += f" {target.clock.mhz:>4g} {dsp['used'] / dsp['usable']:>5.0%}"
        for pattern in patterns:
            output = folder / "cell.hpcc"
            command = [*hpcc_command(model, board, shape, pattern, output), "--timing-only"]
            if run(command, allowed=(0, INFEASIBLE)).status == INFEASIBLE:
                line += f" {'does not fit':>12} {'':>8}"
                continue
            report = json.loads((output / "report.json").read_text())
            line += f" {report['latency']['accelerator_ms']:>12.3f} {report['roofline']['attained']:>8.2f}"
        print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boards", description="Models on every board.")
    parser.add_argument("models", nargs="*", type=Path, help="default: BERT-base, or L3 where torch is missing")
    parser.add_argument("--shape", default="1x128", help="batch x tokens (default 1x128)")
    parser.add_argument("--boards", nargs="+", default=BOARDS, help="default: all")
    parser.add_argument("--patterns", nargs="+", default=PATTERNS, help=f"default: {' '.join(PATTERNS)}")
    options = parser.parse_args()
    try:
        models = options.models or [_default_model()]
    except HpccError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    with tempfile.TemporaryDirectory(prefix="hpcc-bench-") as name:
        for model in models:
            table(model, options.shape, options.boards, options.patterns, Path(name))
    return 0


def _default_model() -> Path:
    try:
        return generated_model("bertbase")
    except HpccError as error:
        print(f"BERT-base: skipped, {error.message}; L3 in its place")
        return l3_model()


if __name__ == "__main__":
    sys.exit(main())
