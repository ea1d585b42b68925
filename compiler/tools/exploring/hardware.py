"""The hardware side of candidates: one pruned model on many devices, cycles only, values never computed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from compiler.backends.fpga.machine import workload_of
from compiler.explore.selection import Hardware
from compiler.explore.space import Algorithm
from compiler.tools.exploring.models import Lowered, Shapes, lower, timing_spec
from compiler.tools.variants import Prepared, Variant
from hw_targets.collection import seldom_collecting
from hw_targets.errors import InfeasibleError
from hw_targets.load import load_target
from hw_targets.target import Target, Workload


@seldom_collecting()
def time_on(
    model: Path, shapes: Shapes, algorithm: Algorithm, devices: Sequence[str], folder: Path, host_ms: float
) -> list[Hardware]:
    """What each device says of the model with the algorithm's zeros; see `Hardware`."""
    lowered = lower(model, shapes, timing_spec(algorithm, folder), run=False)
    return [_on(lowered, device, host_ms) for device in devices]


@cache
def sized(device: str, workload: Workload | None = None) -> Target:
    """The target of a name or a file; sizing one takes as long as timing a small model on it."""
    return load_target(device, workload)


def _on(lowered: Lowered, device: str, host_ms: float) -> Hardware:
    prepared = Prepared(lowered.module, lowered.store)
    target = sized(device, workload_of(prepared.encoded(sized(device))))
    try:
        variant = prepared.on(target)
    except InfeasibleError as error:
        return Hardware(problem=error.message)
    return Hardware(
        accelerator_ms=variant.milliseconds,
        transfer_ms=transfer_ms(variant),
        host_ms=host_ms,
        bytes=_constant_bytes(variant),
        resources=_shares(target),
    )


def transfer_ms(variant: Variant) -> float:
    """Inputs to the board's memory and outputs back, one request each way, as the program's own report counts it."""
    link = variant.target.link
    moved = sum(region.bytes for region in variant.parts.regions if region.kind in ("input", "output"))
    return 2 * link.latency_us / 1e3 + moved / (link.gbytes_per_s * 1e6)


def _constant_bytes(variant: Variant) -> int:
    """Weights in their storage formats, tables and parameters: what lies in the board's memory for good."""
    constant = [r for r in variant.parts.regions if r.kind not in ("input", "output", "scratch")]
    return sum(region.bytes for region in constant)


def _shares(target: Target) -> dict[str, float]:
    return {name: entry["used"] / entry["usable"] if entry["usable"] else 0.0 for name, entry in target.resources().items()}
