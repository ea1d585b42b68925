"""The `hpcc_gpu` dialect: a transformer as steps over buffers, one step one kernel launch of the generated Triton module.

A buffer holds `features` rows of the activation memory of its kind: a row is one feature of all tokens (or samples), so
that an input which a pruned layer skips is a run of bytes that is not read. Weights stay `hpcc_nn.weight`, with their
patterns; a linear says with which kernel and in which tiles its weight is multiplied.
"""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import IntegerAttr, StringAttr
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import Dialect, SpacedOpaqueSyntaxAttribute, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from compiler.dialects.nn import AnyTensor, shape_of
from compiler.dialects.steps import (
    CODES,
    Activation,
    AnyBuffer,
    AttentionStep,
    Buffer,
    EmbeddingStep,
    LayerNormStep,
    PointwiseStep,
    PoolStep,
    QuantizeStep,
    RmsNormStep,
    RotaryStep,
    buffer_of,
    features_of,
    same_columns,
)


@irdl_attr_definition
class BufferType(Buffer):
    """`!hpcc_gpu.buffer<768 x tokens, at 0>`: `place` counts features of the same kind from the memory's begin."""

    name = "hpcc_gpu.buffer"


class Kernel(StrEnum):
    """How a weight is multiplied: all of it; the inputs that a tile of rows uses, gathered; kept values, put into their
    places by marks of a bit for each weight; such a 2:4 weight, on the sparse tensor cores where torch has them."""

    DENSE = "dense"
    GATHER = "gather"
    MARKS = "marks"
    SPARSE = "sparse"


@irdl_attr_definition
class KernelAttr(EnumAttribute[Kernel], SpacedOpaqueSyntaxAttribute):
    name = "hpcc_gpu.kernel"


@irdl_attr_definition
class ActivationAttr(EnumAttribute[Activation], SpacedOpaqueSyntaxAttribute):
    name = "hpcc_gpu.activation"


@irdl_op_definition
class EmbeddingOp(EmbeddingStep):
    name = "hpcc_gpu.embedding"


@irdl_op_definition
class QuantizeOp(QuantizeStep):
    name = "hpcc_gpu.quantize"


@irdl_op_definition
class LinearOp(IRDLOperation):
    """activation(W x + bias + residual): a block computes `rows` x `tokens`, with `inputs` at a time in shared memory."""

    name = "hpcc_gpu.linear"
    x = operand_def(AnyBuffer)
    weight = operand_def(AnyTensor)
    bias = opt_operand_def(AnyTensor)
    residual = opt_operand_def(AnyBuffer)
    role = prop_def(StringAttr)
    kernel = prop_def(KernelAttr)
    rows = prop_def(IntegerAttr)
    tokens = prop_def(IntegerAttr)
    inputs = prop_def(IntegerAttr)
    stages = prop_def(IntegerAttr)
    activation = prop_def(ActivationAttr)
    result = result_def(AnyBuffer)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(Pure())
    assembly_format = (
        "$role $x `,` $weight (`bias` $bias^)? (`residual` $residual^)? `by` $kernel"
        " `tile` $rows `x` $tokens `inputs` $inputs `stages` $stages `then` $activation"
        " attr-dict `:` type($x) `,` type($weight) (`bias` type($bias)^)? (`residual` type($residual)^)?"
        " `->` type($result)"
    )

    def __init__(
        self,
        role: str,
        x: SSAValue,
        weight: SSAValue,
        bias: SSAValue | None,
        residual: SSAValue | None,
        type: Buffer,
        *,
        kernel: Kernel,
        rows: int,
        tokens: int,
        inputs: int,
        stages: int,
        activation: Activation,
    ) -> None:
        sizes = {"rows": rows, "tokens": tokens, "inputs": inputs, "stages": stages}
        super().__init__(
            operands=[x, weight, bias, residual],
            properties={
                "role": StringAttr(role),
                "kernel": KernelAttr(kernel),
                "activation": ActivationAttr(activation),
                **{name: IntegerAttr(size, 64) for name, size in sizes.items()},
            },
            result_types=[type],
        )

    def verify_(self) -> None:
        if buffer_of(self.x).per.data == CODES:
            same_columns(self, self.residual, self.result)
        else:
            same_columns(self, self.x, self.residual, self.result)
        if shape_of(self.weight) != (features_of(self.result), features_of(self.x)):
            raise VerifyException("the weight does not fit the buffers")
        if self.bias is not None and shape_of(self.bias) != (features_of(self.result),):
            raise VerifyException("the bias does not fit the result")
        if self.residual is not None and features_of(self.residual) != features_of(self.result):
            raise VerifyException("the residual does not fit the result")
        for size in (self.rows, self.tokens, self.inputs):
            count = size.value.data
            if count < 16 or count & (count - 1):
                raise VerifyException(f"a tile has sides of at least 16 and powers of two, not {count}")


@irdl_op_definition
class AttentionOp(AttentionStep):
    name = "hpcc_gpu.attention"


@irdl_op_definition
class LayerNormOp(LayerNormStep):
    name = "hpcc_gpu.layer_norm"


@irdl_op_definition
class RmsNormOp(RmsNormStep):
    name = "hpcc_gpu.rms_norm"


@irdl_op_definition
class RotaryOp(RotaryStep):
    name = "hpcc_gpu.rotary"


@irdl_op_definition
class PointwiseOp(PointwiseStep):
    name = "hpcc_gpu.pointwise"
    activation = prop_def(ActivationAttr)
    ATTRIBUTE: ClassVar = ActivationAttr


@irdl_op_definition
class PoolOp(PoolStep):
    name = "hpcc_gpu.pool"


GPU = Dialect(
    "hpcc_gpu",
    [EmbeddingOp, QuantizeOp, LinearOp, AttentionOp, LayerNormOp, RmsNormOp, RotaryOp, PointwiseOp, PoolOp],
    [BufferType, KernelAttr, ActivationAttr],
)
