"""The `hpcc_gpu` dialect: a transformer as steps over buffers, one step one kernel launch of the generated Triton module.

A buffer holds `features` rows of the activation memory of its kind: a row is one feature of all tokens (or samples), so
that an input which a pruned layer skips is a run of bytes that is not read. Weights stay `hpcc_nn.weight`, with their
patterns; a linear says with which kernel and in which tiles its weight is multiplied.
"""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import IntegerAttr
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import Dialect, SpacedOpaqueSyntaxAttribute
from xdsl.irdl import (
    irdl_attr_definition,
    irdl_op_definition,
    prop_def,
)
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from compiler.dialects.steps import (
    FORMAT,
    TYPES,
    Activation,
    AttentionStep,
    Buffer,
    EmbeddingStep,
    LayerNormStep,
    LinearStep,
    PointwiseStep,
    PoolStep,
    QuantizeStep,
    RmsNormStep,
    RotaryStep,
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
class LinearOp(LinearStep):
    """activation(W x + bias + residual): a block computes `rows` x `tokens`, with `inputs` at a time in shared memory."""

    name = "hpcc_gpu.linear"
    KERNEL: ClassVar = KernelAttr
    ACTIVATION: ClassVar = ActivationAttr
    kernel = prop_def(KernelAttr)
    rows = prop_def(IntegerAttr)
    tokens = prop_def(IntegerAttr)
    inputs = prop_def(IntegerAttr)
    stages = prop_def(IntegerAttr)
    activation = prop_def(ActivationAttr)
    assembly_format = FORMAT.format(sizes="`tile` $rows `x` $tokens `inputs` $inputs `stages` $stages") + TYPES

    def verify_(self) -> None:
        super().verify_()
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
