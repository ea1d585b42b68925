"""The instruction set as a header for RTL (SystemVerilog) and for C, from the table: `hpcc-objdump --header sv|c`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from hw_targets.codec import ENUMS, FIRST_SLOT_WORD, MAGIC, SEMAPHORE_BITS, SLOTS_BIT
from hw_targets.isa import (
    FUNCTIONS,
    IMMEDIATE_WORDS,
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
    Queue,
)
from hw_targets.storage import BUILT_IN

IMMEDIATE_BITS = 32 * IMMEDIATE_WORDS


@dataclass(frozen=True)
class Constant:
    """A named number of the instruction set."""

    name: str
    value: int
    doc: str = ""


def _name(text: str) -> str:
    return text.upper().replace(".", "_")


def groups() -> Iterator[tuple[str, list[Constant]]]:
    """Constants by heading, in the order of a header."""
    yield (
        "sizes",
        [
            Constant("ISA_VERSION", ISA_VERSION),
            Constant("MAGIC", int.from_bytes(MAGIC, "little"), "word 0 of program.bin"),
            Constant("WORDS", WORDS, "32-bit words of an instruction"),
            Constant("INSTRUCTION_BYTES", INSTRUCTION_BYTES),
            Constant("SEMAPHORES", SEMAPHORES),
            Constant("SEMAPHORE_MAX", SEMAPHORE_MAX),
            Constant("LOOP_LEVELS", LOOP_LEVELS),
            Constant("MAX_WAITS", MAX_WAITS, f"in word 1, {SEMAPHORE_BITS} bits each: semaphore + 1, 0 none"),
            Constant("MAX_SIGNALS", MAX_SIGNALS, "in word 2, as the waits"),
            Constant("SEMAPHORE_BITS", SEMAPHORE_BITS),
            Constant("SLOT_PRESENT_LSB", SLOTS_BIT, "in word 1: bit LSB + s says that slot s is there"),
            Constant("OPERAND_SLOTS", OPERAND_SLOTS),
            Constant("IMMEDIATE_WORD", 3, "the first word of the immediates"),
            Constant("IMMEDIATE_BITS", IMMEDIATE_BITS),
            Constant("SLOT_WORD", FIRST_SLOT_WORD, "the first word of the slots: base, pitch, stride 0, stride 1"),
        ],
    )
    yield "queues", [Constant(f"QUEUE_{_name(queue)}", number) for number, queue in enumerate(Queue)]
    yield "opcodes", [Constant(f"OP_{_name(f.name)}", f.opcode, f"{f.queue.name}: {f.doc}") for f in FUNCTIONS]
    for field, words in ENUMS.items():
        yield field, [Constant(f"{_name(field)}_{_name(word)}", number) for number, word in enumerate(words)]
    yield "storage formats", [Constant(f"FORMAT_{_name(storage.name)}", storage.code) for storage in BUILT_IN]
    for function in FUNCTIONS:
        constants = list(_fields(function))
        if constants:
            yield function.name, constants


def _fields(function: Function) -> Iterator[Constant]:
    name = _name(function.name)
    for slot, operand in enumerate(function.operands):
        yield Constant(f"{name}_SLOT_{_name(operand.name)}", slot, operand.shape)
    bit = 0
    for field in function.immediates:
        yield Constant(f"{name}_{_name(field.name)}_LSB", bit, field.doc + (" (float32)" if field.is_float else ""))
        yield Constant(f"{name}_{_name(field.name)}_BITS", field.bits)
        bit += field.bits


NOTICE = f"hpcc instruction set, version {ISA_VERSION}. Made by `hpcc-objdump --header`; see docs/ISA.md."


def c_header() -> str:
    """#define lines with the prefix HPCC_, and a function that reads an immediate."""
    lines = [f"/* {NOTICE} */", "#ifndef HPCC_ISA_H", "#define HPCC_ISA_H", "", "#include <stdint.h>"]
    for title, constants in groups():
        lines += ["", f"/* {title} */"]
        for c in constants:
            lines.append(f"#define HPCC_{c.name} {c.value}" + (f" /* {c.doc} */" if c.doc else ""))
    return "\n".join([*lines, "", C_READER])


C_READER = """/* Bits lsb .. lsb + bits - 1 (at most 32) of the immediates of an instruction of HPCC_WORDS words. */
static inline uint32_t hpcc_immediate(const uint32_t *words, unsigned lsb, unsigned bits)
{
    const uint32_t *first = words + HPCC_IMMEDIATE_WORD + lsb / 32;
    uint64_t pair = first[0];
    if (lsb % 32 + bits > 32)
        pair |= (uint64_t)first[1] << 32;
    return (uint32_t)(pair >> lsb % 32 & ((UINT64_C(1) << bits) - 1));
}

#endif
"""


def sv_header() -> str:
    """A package with localparams, and packed structures of an instruction and of the immediates of each opcode."""
    lines = [f"// {NOTICE}", "package hpcc_isa;"]
    for title, constants in groups():
        lines += ["", f"  // {title}"]
        lines += [f"  localparam int unsigned {c.name} = {c.value};" + (f"  // {c.doc}" if c.doc else "") for c in constants]
    lines += ["", SV_INSTRUCTION]
    for function in FUNCTIONS:
        if function.immediates:
            lines += _structure(function)
    return "\n".join([*lines, "endpackage"]) + "\n"


SV_INSTRUCTION = f"""  // An operand slot: bytes of the operand's memory.
  typedef struct packed {{
    logic signed [31:0] stride1;
    logic signed [31:0] stride0;
    logic [31:0] pitch;
    logic [31:0] base;
  }} slot_t;

  // An instruction: word w of the file is bits 32 w + 31 .. 32 w.
  typedef struct packed {{
    slot_t [OPERAND_SLOTS-1:0] slots;
    logic [IMMEDIATE_BITS-1:0] immediates;
    logic [{31 - SEMAPHORE_BITS * MAX_SIGNALS}:0] unused2;
    logic [MAX_SIGNALS-1:0][SEMAPHORE_BITS-1:0] signals;
    logic [{31 - SLOTS_BIT - OPERAND_SLOTS}:0] unused1;
    logic [OPERAND_SLOTS-1:0] present;
    logic [MAX_WAITS-1:0][SEMAPHORE_BITS-1:0] waits;
    logic [23:0] node;
    logic [7:0] opcode;
  }} instruction_t;
"""


def _structure(function: Function) -> list[str]:
    """The immediates of one opcode, the last field first, as packed structures have it."""
    lines = [f"  // {function.name}", "  typedef struct packed {"]
    spare = IMMEDIATE_BITS - sum(field.bits for field in function.immediates)
    if spare:
        lines.append(f"    logic [{spare - 1}:0] unused;")
    for field in reversed(function.immediates):
        width = f"[{field.bits - 1}:0] " if field.bits > 1 else ""
        lines.append(f"    logic {width}{field.name};  // {field.doc}")
    return [*lines, f"  }} {function.name.replace('.', '_')}_t;", ""]


HEADERS: Mapping[str, Callable[[], str]] = {"sv": sv_header, "c": c_header}
"""The languages of `--header`."""
