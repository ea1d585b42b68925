"""Which pattern the weights of a matrix already have: `--sparsity auto`. Plain numpy; nothing is changed.

Of the patterns that fit, the one with the fewest stored bytes is taken. N:M and HP run without loss, blocks are easier to
keep than single weights; so a pattern further down this list must save a tenth of the bytes to be taken instead, or a few
weights that happen to be 0 would turn every 2:4 matrix into an unstructured one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from compiler.sparsity.base import Dense, Pattern
from compiler.sparsity.blocks import kinds_of
from compiler.sparsity.patterns import FPGA_SHAPES, HP, NM, Block, Column, Row, Unstructured
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
    whole = [pattern for pattern in (_row(used), *(_block(used, *shape) for shape in BLOCKS)) if pattern.keep < 1]
    block = min(whole, key=size, default=best)
    if size(block) * SAVING <= size(best):
        best = _balanced_block(block, used)
    worth = [p for p in _balanced(used) if p.kept(*w.shape) >= weights and size(p) * SAVING <= size(best)]
    return next((p for p in sorted(worth, key=size) if fits(p, used)), best).canonical()


def _block(used: Mask, rows: int, cols: int) -> Block:
    """The share of blocks that have weights, of each kind at least as many as have some."""
    blocks = Block(rows, cols, Fraction(1)).used_blocks(used)
    kinds = kinds_of(rows, cols, *used.shape)
    return Block(rows, cols, _least_share((np.count_nonzero(blocks[k.down, k.across]), k.count) for k in kinds))


def _balanced_block(found: Pattern, used: Mask) -> Pattern:
    """The same blocks, equally many in every row of blocks, if they are."""
    if not isinstance(found, Block) or len(used) <= found.rows:
        return found
    blocks = found.used_blocks(used)
    parts = [blocks[kind.down, kind.across] for kind in kinds_of(found.rows, found.cols, *used.shape)]
    keep = _least_share((np.count_nonzero(part, axis=1).max(), part.shape[1]) for part in parts)
    balanced = replace(found, keep=keep, balanced=True)
    return balanced if balanced.kept(*used.shape) == found.kept(*used.shape) and fits(balanced, used) else found


def _row(used: Mask) -> Row:
    """The share of rows that have weights."""
    return Row(_least_share([(np.count_nonzero(used.any(axis=1)), len(used))]))


def _column(used: Mask) -> Column:
    """The share of columns that have weights."""
    return Column(_least_share([(np.count_nonzero(used.any(axis=0)), used.shape[1])]))


def _least_share(counts: Iterable[tuple[Any, int]]) -> Fraction:
    """The shortest decimal whose share, rounded up, of every number of things is at least those that are used, and of
    the one that asks for most exactly those."""
    numbers = [(max(int(used), 1), int(number)) for used, number in counts]
    least, most = max((Fraction(used - 1, number), Fraction(used, number)) for used, number in numbers)
    scale = 1
    while True:
        share = Fraction(most.numerator * scale // most.denominator, scale)
        if share > least:
            return share
        scale *= 10


def _balanced(used: Mask) -> Iterator[Pattern]:
    """N:M patterns that the full groups fit, and the shapes of HP."""
    outs, ins = used.shape
    for m in GROUPS:
        if ins >= m:
            groups = used[:, : ins // m * m].reshape(outs, -1, m)
            fullest = int(np.count_nonzero(groups, axis=-1).max())
            yield from (NM(n, m) for n in range(max(fullest, 1), m))
    yield from (shape for shape in FPGA_SHAPES if shape.canonical() is shape)
    column = _column(used)
    if column.keep < 1:
        yield column


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
