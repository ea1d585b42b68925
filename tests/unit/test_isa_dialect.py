"""Any instruction survives the way into an op, its text in both forms, and back."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from xdsl.dialects.builtin import ModuleOp
from xdsl.printer import Printer

from compiler.dialects.isa import InstructionOp
from hw_targets.isa import Instruction
from tests.unit.instruction_strategies import instructions
from tests.unit.tile_programs import context, parse

CONTEXT = context()


@pytest.mark.parametrize("generic", [False, True])
def test_instructions_survive_their_text(generic: bool) -> None:
    @settings(max_examples=50, deadline=None)
    @given(instructions())
    def survive(instruction: Instruction) -> None:
        op = InstructionOp(instruction, 'a "layer" \\ of 2')
        assert op.instruction(instruction.node) == instruction
        out = io.StringIO()
        Printer(out, print_generic_format=generic).print_op(ModuleOp([op]))
        module = parse(out.getvalue(), CONTEXT)
        module.verify()
        (again,) = module.ops
        assert isinstance(again, InstructionOp)
        assert again.layer == op.layer
        assert again.instruction(instruction.node) == instruction

    survive()
