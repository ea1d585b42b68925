"""What each idea of the machine is worth: the same model without it, in simulated cycles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.validation import prepared
from compiler.tools.variants import Prepared, Variant
from hw_targets.target import Target

PATTERN = "hp:0.75"


def with_design(target: Target, **changes: object) -> Target:
    design = replace(target.accelerator.design, **changes)  # pyright: ignore[reportArgumentType]
    return replace(target, accelerator=replace(target.accelerator, design=design))


def one_channel(target: Target) -> Target:
    memory = target.memory
    return replace(target, memory=replace(memory, channels=1, gbytes_per_s=memory.gbytes_per_s / memory.channels))


def half_the_lanes(target: Target) -> Target:
    return replace(target, accelerator=replace(target.accelerator, lanes=target.accelerator.lanes // 2))


def variants(pruned: Prepared, dense: Prepared, streaming: Prepared, target: Target) -> dict[str, Variant]:
    return {
        "everything": pruned.on(target),
        "no sparse lanes: every weight dense, multiplied and loaded": dense.on(target),
        "layer-by-layer order": pruned.on(target, listed=False),
        "unfused vector operations": pruned.on(with_design(target, chained=False)),
        "probabilities through DRAM": pruned.on(with_design(target, probabilities="dram")),
        "weights stored as CSR, decoded to unstructured": pruned.on(target, "csr"),
        "one memory channel": pruned.on(one_channel(target)),
        "half the lanes": pruned.on(half_the_lanes(target)),
        "streaming softmax": streaming.on(with_design(target, softmax="streaming")),
    }


def cycles(model: Path, target: Target, shape: tuple[int, int] = (1, 128)) -> dict[str, int]:
    """Every ablation of one model."""
    made = variants(
        prepared(model, shape, PATTERN), prepared(model, shape, "dense"), prepared(model, shape, PATTERN, 5), target
    )
    return {name: variant.timing.total for name, variant in made.items()}
