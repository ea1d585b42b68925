"""One `hpcc` run for a CPU: C and weights, the build, the measured run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from compiler.backends.cpu.build import CCompiler, build_library, find_compiler
from compiler.backends.cpu.printer import CModel, print_c
from compiler.tools.cpu_report import CpuReport, CpuRunReport
from compiler.tools.cpu_reporting import build_cpu_report, build_cpu_run_report
from compiler.tools.cpu_summary import print_cpu_summary
from compiler.tools.options import Options
from compiler.tools.steps_packaging import write_bundle
from compiler.tools.steps_reporting import StepsRunFacts
from compiler.tools.steps_session import StepsCompiled, StepsSession
from hw_targets.cpu import CpuTarget
from hw_targets.errors import UsageError
from runtime.bundle import Room, digest
from runtime.cpu.bundle import BUILD, HEADER, LIBRARY, SOURCE, Build
from runtime.cpu.manifest import CpuManifest
from runtime.cpu.program import CpuProgram

ROUNDS = 5
"""Runs whose median is the latency of a summary, after one that warms the caches; as many for the times of layers."""


@dataclass(frozen=True)
class CpuCompiled(StepsCompiled[CpuProgram, CpuReport, CpuRunReport]):
    """A model compiled for a CPU."""


class CpuSession(StepsSession[CModel, CpuManifest, CpuProgram, CpuReport, CpuRunReport]):
    """The state of one run for a CPU; see Session."""

    program_forms: ClassVar[tuple[str, ...]] = ("c", "program")
    default_precision: ClassVar[str] = "fp32"
    program_type: ClassVar = CpuProgram
    compiled_type: ClassVar = CpuCompiled

    def __init__(self, options: Options, target: CpuTarget) -> None:
        super().__init__(options, target)
        self.cpu = target
        self.compiler: CCompiler | None = None

    def _check_precision(self) -> None:
        assert isinstance(self.machine, CpuTarget)
        if self.precision not in ("fp32", "int8"):
            super()._check_precision()
        if self.precision == "int8" and self.machine.instructions.int8 is None:
            message = f"target {self.machine.name!r} ({self.machine.isa}) has no int8 products"
            raise UsageError("HPCC2019", message, hint="--precision fp32")

    def _load(self) -> str:
        if self.options.makes_program:
            self.compiler = find_compiler(self.cpu.instructions)  # before anything slow: it may be missing
        return super()._load()

    # ---- the bundle -------------------------------------------------------------------------------------------------

    def _printed(self) -> CModel:
        return print_c(self.module, self.store, self.cpu)

    def _write(self, room: Room, model: CModel) -> CpuManifest:
        """Source, weights and manifest, then the library. Raises InputError if that cannot be built."""
        sources = {SOURCE: model.source, HEADER: model.header}
        borders, target = self._borders(model), self.cpu.snapshot()
        manifest = write_bundle(room, CpuManifest, model, sources, borders, self._facts(), self.hosts, target=target)
        assert self.compiler is not None
        self.progress.start("build")
        began = time.perf_counter()
        build_library(room.folder / SOURCE, room.folder / LIBRARY, self.compiler)
        library = digest((room.folder / LIBRARY).read_bytes())
        build = Build(compiler=self.compiler.version, flags=tuple(self.compiler.flags), library_digest=library)
        room.write(BUILD, build.model_dump_json(indent=1) + "\n")
        self.seconds["build"] = time.perf_counter() - began
        return manifest

    def _what_is_missing(self) -> str:
        return "" if self.cpu.runs_here() else f"this machine does not run {self.cpu.isa}"

    def _report(self, model: CModel, manifest: CpuManifest) -> CpuReport:
        return build_cpu_report(model, manifest, self.cpu, self.precision, self.samples, self.asked, self.pruning)

    def _run_report(
        self, run: StepsRunFacts, program: CpuProgram | None, report: CpuReport, model: CModel, output: Path | None
    ) -> CpuRunReport:
        return build_cpu_run_report(run, program, report, model, output, self.options.model)

    def _print_summary(self, report: CpuReport, run: CpuRunReport, output: Path) -> None:
        print_cpu_summary(report, run, output, verbose=self.options.verbose)

    # ---- the run ----------------------------------------------------------------------------------------------------

    def _measure(self, program: CpuProgram, run: StepsRunFacts) -> None:
        for _ in range(ROUNDS):
            timed = program.run(self.batches[0])
            run.device_ms += timed.device_ms
            run.host_ms += timed.host_ms
        run.step_seconds = np.asarray(program.profile(self.batches[0], ROUNDS))
