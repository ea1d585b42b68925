"""A loaded CPU program: runs inputs of any length and number through its host segments and its library, and times it.

program = CpuProgram.load(Path("bert.cpu-host.hp-0.75.hpcc"), threads=2)
result = program.run({"input_ids": ids, "attention_mask": mask})
result.outputs["logits"], result.batch_ms
"""

from __future__ import annotations

import os
import time
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hw_targets.cpu import CpuTarget
from hw_targets.errors import InfeasibleError, UsageError
from runtime.bundle import MANIFEST
from runtime.cpu.bundle import CpuBundle, load_cpu_bundle
from runtime.cpu.library import MAX_THREADS, Library
from runtime.cpu.manifest import CpuManifest
from runtime.steps.batches import AnyArray, BatchProgram, Tensors


def available_threads() -> int:
    """The processors that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(count or 1, MAX_THREADS))


class CpuProgram(BatchProgram[CpuBundle]):
    """A checked bundle, ready to run with `threads` (0: one for each processor)."""

    def __init__(self, bundle: CpuBundle, threads: int = 0) -> None:
        if threads > MAX_THREADS:
            raise UsageError("HPCC2604", f"--threads {threads} is more than {MAX_THREADS}")
        self.bundle = bundle
        self.threads = threads or available_threads()

    @classmethod
    def load(cls, path: Path | str, threads: int = 0) -> Self:
        """The program of a bundle folder. Raises InputError naming the damaged file."""
        return cls(load_cpu_bundle(Path(path)), threads)

    @property
    def manifest(self) -> CpuManifest:
        return self.bundle.manifest

    @cached_property
    def target(self) -> CpuTarget:
        return CpuTarget.from_snapshot(self.manifest.target, where=MANIFEST)

    @cached_property
    def library(self) -> Library:
        """Loaded, its threads started, at the first use. Raises InfeasibleError where the instructions are missing."""
        if not self.target.runs_here():
            message, hint = f"the program needs {self.target.isa}, which this machine does not have", "--target cpu-host"
            raise InfeasibleError("HPCC3304", message, where=str(self.bundle.folder), hint=f"compile for this one: {hint}")
        return Library(self.bundle.library, self.bundle.weights, self.threads)

    def _run_device(self, values: dict[str, AnyArray]) -> float:
        inputs = [self._input(entry, values[entry.name]) for entry in self.manifest.inputs]
        batch, tokens = inputs[0].shape
        outputs = [self._output(entry, batch, tokens) for entry in self.manifest.outputs]
        library = self.library
        begin = time.perf_counter()
        library.run(batch, tokens, inputs, outputs)
        taken = 1e3 * (time.perf_counter() - begin)
        values.update(zip((entry.name for entry in self.manifest.outputs), outputs, strict=True))
        return taken

    # ---- time -------------------------------------------------------------------------------------------------------

    def profile(self, inputs: Tensors, rounds: int) -> NDArray[np.float64]:
        """Seconds of every step for one batch: of each the least of `rounds` runs."""
        seconds = np.zeros(len(self.manifest.steps))
        best = np.full(len(seconds), np.inf)
        batch = {name: array[: self.manifest.batch] for name, array in inputs.items()}
        self.library.profile(seconds)
        try:
            for _ in range(rounds):
                seconds[:] = 0
                self.run(batch)
                best = np.minimum(best, seconds)
        finally:
            self.library.profile(None)
        return best
