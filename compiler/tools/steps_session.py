"""What runs for CPUs and GPUs share: a program in steps, of which a bundle is written and then run for real."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp, TensorType

from compiler.backends.image import StepsModel
from compiler.module import main_function, names_of
from compiler.passes.sparsify import PruningSummary, pruning_summary
from compiler.pipelines import Stage
from compiler.tools.baseline import COMPARISON, baseline_section, comparison_text, print_comparison
from compiler.tools.compiled import raise_if_wrong
from compiler.tools.model_facts import NUMPY_DTYPES
from compiler.tools.options import Options
from compiler.tools.reference import token_rows
from compiler.tools.report import text_of
from compiler.tools.session import Array, Session
from compiler.tools.steps_report import StepsReport, StepsRunReport
from compiler.tools.steps_reporting import StepsRunFacts
from compiler.tools.stepwise import FLOAT_LIMIT
from hw_targets.cpu import CpuTarget
from hw_targets.errors import UsageError
from hw_targets.gpu import GpuTarget
from runtime.bundle import Room
from runtime.compare import Difference
from runtime.html.report import report_page
from runtime.manifest import TensorEntry
from runtime.steps.batches import BatchProgram, BatchResult
from runtime.steps.manifest import StepsManifest

Model = TypeVar("Model", bound=StepsModel[Any])
Manifest = TypeVar("Manifest", bound=StepsManifest)
Prog = TypeVar("Prog", bound=BatchProgram[Any])
Report = TypeVar("Report", bound=StepsReport)
RunReport = TypeVar("RunReport", bound=StepsRunReport)


@dataclass(frozen=True)
class StepsCompiled(Generic[Prog, Report, RunReport]):
    """A compiled model. `outputs` are those of the run's samples by name, none if nothing was run."""

    program: Prog
    report: Report
    run_report: RunReport
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
            shutil.copytree(self.program.bundle.folder, room.folder, dirs_exist_ok=True)
            room.publish()

    def raise_if_wrong(self, bundle: Path | None) -> None:
        """Raises VerificationError if the results were not the reference's; `bundle` is where it was saved."""
        raise_if_wrong(self.failure, bundle)


class StepsSession(Session, Generic[Model, Manifest, Prog, Report, RunReport]):
    """The state of one run; see Session."""

    program_type: ClassVar[Any]
    """The program that a bundle is loaded as."""
    compiled_type: ClassVar[Any]
    """What a run ends with."""

    def __init__(self, options: Options, target: CpuTarget | GpuTarget) -> None:
        super().__init__(options, target)
        self.pruning = PruningSummary(())
        if options.timing_only:
            message = "--timing-only counts cycles of an accelerator"
            hint = f"leave it out: a {self.kind.upper()} program is run and measured"
            raise UsageError("HPCC2603", message, hint=hint)

    @abstractmethod
    def _printed(self) -> Model:
        """The source and weights of the module."""

    @abstractmethod
    def _write(self, room: Room, model: Model) -> Manifest:
        """Write and build all of a bundle but the reports."""

    @abstractmethod
    def _what_is_missing(self) -> str:
        """What this machine lacks to run the program, empty if nothing."""

    @abstractmethod
    def _measure(self, program: Prog, run: StepsRunFacts) -> None:
        """Take times of the first batch."""

    @abstractmethod
    def _report(self, model: Model, manifest: Manifest) -> Report:
        """report.json."""

    @abstractmethod
    def _run_report(
        self, run: StepsRunFacts, program: Prog | None, report: Report, model: Model, output: Path | None
    ) -> RunReport:
        """run.json; `program` is None if nothing was run."""

    @abstractmethod
    def _print_summary(self, report: Report, run: RunReport, output: Path) -> None:
        """What a person reads after a run."""

    def _produce(self, output: Path) -> int:
        """The source code, if that is asked for; else the bundle, and what came out."""
        if self.options.emit == self.program_forms[0]:
            sys.stdout.write(self._timed_print().source)
            return 0
        compiled = self._compiled_to(output, None)
        self.progress.stop()
        if self.options.json:
            self._print_json(compiled.report, compiled.run_report)
        elif not self.options.quiet:
            self._print_summary(compiled.report, compiled.run_report, output)
            print_comparison(compiled.comparison, self.options.baseline)
        compiled.raise_if_wrong(output)
        return 0

    def compile(self) -> Any:
        """The program with its reports, run and verified as the options ask; a bundle only where they name one.

        Raises VerificationError where the results are wrong; the bundle is kept for a look.
        """
        start = self._load()
        self._stages(start, self.stage_names[-1])
        if self.options.output is not None:
            compiled = self._compiled_to(Path(self.options.output), None)
            compiled.raise_if_wrong(Path(self.options.output))
            return compiled
        scratch = tempfile.TemporaryDirectory(prefix="hpcc-")
        compiled = self._compiled_to(Path(scratch.name) / "model.hpcc", scratch)
        compiled.raise_if_wrong(None)
        return compiled

    def _after_stage(self, stage: Stage, module: ModuleOp) -> None:
        super()._after_stage(stage, module)
        if stage.name == "sparsify":
            self.pruning = pruning_summary(module)

    def _after_load(self, stage: str) -> None:
        if stage == "sparsify":
            self.pruning = pruning_summary(self.module)

    # ---- the bundle -------------------------------------------------------------------------------------------------

    def _timed_print(self) -> Model:
        self.progress.start("print")
        began = time.perf_counter()
        model = self._printed()
        self.seconds["print"] = time.perf_counter() - began
        return model

    def _compiled_to(self, output: Path, scratch: Any) -> StepsCompiled[Prog, Report, RunReport]:
        """Write the bundle; run and verify it where that is possible, unless the options stop before."""
        model = self._timed_print()
        with Room(output) as room:
            manifest = self._write(room, model)
            program: Prog = self.program_type.load(room.folder)
            report = self._report(model, manifest)
            run = StepsRunFacts(self.seconds)
            run.not_run = "--emit program" if self.options.emit == "program" else self._what_is_missing()
            outputs = {} if run.not_run else self._run(program, run)
            where = None if scratch is not None else output
            run_report = self._run_report(run, None if run.not_run else program, report, model, where)
            room.write("report.json", text_of(report))
            room.write("run.json", text_of(run_report))
            comparison = self._compare_with_baseline(where, report, run_report)
            if comparison is not None:
                room.write(COMPARISON, comparison_text(comparison))
            told, ran_as, described = (part.model_dump(mode="json") for part in (report, run_report, manifest))
            room.write("report.html", report_page(told, ran_as, described, extra=baseline_section(comparison)))
            room.publish()
            program.moved_to(room.folder)
        return self.compiled_type(program, report, run_report, outputs, run.failed, comparison, scratch)

    def _borders(self, model: Model) -> dict[str, TensorEntry]:
        """The program's tensors by name, with the compiled shapes."""
        function = main_function(self.module)
        entries: dict[str, TensorEntry] = {}
        for name, type in zip(names_of(function, "input_names"), function.body.block.arg_types, strict=True):
            assert isinstance(type, TensorType)
            entries[name] = TensorEntry(name=name, dtype=NUMPY_DTYPES[str(type.element_type)], shape=tuple(type.get_shape()))
        for name, shape in zip(model.outputs, model.output_shapes, strict=True):
            entries[name] = TensorEntry(name=name, dtype="float32", shape=shape)
        return entries

    # ---- the run ----------------------------------------------------------------------------------------------------

    def _run(self, program: Prog, run: StepsRunFacts) -> dict[str, Array]:
        """The outputs of every sample, timed, and compared with ONNX Runtime."""
        self.progress.start("run")
        result = program.run(self.samples.arrays)
        run.samples = self.samples.count
        self._measure(program, run)
        if self.options.verify and self.imported is not None:
            self.progress.start("verify")
            self._compare(self.imported, result.outputs, run)
        return result.outputs

    def _limits(self, wanted: Array, mask: Array | None) -> dict[str, Any]:
        """As every stage in floating point: the largest error is at most FLOAT_LIMIT of the rms over the tokens that count.

        int8 is held to the limits of integer results, which are `distance`'s own."""
        if self.options.atol is not None or self.precision == "int8":
            return super()._limits(wanted, mask)
        rows = token_rows(wanted, mask).astype(np.float64)
        rms = float(np.sqrt(np.mean(np.square(rows)))) if rows.size else 0.0
        return {"rtol": self.options.rtol, "atol": FLOAT_LIMIT * rms}
