"""Fills report.json and run.json of a GPU bundle, with bounds at the target's rates; see steps_reporting.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.backends.gpu.packing import Packed
from compiler.backends.gpu.printer import TritonModel
from compiler.backends.image import LinearFacts
from compiler.dialects.gpu import Kernel
from compiler.passes.sparsify import PruningSummary
from compiler.sparsity.base import Pattern
from compiler.tools import gpu_report as forms
from compiler.tools.inputs import InputSet
from compiler.tools.steps_report import StepReason
from compiler.tools.steps_reporting import Row, StepsRunFacts, dense_sizes, memory_parts, report_parts, rows_of, run_parts
from hw_targets.gpu import ELEMENT_BYTES, GpuTarget
from runtime.gpu.manifest import GpuManifest
from runtime.gpu.program import GpuProgram


@dataclass(frozen=True)
class _Bound:
    """Milliseconds of a launch at the target's rates: of its products, of its bytes."""

    products_ms: float
    memory_ms: float

    @property
    def ms(self) -> float:
        return max(self.products_ms, self.memory_ms)

    @property
    def name(self) -> str:
        return "products" if self.products_ms > self.memory_ms else "memory"


def precision_of(linear: LinearFacts[Packed], precision: str) -> str:
    """What a linear is multiplied in: a program in int8 has layers on samples, which are in fp16."""
    return precision if linear.per_token or precision != "int8" else "fp16"


def _bounds(model: TritonModel, rows: Sequence[Row], target: GpuTarget, precision: str) -> list[_Bound]:
    seconds = [2 * step.macs / target.peak("fp16" if precision == "int8" else precision) for step in model.steps]
    for row in rows:
        if row.linear is not None:
            seconds[row.number] += 2 * row.macs / target.peak(precision_of(row.linear, precision))
    moved = (bytes / target.bytes_per_s for bytes in model.moved_bytes)
    return [_Bound(1e3 * products, 1e3 * memory) for products, memory in zip(seconds, moved, strict=True)]


def build_gpu_report(
    model: TritonModel,
    manifest: GpuManifest,
    target: GpuTarget,
    samples: InputSet,
    asked: Pattern | None,
    pruning: PruningSummary,
) -> forms.GpuReport:
    """report.json. `pruning` is that of the module after `sparsify`."""
    precision = manifest.precision
    rows = list(rows_of(model, pruning, asked))
    bounds = _bounds(model, rows, target, precision)
    sizes = dense_sizes(model)
    dense = {linear.role: ELEMENT_BYTES[precision_of(linear, precision)] * sizes[linear.role] for linear in model.linears}
    return forms.GpuReport(
        **report_parts(model, manifest, precision, samples, asked, pruning),
        target=forms.GpuTargetPart(
            name=target.name, kind=target.kind, capability=target.capability, unverified=target.unverified()
        ),
        memory=forms.GpuMemoryPart(**memory_parts(model, sum(dense.values())), moved_bytes=sum(model.moved_bytes)),
        roofline=forms.GpuRooflinePart(
            products_ms=sum(bound.products_ms for bound in bounds),
            memory_ms=sum(bound.memory_ms for bound in bounds),
            bound_ms=sum(bound.ms for bound in bounds),
        ),
        layers=tuple(_layer(row, rows, bounds[row.number], dense) for row in rows),
    )


def _layer(row: Row, rows: Sequence[Row], bound: _Bound, dense: Mapping[str, int]) -> forms.GpuLayerPart:
    reason = reason_of(row)
    together = [other.macs for other in rows if other.number == row.number]
    share = row.macs / sum(together) if sum(together) else 1 / len(together)
    linear = row.linear
    dense_bytes, tile = 0, ""
    if linear is not None:
        dense_bytes, tile = dense[linear.role], f"{linear.packed.rows}x{linear.packed.inputs}"
    return forms.GpuLayerPart(
        **row.parts(forms.GPU_EXPLANATIONS[reason], dense_bytes),
        tile=tile,
        bound_ms=bound.ms * share,
        bound=bound.name,
        reason=reason,
    )


def reason_of(row: Row) -> StepReason | forms.GpuReason:
    """Why this weight is multiplied as it is."""
    if row.common_reason is not None or row.linear is None:
        return row.common_reason or StepReason.NO_WEIGHTS
    kernel: Kernel = row.linear.packed.kernel
    match kernel:
        case Kernel.DENSE:
            return forms.GpuReason.FASTER_DENSE
        case Kernel.MARKS:
            return forms.GpuReason.MARKED
        case Kernel.SPARSE:
            return forms.GpuReason.SPARSE_CORES
        case Kernel.GATHER:
            return forms.GpuReason.SKIPPED if row.shares_inputs else forms.GpuReason.PADDED


def build_gpu_run_report(
    run: StepsRunFacts,
    program: GpuProgram | None,
    report: forms.GpuReport,
    model: TritonModel,
    output: Path | None,
    source: str,
) -> forms.GpuRunReport:
    """run.json; `program` is None if nothing was run. Times are there only where a GPU took them."""
    return forms.GpuRunReport(
        **run_parts(run, report.layers, model, None if program is None else program.manifest, output, source),
        device="" if program is None else program.device,
        not_run=run.not_run,
        by_marks="" if program is None else program.by_marks,
    )
