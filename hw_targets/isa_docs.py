"""docs/ISA.md from the instruction table: `python -m hw_targets.isa_docs [FILE]`; a test holds one to the other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hw_targets.codec import ENUMS, FIRST_SLOT_WORD
from hw_targets.isa import (
    FUNCTIONS,
    INSTRUCTION_BYTES,
    ISA_VERSION,
    LOOP_LEVELS,
    MAX_SIGNALS,
    MAX_WAITS,
    OPERAND_SLOTS,
    SEMAPHORE_MAX,
    SEMAPHORES,
    WORDS,
    Function,
    Memory,
    Operand,
    Queue,
)
from hw_targets.storage import BUILT_IN, PLUGIN_CODES

FOREIGN = f"; {PLUGIN_CODES.start} to {PLUGIN_CODES.stop - 1} are for formats of other packages"

INTRODUCTION = f"""# Instruction set, version {ISA_VERSION}

Generated from `hw_targets/isa.py` by `python -m hw_targets.isa_docs docs/ISA.md`; do not edit.

## Machine

CONTROL reads the program in order, executes LOOP, END, PAUSE and HALT itself and dispatches every other instruction, one a
cycle, to the queue its opcode belongs to: {", ".join(q.name for q in Queue if q is not Queue.CONTROL)}.
A full queue stops the dispatch. A queue executes its instructions in order, concurrently with the other queues, and
completes them in order. An instruction that reads bytes which an unfinished instruction of its own queue writes is
held back by the queue.

Queues meet through {SEMAPHORES} counting semaphores (0 to {SEMAPHORE_MAX}, initial values in the manifest), each with
one producer queue and one consumer queue. An instruction starts when every semaphore it waits for is above 0, takes 1
from each (at most {MAX_WAITS}), and adds 1 to those it signals (at most {MAX_SIGNALS}) when its result is complete.
Executing the program in order is always a valid schedule, and a checker proves that no other schedule can deadlock,
pass a semaphore's maximum or touch bytes unordered.

LOOP repeats up to its END; {LOOP_LEVELS} levels nest. An operand's address in iteration (i0, i1), i0 of the outermost
loop, is `base + i0 * stride0 + i1 * stride1`. HALT is the last instruction: all queues drain. So they do at a PAUSE, which
cuts the program into parts: the host then takes the tensors that this part has stored, does its own share of the model, and
puts those into DRAM that the next part reads. What lies in the memories stays there.

Memories: {", ".join(f"`{m}`" for m in Memory)}. Addresses, pitches and strides are bytes of the operand's
memory. An operand of two dimensions lies in rows `pitch` bytes apart; a pitch of 0 means packed rows. One dimension is
packed, unless it says "at pitch": then every element lies `pitch` bytes after the one before. Values are little-endian.

## File

| bytes | content |
|---|---|
| 0..3 | `HPCC` |
| 4..7 | ISA version, {ISA_VERSION} |
| 8..11 | number of instructions |
| 12..15 | 0 |
| 16.. | the instructions, {INSTRUCTION_BYTES} bytes each |

All words are 32 bits, little-endian. An instruction is {WORDS} words:

| word | bits | content |
|---|---|---|
| 0 | 0..7 | opcode |
| 0 | 8..31 | node: index into the manifest's table of ONNX nodes |
| 1 | 0..17 | {MAX_WAITS} waits of 6 bits: semaphore + 1, 0 none, used ones first |
| 1 | 18..25 | bit 18 + s: operand slot s is present |
| 2 | 0..17 | {MAX_SIGNALS} signals of 6 bits, as the waits |
| 3..{FIRST_SLOT_WORD - 1} | | immediates, packed from bit 0 of word 3 in the order of the table |
| {FIRST_SLOT_WORD}..{WORDS - 1} | | {OPERAND_SLOTS} slots: base, pitch (unsigned), strides of loops 0 and 1 (signed) |

Every bit that is not named is 0, as are absent slots; a decoder rejects anything else.
"""


def render() -> str:
    """The whole page."""
    overview = ["## Instructions", "", "| opcode | name | queue | does |", "|---|---|---|---|"]
    overview += [f"| {f.opcode:#04x} | `{f.name}` | {f.queue.name} | {f.doc} |" for f in FUNCTIONS]
    words = [_words(name, [word.value for word in ENUMS[name]]) for name in ENUMS]
    words.append(_words("format", [storage.name for storage in BUILT_IN]) + FOREIGN)
    details = [_details(f) for f in FUNCTIONS if f.operands or f.immediates]
    return "\n".join([INTRODUCTION, *overview, "", *words, "", *details]).rstrip("\n") + "\n"


def _words(name: str, words: Sequence[str]) -> str:
    values = ", ".join(f"{value} {word}" for value, word in enumerate(words))
    return f"* `{name}`: {values}"


def _details(function: Function) -> str:
    lines = [f"### {function.name}", "", function.doc, ""]
    if function.operands:
        lines += ["| slot | operand | memory | access | holds |", "|---|---|---|---|---|"]
        lines += [_operand_row(slot, operand) for slot, operand in enumerate(function.operands)]
        lines.append("")
    if function.immediates:
        lines += ["| bits | immediate | meaning |", "|---|---|---|"]
        bit = 0
        for field in function.immediates:
            kind = " (float32)" if field.is_float else ""
            lines.append(f"| {bit}..{bit + field.bits - 1} | {field.name}{kind} | {field.doc} |")
            bit += field.bits
        lines.append("")
    return "\n".join(lines)


def _operand_row(slot: int, operand: Operand) -> str:
    memory = operand.memory.value
    if operand.alternative is not None:
        memory += f"; {operand.alternative} with `{operand.selector}`"
    access = ("read" if operand.access == "r" else "written") + (", optional" if operand.optional else "")
    access += f"; read first with `{operand.updates}`" if operand.updates else ""
    shape = operand.shape.replace("|", "\\|")
    return f"| {slot} | {operand.name} | {memory} | {access} | {shape} |"


def main() -> None:
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(render(), encoding="utf-8")
    else:
        sys.stdout.write(render())


if __name__ == "__main__":
    main()
