"""Fills report.json and run.json of a CPU bundle; see steps_reporting.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compiler.backends.cpu.printer import CModel
from compiler.dialects.cpu import Kernel
from compiler.passes.sparsify import PruningSummary
from compiler.sparsity.base import Pattern
from compiler.tools import cpu_report as forms
from compiler.tools.inputs import InputSet
from compiler.tools.steps_report import StepReason, StepsMemoryPart
from compiler.tools.steps_reporting import Row, StepsRunFacts, dense_sizes, memory_parts, report_parts, rows_of, run_parts
from hw_targets.cpu import CpuTarget
from runtime.cpu.manifest import CpuManifest
from runtime.cpu.program import CpuProgram


def build_cpu_report(
    model: CModel,
    manifest: CpuManifest,
    target: CpuTarget,
    precision: str,
    samples: InputSet,
    asked: Pattern | None,
    pruning: PruningSummary,
) -> forms.CpuReport:
    """report.json. `pruning` is that of the module after `sparsify`."""
    dense = dense_sizes(model)
    return forms.CpuReport(
        **report_parts(model, manifest, precision, samples, asked, pruning),
        target=forms.CpuTargetPart(name=target.name, kind=target.kind, isa=target.isa, unverified=target.unverified()),
        memory=StepsMemoryPart(**memory_parts(model, 4 * sum(dense.values()))),
        layers=tuple(_layer(row, dense) for row in rows_of(model, pruning, asked)),
    )


def _layer(row: Row, dense: Mapping[str, int]) -> forms.CpuLayerPart:
    reason = reason_of(row)
    dense_bytes = 4 * dense[row.linear.role] if row.linear is not None else 0
    return forms.CpuLayerPart(**row.parts(forms.CPU_EXPLANATIONS[reason], dense_bytes), reason=reason)


def reason_of(row: Row) -> StepReason | forms.CpuReason:
    """Why this layer got the speed-up it got, or why not more."""
    if row.common_reason is not None or row.linear is None:
        return row.common_reason or StepReason.NO_WEIGHTS
    kernel: Kernel = row.linear.packed.kernel
    match kernel:
        case Kernel.DENSE:
            return forms.CpuReason.FASTER_DENSE
        case Kernel.SINGLES:
            return forms.CpuReason.SINGLES
        case Kernel.TILES:
            return forms.CpuReason.TILED if row.shares_inputs else forms.CpuReason.MIXED
        case Kernel.BYTES if row.linear.packed.shared:
            return forms.CpuReason.FASTER_DENSE
        case Kernel.VECTORS | Kernel.BYTES:
            return forms.CpuReason.FULL if row.shares_inputs else forms.CpuReason.PADDED
        case Kernel.PICKS:
            return forms.CpuReason.PICKED if row.shares_inputs else forms.CpuReason.UNEVEN


def build_cpu_run_report(
    run: StepsRunFacts, program: CpuProgram | None, report: forms.CpuReport, model: CModel, output: Path | None, source: str
) -> forms.CpuRunReport:
    """run.json; `program` is None if nothing was run."""
    build = {} if program is None or program.bundle.build is None else program.bundle.build.model_dump()
    manifest = None if program is None else program.manifest
    return forms.CpuRunReport(
        **run_parts(run, report.layers, model, manifest, output, source),
        threads=program.threads if program is not None else 0,
        build={name: value if isinstance(value, str) else " ".join(value) for name, value in build.items()},
    )
