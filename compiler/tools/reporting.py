"""Fills the forms of report.json and run.json from a program and what happened while it ran."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from math import prod
from pathlib import Path

from xdsl.dialects.builtin import ModuleOp

from compiler.dialects.nn import EmbeddingOp, shape_of
from compiler.passes.sparsify import AUTO, RECIPE, PruningSummary, pruning_summary
from compiler.sparsity.base import Pattern
from compiler.tools import report as forms
from compiler.tools.hpcc import installed_version
from compiler.tools.inputs import InputSet
from compiler.tools.ledger import layer_rows, weights_by_layer
from compiler.tools.reference import Damage, Distance
from hw_targets.isa import INSTRUCTION_BYTES, Memory, Queue
from hw_targets.target import Target
from runtime.ledger import LayerCycles
from runtime.manifest import ModelEntry
from runtime.memory import STATUS as STATUS
from runtime.memory import peak_rss_mb
from runtime.program import Program


@dataclass
class Comparison:
    """What a comparison with ONNX Runtime found; filled in as it goes. `failed` is empty if nothing was wrong."""

    compile_seconds: dict[str, float]
    samples: int = 0
    reference_ms: float | None = None
    distances: list[Distance] = field(default_factory=list)
    damage: Damage | None = None
    failed: str = ""


@dataclass
class RunFacts(Comparison):
    """What a simulated run measured besides."""

    batches: int = 0
    load_seconds: float = 0.0
    simulate_seconds: float = 0.0
    host_seconds: dict[str, float] = field(default_factory=dict)
    bit_exact: bool | None = None
    graph_error: float | None = None


def build_report(
    program: Program,
    model: ModelEntry,
    samples: InputSet,
    asked: Pattern | None,
    encoded: ModuleOp | None,
    dense: Sequence[LayerCycles] | None,
) -> forms.Report:
    """report.json.

    `encoded` is the module after `encode`, `asked` None for `auto`, `dense` the dense twin's cycles (None: it does not fit).
    """
    target, timing, roof = program.target, program.timing(), program.roofline()
    layers = layer_rows(program, encoded, dense, asked)
    return forms.Report(
        hpcc_version=installed_version(),
        model=forms.ModelPart(
            name=model.name, sha256=model.sha256, parameters=model.parameters, macs=model.macs, notes=model.notes
        ),
        target=forms.TargetPart(
            name=target.name,
            kind=target.kind,
            clock_mhz=target.clock.mhz,
            array=forms.ArrayPart(**{name: getattr(target.accelerator, name) for name in forms.ArrayPart.model_fields}),
            sized_for=None if target.workload is None else target.workload.pattern,
            unverified=tuple(target.unverified()),
        ),
        inputs=forms.InputsPart(kind=samples.kind, source=samples.source, seed=samples.seed, count=samples.count),
        latency=forms.LatencyPart(accelerator_ms=program.accelerator_ms, transfer_ms=program.transfer_ms),
        cycles=timing.total,
        cycles_if_dense=sum(entry.total for entry in dense) if dense is not None else None,
        instructions=len(program.bundle.instructions),
        instructions_executed=len(program.bundle.expanded),
        busy={queue.value: timing.busy[queue] for queue in Queue},
        units={unit.value: forms.UnitPart(**asdict(cycles)) for unit, cycles in timing.units.items()},
        roofline=forms.RooflinePart(
            matrix_ms=roof.matrix_ms,
            vector_ms=roof.vector_ms,
            memory_ms=roof.memory_ms,
            bound_ms=roof.bound_ms,
            attained=roof.attained,
            bytes_moved=timing.bytes_loaded + timing.bytes_stored,
        ),
        resources={
            name: forms.ResourcePart(used=entry["used"], usable=entry["usable"])
            for name, entry in target.resources().items()
        },
        memory=_memory(program, encoded, target),
        pruning=pruning_part(
            pruning_summary(encoded) if encoded is not None else PruningSummary(()), asked, model.parameters
        ),
        layers=layers,
        host_ops=_host_ops(program, model.macs),
        not_modelled=forms.NOT_MODELLED,
    )


def ledger_problem(report: forms.Report) -> str:
    """Why the ledger cannot be right, or an empty string: every cycle belongs to one layer, and no unit is faster than its
    own bound."""
    for layer in report.layers:
        if sum(layer.cycles_by_cause.values()) != layer.cycles:
            return f"the causes of {layer.name!r} add up to {sum(layer.cycles_by_cause.values())} cycles, not {layer.cycles}"
    total = sum(layer.cycles for layer in report.layers)
    if total != report.cycles:
        return f"the layers' cycles add up to {total}, the program takes {report.cycles}"
    for unit, part in report.units.items():
        parts = (part.busy, part.semaphore, part.memory, part.idle)
        if sum(parts) != report.cycles or min(parts) < 0 or part.busy != report.busy[unit]:
            return f"the cycles of {unit} are {parts}, which is no division of the program's {report.cycles}"
    if report.roofline.attained > 1 + 1e-9:
        return f"{report.cycles} cycles are fewer than the busiest unit needs ({report.roofline.attained:.3f} of its bound)"
    return ""


def _memory(program: Program, encoded: ModuleOp | None, target: Target) -> forms.MemoryPart:
    weights = list(weights_by_layer(encoded, target).values())
    order = (Memory.ACT, Memory.WEIGHTS, Memory.ACC, Memory.PARAM, Memory.DRAM)
    sizes = program.manifest.sizes
    return forms.MemoryPart(
        weights_dense_bytes=sum(w.dense_bytes for w in weights),
        weights_stored_bytes=sum(w.plan.stored_bytes for w in weights),
        value_bytes=sum(w.value_bytes for w in weights),
        metadata_bytes=sum(w.metadata_bytes for w in weights),
        compute_bytes=sum(w.plan.compute_bytes for w in weights),
        program_bytes=len(program.bundle.instructions) * INSTRUCTION_BYTES,
        embedding_bytes=_embedding_bytes(encoded),
        image_bytes=int(program.bundle.weights.size),
        on_chip={
            memory.value: forms.ResourcePart(used=sizes.get(memory, 0), usable=target.capacities[memory]) for memory in order
        },
    )


def _embedding_bytes(encoded: ModuleOp | None) -> int:
    """Bytes of all tables that rows are gathered from, in bf16; a table with several uses counts once."""
    if encoded is None:
        return 0
    tables = {table for op in encoded.walk() if isinstance(op, EmbeddingOp) for table in op.tables}
    return sum(2 * prod(shape_of(table)) for table in tables)


def pruning_part(summary: PruningSummary, asked: Pattern | None, parameters: int) -> forms.PruningPart:
    """What was pruned, of the tensors in scope, of the encoder and of the file."""
    pruned = [layer.role for layer in summary.layers if layer.zeros]
    return forms.PruningPart(
        pattern=asked.spec() if asked is not None else f"{RECIPE}{summary.recipe}" if summary.recipe else AUTO,
        words=summary.found() if asked is None else asked.describe(),
        method=_method(summary, asked, bool(pruned)),
        asked=summary.pruned_zeros if asked is None else asked.sparsity,
        achieved=summary.pruned_zeros,
        encoder=summary.encoder_zeros,
        file=summary.zeros / parameters if parameters else 0.0,
        scope=tuple(pruned),
        near_misses=summary.near_misses(),
    )


def _method(summary: PruningSummary, asked: Pattern | None, pruned: bool) -> str:
    """How this compilation made the pattern; "none" where it changed no weight."""
    if asked is not None and asked.sharing:
        return "projection"
    return "magnitude" if pruned and (asked is not None or summary.recipe) else "none"


def _host_ops(program: Program, macs: int) -> tuple[forms.HostOpPart, ...]:
    return tuple(
        forms.HostOpPart(
            onnx_node=node.onnx_node, op=node.op, reason=node.reason, macs_share=node.macs / macs if macs else 0.0
        )
        for segment in program.manifest.host_segments
        for node in segment.nodes
    )


def build_run_report(run: RunFacts, program: Program, output: Path | None, model: str) -> forms.RunReport:
    """run.json; `output` is the bundle's place, if it gets one.

    Every latency says where it comes from; the host's time is added, never hidden.
    """
    batches = max(run.batches, 1)
    host_ms = sum(run.host_seconds.values()) * 1e3 / batches
    simulated = program.accelerator_ms + program.transfer_ms
    paths = {"model": Path(model), "bundle": output}
    latency = {
        "accelerator_ms": forms.Milliseconds(ms=program.accelerator_ms, source="simulated"),
        "transfer_ms": forms.Milliseconds(ms=program.transfer_ms, source="estimated"),
        "host_ms": forms.Milliseconds(ms=host_ms, source="measured" if run.batches else "estimated"),
        "total_ms": forms.Milliseconds(ms=simulated + host_ms, source="estimated"),
    }
    return forms.RunReport(
        hpcc_version=installed_version(),
        verify=verify_part(run.distances, run.samples, run.bit_exact, run.graph_error),
        damage=damage_part(run.damage),
        latency=latency,
        host_ops=tuple(
            forms.HostOpTime(
                file=entry.file,
                nodes=tuple(node.onnx_node for node in entry.nodes),
                ms=run.host_seconds.get(entry.file, 0.0) * 1e3 / batches,
            )
            for entry in program.manifest.host_segments
        ),
        compile_seconds=dict(run.compile_seconds),
        load_seconds=run.load_seconds,
        simulate_seconds=run.simulate_seconds,
        reference_ms=run.reference_ms,
        peak_rss_mb=peak_rss_mb(),
        paths={name: str(path.resolve()) for name, path in paths.items() if path is not None},
        date=now_text(),
        machine=machine_part(),
    )


def now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine_part() -> dict[str, str]:
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }


def damage_part(damage: Damage | None) -> forms.DamagePart | None:
    if damage is None:
        return None
    return forms.DamagePart(
        reference="ONNX Runtime, original weights",
        mean_sample_cosine=damage.mean_sample_cosine,
        top1_agreement=damage.top1_agreement,
    )


def verify_part(
    distances: Sequence[Distance], samples: int, bit_exact: bool | None, graph_error: float | None = None
) -> forms.VerifyPart | None:
    if bit_exact is None and not distances:
        return None
    return forms.VerifyPart(
        reference="ONNX Runtime, same weights" if distances else "none",
        samples=samples,
        bit_exact=bit_exact,
        graph_error=graph_error,
        outputs=tuple(
            forms.OutputCheck(
                name=d.name,
                relative_l2=d.relative_l2,
                min_token_cosine=d.min_token_cosine,
                mean_token_cosine=d.mean_token_cosine,
                max_abs_error=d.max_abs_error,
                passed=d.passed,
            )
            for d in distances
        ),
    )
