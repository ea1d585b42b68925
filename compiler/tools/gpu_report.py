"""`report.json` and `run.json` of a GPU bundle: what the model and the target determine, and what was measured on a GPU.

Milliseconds of report.json are estimates from the target file's rates; those of run.json were measured or are not there.
"""

from __future__ import annotations

from enum import StrEnum

from compiler.tools.cpu_report import LayerTime
from compiler.tools.report import (
    SCHEMA_VERSION,
    DamagePart,
    Form,
    HostOpPart,
    HostOpTime,
    InputsPart,
    Milliseconds,
    ModelPart,
    PruningPart,
    VerifyPart,
)


class GpuReason(StrEnum):
    """Why a layer's weight is multiplied as it is."""

    DENSE = "dense"
    NO_WEIGHTS = "no weights"
    OUT_OF_SCOPE = "out of scope"
    LEFT_DENSE = "too few inputs"
    SKIPPED = "inputs skipped"
    PADDED = "rows share few inputs"
    MARKED = "bytes saved only"
    SPARSE_CORES = "sparse tensor cores"
    FASTER_DENSE = "faster dense"


GPU_EXPLANATIONS: dict[GpuReason, str] = {
    GpuReason.DENSE: "no pattern was asked for or found; every weight is multiplied",
    GpuReason.NO_WEIGHTS: "works on activations only, which have no pattern",
    GpuReason.OUT_OF_SCOPE: "embeddings, poolers and heads are not pruned by default",
    GpuReason.LEFT_DENSE: "fewer inputs than four groups of the pattern, so it stayed dense",
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


class GpuMemoryPart(Form):
    """Bytes. `weights_dense_bytes` are the linear weights dense in the precision of products, `image_bytes` all of
    weights.bin, `moved_bytes` what the launches read and write at the compiled shape if every buffer is moved once."""

    weights_dense_bytes: int
    weights_packed_bytes: int
    value_bytes: int
    index_bytes: int
    image_bytes: int
    activation_bytes: int
    moved_bytes: int


class GpuRooflinePart(Form):
    """Milliseconds that the target's rates allow at best: the sum over launches of the longer of both."""

    products_ms: float
    memory_ms: float
    bound_ms: float
    source: str = "estimated"


class GpuLayerPart(Form):
    """`density`: the share of multiplications done, padding of the kernel included; `tile`: rows x inputs of a chunk
    in shared memory. `bound_ms` is the step's estimated bound, in a step with others the share that multiplications say."""

    name: str
    onnx_node: str
    op: str
    pattern: str
    kernel: str
    tile: str
    density: float
    macs_dense: int
    macs_executed: int
    dense_bytes: int
    value_bytes: int
    index_bytes: int
    bound_ms: float
    bound: str
    reason: GpuReason
    explanation: str


class GpuReport(Form):
    """report.json: the same bytes for the same command."""

    schema_version: int = SCHEMA_VERSION
    hpcc_version: str
    model: ModelPart
    target: GpuTargetPart
    inputs: InputsPart
    precision: str
    batch: int
    tokens: int
    memory: GpuMemoryPart
    roofline: GpuRooflinePart
    pruning: PruningPart
    layers: tuple[GpuLayerPart, ...]
    host_ops: tuple[HostOpPart, ...]


class GpuRunReport(Form):
    """run.json: what a clock or floats decide. `device` is what ran the program, empty if nothing did; times are there only
    if that was a GPU. `by_marks`: why 2:4 layers did not run on sparse tensor cores, empty if they did or there are none."""

    schema_version: int = SCHEMA_VERSION
    hpcc_version: str
    device: str
    not_run: str
    by_marks: str
    verify: VerifyPart | None
    damage: DamagePart | None
    latency: dict[str, Milliseconds]
    layers: tuple[LayerTime, ...]
    host_ops: tuple[HostOpTime, ...]
    compile_seconds: dict[str, float]
    reference_ms: float | None
    peak_rss_mb: float
    paths: dict[str, str]
    date: str
    machine: dict[str, str]
