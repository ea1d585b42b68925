"""`python -m benchmarks.variants [MODEL.onnx]`: one model on many machines, cycles only: how long a sweep takes.

The machines are the boards' own with the array as wide, half as wide or a quarter, and the same of the vector lanes. The
model is lowered once up to `encode`; the rest is compiled and timed for every machine, on as many processes as asked for.
Seconds depend on the computer, cycles do not.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.boards import BOARDS
from benchmarks.workloads import l6_model
from compiler.tools.variants import Prepared, prepare
from hw_targets import resources
from hw_targets.errors import HpccError, InfeasibleError
from hw_targets.load import load_target
from hw_targets.target import Target

SHARES = (1, 2, 4)
"""By what the array's outputs and the lanes are divided."""
BUDGET = "budget 120 s for 100 on two cores"


def machines(boards: Sequence[str]) -> Iterator[Target]:
    """Every board with every part of its outputs and lanes that it can be built with."""
    for outputs, lanes in itertools.product(SHARES, SHARES):
        for board in boards:
            own = load_target(board)
            array = own.accelerator
            made = replace(own, accelerator=replace(array, outputs=array.outputs // outputs, lanes=array.lanes // lanes))
            try:
                resources.check(made)
            except InfeasibleError:
                continue
            yield replace(made, name=f"{board}, {made.accelerator.outputs} outputs, {made.accelerator.lanes} lanes")


def cycles_on(target: Target) -> tuple[str, int | None]:
    """(machine, cycles) of the model of this process; None where the model does not fit it."""
    try:
        return target.name, model.on(target).timing.total
    except InfeasibleError:
        return target.name, None


def share(prepared: Prepared) -> None:
    """The model of a worker process, once."""
    global model
    model = prepared


model: Prepared


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variants", description="One model on many machines.")
    parser.add_argument("model", nargs="?", type=Path, help="default: L6")
    parser.add_argument("--shape", default="1x128", help="batch x tokens (default 1x128)")
    parser.add_argument("--pattern", default="hp:0.75", help="default hp:0.75")
    parser.add_argument("--count", type=int, default=99, help="machines at most (default 99: all that can be built)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    options = parser.parse_args(arguments)
    shape = tuple(int(size) for size in options.shape.split("x"))
    try:
        began = time.perf_counter()
        prepared = prepare(options.model or l6_model(), {"input_ids": shape}, options.pattern)
        lowered = time.perf_counter()
        targets = list(itertools.islice(machines(BOARDS), options.count))
        forks = multiprocessing.get_context("fork")  # a module of the compiler is no thing to send to another process
        share(prepared)
        with forks.Pool(options.workers) as pool:
            found = list(pool.imap_unordered(cycles_on, targets))
    except HpccError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    ended = time.perf_counter()
    for name, cycles in sorted(found):
        print(f"{name:<44} {'does not fit' if cycles is None else f'{cycles:>12,}'}")
    rest = f"{len(found)} machines in {ended - lowered:.1f} s with {options.workers} processes"
    print(f"lowered once in {lowered - began:.1f} s; {rest} ({BUDGET})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
