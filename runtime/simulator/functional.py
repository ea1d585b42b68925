"""The functional simulator: executes a program in program order on real bytes, through hw_targets.numerics.

Program order is one of the schedules the machine may take, and the static checks prove that all of them compute the
same. Every step reads and writes only its operands' bytes. Views are made once, when the machine is built: running R
inputs costs the arithmetic alone. Decoded and expanded weights are kept across inputs, because weights in DRAM never
change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_targets import activations, decoder_numerics, numerics, streaming_softmax
from hw_targets.check import accesses
from hw_targets.codec import Resolved
from hw_targets.errors import HpccError, InputError
from hw_targets.extents import Extent, column_rows, layout_of, operand_extents, overlap
from hw_targets.isa import Activation, MatrixMode, Memory, Norm
from hw_targets.layout import Layout
from runtime.simulator.loaded_weights import Batch, LoadedWeights, Step, expand_layout
from runtime.simulator.machine import POISON, AnyArray, DramRegion, Memories, Watch, read_bf16, write_bf16
from runtime.simulator.threads import one_thread

ACTIVATIONS: Mapping[Activation, Callable[[AnyArray], AnyArray]] = {
    Activation(name): function for name, function in activations.ACTIVATIONS.items()
}
ACTIVATION_WORDS = tuple(Activation)
NORM_WORDS = tuple(Norm)
BATCH_REACH = 256
"""Writes to the activation memory that a batch of multiplications looks back over."""


@dataclass(frozen=True)
class Options:
    """How a machine runs. `poison` fills the on-chip memories with garbage before each input, and `from_bytes` makes
    every multiplication expand the weight memory's own bytes instead of the kept copy of what was loaded there."""

    poison: bool = False
    from_bytes: bool = False


DEFAULTS = Options()


class Simulator:
    """A machine with one program prepared. `run` executes it once on what lies in DRAM.

    `program` is a checked expansion. `place_of` names an instruction in errors (its ONNX node). Raises InputError where
    an operand lies outside the memories.
    """

    def __init__(
        self,
        program: Sequence[Resolved],
        sizes: Mapping[Memory, int],
        dram: Sequence[DramRegion],
        options: Options = DEFAULTS,
        place_of: Callable[[Resolved], str] = lambda instruction: instruction.place,
    ) -> None:
        self.memories = Memories(sizes, dram)
        self.options = options
        self._place_of = place_of
        self._loads: dict[tuple[Any, ...], LoadedWeights] = {}
        self._resident: dict[Extent, LoadedWeights] = {}
        self._batches: dict[int, Batch] = {}
        self._activations: list[tuple[int, Extent]] = []
        """(step, region) of the latest writes to the activation memory."""
        self._steps: list[tuple[Resolved, Step]] = []
        self._begins = [0]
        """The first step of each part: a program pauses between two."""
        for instruction in program:
            if instruction.name == "control.pause":
                self._begins.append(len(self._steps))
            prepare = PREPARE.get(instruction.name)
            if prepare is not None:
                self._steps.append((instruction, self._prepare(prepare, instruction)))

    def _prepare(self, prepare: Callable[[Simulator, Resolved], Step], instruction: Resolved) -> Step:
        try:
            step = prepare(self, instruction)
        except HpccError as error:
            raise InputError(error.code, error.message, where=self._place_of(instruction)) from error
        displaced = self._overwritten(instruction)
        if instruction.name == "load.weights":
            self._resident[operand_extents(instruction, "dst")[0]] = self.matrix(instruction)
        return partial(_evict_and, displaced, step) if displaced else step

    def _overwritten(self, instruction: Resolved) -> list[LoadedWeights]:
        """Resident matrices that the instruction writes over; they are resident no more."""
        gone: list[LoadedWeights] = []
        for region, writes in accesses(instruction):
            if writes and region.memory is Memory.WEIGHTS:
                hit = [extent for extent in self._resident if overlap(extent, region)]
                gone += [self._resident.pop(extent) for extent in hit]
            elif writes and region.memory is Memory.ACT:
                self._activations.append((len(self._steps), region))
        for matrix in gone:
            self._batches.pop(id(matrix), None)
        self._activations = self._activations[-BATCH_REACH:]
        return gone

    def multiplication(self, matrix: LoadedWeights, region: Extent, x: AnyArray, acc: AnyArray) -> Step:
        """The step of a multiplication by a resident matrix; `region` is where x lies."""
        batch = self._batches.get(id(matrix))
        if batch is None or not batch.takes(x) or not self._unchanged(region, batch.first):
            batch = self._batches[id(matrix)] = Batch(matrix, len(self._steps))
        return batch.add(x, acc)

    def _unchanged(self, region: Extent, since: int) -> bool:
        """Whether nothing has written to `region` since a step; False where that is no longer known."""
        known_from = self._activations[0][0] if len(self._activations) == BATCH_REACH else 0
        if since < known_from:
            return False
        return not any(step >= since and overlap(written, region) for step, written in reversed(self._activations))

    def matrix(self, instruction: Resolved) -> LoadedWeights:
        """The matrix that a load.weights reads; one object for all loads of it."""
        layout = layout_of(instruction)
        place = instruction.operands["src"]
        code, size = instruction.integer("format"), instruction.integer("stored_bytes")
        key = (place.base, code, size, layout)
        if key not in self._loads:
            stored = self.memories.view(place, np.uint8, (size,))
            self._loads[key] = LoadedWeights(stored, code, layout, self._place_of(instruction))
        return self._loads[key]

    def resident(self, region: Extent, layout: Layout) -> LoadedWeights | None:
        """The matrix whose load wrote exactly `region`, if nothing has been written there since."""
        matrix = self._resident.get(region)
        return matrix if matrix is not None and matrix.layout == layout else None

    def run(self, watch: Watch | None = None, part: int | None = None) -> None:
        """Execute the program once, or one of the parts between its pauses, in order; `watch` sees every step. Raises
        InputError for data no machine could work on (a token id out of range)."""
        if self.options.poison and not part:
            self.memories.fill(POISON)
        ends = [*self._begins[1:], len(self._steps)]
        steps = self._steps if part is None else self._steps[self._begins[part] : ends[part]]
        with one_thread(), np.errstate(all="ignore"):  # numbers overflow as they do on the machine, without a word
            for instruction, step in steps:
                try:
                    if watch is not None:
                        watch.before(instruction, self.memories)
                    step()
                    if watch is not None:
                        watch.after(instruction, self.memories)
                except HpccError as error:
                    raise InputError(error.code, error.message, where=self._place_of(instruction)) from error


def _evict_and(displaced: Sequence[LoadedWeights], step: Step) -> None:
    for matrix in displaced:
        matrix.evict()
    step()


# ---- preparing: one function an instruction, returning what to do at every run -----------------------------------


def _int(instruction: Resolved, *names: str) -> tuple[int, ...]:
    return tuple(instruction.integer(name) for name in names)


def _bf16_view(sim: Simulator, instruction: Resolved, operand: str, rows: int, cols: int) -> AnyArray:
    return sim.memories.view(instruction.operands[operand], np.uint16, (rows, cols))


def _copy(sim: Simulator, i: Resolved) -> Step:
    rows, row_bytes = _int(i, "rows", "row_bytes")
    src = sim.memories.view(i.operands["src"], np.uint8, (rows, row_bytes))
    dst = sim.memories.view(i.operands["dst"], np.uint8, (rows, row_bytes))
    if not dst.flags.writeable:
        raise InputError("HPCC1233", "writes into a part of DRAM that must not change")
    return partial(np.copyto, dst, src)


def _load_weights(sim: Simulator, i: Resolved) -> Step:
    matrix = sim.matrix(i)
    layout = matrix.layout
    shape = (layout.outs, layout.ins) if layout.mode is MatrixMode.DENSE else (1, layout.bytes)
    dst = sim.memories.view(i.operands["dst"], np.uint8, shape)
    return lambda: np.copyto(dst, matrix.decoded.reshape(shape))


def _gather(sim: Simulator, i: Resolved) -> Step:
    rows, row_bytes, table_rows = _int(i, "rows", "row_bytes", "table_rows")
    table = sim.memories.view(i.operands["table"], np.uint8, (table_rows, row_bytes))
    ids = sim.memories.view(i.operands["ids"], np.int32, (rows,))
    dst = sim.memories.view(i.operands["dst"], np.uint8, (rows, row_bytes))

    def step() -> None:
        wrong = (ids < 0) | (ids >= table_rows)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError("HPCC1232", f"id {ids[row]} of token {row} is outside the table of {table_rows} rows")
        np.copyto(dst, table[ids])

    return step


def _multiply(sim: Simulator, i: Resolved) -> Step:
    layout = layout_of(i)
    rows = i.integer("rows")
    x = sim.memories.view(i.operands["x"], np.uint8 if i.integer("x_unsigned") else np.int8, (rows, layout.ins))
    acc = sim.memories.view(i.operands["acc"], np.int32, (rows, layout.outs))
    matrix = None if sim.options.from_bytes else sim.resident(operand_extents(i, "w")[0], layout)
    if matrix is not None and not i.integer("accumulate"):
        return sim.multiplication(matrix, operand_extents(i, "x")[0], x, acc)
    shape = (layout.outs, layout.ins) if layout.mode is MatrixMode.DENSE else (layout.bytes,)
    packed = sim.memories.view(i.operands["w"], np.uint8, shape)
    accumulate = i.integer("accumulate")

    def step() -> None:
        product = numerics.matmul_i32(x, expand_layout(packed, layout))
        np.copyto(acc, acc + product if accumulate else product)

    return step


def _columns(sim: Simulator, i: Resolved) -> AnyArray | None:
    """fp32 [rows, cols] of the parameter memory, if the instruction has the operand."""
    if "columns" not in i.operands:
        return None
    return sim.memories.view(i.operands["columns"], np.float32, (column_rows(i), i.integer("cols")))


def _quantizer(sim: Simulator, i: Resolved, columns: AnyArray | None = None) -> Callable[[AnyArray], None]:
    """Writes codes and scales of bf16 values, if the instruction has these operands; smoothed by the last of `columns`
    if it says so."""
    if "codes" not in i.operands:
        return lambda values: None
    rows, cols, group = _int(i, "rows", "cols", "group")
    codes = sim.memories.view(i.operands["codes"], np.int8, (rows, cols))
    scale = sim.memories.view(i.operands["scale"], np.float32, (rows, cols // group))
    smooth = columns[-1] if columns is not None and i.immediates.get("smoothed") else None

    def quantize(values: AnyArray) -> None:
        codes[...], scale[...] = numerics.quantize_rows(values, group, smooth)

    return quantize


def _finish(sim: Simulator, i: Resolved) -> Step:
    rows, cols, norm = _int(i, "rows", "cols", "norm")
    acc = sim.memories.view(i.operands["acc"], np.int32, (rows, cols))
    row_scale = sim.memories.pitched(i.operands["row_scale"], np.float32, rows)
    columns = _columns(sim, i)
    assert columns is not None
    residual = _bf16_view(sim, i, "residual", rows, cols) if "residual" in i.operands else None
    gate = _bf16_view(sim, i, "gate", rows, cols) if "gate" in i.operands else None
    write, quantize = _writer(sim, i), _quantizer(sim, i, columns)
    activation = ACTIVATIONS.get(ACTIVATION_WORDS[i.integer("activation")])
    eps, rounded = i.number("eps"), not i.integer("out_f32")

    def step() -> None:
        addend = None if residual is None else read_bf16(residual)
        y: AnyArray = numerics.finish(acc, row_scale, columns[0], columns[1], addend)
        if gate is not None:
            y = decoder_numerics.gated(y, read_bf16(gate))
        if norm:
            y = _normalised(norm, y, columns[2:], eps)
        elif rounded:
            y = numerics.bf16(y)
        if activation is not None:
            y = activation(y)
        write(y)
        quantize(y if rounded else numerics.bf16(y))

    return step


def _normalised(norm: int, y: AnyArray, parameters: AnyArray, eps: float) -> AnyArray:
    """The bf16 norm of fp32 rows; `parameters` begin with gamma."""
    if NORM_WORDS[norm] is Norm.RMS:
        return decoder_numerics.rms_norm(y, parameters[0], eps)
    return numerics.layer_norm(y, parameters[0], parameters[1], eps)


def _writer(sim: Simulator, i: Resolved) -> Callable[[AnyArray], None]:
    """Writes the operand `out`, if the instruction has it, as bf16, or as fp32 with out_f32."""
    if "out" not in i.operands:
        return lambda values: None
    shape = (i.integer("rows"), i.integer("cols"))
    if i.immediates.get("out_f32"):
        return partial(np.copyto, sim.memories.view(i.operands["out"], np.float32, shape))
    return partial(write_bf16, _bf16_view(sim, i, "out", *shape))


def _scores(sim: Simulator, i: Resolved) -> Callable[[], tuple[NDArray[np.float32], NDArray[np.bool_] | None]]:
    """What makes the fp32 scores of an instruction, and says which of them count."""
    rows, cols = _int(i, "rows", "cols")
    acc = sim.memories.view(i.operands["acc"], np.int32, (rows, cols))
    row_scale = sim.memories.pitched(i.operands["row_scale"], np.float32, rows)
    col_scale = sim.memories.pitched(i.operands["col_scale"], np.float32, cols)
    mask = sim.memories.view(i.operands["mask"], np.uint8, (cols,)) if "mask" in i.operands else None
    bias = None
    if "bias" in i.operands:
        bias = sim.memories.view(i.operands["bias"], np.float32, (i.integer("bias_rows"), cols))
    score_scale, causal = i.number("score_scale"), bool(i.integer("causal"))

    def scores() -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        attended = numerics.attended_columns((rows, cols), mask, causal=causal)
        return numerics.scores(acc, row_scale, col_scale, score_scale, bias), attended

    return scores


def _softmax(sim: Simulator, i: Resolved) -> Step:
    rows, cols, wide, continued = _int(i, "rows", "cols", "wide", "continued")
    streaming, shift = _int(i, "streaming", "shift")
    scores = _scores(sim, i)
    given = sim.memories.view(i.operands["maximum"], np.float32, (rows,)) if "maximum" in i.operands else None
    p = sim.memories.view(i.operands["p"], np.uint8, (rows * (1 + wide), cols))
    sums = sim.memories.view(i.operands["l"], np.int32, (rows,))

    def step() -> None:
        s, attended = scores()
        if streaming:
            p[...], sums[...] = streaming_softmax.from_scores(s, attended, shift)
            return
        maximum = numerics.row_maximum(s, attended) if given is None else given
        made: AnyArray = (numerics.wide_probabilities if wide else numerics.probabilities)(s, maximum, attended)
        p[...] = numerics.high_and_low(made) if wide else made
        total = made.sum(axis=1, dtype=np.int32)
        sums[...] = sums + total if continued else total

    return step


def _maximum(sim: Simulator, i: Resolved) -> Step:
    scores = _scores(sim, i)
    maximum = sim.memories.view(i.operands["maximum"], np.float32, (i.integer("rows"),))
    continued = i.integer("continued")
    return lambda: np.copyto(maximum, numerics.row_maximum(*scores(), maximum if continued else None))


def _context(sim: Simulator, i: Resolved) -> Step:
    rows, cols, wide = _int(i, "rows", "cols", "wide")
    acc = sim.memories.view(i.operands["acc"], np.int32, (rows * (1 + wide), cols))
    sums = sim.memories.view(i.operands["l"], np.int32, (rows,))
    v_scale = sim.memories.view(i.operands["v_scale"], np.float32, (1,))
    out = _bf16_view(sim, i, "out", rows, cols)
    return lambda: write_bf16(out, numerics.context(acc, sums, v_scale[0]))


def _quantize(sim: Simulator, i: Resolved) -> Step:
    x = _bf16_view(sim, i, "x", *_int(i, "rows", "cols"))
    quantize = _quantizer(sim, i)
    return lambda: quantize(read_bf16(x))


def _quantize_columns(sim: Simulator, i: Resolved) -> Step:
    rows, cols = _int(i, "rows", "cols")
    x = _bf16_view(sim, i, "x", rows, cols)
    mask = sim.memories.view(i.operands["mask"], np.uint8, (rows,)) if "mask" in i.operands else None
    absmax = sim.memories.view(i.operands["absmax"], np.float32, (1,)) if "absmax" in i.operands else None
    codes = sim.memories.view(i.operands["codes"], np.int8, (cols, rows))
    scale = sim.memories.view(i.operands["scale"], np.float32, (1,))

    def step() -> None:
        values, scale[0] = numerics.quantize_columns(read_bf16(x), mask, None if absmax is None else absmax[0])
        codes[...] = values.T

    return step


def _absmax(sim: Simulator, i: Resolved) -> Step:
    rows, cols, continued = _int(i, "rows", "cols", "continued")
    x = _bf16_view(sim, i, "x", rows, cols)
    mask = sim.memories.view(i.operands["mask"], np.uint8, (rows,)) if "mask" in i.operands else None
    absmax = sim.memories.view(i.operands["absmax"], np.float32, (1,))

    def step() -> None:
        found = numerics.columns_absmax(read_bf16(x), mask)
        absmax[0] = max(found, absmax[0]) if continued else found

    return step


def _embed(sim: Simulator, i: Resolved) -> Step:
    rows, cols, tables, table_bytes, norm = _int(i, "rows", "cols", "tables", "table_bytes", "norm")
    first = i.operands["rows_in"]
    places = [first._replace(base=first.base + table * table_bytes) for table in range(tables)]
    views = [sim.memories.view(place, np.uint16, (rows, cols)) for place in places]
    columns = _columns(sim, i)
    write, quantize = _writer(sim, i), _quantizer(sim, i, columns)
    eps = i.number("eps")

    def write_both(y: AnyArray) -> None:
        write(y)
        quantize(y)

    def step() -> None:
        total = numerics.embed(np.stack([read_bf16(view) for view in views]))
        if not norm or columns is None:
            return write_both(numerics.bf16(total))
        return write_both(_normalised(norm, total, columns, eps))

    return step


def _heads(sim: Simulator, i: Resolved) -> Step:
    rows, cols, group, turned = _int(i, "rows", "cols", "group", "turned")
    x = _bf16_view(sim, i, "x", rows, cols)
    gamma = sim.memories.view(i.operands["columns"], np.float32, (group,)) if "columns" in i.operands else None
    table = sim.memories.view(i.operands["table"], np.float32, (rows, turned)) if turned else None
    write, quantize = _writer(sim, i), _quantizer(sim, i)
    eps, interleaved = i.number("eps"), bool(i.integer("interleaved"))

    def step() -> None:
        y: AnyArray = read_bf16(x)
        if gamma is not None:
            y = decoder_numerics.rms_norm(y, gamma, eps)
        if table is not None:
            y = decoder_numerics.rotate(y, table, group, interleaved=interleaved)
        write(y)
        quantize(y)

    return step


def _pool(sim: Simulator, i: Resolved) -> Step:
    rows, cols = _int(i, "rows", "cols")
    x = _bf16_view(sim, i, "x", rows, cols)
    mask = sim.memories.view(i.operands["mask"], np.uint8, (rows,))
    out = sim.memories.view(i.operands["out"], np.float32, (cols,))
    minimum = i.number("minimum")
    return lambda: np.copyto(out, numerics.mean_pool(read_bf16(x), mask, minimum))


PREPARE: Mapping[str, Callable[[Simulator, Resolved], Step]] = {
    "load.copy": _copy,
    "load.rows": _copy,
    "load.weights": _load_weights,
    "load.gather": _gather,
    "matrix.multiply": _multiply,
    "vector.finish": _finish,
    "vector.softmax": _softmax,
    "vector.maximum": _maximum,
    "vector.context": _context,
    "vector.quantize": _quantize,
    "vector.quantize_columns": _quantize_columns,
    "vector.absmax": _absmax,
    "vector.embed": _embed,
    "vector.pool": _pool,
    "vector.heads": _heads,
    "store.copy": _copy,
}
"""CONTROL's instructions are absent: the expansion has executed them."""
