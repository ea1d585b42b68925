"""Attention, in fp32 and in integers."""

from __future__ import annotations

from xdsl.dialects.builtin import (
    FloatAttr,
    IntegerAttr,
    StringAttr,
    TensorType,
    UnitAttr,
    f32,
)
from xdsl.ir import SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from compiler.dialects.nn.types import (
    AnyTensor,
    F32Tensor,
    expect_shape,
    shape_of,
)


def _verify_attention(op: AttentionOp | QAttentionOp) -> None:
    q, k, v = shape_of(op.q), shape_of(op.k), shape_of(op.v)
    heads, groups = op.heads.value.data, op.groups
    if len(q) != 3 or k != v or len(k) != 3 or q[0] != k[0]:
        raise VerifyException(f"attention takes q, k, v of batch x tokens x features, not {q}, {k}, {v}")
    if heads < 1 or q[2] % heads:
        raise VerifyException(f"{q[2]} features do not split into {heads} heads")
    if groups < 1 or heads % groups or k[2] * heads != q[2] * groups:
        raise VerifyException(f"{heads} heads of {q[2]} features do not share {groups} heads of {k[2]}")
    if op.causal is not None and q[1] != k[1]:
        raise VerifyException(f"{q[1]} queries of {k[1]} keys: causal attention has as many of both")
    if op.mask is not None:
        expect_shape(op, op.mask, (k[0], k[1]))
    if op.bias is not None and bias_extents(shape_of(op.bias), (q[0], heads, q[1], k[1])) is None:
        raise VerifyException(f"a bias of {shape_of(op.bias)} does not add to scores {(q[0], heads, q[1], k[1])}")
    expect_shape(op, op.result, q)


def bias_extents(shape: tuple[int, ...], scores: tuple[int, int, int, int]) -> tuple[int, int, int, int] | None:
    """(sequences, heads, queries, keys) of a bias, each that of the scores or 1 (keys: that of the scores); None if it does
    not add to them. [sequences * heads, queries, keys] is taken as well."""
    batch, heads, _, keys = scores
    if len(shape) == 3 and shape[0] not in (1, heads):
        if shape[0] != batch * heads:
            return None
        shape = (batch, heads, *shape[1:])
    if not 1 <= len(shape) <= 4 or shape[-1] != keys:
        return None
    whole = (1,) * (4 - len(shape)) + shape
    if any(own not in (1, size) for own, size in zip(whole, scores, strict=True)):
        return None
    return whole[0], whole[1], whole[2], whole[3]


@irdl_op_definition
class AttentionOp(IRDLOperation):
    """softmax(scale * q k^T, masked) v per head, heads side by side in the feature axis.

    The mask is [batch, keys], nonzero = attend; the bias is fp32, is added to the scaled scores and broadcasts to them. With
    `causal` a query attends to no key behind it. Fewer heads of k and v than of q (`over`) are shared by as many neighbours.
    """

    name = "hpcc_nn.attention"
    q = operand_def(AnyTensor)
    k = operand_def(AnyTensor)
    v = operand_def(AnyTensor)
    mask = opt_operand_def(AnyTensor)
    bias = opt_operand_def(F32Tensor)
    heads = prop_def(IntegerAttr)
    kv_heads = opt_prop_def(IntegerAttr)
    scale = prop_def(FloatAttr)
    causal = opt_prop_def(UnitAttr)
    role = prop_def(StringAttr)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    assembly_format = (
        "$role $q `,` $k `,` $v (`mask` $mask^)? (`bias` $bias^)? (`causal` $causal^)?"
        " `heads` $heads (`over` $kv_heads^)? `scale` $scale attr-dict"
        " `:` type($q) `,` type($k) `,` type($v) (`,` type($mask)^)? (`plus` type($bias)^)? `->` type($result)"
    )

    def __init__(
        self,
        role: str,
        q: SSAValue,
        k: SSAValue,
        v: SSAValue,
        mask: SSAValue | None,
        *,
        heads: int,
        scale: float,
        type: TensorType,
        bias: SSAValue | None = None,
        kv_heads: int | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__(
            operands=[q, k, v, mask, bias],
            properties={
                "role": StringAttr(role),
                "heads": IntegerAttr(heads, 64),
                "kv_heads": None if kv_heads in (None, heads) else IntegerAttr(kv_heads, 64),
                "scale": FloatAttr(scale, f32),
                "causal": UnitAttr() if causal else None,
            },
            result_types=[type],
        )

    @property
    def groups(self) -> int:
        """Heads of k and v."""
        return (self.kv_heads or self.heads).value.data

    @property
    def bias_extents(self) -> tuple[int, int, int, int]:
        """Sequences, heads, queries and keys of the bias, 1 where it is the same for all."""
        assert self.bias is not None
        scores = (shape_of(self.q)[0], self.heads.value.data, shape_of(self.q)[1], shape_of(self.k)[1])
        found = bias_extents(shape_of(self.bias), scores)
        assert found is not None
        return found

    def verify_(self) -> None:
        _verify_attention(self)


@irdl_op_definition
class QAttentionOp(IRDLOperation):
    """Integer attention: scores from int8 q and k, uint8 probabilities, int8 v; fp32 out. See docs/NUMERICS.md.

    With `streaming` the probabilities are those of the streaming softmax, with that shift.
    """

    name = "hpcc_nn.qattention"
    q = operand_def(AnyTensor)
    q_scale = operand_def(F32Tensor)
    k = operand_def(AnyTensor)
    k_scale = operand_def(F32Tensor)
    v = operand_def(AnyTensor)
    v_scale = operand_def(F32Tensor)
    mask = opt_operand_def(AnyTensor)
    bias = opt_operand_def(F32Tensor)
    heads = prop_def(IntegerAttr)
    kv_heads = opt_prop_def(IntegerAttr)
    scale = prop_def(FloatAttr)
    causal = opt_prop_def(UnitAttr)
    streaming = opt_prop_def(IntegerAttr)
    role = prop_def(StringAttr)
    result = result_def(F32Tensor)
    traits = traits_def(Pure())
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    assembly_format = (
        "$role $q `,` $q_scale `,` $k `,` $k_scale `,` $v `,` $v_scale (`mask` $mask^)? (`bias` $bias^)?"
        " (`causal` $causal^)? (`streaming` $streaming^)? `heads` $heads (`over` $kv_heads^)? `scale` $scale attr-dict"
        " `:` type($q) `,` type($q_scale) `,` type($k) `,` type($k_scale)"
        " `,` type($v) `,` type($v_scale) (`,` type($mask)^)? (`plus` type($bias)^)? `->` type($result)"
    )

    def __init__(
        self,
        role: str,
        q: tuple[SSAValue, SSAValue],
        k: tuple[SSAValue, SSAValue],
        v: tuple[SSAValue, SSAValue],
        mask: SSAValue | None,
        *,
        heads: int,
        scale: float,
        type: TensorType,
        bias: SSAValue | None = None,
        kv_heads: int | None = None,
        causal: bool = False,
        streaming: int | None = None,
    ) -> None:
        super().__init__(
            operands=[*q, *k, *v, mask, bias],
            properties={
                "role": StringAttr(role),
                "heads": IntegerAttr(heads, 64),
                "kv_heads": None if kv_heads in (None, heads) else IntegerAttr(kv_heads, 64),
                "scale": FloatAttr(scale, f32),
                "causal": UnitAttr() if causal else None,
                "streaming": None if streaming is None else IntegerAttr(streaming, 64),
            },
            result_types=[type],
        )

    @property
    def groups(self) -> int:
        """Heads of k and v."""
        return (self.kv_heads or self.heads).value.data

    @property
    def bias_extents(self) -> tuple[int, int, int, int]:
        """Sequences, heads, queries and keys of the bias, 1 where it is the same for all."""
        assert self.bias is not None
        scores = (shape_of(self.q)[0], self.heads.value.data, shape_of(self.q)[1], shape_of(self.k)[1])
        found = bias_extents(shape_of(self.bias), scores)
        assert found is not None
        return found

    def verify_(self) -> None:
        _verify_attention(self)
        heads = self.heads.value.data
        expect_shape(self, self.q_scale, (*shape_of(self.q)[:2], heads))
        expect_shape(self, self.k_scale, (*shape_of(self.k)[:2], self.groups))
        expect_shape(self, self.v_scale, (shape_of(self.v)[0], 1, self.groups))
