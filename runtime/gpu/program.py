"""A loaded GPU program: runs inputs of any length and number through its host segments and its Triton module.

program = GpuProgram.load(Path("bert.gpu-sm80.hp-0.75.hpcc"))
result = program.run({"input_ids": ids, "attention_mask": mask})

It runs on a GPU, or with TRITON_INTERPRET=1 in Triton's interpreter on the CPU. torch and triton are imported by the module
of the bundle, none of them here: what is missing is found out before.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hw_targets.errors import InfeasibleError, MissingToolError
from hw_targets.gpu import GpuTarget
from runtime.bundle import MANIFEST
from runtime.gpu.bundle import SOURCE, GpuBundle, load_gpu_bundle
from runtime.gpu.manifest import GpuManifest
from runtime.steps.batches import AnyArray, BatchProgram

INTERPRETER = "TRITON_INTERPRET"
"""The environment variable, Triton's own, that asks for its interpreter; 1 means yes."""


def is_interpreted() -> bool:
    return os.environ.get(INTERPRETER) == "1"


def missing_part() -> str:
    """What this machine lacks to run a Triton module, empty if nothing."""
    for name in ("torch", "triton"):
        if importlib.util.find_spec(name) is None:
            return f"the package {name!r} is not installed"
    if is_interpreted():
        return ""
    torch: Any = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return ""


class GpuProgram(BatchProgram[GpuBundle]):
    """A checked bundle, ready to run."""

    def __init__(self, bundle: GpuBundle, threads: int = 0) -> None:
        self.bundle = bundle
        self.threads = threads
        self.interpreted = is_interpreted()

    @classmethod
    def load(cls, path: Path | str, threads: int = 0) -> Self:
        """The program of a bundle folder. Raises InputError naming the damaged file."""
        return cls(load_gpu_bundle(Path(path)), threads)

    @property
    def manifest(self) -> GpuManifest:
        return self.bundle.manifest

    @cached_property
    def target(self) -> GpuTarget:
        return GpuTarget.from_snapshot(self.manifest.target, where=MANIFEST)

    @cached_property
    def module(self) -> Any:
        """model.py, imported. Raises MissingToolError where torch, triton or a GPU is missing, InfeasibleError where the
        GPU is older than the target."""
        _ = self.target  # damage is told before what is missing
        missing = missing_part()
        if missing:
            hint = f"pip install 'hpcc[gpu]' on a machine with a GPU, or {INTERPRETER}=1 for Triton's interpreter"
            raise MissingToolError("HPCC5204", f"cannot run here: {missing}", where=str(self.bundle.folder), hint=hint)
        self._check_device()
        name = f"hpcc_gpu_{self.manifest.digest[:16]}"
        spec = importlib.util.spec_from_file_location(name, self.bundle.folder / SOURCE)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a bundle stays as it is
        try:
            spec.loader.exec_module(module)
        finally:
            sys.dont_write_bytecode = written
        return module

    def _check_device(self) -> None:
        if self.interpreted:
            return
        torch: Any = importlib.import_module("torch")
        major, minor = torch.cuda.get_device_capability()
        if 10 * major + minor < self.target.capability:
            message = f"the program is for compute capability {self.target.capability / 10}, this GPU has {major}.{minor}"
            raise InfeasibleError("HPCC3502", message, where=str(self.bundle.folder), hint="compile for an older target")

    @cached_property
    def model(self) -> Any:
        """The module's model, its weights on the device."""
        return self.module.Model(self.bundle.folder / "weights.bin")

    @property
    def device(self) -> str:
        """What runs the program, in words."""
        if self.interpreted:
            return "Triton's interpreter on the CPU"
        torch: Any = importlib.import_module("torch")
        return str(torch.cuda.get_device_name())

    @property
    def by_marks(self) -> str:
        """Why 2:4 layers were not multiplied on sparse tensor cores; empty if they were, or there are none."""
        return str(self.model.by_marks)

    def _run_device(self, values: dict[str, AnyArray]) -> float:
        inputs = {entry.name: self._input(entry, values[entry.name]) for entry in self.manifest.inputs}
        model = self.model
        begin = time.perf_counter()
        made: Mapping[str, Any] = model(inputs) if self.interpreted else model.captured(inputs)
        outputs = {name: np.asarray(value.cpu().numpy()) for name, value in made.items()}
        taken = 1e3 * (time.perf_counter() - begin)
        values.update(outputs)
        return taken

    # ---- time -------------------------------------------------------------------------------------------------------

    def device_ms(self, inputs: Mapping[str, AnyArray], rounds: int) -> list[float]:
        """Milliseconds of a batch on the GPU, measured by CUDA events around the captured launches; inputs and outputs are
        on the device."""
        torch: Any = importlib.import_module("torch")
        model = self.model
        values = {entry.name: self._input(entry, inputs[entry.name]) for entry in self.manifest.inputs}
        model.captured(values)
        taken: list[float] = []
        for _ in range(rounds):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            model.graph.replay()
            end.record()
            end.synchronize()
            taken.append(float(begin.elapsed_time(end)))
        return taken

    def profile(self, inputs: Mapping[str, AnyArray], rounds: int) -> NDArray[np.float64]:
        """Seconds of every step for one batch on the GPU: of each the least of `rounds` runs, by CUDA events."""
        torch: Any = importlib.import_module("torch")
        model = self.model
        best = np.full(len(self.manifest.steps), np.inf)
        values = {entry.name: self._input(entry, inputs[entry.name]) for entry in self.manifest.inputs}

        def timed(number: int, step: Any) -> None:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            step()
            end.record()
            end.synchronize()
            best[number] = min(best[number], begin.elapsed_time(end) / 1e3)

        try:
            for number in range(rounds + 1):
                model.profile = timed if number else None  # the first run compiles
                model(values)
        finally:
            model.profile = None
        return best
