"""The stage verifier beyond lit: dominance, which xDSL does not check, and rules that only broken modules meet."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import ModuleOp, NameLoc, NoneAttr, StringAttr
from xdsl.ir import Operation

from compiler.dialects import nn, tile
from compiler.module import main_function
from compiler.passes.verify_stage import RULES, VerifyStagePass, check_dominance
from compiler.pipelines import PIPELINES
from hw_targets.errors import InputError, UsageError
from tests.unit.tile_programs import context, parse

CHAIN = """
func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
  %0 = hpcc_nn.unary exp %x : tensor<2xf32> -> tensor<2xf32>
  %1 = hpcc_nn.unary log %0 : tensor<2xf32> -> tensor<2xf32>
  func.return %1 : tensor<2xf32>
}"""

LOOPS = """
func.func @main() {
  %x = hpcc_tile.alloc "x" : memref<8x8xi8, "act">
  hpcc_tile.for %i to 2 {
    %v = hpcc_tile.view %x[%i] origin affine_map<(d0) -> (d0, 0)> : memref<8x8xi8, "act"> -> memref<4x8xi8, "act">
  }
  hpcc_tile.for %j to 2 {
    %w = hpcc_tile.view %x[%j] origin affine_map<(d0) -> (d0, 0)> : memref<8x8xi8, "act"> -> memref<4x8xi8, "act">
  }
  func.return
}"""


def named(op: Operation, name: str) -> None:
    op.location = NameLoc(StringAttr(name), NoneAttr())


def ops_of(module: ModuleOp, kind: type[Operation]) -> list[Operation]:
    return [op for op in module.walk() if isinstance(op, kind)]


def test_right_modules_pass() -> None:
    check_dominance(parse(CHAIN))
    check_dominance(parse(LOOPS))


def test_a_value_used_before_it_is_defined() -> None:
    """xDSL's verifier lets it pass; the error names the user's ONNX node."""
    module = parse(CHAIN)
    exp, log = ops_of(module, nn.UnaryOp)
    named(log, "/log")
    block = main_function(module).body.block
    log.detach()
    block.insert_op_before(log, exp)
    module.verify()
    with pytest.raises(InputError, match=r"node '/log': error: 'hpcc_nn.unary' uses a value that is not defined before it"):
        check_dominance(module)
    with pytest.raises(InputError, match="HPCC1431"):
        VerifyStagePass(stage="import").apply(context(), module)


def test_an_op_may_not_use_itself() -> None:
    module = parse(CHAIN)
    exp, _ = ops_of(module, nn.UnaryOp)
    exp.operands[0] = exp.results[0]
    with pytest.raises(InputError, match="HPCC1431"):
        check_dominance(module)


def test_the_counter_of_another_loop() -> None:
    module = parse(LOOPS)
    first, second = ops_of(module, tile.ForOp)
    view = ops_of(module, tile.ViewOp)[1]
    assert isinstance(first, tile.ForOp)
    view.operands[1] = first.counter
    with pytest.raises(InputError, match="'hpcc_tile.view' uses an argument of another block"):
        check_dominance(module)


def test_a_value_of_a_loop_body_does_not_leave_it() -> None:
    module = parse(LOOPS)
    first, second = ops_of(module, tile.ViewOp)
    second.operands[0] = first.results[0]
    with pytest.raises(InputError, match="uses a value that is not defined before it"):
        check_dominance(module)


def test_functions_do_not_see_each_other() -> None:
    module = parse(CHAIN + CHAIN.replace("@main", "@other"))
    mine, theirs = ops_of(module, nn.UnaryOp)[0], ops_of(module, nn.UnaryOp)[3]
    theirs.operands[0] = mine.results[0]
    with pytest.raises(InputError, match="HPCC1431"):
        check_dominance(module)


def test_every_stage_has_a_rule() -> None:
    assert list(RULES) == [stage.name for stage in PIPELINES["fpga"]]


def test_a_broken_op_is_named_with_its_node() -> None:
    """The op's own verifier runs too, without a dump of the module."""
    module = parse(CHAIN)
    exp, _ = ops_of(module, nn.UnaryOp)
    named(exp, "/exp")
    exp.properties["kind"] = StringAttr("exp")
    with pytest.raises(InputError) as error:
        VerifyStagePass(stage="import").apply(context(), module)
    assert str(error.value).startswith("node '/exp': error: 'hpcc_nn.unary': ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("stage", "text", "message"),
    [
        ("schedule", 'hpcc_tile.alloc "x" : memref<8x8xi8, "act">', "buffer 'x' has no address"),
        ("import", '"test.op"() : () -> ()', "may not stand after stage 'import'"),
        (
            "quantize",
            '%a = hpcc_nn.weight "a" digest "0" : tensor<2xf32>\n'
            "%b = hpcc_nn.activation relu %a : tensor<2xf32> -> tensor<2xf32>",
            "an activation's argument is not bf16",
        ),
        (
            "encode",
            '%x = hpcc_nn.weight "a" digest "0" : tensor<2x4xi8>\n%s = hpcc_nn.weight "s" digest "0" : tensor<2x1xf32>\n'
            '%w = hpcc_nn.weight "w" digest "0" : tensor<3x4xi8>\n%t = hpcc_nn.weight "t" digest "0" : tensor<3xf32>\n'
            '%y = hpcc_nn.qlinear "head.0" %x, %s, %w, %t : tensor<2x4xi8>, tensor<2x1xf32>, tensor<3x4xi8>, tensor<3xf32>'
            " -> tensor<2x3xf32>",
            "a linear's weight has no storage format",
        ),
    ],
)
def test_rules(stage: str, text: str, message: str) -> None:
    text = text if text.startswith(("%", '"')) else f"%x = {text}"
    module = parse(f"func.func @main() {{ {text} \n func.return }}")
    with pytest.raises(InputError, match=message):
        VerifyStagePass(stage=stage).apply(context(), module)


def test_an_unknown_stage() -> None:
    with pytest.raises(UsageError, match="there is no stage 'fused'"):
        VerifyStagePass(stage="fused").apply(context(), parse(CHAIN))
