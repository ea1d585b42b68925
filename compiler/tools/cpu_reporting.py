"""Fills the forms of a CPU bundle's report.json and run.json: the ledger from the packed weights, times from a profile."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compiler.backends.cpu.packing import Packed
from compiler.backends.cpu.printer import CModel
from compiler.backends.image import LinearFacts
from compiler.dialects.cpu import Kernel
from compiler.passes.sparsify import PRUNABLE, PruningSummary
from compiler.sparsity.base import Dense, Pattern
from compiler.tools import cpu_report as forms
from compiler.tools.hpcc import installed_version
from compiler.tools.inputs import InputSet
from compiler.tools.report import HostOpPart, HostOpTime, InputsPart, Milliseconds, ModelPart
from compiler.tools.reporting import (
    Comparison,
    damage_part,
    machine_part,
    now_text,
    pruning_part,
    verify_part,
)
from hw_targets.cpu import CpuTarget
from runtime.cpu.manifest import CpuManifest
from runtime.cpu.program import CpuProgram
from runtime.memory import peak_rss_mb

SHARED = 1.1
"""Up to this ratio of multiplications to weights, four rows count as sharing their inputs."""


@dataclass
class CpuRunFacts(Comparison):
    """What a run measured besides: milliseconds of batches, and seconds of each step for one batch."""

    device_ms: list[float] = field(default_factory=list)
    host_ms: list[float] = field(default_factory=list)
    step_seconds: NDArray[np.float64] | None = None


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
    entry = manifest.model
    values = sum(linear.packed.value_bytes for linear in model.linears)
    indices = sum(linear.packed.index_bytes for linear in model.linears)
    return forms.CpuReport(
        hpcc_version=installed_version(),
        model=ModelPart(name=entry.name, sha256=entry.sha256, parameters=entry.parameters, macs=entry.macs),
        target=forms.CpuTargetPart(name=target.name, kind=target.kind, isa=target.isa, unverified=target.unverified()),
        inputs=InputsPart(kind=samples.kind, source=samples.source, seed=samples.seed, count=samples.count),
        precision=precision,
        batch=model.batch,
        tokens=model.tokens,
        memory=forms.CpuMemoryPart(
            weights_dense_bytes=sum(4 * linear.outs * linear.ins for linear in model.linears),
            weights_packed_bytes=values + indices,
            value_bytes=values,
            index_bytes=indices,
            image_bytes=model.weights.size,
            activation_bytes=model.activation_bytes,
        ),
        pruning=pruning_part(pruning, asked, entry.parameters),
        layers=tuple(_layers(model, pruning, asked)),
        host_ops=tuple(
            HostOpPart(
                onnx_node=n.onnx_node, op=n.op, reason=n.reason, macs_share=n.macs / entry.macs if entry.macs else 0.0
            )
            for segment in manifest.host_segments
            for n in segment.nodes
        ),
    )


def _layers(model: CModel, pruning: PruningSummary, asked: Pattern | None) -> list[forms.CpuLayerPart]:
    """The ledger, in order of execution: the linears of a step, or the step itself."""
    left = {layer.role for layer in pruning.layers if layer.left_dense}
    zeros = {layer.role: layer.zeros for layer in pruning.layers}
    rows: list[forms.CpuLayerPart] = []
    for number, step in enumerate(model.steps):
        linears = [linear for linear in model.linears if linear.step == number]
        for linear in linears:
            rows.append(
                _linear_row(linear, model.batch * model.tokens, zeros.get(linear.role, 0), linear.role in left, asked)
            )
        if not linears:
            reason = forms.CpuReason.NO_WEIGHTS
            rows.append(
                forms.CpuLayerPart(
                    name=step.name,
                    onnx_node=step.onnx_node,
                    op=step.op,
                    pattern="",
                    kernel="",
                    density=1.0,
                    macs_dense=step.macs,
                    macs_executed=step.macs,
                    dense_bytes=0,
                    value_bytes=0,
                    index_bytes=0,
                    reason=reason,
                    explanation=forms.CPU_EXPLANATIONS[reason],
                )
            )
    return rows


def _linear_row(
    linear: LinearFacts[Packed], columns: int, zeros: int, left: bool, asked: Pattern | None
) -> forms.CpuLayerPart:
    count, packed = linear.outs * linear.ins, linear.packed
    reason = reason_of(linear, zeros, left, asked)
    columns = columns if linear.per_token else 1
    return forms.CpuLayerPart(
        name=linear.role,
        onnx_node=linear.onnx_node,
        op="linear",
        pattern=linear.pattern,
        kernel=packed.kernel.value,
        density=packed.multiplied / count,
        macs_dense=count * columns,
        macs_executed=packed.multiplied * columns,
        dense_bytes=4 * count,
        value_bytes=packed.value_bytes,
        index_bytes=packed.index_bytes,
        reason=reason,
        explanation=forms.CPU_EXPLANATIONS[reason],
    )


def reason_of(linear: LinearFacts[Packed], zeros: int, left: bool, asked: Pattern | None) -> forms.CpuReason:
    """Why this layer got the speed-up it got, or why not more. `asked` is None where patterns were looked for."""
    if not zeros:
        if asked is None or isinstance(asked, Dense):
            return forms.CpuReason.DENSE
        if left:
            return forms.CpuReason.LEFT_DENSE
        return forms.CpuReason.OUT_OF_SCOPE if PRUNABLE.fullmatch(linear.role) is None else forms.CpuReason.DENSE
    match linear.packed.kernel:
        case Kernel.DENSE:
            return forms.CpuReason.FASTER_DENSE
        case Kernel.SINGLES:
            return forms.CpuReason.SINGLES
        case Kernel.VECTORS | Kernel.BYTES:
            return forms.CpuReason.FULL if _little_padding(linear, zeros) else forms.CpuReason.PADDED
        case Kernel.PICKS:
            return forms.CpuReason.PICKED if _little_padding(linear, zeros) else forms.CpuReason.UNEVEN


def _little_padding(linear: LinearFacts[Packed], zeros: int) -> bool:
    return linear.packed.multiplied <= SHARED * (linear.outs * linear.ins - zeros)


def build_cpu_run_report(
    run: CpuRunFacts, program: CpuProgram | None, report: forms.CpuReport, model: CModel, output: Path | None, source: str
) -> forms.CpuRunReport:
    """run.json; `program` is None if nothing was run. Times are medians over the batches that were run."""
    device = statistics.median(run.device_ms) if run.device_ms else 0.0
    host = statistics.median(run.host_ms) if run.host_ms else 0.0
    known = "measured" if run.device_ms else "not run"
    paths = {"model": Path(source), "bundle": output}
    build = {} if program is None or program.bundle.build is None else program.bundle.build.model_dump()
    return forms.CpuRunReport(
        hpcc_version=installed_version(),
        verify=verify_part(run.distances, run.samples, None),
        damage=damage_part(run.damage),
        latency={
            "device_ms": Milliseconds(ms=device, source=known),
            "host_ms": Milliseconds(ms=host, source=known),
            "total_ms": Milliseconds(ms=device + host, source=known),
        },
        threads=program.threads if program is not None else 0,
        layers=tuple(_times(run.step_seconds, report.layers, model)),
        host_ops=_host_times(program, host),
        build={name: value if isinstance(value, str) else " ".join(value) for name, value in build.items()},
        compile_seconds=dict(run.compile_seconds),
        reference_ms=run.reference_ms,
        peak_rss_mb=peak_rss_mb(),
        paths={name: str(path.resolve()) for name, path in paths.items() if path is not None},
        date=now_text(),
        machine=machine_part(),
    )


def _host_times(program: CpuProgram | None, ms: float) -> tuple[HostOpTime, ...]:
    if program is None:
        return ()
    segments = program.manifest.host_segments
    return tuple(
        HostOpTime(file=entry.file, nodes=tuple(n.onnx_node for n in entry.nodes), ms=ms / len(segments))
        for entry in segments
    )


def _times(
    seconds: NDArray[np.float64] | None, layers: Sequence[forms.CpuLayerPart], model: CModel
) -> list[forms.LayerTime]:
    """The measured time of each row of the ledger."""
    if seconds is None:
        return []
    step_of: Mapping[str, int] = {
        **{step.name: number for number, step in enumerate(model.steps)},
        **{linear.role: linear.step for linear in model.linears},
    }
    work = np.zeros(len(model.steps))
    for layer in layers:
        work[step_of[layer.name]] += layer.macs_executed
    rows: list[forms.LayerTime] = []
    for layer in layers:
        step = step_of[layer.name]
        taken = seconds[step] * (layer.macs_executed / work[step] if work[step] else 1.0)
        rate = 2e-9 / taken if taken else 0.0
        rows.append(
            forms.LayerTime(
                name=layer.name,
                ms=1e3 * taken,
                gflops=layer.macs_executed * rate,
                dense_equivalent_gflops=layer.macs_dense * rate,
            )
        )
    return rows
