"""Weights as the C kernels read them: which kernel multiplies a matrix, and its values and indices in that order.

Plain numpy, no IR. The layouts are those of kernels/linear.c; what they cost was measured and stands beside the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.dialects.cpu import Kernel
from compiler.sparsity.balanced import TILE_ROWS
from hw_targets.cpu import CpuTarget

Matrix = NDArray[np.float32]

ROWS = 4
"""Rows that share a list of inputs in the kernels `vectors` and `bytes`."""

INPUTS = 4
"""Inputs that a row of the kernel `picks` multiplies at once."""

WINDOW = 64
"""Inputs among which a row of the kernel `picks` picks its own: the bytes of a register."""

PICK_ROWS = 16
"""Rows that the kernel `picks` computes together: four bytes of a register each."""

TILE_INPUTS = 64
"""Inputs of a tile of weights in the kernel `tiles`; its rows are those that the pattern of such machines shares."""

COST_OF_LISTED_TILE = 2.0
"""Time of a tile of weights with a list of its own, against one whose codes all rows share: 128 shuffles of codes beside
four products of 16 cycles each (Intel's optimization manual). An estimate, not measured."""

COST_OF_LIST = 1.25
"""Time of a list of `bytes` that is interleaved for four rows alone, against one that all rows share: 425 and 607 GOP/s with
VNNI (one core of an Emerald Rapids), 102 and 118 with VPMADDWD on AVX2 (the same)."""

MAX_COLUMNS = 1 << 16
"""Columns are counted in 16 bits."""

COST_OF_VECTOR_SLOT = 1.02
COST_OF_SINGLE = 1.45
"""Time per multiplication against a dense one, measured on Zen 4 with 768 x 768 x 64 tokens: 117.9 dense, 117.5 by vectors,
74 to 83 GFLOP/s by singles."""


@dataclass(frozen=True)
class Packed:
    """A packed matrix. `starts` and `columns` are empty for a dense one, `row_scales` and `begins` but for bytes;
    `multiplied` counts weights, padding included. Of `shared` lists, which are the same for all groups of rows, the columns
    stand once."""

    kernel: Kernel
    block: int
    values: NDArray[Any]
    starts: NDArray[np.uint32]
    columns: NDArray[Any]
    row_scales: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    begins: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    shared: bool = False

    @property
    def value_bytes(self) -> int:
        return self.values.nbytes + self.row_scales.nbytes + self.begins.nbytes

    @property
    def index_bytes(self) -> int:
        return self.starts.nbytes + self.columns.nbytes

    @property
    def multiplied(self) -> int:
        return self.values.size

    @property
    def needed(self) -> int:
        """Multiplications without what fills up a chunk: these kernels have no chunks to fill."""
        return self.multiplied


def group_rows(kernel: Kernel, target: CpuTarget) -> int:
    """Rows that a kernel computes together."""
    fixed = {Kernel.VECTORS: ROWS, Kernel.SINGLES: 1, Kernel.BYTES: ROWS, Kernel.PICKS: PICK_ROWS, Kernel.TILES: TILE_ROWS}
    return fixed.get(kernel, target.instructions.panel)


def block_inputs(kernel: Kernel, target: CpuTarget) -> int:
    """Inputs per cache block; codes are so small that they take none."""
    if kernel.in_bytes:
        return MAX_COLUMNS
    blocks = {Kernel.VECTORS: target.vector_block, Kernel.SINGLES: target.single_block}
    return blocks.get(kernel, target.dense_block)


def choose_kernel(used: NDArray[np.bool_]) -> Kernel:
    """The kernel that takes the least time for a matrix with weights where `used` is true; of equals the simpler."""
    single = int(np.count_nonzero(used)) * COST_OF_SINGLE
    vector = int(np.count_nonzero(_used_by_groups(used, ROWS))) * ROWS * COST_OF_VECTOR_SLOT
    costs = {Kernel.DENSE: float(used.size), Kernel.VECTORS: vector, Kernel.SINGLES: single}
    return min(costs, key=lambda kernel: costs[kernel])


def choose_byte_kernel(used: NDArray[np.bool_], target: CpuTarget) -> Kernel:
    """`choose_kernel` for int8 products. A tile takes an eighth of the time of its products one by one, or less: where there
    are tiles, nothing else is faster, whatever the pattern."""
    if target.instructions.has_tiles:
        return Kernel.TILES
    if not target.instructions.has_picks:
        return Kernel.BYTES
    own, every = _lists(_used_by_groups(used, ROWS), INPUTS)
    in_bytes = min(own * COST_OF_LIST, every) * INPUTS * ROWS
    picked = int(_lists_of_picks(used).sum()) * INPUTS * PICK_ROWS
    return Kernel.PICKS if picked * target.pick_cost < in_bytes else Kernel.BYTES


def pack(w: Matrix, kernel: Kernel, target: CpuTarget) -> Packed:
    """A matrix out x in, packed for a kernel."""
    if kernel is Kernel.BYTES:
        return _pack_bytes(w, target)
    if kernel is Kernel.PICKS:
        return _pack_picks(w)
    if kernel is Kernel.TILES:
        return _pack_tiles(w)
    rows, block = group_rows(kernel, target), block_inputs(kernel, target)
    groups = _by_groups(w, rows)
    lows = range(0, max(w.shape[1], 1), block)
    if kernel is Kernel.DENSE:
        parts = [groups[:, :, low : low + block].transpose(0, 2, 1).reshape(-1) for low in lows]
        return Packed(kernel, block, np.concatenate(parts), np.zeros(0, np.uint32), np.zeros(0, np.uint16))
    values: list[Matrix] = []
    columns: list[NDArray[np.uint16]] = []
    counts: list[NDArray[np.int64]] = []
    for low in lows:
        part = groups[:, :, low : low + block]
        group, column = np.nonzero((part != 0).any(axis=1))
        values.append(part[group, :, column].reshape(-1))
        columns.append(column.astype(np.uint16))
        counts.append(np.bincount(group, minlength=len(groups)))
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.uint32)
    return Packed(kernel, block, np.concatenate(values), starts, np.concatenate(columns))


def quantized(w: Matrix) -> tuple[NDArray[np.int8], Matrix]:
    """Codes in [-127, 127] and one scale for each row, from its largest value; a row of zeros gets scale 1."""
    most = np.abs(w).max(axis=1, initial=0)
    scales = np.where(most > 0, most / np.float32(127), np.float32(1)).astype(np.float32)
    return np.clip(np.rint(w / scales[:, None]), -127, 127).astype(np.int8), scales


def _pack_bytes(w: Matrix, target: CpuTarget) -> Packed:
    """Lists of the inputs that an instruction takes, the last of a row group filled up with zeros: values [list][4 rows]
    [inputs]."""
    products = target.instructions.int8
    assert products is not None
    inputs, element = products.inputs, np.dtype(f"i{products.code_bytes}")
    codes, scales = quantized(w)
    groups = _by_groups(codes, ROWS)
    used, shared = _or_every(_used_by_groups(w != 0, ROWS), inputs, COST_OF_LIST)
    group, column = np.nonzero(used)
    counts = np.count_nonzero(used, axis=1)
    starts = np.concatenate([[0], np.cumsum(-(-counts // inputs))])
    first = np.cumsum(counts) - counts
    slots = starts[group] * inputs + np.arange(len(group)) - first[group]
    columns = np.zeros(starts[-1] * inputs, np.uint16)
    columns[slots] = column
    values = np.zeros((starts[-1] * inputs, ROWS), element)
    values[slots] = groups[group, :, column]
    in_lists = values.reshape(-1, inputs, ROWS).transpose(0, 2, 1)
    sums = groups.sum(axis=2, dtype=np.int32).reshape(-1)
    return Packed(
        Kernel.BYTES,
        MAX_COLUMNS,
        np.ascontiguousarray(in_lists).reshape(-1),
        starts.astype(np.uint32),
        columns[: starts[1] * inputs] if shared else columns,
        np.concatenate([scales, np.ones(len(sums) - len(scales), np.float32)]),
        -products.offset * sums,
        shared,
    )


def _lists(used: NDArray[np.bool_], inputs: int) -> tuple[int, int]:
    """Lists of `inputs` that the groups of rows have: of those that each uses, and of every input."""
    return int((-(-used.sum(axis=1) // inputs)).sum()), -(-used.shape[1] // inputs) * len(used)


def _or_every(used: NDArray[np.bool_], inputs: int, cost: float) -> tuple[NDArray[np.bool_], bool]:
    """Which inputs each group of rows multiplies, `inputs` at a time, and whether all groups share them: those that it uses,
    which takes `cost` times as long for each, or every one, where that takes less."""
    own, every = _lists(used, inputs)
    return (np.ones_like(used), True) if cost * own >= every else (used, False)


def _lists_of_picks(used: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[groups of 16 rows, windows]: lists of four that the row with most inputs in the window needs."""
    windows = -(-used.shape[1] // WINDOW)
    wide = np.zeros((len(used), windows * WINDOW), np.bool_)
    wide[:, : used.shape[1]] = used
    counts = np.count_nonzero(_by_groups(wide, PICK_ROWS).reshape(-1, PICK_ROWS, windows, WINDOW), axis=3)
    return -(-counts.max(axis=1, initial=0) // INPUTS)


def _pack_picks(w: Matrix) -> Packed:
    """Lists [group of 16 rows][window][list] of [16 rows][4 inputs], those of the rows with fewer filled up with zeros."""
    codes, scales = quantized(w)
    lists = _lists_of_picks(w != 0)
    starts = np.concatenate([[0], np.cumsum(lists)])
    row, column = np.nonzero(w)
    window, windows = column // WINDOW, lists.shape[1]
    mine = row * windows + window
    counts = np.bincount(mine, minlength=len(w) * windows)
    rank = np.arange(len(row)) - (np.cumsum(counts) - counts)[mine]
    list_of = starts[row // PICK_ROWS * windows + window] + rank // INPUTS
    slots = (list_of * PICK_ROWS + row % PICK_ROWS) * INPUTS + rank % INPUTS
    values = np.zeros(starts[-1] * PICK_ROWS * INPUTS, np.int8)
    columns = np.zeros(len(values), np.uint8)
    values[slots], columns[slots] = codes[row, column], column % WINDOW
    sums = _by_groups(codes, PICK_ROWS).sum(axis=2, dtype=np.int32).reshape(-1)
    scales = np.concatenate([scales, np.ones(len(sums) - len(scales), np.float32)])
    return Packed(Kernel.PICKS, MAX_COLUMNS, values, starts.astype(np.uint32), columns, scales, -128 * sums)


def _pack_tiles(w: Matrix) -> Packed:
    """Blocks [group of 16 rows][block] of [16 rows][64 inputs]. A group has a list of the inputs that its rows use, filled
    up to whole blocks; where that takes longer than every input, all groups share the list of every input."""
    codes, scales = quantized(w)
    used, shared = _or_every(_used_by_groups(w != 0, TILE_ROWS), TILE_INPUTS, COST_OF_LISTED_TILE)
    groups = _by_groups(codes, TILE_ROWS)
    group, column = np.nonzero(used)
    counts = np.count_nonzero(used, axis=1)
    starts = np.concatenate([[0], np.cumsum(-(-counts // TILE_INPUTS))])
    slots = starts[group] * TILE_INPUTS + np.arange(len(group)) - (np.cumsum(counts) - counts)[group]
    columns = np.zeros(starts[-1] * TILE_INPUTS, np.uint16)
    columns[slots] = column
    values = np.zeros((starts[-1] * TILE_INPUTS, TILE_ROWS), np.int8)
    values[slots] = groups[group, :, column]
    in_tiles = np.ascontiguousarray(values.reshape(-1, TILE_INPUTS, TILE_ROWS).transpose(0, 2, 1)).reshape(-1)
    if shared:
        columns = columns[: starts[1] * TILE_INPUTS]
    sums = groups.sum(axis=2, dtype=np.int32).reshape(-1)
    scales = np.concatenate([scales, np.ones(len(sums) - len(scales), np.float32)])
    return Packed(Kernel.TILES, MAX_COLUMNS, in_tiles, starts.astype(np.uint32), columns, scales, -128 * sums, shared)


def _by_groups(w: NDArray[Any], rows: int) -> NDArray[Any]:
    """[groups, rows, in]; the last group is filled up with zeros."""
    missing = -len(w) % rows
    padded = np.concatenate([w, np.zeros((missing, w.shape[1]), w.dtype)]) if missing else np.ascontiguousarray(w)
    return padded.reshape(-1, rows, w.shape[1])


def _used_by_groups(used: NDArray[np.bool_], rows: int) -> NDArray[np.bool_]:
    """[groups, in]: the inputs that any row of a group uses."""
    return np.asarray(_by_groups(used, rows).any(axis=1))
