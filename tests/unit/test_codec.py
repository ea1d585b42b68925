"""Binary encoding: round trip, strictness, loop expansion."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_targets import isa_docs
from hw_targets.codec import HEADER, build, decode, encode, expand
from hw_targets.errors import InputError
from hw_targets.isa import FUNCTIONS, IMMEDIATE_WORDS, INSTRUCTION_BYTES, OPERAND_SLOTS, Address, Instruction
from tests.unit.instruction_strategies import programs

HALT = build("control.halt")


def loop(count: int) -> Instruction:
    return build("control.loop", immediates={"count": count})


END = build("control.end")


def test_every_function_fits_the_record() -> None:
    for function in FUNCTIONS:
        assert sum(i.bits for i in function.immediates) <= 32 * IMMEDIATE_WORDS, function.name
        assert len(function.operands) <= OPERAND_SLOTS, function.name
    assert len({f.opcode for f in FUNCTIONS}) == len(FUNCTIONS)


@settings(max_examples=50, deadline=None)
@given(programs())
def test_round_trip(program: list[Instruction]) -> None:
    assert decode(encode(program)) == program


def test_layout_of_the_words() -> None:
    instruction = build(
        "matrix.multiply",
        {"x": Address(0x100, 384, (0x3000, -1)), "w": Address(7), "acc": Address(0, 256)},
        {"rows": 0xABCD, "outs": 2, "ins": 3, "mode": 2, "x_unsigned": 1},
        waits=(0, 31),
        signals=(2,),
        node=12,
    )
    words = struct.unpack("<40I", encode([instruction])[HEADER.size :])
    assert words[0] == 0x10 | 12 << 8
    assert words[1] == 1 | 32 << 6 | 0b111 << 18
    assert words[2] == 3
    assert words[3] == 0xABCD | 2 << 16
    assert words[4] == 3 | 2 << 16 | 1 << 18
    assert words[8:12] == (0x100, 384, 0x3000, 0xFFFFFFFF)


def spoil(program: list[Instruction], word: int, value: int, position: int = 0) -> bytes:
    data = bytearray(encode(program))
    struct.pack_into("<I", data, HEADER.size + position * INSTRUCTION_BYTES + 4 * word, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("word", "value", "code"),
    [
        (0, 0xEE, "HPCC1207"),
        (1, 33, "HPCC1202"),
        (1, 1 << 6, "HPCC1208"),
        (1, 1 << 26, "HPCC1208"),
        (1, 1 << 18, "HPCC1209"),
        (2, 1 << 18, "HPCC1208"),
        (4, 1, "HPCC1208"),
        (7, 1 << 31, "HPCC1208"),
        (8, 1, "HPCC1208"),
    ],
)
def test_a_damaged_word_is_named(word: int, value: int, code: str) -> None:
    with pytest.raises(InputError, match="instruction 1") as caught:
        decode(spoil([loop(2), loop(3), END, END, HALT], word, value, 1))
    assert caught.value.code == code


def test_a_missing_operand_and_a_wrong_word_are_named() -> None:
    copy = build("store.copy", {"src": Address(0), "dst": Address(4)}, {"rows": 1, "row_bytes": 4})
    data = bytearray(spoil([copy], 1, 1 << 19))
    data[HEADER.size + 32 : HEADER.size + 48] = bytes(16)
    with pytest.raises(InputError, match="operand src is missing"):
        decode(bytes(data))
    load = build("load.weights", {k: Address(0) for k in ("src", "dst")}, {"format": 1})
    with pytest.raises(InputError, match="format = 11 is none of"):
        decode(spoil([load], 3, 11))


@pytest.mark.parametrize("cut", [1, 8, INSTRUCTION_BYTES, INSTRUCTION_BYTES + 15])
def test_truncation(cut: int) -> None:
    data = encode([loop(2), END, HALT])
    with pytest.raises(InputError, match="HPCC1205"):
        decode(data[:-cut])
    with pytest.raises(InputError, match="HPCC1205"):
        decode(data[:8])


def test_version_and_magic() -> None:
    data = bytearray(encode([HALT]))
    data[4] = 9
    with pytest.raises(InputError, match="ISA version 9"):
        decode(bytes(data))
    with pytest.raises(InputError, match="no hpcc program"):
        decode(b"ELF!" + bytes(data[4:]))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Instruction("control.loop", (), (("count", 1 << 32),)), "does not fit 32 bits"),
        (Instruction("control.end", signals=(32,)), "semaphore 32"),
        (Instruction("control.end", waits=(0, 1, 2, 3)), "4 semaphores"),
        (Instruction("control.end", node=1 << 24), "24 bits"),
        (Instruction("store.copy"), "needs operand"),
        (Instruction("control.end", (("x", Address(0)),)), "has no field 'x'"),
        (build("vector.pool", {k: Address(0) for k in ("x", "mask", "out")}, {"minimum": float("inf")}), "finite"),
        (build("store.copy", {"src": Address(-1), "dst": Address(0)}), "32 bits"),
    ],
)
def test_encode_refuses(bad: Instruction, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        encode([HALT, bad])
    assert "instruction 1" in str(caught.value)


def test_expand_resolves_addresses() -> None:
    copy = build(
        "load.copy",
        {"src": Address(100, 8, (1000, 10)), "dst": Address(0, 0, (0, 2))},
        {"rows": 1, "row_bytes": 2, "to_param": 1},
    )
    flat = expand([loop(2), loop(3), copy, END, END, HALT])
    copies = [r for r in flat if r.name == "load.copy"]
    assert [r.operands["src"].base for r in copies] == [100, 110, 120, 1100, 1110, 1120]
    assert [r.operands["dst"].base for r in copies] == [0, 2, 4, 0, 2, 4]
    assert {r.operands["dst"].memory.value for r in copies} == {"param"}
    assert [r.counters for r in copies][:2] == [(0, 0), (0, 1)]
    assert len(flat) == 1 + 2 * (1 + 3 * 2 + 1) + 1


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ([loop(1), loop(1), loop(1), END, END, END, HALT], "HPCC1210"),
        ([loop(0), END, HALT], "HPCC1210"),
        ([loop(2), HALT], "HPCC1212"),
        ([loop(2), END], "HPCC1212"),
        ([loop(2)], "HPCC1211"),
        ([END, HALT], "HPCC1211"),
        ([HALT, HALT], "HPCC1212"),
        ([], "HPCC1212"),
        ([loop(1 << 31), END, HALT], "HPCC1213"),
    ],
)
def test_expand_refuses(program: list[Instruction], code: str) -> None:
    with pytest.raises(InputError) as caught:
        expand(program)
    assert caught.value.code == code


def test_isa_page_is_the_tables() -> None:
    page = Path(__file__).parents[2] / "docs" / "ISA.md"
    assert page.read_text(encoding="utf-8") == isa_docs.render(), "run python -m hw_targets.isa_docs docs/ISA.md"


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
@settings(max_examples=30, deadline=None)
def test_float_immediates_keep_their_bits(value: float) -> None:
    pool = build("vector.pool", {k: Address(0) for k in ("x", "mask", "out")}, {"minimum": value})
    back = decode(encode([pool]))[0].immediate("minimum")
    assert np.float32(back).tobytes() == np.float32(value).tobytes()
