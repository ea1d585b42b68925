"""Fills the forms of a GPU bundle's report.json and run.json: the ledger from the packed weights and the target's rates."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compiler.backends.gpu.packing import Packed
from compiler.backends.gpu.printer import TritonModel
from compiler.backends.image import LinearFacts
from compiler.dialects.gpu import Kernel
from compiler.passes.sparsify import PRUNABLE, PruningSummary
from compiler.sparsity.base import Dense, Pattern
from compiler.tools import gpu_report as forms
from compiler.tools.cpu_report import LayerTime
from compiler.tools.hpcc import installed_version
from compiler.tools.inputs import InputSet
from compiler.tools.report import HostOpPart, InputsPart, Milliseconds, ModelPart
from compiler.tools.reporting import Comparison, damage_part, machine_part, now_text, pruning_part, verify_part
from hw_targets.gpu import ELEMENT_BYTES, GpuTarget
from runtime.cpu.manifest import GpuManifest
from runtime.gpu.program import GpuProgram
from runtime.memory import peak_rss_mb

SHARED = 1.1
"""Up to this ratio of multiplications to weights, the rows of a tile count as sharing their inputs."""


@dataclass
class GpuRunFacts(Comparison):
    """What a run measured besides: milliseconds of batches on a GPU, and seconds of each step for one batch."""

    device_ms: list[float] = field(default_factory=list)
    step_seconds: NDArray[np.float64] | None = None
    not_run: str = ""


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


def _macs(linear: LinearFacts[Packed], model: TritonModel) -> int:
    """Multiplications done at the compiled shape."""
    return linear.packed.multiplied * (model.batch * model.tokens if linear.per_token else model.batch)


def _bounds(model: TritonModel, target: GpuTarget, precision: str) -> list[_Bound]:
    bounds: list[_Bound] = []
    for number, (step, moved) in enumerate(zip(model.steps, model.moved_bytes, strict=True)):
        seconds = 2 * step.macs / target.peak("fp16" if precision == "int8" else precision)
        for linear in (linear for linear in model.linears if linear.step == number):
            own = precision if linear.per_token or precision != "int8" else "fp16"
            seconds += 2 * _macs(linear, model) / target.peak(own)
        bounds.append(_Bound(1e3 * seconds, 1e3 * moved / target.bytes_per_s))
    return bounds


def build_gpu_report(
    model: TritonModel,
    manifest: GpuManifest,
    target: GpuTarget,
    samples: InputSet,
    asked: Pattern | None,
    pruning: PruningSummary,
) -> forms.GpuReport:
    """report.json. `pruning` is that of the module after `sparsify`."""
    entry, precision = manifest.model, manifest.precision
    values = sum(linear.packed.value_bytes for linear in model.linears)
    indices = sum(linear.packed.index_bytes for linear in model.linears)
    bounds = _bounds(model, target, precision)
    return forms.GpuReport(
        hpcc_version=installed_version(),
        model=ModelPart(name=entry.name, sha256=entry.sha256, parameters=entry.parameters, macs=entry.macs),
        target=forms.GpuTargetPart(
            name=target.name, kind=target.kind, capability=target.capability, unverified=target.unverified()
        ),
        inputs=InputsPart(kind=samples.kind, source=samples.source, seed=samples.seed, count=samples.count),
        precision=precision,
        batch=model.batch,
        tokens=model.tokens,
        memory=forms.GpuMemoryPart(
            weights_dense_bytes=sum(_dense_bytes(linear, precision) for linear in model.linears),
            weights_packed_bytes=values + indices,
            value_bytes=values,
            index_bytes=indices,
            image_bytes=model.weights.size,
            activation_bytes=model.activation_bytes,
            moved_bytes=sum(model.moved_bytes),
        ),
        roofline=forms.GpuRooflinePart(
            products_ms=sum(bound.products_ms for bound in bounds),
            memory_ms=sum(bound.memory_ms for bound in bounds),
            bound_ms=sum(bound.ms for bound in bounds),
        ),
        pruning=pruning_part(pruning, asked, entry.parameters),
        layers=tuple(_layers(model, precision, bounds, pruning, asked)),
        host_ops=tuple(
            HostOpPart(
                onnx_node=n.onnx_node, op=n.op, reason=n.reason, macs_share=n.macs / entry.macs if entry.macs else 0.0
            )
            for segment in manifest.host_segments
            for n in segment.nodes
        ),
    )


def _dense_bytes(linear: LinearFacts[Packed], precision: str) -> int:
    own = precision if linear.per_token or precision != "int8" else "fp16"
    return ELEMENT_BYTES[own] * linear.outs * linear.ins


def _layers(
    model: TritonModel, precision: str, bounds: Sequence[_Bound], pruning: PruningSummary, asked: Pattern | None
) -> list[forms.GpuLayerPart]:
    """The ledger, in order of execution: the linears of a step, or the step itself."""
    left = {layer.role for layer in pruning.layers if layer.left_dense}
    zeros = {layer.role: layer.zeros for layer in pruning.layers}
    rows: list[forms.GpuLayerPart] = []
    for number, (step, bound) in enumerate(zip(model.steps, bounds, strict=True)):
        linears = [linear for linear in model.linears if linear.step == number]
        work = sum(_macs(linear, model) for linear in linears)
        for linear in linears:
            macs, packed = _macs(linear, model), linear.packed
            count = linear.outs * linear.ins
            reason = reason_of(linear, zeros.get(linear.role, 0), linear.role in left, asked)
            rows.append(
                forms.GpuLayerPart(
                    name=linear.role,
                    onnx_node=linear.onnx_node,
                    op="linear",
                    pattern=linear.pattern,
                    kernel=packed.kernel.value,
                    tile=f"{packed.rows}x{packed.inputs}",
                    density=packed.multiplied / count,
                    macs_dense=count * (model.batch * model.tokens if linear.per_token else model.batch),
                    macs_executed=macs,
                    dense_bytes=_dense_bytes(linear, precision),
                    value_bytes=packed.value_bytes,
                    index_bytes=packed.index_bytes,
                    bound_ms=bound.ms * (macs / work if work else 1 / len(linears)),
                    bound=bound.name,
                    reason=reason,
                    explanation=forms.GPU_EXPLANATIONS[reason],
                )
            )
        if not linears:
            reason = forms.GpuReason.NO_WEIGHTS
            rows.append(
                forms.GpuLayerPart(
                    name=step.name,
                    onnx_node=step.onnx_node,
                    op=step.op,
                    pattern="",
                    kernel="",
                    tile="",
                    density=1.0,
                    macs_dense=step.macs,
                    macs_executed=step.macs,
                    dense_bytes=0,
                    value_bytes=0,
                    index_bytes=0,
                    bound_ms=bound.ms,
                    bound=bound.name,
                    reason=reason,
                    explanation=forms.GPU_EXPLANATIONS[reason],
                )
            )
    return rows


def reason_of(linear: LinearFacts[Packed], zeros: int, left: bool, asked: Pattern | None) -> forms.GpuReason:
    """Why this weight is multiplied as it is. `asked` is None where patterns were looked for."""
    if not zeros:
        if asked is None or isinstance(asked, Dense):
            return forms.GpuReason.DENSE
        if left:
            return forms.GpuReason.LEFT_DENSE
        return forms.GpuReason.OUT_OF_SCOPE if PRUNABLE.fullmatch(linear.role) is None else forms.GpuReason.DENSE
    match linear.packed.kernel:
        case Kernel.DENSE:
            return forms.GpuReason.FASTER_DENSE
        case Kernel.MARKS:
            return forms.GpuReason.MARKED
        case Kernel.SPARSE:
            return forms.GpuReason.SPARSE_CORES
        case Kernel.GATHER:
            shares = linear.packed.needed <= SHARED * (linear.outs * linear.ins - zeros)
            return forms.GpuReason.SKIPPED if shares else forms.GpuReason.PADDED


def build_gpu_run_report(
    run: GpuRunFacts,
    program: GpuProgram | None,
    report: forms.GpuReport,
    model: TritonModel,
    output: Path | None,
    source: str,
) -> forms.GpuRunReport:
    """run.json; `program` is None if nothing was run. Times are there only where a GPU took them."""
    known = "measured" if run.device_ms else "not run"
    device = statistics.median(run.device_ms) if run.device_ms else 0.0
    paths = {"model": Path(source), "bundle": output}
    return forms.GpuRunReport(
        hpcc_version=installed_version(),
        device="" if program is None else program.device,
        not_run=run.not_run,
        by_marks="" if program is None else program.by_marks,
        verify=verify_part(run.distances, run.samples, None),
        damage=damage_part(run.damage),
        latency={"device_ms": Milliseconds(ms=device, source=known), "total_ms": Milliseconds(ms=device, source=known)},
        layers=tuple(_times(run.step_seconds, report.layers, model)),
        host_ops=(),
        compile_seconds=dict(run.compile_seconds),
        reference_ms=run.reference_ms,
        peak_rss_mb=peak_rss_mb(),
        paths={name: str(path.resolve()) for name, path in paths.items() if path is not None},
        date=now_text(),
        machine=machine_part(),
    )


def _times(seconds: NDArray[np.float64] | None, layers: Sequence[forms.GpuLayerPart], model: TritonModel) -> list[LayerTime]:
    """The measured time of each row of the ledger."""
    if seconds is None:
        return []
    step_of = {step.name: number for number, step in enumerate(model.steps)}
    step_of |= {linear.role: linear.step for linear in model.linears}
    work = np.zeros(len(model.steps))
    for layer in layers:
        work[step_of[layer.name]] += layer.macs_executed
    rows: list[LayerTime] = []
    for layer in layers:
        step = step_of[layer.name]
        taken = float(seconds[step]) * (layer.macs_executed / work[step] if work[step] else 1.0)
        rate = 2e-9 / taken if taken else 0.0
        done, dense = layer.macs_executed * rate, layer.macs_dense * rate
        rows.append(LayerTime(name=layer.name, ms=1e3 * taken, gflops=done, dense_equivalent_gflops=dense))
    return rows
