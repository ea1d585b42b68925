"""Binary form of a program: instructions to 40-word records and back, and the loop expansion every executor starts
from.

The file is a 16-byte header (magic `HPCC`, ISA version, instruction count, zero) and the records. A record is word 0
opcode | node << 8; word 1 three waits of 6 bits (semaphore + 1, 0 none) and from bit 18 the presence bits of the
operand slots; word 2 three signals of 6 bits; words 3..7 the immediates, packed from bit 0 in table order; words
8..39 eight slots of base, pitch, stride of loop 0 and stride of loop 1. Base and pitch are unsigned, strides are
two's complement. Every bit that the table does not use is zero, and a decoder rejects a file where one is not.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import NamedTuple

from hw_targets.errors import InputError
from hw_targets.isa import (
    BY_NAME,
    BY_OPCODE,
    FUNCTIONS,
    IMMEDIATE_WORDS,
    INSTRUCTION_BYTES,
    ISA_VERSION,
    LOOP_LEVELS,
    MAX_SIGNALS,
    MAX_WAITS,
    OPERAND_SLOTS,
    SEMAPHORES,
    WORDS,
    Activation,
    Address,
    Function,
    Immediate,
    Instruction,
    MatrixMode,
    Memory,
    Norm,
    Queue,
)
from hw_targets.storage import formats_by_code

MAGIC = b"HPCC"
HEADER = struct.Struct("<4sIII")
RECORD = struct.Struct(f"<{WORDS}I")
FIRST_SLOT_WORD = 3 + IMMEDIATE_WORDS
NODE_LIMIT = 1 << 24
EXPANDED_LIMIT = 1 << 21
"""Most instructions a program may execute, so that a damaged loop count is an error and not a machine out of memory."""
ALWAYS_EXPANDED, EXPANDED_PER_STORED = 1 << 17, 64
"""Below that: as many as this, or so many for each stored one. Checking takes some 0.1 ms for each that is executed, so a
small file cannot ask for more than seconds."""

SEMAPHORE_BITS = 6
SLOTS_BIT = SEMAPHORE_BITS * MAX_WAITS
UNSIGNED_LIMIT = 1 << 32
SIGNED_LIMIT = 1 << 31

ENUMS: Mapping[str, type[StrEnum]] = {"mode": MatrixMode, "activation": Activation, "norm": Norm}
"""Immediates that stand for a word; the value order of the enumeration is the field's encoding. A format has a number."""


def words_of(field: str) -> Mapping[int, str]:
    """The words of an immediate by their numbers; none where it is a plain number."""
    if field == "format":
        return {code: storage.name for code, storage in formats_by_code().items()}
    return dict(enumerate(word.value for word in ENUMS.get(field, ())))


def instruction_place(index: int, name: str = "") -> str:
    """How errors name an instruction: `instruction 12 (matrix.multiply)`."""
    return f"instruction {index}" + (f" ({name})" if name else "")


def _fail(code: str, message: str, index: int, name: str = "", hint: str = "") -> InputError:
    return InputError(code, message, where=instruction_place(index, name), hint=hint)


# ---- building -------------------------------------------------------------------------------------------------------


def float32(value: float) -> float:
    """`value` rounded to float32. Raises OverflowError where it does not fit."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def build(
    name: str,
    operands: Mapping[str, Address] | None = None,
    immediates: Mapping[str, int | float] | None = None,
    *,
    waits: Sequence[int] = (),
    signals: Sequence[int] = (),
    node: int = 0,
) -> Instruction:
    """An instruction in canonical form: fields in table order, immediates that are not given 0, floats rounded to fp32.

    Raises ValueError for a name that the table does not have and for a missing operand.
    """
    if name not in BY_NAME:
        raise ValueError(f"no instruction is called {name!r}")
    function = BY_NAME[name]
    given = dict(operands or {})
    values = dict(immediates or {})
    unknown = [
        *(given.keys() - {o.name for o in function.operands}),
        *(values.keys() - {i.name for i in function.immediates}),
    ]
    if unknown:
        raise ValueError(f"{name} has no field {sorted(unknown)[0]!r}")
    missing = [o.name for o in function.operands if not o.optional and o.name not in given]
    if missing:
        raise ValueError(f"{name} needs operand {missing[0]!r}")
    return Instruction(
        name,
        tuple((o.name, given[o.name]) for o in function.operands if o.name in given),
        tuple((i.name, _canonical(i, values.get(i.name, 0))) for i in function.immediates),
        tuple(waits),
        tuple(signals),
        node,
    )


def _canonical(field: Immediate, value: int | float) -> int | float:
    return float32(float(value)) if field.is_float else value


def canonical(instruction: Instruction) -> Instruction:
    """The form that `decode` yields."""
    return build(
        instruction.name,
        dict(instruction.operands),
        dict(instruction.immediates),
        waits=instruction.waits,
        signals=instruction.signals,
        node=instruction.node,
    )


# ---- encoding -------------------------------------------------------------------------------------------------------


def encode(instructions: Sequence[Instruction]) -> bytes:
    """The program file. Raises InputError naming the instruction whose field does not fit."""
    parts = [HEADER.pack(MAGIC, ISA_VERSION, len(instructions), 0)]
    parts += [RECORD.pack(*_words(index, instruction)) for index, instruction in enumerate(instructions)]
    return b"".join(parts)


def _words(index: int, instruction: Instruction) -> list[int]:
    try:
        instruction = canonical(instruction)
    except (ValueError, OverflowError) as error:
        raise _fail("HPCC1201", str(error), index, instruction.name) from error
    function = instruction.function
    if not 0 <= instruction.node < NODE_LIMIT:
        raise _fail("HPCC1201", f"node {instruction.node} does not fit 24 bits", index, function.name)
    words = [0] * WORDS
    words[0] = function.opcode | instruction.node << 8
    words[1] = _pack_semaphores(instruction.waits, MAX_WAITS, index, function.name)
    words[2] = _pack_semaphores(instruction.signals, MAX_SIGNALS, index, function.name)
    packed = _pack_immediates(dict(instruction.immediates), function, index)
    for word in range(IMMEDIATE_WORDS):
        words[3 + word] = packed >> 32 * word & 0xFFFFFFFF
    given = dict(instruction.operands)
    for slot, operand in enumerate(function.operands):
        if operand.name in given:
            words[1] |= 1 << SLOTS_BIT + slot
            first = FIRST_SLOT_WORD + 4 * slot
            words[first : first + 4] = _pack_address(given[operand.name], operand.name, index, function.name)
    return words


def _pack_semaphores(numbers: tuple[int, ...], most: int, index: int, name: str) -> int:
    if len(numbers) > most:
        raise _fail("HPCC1202", f"{len(numbers)} semaphores where an instruction takes {most}", index, name)
    packed = 0
    for position, number in enumerate(numbers):
        if not 0 <= number < SEMAPHORES:
            raise _fail("HPCC1202", f"semaphore {number} is outside 0..{SEMAPHORES - 1}", index, name)
        packed |= number + 1 << SEMAPHORE_BITS * position
    return packed


def _pack_immediates(values: dict[str, int | float], function: Function, index: int) -> int:
    packed, bit = 0, 0
    for field in function.immediates:
        value = values[field.name]
        if field.is_float:
            if not math.isfinite(value):
                raise _fail("HPCC1203", f"immediate {field.name} is {value}, not a finite number", index, function.name)
            raw = struct.unpack("<I", struct.pack("<f", value))[0]
        else:
            raw = int(value)
            if raw != value or not 0 <= raw < 1 << field.bits:
                raise _fail(
                    "HPCC1203", f"immediate {field.name} = {value} does not fit {field.bits} bits", index, function.name
                )
            _check_word(field, raw, index, function.name)
        packed |= raw << bit
        bit += field.bits
    return packed


def _check_word(field: Immediate, raw: int, index: int, name: str) -> None:
    known = words_of(field.name)
    if known and raw not in known:
        words = ", ".join(f"{i} {word}" for i, word in known.items())
        raise _fail("HPCC1203", f"immediate {field.name} = {raw} is none of {words}", index, name)


def _pack_address(address: Address, operand: str, index: int, name: str) -> list[int]:
    if not (0 <= address.base < UNSIGNED_LIMIT and 0 <= address.pitch < UNSIGNED_LIMIT):
        raise _fail("HPCC1204", f"address of {operand} does not fit 32 bits: {address}", index, name)
    if not all(-SIGNED_LIMIT <= stride < SIGNED_LIMIT for stride in address.strides):
        raise _fail("HPCC1204", f"loop stride of {operand} does not fit 32 bits: {address}", index, name)
    return [address.base, address.pitch, *(stride & 0xFFFFFFFF for stride in address.strides)]


# ---- decoding -------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> list[Instruction]:
    """The instructions of a program file. Raises InputError for anything `encode` could not have written."""
    if len(data) < HEADER.size:
        raise InputError("HPCC1205", f"a program of {len(data)} bytes has no header")
    magic, version, count, reserved = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise InputError("HPCC1205", f"this is no hpcc program: it begins with {magic!r}, not {MAGIC!r}")
    if version != ISA_VERSION:
        hint = "compile the model again, or use the release that wrote it"
        raise InputError("HPCC1206", f"the program is of ISA version {version}, this release runs {ISA_VERSION}", hint=hint)
    if reserved:
        raise InputError("HPCC1205", "reserved bits of the header are set")
    body = len(data) - HEADER.size
    if body != count * INSTRUCTION_BYTES:
        index = min(body // INSTRUCTION_BYTES, count)
        message = f"the header says {count} instructions, {count * INSTRUCTION_BYTES} bytes; {body} bytes follow"
        raise _fail("HPCC1205", message, index)
    return [_instruction(index, words) for index, words in enumerate(RECORD.iter_unpack(data[HEADER.size :]))]


def _instruction(index: int, words: tuple[int, ...]) -> Instruction:
    function = BY_OPCODE.get(words[0] & 0xFF)
    if function is None:
        raise _fail("HPCC1207", f"unknown opcode {words[0] & 0xFF:#04x}", index)
    name = function.name
    present = words[1] >> SLOTS_BIT
    if present >> OPERAND_SLOTS or words[2] >> SEMAPHORE_BITS * MAX_SIGNALS:
        raise _fail("HPCC1208", "reserved bits of the semaphore words are set", index, name)
    return Instruction(
        name,
        _unpack_operands(words, present, function, index),
        _unpack_immediates(words, function, index),
        _unpack_semaphores(words[1], MAX_WAITS, index, name),
        _unpack_semaphores(words[2], MAX_SIGNALS, index, name),
        words[0] >> 8,
    )


def _unpack_semaphores(word: int, count: int, index: int, name: str) -> tuple[int, ...]:
    fields = [word >> SEMAPHORE_BITS * i & (1 << SEMAPHORE_BITS) - 1 for i in range(count)]
    used = [field for field in fields if field]
    if fields[: len(used)] != used:
        raise _fail("HPCC1208", "an empty semaphore field lies before a used one", index, name)
    if any(field > SEMAPHORES for field in used):
        raise _fail("HPCC1202", f"semaphore {max(used) - 1} is outside 0..{SEMAPHORES - 1}", index, name)
    return tuple(field - 1 for field in used)


def _unpack_immediates(words: tuple[int, ...], function: Function, index: int) -> tuple[tuple[str, int | float], ...]:
    packed = sum(words[3 + i] << 32 * i for i in range(IMMEDIATE_WORDS))
    values: list[tuple[str, int | float]] = []
    for field in function.immediates:
        raw = packed & (1 << field.bits) - 1
        packed >>= field.bits
        if field.is_float:
            value: int | float = struct.unpack("<f", struct.pack("<I", raw))[0]
            if not math.isfinite(value):
                raise _fail("HPCC1203", f"immediate {field.name} is {value}, not a finite number", index, function.name)
            values.append((field.name, value))
        else:
            _check_word(field, raw, index, function.name)
            values.append((field.name, raw))
    if packed:
        raise _fail("HPCC1208", "reserved immediate bits are set", index, function.name)
    return tuple(values)


def _unpack_operands(
    words: tuple[int, ...], present: int, function: Function, index: int
) -> tuple[tuple[str, Address], ...]:
    operands: list[tuple[str, Address]] = []
    for slot in range(OPERAND_SLOTS):
        base, pitch, *strides = words[FIRST_SLOT_WORD + 4 * slot : FIRST_SLOT_WORD + 4 * slot + 4]
        operand = function.operands[slot] if slot < len(function.operands) else None
        if not present >> slot & 1:
            if base or pitch or any(strides):
                raise _fail("HPCC1208", f"operand slot {slot} is absent but not zero", index, function.name)
            if operand is not None and not operand.optional:
                raise _fail("HPCC1209", f"operand {operand.name} is missing", index, function.name)
            continue
        if operand is None:
            raise _fail("HPCC1209", f"operand slot {slot} is not used by this instruction", index, function.name)
        first, second = (s - UNSIGNED_LIMIT if s >= SIGNED_LIMIT else s for s in strides)
        operands.append((operand.name, Address(base, pitch, (first, second))))
    return tuple(operands)


# ---- expansion ------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A concrete operand address: bytes in `memory`, rows `pitch` bytes apart (0: rows lie packed)."""

    memory: Memory
    base: int
    pitch: int


@dataclass(frozen=True, slots=True)
class Resolved:
    """One executed instruction: where it stands in the file, the loop counters, concrete operands, immediates by
    name."""

    index: int
    name: str
    queue: Queue
    node: int
    waits: tuple[int, ...]
    signals: tuple[int, ...]
    counters: tuple[int, ...]
    operands: Mapping[str, Place]
    immediates: Mapping[str, int | float]

    @property
    def function(self) -> Function:
        return BY_NAME[self.name]

    @property
    def place(self) -> str:
        """For errors: `instruction 12 (matrix.multiply), iteration 0.3`."""
        loops = ".".join(map(str, self.counters))
        return instruction_place(self.index, self.name) + (f", iteration {loops}" if loops else "")

    def integer(self, name: str) -> int:
        return int(self.immediates[name])

    def number(self, name: str) -> float:
        return float(self.immediates[name])


@cache
def _memories(name: str, selected: frozenset[str]) -> Mapping[str, Memory]:
    """Memory of every operand, given the one-bit immediates that are set."""
    return {
        o.name: o.alternative if o.alternative is not None and o.selector in selected else o.memory
        for o in BY_NAME[name].operands
    }


SELECTORS: Mapping[str, tuple[str, ...]] = {
    f.name: tuple(sorted({o.selector for o in f.operands if o.selector})) for f in FUNCTIONS
}


def expand(instructions: Sequence[Instruction]) -> list[Resolved]:
    """The instructions in the order CONTROL dispatches them, loops unrolled, addresses concrete.

    LOOP, END and HALT stay in the list: each takes a dispatch. Raises InputError for unbalanced loops, a nesting deeper
    than the two counters, a loop of no iterations, a HALT that is not the one last instruction, and a program too long.
    """
    ends = _match_loops(instructions)
    _check_length(instructions, ends)
    immediates = [dict(instruction.immediates) for instruction in instructions]
    result: list[Resolved] = []

    def run(first: int, last: int, counters: tuple[int, ...]) -> None:
        position = first
        while position < last:
            instruction = instructions[position]
            result.append(_resolve(position, instruction, immediates[position], counters))
            if instruction.name == "control.loop":
                end = ends[position]
                for counter in range(int(instruction.immediate("count"))):
                    run(position + 1, end + 1, (*counters, counter))
                position = end
            position += 1

    run(0, len(instructions), ())
    return result


def _check_length(instructions: Sequence[Instruction], ends: Mapping[int, int]) -> None:
    """Raises InputError for a program too long, before any of it is expanded."""
    limit = min(EXPANDED_LIMIT, max(ALWAYS_EXPANDED, EXPANDED_PER_STORED * len(instructions)))
    outer: list[tuple[int, int]] = []
    length = 0  # of what stands between the innermost open loop and here
    for index, instruction in enumerate(instructions):
        length += 1
        if index in ends:
            outer.append((length, int(instruction.immediate("count"))))
            length = 0
        elif instruction.name == "control.end":
            before, count = outer.pop()
            length = before + count * length
        if length > limit:
            message = f"the program executes more than {limit} instructions"
            raise _fail("HPCC1213", message, index, instruction.name)


def _match_loops(instructions: Sequence[Instruction]) -> dict[int, int]:
    """Position of each LOOP to the position of its END."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    for index, instruction in enumerate(instructions):
        name = instruction.name
        if name == "control.loop":
            if instruction.immediate("count") < 1:
                raise _fail("HPCC1210", "a loop of no iterations", index, name)
            opened.append(index)
            if len(opened) > LOOP_LEVELS:
                raise _fail("HPCC1210", f"loops nest deeper than {LOOP_LEVELS}", index, name)
        elif name == "control.end":
            if not opened:
                raise _fail("HPCC1211", "END without a LOOP", index, name)
            ends[opened.pop()] = index
        elif name == "control.halt" and (opened or index != len(instructions) - 1):
            raise _fail("HPCC1212", "HALT before the end of the program", index, name)
    if opened:
        raise _fail("HPCC1211", "LOOP without an END", opened[-1], "control.loop")
    if not instructions or instructions[-1].name != "control.halt":
        raise _fail("HPCC1212", "the program does not end with HALT", max(len(instructions) - 1, 0))
    return ends


def _resolve(
    index: int, instruction: Instruction, immediates: Mapping[str, int | float], counters: tuple[int, ...]
) -> Resolved:
    name = instruction.name
    memories = _memories(name, frozenset(s for s in SELECTORS[name] if immediates[s]))
    return Resolved(
        index,
        name,
        BY_NAME[name].queue,
        instruction.node,
        instruction.waits,
        instruction.signals,
        counters,
        {operand: Place(memories[operand], a.at(counters), a.pitch) for operand, a in instruction.operands},
        immediates,
    )
