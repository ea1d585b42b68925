"""The `hpcc_cpu` dialect: a transformer as steps over buffers, one step a parallel loop of the generated C.

A buffer holds `features` values of each token (or of each sample, after pooling) at a place in the activation memory of
its kind; how it is cut into tiles is the C library's business (compiler/backends/cpu/kernels/layout.c). Weights stay
`hpcc_nn.weight`, with their patterns; a linear says with which kernel and in which blocks its weight is multiplied.
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
    SAMPLES,
    TOKENS,
    WINDOWS,
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

__all__ = ["CODES", "SAMPLES", "TOKENS", "WINDOWS", "Activation", "Kernel", "buffer_of", "features_of"]


@irdl_attr_definition
class BufferType(Buffer):
    """`!hpcc_cpu.buffer<768 x tokens, at 0>`: `place` counts features of the same kind from the memory's begin."""

    name = "hpcc_cpu.buffer"


class Kernel(StrEnum):
    DENSE = "dense"
    VECTORS = "vectors"
    SINGLES = "singles"
    BYTES = "bytes"
    PICKS = "picks"

    @property
    def in_bytes(self) -> bool:
        return self in (Kernel.BYTES, Kernel.PICKS)


@irdl_attr_definition
class KernelAttr(EnumAttribute[Kernel], SpacedOpaqueSyntaxAttribute):
    name = "hpcc_cpu.kernel"


@irdl_attr_definition
class ActivationAttr(EnumAttribute[Activation], SpacedOpaqueSyntaxAttribute):
    name = "hpcc_cpu.activation"


@irdl_op_definition
class EmbeddingOp(EmbeddingStep):
    name = "hpcc_cpu.embedding"


@irdl_op_definition
class QuantizeOp(QuantizeStep):
    name = "hpcc_cpu.quantize"


@irdl_op_definition
class LinearOp(IRDLOperation):
    """activation(W x + bias + residual); `block` inputs at a time."""

    name = "hpcc_cpu.linear"
    x = operand_def(AnyBuffer)
    weight = operand_def(AnyTensor)
    bias = opt_operand_def(AnyTensor)
    residual = opt_operand_def(AnyBuffer)
    role = prop_def(StringAttr)
    kernel = prop_def(KernelAttr)
    block = prop_def(IntegerAttr)
    activation = prop_def(ActivationAttr)
    result = result_def(AnyBuffer)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(Pure())
    assembly_format = (
        "$role $x `,` $weight (`bias` $bias^)? (`residual` $residual^)? `by` $kernel `block` $block `then` $activation"
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
        block: int,
        activation: Activation,
    ) -> None:
        super().__init__(
            operands=[x, weight, bias, residual],
            properties={
                "role": StringAttr(role),
                "kernel": KernelAttr(kernel),
                "block": IntegerAttr(block, 64),
                "activation": ActivationAttr(activation),
            },
            result_types=[type],
        )

    def verify_(self) -> None:
        if self.kernel.data.in_bytes:
            if buffer_of(self.x).per.data != (CODES if self.kernel.data is Kernel.BYTES else WINDOWS):
                raise VerifyException("the kernel of bytes reads codes, that of picks codes in windows")
            same_columns(self, self.residual, self.result)
        else:
            same_columns(self, self.x, self.residual, self.result)
        if shape_of(self.weight) != (features_of(self.result), features_of(self.x)):
            raise VerifyException("the weight does not fit the buffers")
        if self.bias is not None and shape_of(self.bias) != (features_of(self.result),):
            raise VerifyException("the bias does not fit the result")
        if self.residual is not None and features_of(self.residual) != features_of(self.result):
            raise VerifyException("the residual does not fit the result")


@irdl_op_definition
class AttentionOp(AttentionStep):
    name = "hpcc_cpu.attention"


@irdl_op_definition
class LayerNormOp(LayerNormStep):
    name = "hpcc_cpu.layer_norm"


@irdl_op_definition
class RmsNormOp(RmsNormStep):
    name = "hpcc_cpu.rms_norm"


@irdl_op_definition
class RotaryOp(RotaryStep):
    name = "hpcc_cpu.rotary"


@irdl_op_definition
class PointwiseOp(PointwiseStep):
    name = "hpcc_cpu.pointwise"
    activation = prop_def(ActivationAttr)
    ATTRIBUTE: ClassVar = ActivationAttr


@irdl_op_definition
class PoolOp(PoolStep):
    name = "hpcc_cpu.pool"


CPU = Dialect(
    "hpcc_cpu",
    [EmbeddingOp, QuantizeOp, LinearOp, AttentionOp, LayerNormOp, RmsNormOp, RotaryOp, PointwiseOp, PoolOp],
    [BufferType, KernelAttr, ActivationAttr],
)
