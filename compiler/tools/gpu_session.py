"""One `hpcc` run for a GPU: Triton and weights, and where a GPU or the interpreter is there, the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from compiler.backends.gpu.printer import TritonModel, print_triton
from compiler.tools.gpu_report import GpuReport, GpuRunReport
from compiler.tools.gpu_reporting import build_gpu_report, build_gpu_run_report
from compiler.tools.gpu_summary import print_gpu_summary
from compiler.tools.options import Options
from compiler.tools.session import Array
from compiler.tools.steps_packaging import write_bundle
from compiler.tools.steps_reporting import StepsRunFacts
from compiler.tools.steps_session import StepsCompiled, StepsSession
from hw_targets.gpu import GpuTarget
from runtime.bundle import Room
from runtime.gpu.bundle import SOURCE
from runtime.gpu.manifest import GpuManifest
from runtime.gpu.program import GpuProgram, missing_part

ROUNDS = 20
"""Runs on a GPU whose median is the latency of a summary."""

HALVES = {"fp16": 0.005, "bf16": 0.03}
"""The relative L2 error that a result in half precision may have; int8 is held to the limits of integer results, fp32 to
the largest error of every stage in fp32."""


@dataclass(frozen=True)
class GpuCompiled(StepsCompiled[GpuProgram, GpuReport, GpuRunReport]):
    """A model compiled for a GPU. `run` raises MissingToolError without one."""


class GpuSession(StepsSession[TritonModel, GpuManifest, GpuProgram, GpuReport, GpuRunReport]):
    """The state of one run for a GPU; see Session."""

    program_forms: ClassVar[tuple[str, ...]] = ("triton", "program")
    default_precision: ClassVar[str] = "fp16"
    program_type: ClassVar = GpuProgram
    compiled_type: ClassVar = GpuCompiled

    def __init__(self, options: Options, target: GpuTarget) -> None:
        super().__init__(options, target)
        self.gpu = target

    def _check_precision(self) -> None:
        """All precisions are there."""

    # ---- the bundle -------------------------------------------------------------------------------------------------

    def _printed(self) -> TritonModel:
        return print_triton(self.module, self.store, self.gpu, self.precision)

    def _write(self, room: Room, model: TritonModel) -> GpuManifest:
        own = {"target": self.gpu.snapshot(), "precision": self.precision}
        sources = {SOURCE: model.source}
        return write_bundle(room, GpuManifest, model, sources, self._borders(model), self._facts(), self.hosts, **own)

    def _what_is_missing(self) -> str:
        return missing_part()

    def _report(self, model: TritonModel, manifest: GpuManifest) -> GpuReport:
        return build_gpu_report(model, manifest, self.gpu, self.samples, self.asked, self.pruning)

    def _run_report(
        self, run: StepsRunFacts, program: GpuProgram | None, report: GpuReport, model: TritonModel, output: Path | None
    ) -> GpuRunReport:
        return build_gpu_run_report(run, program, report, model, output, self.options.model)

    def _print_summary(self, report: GpuReport, run: GpuRunReport, output: Path) -> None:
        print_gpu_summary(report, run, output, verbose=self.options.verbose)

    # ---- the run ----------------------------------------------------------------------------------------------------

    def _measure(self, program: GpuProgram, run: StepsRunFacts) -> None:
        """Times of a GPU: the interpreter's say nothing."""
        if program.interpreted:
            return
        run.device_ms = program.device_ms(self.batches[0], ROUNDS)
        run.host_ms = list(program.run(self.batches[0]).host_ms)
        run.step_seconds = program.profile(self.batches[0], ROUNDS)

    def _limits(self, wanted: Array, mask: Array | None) -> dict[str, Any]:
        """The limits of the precision over the tokens that count; see HALVES and docs/GPU.md."""
        if self.options.atol is None and self.precision in HALVES:
            return {"relative_l2": HALVES[self.precision]}
        return super()._limits(wanted, mask)
