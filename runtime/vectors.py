"""`hpcc-run --dump-vectors`: what every instruction reads and writes, and what one group of multipliers does in each step.

docs/RTL.md describes the files. They are made by the simulator, from a run on real inputs, for a test bench to replay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_targets.codec import Place, Resolved
from hw_targets.errors import UsageError
from hw_targets.extents import Extent, layout_of, operand_extents
from hw_targets.isa import ISA_VERSION, Operand
from hw_targets.resources import TOKENS_PER_DSP
from hw_targets.step_trace import Product, row_steps
from hw_targets.target import Accelerator
from runtime.bundle import Room
from runtime.program import Program
from runtime.simulator.machine import Memories
from runtime.simulator.timing import Event

FORMAT = 1
INDEX = "vectors.json"
MOST_BYTES = 64 << 20
"""Bytes of all images together: in hexadecimal they are three times as large."""

Bytes = NDArray[np.uint8]


class Group(NamedTuple):
    """One group of multipliers: a core, a pair of tokens (a token where DSPs do not pack) and an output of it."""

    core: int
    pair: int
    output: int


@dataclass(frozen=True)
class Selection:
    """Executed instructions `first` to `last` - 1 (last = -1: to the end), those of `layer` if it is named."""

    first: int = 0
    last: int = -1
    layer: str = ""
    group: Group = Group(0, 0, 0)


def parse_range(text: str) -> tuple[int, int]:
    """(first, last) of A:B, either of which may be left out. Raises UsageError."""
    first, colon, last = text.partition(":")
    if not colon or not (first or "0").isdecimal() or not (last or "0").isdecimal():
        raise UsageError("HPCC2607", f"--instructions {text!r} is no range", hint="--instructions 10:20 takes 10 to 19")
    return int(first or 0), int(last) if last else -1


def parse_group(text: str) -> Group:
    """The group of CORE,PAIR,OUTPUT. Raises UsageError."""
    numbers = text.split(",")
    if len(numbers) != len(Group._fields) or not all(number.isdecimal() for number in numbers):
        message = f"--group {text!r} is not CORE,PAIR,OUTPUT"
        raise UsageError("HPCC2607", message, hint="--group 0,0,0 is the first")
    return Group(*map(int, numbers))


def dump(program: Program, inputs: Mapping[str, NDArray[Any]], folder: Path, selection: Selection) -> dict[str, Any]:
    """Run one batch, write the vectors of the selected instructions to `folder`, and return the index that lies there.

    An older folder of vectors is replaced. Raises UsageError for a selection that the program does not have, InputError
    for inputs it does not take and for a place where nothing can be written.
    """
    numbers = _selected(program, selection)
    array = program.target.accelerator
    _check_group(array, _tokens_of_pair(program), selection.group)
    _check_size(program, numbers)
    with Room(folder, INDEX) as room:
        recorder = _Recorder(program, numbers, selection.group, room)
        program.run(inputs, watch=recorder)
        index = _index(program, selection.group, recorder.entries)
        room.write(INDEX, json.dumps(index, indent=1) + "\n")
        room.publish()
    return index


def _selected(program: Program, selection: Selection) -> list[int]:
    """Numbers of the executed instructions that are dumped; CONTROL's compute nothing."""
    expanded, layers = program.bundle.expanded, program.manifest.layers
    last = len(expanded) if selection.last < 0 else selection.last
    if not selection.first < last <= len(expanded):
        message = f"instructions {selection.first} to {last - 1} are not among the {len(expanded)} that are executed"
        raise UsageError("HPCC2607", message, hint=f"--instructions 0:{len(expanded)} are all")
    if selection.layer and selection.layer not in layers:
        near = get_close_matches(selection.layer, sorted(set(layers)), n=3, cutoff=0.3)
        hint = f"near it: {', '.join(near)}" if near else "hpcc-objdump shows the layers"
        raise UsageError("HPCC2607", f"the program has no layer {selection.layer!r}", hint=hint)
    numbers = [
        number
        for number in range(selection.first, last)
        if expanded[number].operands and selection.layer in ("", layers[expanded[number].node])
    ]
    if not numbers:
        message = f"no instruction from {selection.first} to {last - 1} has operands" + (
            f" and belongs to {selection.layer}" if selection.layer else ""
        )
        raise UsageError("HPCC2607", message, hint="leave --instructions out to take all")
    return numbers


def _tokens_of_pair(program: Program) -> int:
    return TOKENS_PER_DSP[program.target.device.dsp_kind]


def _check_group(array: Accelerator, tokens: int, group: Group) -> None:
    limits = Group(array.cores, -(-array.tokens // tokens), array.outputs)
    for name, number, limit in zip(Group._fields, group, limits, strict=True):
        if number >= limit:
            message = f"--group has {name} {number}, the array has {limit}"
            raise UsageError("HPCC2607", message, hint=f"at most {','.join(str(most - 1) for most in limits)}")


def _check_size(program: Program, numbers: Sequence[int]) -> None:
    total = sum(
        e.rows * e.row_bytes
        for number in numbers
        for operand in program.bundle.expanded[number].operands
        for e in _extents(program.bundle.expanded[number], operand)
    )
    if total > MOST_BYTES:
        message = f"the images of {len(numbers)} instructions take {total >> 20} MiB, more than {MOST_BYTES >> 20}"
        raise UsageError("HPCC2607", message, hint="take fewer with --layer or --instructions")


def _extents(instruction: Resolved, operand: str) -> tuple[Extent, ...]:
    """What an image of the operand holds; of a table that rows are gathered from, its first row alone."""
    extents = operand_extents(instruction, operand)
    if instruction.name == "load.gather" and operand == "table":
        return (extents[0]._replace(rows=instruction.integer("rows"), row_bytes=instruction.integer("row_bytes")),)
    return extents


def _index(program: Program, group: Group, entries: list[dict[str, Any]]) -> dict[str, Any]:
    array, manifest = program.target.accelerator, program.manifest
    sizes = ("cores", "tokens", "outputs", "multipliers", "window", "selector", "lanes")
    return {
        "format": FORMAT,
        "isa_version": ISA_VERSION,
        "model": manifest.model.name,
        "target": program.target.name,
        "array": {name: getattr(array, name) for name in sizes},
        "tokens_of_pair": _tokens_of_pair(program),
        "group": group._asdict(),
        "executed": len(program.bundle.expanded),
        "instructions": entries,
    }


@dataclass
class _Recorder:
    """Called by the simulator around every instruction."""

    program: Program
    numbers: Sequence[int]
    group: Group
    room: Room
    entries: list[dict[str, Any]] = field(default_factory=lambda: [])

    def __post_init__(self) -> None:
        expanded = self.program.bundle.expanded
        self._number = {id(expanded[number]): number for number in self.numbers}
        self._entry: dict[str, Any] = {}

    def before(self, instruction: Resolved, memories: Memories) -> None:
        number = self._number.get(id(instruction))
        if number is None:
            return
        manifest, event = self.program.manifest, self.program.timing().events[number]
        self._entry = _described(number, instruction, event)
        self._entry["onnx_node"] = manifest.nodes[instruction.node].onnx_node if manifest.nodes else ""
        self._entry["layer"] = manifest.layers[instruction.node] if manifest.nodes else ""
        for slot, operand in enumerate(instruction.function.operands):
            if operand.name in instruction.operands:
                self._entry["operands"].append(self._operand(number, instruction, slot, operand, memories))
        if instruction.name == "matrix.multiply":
            name = f"{number:05}/steps.txt"
            self.room.write(name, "\n".join(self._steps(instruction, memories)) + "\n")
            self._entry["steps"] = name

    def after(self, instruction: Resolved, memories: Memories) -> None:
        number = self._number.get(id(instruction))
        if number is None:
            return
        for operand in self._entry["operands"]:
            if operand["access"] != "read":
                operand["after"] = self._image(number, instruction, operand["name"], "after", memories)
        self.entries.append(self._entry)

    def _operand(
        self, number: int, instruction: Resolved, slot: int, operand: Operand, memories: Memories
    ) -> dict[str, Any]:
        place = instruction.operands[operand.name]
        extents = _extents(instruction, operand.name)
        updates = bool(operand.updates and instruction.immediates[operand.updates])
        access = "read" if operand.access == "r" else "update" if updates else "write"
        entry: dict[str, Any] = {
            "name": operand.name,
            "slot": slot,
            "memory": place.memory.value,
            "base": place.base,
            "pitch": place.pitch,
            "bytes": sum(extent.rows * extent.row_bytes for extent in extents),
            "access": access,
        }
        if access != "write":
            entry["before"] = self._image(number, instruction, operand.name, "before", memories)
        return entry

    def _image(self, number: int, instruction: Resolved, operand: str, when: str, memories: Memories) -> str:
        name = f"{number:05}/{operand}.{when}.hex"
        self.room.write(name, _hex(read_operand(instruction, operand, memories)))
        return name

    def _steps(self, instruction: Resolved, memories: Memories) -> Iterator[str]:
        """The lines of steps.txt."""
        array, tokens = self.program.target.accelerator, _tokens_of_pair(self.program)
        layout = layout_of(instruction)
        w, x = (read_operand(instruction, operand, memories) for operand in ("w", "x"))
        rows = instruction.integer("rows")
        kind = np.uint8 if instruction.integer("x_unsigned") else np.int8
        activations = x.view(kind).reshape(rows, layout.ins)
        sums = read_operand(instruction, "acc", memories).view("<i4").reshape(rows, layout.outs)
        together = array.cores * array.outputs
        outputs = range(self.group.core * array.outputs + self.group.output, layout.outs, together)
        by_output = [(output, row_steps(w, layout, array, output)) for output in outputs]
        yield f"# block pass step, {array.multipliers} multipliers weight:input:{':'.join(_names(tokens))}, = sums"
        for block, first in enumerate(range(0, rows, array.tokens)):
            pair = range(first + tokens * self.group.pair, first + tokens * (self.group.pair + 1))
            there = [row if row < min(rows, first + array.tokens) else -1 for row in pair]
            for output, steps in by_output:
                start = [int(sums[row, output]) if row >= 0 and instruction.integer("accumulate") else 0 for row in there]
                for number, products in enumerate(steps):
                    columns = [[int(activations[row, p.input]) if row >= 0 else 0 for row in there] for p in products]
                    for product, values in zip(products, columns, strict=True):
                        start = [total + product.weight * value for total, value in zip(start, values, strict=True)]
                    done = _columns(array.multipliers, products, columns)
                    yield f"{block} {output // together} {number} {done} = {' '.join(map(str, start))}"


def _names(tokens: int) -> list[str]:
    return [f"x{token}" for token in range(tokens)]


def _columns(multipliers: int, products: Sequence[Product], activations: Sequence[Sequence[int]]) -> str:
    """What every multiplier does in a step, `-` for nothing."""
    words = ["-"] * multipliers
    for product, values in zip(products, activations, strict=True):
        words[product.multiplier] = ":".join(map(str, (product.weight, product.input, *values)))
    return " ".join(words)


def _described(number: int, instruction: Resolved, event: Event) -> dict[str, Any]:
    return {
        "number": number,
        "index": instruction.index,
        "name": instruction.name,
        "opcode": instruction.function.opcode,
        "queue": instruction.queue.value,
        "waits": list(instruction.waits),
        "signals": list(instruction.signals),
        "cycles": {"start": event.start, "end": event.end, "done": event.done},
        "immediates": {name: _immediate(value) for name, value in instruction.immediates.items()},
        "operands": [],
    }


def _immediate(value: int | float) -> int:
    """The field's bits as an unsigned number."""
    return int(np.float32(value).view(np.uint32)) if isinstance(value, float) else value


def read_operand(instruction: Resolved, operand: str, memories: Memories) -> Bytes:
    """The bytes of an operand, row after row without gaps."""
    if instruction.name == "load.gather" and operand == "table":
        place, size = instruction.operands[operand], instruction.integer("row_bytes")
        table = memories.view(place, np.uint8, (instruction.integer("table_rows"), size))
        ids = memories.view(instruction.operands["ids"], np.int32, (instruction.integer("rows"),))
        return table[np.clip(ids, 0, len(table) - 1)].reshape(-1)
    parts: list[Bytes] = []
    for extent in operand_extents(instruction, operand):
        place = Place(extent.memory, extent.start, extent.pitch)
        parts.append(memories.view(place, np.uint8, (extent.rows, extent.row_bytes)).reshape(-1))
    return np.concatenate(parts)


def _hex(data: Bytes) -> str:
    """A byte a line, as $readmemh takes it."""
    text = data.tobytes().hex("\n")
    return text + "\n"
