"""Assembler and disassembler: round trip, readable text, errors at their place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from hw_targets.asm import assemble, disassemble
from hw_targets.codec import build, decode, encode
from hw_targets.errors import InputError
from hw_targets.isa import Address, Instruction
from tests.unit.hand_programs import linear
from tests.unit.instruction_strategies import programs


@settings(max_examples=50, deadline=None)
@given(programs())
def test_text_to_binary_to_text(program: list[Instruction]) -> None:
    text = disassemble(program)
    again = assemble(text)
    assert again == program
    assert disassemble(decode(encode(again))) == text


def test_a_line_is_readable() -> None:
    instruction = build(
        "matrix.multiply",
        {"x": Address(0x100, 384, (0x3000, 0)), "w": Address(0), "acc": Address(0, 256)},
        {"rows": 32, "outs": 64, "ins": 384, "mode": 2, "n": 2, "m": 4},
        waits=(0, 3),
        signals=(2,),
        node=1,
    )
    assert disassemble([instruction], ["/a", "/b  MatMul"]) == (
        "matrix.multiply x=0x100:384(+0x3000) w=0x0 acc=0x0:256 rows=32 outs=64 ins=384 mode=hp n=2 m=4 "
        "wait=0,3 signal=2 ; node 1 /b MatMul\n"
    )


def test_loops_are_indented_and_remarks_are_skipped() -> None:
    text = "control.loop count=2\n  control.loop count=3\n    control.end\n  # nothing\n\ncontrol.end # done\n"
    assert disassemble(assemble(text)) == "control.loop count=2\n  control.loop count=3\n  control.end\ncontrol.end\n"


def test_names_of_nodes_do_not_matter() -> None:
    program = linear()
    assert assemble(disassemble(program, ["a; node 7 # x", "b=c"])) == program


@pytest.mark.parametrize(
    ("line", "place", "message"),
    [
        ("matrix.mutiply rows=1", "2:1", "near: matrix.multiply"),
        ("  control.loop rows=1", "2:16", "has no field 'rows'"),
        ("control.loop count=x", "2:20", "'x' is no number"),
        ("control.loop count=4294967296", "2:20", "does not fit the 32 bits"),
        ("control.loop count", "2:14", "expected name=value"),
        ("control.loop count=1 count=2", "2:22", "given twice"),
        ("control.end wait=1,2,3,4", "2:18", "takes 3 waits"),
        ("control.end ; nodes", "2:13", "expected `; node N`"),
        ("store.copy src=0x0:4(+1,+2,+3) dst=0x0", "2:16", "2 strides"),
        ("store.copy src=zero dst=0x0", "2:16", "is no address"),
        ("store.copy src=0x0", "2:1", "needs operand 'dst'"),
        ("vector.pool x=0x0 mask=0x0 out=0x0 minimum=one", "2:44", "'one' is no number"),
    ],
)
def test_errors_say_where(line: str, place: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        assemble("control.end\n" + line + "\n", "p.asm")
    assert caught.value.where == f"p.asm:{place}"
    assert message in str(caught.value)
