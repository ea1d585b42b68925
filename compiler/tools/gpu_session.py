"""One `hpcc` run for a GPU: the stages, Triton and weights, and where a GPU or the interpreter is there, the run."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compiler.backends.gpu.printer import TritonModel, print_triton
from compiler.tools.baseline import COMPARISON, baseline_section, comparison_text
from compiler.tools.compiled import raise_if_wrong
from compiler.tools.gpu_packaging import write_bundle
from compiler.tools.gpu_report import GpuReport, GpuRunReport
from compiler.tools.gpu_reporting import GpuRunFacts, build_gpu_report, build_gpu_run_report
from compiler.tools.gpu_summary import print_gpu_summary
from compiler.tools.options import Options
from compiler.tools.reference import token_rows
from compiler.tools.report import text_of
from compiler.tools.steps_session import StepsSession
from compiler.tools.stepwise import FLOAT_LIMIT
from hw_targets.gpu import GpuTarget
from runtime.batches import BatchResult
from runtime.bundle import Room
from runtime.compare import Difference
from runtime.gpu.bundle import load_gpu_bundle
from runtime.gpu.program import GpuProgram, missing_part
from runtime.html.report import report_page

Array = NDArray[Any]
ROUNDS = 20
"""Runs on a GPU whose median is the latency of a summary."""

HALVES = {"fp16": 0.005, "bf16": 0.03}
"""The relative L2 error that a result in half precision may have; int8 is held to the limits of integer results, fp32 to
the largest error of every stage in fp32."""


@dataclass(frozen=True)
class GpuCompiled:
    """A compiled model. `outputs` are those of the run's samples by name, none if nothing was run."""

    program: GpuProgram
    report: GpuReport
    run_report: GpuRunReport
    outputs: Mapping[str, Array]
    failure: str = ""
    """What the verification found, empty if it found nothing."""
    comparison: Difference | None = None
    """With the baseline, if one was asked for."""
    scratch: Any = None
    """The temporary folder that holds the bundle, if nothing was to be written."""

    def run(self, inputs: Mapping[str, Array]) -> BatchResult:
        """Run samples of any number and of any length up to the compiled one. Raises InputError for what does not fit,
        MissingToolError without a GPU."""
        return self.program.run(inputs)

    def save(self, path: Path) -> None:
        """Write a copy of the bundle. An older bundle is replaced, anything else stays."""
        with Room(path) as room:
            shutil.copytree(self.program.bundle.folder, room.folder, dirs_exist_ok=True)
            room.publish()

    def raise_if_wrong(self, bundle: Path | None) -> None:
        """Raises VerificationError if the results were not the reference's; `bundle` is where it was saved."""
        raise_if_wrong(self.failure, bundle)


class GpuSession(StepsSession):
    """The state of one run for a GPU; see Session."""

    program_forms: ClassVar[tuple[str, ...]] = ("triton", "program")
    default_precision: ClassVar[str] = "fp16"

    def __init__(self, options: Options, target: GpuTarget) -> None:
        super().__init__(options, target)
        self.gpu = target

    def _check_precision(self) -> None:
        """All precisions are there."""

    def _print_source(self) -> None:
        sys.stdout.write(self._print_triton().source)

    def _print_summary(self, compiled: Any, output: Path) -> None:
        print_gpu_summary(compiled.report, compiled.run_report, output, verbose=self.options.verbose)

    # ---- the bundle -------------------------------------------------------------------------------------------------

    def _print_triton(self) -> TritonModel:
        self.progress.start("print")
        began = time.perf_counter()
        model = print_triton(self.module, self.store, self.gpu, self.precision)
        self.seconds["print"] = time.perf_counter() - began
        return model

    def _compiled_to(self, output: Path, scratch: Any) -> GpuCompiled:
        """Write the bundle; run and verify it where that is possible, unless the options stop before."""
        model = self._print_triton()
        with Room(output) as room:
            borders = self._borders(model.outputs, model.output_shapes)
            manifest = write_bundle(room, model, borders, self.gpu, self.precision, self._facts(), self.hosts)
            bundle = load_gpu_bundle(room.folder)
            report = build_gpu_report(model, manifest, self.gpu, self.samples, self.asked, self.pruning)
            run = GpuRunFacts(self.seconds)
            outputs: dict[str, Array] = {}
            ran: GpuProgram | None = None
            run.not_run = "--emit program" if self.options.emit == "program" else missing_part()
            if not run.not_run:
                ran = GpuProgram(bundle)
                outputs = self._run(ran, run)
            where = None if scratch is not None else output
            run_report = build_gpu_run_report(run, ran, report, model, where, self.options.model)
            room.write("report.json", text_of(report))
            room.write("run.json", text_of(run_report))
            comparison = self._compare_with_baseline(where, report, run_report)
            if comparison is not None:
                room.write(COMPARISON, comparison_text(comparison))
            told, ran_as, described = (part.model_dump(mode="json") for part in (report, run_report, manifest))
            room.write("report.html", report_page(told, ran_as, described, extra=baseline_section(comparison)))
            room.publish()
            bundle = replace(bundle, folder=room.folder)
        program = GpuProgram(bundle) if ran is None else ran.moved_to(bundle)
        return GpuCompiled(program, report, run_report, outputs, run.failed, comparison, scratch)

    # ---- the run ----------------------------------------------------------------------------------------------------

    def _run(self, program: GpuProgram, run: GpuRunFacts) -> dict[str, Array]:
        """The outputs of every sample, timed on a GPU, and compared with ONNX Runtime."""
        self.progress.start("run")
        result = program.run(self.samples.arrays)
        run.samples = self.samples.count
        if not program.interpreted:
            run.device_ms = program.device_ms(self.batches[0], ROUNDS)
            run.step_seconds = program.profile(self.batches[0], ROUNDS)
        if self.options.verify and self.imported is not None:
            self.progress.start("verify")
            self._compare(self.imported, result.outputs, run)
        return result.outputs

    def _limits(self, wanted: Array, mask: Array | None) -> dict[str, Any]:
        """The limits of the precision over the tokens that count; see HALVES and docs/GPU.md."""
        if self.options.atol is None and self.precision in HALVES:
            return {"relative_l2": HALVES[self.precision]}
        if self.options.atol is not None or self.precision != "fp32":
            return super()._limits(wanted, mask)
        rows = token_rows(wanted, mask).astype(np.float64)
        rms = float(np.sqrt(np.mean(np.square(rows)))) if rows.size else 0.0
        return {"rtol": self.options.rtol, "atol": FLOAT_LIMIT * rms}
