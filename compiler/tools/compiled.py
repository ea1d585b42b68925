"""What a finished run holds: the program, its two reports, the outputs of the simulated samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from compiler.tools.report import Report, RunReport, text_of
from hw_targets.errors import VerificationError
from runtime.program import Program, RunResult
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

    def run(self, inputs: Mapping[str, Array]) -> RunResult:
        """Simulate samples (arrays by input name, the first axis counting them). Raises InputError for what does not fit."""
        return self.program.run(inputs)

    def save(self, path: Path) -> None:
        """Write the bundle with report.json, run.json and trace.json. An older bundle is replaced, anything else stays."""
        manifest = self.program.manifest
        clock = self.program.target.clock.mhz
        extras = {
            "report.json": text_of(self.report),
            "run.json": text_of(self.run_report),
            "trace.json": chrome_trace(self.program.timing(), clock, manifest.onnx_nodes, manifest.layers),
        }
        self.program.save(path, extras)

    def raise_if_wrong(self, bundle: Path | None) -> None:
        """Raises VerificationError if the results were not those of the references; `bundle` is where it was saved."""
        raise_if_wrong(self.failure, bundle)


def raise_if_wrong(failure: str, bundle: Path | None) -> None:
    """Raises VerificationError with what a verification found, unless it is empty; `bundle` is where it was saved."""
    if failure:
        where, hint = (str(bundle), "the bundle is kept for a look") if bundle is not None else ("", "")
        raise VerificationError("HPCC4001", failure, where=where, hint=hint)
