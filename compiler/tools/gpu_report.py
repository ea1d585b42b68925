"""`report.json` and `run.json` of a GPU bundle: what steps_report.py has not, and the GPU's own reasons.

Milliseconds of report.json are estimates from the target file's rates; those of run.json were measured or are not there.
"""

from __future__ import annotations

from enum import StrEnum

from compiler.tools.report import Form
from compiler.tools.steps_report import (
    STEP_EXPLANATIONS,
    StepReason,
    StepsLayerPart,
    StepsMemoryPart,
    StepsReport,
    StepsRunReport,
)


class GpuReason(StrEnum):
    """Why a pruned layer's weight is multiplied as it is."""

    SKIPPED = "inputs skipped"
    PADDED = "rows share few inputs"
    MARKED = "bytes saved only"
    SPARSE_CORES = "sparse tensor cores"
    FASTER_DENSE = "faster dense"


GPU_EXPLANATIONS: dict[StepReason | GpuReason, str] = {
    **STEP_EXPLANATIONS,
    GpuReason.SKIPPED: "the rows of a tile share their inputs: only those are read and multiplied",
    GpuReason.PADDED: "a tile multiplies inputs that only some of its rows use; hp:S skips more",
    GpuReason.MARKED: "zeros are not stored, but multiplied: tensor cores take dense tiles; hp:S skips products too",
    GpuReason.SPARSE_CORES: "2:4: half of the products, on GPUs where torch has cuSPARSELt; elsewhere as `marks`",
    GpuReason.FASTER_DENSE: "by the target's rates a dense product takes no longer than this pattern's; hp:S is faster here",
}


class GpuTargetPart(Form):
    name: str
    kind: str
    capability: int
    unverified: tuple[str, ...]


class GpuMemoryPart(StepsMemoryPart):
    """With `moved_bytes`: what the launches read and write at the compiled shape if every buffer is moved once."""

    moved_bytes: int


class GpuRooflinePart(Form):
    """Milliseconds that the target's rates allow at best: the sum over launches of the longer of both."""

    products_ms: float
    memory_ms: float
    bound_ms: float
    source: str = "estimated"


class GpuLayerPart(StepsLayerPart):
    """`tile`: rows x inputs of a chunk in shared memory. `bound_ms` is the step's estimated bound, in a step with others the
    share that multiplications say."""

    tile: str
    bound_ms: float
    bound: str
    reason: StepReason | GpuReason


class GpuReport(StepsReport):
    """report.json of a GPU bundle."""

    target: GpuTargetPart
    memory: GpuMemoryPart
    roofline: GpuRooflinePart
    layers: tuple[GpuLayerPart, ...]


class GpuRunReport(StepsRunReport):
    """run.json. `device` is what ran the program, empty if nothing did, and `not_run` why; times are there only if it was a
    GPU. `by_marks`: why 2:4 layers did not run on sparse tensor cores, empty if they did or there are none."""

    device: str
    not_run: str
    by_marks: str
