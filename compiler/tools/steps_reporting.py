"""Fills the forms of steps_report.py: the ledger from packed weights, times from a profile. For CPUs and GPUs alike."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.backends.image import LinearFacts, StepFacts, StepsModel
from compiler.passes.factor import dense_size
from compiler.passes.sparsify import PRUNABLE, PruningSummary
from compiler.sparsity.base import Dense, Pattern
from compiler.sparsity.factored import Factored
from compiler.tools.hpcc import installed_version
from compiler.tools.inputs import InputSet
from compiler.tools.report import HostOpPart, HostOpTime, InputsPart, Milliseconds, ModelPart
from compiler.tools.reporting import Comparison, damage_part, machine_part, now_text, pruning_part, verify_part
from compiler.tools.steps_report import LayerTime, StepReason, StepsLayerPart
from hw_targets.storage import BASIS
from runtime.memory import peak_rss_mb
from runtime.steps.manifest import StepsManifest

SHARED = 1.1
"""Up to this ratio of multiplications to weights, rows that are multiplied together count as sharing their inputs."""


@dataclass
class StepsRunFacts(Comparison):
    """What a run measured besides: milliseconds of batches on device and host, seconds of each step for one batch."""

    device_ms: list[float] = field(default_factory=list)
    host_ms: list[float] = field(default_factory=list)
    step_seconds: NDArray[np.float64] | None = None
    not_run: str = ""


def report_parts(
    model: StepsModel[Any],
    manifest: StepsManifest,
    precision: str,
    samples: InputSet,
    asked: Pattern | None,
    pruning: PruningSummary,
) -> dict[str, Any]:
    """The fields of StepsReport. `pruning` is that of the module after `sparsify`."""
    entry = manifest.model
    return {
        "hpcc_version": installed_version(),
        "model": ModelPart(name=entry.name, sha256=entry.sha256, parameters=entry.parameters, macs=entry.macs),
        "inputs": InputsPart(kind=samples.kind, source=samples.source, seed=samples.seed, count=samples.count),
        "precision": precision,
        "batch": model.batch,
        "tokens": model.tokens,
        "pruning": pruning_part(pruning, asked, entry.parameters),
        "host_ops": tuple(
            HostOpPart(
                onnx_node=n.onnx_node, op=n.op, reason=n.reason, macs_share=n.macs / entry.macs if entry.macs else 0.0
            )
            for segment in manifest.host_segments
            for n in segment.nodes
        ),
    }


def dense_sizes(model: StepsModel[Any]) -> dict[str, int]:
    """Weights of each linear by role, dense and whole."""
    inputs = {linear.role: linear.ins for linear in model.linears}
    return {linear.role: dense_size(linear.role, (linear.outs, linear.ins), inputs) for linear in model.linears}


def memory_parts(model: StepsModel[Any], dense_bytes: int) -> dict[str, int]:
    """The fields of StepsMemoryPart; `dense_bytes` are those of the linear weights if nothing were pruned."""
    values = sum(linear.packed.value_bytes for linear in model.linears)
    indices = sum(linear.packed.index_bytes for linear in model.linears)
    return {
        "weights_dense_bytes": dense_bytes,
        "weights_packed_bytes": values + indices,
        "value_bytes": values,
        "index_bytes": indices,
        "image_bytes": model.weights.size,
        "activation_bytes": model.activation_bytes,
    }


@dataclass(frozen=True)
class Row:
    """A row of the ledger to be: a linear of a step, or a step without weights. `zeros` are those of the linear's weight."""

    number: int
    step: StepFacts
    linear: LinearFacts[Any] | None
    columns: int = 0
    zeros: int = 0
    common_reason: StepReason | None = StepReason.NO_WEIGHTS
    """None where it is the machine's business."""
    product: str = ""
    """The pattern of the matrix that the linear's weight is a factor of."""

    @property
    def macs(self) -> int:
        """Multiplications done at the compiled shape."""
        return self.step.macs if self.linear is None else self.linear.packed.multiplied * self.columns

    @property
    def shares_inputs(self) -> bool:
        """Whether the kernel multiplies little more than the weights that are not zero."""
        linear = self.linear
        return linear is not None and linear.packed.needed <= SHARED * (linear.outs * linear.ins - self.zeros)

    def parts(self, explanation: str, dense_bytes: int) -> dict[str, Any]:
        """The fields of StepsLayerPart."""
        step, linear = self.step, self.linear
        if linear is None:
            return {
                **{"name": step.name, "onnx_node": step.onnx_node, "op": step.op, "pattern": "", "kernel": ""},
                **{"density": 1.0, "macs_dense": step.macs, "macs_executed": step.macs},
                **{"dense_bytes": 0, "value_bytes": 0, "index_bytes": 0, "explanation": explanation},
            }
        count, packed = linear.outs * linear.ins, linear.packed
        return {
            "name": linear.role,
            "onnx_node": linear.onnx_node,
            "op": "linear",
            "pattern": self.product or linear.pattern,
            "kernel": packed.kernel.value,
            "density": packed.multiplied / count,
            "macs_dense": count * self.columns,
            "macs_executed": self.macs,
            "dense_bytes": dense_bytes,
            "value_bytes": packed.value_bytes,
            "index_bytes": packed.index_bytes,
            "explanation": explanation,
        }


def rows_of(model: StepsModel[Any], pruning: PruningSummary, asked: Pattern | None) -> Iterator[Row]:
    """The ledger in order of execution: the linears of a step, or the step itself."""
    left = {layer.role for layer in pruning.layers if layer.left_dense}
    zeros = {layer.role: layer.zeros for layer in pruning.layers}
    products = {layer.role: layer.pattern.spec() for layer in pruning.layers if isinstance(layer.pattern, Factored)}
    for number, step in enumerate(model.steps):
        linears = [linear for linear in model.linears if linear.step == number]
        for linear in linears:
            columns = model.batch * (model.tokens if linear.per_token else 1)
            count = zeros.get(linear.role, 0)
            product = products.get(linear.role.removesuffix(BASIS), "")
            reason = None if count else reason_of_dense(linear.role, linear.role in left, asked)
            yield Row(number, step, linear, columns, count, StepReason.FACTOR if product else reason, product)
        if not linears:
            yield Row(number, step, None)


def reason_of_dense(role: str, left: bool, asked: Pattern | None) -> StepReason:
    """Why a weight has no zeros. `asked` is None where patterns were looked for."""
    if asked is None or isinstance(asked, Dense):
        return StepReason.DENSE
    if left:
        return StepReason.LEFT_DENSE
    return StepReason.OUT_OF_SCOPE if PRUNABLE.fullmatch(role) is None else StepReason.DENSE


def run_parts(
    run: StepsRunFacts,
    layers: Sequence[StepsLayerPart],
    model: StepsModel[Any],
    manifest: StepsManifest | None,
    output: Path | None,
    source: str,
) -> dict[str, Any]:
    """The fields of StepsRunReport; `manifest` is None if nothing was run. Times are medians over batches."""
    known = "measured" if run.device_ms else "not run"
    device, host = (statistics.median(times) if times else 0.0 for times in (run.device_ms, run.host_ms))
    times = {"device_ms": device, "host_ms": host, "total_ms": device + host}
    paths = {"model": Path(source), "bundle": output}
    segments = () if manifest is None else manifest.host_segments
    return {
        "hpcc_version": installed_version(),
        "verify": verify_part(run.distances, run.samples, None),
        "damage": damage_part(run.damage),
        "latency": {name: Milliseconds(ms=ms, source=known) for name, ms in times.items()},
        "layers": tuple(_times(run.step_seconds, layers, model)),
        "host_ops": tuple(
            HostOpTime(file=entry.file, nodes=tuple(n.onnx_node for n in entry.nodes), ms=host / len(segments))
            for entry in segments
        ),
        "compile_seconds": dict(run.compile_seconds),
        "reference_ms": run.reference_ms,
        "peak_rss_mb": peak_rss_mb(),
        "paths": {name: str(path.resolve()) for name, path in paths.items() if path is not None},
        "date": now_text(),
        "machine": machine_part(),
    }


def _times(
    seconds: NDArray[np.float64] | None, layers: Sequence[StepsLayerPart], model: StepsModel[Any]
) -> Iterator[LayerTime]:
    """The measured time of each row of the ledger."""
    if seconds is None:
        return
    step_of = {step.name: number for number, step in enumerate(model.steps)}
    step_of |= {linear.role: linear.step for linear in model.linears}
    work = np.zeros(len(model.steps))
    for layer in layers:
        work[step_of[layer.name]] += layer.macs_executed
    for layer in layers:
        step = step_of[layer.name]
        taken = float(seconds[step]) * (layer.macs_executed / work[step] if work[step] else 1.0)
        rate = 2e-9 / taken if taken else 0.0
        done, dense = layer.macs_executed * rate, layer.macs_dense * rate
        yield LayerTime(name=layer.name, ms=1e3 * taken, gflops=done, dense_equivalent_gflops=dense)
