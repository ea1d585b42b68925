"""`report.json` and `run.json` of a CPU bundle: what the model and the target determine, and what was measured.

The reasons of the ledger are a closed list; each has a sentence for people.
"""

from __future__ import annotations

from enum import StrEnum

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


class CpuReason(StrEnum):
    """Why a layer got the speed-up it got, or why not more."""

    DENSE = "dense"
    NO_WEIGHTS = "no weights"
    OUT_OF_SCOPE = "out of scope"
    LEFT_DENSE = "too few inputs"
    FULL = "full rate"
    SINGLES = "rows share no inputs"
    PADDED = "rows share few inputs"
    PICKED = "rows pick inputs"
    UNEVEN = "rows pick unevenly"
    FASTER_DENSE = "faster dense"


CPU_EXPLANATIONS: dict[CpuReason, str] = {
    CpuReason.DENSE: "no pattern was asked for or found; every weight is multiplied",
    CpuReason.NO_WEIGHTS: "works on activations only, which have no pattern",
    CpuReason.OUT_OF_SCOPE: "embeddings, poolers and heads are not pruned by default",
    CpuReason.LEFT_DENSE: "fewer inputs than four groups of the pattern, so it stayed dense",
    CpuReason.FULL: "four rows share their inputs: a loaded vector is used four times, as in a dense product",
    CpuReason.SINGLES: "each row has inputs of its own, loaded for each weight; hp:S or block:4x1:S is faster here",
    CpuReason.PADDED: "not all of four rows use the inputs that one of them needs; hp:S or block:4x1:S is faster here",
    CpuReason.PICKED: "each row picks its own of 64 inputs in a register, at three quarters of the rate of a dense product",
    CpuReason.UNEVEN: "16 rows pick together and wait for the one with most inputs; nm or hp, balanced, are faster here",
    CpuReason.FASTER_DENSE: "a dense product takes less time than this pattern's; hp:S or block:4x1:S is faster here",
}


class CpuTargetPart(Form):
    name: str
    kind: str
    isa: str
    unverified: tuple[str, ...]


class CpuMemoryPart(Form):
    """Bytes. `weights_*` are the linear weights in fp32, `image_bytes` all of weights.bin."""

    weights_dense_bytes: int
    weights_packed_bytes: int
    value_bytes: int
    index_bytes: int
    image_bytes: int
    activation_bytes: int


class CpuLayerPart(Form):
    """`density`: the share of multiplications done, padding of the kernel included."""

    name: str
    onnx_node: str
    op: str
    pattern: str
    kernel: str
    density: float
    macs_dense: int
    macs_executed: int
    dense_bytes: int
    value_bytes: int
    index_bytes: int
    reason: CpuReason
    explanation: str


class CpuReport(Form):
    """report.json: the same bytes for the same command on machines of the same kind."""

    schema_version: int = SCHEMA_VERSION
    hpcc_version: str
    model: ModelPart
    target: CpuTargetPart
    inputs: InputsPart
    precision: str
    batch: int
    tokens: int
    memory: CpuMemoryPart
    pruning: PruningPart
    layers: tuple[CpuLayerPart, ...]
    host_ops: tuple[HostOpPart, ...]


class LayerTime(Form):
    """Measured on one batch: milliseconds, 1e9 multiplications and additions (of the bundle's precision) per second, and
    what a dense layer would have to do in the same time. A layer in a step with others has the share that its
    multiplications say."""

    name: str
    ms: float
    gflops: float
    dense_equivalent_gflops: float


class CpuRunReport(Form):
    """run.json: what a clock or ONNX Runtime's floats decide."""

    schema_version: int = SCHEMA_VERSION
    hpcc_version: str
    verify: VerifyPart | None
    damage: DamagePart | None
    latency: dict[str, Milliseconds]
    threads: int
    layers: tuple[LayerTime, ...]
    host_ops: tuple[HostOpTime, ...]
    build: dict[str, str]
    compile_seconds: dict[str, float]
    reference_ms: float | None
    peak_rss_mb: float
    paths: dict[str, str]
    date: str
    machine: dict[str, str]
