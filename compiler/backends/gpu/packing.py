"""Weights as the Triton kernels read them: which kernel multiplies a matrix, in which tiles, and its values in that order.

Plain numpy, no IR. The layouts are those of kernels/linear.py. The choice compares estimates from the target
file's rates; none of its constants was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.dialects.gpu import Kernel
from hw_targets.gpu import ELEMENT_BYTES, GpuTarget

Matrix = NDArray[np.float32]

SIDES = (128, 64, 32, 16)
"""Rows and tokens that a tile of results may have: a tensor core's operand has at least 16."""

INPUTS = (32, 64, 128)
"""Inputs that may go into shared memory together."""

MARKED_INPUTS = 32
"""Inputs that a word of marks covers."""

STAGES = 4
"""Chunks on their way into shared memory at once, fewer where they would not fit."""

FULL_SIDE = 128
"""Side of a square tile from which on products count as fed: smaller tiles read more for each product."""

COST_OF_MARKS = 1.5
"""Time of a marked product against a dense one, an estimate: some 20 integer operations put a weight into its place."""


SECONDS_OF_CHUNK = 6e-8
"""What a chunk takes besides its products, an estimate: some 100 cycles of addresses, waiting and a barrier."""


@dataclass(frozen=True)
class Plan:
    """A kernel, its tiles, and the seconds that the target's rates say; not a measurement."""

    kernel: Kernel
    rows: int
    tokens: int
    inputs: int
    stages: int
    seconds: float


@dataclass(frozen=True)
class Packed:
    """A packed matrix. `bounds` are the first chunk and the end of every tile; `kept` the inputs of chunks (GATHER), `marks`
    and `begins` words of marks and where their values begin. `multiplied` counts weights, padding included."""

    kernel: Kernel
    rows: int
    inputs: int
    values: NDArray[Any]
    bounds: NDArray[np.int32]
    row_scales: NDArray[np.float32]
    kept: NDArray[np.int32]
    marks: NDArray[np.int32]
    begins: NDArray[np.int32]
    multiplied: int
    needed: int
    """Weights of the inputs that tiles use, without the filling of chunks."""

    @property
    def value_bytes(self) -> int:
        return self.values.nbytes + self.row_scales.nbytes

    @property
    def index_bytes(self) -> int:
        return self.bounds.nbytes + self.kept.nbytes + self.marks.nbytes + self.begins.nbytes


# ---- the choice -------------------------------------------------------------------------------------------------------


def plan(used: NDArray[np.bool_], columns: int, target: GpuTarget, precision: str, *, is_2_4: bool) -> Plan:
    """The kernel and tiles with the least estimated time for a matrix with weights where `used` is true and `columns`
    tokens; of equals the simpler."""
    return min(_plans(used, columns, target, precision, is_2_4), key=lambda candidate: candidate.seconds)


def _plans(used: NDArray[np.bool_], columns: int, target: GpuTarget, precision: str, is_2_4: bool) -> Iterator[Plan]:
    size = ELEMENT_BYTES[precision]
    outs, ins = used.shape
    kept = int(np.count_nonzero(used))
    most = next((side for side in reversed(SIDES) if side >= columns), FULL_SIDE)
    for rows in (side for side in SIDES if side == SIDES[-1] or side < 2 * outs):
        tiles = -(-outs // rows)
        counts = np.count_nonzero(by_tiles(used, rows).any(axis=1), axis=1)
        words = tiles * rows * -(-ins // MARKED_INPUTS)
        for tokens in (side for side in SIDES if side <= most):
            machine = _Machine(rows, tokens, tiles, columns, target, precision)
            for inputs in INPUTS:
                chunks = tiles * -(-ins // inputs)
                yield machine.plan(Kernel.DENSE, inputs, chunks, size * chunks * inputs * rows)
                if kept < used.size:
                    chunks = int((-(-counts // inputs)).sum())
                    yield machine.plan(Kernel.GATHER, inputs, chunks, chunks * inputs * (size * rows + 4))
            if kept == used.size:
                continue
            marked = machine.plan(Kernel.MARKS, MARKED_INPUTS, words // rows, size * kept + 8 * words, COST_OF_MARKS)
            yield marked
            if is_2_4 and precision in ("fp16", "bf16"):
                products = 2 * used.size * columns / (target.peak(precision) * target.sparse_speedup)
                traffic = size * (kept + kept // 8 + columns * (ins + 3 * outs)) / target.bytes_per_s
                yield replace(marked, kernel=Kernel.SPARSE, seconds=max(products, traffic))


@dataclass(frozen=True)
class _Machine:
    """The estimate for tiles of rows x tokens: rounds of blocks over the multiprocessors, or the bytes of the weight,
    whichever takes longer."""

    rows: int
    tokens: int
    tiles: int
    columns: int
    target: GpuTarget
    precision: str

    def plan(self, kernel: Kernel, inputs: int, chunks: int, weight_bytes: int, cost: float = 1.0) -> Plan:
        """`chunks` are those of all tiles, `cost` the time of a product against a dense one."""
        target = self.target
        rounds = -(-self.tiles * -(-self.columns // self.tokens) // target.multiprocessors)
        fed = min(1.0, 2 / FULL_SIDE / (1 / self.rows + 1 / self.tokens))
        products = 2 * self.rows * self.tokens * inputs * cost
        chunk = products / (target.peak(self.precision) / target.multiprocessors * fed) + SECONDS_OF_CHUNK
        shared = inputs * (self.rows + self.tokens) * ELEMENT_BYTES[self.precision]
        stages = max(1, min(STAGES, target.block_shared_bytes // shared))
        seconds = max(rounds * chunk * chunks / self.tiles, weight_bytes / target.bytes_per_s)
        return Plan(kernel, self.rows, self.tokens, inputs, stages, seconds)


# ---- the layouts ------------------------------------------------------------------------------------------------------


def pack(w: Matrix, kernel: Kernel, rows: int, inputs: int, *, in_bytes: bool) -> Packed:
    """A matrix out x in, packed for a kernel in fp32 values or, with `in_bytes`, in codes with a scale for each row."""
    if in_bytes:
        values, scales = quantized(w)
    else:
        values, scales = w, np.zeros(0, np.float32)
    if in_bytes and len(w) % rows:
        scales = np.concatenate([scales, np.ones(-len(w) % rows, np.float32)])
    if kernel in (Kernel.MARKS, Kernel.SPARSE):
        return _pack_marks(values, w != 0, kernel, rows, scales)
    if kernel is Kernel.GATHER:
        return _pack_gather(values, w != 0, rows, inputs, scales)
    chunks = -(-w.shape[1] // inputs)
    tiles = by_tiles(_wide(values, chunks * inputs), rows)
    parts = tiles.reshape(len(tiles), rows, chunks, inputs).transpose(0, 2, 1, 3)
    bounds = np.arange(len(tiles))[:, None] * chunks + np.array([0, chunks])
    none = np.zeros(0, np.int32)
    flat = np.ascontiguousarray(parts).reshape(-1)
    return Packed(kernel, rows, inputs, flat, bounds.astype(np.int32), scales, none, none, none, flat.size, flat.size)


def _pack_gather(
    values: NDArray[Any], used: NDArray[np.bool_], rows: int, inputs: int, scales: NDArray[np.float32]
) -> Packed:
    """Chunks of listed inputs for each tile, the last filled up with an input that does not exist and zeros."""
    tiles, ins = by_tiles(values, rows), values.shape[1]
    needed = by_tiles(used, rows).any(axis=1)
    counts = np.count_nonzero(needed, axis=1)
    chunks = -(-counts // inputs)
    ends = np.cumsum(chunks)
    bounds = np.stack([ends - chunks, ends], axis=1)
    tile, column = np.nonzero(needed)
    slots = bounds[tile, 0] * inputs + np.arange(len(tile)) - (np.cumsum(counts) - counts)[tile]
    total = int(ends[-1]) * inputs
    kept = np.full(total, ins, np.int32)
    kept[slots] = column
    gathered = np.zeros((total, rows), values.dtype)
    gathered[slots] = tiles[tile, :, column]
    flat = np.ascontiguousarray(gathered.reshape(-1, inputs, rows).transpose(0, 2, 1)).reshape(-1)
    none = np.zeros(0, np.int32)
    return Packed(
        Kernel.GATHER,
        rows,
        inputs,
        flat,
        bounds.astype(np.int32),
        scales,
        kept,
        none,
        none,
        flat.size,
        rows * int(counts.sum()),
    )


def _pack_marks(
    values: NDArray[Any], used: NDArray[np.bool_], kernel: Kernel, rows: int, scales: NDArray[np.float32]
) -> Packed:
    """For each tile and 32 inputs a word of marks for each row, and the marked values in that order."""
    words = -(-values.shape[1] // MARKED_INPUTS)
    shape = (-1, rows, words, MARKED_INPUTS)
    marked = by_tiles(_wide(used, words * MARKED_INPUTS), rows).reshape(shape).transpose(0, 2, 1, 3)
    placed = by_tiles(_wide(values, words * MARKED_INPUTS), rows).reshape(shape).transpose(0, 2, 1, 3)
    bits = np.left_shift(np.uint32(1), np.arange(MARKED_INPUTS, dtype=np.uint32))
    marks = (marked * bits).sum(axis=3, dtype=np.uint32).view(np.int32).reshape(-1)
    counts = np.count_nonzero(marked, axis=3).reshape(-1)
    bounds = np.arange(len(marked))[:, None] * words + np.array([0, words])
    multiplied = used.size if kernel is Kernel.MARKS else used.size // 2
    begins = (np.cumsum(counts) - counts).astype(np.int32)
    none = np.zeros(0, np.int32)
    kept = placed[marked] if marked.any() else np.zeros(1, values.dtype)
    return Packed(
        kernel, rows, MARKED_INPUTS, kept, bounds.astype(np.int32), scales, none, marks, begins, multiplied, multiplied
    )


def quantized(w: Matrix) -> tuple[NDArray[np.int8], Matrix]:
    """Codes in [-127, 127] and one scale for each row, from its largest value; a row of zeros gets scale 1."""
    most = np.abs(w).max(axis=1, initial=0)
    scales = np.where(most > 0, most / np.float32(127), np.float32(1)).astype(np.float32)
    return np.clip(np.rint(w / scales[:, None]), -127, 127).astype(np.int8), scales


def by_tiles(w: NDArray[Any], rows: int) -> NDArray[Any]:
    """[tiles, rows, in]; the last tile is filled up with zeros."""
    missing = -len(w) % rows
    padded = np.concatenate([w, np.zeros((missing, w.shape[1]), w.dtype)]) if missing else np.ascontiguousarray(w)
    return padded.reshape(-1, rows, w.shape[1])


def _wide(w: NDArray[Any], width: int) -> NDArray[Any]:
    """The matrix filled up with columns of zeros."""
    if w.shape[1] == width:
        return w
    return np.concatenate([w, np.zeros((len(w), width - w.shape[1]), w.dtype)], axis=1)
