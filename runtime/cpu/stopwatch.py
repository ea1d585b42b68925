"""`python -m runtime.cpu.stopwatch BUNDLE INPUTS.npz`: the latency of a CPU bundle, alone in a process, as a line of JSON.

Every batch of the inputs is run in turn: what a text takes depends on its words.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hw_targets.errors import HpccError
from runtime.cpu.program import CpuProgram
from runtime.steps.batches import BatchProgram, Tensors

WARM_UP = 3
FEWEST, MOST = 21, 201
"""Runs that a median is of; more than the fewest only as long as `SECONDS` last."""
SECONDS = 1.5


@dataclass(frozen=True)
class Latency:
    """Medians in milliseconds of a batch: of all, and of its host parts; `spread_ms` lies between the quartiles."""

    batch_ms: float
    host_ms: float
    spread_ms: float
    runs: int
    threads: int


def latency_of(program: BatchProgram[Any], inputs: Tensors) -> Latency:
    """Run again and again, alone."""
    size, count = program.entries.batch, len(next(iter(inputs.values())))
    batches = [{name: array[at : at + size] for name, array in inputs.items()} for at in range(0, count - size + 1, size)]
    if not batches:  # fewer samples than a batch: the first one fills it
        rows = np.resize(np.arange(count), size)
        batches = [{name: array[rows] for name, array in inputs.items()}]
    for number in range(WARM_UP):
        program.run(batches[number % len(batches)])
    whole: list[float] = []
    host: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(whole) < FEWEST or (len(whole) < MOST and time.perf_counter() < end):
        result = program.run(batches[len(whole) % len(batches)])
        whole.extend(result.batch_ms)
        host.extend(result.host_ms)
    low, middle, high = (float(value) for value in np.percentile(whole, (25, 50, 75)))
    return Latency(middle, float(np.median(host)), high - low, len(whole), program.threads)


def main(arguments: Sequence[str]) -> int:
    bundle, inputs = arguments
    try:
        with np.load(inputs, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        print(json.dumps(asdict(latency_of(CpuProgram.load(bundle), arrays))))
    except HpccError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
