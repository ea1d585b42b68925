"""docs/RTL.md read in plain Python: every instruction of a folder of vectors is computed again from its images.

Written from the pages RTL, ISA, FORMATS and NUMERICS alone: no numpy, nothing of the code that made the vectors. Floats are
the fractions of scalar_reference.py.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import inf, nan
from pathlib import Path
from typing import Any

from tests.golden import scalar_reference as scalar
from tests.golden.scalar_reference import Matrix, Number, Row

Integers = list[list[int]]


def ceil(a: int, b: int) -> int:
    return -(-a // b)


# ---- files and numbers ----------------------------------------------------------------------------------------------


def read_hex(path: Path) -> bytes:
    return bytes(int(line, 16) for line in path.read_text().split())


def rows_of(values: Sequence[Any], columns: int) -> list[Any]:
    return [list(values[i : i + columns]) for i in range(0, len(values), columns)]


def integers(data: bytes, kind: str) -> list[int]:
    return [value for (value,) in struct.iter_unpack("<" + kind, data)]


def number(bits: int) -> Number:
    """The f32 with these bits; zeros and subnormals do not occur but as +0."""
    exponent, fraction = bits >> 23 & 255, bits & 0x7FFFFF
    sign = -1 if bits >> 31 else 1
    if exponent == 255:
        return nan if fraction else sign * inf
    if exponent == 0:
        return Fraction(0)
    return sign * Fraction(fraction | 1 << 23) * scalar.power(exponent - 150)


def floats(data: bytes) -> Row:
    return [number(bits) for bits in integers(data, "I")]


def bf16s(data: bytes) -> Row:
    return [number(bits << 16) for bits in integers(data, "H")]


def to_f32(values: Sequence[Number]) -> bytes:
    return b"".join(struct.pack("<f", float(v)) if v == v else b"\x00\x00\xc0\x7f" for v in values)


def to_bf16(values: Sequence[Number]) -> bytes:
    return b"".join(to_f32([v])[2:] for v in values)


def to_bytes(values: Sequence[int], kind: str) -> bytes:
    return struct.pack(f"<{len(values)}{kind}", *values)


def flat(matrix: Sequence[Sequence[Any]]) -> list[Any]:
    return [value for row in matrix for value in row]


# ---- instructions ---------------------------------------------------------------------------------------------------


class Instruction:
    """One entry of vectors.json with its images."""

    def __init__(self, folder: Path, entry: dict[str, Any]) -> None:
        self.folder, self.entry = folder, entry
        self.name: str = entry["name"]
        self.fields: dict[str, int] = entry["immediates"]
        self.operands: dict[str, dict[str, Any]] = {o["name"]: o for o in entry["operands"]}

    def __getattr__(self, name: str) -> int:
        return self.fields[name]

    def image(self, operand: str, when: str = "before") -> bytes:
        data = read_hex(self.folder / self.operands[operand][when])
        assert len(data) == self.operands[operand]["bytes"]
        return data

    def has(self, operand: str) -> bool:
        return operand in self.operands

    def floats(self, operand: str) -> Row:
        return floats(self.image(operand))

    def bf16(self, operand: str) -> Matrix:
        return rows_of(bf16s(self.image(operand)), self.cols)

    def sums(self) -> Integers:
        return rows_of(integers(self.image("acc"), "i"), self.cols)


def dense_weights(i: Instruction) -> Integers:
    """w[outs][ins] of the compute layout (FORMATS, section 4), pruned entries 0."""
    data, outs, ins = i.image("w"), i.outs, i.ins
    w = [[0] * ins for _ in range(outs)]
    for row, column, value in entries(data, i):
        w[row][column] = value
    return w


def entries(data: bytes, i: Instruction) -> list[tuple[int, int, int]]:
    """(row, input, code) of every slot."""
    outs, ins, n, m = i.outs, i.ins, i.n, i.m
    if i.mode == 0:
        return [(r, c, code) for r, row in enumerate(rows_of(integers(data, "b"), ins)) for c, code in enumerate(row)]
    if i.mode == 3:
        return unstructured_entries(data, outs, ins, i.kept)
    starts = range(0, ins, i.window) if i.mode == 2 else [0]
    widths = [min(i.window, ins - start) for start in starts] if i.mode == 2 else [ins]
    kepts = [min(t, m * ceil(ceil(i.keep * t, i.window), m)) for t in widths] if i.mode == 2 else [ins]
    slots = [k // m * n + ceil(n * (k % m), m) for k in kepts]
    total = sum(slots)
    packed = ceil(total, 2) if m > 1 or i.mode == 1 else 0
    lists = data[outs * (total + packed) :]
    local = integers(lists, "B" if i.mode == 1 or i.window <= 256 else "H")
    found: list[tuple[int, int, int]] = []
    for row in range(outs):
        codes = integers(data[row * total : (row + 1) * total], "b")
        halves = data[outs * total + row * packed : outs * total + (row + 1) * packed]
        slot = 0
        at = row // i.block_rows * sum(kepts) if i.mode == 2 else 0
        for start, kept, count in zip(starts, kepts, slots, strict=True):
            for j in range(count):
                select = halves[slot // 2] >> 4 * (slot % 2) & 15 if packed else 0
                position = j // n * m + select
                found.append((row, start + local[at + position] if i.mode == 2 else position, codes[slot]))
                slot += 1
            at += kept
    return found


def unstructured_entries(data: bytes, outs: int, ins: int, kept: int) -> list[tuple[int, int, int]]:
    windows = ceil(ins, 32)
    counts, codes = data[: outs * windows], integers(data[outs * windows : outs * windows + kept], "b")
    indices = data[outs * windows + kept :]
    found: list[tuple[int, int, int]] = []
    for place, count in enumerate(counts):
        for _ in range(count):
            slot = len(found)
            found.append((place // windows, place % windows * 32 + indices[slot], codes[slot]))
    return found


def multiply(i: Instruction) -> dict[str, bytes]:
    x = rows_of(integers(i.image("x"), "B" if i.x_unsigned else "b"), i.ins)
    total = scalar.matmul(x, dense_weights(i))
    if i.accumulate:
        before = rows_of(integers(i.image("acc"), "i"), i.outs)
        total = [[a + b for a, b in zip(p, q, strict=True)] for p, q in zip(total, before, strict=True)]
    return {"acc": to_bytes(flat(total), "i")}


def copy(i: Instruction) -> dict[str, bytes]:
    return {"dst": i.image("src")}


def gather(i: Instruction) -> dict[str, bytes]:
    return {"dst": i.image("table")}


ACTIVATIONS: Sequence[Callable[[Number], Number] | None] = (
    None,
    scalar.gelu,
    scalar.tanh,
    scalar.relu,
    scalar.gelu_tanh,
    scalar.quick_gelu,
    scalar.silu,
)


def normed(i: Instruction, y: Matrix, parameters: Matrix) -> Matrix:
    eps = number(i.eps)
    return scalar.layer_norm(y, parameters[0], parameters[1], eps) if i.norm == 1 else scalar.rms_norm(y, parameters[0], eps)


def rounded(y: Matrix) -> Matrix:
    return [[scalar.bf16(v) for v in row] for row in y]


def quantised(i: Instruction, y: Matrix, smooth: Row | None) -> dict[str, bytes]:
    if not i.has("codes"):
        return {}
    codes, scales = scalar.quantize_rows(y, i.group, smooth)
    return {"codes": to_bytes(flat(codes), "b"), "scale": to_f32(flat(scales))}


def finish(i: Instruction) -> dict[str, bytes]:
    columns = rows_of(i.floats("columns"), i.cols)
    residual = i.bf16("residual") if i.has("residual") else None
    y = scalar.finish(i.sums(), i.floats("row_scale"), columns[0], columns[1], residual)
    if i.has("gate"):
        y = scalar.gated(y, i.bf16("gate"))
    if i.norm:
        y = normed(i, y, columns[2:])
    elif not i.out_f32:
        y = rounded(y)
    activation = ACTIVATIONS[i.activation]
    if activation is not None:
        y = [[activation(v) for v in row] for row in y]
    made = {"out": to_f32(flat(y)) if i.out_f32 else to_bf16(flat(y))} if i.has("out") else {}
    return made | quantised(i, rounded(y), columns[-1] if i.smoothed else None)


def softmax(i: Instruction) -> dict[str, bytes]:
    mask = list(i.image("mask")) if i.has("mask") else None
    bias = rows_of(i.floats("bias"), i.cols) if i.has("bias") else None
    if bias is not None and len(bias) == 1:
        bias *= i.rows
    given = (i.sums(), i.floats("row_scale"), i.floats("col_scale"), number(i.score_scale), mask, bias, bool(i.causal))
    assert not i.has("maximum"), "the vectors of long rows are not read here"
    if i.streaming:
        p, total = scalar.streaming_softmax(*given, i.shift)
        return {"p": bytes(flat(p)), "l": to_bytes(total, "i")}
    if i.wide:
        high, low, total = scalar.wide_softmax(*given)
        return {"p": bytes(flat(high) + flat(low)), "l": to_bytes(total, "i")}
    p, total = scalar.softmax(*given)
    return {"p": bytes(flat(p)), "l": to_bytes(total, "i")}


def context(i: Instruction) -> dict[str, bytes]:
    total, acc, scale = integers(i.image("l"), "i"), i.sums(), i.floats("v_scale")[0]
    out = scalar.wide_context(acc[: i.rows], acc[i.rows :], total, scale) if i.wide else scalar.context(acc, total, scale)
    return {"out": to_bf16(flat(out))}


def quantize(i: Instruction) -> dict[str, bytes]:
    return quantised(i, i.bf16("x"), None)


def quantize_columns(i: Instruction) -> dict[str, bytes]:
    codes, scale = scalar.quantize_columns(i.bf16("x"), list(i.image("mask")) if i.has("mask") else None)
    return {"codes": to_bytes(flat(list(zip(*codes, strict=True))), "b"), "scale": to_f32([scale])}


def embed(i: Instruction) -> dict[str, bytes]:
    rows = rows_of(bf16s(i.image("rows_in")), i.cols)
    columns = rows_of(i.floats("columns"), i.cols) if i.has("columns") else []
    total = scalar.embed(rows_of(rows, i.rows))
    y = normed(i, total, columns) if i.norm else rounded(total)
    return {"out": to_bf16(flat(y))} | quantised(i, y, columns[-1] if i.smoothed else None)


def pool(i: Instruction) -> dict[str, bytes]:
    return {"out": to_f32(scalar.mean_pool(i.bf16("x"), list(i.image("mask")), number(i.minimum)))}


MEANING: dict[str, Callable[[Instruction], dict[str, bytes]]] = {
    "load.copy": copy,
    "load.rows": copy,
    "load.gather": gather,
    "store.copy": copy,
    "matrix.multiply": multiply,
    "vector.finish": finish,
    "vector.softmax": softmax,
    "vector.context": context,
    "vector.quantize": quantize,
    "vector.quantize_columns": quantize_columns,
    "vector.embed": embed,
    "vector.pool": pool,
}
"""What an instruction writes, from what it reads. load.weights is known by what the multiplications then find."""


# ---- replaying ------------------------------------------------------------------------------------------------------


class Replay:
    """Goes through a folder in order; `problems` says what is not as the pages say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = json.loads((folder / "vectors.json").read_text())
        self.problems: list[str] = []
        self.computed: dict[str, int] = {}
        self.memory: dict[tuple[str, int], int] = {}
        """Bytes that are known, by memory and address."""
        for entry in self.index["instructions"]:
            self._instruction(Instruction(folder, entry))

    def _instruction(self, i: Instruction) -> None:
        where = f"{i.entry['number']} {i.name}"
        for operand in i.operands.values():
            if "before" in operand and not (i.name == "load.gather" and operand["name"] == "table"):
                self._seen(i, operand, where)
        made = MEANING[i.name](i) if i.name in MEANING else {}
        for name, operand in i.operands.items():
            if operand["access"] == "read":
                continue
            after = i.image(name, "after")
            if i.name in MEANING:
                self.computed[i.name] = self.computed.get(i.name, 0) + 1
                if made[name] != after:
                    self.problems.append(f"{where}: {name} differs")
            for address, byte in zip(self._addresses(i, operand), after, strict=True):
                self.memory[address] = byte
        if "steps" in i.entry:
            self._steps(i, where)

    def _addresses(self, i: Instruction, operand: dict[str, Any]) -> list[tuple[str, int]]:
        """Memory and address of every byte of an image, from base, pitch and the shape in ISA.md."""
        rows, row_bytes = shape(i, operand["name"], operand["bytes"])
        pitch = operand["pitch"] or row_bytes
        places = [(r, b) for r in range(rows) for b in range(row_bytes)]
        if operand["name"] == "rows_in":
            table = rows // i.tables
            return [
                (operand["memory"], operand["base"] + r // table * i.table_bytes + r % table * pitch + b) for r, b in places
            ]
        return [(operand["memory"], operand["base"] + r * pitch + b) for r, b in places]

    def _seen(self, i: Instruction, operand: dict[str, Any], where: str) -> None:
        """What an instruction finds is what an earlier one left, if any did."""
        for address, byte in zip(self._addresses(i, operand), i.image(operand["name"]), strict=True):
            if self.memory.setdefault(address, byte) != byte:
                self.problems.append(f"{where}: {operand['name']} is not what lay at {address}")
                return

    def _steps(self, i: Instruction, where: str) -> None:
        """Every product is one of the matrix with the activation it names, and the sums are those of acc."""
        array, group, tokens = self.index["array"], self.index["group"], self.index["tokens_of_pair"]
        x = rows_of(integers(i.image("x"), "B" if i.x_unsigned else "b"), i.ins)
        w, after = dense_weights(i), rows_of(integers(i.image("acc", "after"), "i"), i.outs)
        before = rows_of(integers(i.image("acc"), "i"), i.outs) if i.accumulate else None
        together = array["cores"] * array["outputs"]
        own = group["core"] * array["outputs"] + group["output"]
        seen: dict[tuple[int, int], dict[int, int]] = {}
        last: dict[tuple[int, int], tuple[int, list[int]]] = {}
        for line in (self.folder / i.entry["steps"]).read_text().splitlines()[1:]:
            left, _, right = line.partition(" = ")
            block, number_of_pass, step, *works = left.split()
            place = int(block), int(number_of_pass)
            output = place[1] * together + own
            first = place[0] * array["tokens"] + group["pair"] * tokens
            rows = [r if r < min(i.rows, (place[0] + 1) * array["tokens"]) else -1 for r in range(first, first + tokens)]
            start = [before[r][output] if before is not None and r >= 0 else 0 for r in rows]
            expected_step, sums = last.get(place, (0, start))
            if int(step) != expected_step or len(works) != array["multipliers"]:
                self.problems.append(f"{where}: step {step} of {place} is out of turn")
            for work in works:
                if work == "-":
                    continue
                weight, at, *values = map(int, work.split(":"))
                sums = [total + weight * value for total, value in zip(sums, values, strict=True)]
                if values != [x[r][at] if r >= 0 else 0 for r in rows]:
                    self.problems.append(f"{where}: input {at} of step {step} is another")
                products = seen.setdefault(place, {})
                products[at] = products.get(at, 0) + weight
            if sums != list(map(int, right.split())):
                self.problems.append(f"{where}: the sums of step {step} of {place} differ")
            last[place] = int(step) + 1, sums
        blocks = range(ceil(i.rows, array["tokens"]))
        passes = range(ceil(i.outs - own, together)) if own < i.outs else range(0)
        if set(last) != {(b, p) for b in blocks for p in passes}:
            self.problems.append(f"{where}: blocks and passes {sorted(last)}")
        for (block, number_of_pass), (_, sums) in last.items():
            output = number_of_pass * together + own
            found = {at: weight for at, weight in seen.get((block, number_of_pass), {}).items() if weight}
            if found != {at: weight for at, weight in enumerate(w[output]) if weight}:
                self.problems.append(f"{where}: output {output} has other weights")
            first = block * array["tokens"] + group["pair"] * tokens
            for row, total in zip(range(first, first + tokens), sums, strict=True):
                if row < min(i.rows, (block + 1) * array["tokens"]) and after[row][output] != total:
                    self.problems.append(f"{where}: acc[{row}][{output}] is not the last sum")


def shape(i: Instruction, operand: str, size: int) -> tuple[int, int]:
    """(rows, bytes of a row) of an operand, as ISA.md lists them."""
    if operand in ("src", "dst") and i.name != "load.weights":
        return i.rows, i.row_bytes
    if i.name == "load.gather" and operand == "dst":
        return i.rows, i.row_bytes
    if operand in ("w", "src", "dst", "mask", "l", "v_scale", "maximum", "absmax", "ids"):
        rows = i.outs if operand == "w" and i.mode == 0 else 1
        return rows, size // rows
    if operand == "row_scale":
        return i.rows, 4
    if operand == "col_scale":
        return i.cols, 4
    if operand == "columns":
        return size // (4 * i.cols), 4 * i.cols
    if i.name == "vector.pool" and operand == "out":
        return 1, size
    if i.name == "vector.quantize_columns" and operand == "codes":
        return i.cols, i.rows
    if i.name == "vector.quantize_columns" and operand == "scale":
        return 1, 4
    if operand in ("p", "acc") and i.fields.get("wide"):
        return 2 * i.rows, size // (2 * i.rows)
    if operand == "rows_in":
        return i.tables * i.rows, 2 * i.cols
    if operand == "bias":
        return i.bias_rows, 4 * i.cols
    return i.rows, size // i.rows
