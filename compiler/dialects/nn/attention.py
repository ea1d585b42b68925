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
    if op.mask is not None and op.mask_kind is None:
        raise VerifyException("a masked attention says its mask_kind")
    if op.mask is not None and op.mask_kind is not None:
        kind = op.mask_kind.data
        if kind == "boolean":
            expect_shape(op, op.mask, (k[0], k[1]))
        elif kind != "additive":
            raise VerifyException(f'mask_kind {kind!r} is neither "boolean" nor "additive"')
    expect_shape(op, op.result, q)


@irdl_op_definition
class AttentionOp(IRDLOperation):
    """softmax(scale * q k^T, masked) v per head, heads side by side in the feature axis.

    A boolean mask is [batch, keys], nonzero = attend; an additive mask is fp32 and broadcasts to the scores. With `causal` a
    query attends to no key behind it. Fewer heads of k and v than of q (`over`) are shared by as many neighbours each.
    """

    name = "hpcc_nn.attention"
    q = operand_def(AnyTensor)
    k = operand_def(AnyTensor)
    v = operand_def(AnyTensor)
    mask = opt_operand_def(AnyTensor)
    heads = prop_def(IntegerAttr)
    kv_heads = opt_prop_def(IntegerAttr)
    scale = prop_def(FloatAttr)
    mask_kind = opt_prop_def(StringAttr)
    causal = opt_prop_def(UnitAttr)
    role = prop_def(StringAttr)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = (
        "$role $q `,` $k `,` $v (`mask` $mask^)? (`kind` $mask_kind^)? (`causal` $causal^)?"
        " `heads` $heads (`over` $kv_heads^)? `scale` $scale attr-dict"
        " `:` type($q) `,` type($k) `,` type($v) (`,` type($mask)^)? `->` type($result)"
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
        mask_kind: str | None,
        type: TensorType,
        kv_heads: int | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__(
            operands=[q, k, v, mask],
            properties={
                "role": StringAttr(role),
                "heads": IntegerAttr(heads, 64),
                "kv_heads": None if kv_heads in (None, heads) else IntegerAttr(kv_heads, 64),
                "scale": FloatAttr(scale, f32),
                "mask_kind": None if mask_kind is None else StringAttr(mask_kind),
                "causal": UnitAttr() if causal else None,
            },
            result_types=[type],
        )

    @property
    def groups(self) -> int:
        """Heads of k and v."""
        return (self.kv_heads or self.heads).value.data

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
    heads = prop_def(IntegerAttr)
    kv_heads = opt_prop_def(IntegerAttr)
    scale = prop_def(FloatAttr)
    mask_kind = opt_prop_def(StringAttr)
    causal = opt_prop_def(UnitAttr)
    streaming = opt_prop_def(IntegerAttr)
    role = prop_def(StringAttr)
    result = result_def(F32Tensor)
    traits = traits_def(Pure())
    assembly_format = (
        "$role $q `,` $q_scale `,` $k `,` $k_scale `,` $v `,` $v_scale (`mask` $mask^)? (`kind` $mask_kind^)?"
        " (`causal` $causal^)? (`streaming` $streaming^)? `heads` $heads (`over` $kv_heads^)? `scale` $scale attr-dict"
        " `:` type($q) `,` type($q_scale) `,` type($k) `,` type($k_scale)"
        " `,` type($v) `,` type($v_scale) (`,` type($mask)^)? `->` type($result)"
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
        mask_kind: str | None,
        type: TensorType,
        kv_heads: int | None = None,
        causal: bool = False,
        streaming: int | None = None,
    ) -> None:
        super().__init__(
            operands=[*q, *k, *v, mask],
            properties={
                "role": StringAttr(role),
                "heads": IntegerAttr(heads, 64),
                "kv_heads": None if kv_heads in (None, heads) else IntegerAttr(kv_heads, 64),
                "scale": FloatAttr(scale, f32),
                "mask_kind": None if mask_kind is None else StringAttr(mask_kind),
                "causal": UnitAttr() if causal else None,
                "streaming": None if streaming is None else IntegerAttr(streaming, 64),
            },
            result_types=[type],
        )

    @property
    def groups(self) -> int:
        """Heads of k and v."""
        return (self.kv_heads or self.heads).value.data

    def verify_(self) -> None:
        _verify_attention(self)
        heads = self.heads.value.data
        expect_shape(self, self.q_scale, (*shape_of(self.q)[:2], heads))
        expect_shape(self, self.k_scale, (*shape_of(self.k)[:2], self.groups))
        expect_shape(self, self.v_scale, (shape_of(self.v)[0], 1, self.groups))
