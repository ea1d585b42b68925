"""`report.json` and `run.json` of a program in steps: what bundles for CPUs and for GPUs say alike.

The reasons of the ledger are a closed list for each kind of machine: these, and those of cpu_report.py or gpu_report.py.
"""

from __future__ import annotations

from enum import StrEnum

from compiler.tools.report import (
    EXPLANATIONS,
    SCHEMA_VERSION,
    DamagePart,
    Form,
    HostOpPart,
    HostOpTime,
    InputsPart,
    Milliseconds,
    ModelPart,
    PruningPart,
    Reason,
    VerifyPart,
)


class StepReason(StrEnum):
    """Why a layer does not skip zeros, on any machine; the words are those of report.py."""

    DENSE = "dense"
    NO_WEIGHTS = "no weights"
    OUT_OF_SCOPE = "out of scope"
    LEFT_DENSE = "too few inputs"
    FACTOR = "factor"


STEP_EXPLANATIONS: dict[StepReason, str] = {reason: EXPLANATIONS[Reason(reason)] for reason in StepReason}


class StepsMemoryPart(Form):
    """Bytes. `weights_dense_bytes` are the linear weights dense in the precision that floats are multiplied in,
    `image_bytes` all of weights.bin."""

    weights_dense_bytes: int
    weights_packed_bytes: int
    value_bytes: int
    index_bytes: int
    image_bytes: int
    activation_bytes: int


class StepsLayerPart(Form):
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
    explanation: str


class StepsReport(Form):
    """report.json without the parts of a kind: the same bytes for the same command."""

    schema_version: int = SCHEMA_VERSION
    hpcc_version: str
    model: ModelPart
    inputs: InputsPart
    precision: str
    batch: int
    tokens: int
    pruning: PruningPart
    host_ops: tuple[HostOpPart, ...]


class LayerTime(Form):
    """Measured on one batch: milliseconds, 1e9 multiplications and additions (of the bundle's precision) per second, and
    what a dense layer would have to do in the same time. A layer in a step with others has the share that its
    multiplications say."""

    name: str
    ms: float
    gflops: float
    dense_equivalent_gflops: float


class StepsRunReport(Form):
    """run.json without the parts of a kind: what a clock or ONNX Runtime's floats decide."""

    schema_version: int = SCHEMA_VERSION
    hpcc_version: str
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
