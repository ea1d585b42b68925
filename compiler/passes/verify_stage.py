"""`hpcc-verify-stage`: rejects what the next stage may not see, and values used before they are defined.

The rules are a table: for each stage the ops it may hold and the properties of the types it must have reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import BFloat16Type, ModuleOp, NameLoc, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.utils.exceptions import VerifyException

from compiler.dialects import cpu, gpu, isa, nn, tile
from hw_targets.errors import InputError, UsageError

COMMON: tuple[type[Operation], ...] = (ModuleOp, FuncOp, ReturnOp)
DATA = (nn.WeightOp, nn.ConstantOp)
SHAPE = (nn.ReshapeOp, nn.CastOp)
FUSED = (
    nn.DequantizeOp,
    nn.EmbeddingOp,
    nn.LinearOp,
    nn.AttentionOp,
    nn.LayerNormOp,
    nn.RmsNormOp,
    nn.RotaryOp,
    nn.ActivationOp,
    nn.MeanPoolOp,
    nn.TakeTokenOp,
    nn.BinaryOp,
    nn.ConcatOp,
    nn.HandOverOp,
)
INTEGER = (
    nn.EmbeddingOp,
    nn.LayerNormOp,
    nn.RmsNormOp,
    nn.RotaryOp,
    nn.ActivationOp,
    nn.QuantizeOp,
    nn.QLinearOp,
    nn.QAttentionOp,
    nn.MeanPoolOp,
    nn.TakeTokenOp,
    nn.ConcatOp,
    nn.HandOverOp,
)
TILED = (tile.AllocOp, tile.DramOp, tile.ViewOp, tile.ForOp, tile.RunOp)
EMITTED = (isa.InstructionOp, isa.LoopOp, isa.ImageOp)


@dataclass(frozen=True)
class Rule:
    """The ops a stage's module may hold (besides module, function and return), and a check of each op."""

    allowed: tuple[type[Operation], ...]
    check: Callable[[Operation], str] = lambda op: ""


def _check_add(op: Operation) -> str:
    if isinstance(op, nn.BinaryOp) and op.kind.data not in (nn.BinaryKind.ADD, nn.BinaryKind.MUL):
        return f"an elementary {op.kind.data.value!r} is left over"
    return ""


def _check_integer(op: Operation) -> str:
    if isinstance(op, nn.QLinearOp) and str(nn.element_type_of(op.weight)) != "i8":
        return "a linear's weight is not int8"
    if isinstance(op, nn.ActivationOp) and not isinstance(nn.element_type_of(op.x), BFloat16Type):
        return "an activation's argument is not bf16"
    return ""


def _check_encoded(op: Operation) -> str:
    if isinstance(op, nn.QLinearOp):
        type = op.weight.type
        assert isinstance(type, TensorType)
        if not type.encoding.name.startswith("hpcc_storage."):
            return "a linear's weight has no storage format"
    return _check_integer(op)


def _check_scheduled(op: Operation) -> str:
    if isinstance(op, tile.AllocOp | tile.DramOp) and op.address is None:
        return f"buffer {op.label.data!r} has no address"
    return ""


def _check_static(op: Operation) -> str:
    for result in op.results:
        if isinstance(result.type, TensorType) and any(size < 0 for size in result.type.get_shape()):
            return "a shape is not static"
    return ""


RULES: dict[str, Rule] = {
    "import": Rule(tuple(op for op in nn.NN.operations), _check_static),
    "fuse": Rule((*DATA, *SHAPE, *FUSED), _check_add),
    "sparsify": Rule((*DATA, *SHAPE, *FUSED), _check_add),
    "quantize": Rule((*DATA, *SHAPE, *INTEGER), _check_integer),
    "encode": Rule((*DATA, *SHAPE, *INTEGER), _check_encoded),
    "tile": Rule(TILED),
    "schedule": Rule(TILED, _check_scheduled),
    "emit": Rule(EMITTED),
}

CPU_RULES: dict[str, Rule] = {
    **{stage: RULES[stage] for stage in ("import", "fuse", "sparsify")},
    "tile": Rule((*DATA, nn.DequantizeOp, *cpu.CPU.operations)),
}

GPU_RULES: dict[str, Rule] = {**CPU_RULES, "tile": Rule((*DATA, nn.DequantizeOp, *gpu.GPU.operations))}

RULES_OF: dict[str, dict[str, Rule]] = {"fpga": RULES, "cpu": CPU_RULES, "gpu": GPU_RULES}
"""The rules of each target kind's stages."""


@dataclass(frozen=True)
class VerifyStagePass(ModulePass):
    """Verify the module against a stage's rule. Raises InputError naming the op and its ONNX node."""

    name: ClassVar[str] = "hpcc-verify-stage"
    stage: str = "import"
    kind: str = "fpga"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        rules = RULES_OF.get(self.kind, RULES)
        rule = rules.get(self.stage)
        if rule is None:
            raise UsageError("HPCC2304", f"there is no stage {self.stage!r}", hint=f"stages: {', '.join(rules)}")
        for inner in op.walk():
            problem = _verify_op(inner)
            if not problem and not isinstance(inner, COMMON):
                if not isinstance(inner, rule.allowed):
                    problem = f"may not stand after stage {self.stage!r}"
                else:
                    problem = rule.check(inner)
            if problem:
                raise InputError("HPCC1430", f"'{inner.name}': {problem}", where=_where(inner))
        check_dominance(op)


def _verify_op(op: Operation) -> str:
    try:
        op.verify(verify_nested_ops=False)
    except VerifyException as error:
        return str(error).splitlines()[0]
    return ""


def _where(op: Operation) -> str:
    return f"node {op.location.desc.data!r}" if isinstance(op.location, NameLoc) else ""


def check_dominance(module: ModuleOp) -> None:
    """Every operand is a block argument in scope or the result of an op that stands before its use.

    xDSL's own verifier does not look at this. Raises InputError naming the user.
    """
    for region in module.regions:
        for block in region.blocks:
            _check_block(block, set())


def _check_block(block: Block, visible: set[SSAValue]) -> None:
    scope = visible | set(block.args)
    for op in block.ops:
        for operand in op.operands:
            if operand not in scope:
                what = "an argument of another block" if isinstance(operand, BlockArgument) else "a value"
                raise InputError("HPCC1431", f"'{op.name}' uses {what} that is not defined before it", where=_where(op))
        isolated = isinstance(op, FuncOp | ModuleOp)
        for region in op.regions:
            for inner in region.blocks:
                _check_block(inner, set() if isolated else scope)
        scope.update(op.results)
