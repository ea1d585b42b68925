"""A loaded CPU program: runs inputs of any length and number through its host segments and its library, and times it.

program = CpuProgram.load(Path("bert.cpu-host.hp-0.75.hpcc"), threads=2)
result = program.run({"input_ids": ids, "attention_mask": mask})
result.outputs["logits"], result.batch_ms
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_targets.cpu import CpuTarget
from hw_targets.errors import InfeasibleError, InputError, UsageError
from runtime.bundle import MANIFEST
from runtime.cpu.bundle import CpuBundle, load_cpu_bundle
from runtime.cpu.library import MAX_THREADS, Library
from runtime.cpu.manifest import CpuManifest, DeviceEntry
from runtime.host import HostSegment
from runtime.manifest import TensorEntry

AnyArray = NDArray[Any]
Tensors = Mapping[str, AnyArray]


@dataclass(frozen=True)
class CpuRunResult:
    """Outputs by name; milliseconds of each batch in the library and in host segments, in order."""

    outputs: dict[str, AnyArray]
    device_ms: tuple[float, ...]
    host_ms: tuple[float, ...]

    @property
    def batch_ms(self) -> tuple[float, ...]:
        """Milliseconds of each batch, both parts."""
        return tuple(device + host for device, host in zip(self.device_ms, self.host_ms, strict=True))


def available_threads() -> int:
    """The processors that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(count or 1, MAX_THREADS))


class CpuProgram:
    """A checked bundle, ready to run with `threads` (0: one for each processor)."""

    def __init__(self, bundle: CpuBundle, threads: int = 0) -> None:
        if threads > MAX_THREADS:
            raise UsageError("HPCC2604", f"--threads {threads} is more than {MAX_THREADS}")
        self.bundle = bundle
        self.threads = threads or available_threads()

    def moved_to(self, bundle: CpuBundle) -> CpuProgram:
        """This program, which goes on with what it has loaded, after its folder was renamed."""
        self.bundle = bundle
        return self

    @classmethod
    def load(cls, path: Path | str, threads: int = 0) -> CpuProgram:
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

    @cached_property
    def _host(self) -> dict[str, HostSegment]:
        segments = self.manifest.host_segments
        return {entry.file: HostSegment(entry, self.bundle.host[entry.file], self.threads) for entry in segments}

    @property
    def id_limits(self) -> Mapping[str, int]:
        """Rows of the smallest table that each input is looked up in."""
        return self.manifest.id_limits

    # ---- values -----------------------------------------------------------------------------------------------------

    def run(self, inputs: Tensors) -> CpuRunResult:
        """Run samples of any number and any length up to the compiled one, in batches of at most the compiled size.

        Raises InputError for names, types, shapes or token ids that the program does not take.
        """
        checked = self._checked(inputs)
        samples = len(next(iter(checked.values())))
        parts: dict[str, list[AnyArray]] = {entry.name: [] for entry in self.manifest.model_outputs}
        device: list[float] = []
        host: list[float] = []
        for start in range(0, samples, self.manifest.batch):
            values = {name: array[start : start + self.manifest.batch] for name, array in checked.items()}
            taken = self._run_batch(values)
            device.append(taken[0])
            host.append(taken[1])
            for name, found in parts.items():
                found.append(values[name])
        outputs = {name: found[0] if len(found) == 1 else np.concatenate(found) for name, found in parts.items()}
        return CpuRunResult(outputs, tuple(device), tuple(host))

    def _run_batch(self, values: dict[str, AnyArray]) -> tuple[float, float]:
        """Add what the segments make to `values`; milliseconds of the library and of the host."""
        device = host = 0.0
        for segment in self.manifest.segments:
            if isinstance(segment, DeviceEntry):
                device += self._run_library(values)
            else:
                made, seconds = self._host[segment.file].run(values)
                host += 1e3 * seconds
                values.update(made)
        return device, host

    def _run_library(self, values: dict[str, AnyArray]) -> float:
        inputs = [self._input(entry, values[entry.name]) for entry in self.manifest.inputs]
        batch, tokens = inputs[0].shape
        outputs = [self._output(entry, batch, tokens) for entry in self.manifest.outputs]
        library = self.library
        begin = time.perf_counter()
        library.run(batch, tokens, inputs, outputs)
        taken = 1e3 * (time.perf_counter() - begin)
        values.update(zip((entry.name for entry in self.manifest.outputs), outputs, strict=True))
        return taken

    def _input(self, entry: TensorEntry, array: AnyArray) -> AnyArray:
        limit = self.id_limits.get(entry.name)
        if limit is not None and array.size and (array.min() < 0 or array.max() >= limit):
            worst = array.min() if array.min() < 0 else array.max()
            message = f"input {entry.name!r} holds id {worst}, outside its table of {limit} rows"
            raise InputError("HPCC1274", message)
        return np.ascontiguousarray(array, np.dtype(entry.dtype))

    def _output(self, entry: TensorEntry, batch: int, tokens: int) -> AnyArray:
        features = entry.shape[-1]
        return np.empty((batch, tokens, features) if len(entry.shape) == 3 else (batch, features), np.float32)

    def _checked(self, inputs: Tensors) -> dict[str, AnyArray]:
        """The inputs in the model's types, all of one shape, samples x tokens."""
        entries = {entry.name: entry for entry in self.manifest.model_inputs}
        for name in inputs:
            if name not in entries:
                raise InputError("HPCC1271", f"the model has no input {name!r}", hint=f"it takes {', '.join(entries)}")
        checked: dict[str, AnyArray] = {}
        for name, entry in entries.items():
            if name not in inputs:
                raise InputError("HPCC1271", f"input {name!r} is missing")
            checked[name] = self._fitted(entry, np.asarray(inputs[name]))
        shapes = {array.shape for array in checked.values()}
        if len(shapes) > 1:
            told = ", ".join(f"{name} {array.shape}" for name, array in checked.items())
            raise InputError("HPCC1272", f"the inputs do not have one number of samples and tokens: {told}")
        return checked

    def _fitted(self, entry: TensorEntry, array: AnyArray) -> AnyArray:
        if array.ndim != 2 or not array.shape[0] or not 1 <= array.shape[1] <= self.manifest.tokens:
            found = "x".join(map(str, array.shape)) or "no axes"
            expected = f"samples x 1 to {self.manifest.tokens} tokens"
            raise InputError("HPCC1265", f"input {entry.name!r} has shape {found}, expected {expected}")
        wanted = np.dtype(entry.dtype)
        cast = array.astype(wanted)
        whole = wanted.kind in "iub" and array.dtype.kind in "iub"
        if not whole and (wanted.kind, array.dtype.kind) != ("f", "f"):
            raise InputError("HPCC1273", f"input {entry.name!r} is {array.dtype}, expected {wanted}")
        if whole and not (cast == array).all():
            raise InputError("HPCC1273", f"input {entry.name!r} ({array.dtype}) holds values that {wanted} does not")
        return cast

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
