"""Programs of one model for several shapes on one image of weights: equal regions are put in one place.

Shapes change instructions and where activations lie; of the constants only the ids of positions differ. The image is that
of the largest program; every other program's regions are found in it by content (ids of fewer tokens as the beginning of
longer ones), and what is not there is put behind it. Then the addresses of the programs' DRAM operands move along.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from compiler.backends.fpga.emission import Region
from hw_targets.isa import Instruction, Memory
from runtime.bundle import Bundle, digest

ALIGNMENT = 4096
"""Regions that move keep their place modulo this, and so the alignment of all that is inside."""
MOVABLE = ("input", "output", "scratch")
U8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Unlinked:
    """A program with an image of its own, and the constant regions in it."""

    bundle: Bundle
    regions: tuple[Region, ...]

    @property
    def constants(self) -> list[Region]:
        return sorted((r for r in self.regions if r.kind not in MOVABLE), key=lambda region: region.offset)

    def content(self, region: Region) -> U8:
        return self.bundle.weights[region.offset : region.offset + region.bytes]


def link(programs: Sequence[Unlinked]) -> list[Bundle]:
    """The programs, all on the image that the last, the largest, brings. Raises AssertionError for one whose loops step
    from one region to another that has moved elsewhere."""
    image = _Image(programs[-1])
    places = [image.places(program) for program in programs]
    whole = image.bytes()
    return [_moved(program, moved, whole) for program, moved in zip(programs, places, strict=True)]


class _Image:
    """The shared image as it grows."""

    def __init__(self, largest: Unlinked) -> None:
        self._pieces = [largest.bundle.weights]
        self._size = int(largest.bundle.weights.size)
        self._known: dict[tuple[str, int, str], int] = {}
        self._ids: list[tuple[U8, int]] = []
        for region in largest.constants:
            self._learn(region, largest.content(region), region.offset)

    def _learn(self, region: Region, data: U8, offset: int) -> None:
        for name in (region.name, ""):
            self._known.setdefault((name, region.bytes, digest(np.ascontiguousarray(data).data)), offset)
        if region.kind == "ids":
            self._ids.append((data, offset))

    def places(self, program: Unlinked) -> dict[int, int]:
        """The new offset of each constant region of a program, by its old one."""
        return {region.offset: self._place(region, program.content(region)) for region in program.constants}

    def _place(self, region: Region, data: U8) -> int:
        found = digest(np.ascontiguousarray(data).data)
        for name in (region.name, ""):
            if (name, region.bytes, found) in self._known:
                return self._known[name, region.bytes, found]
        for longer, offset in self._ids if region.kind == "ids" else ():
            if len(longer) >= len(data) and np.array_equal(longer[: len(data)], data):
                return offset
        gap = -self._size % 64
        self._pieces += [np.zeros(gap, np.uint8), data]
        offset = self._size + gap
        self._size = offset + len(data)
        self._learn(region, data, offset)
        return offset

    def bytes(self) -> U8:
        return self._pieces[0] if len(self._pieces) == 1 else np.concatenate(self._pieces)


def _moved(program: Unlinked, places: Mapping[int, int], image: U8) -> Bundle:
    """The program with its constants at `places` and everything else behind the image."""
    bundle = program.bundle
    manifest, end = bundle.manifest, int(bundle.weights.size)
    shift = -(-max(int(image.size) - end, 0) // ALIGNMENT) * ALIGNMENT
    starts = sorted(places)

    def delta(address: int) -> int:
        if address >= end:
            return shift
        start = starts[bisect_right(starts, address) - 1]
        return places[start] - start

    moves: dict[tuple[int, str], int] = {}
    for instruction in bundle.expanded:
        for name, place in instruction.operands.items():
            if place.memory is Memory.DRAM:
                step = delta(place.base)
                known = moves.setdefault((instruction.index, name), step)
                assert known == step, f"{instruction.place}: its loop steps between regions that have moved apart"
    instructions = tuple(
        _with_moves(instruction, {name: moves[index, name] for name, _ in instruction.operands if (index, name) in moves})
        for index, instruction in enumerate(bundle.instructions)
    )
    dram = tuple(
        entry.model_copy(update={"bytes": int(image.size)})
        if entry.kind == "weights"
        else entry.model_copy(update={"offset": entry.offset + shift})
        for entry in manifest.dram
    )
    moved = manifest.model_copy(
        update={
            "dram": dram,
            "sizes": {**manifest.sizes, Memory.DRAM: max(entry.end for entry in dram)},
            "inputs": tuple(b.model_copy(update={"offset": b.offset + shift}) for b in manifest.inputs),
            "outputs": tuple(b.model_copy(update={"offset": b.offset + shift}) for b in manifest.outputs),
        }
    )
    return Bundle(moved, instructions, image, bundle.host)


def _with_moves(instruction: Instruction, moves: Mapping[str, int]) -> Instruction:
    if not any(moves.values()):
        return instruction
    operands = tuple(
        (name, replace(address, base=address.base + moves.get(name, 0))) for name, address in instruction.operands
    )
    return replace(instruction, operands=operands)
