"""`python -m benchmarks.trials [MODEL.onnx]`: what the hardware side of a search takes, hpcc-explore's own trials.

A trial is one pattern on one board of the catalogue, sized for it where it is `auto`: the model is pruned and lowered once
a pattern, then compiled and timed on every board. Seconds depend on the computer, milliseconds of the boards do not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.boards import BOARDS
from benchmarks.workloads import l6_model
from compiler.explore.selection import Hardware
from compiler.explore.space import Algorithm
from compiler.frontend.onnx_file import open_onnx
from compiler.tools.exploring.hardware import time_on
from compiler.tools.exploring.workers import Outcome, workers
from hw_targets.errors import HpccError

PATTERNS = (
    *("dense", "nm:2:4", "nm:1:4", "nm:2:8", "nm:1:8", "nm:4:8", "nm:3:8", "nm:1:16", "nm:2:16", "nm:4:16"),
    *("hp:0.5", "hp:0.6", "hp:0.7", "hp:0.75", "hp:0.8", "hp:0.85", "hp:0.9", "column:0.5", "column:0.75"),
)
BUDGET = "budget 240 s for 200 on two cores"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trials", description="The hardware side of a search.")
    parser.add_argument("model", nargs="?", type=Path, help="default: L6")
    parser.add_argument("--tokens", type=int, default=64, help="of one sample (default 64)")
    parser.add_argument("--patterns", type=int, default=len(PATTERNS), help=f"how many (default all {len(PATTERNS)})")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    options = parser.parse_args(arguments)
    model = options.model or l6_model()
    patterns = PATTERNS[: options.patterns]
    try:
        inputs = [str(value.name) for value in open_onnx(model).model.graph.inputs if not value.is_initializer()]
        shapes = {name: (1, options.tokens) for name in inputs}
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, workers(options.workers, None) as executor:
            ready = time.perf_counter()
            calls = [(model, shapes, Algorithm(p, p), BOARDS, Path(folder), 0.0) for p in patterns]
            found = dict(executor.map(time_on, calls))
            ended = time.perf_counter()
    except HpccError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    for number, pattern in enumerate(patterns):
        print(f"{pattern:<12} {_line(found[number])}")
    rest = f"{len(patterns) * len(BOARDS)} trials in {ended - ready:.1f} s with {options.workers} processes"
    print(f"workers ready after {ready - began:.1f} s; {rest} ({BUDGET})")
    return 0


def _line(outcome: Outcome) -> str:
    """Milliseconds of every board, `-` where it does not fit, or what went wrong."""
    if outcome.error:
        return outcome.error
    found: list[Hardware] = outcome.value
    return " ".join("     -" if one.problem else f"{one.accelerator_ms:6.3f}" for one in found)


if __name__ == "__main__":
    sys.exit(main())
