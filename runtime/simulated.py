"""`hpcc.simulate`: what a program takes on its accelerator, with or without values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_targets.errors import UsageError
from runtime.buckets import BucketProgram
from runtime.inference_session import AnyProgram, open_program
from runtime.ledger import LayerCycles, Roofline
from runtime.program import Program


@dataclass(frozen=True)
class Simulated:
    """One batch on the accelerator: cycles, simulated milliseconds, what bounds it, cycles by layer; outputs by name,
    empty without inputs."""

    cycles: int
    accelerator_ms: float
    transfer_ms: float
    roofline: Roofline
    layers: tuple[LayerCycles, ...]
    outputs: Mapping[str, NDArray[Any]]


def simulate_program(
    source: str | PathLike[str] | AnyProgram, inputs: Mapping[str, NDArray[Any]] | None = None
) -> Simulated:
    """See `hpcc.simulate`. Of a bundle of several shapes the smallest that holds the inputs, without inputs the largest."""
    program = source if isinstance(source, AnyProgram) else open_program(Path(source))
    outputs: Mapping[str, NDArray[Any]] = {}
    if isinstance(program, BucketProgram):
        entry = program.largest
        if inputs is not None:
            entry, result = program.run({name: np.asarray(array) for name, array in inputs.items()})
            outputs = result.outputs
        program = program.program(entry.name)
    elif isinstance(program, Program):
        outputs = {} if inputs is None else program.run(inputs).outputs
    else:
        message = f"{type(program).__name__} has no cycles to count: it runs and is measured"
        raise UsageError("HPCC2055", message, hint="hpcc.load(BUNDLE).run(inputs)")
    timing = program.timing()
    return Simulated(
        timing.total, program.accelerator_ms, program.transfer_ms, program.roofline(), tuple(program.layers()), outputs
    )
