"""Which share of the zeros each layer takes: `--allocate global`. Plain numbers, no IR.

A layer can be pruned at several levels of its pattern; each costs some damage and gives some zeros. Damages of layers are
taken to add up, which is what a sensitivity measured one layer at a time can say.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from compiler.sparsity.base import Dense, Pattern
from compiler.sparsity.blocks import Block
from compiler.sparsity.patterns import FPGA_SHAPES, HP, NM
from compiler.sparsity.unbalanced import Unstructured
from hw_targets.errors import UsageError

STEPS = 20
"""Levels of patterns whose share is free."""


@dataclass(frozen=True)
class Level:
    """One way to prune a layer: its pattern, zeros and damage (>= 0, any unit that adds up)."""

    pattern: Pattern
    zeros: int
    damage: float


def levels_of(pattern: Pattern) -> list[Pattern]:
    """The patterns of one granularity: N of one M, the shapes of one hierarchy, densities. Dense is one of them."""
    match pattern:
        case NM():
            ladder: list[Pattern] = [replace(pattern, n=n) for n in range(pattern.m - 1, 0, -1)]
        case HP() if any(replace(shape, rows=pattern.rows) == pattern for shape in FPGA_SHAPES):
            shapes = {Fraction(shape.sparsity): replace(shape, rows=pattern.rows) for shape in reversed(FPGA_SHAPES)}
            ladder = [shapes[zeros] for zeros in sorted(shapes)]
        case HP():
            m, window = pattern.fine_m, pattern.window
            if isinstance(window, int):
                ladder = [replace(pattern, keep=keep) for keep in range(window // m * m, 0, -m)]
            else:
                ladder = [replace(pattern, keep=share) for share in _shares()]
        case Block():
            ladder = [replace(pattern, keep=share) for share in _shares()]
        case Unstructured():
            ladder = [replace(pattern, density=share) for share in _shares()]
        case _:
            hint = "--allocate uniform"
            raise UsageError("HPCC2269", f"--allocate global has no levels of {pattern.spec()}", hint=hint)
    return [Dense(), *(level for level in (p.canonical() for p in ladder) if not isinstance(level, Dense))]


def _shares() -> list[Fraction]:
    return [Fraction(step, STEPS) for step in range(STEPS - 1, 0, -1)]


def allocate(levels: Mapping[str, Sequence[Level]], least: int) -> dict[str, Level]:
    """A level for each layer so that the zeros are at least `least` and the sum of damages is small.

    Steps along each layer's lower convex hull, the one of least damage per zero first. Raises ValueError if even the
    sparsest levels have fewer zeros.
    """
    hulls = {name: _hull(options) for name, options in levels.items()}
    chosen = {name: hull[0] for name, hull in hulls.items()}
    zeros = sum(level.zeros for level in chosen.values())
    queue = [(_slope(hull, 0), name, 0) for name, hull in hulls.items() if len(hull) > 1]
    heapq.heapify(queue)
    while zeros < least:
        if not queue:
            raise ValueError(f"{least} zeros are more than the sparsest levels have")
        _, name, at = heapq.heappop(queue)
        hull = hulls[name]
        zeros += hull[at + 1].zeros - chosen[name].zeros
        chosen[name] = hull[at + 1]
        if at + 2 < len(hull):
            heapq.heappush(queue, (_slope(hull, at + 1), name, at + 1))
    return _without_excess(levels, chosen, zeros - least)


def _slope(hull: Sequence[Level], at: int) -> float:
    return (hull[at + 1].damage - hull[at].damage) / (hull[at + 1].zeros - hull[at].zeros)


def _hull(options: Sequence[Level]) -> list[Level]:
    """The levels on the lower convex hull of damage over zeros, from the fewest zeros on."""
    hull: list[Level] = []
    for level in sorted(options, key=lambda level: (level.zeros, level.damage)):
        if hull and level.zeros == hull[-1].zeros:
            continue
        while len(hull) > 1 and _slope([hull[-2], hull[-1]], 0) >= _slope([hull[-2], level], 0):
            hull.pop()
        hull.append(level)
    while len(hull) > 1 and hull[0].damage >= hull[1].damage:
        hull.pop(0)
    return hull


def _without_excess(levels: Mapping[str, Sequence[Level]], chosen: dict[str, Level], excess: int) -> dict[str, Level]:
    """Go back to milder levels where the zeros allow it, largest saving of damage first."""
    while True:
        back = [
            (chosen[name].damage - level.damage, name, level)
            for name, options in levels.items()
            for level in options
            if 0 <= chosen[name].zeros - level.zeros <= excess and level.damage < chosen[name].damage
        ]
        if not back:
            return chosen
        _, name, level = max(back, key=lambda entry: (entry[0], entry[1]))
        excess -= chosen[name].zeros - level.zeros
        chosen[name] = level
