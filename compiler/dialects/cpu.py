"""The `hpcc_cpu` dialect: a transformer as steps over buffers, one step a parallel loop of the generated C.

A buffer holds `features` values of each token (or of each sample, after pooling) at a place in the activation memory of
its kind; how it is cut into tiles is the C library's business (compiler/backends/cpu/kernels/layout.c). Weights stay
`hpcc_nn.weight`, with their patterns; a linear says with which kernel and in which blocks its weight is multiplied.
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
    CODES,
    FORMAT,
    SAMPLES,
    TOKENS,
    TYPES,
    WINDOWS,
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
    buffer_of,
    features_of,
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
    TILES = "tiles"

    @property
    def in_bytes(self) -> bool:
        return self in (Kernel.BYTES, Kernel.PICKS, Kernel.TILES)


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
class LinearOp(LinearStep):
    """activation(W x + bias + residual); `block` inputs at a time."""

    name = "hpcc_cpu.linear"
    KERNEL: ClassVar = KernelAttr
    ACTIVATION: ClassVar = ActivationAttr
    kernel = prop_def(KernelAttr)
    block = prop_def(IntegerAttr)
    activation = prop_def(ActivationAttr)
    assembly_format = FORMAT.format(sizes="`block` $block") + TYPES

    def verify_(self) -> None:
        wanted = {Kernel.BYTES: CODES, Kernel.TILES: CODES, Kernel.PICKS: WINDOWS}.get(self.kernel.data)
        if wanted is not None and buffer_of(self.x).per.data != wanted:
            raise VerifyException("the kernels of bytes and tiles read codes, that of picks codes in windows")
        if wanted is None and buffer_of(self.x).per.data in (CODES, WINDOWS):
            raise VerifyException("only the kernels of bytes, picks and tiles read codes")
        super().verify_()


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
