"""What a finished run holds: the program, its two reports, the outputs of the simulated samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from compiler.tools.baseline import COMPARISON, baseline_section, comparison_text
from compiler.tools.report import Report, RunReport, text_of
from hw_targets.errors import VerificationError
from runtime.compare import Difference
from runtime.html.report import report_page
from runtime.program import Program, RunResult
from runtime.timeline import stretches
from runtime.trace import chrome_trace

Array = NDArray[Any]


@dataclass(frozen=True)
class Compiled:
    """A compiled model. `outputs` are those of the run's samples by name, none if no values were simulated."""

    program: Program
    report: Report
    run_report: RunReport
    outputs: Mapping[str, Array]
    failure: str = ""
    """What the verification found, empty if it found nothing."""
    comparison: Difference | None = None
    """With the baseline, if one was asked for and fits the target."""

    def run(self, inputs: Mapping[str, Array]) -> RunResult:
        """Simulate samples (arrays by input name, the first axis counting them). Raises InputError for what does not fit."""
        return self.program.run(inputs)

    def save(self, path: Path) -> None:
        """Write the bundle with report.json, run.json, report.html and trace.json. An older bundle is replaced, anything
        else stays."""
        self.program.save(path, self.files(self.program))

    def files(self, program: Program) -> dict[str, str]:
        """The reports of a bundle by file name; `program` is this one, or what it became when it was linked with others."""
        manifest, timing = program.manifest, program.timing()
        clock = program.target.clock.mhz
        extras = {
            "report.json": text_of(self.report),
            "run.json": text_of(self.run_report),
            "trace.json": chrome_trace(timing, clock, manifest.onnx_nodes, manifest.layers),
            "report.html": report_page(
                self.report.model_dump(mode="json"),
                self.run_report.model_dump(mode="json"),
                manifest.model_dump(mode="json"),
                stretches(timing, manifest.layers),
                baseline_section(self.comparison),
            ),
        }
        if self.comparison is not None:
            extras[COMPARISON] = comparison_text(self.comparison)
        return extras

    def raise_if_wrong(self, bundle: Path | None) -> None:
        """Raises VerificationError if the results were not those of the references; `bundle` is where it was saved."""
        raise_if_wrong(self.failure, bundle)


def raise_if_wrong(failure: str, bundle: Path | None) -> None:
    """Raises VerificationError with what a verification found, unless it is empty; `bundle` is where it was saved."""
    if failure:
        where, hint = (str(bundle), "the bundle is kept for a look") if bundle is not None else ("", "")
        raise VerificationError("HPCC4001", failure, where=where, hint=hint)
