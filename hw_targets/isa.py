"""The instruction set as one table; encoder, decoder, assembler, docs and the RTL header all read it.

An instruction is 40 little-endian 32-bit words: opcode and provenance, semaphores, 160 bits of immediates packed in
table order, and eight operand slots of (base, pitch, stride of loop 0, stride of loop 1), all in bytes of the operand's
memory. Inside LOOP bodies an operand's address is base + i0 * stride0 + i1 * stride1, i0 being the outermost loop's counter.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

ISA_VERSION = 3
WORDS = 40
INSTRUCTION_BYTES = 4 * WORDS
IMMEDIATE_WORDS = 5
OPERAND_SLOTS = 8
LOOP_LEVELS = 2
SEMAPHORES = 32
SEMAPHORE_MAX = 15
MAX_WAITS = 3
MAX_SIGNALS = 3


class Queue(StrEnum):
    """The in-order queues; each runs concurrently with the others."""

    LOAD = "load"
    MATRIX = "matrix"
    VECTOR = "vector"
    STORE = "store"
    CONTROL = "control"


class Memory(StrEnum):
    """The memories an operand may lie in. DRAM is the device's HBM or DDR, the rest is on chip."""

    DRAM = "dram"
    ACT = "act"
    WEIGHTS = "weights"
    ACC = "acc"
    PARAM = "param"


@dataclass(frozen=True)
class Operand:
    """One operand slot: an address in `memory` (or in `alternative`, if the one-bit immediate `selector` is set).

    `shape` names what lies there, in rows of `pitch` bytes; `access` is "r" or "w". What is written is read before where
    the one-bit immediate `updates` is set.
    """

    name: str
    memory: Memory
    access: str
    shape: str
    optional: bool = False
    alternative: Memory | None = None
    selector: str = ""
    updates: str = ""


@dataclass(frozen=True)
class Immediate:
    """An unsigned bit field, or the 32 bits of a float32 (`is_float`)."""

    name: str
    bits: int
    doc: str
    is_float: bool = False


@dataclass(frozen=True)
class Function:
    """One row of the table: what an opcode does, in which queue, with which operands and immediates."""

    name: str
    opcode: int
    queue: Queue
    operands: tuple[Operand, ...]
    immediates: tuple[Immediate, ...]
    doc: str

    def operand(self, name: str) -> Operand:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Operand]:
        return {operand.name: operand for operand in self.operands}


class MatrixMode(StrEnum):
    """How the weight operand of matrix.multiply is laid out; the value order is the field's encoding."""

    DENSE = "dense"
    NM = "nm"
    HP = "hp"
    UNSTRUCTURED = "unstructured"


class Norm(StrEnum):
    """Normalisation of a vector chain's value; the value order is the field's encoding."""

    NONE = "none"
    LAYER = "layer"
    RMS = "rms"


class Activation(StrEnum):
    """Activation of vector.finish; the value order is the field's encoding."""

    NONE = "none"
    GELU = "gelu"
    TANH = "tanh"
    RELU = "relu"
    GELU_TANH = "gelu_tanh"
    QUICK_GELU = "quick_gelu"
    SILU = "silu"


NORM = Immediate("norm", 2, "of the fp32 value: 0 none, 1 layer, 2 rms")
ROWS = Immediate("rows", 16, "rows (tokens)")
COLS = Immediate("cols", 16, "columns (features)")
EPS = Immediate("eps", 32, "epsilon of the norm", True)
SMOOTHED = Immediate("smoothed", 1, "the last row of columns multiplies a norm's result before it is quantised")
GROUP = Immediate("group", 16, "columns that share one scale; a row has cols / group scales")
PATTERN = (
    Immediate("n", 6, "kept per group of m (fine pattern; 1 with m = 1 is dense)"),
    Immediate("m", 6, "group size of the fine pattern"),
    Immediate("block_rows", 16, "HP: output rows that share one kept set; bcsr, cbr, circulant: rows of a block"),
    Immediate("window", 16, "HP: inputs per window; bcsr, cbr: inputs of a block"),
    Immediate("keep", 16, "HP: inputs kept per full window; cbr: lines"),
)
KEPT = Immediate("kept", 32, "unstructured: most values of the whole matrix (0 in the other layouts)")
CODES_SELECTOR = Immediate("codes_in_weights", 1, "write the codes into the weight memory (K), not the activation memory")
SCORE_SCALE = Immediate("score_scale", 32, "1 / sqrt(head size)", True)
CAUSAL = Immediate("causal", 1, "row r attends to columns up to r + cols - rows: the last row to all")
BIAS_ROWS = Immediate("bias_rows", 16, "rows of the bias: one for all rows or one each; 0 without a bias")
WIDE = Immediate("wide", 1, "probabilities have two bytes (rows of more than 512 keys)")
SCORES = (
    Operand("acc", Memory.ACC, "r", "i32[rows, cols]"),
    Operand("row_scale", Memory.ACT, "r", "f32[rows] at pitch: scales of q"),
    Operand("col_scale", Memory.ACT, "r", "f32[cols] at pitch: scales of k"),
    Operand("mask", Memory.ACT, "r", "u8[cols]: nonzero = attend", True),
    Operand("bias", Memory.ACT, "r", "f32[bias_rows, cols], added to the scores", True),
)


def _codes(optional: bool) -> Operand:
    return Operand("codes", Memory.ACT, "w", "i8[rows, cols]", optional, Memory.WEIGHTS, "codes_in_weights")


FUNCTIONS: tuple[Function, ...] = (
    Function(
        "load.copy",
        0x01,
        Queue.LOAD,
        (
            Operand("src", Memory.DRAM, "r", "u8[rows, row_bytes]"),
            Operand("dst", Memory.ACT, "w", "u8[rows, row_bytes]", False, Memory.PARAM, "to_param"),
        ),
        (
            Immediate("rows", 24, "rows to copy"),
            Immediate("row_bytes", 24, "bytes of a row"),
            Immediate("to_param", 1, "the destination is the parameter memory"),
        ),
        "Copy rows from DRAM on chip.",
    ),
    Function(
        "load.weights",
        0x02,
        Queue.LOAD,
        (
            Operand("src", Memory.DRAM, "r", "u8[stored_bytes]"),
            Operand("dst", Memory.WEIGHTS, "w", "compute layout of [outs, ins]"),
        ),
        (
            Immediate("format", 4, "storage format, by its number (docs/FORMATS.md)"),
            Immediate("outs", 16, "output rows of the matrix"),
            Immediate("ins", 16, "inputs of the matrix"),
            *PATTERN,
            Immediate("stored_bytes", 32, "bytes in DRAM"),
            KEPT,
        ),
        "Read an encoded weight matrix, decode it, write its compute layout.",
    ),
    Function(
        "load.rows",
        0x04,
        Queue.LOAD,
        (
            Operand("src", Memory.DRAM, "r", "u8[rows, row_bytes]"),
            Operand("dst", Memory.WEIGHTS, "w", "u8[rows, row_bytes]"),
        ),
        (Immediate("rows", 24, "rows to copy"), Immediate("row_bytes", 24, "bytes of a row")),
        "Copy rows from DRAM into the weight memory (keys that do not stay on chip).",
    ),
    Function(
        "load.gather",
        0x03,
        Queue.LOAD,
        (
            Operand("table", Memory.DRAM, "r", "u8[table_rows, row_bytes]"),
            Operand("ids", Memory.ACT, "r", "i32[rows]"),
            Operand("dst", Memory.ACT, "w", "u8[rows, row_bytes]"),
        ),
        (
            Immediate("rows", 24, "rows to gather"),
            Immediate("row_bytes", 24, "bytes of a row"),
            Immediate("table_rows", 32, "rows of the table; an id outside is an error"),
        ),
        "Gather table rows by id.",
    ),
    Function(
        "matrix.multiply",
        0x10,
        Queue.MATRIX,
        (
            Operand("x", Memory.ACT, "r", "i8|u8[rows, ins]"),
            Operand("w", Memory.WEIGHTS, "r", "i8[outs, ins] or a compute layout"),
            Operand("acc", Memory.ACC, "w", "i32[rows, outs]", updates="accumulate"),
        ),
        (
            ROWS,
            Immediate("outs", 16, "output columns"),
            Immediate("ins", 16, "length of the reduction"),
            Immediate("mode", 2, "weight layout: 0 dense, 1 nm, 2 hp, 3 unstructured"),
            Immediate("x_unsigned", 1, "x holds u8 (probabilities)"),
            *PATTERN,
            KEPT,
            Immediate("accumulate", 1, "the sums are added to what acc holds"),
        ),
        "acc[r, o] = sum over i of x[r, i] * w[o, i], exact in int32.",
    ),
    Function(
        "vector.finish",
        0x20,
        Queue.VECTOR,
        (
            Operand("acc", Memory.ACC, "r", "i32[rows, cols]"),
            Operand("row_scale", Memory.ACT, "r", "f32[rows] at pitch"),
            Operand(
                "columns",
                Memory.PARAM,
                "r",
                "f32[2 to 5, cols]: weight scale, bias, a norm's gamma, beta, smoothing",
            ),
            Operand("residual", Memory.ACT, "r", "bf16[rows, cols]", True),
            Operand("out", Memory.ACT, "w", "bf16[rows, cols] (f32 with out_f32)", True),
            _codes(True),
            Operand("scale", Memory.ACT, "w", "f32[rows, cols / group]", True),
            Operand("gate", Memory.ACT, "r", "bf16[rows, cols]", True),
        ),
        (
            ROWS,
            COLS,
            GROUP,
            Immediate(
                "activation", 3, "0 none, 1 gelu, 2 tanh, 3 relu, 4 gelu_tanh, 5 quick_gelu, 6 silu; of the bf16 value"
            ),
            NORM,
            SMOOTHED,
            Immediate("out_f32", 1, "write fp32, unrounded (no activation but relu)"),
            CODES_SELECTOR,
            EPS,
        ),
        "y = (f32(acc) * (row_scale * weight_scale) + bias + residual) * gate; norm or activation; bf16; quantise.",
    ),
    Function(
        "vector.softmax",
        0x21,
        Queue.VECTOR,
        (
            *SCORES,
            Operand("maximum", Memory.ACT, "r", "f32[rows]: of the whole rows, of which these columns are a part", True),
            Operand("p", Memory.ACT, "w", "u8[rows, cols]; wide: rows of high bytes, then rows of low ones"),
            Operand("l", Memory.ACT, "w", "i32[rows]", updates="continued"),
        ),
        (
            ROWS,
            COLS,
            SCORE_SCALE,
            CAUSAL,
            BIAS_ROWS,
            WIDE,
            Immediate("continued", 1, "the sums are added to what l holds"),
            Immediate("streaming", 1, "the streaming softmax, whole rows of at most 2,048 keys: l is 255"),
            Immediate("shift", 3, "of the streaming softmax: 2^shift logits are a factor of two"),
        ),
        "Scores to probabilities and their integer row sums.",
    ),
    Function(
        "vector.maximum",
        0x2A,
        Queue.VECTOR,
        (*SCORES, Operand("maximum", Memory.ACT, "w", "f32[rows]", updates="continued")),
        (
            ROWS,
            COLS,
            SCORE_SCALE,
            CAUSAL,
            BIAS_ROWS,
            Immediate("continued", 1, "maximum already holds that of others"),
        ),
        "The row maxima of scores, for rows whose columns do not all lie on chip.",
    ),
    Function(
        "vector.context",
        0x22,
        Queue.VECTOR,
        (
            Operand("acc", Memory.ACC, "r", "i32[rows, cols]; wide: rows of high sums, then rows of low ones"),
            Operand("l", Memory.ACT, "r", "i32[rows]"),
            Operand("v_scale", Memory.ACT, "r", "f32[1]"),
            Operand("out", Memory.ACT, "w", "bf16[rows, cols]"),
        ),
        (ROWS, COLS, WIDE),
        "out = bf16(f32(acc) * (v_scale / f32(l))), wide f32(high) * 256 + f32(low); a row with l = 0 gives 0.",
    ),
    Function(
        "vector.quantize",
        0x23,
        Queue.VECTOR,
        (
            Operand("x", Memory.ACT, "r", "bf16[rows, cols]"),
            _codes(False),
            Operand("scale", Memory.ACT, "w", "f32[rows, cols / group]"),
        ),
        (ROWS, COLS, GROUP, CODES_SELECTOR),
        "Quantise rows: absmax per group of columns, int8 codes, fp32 scales.",
    ),
    Function(
        "vector.quantize_columns",
        0x24,
        Queue.VECTOR,
        (
            Operand("x", Memory.ACT, "r", "bf16[rows, cols]"),
            Operand("mask", Memory.ACT, "r", "u8[rows]: nonzero = counts for the absmax", True),
            Operand("absmax", Memory.ACT, "r", "f32[1]: that of all rows, of which these are a part", True),
            Operand(
                "codes", Memory.WEIGHTS, "w", "i8[cols, rows] (through the transposer)", False, Memory.ACT, "codes_in_act"
            ),
            Operand("scale", Memory.ACT, "w", "f32[1]"),
        ),
        (ROWS, COLS, Immediate("codes_in_act", 1, "write the codes into the activation memory, to be stored")),
        "Quantise V of one sequence and head: one scale over the unmasked rows, codes transposed into the weight memory.",
    ),
    Function(
        "vector.absmax",
        0x2B,
        Queue.VECTOR,
        (
            Operand("x", Memory.ACT, "r", "bf16[rows, cols]"),
            Operand("mask", Memory.ACT, "r", "u8[rows]: nonzero = counts", True),
            Operand("absmax", Memory.ACT, "w", "f32[1]", updates="continued"),
        ),
        (ROWS, COLS, Immediate("continued", 1, "the largest of these and of what absmax holds")),
        "The largest magnitude of the unmasked rows, for V of which not all rows lie on chip.",
    ),
    Function(
        "vector.embed",
        0x25,
        Queue.VECTOR,
        (
            Operand("rows_in", Memory.ACT, "r", "bf16[tables, rows, cols], tables table_bytes apart"),
            Operand("columns", Memory.PARAM, "r", "f32[1 to 3, cols]: gamma, beta, smoothing", True),
            Operand("out", Memory.ACT, "w", "bf16[rows, cols]"),
            _codes(True),
            Operand("scale", Memory.ACT, "w", "f32[rows, cols / group]", True),
        ),
        (
            ROWS,
            COLS,
            GROUP,
            Immediate("tables", 4, "tables to add, in order"),
            Immediate("table_bytes", 32, "bytes from one table's rows to the next's"),
            NORM,
            SMOOTHED,
            CODES_SELECTOR,
            EPS,
        ),
        "Sum of gathered table rows in fp32, norm, bf16, quantise.",
    ),
    Function(
        "vector.pool",
        0x26,
        Queue.VECTOR,
        (
            Operand("x", Memory.ACT, "r", "bf16[rows, cols]"),
            Operand("mask", Memory.ACT, "r", "u8[rows]"),
            Operand("out", Memory.ACT, "w", "f32[cols]"),
        ),
        (ROWS, COLS, Immediate("minimum", 32, "lower limit of the count", True)),
        "Mean over the unmasked rows of one sequence.",
    ),
    Function(
        "vector.heads",
        0x27,
        Queue.VECTOR,
        (
            Operand("x", Memory.ACT, "r", "bf16[rows, cols]"),
            Operand("columns", Memory.PARAM, "r", "f32[1, group]: gamma of the heads' norm", True),
            Operand("table", Memory.ACT, "r", "f32[rows, turned]: cosines, then sines", True),
            Operand("out", Memory.ACT, "w", "bf16[rows, cols]", True),
            _codes(True),
            Operand("scale", Memory.ACT, "w", "f32[rows, cols / group]", True),
        ),
        (
            ROWS,
            COLS,
            GROUP,
            Immediate("turned", 16, "columns of each group that the table rotates, the first ones"),
            Immediate("interleaved", 1, "pairs are neighbours; else they lie turned / 2 columns apart"),
            CODES_SELECTOR,
            EPS,
        ),
        "Per head of `group` columns: RMS norm (with columns), bf16; rotation (with a table), bf16; quantise.",
    ),
    Function(
        "store.copy",
        0x30,
        Queue.STORE,
        (
            Operand("src", Memory.ACT, "r", "u8[rows, row_bytes]"),
            Operand("dst", Memory.DRAM, "w", "u8[rows, row_bytes]"),
        ),
        (Immediate("rows", 24, "rows to copy"), Immediate("row_bytes", 24, "bytes of a row")),
        "Copy rows from the activation memory to DRAM.",
    ),
    Function("control.loop", 0x40, Queue.CONTROL, (), (Immediate("count", 32, "iterations"),), "Repeat up to END."),
    Function("control.end", 0x41, Queue.CONTROL, (), (), "End of the innermost loop body."),
    Function("control.halt", 0x42, Queue.CONTROL, (), (), "End of the program; all queues drain."),
    Function(
        "control.pause",
        0x43,
        Queue.CONTROL,
        (),
        (),
        "All queues drain, the host reads and writes DRAM, then the program goes on. Memories keep their content.",
    ),
)

BY_NAME: dict[str, Function] = {function.name: function for function in FUNCTIONS}
BY_OPCODE: dict[int, Function] = {function.opcode: function for function in FUNCTIONS}


@dataclass(frozen=True)
class Address:
    """An operand slot's content, in bytes."""

    base: int
    pitch: int = 0
    strides: tuple[int, int] = (0, 0)

    def at(self, counters: tuple[int, ...]) -> int:
        return self.base + sum(i * s for i, s in zip(counters, self.strides, strict=False))


@dataclass(frozen=True)
class Instruction:
    """One instruction, decoded. `immediates` holds ints and floats by name; an absent optional operand is left out.

    `node` indexes the manifest's table of ONNX nodes; `waits` and `signals` are semaphore numbers.
    """

    name: str
    operands: tuple[tuple[str, Address], ...] = ()
    immediates: tuple[tuple[str, int | float], ...] = ()
    waits: tuple[int, ...] = ()
    signals: tuple[int, ...] = ()
    node: int = 0

    @property
    def function(self) -> Function:
        return BY_NAME[self.name]

    def operand(self, name: str) -> Address | None:
        return dict(self.operands).get(name)

    def immediate(self, name: str) -> int | float:
        return dict(self.immediates)[name]
