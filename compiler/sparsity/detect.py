"""Which pattern the weights of a matrix already have: `--sparsity auto`. Plain numpy; nothing is changed.

Of the patterns that fit, the one with the fewest stored bytes is taken. N:M and HP run without loss, blocks are easier to
keep than single weights; so a pattern further down this list must save a tenth of the bytes to be taken instead, or a few
weights that happen to be 0 would turn every 2:4 matrix into an unstructured one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

from compiler.sparsity.base import Dense, Pattern
from compiler.sparsity.patterns import FPGA_SHAPES, HP, NM, Block, Unstructured
from compiler.sparsity.saliency import Mask, Matrix
from compiler.sparsity.unbalanced import density_of
from hw_targets.errors import InputError

LEAST_ZEROS = Fraction(1, 10)
"""A matrix with a smaller share of zeros is dense."""
SAVING = Fraction(9, 10)
"""What a pattern that runs less well must store of the bytes of one that runs better."""
GROUPS = (2, 4, 8, 16)
BLOCKS = ((64, 64), (32, 32), (16, 16), (64, 1), (8, 8), (32, 1), (16, 1), (4, 4), (1, 16), (8, 1), (1, 8), (4, 1), (1, 4))
"""Block shapes that are looked for, large ones first: where two fit equally well, the larger says more."""

StoredBytes = Callable[[Pattern, int, int], int]


def fits(pattern: Pattern, w: Matrix) -> bool:
    """Whether w has no weight that the pattern has not."""
    try:
        pattern.check(w)
    except InputError:
        return False
    return True


def detect(w: Matrix, stored_bytes: StoredBytes) -> Pattern:
    """The pattern of w[out, in]; `stored_bytes(pattern, outs, ins)` are those of the smallest format of a pattern."""
    used = w != 0
    weights = int(np.count_nonzero(used))
    if w.size - weights < LEAST_ZEROS * w.size:
        return Dense()

    def size(pattern: Pattern) -> int:
        return stored_bytes(pattern, *w.shape)

    best: Pattern = Unstructured(density_of(max(weights, 1), w.size))
    blocks = [block for block in (_block(used, *shape) for shape in BLOCKS) if block.keep < 1]
    block = min(blocks, key=size, default=best)
    if size(block) * SAVING <= size(best):
        best = block
    worth = [p for p in _balanced(used) if p.kept(*w.shape) >= weights and size(p) * SAVING <= size(best)]
    return next((p for p in sorted(worth, key=size) if fits(p, used)), best).canonical()


def _block(used: Mask, rows: int, cols: int) -> Block:
    """The share of blocks that have weights."""
    blocks = Block(rows, cols, Fraction(1)).used_blocks(used)
    return Block(rows, cols, density_of(max(int(np.count_nonzero(blocks)), 1), blocks.size))


def _balanced(used: Mask) -> Iterator[Pattern]:
    """N:M patterns that the full groups fit, and the shapes of HP."""
    outs, ins = used.shape
    for m in GROUPS:
        if ins >= m:
            groups = used[:, : ins // m * m].reshape(outs, -1, m)
            fullest = int(np.count_nonzero(groups, axis=-1).max())
            yield from (NM(n, m) for n in range(max(fullest, 1), m))
    yield from (shape for shape in FPGA_SHAPES if shape.canonical() is shape)


# ---- near misses ----------------------------------------------------------------------------------------------------

FEW = Fraction(1, 20)
"""A pattern that all but so small a share of the groups (or tiles) obey is worth naming."""


def near_miss(w: Matrix, found: Pattern) -> str:
    """The balanced pattern that w[out, in] has but for a few places, as in "2:4 except for 37 groups"; else empty.

    Only where it says more than what was `found`: more zeros than that has, or every row equal work.
    """
    used = w != 0
    weights = int(np.count_nonzero(used))
    if isinstance(found, NM | HP) or w.size - weights < LEAST_ZEROS * w.size:
        return ""
    best: tuple[int, str] | None = None
    for pattern, broken, places in (*_nearly_nm(used), *_nearly_hp(used, weights)):
        kept = pattern.kept(*w.shape)
        if broken and (best is None or kept < best[0]):
            name = f"{pattern.n}:{pattern.m}" if isinstance(pattern, NM) else pattern.spec()
            best = kept, f"{name} except for {broken} {places}{'s'[: broken > 1]}"
    return "" if best is None else best[1]


def _nearly_nm(used: Mask) -> Iterator[tuple[NM, int, str]]:
    """N:M patterns with the number of groups that hold more than N."""
    outs, ins = used.shape
    for m in GROUPS:
        if ins < 4 * m:
            continue
        counts = np.count_nonzero(used[:, : ins // m * m].reshape(outs, -1, m), axis=-1)
        for n in range(1, m):
            broken = int(np.count_nonzero(counts > n))
            if broken <= FEW * counts.size:
                yield NM(n, m), broken, "group"
                break


def _nearly_hp(used: Mask, weights: int) -> Iterator[tuple[HP, int, str]]:
    """Shapes of HP with the number of tiles that break them; only those with about as many weights as w has."""
    outs, ins = used.shape
    for shape in FPGA_SHAPES:
        kept = shape.kept(outs, ins)
        if shape.canonical() is not shape or not isinstance(shape.window, int) or not 0.9 * kept <= weights <= 1.1 * kept:
            continue
        tiles = [
            used[row : row + shape.rows, column : column + shape.window]
            for row in range(0, outs, shape.rows)
            for column in range(0, ins, shape.window)
        ]
        columns = np.array([int(np.count_nonzero(tile.any(axis=0))) for tile in tiles])
        if np.count_nonzero(columns > int(shape.keep)) > FEW * len(tiles):
            continue
        broken = sum(not fits(shape, tile) for tile in tiles)
        if broken <= FEW * len(tiles):
            yield shape, broken, "tile"
