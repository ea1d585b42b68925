"""Executes a tiled module over slices: the same arithmetic as on whole tensors, on the pieces the tiling chose.

Works before and after `schedule` (addresses and semaphores do not matter here). Buffers hold typed numpy arrays; a
weight matrix is kept dense beside the bytes it will have on chip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import BFloat16Type, Float32Type, MemRefType, ModuleOp, i8
from xdsl.ir import Attribute, Block, Operation, SSAValue

from compiler.dialects.tile import AllocOp, DramOp, ForOp, RunOp, ViewOp, parts_of, row_stride
from compiler.module import main_function
from compiler.weights import WeightStore
from hw_targets import activations, decoder_numerics, numerics, streaming_softmax
from hw_targets.isa import Activation, MatrixMode, Norm

Array = NDArray[Any]
ELEMENTS: dict[str, type[np.generic]] = {"i8": np.int8, "i32": np.int32, "f32": np.float32, "bf16": np.float32}
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    Activation.NONE.value: lambda x: x,
    **activations.ACTIVATIONS,
}


def evaluate_tiles(module: ModuleOp, store: WeightStore, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name, as [rows, cols] arrays of what the device writes (bf16 values as float32)."""
    machine = _Machine(store, inputs)
    machine.block(main_function(module).body.block, {})
    return machine.outputs


def _input(value: Array, element: Attribute) -> Array:
    """An input as the device has it: masks as 0 and 1, ids as int32, activations rounded to bf16, biases as they are."""
    if isinstance(element, BFloat16Type):
        return numerics.bf16(value)
    if isinstance(element, Float32Type):
        return value.astype(np.float32)
    return (value != 0).astype(np.int8) if element == i8 else value.astype(np.int32)


class _Machine:
    def __init__(self, store: WeightStore, inputs: Mapping[str, Array]) -> None:
        self.store = store
        self.inputs = inputs
        self.outputs: dict[str, Array] = {}
        self.arrays: dict[SSAValue, Array] = {}
        self.matrices: dict[SSAValue, Array] = {}
        self.stored: dict[SSAValue, dict[int, Array]] = {}
        """Parts of a weight in DRAM, by their offset."""

    def block(self, block: Block, counters: dict[SSAValue, int]) -> None:
        for op in block.ops:
            if isinstance(op, ForOp):
                for i in range(op.count.value.data):
                    self.block(op.body.block, {**counters, op.counter: i})
            else:
                self.op(op, counters)

    def op(self, op: Operation, counters: dict[SSAValue, int]) -> None:
        if isinstance(op, AllocOp):
            self.arrays[op.result] = np.zeros(_shape(op.result), _dtype(op.result))
        elif isinstance(op, DramOp):
            self.arrays[op.result] = self.region(op)
        elif isinstance(op, ViewOp):
            self.arrays[op.result] = self.view(op, counters)
        elif isinstance(op, RunOp):
            self.run(op)

    def region(self, op: DramOp) -> Array:
        """The contents of a DRAM region, from the inputs or the store."""
        kind, shape, label = op.kind.data, _shape(op.result), op.label.data
        keys = [key.data for key in op.content]
        if kind == "input":
            assert isinstance(op.result.type, MemRefType)
            return _input(self.inputs[label], op.result.type.element_type).reshape(shape)
        if kind == "output":
            self.outputs[label] = np.zeros(shape, _dtype(op.result))
            return self.outputs[label]
        if kind == "scratch":
            return np.zeros(shape, _dtype(op.result))
        if kind == "weights":
            codes = self.store.get(keys[0])
            self.matrices[op.result] = codes
            self.stored[op.result] = {part.offset: codes[part.rows] for part in parts_of(op.parts)}
            return np.zeros(shape, np.int8)
        if kind == "columns":
            rows = [self.store.get(key).reshape(-1) if key else np.zeros(shape[1], np.float32) for key in keys]
            return np.stack(rows).astype(np.float32)
        if kind == "ids":
            ids = self.store.get(keys[0]).astype(np.int32).reshape(-1)
            return np.tile(ids, shape[1] // len(ids)).reshape(shape)
        return self.store.get(keys[0]).astype(np.float32).reshape(shape)

    def view(self, op: ViewOp, counters: dict[SSAValue, int]) -> Array:
        row, col = op.origin.data.eval([counters[c] for c in op.counters], [])
        if op.source in self.stored:
            self.matrices[op.result] = self.stored[op.source][col]
        rows, cols = _shape(op.result)
        assert isinstance(op.source.type, MemRefType)
        assert isinstance(op.result.type, MemRefType)
        step = row_stride(op.result.type) // row_stride(op.source.type)
        source = self.arrays[op.source]
        view = source[row : row + (rows - 1) * step + 1 : step, col : col + cols]
        if view.shape != (rows, cols):
            raise IndexError(f"a view of {(rows, cols)} at {(row, col)} leaves its buffer {source.shape}")
        return view

    def run(self, op: RunOp) -> None:
        operands = {name: self.arrays[value] for name, value in op.named.items()}
        if op.function.data == "load.weights":
            self.matrices[op.named["dst"]] = self.matrices[op.named["src"]]
        elif op.function.data == "matrix.multiply":
            values = op.values
            weights = operands["w"]
            if int(values["mode"]) != list(MatrixMode).index(MatrixMode.DENSE) or op.named["w"] in self.matrices:
                weights = self.matrices[op.named["w"]]
            x = operands["x"].view(np.uint8) if values["x_unsigned"] else operands["x"]
            product = numerics.matmul_i32(x, weights)
            operands["acc"][...] = operands["acc"] + product if values["accumulate"] else product
        else:
            FUNCTIONS[op.function.data](operands, op.values)


def _shape(value: SSAValue) -> tuple[int, ...]:
    assert isinstance(value.type, MemRefType)
    return value.type.get_shape()


def _dtype(value: SSAValue) -> type[np.generic]:
    assert isinstance(value.type, MemRefType)
    return ELEMENTS[str(value.type.element_type)]


Operands = dict[str, Array]
Values = dict[str, int | float]


def _quantise(o: Operands, v: Values, y: Array) -> None:
    if "codes" in o:
        smooth = o["columns"][-1] if v.get("smoothed") else None
        o["codes"][...], o["scale"][...] = numerics.quantize_rows(y, int(v["group"]), smooth)


def _copy(o: Operands, v: Values) -> None:
    o["dst"][...] = o["src"]


def _gather(o: Operands, v: Values) -> None:
    o["dst"][...] = o["table"][o["ids"].reshape(-1)]


def _finish(o: Operands, v: Values) -> None:
    columns = o["columns"]
    y = numerics.finish(o["acc"], o["row_scale"].reshape(-1), columns[0], columns[1], o.get("residual"))
    if "gate" in o:
        y = decoder_numerics.gated(y, o["gate"])
    if v["out_f32"]:
        o["out"][...] = y
        return
    if v["norm"]:
        y = _normalised(v, y, columns[2:])
    else:
        y = ACTIVATIONS[list(Activation)[int(v["activation"])].value](numerics.bf16(y))
    if "out" in o:
        o["out"][...] = y
    _quantise(o, v, y)


def _normalised(v: Values, y: Array, parameters: Array) -> Array:
    if list(Norm)[int(v["norm"])] is Norm.RMS:
        return decoder_numerics.rms_norm(y, parameters[0], float(v["eps"]))
    return numerics.layer_norm(y, parameters[0], parameters[1], float(v["eps"]))


def _heads(o: Operands, v: Values) -> None:
    y = o["x"]
    if "columns" in o:
        y = decoder_numerics.rms_norm(y, o["columns"][0], float(v["eps"]))
    if "table" in o:
        y = decoder_numerics.rotate(y, o["table"], int(v["group"]), interleaved=bool(v["interleaved"]))
    if "out" in o:
        o["out"][...] = y
    _quantise(o, v, y)


def _embed(o: Operands, v: Values) -> None:
    tables, rows = int(v["tables"]), int(v["rows"])
    y = numerics.embed(o["rows_in"].reshape(tables, rows, -1))
    if v["norm"]:
        y = _normalised(v, y, o["columns"])
    else:
        y = numerics.bf16(y)
    if "out" in o:
        o["out"][...] = y
    _quantise(o, v, y)


def _scores(o: Operands, v: Values) -> tuple[Array, Array | None]:
    """The fp32 scores of an instruction, and which of them count."""
    row_scale, col_scale = o["row_scale"].reshape(-1), o["col_scale"].reshape(-1)
    mask = o["mask"].reshape(-1) if "mask" in o else None
    attended = numerics.attended_columns(o["acc"].shape, mask, causal=bool(v["causal"]))
    return numerics.scores(o["acc"], row_scale, col_scale, float(v["score_scale"]), o.get("bias")), attended


def _softmax(o: Operands, v: Values) -> None:
    s, attended = _scores(o, v)
    if v["streaming"]:
        p, sums = streaming_softmax.from_scores(s, attended, int(v["shift"]))
        o["p"][...], o["l"][...] = p.view(np.int8), sums
        return
    maximum = o["maximum"].reshape(-1) if "maximum" in o else numerics.row_maximum(s, attended)
    made: Array = (numerics.wide_probabilities if v["wide"] else numerics.probabilities)(s, maximum, attended)
    o["p"][...] = (numerics.high_and_low(made) if v["wide"] else made).view(np.int8)
    total = made.sum(axis=1, dtype=np.int32)
    o["l"][...] = o["l"] + total if v["continued"] else total


def _maximum(o: Operands, v: Values) -> None:
    s, attended = _scores(o, v)
    o["maximum"][...] = numerics.row_maximum(s, attended, o["maximum"].reshape(-1) if v["continued"] else None)


def _context(o: Operands, v: Values) -> None:
    o["out"][...] = numerics.context(o["acc"], o["l"].reshape(-1), o["v_scale"][0, 0])


def _quantize_columns(o: Operands, v: Values) -> None:
    mask = o["mask"].reshape(-1) if "mask" in o else None
    codes, scale = numerics.quantize_columns(o["x"], mask, o["absmax"].reshape(()) if "absmax" in o else None)
    o["codes"][...] = codes.T
    o["scale"][...] = scale


def _absmax(o: Operands, v: Values) -> None:
    found = numerics.columns_absmax(o["x"], o["mask"].reshape(-1) if "mask" in o else None)
    o["absmax"][...] = np.maximum(o["absmax"], found) if v["continued"] else found


def _pool(o: Operands, v: Values) -> None:
    o["out"][...] = numerics.mean_pool(o["x"], o["mask"].reshape(-1), float(v["minimum"]))


FUNCTIONS: dict[str, Callable[[Operands, Values], None]] = {
    "load.copy": _copy,
    "load.rows": _copy,
    "load.gather": _gather,
    "store.copy": _copy,
    "vector.finish": _finish,
    "vector.embed": _embed,
    "vector.softmax": _softmax,
    "vector.maximum": _maximum,
    "vector.context": _context,
    "vector.absmax": _absmax,
    "vector.quantize": lambda o, v: _quantise(o, v, o["x"]),
    "vector.quantize_columns": _quantize_columns,
    "vector.pool": _pool,
    "vector.heads": _heads,
    "control.pause": lambda o, v: None,
}
