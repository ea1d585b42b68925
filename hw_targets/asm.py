"""Text form of a program: one instruction a line, loops indented, and back without loss.

    control.loop count=4
      matrix.multiply x=0x100:384(+0x3000) w=0x0 acc=0x0:256 rows=32 outs=64 ins=384 wait=0,3 signal=2 ; node 12
    control.end

An operand is base:pitch(+stride of loop 0, +stride of loop 1), where zero pitch and zero strides are left out, as are
immediates that are zero. What follows the number after `; node` is a remark (objdump puts the ONNX node there), as is
everything after `#`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hw_targets.codec import build, words_of
from hw_targets.errors import InputError
from hw_targets.isa import (
    BY_NAME,
    LOOP_LEVELS,
    MAX_SIGNALS,
    MAX_WAITS,
    Address,
    Function,
    Immediate,
    Instruction,
)

INDENT = "  "


# ---- to text --------------------------------------------------------------------------------------------------------


def disassemble(instructions: Sequence[Instruction], nodes: Sequence[str] = ()) -> str:
    """The program as text; `nodes` are names to put behind the node numbers."""
    lines: list[str] = []
    depth = 0
    for instruction in instructions:
        if instruction.name == "control.end":
            depth = max(depth - 1, 0)
        lines.append(INDENT * depth + line_of(instruction, nodes))
        if instruction.name == "control.loop":
            depth += 1
    return "".join(line + "\n" for line in lines)


def line_of(instruction: Instruction, nodes: Sequence[str] = ()) -> str:
    """One instruction as one line."""
    fields = {f.name: f for f in instruction.function.immediates}
    parts = [instruction.name]
    parts += [f"{name}={_address_text(address)}" for name, address in instruction.operands]
    parts += [
        f"{name}={_value_text(fields[name], value)}" for name, value in instruction.immediates if _bits(fields[name], value)
    ]
    for key, numbers in (("wait", instruction.waits), ("signal", instruction.signals)):
        if numbers:
            parts.append(f"{key}={','.join(map(str, numbers))}")
    if instruction.node or nodes:
        remark = nodes[instruction.node] if instruction.node < len(nodes) else ""
        parts.append(f"; node {instruction.node} {' '.join(remark.split())}".rstrip())
    return " ".join(parts)


def _bits(spec: Immediate, value: int | float) -> int:
    return struct.unpack("<I", struct.pack("<f", value))[0] if spec.is_float else int(value)


def _value_text(spec: Immediate, value: int | float) -> str:
    if spec.is_float:
        return str(np.float32(value))
    return words_of(spec.name).get(int(value), str(value))


def _address_text(address: Address) -> str:
    text = f"{address.base:#x}" + (f":{address.pitch}" if address.pitch else "")
    strides = list(address.strides)
    while strides and not strides[-1]:
        strides.pop()
    return text + (f"({','.join(f'{stride:+#x}' for stride in strides)})" if strides else "")


# ---- from text ------------------------------------------------------------------------------------------------------

WORD = re.compile(r"\S+")
NODE = re.compile(r";\s*node\s+(\d+)(?:\s|$)")
NUMBER = r"(?:0x[0-9a-fA-F]+|\d+)"
ADDRESS = re.compile(rf"({NUMBER})(?::({NUMBER}))?(?:\(([^()]*)\))?")
STRIDE = re.compile(rf"([+-]?)({NUMBER})")


@dataclass
class _Line:
    """What one line has said so far."""

    operands: dict[str, Address] = field(default_factory=lambda: {})
    immediates: dict[str, int | float] = field(default_factory=lambda: {})
    semaphores: dict[str, tuple[int, ...]] = field(default_factory=lambda: {})


def assemble(text: str, name: str = "") -> list[Instruction]:
    """The instructions of a text; `name` is the file to blame. Raises InputError at line:col."""
    result: list[Instruction] = []
    for number, line in enumerate(text.split("\n"), 1):
        instruction = _assemble_line(line, number, name)
        if instruction is not None:
            result.append(instruction)
    return result


def _error(message: str, file: str, line: int, column: int, hint: str = "") -> InputError:
    where = f"{file}:{line}:{column}" if file else f"{line}:{column}"
    return InputError("HPCC1214", message, where=where, hint=hint)


def _assemble_line(line: str, number: int, file: str) -> Instruction | None:
    code, node = _split_remark(line, number, file)
    words = [(match.group(), match.start() + 1) for match in WORD.finditer(code)]
    if not words:
        return None
    name, column = words[0]
    function = BY_NAME.get(name)
    if function is None:
        raise _error(f"unknown instruction {name!r}", file, number, column, f"near: {', '.join(_near(name))}")
    said = _Line()
    for word, column in words[1:]:
        key, equals, value = word.partition("=")
        if not equals:
            raise _error(f"expected name=value, found {word!r}", file, number, column)
        if key in said.operands or key in said.immediates or key in said.semaphores:
            raise _error(f"{key} is given twice", file, number, column)
        try:
            _assign(said, function, key, value)
        except ValueError as error:
            raise _error(str(error), file, number, column + (len(key) + 1 if key in _keys(function) else 0)) from error
    try:
        return build(
            name,
            said.operands,
            said.immediates,
            waits=said.semaphores.get("wait", ()),
            signals=said.semaphores.get("signal", ()),
            node=node,
        )
    except (ValueError, OverflowError) as error:
        raise _error(str(error), file, number, words[0][1]) from error


def _split_remark(line: str, number: int, file: str) -> tuple[str, int]:
    """The instruction's text and its node number."""
    end = min((i for i in (line.find(";"), line.find("#")) if i >= 0), default=len(line))
    if end == len(line) or line[end] == "#":
        return line[:end], 0
    match = NODE.match(line, end)
    if match is None:
        raise _error("expected `; node N`", file, number, end + 1)
    return line[:end], int(match.group(1))


def _keys(function: Function) -> list[str]:
    return [*(o.name for o in function.operands), *(i.name for i in function.immediates), "wait", "signal"]


def _near(name: str) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, BY_NAME, 3, 0.0)


def _assign(said: _Line, function: Function, key: str, value: str) -> None:
    """Put `key=value` where it belongs; ValueError says what is wrong with it."""
    spec = next((i for i in function.immediates if i.name == key), None)
    if spec is not None:
        said.immediates[key] = _parse_value(spec, value)
    elif any(o.name == key for o in function.operands):
        said.operands[key] = _parse_address(value)
    elif key in ("wait", "signal"):
        most = MAX_WAITS if key == "wait" else MAX_SIGNALS
        said.semaphores[key] = tuple(_parse_number(number) for number in value.split(","))
        if len(said.semaphores[key]) > most:
            raise ValueError(f"an instruction takes {most} {key}s at most")
    else:
        raise ValueError(f"{function.name} has no field {key!r}; it has {', '.join(_keys(function))}")


def _parse_number(text: str) -> int:
    if not re.fullmatch(NUMBER, text):
        raise ValueError(f"{text!r} is no number")
    return int(text, 16) if text.startswith("0x") else int(text)


def _parse_value(spec: Immediate, text: str) -> int | float:
    if spec.is_float:
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{text!r} is no number") from None
    for number, word in words_of(spec.name).items():
        if text == word:
            return number
    value = _parse_number(text)
    if value >= 1 << spec.bits:
        raise ValueError(f"{value} does not fit the {spec.bits} bits of {spec.name}")
    return value


def _parse_address(text: str) -> Address:
    match = ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no address (base:pitch(+stride,+stride))")
    base, pitch, strides = match.groups()
    steps = [_parse_stride(step) for step in strides.split(",")] if strides else []
    if len(steps) > LOOP_LEVELS:
        raise ValueError(f"an address has {LOOP_LEVELS} strides at most")
    first, second = [*steps, 0, 0][:2]
    return Address(_parse_number(base), _parse_number(pitch) if pitch else 0, (first, second))


def _parse_stride(text: str) -> int:
    match = STRIDE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no stride")
    return _parse_number(match.group(2)) * (-1 if match.group(1) == "-" else 1)
