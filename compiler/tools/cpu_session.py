"""One `hpcc` run for a CPU: the stages, C and weights, the build, the measured run, verification, report."""

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

from compiler.backends.cpu.build import CCompiler, find_compiler
from compiler.backends.cpu.printer import CModel, print_c
from compiler.tools.baseline import COMPARISON, baseline_section, comparison_text
from compiler.tools.compiled import raise_if_wrong
from compiler.tools.cpu_packaging import add_library, write_bundle
from compiler.tools.cpu_report import CpuReport, CpuRunReport
from compiler.tools.cpu_reporting import CpuRunFacts, build_cpu_report, build_cpu_run_report
from compiler.tools.cpu_summary import print_cpu_summary
from compiler.tools.options import Options
from compiler.tools.reference import token_rows
from compiler.tools.report import text_of
from compiler.tools.steps_session import StepsSession
from compiler.tools.stepwise import FLOAT_LIMIT
from hw_targets.cpu import CpuTarget
from hw_targets.errors import UsageError
from runtime.batches import BatchResult
from runtime.bundle import Room
from runtime.compare import Difference
from runtime.cpu.bundle import load_cpu_bundle
from runtime.cpu.program import CpuProgram
from runtime.html.report import report_page

Array = NDArray[Any]
ROUNDS = 5
"""Runs whose median is the latency of a summary, after one that warms the caches; as many for the times of layers."""


@dataclass(frozen=True)
class CpuCompiled:
    """A compiled model. `outputs` are those of the run's samples by name, none if nothing was run."""

    program: CpuProgram
    report: CpuReport
    run_report: CpuRunReport
    outputs: Mapping[str, Array]
    failure: str = ""
    """What the verification found, empty if it found nothing."""
    comparison: Difference | None = None
    """With the baseline, if one was asked for."""
    scratch: Any = None
    """The temporary folder that holds the bundle, if nothing was to be written."""

    def run(self, inputs: Mapping[str, Array]) -> BatchResult:
        """Run samples of any number and of any length up to the compiled one. Raises InputError for what does not fit."""
        return self.program.run(inputs)

    def save(self, path: Path) -> None:
        """Write a copy of the bundle. An older bundle is replaced, anything else stays."""
        with Room(path) as room:
            shutil.copytree(self.program.bundle.folder, room.folder)
            room.publish()

    def raise_if_wrong(self, bundle: Path | None) -> None:
        """Raises VerificationError if the results were not the reference's; `bundle` is where it was saved."""
        raise_if_wrong(self.failure, bundle)


class CpuSession(StepsSession):
    """The state of one run for a CPU; see Session."""

    program_forms: ClassVar[tuple[str, ...]] = ("c", "program")
    default_precision: ClassVar[str] = "fp32"

    def __init__(self, options: Options, target: CpuTarget) -> None:
        super().__init__(options, target)
        self.cpu = target
        self.compiler: CCompiler | None = None

    def _check_precision(self) -> None:
        assert isinstance(self.machine, CpuTarget)
        if self.precision not in ("fp32", "int8"):
            super()._check_precision()
        if self.precision == "int8" and not self.machine.instructions.has_bytes:
            message = f"target {self.machine.name!r} ({self.machine.isa}) has no instruction for int8 products"
            raise UsageError("HPCC2019", message, hint="--precision fp32, or --target cpu-avx512-vnni")

    def _load(self) -> str:
        if self.options.makes_program:
            self.compiler = find_compiler(self.cpu.instructions)  # before anything slow: it may be missing
        return super()._load()

    def _print_source(self) -> None:
        sys.stdout.write(self._print_c().source)

    def _print_summary(self, compiled: Any, output: Path) -> None:
        print_cpu_summary(compiled.report, compiled.run_report, output, verbose=self.options.verbose)

    # ---- the bundle -------------------------------------------------------------------------------------------------

    def _print_c(self) -> CModel:
        self.progress.start("print")
        began = time.perf_counter()
        model = print_c(self.module, self.store, self.cpu)
        self.seconds["print"] = time.perf_counter() - began
        return model

    def _compiled_to(self, output: Path, scratch: Any) -> CpuCompiled:
        """Write the bundle, built, run and verified unless the options stop before."""
        model = self._print_c()
        borders = self._borders(model.outputs, model.output_shapes)
        with Room(output) as room:
            manifest = write_bundle(room, model, borders, self.cpu, self._facts(), self.hosts)
            self._build(room)
            bundle = load_cpu_bundle(room.folder)
            report = build_cpu_report(model, manifest, self.cpu, self.precision, self.samples, self.asked, self.pruning)
            run = CpuRunFacts(self.seconds)
            outputs: dict[str, Array] = {}
            ran: CpuProgram | None = None
            if self.options.emit != "program" and self.cpu.runs_here():
                ran = CpuProgram(bundle)
                outputs = self._run(ran, run)
            where = None if scratch is not None else output
            run_report = build_cpu_run_report(run, ran, report, model, where, self.options.model)
            room.write("report.json", text_of(report))
            room.write("run.json", text_of(run_report))
            comparison = self._compare_with_baseline(where, report, run_report)
            if comparison is not None:
                room.write(COMPARISON, comparison_text(comparison))
            told, ran_as, described = (part.model_dump(mode="json") for part in (report, run_report, manifest))
            room.write("report.html", report_page(told, ran_as, described, extra=baseline_section(comparison)))
            room.publish()
            bundle = replace(bundle, folder=room.folder)
        program = CpuProgram(bundle) if ran is None else ran.moved_to(bundle)
        return CpuCompiled(program, report, run_report, outputs, run.failed, comparison, scratch)

    def _build(self, room: Room) -> None:
        assert self.compiler is not None
        self.progress.start("build")
        began = time.perf_counter()
        add_library(room, self.compiler)
        self.seconds["build"] = time.perf_counter() - began

    # ---- the run ----------------------------------------------------------------------------------------------------

    def _run(self, program: CpuProgram, run: CpuRunFacts) -> dict[str, Array]:
        """The outputs of every sample, timed, and compared with ONNX Runtime."""
        self.progress.start("run")
        result = program.run(self.samples.arrays)
        run.samples = self.samples.count
        for _ in range(ROUNDS):
            timed = program.run(self.batches[0])
            run.device_ms += timed.device_ms
            run.host_ms += timed.host_ms
        run.step_seconds = program.profile(self.batches[0], ROUNDS)
        if self.options.verify and self.imported is not None:
            self.progress.start("verify")
            self._compare(self.imported, result.outputs, run)
        return result.outputs

    def _limits(self, wanted: Array, mask: Array | None) -> dict[str, Any]:
        """As every stage in floating point: the largest error is at most 1e-4 of the rms over the tokens that count.

        int8 is held to the limits of integer results, which are `distance`'s own."""
        if self.options.atol is not None or self.precision == "int8":
            return super()._limits(wanted, mask)
        rows = token_rows(wanted, mask).astype(np.float64)
        return {
            "rtol": self.options.rtol,
            "atol": FLOAT_LIMIT * float(np.sqrt(np.mean(np.square(rows)))) if rows.size else 0.0,
        }
