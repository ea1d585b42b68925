"""`report.json` and `run.json`: what the model, the target and the simulator determine, and what a clock decides.

The pydantic models are the schemas (docs/schemas). The reasons of the ledger are a
closed list; each has a sentence for people.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reason(StrEnum):
    """Why a layer got the speed-up it got, or why not more."""

    DENSE = "dense"
    NO_WEIGHTS = "no weights"
    OUT_OF_SCOPE = "out of scope"
    LEFT_DENSE = "too few inputs"
    FACTOR = "factor"
    STORED_DENSE = "stored dense"
    FULL = "compute bound"
    VECTOR = "vector bound"
    LOAD = "memory bound"
    TOKEN = "token bound"
    SHORT_ROWS = "rows shorter than the array"
    UNEVEN_K = "K not a multiple of M"
    WINDOW = "window bound"
    IMBALANCE = "imbalance"


EXPLANATIONS: dict[Reason, str] = {
    Reason.DENSE: "no pattern was asked for or found; every weight is multiplied",
    Reason.NO_WEIGHTS: "works on activations only, which have no pattern",
    Reason.OUT_OF_SCOPE: "embeddings, poolers and heads are not pruned by default",
    Reason.LEFT_DENSE: "fewer inputs than four groups of the pattern, or factors as large as the matrix, so it stayed dense",
    Reason.FACTOR: "one of two smaller matrices whose product is the weight",
    Reason.STORED_DENSE: "no format of this target stores the pattern smaller, so the zeros are multiplied too",
    Reason.FULL: "MATRIX is busy almost all of the time and skips what the pattern leaves out",
    Reason.VECTOR: "MATRIX waits for norm, activation, softmax or quantisation; more vector lanes would help",
    Reason.LOAD: "MATRIX waits for weights from DRAM; a denser storage format or more bandwidth would help",
    Reason.TOKEN: "MATRIX waits for the first results of the layer before; more tokens per batch would help",
    Reason.SHORT_ROWS: "the matrix has fewer outputs than one pass of the array computes",
    Reason.UNEVEN_K: "the inputs do not fill whole groups or windows, so the last step is partly idle",
    Reason.WINDOW: "a step consumes at most one window of inputs, however few of them are kept",
    Reason.IMBALANCE: "rows computed together wait for the one with most weights; nm and hp give every row equally many",
}


class Help(StrEnum):
    """The one change that would make a layer faster."""

    PATTERN = "a pattern"
    SPARSER = "a sparser pattern"
    SELECTORS = "wider selectors"
    NARROW = "fewer multipliers a row"
    TOKENS = "fewer outputs a pass"
    ARRAY = "a larger array"
    LANES = "more lanes"
    BANDWIDTH = "more bandwidth"
    DECODER = "a faster decoder"
    BATCH = "more tokens per batch"


HELPS: dict[Help, str] = {
    Help.PATTERN: "MATRIX multiplies every weight; with nm or hp it would skip zeros (`--sparsity hp:0.75`)",
    Help.SPARSER: "MATRIX is busy and skips what the pattern leaves out; one that keeps less leaves it less to do",
    Help.SELECTORS: "with selectors as wide as the window any multiplier serves any input of it, at 2 LUTs an input",
    Help.NARROW: "a step has more multipliers a row than the window has kept inputs; half of them, for twice the rows",
    Help.TOKENS: "a pass computes more outputs than the matrix has; half of them, for twice the tokens",
    Help.ARRAY: "MATRIX is busy with what no pattern takes away; more outputs a pass would do more of it at a time",
    Help.LANES: "MATRIX waits for VECTOR; twice the lanes would halve its passes",
    Help.BANDWIDTH: "MATRIX waits for bytes from DRAM",
    Help.DECODER: "MATRIX waits for weights, and those for LOAD's decoder; more values a cycle would bring them sooner",
    Help.BATCH: "MATRIX waits for results under way; with more tokens in a batch others are there to work on",
}


class ModelPart(Form):
    name: str
    sha256: str
    parameters: int
    macs: int
    notes: tuple[str, ...] = ()


class ArrayPart(Form):
    cores: int
    tokens: int
    outputs: int
    multipliers: int
    window: int
    lanes: int


class TargetPart(Form):
    name: str
    kind: str
    clock_mhz: float
    array: ArrayPart
    sized_for: str | None
    unverified: tuple[str, ...]


class InputsPart(Form):
    kind: str
    source: str
    seed: int | None
    count: int


class LatencyPart(Form):
    """Milliseconds of one batch, simulated."""

    accelerator_ms: float
    transfer_ms: float


class RooflinePart(Form):
    matrix_ms: float
    vector_ms: float
    memory_ms: float
    bound_ms: float
    attained: float
    bytes_moved: int


class UnitPart(Form):
    """What a unit did in the cycles of a batch; the four add up to all of them. `semaphore`: it waits for a signal or for
    its own results; `memory`: for the off-chip memory; `idle`: it has nothing to do."""

    busy: int
    semaphore: int
    memory: int
    idle: int


class ResourcePart(Form):
    used: int
    usable: int


class MemoryPart(Form):
    """Bytes. `weights_*` are the linear weights, `compute_bytes` what they take on chip, `embedding_bytes` the tables that
    rows are gathered from, `image_bytes` all constant data."""

    weights_dense_bytes: int
    weights_stored_bytes: int
    value_bytes: int
    metadata_bytes: int
    compute_bytes: int
    program_bytes: int
    embedding_bytes: int
    image_bytes: int
    on_chip: dict[str, ResourcePart]


class PruningPart(Form):
    """Sparsities as shares of zeros: of the pruned tensors, of all encoder linears, of every parameter of the file."""

    pattern: str
    words: str
    method: str
    asked: float
    achieved: float
    encoder: float
    file: float
    scope: tuple[str, ...]
    near_misses: tuple[str, ...] = ()
    """Patterns that matrices have but for a few places, as `auto` found them."""


class LayerPart(Form):
    name: str
    onnx_node: str
    op: str
    pattern: str
    format: str
    candidates: dict[str, int]
    density: float
    macs_dense: int
    macs_executed: int
    dense_bytes: int
    value_bytes: int
    metadata_bytes: int
    weights: Literal["", "resident", "streamed"]
    weight_bytes_loaded: int
    cycles: int
    cycles_by_cause: dict[str, int]
    cycles_if_dense: int | None
    speedup: float | None
    bound: str
    reason: Reason
    explanation: str
    help: Help
    """The change that would make this layer faster."""


class HostOpPart(Form):
    onnx_node: str
    op: str
    reason: str
    macs_share: float


class Report(Form):
    """report.json: the same bytes for the same command."""

    schema_version: int = SCHEMA_VERSION
    hpcc_version: str
    model: ModelPart
    target: TargetPart
    inputs: InputsPart
    latency: LatencyPart
    cycles: int
    cycles_if_dense: int | None
    instructions: int
    instructions_executed: int
    busy: dict[str, int]
    units: dict[str, UnitPart]
    roofline: RooflinePart
    resources: dict[str, ResourcePart]
    memory: MemoryPart
    pruning: PruningPart
    layers: tuple[LayerPart, ...]
    host_ops: tuple[HostOpPart, ...]
    not_modelled: tuple[str, ...]


class OutputCheck(Form):
    name: str
    relative_l2: float
    min_token_cosine: float
    mean_token_cosine: float
    max_abs_error: float
    passed: bool


class VerifyPart(Form):
    """`bit_exact`: the simulator against the integer reference; `graph_error`: the largest error of the graph in fp32,
    before `quantize`, over the rms; `outputs`: the result. The last two are against ONNX Runtime on the same weights."""

    reference: str
    samples: int
    bit_exact: bool | None
    graph_error: float | None = None
    outputs: tuple[OutputCheck, ...]


class DamagePart(Form):
    reference: str
    mean_sample_cosine: float
    top1_agreement: float | None


class Milliseconds(Form):
    ms: float
    source: str


class HostOpTime(Form):
    file: str
    nodes: tuple[str, ...]
    ms: float


class RunReport(Form):
    """run.json: what a clock or ONNX Runtime's floats decide."""

    schema_version: int = SCHEMA_VERSION
    hpcc_version: str
    verify: VerifyPart | None
    damage: DamagePart | None
    latency: dict[str, Milliseconds]
    host_ops: tuple[HostOpTime, ...]
    compile_seconds: dict[str, float]
    load_seconds: float
    simulate_seconds: float
    reference_ms: float | None
    peak_rss_mb: float
    paths: dict[str, str]
    date: str
    machine: dict[str, str]


NOT_MODELLED = (
    "bank and port conflicts of the on-chip memories",
    "refresh and row misses of the DRAM, for which its efficiency stands",
    "fine groups wider than the selectors",
    "instruction fetch, clock domain crossings and the wires between SLRs",
    "power and temperature",
)


def text_of(form: Form) -> str:
    return json.dumps(form.model_dump(mode="json"), indent=1) + "\n"
