"""The integer operations that `quantize` makes, attention apart."""

from __future__ import annotations

from xdsl.dialects.builtin import (
    BFloat16Type,
    StringAttr,
    TensorType,
)
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import SpacedOpaqueSyntaxAttribute, SSAValue
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

from compiler.dialects.nn.transformer import verify_linear
from compiler.dialects.nn.types import (
    AnyTensor,
    F32Tensor,
    expect_shape,
    shape_of,
)


class Granularity(StrEnum):
    TOKEN = "token"
    TOKEN_HEAD = "token_head"
    SEQUENCE_HEAD = "sequence_head"


@irdl_attr_definition
class GranularityAttr(EnumAttribute[Granularity], SpacedOpaqueSyntaxAttribute):
    name = "hpcc_nn.granularity"


@irdl_op_definition
class QuantizeOp(IRDLOperation):
    """bf16 to int8 codes and fp32 scales: one scale per token [..., 1], per token and head [..., heads], or per
    sequence and head [b, 1, heads] over the unmasked tokens (for V). `smooth` [columns] multiplies the values of a token
    first. See docs/NUMERICS.md."""

    name = "hpcc_nn.quantize"
    granularity = prop_def(GranularityAttr)
    x = operand_def(TensorType.constr(BFloat16Type()))
    mask = opt_operand_def(AnyTensor)
    smooth = opt_operand_def(F32Tensor)
    codes = result_def(AnyTensor)
    scale = result_def(F32Tensor)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(Pure())
    assembly_format = (
        "$granularity $x (`mask` $mask^)? (`smooth` $smooth^)? attr-dict `:` type($x) (`,` type($mask)^)?"
        " (`smooth` type($smooth)^)? `->` type($codes) `,` type($scale)"
    )

    def __init__(
        self,
        granularity: Granularity,
        x: SSAValue,
        mask: SSAValue | None,
        smooth: SSAValue | None,
        codes: TensorType,
        scale: TensorType,
    ) -> None:
        super().__init__(
            operands=[x, mask, smooth],
            properties={"granularity": GranularityAttr(granularity)},
            result_types=[codes, scale],
        )

    @property
    def groups(self) -> int:
        return shape_of(self.scale)[-1]

    def verify_(self) -> None:
        x, scale = shape_of(self.x), shape_of(self.scale)
        if not x or not scale:
            raise VerifyException("a scale has a last axis of groups")
        expect_shape(self, self.codes, x)
        expected = (x[0], 1, self.groups) if self.granularity.data is Granularity.SEQUENCE_HEAD else (*x[:-1], self.groups)
        expect_shape(self, self.scale, expected)
        if scale[-1] < 1 or x[-1] % scale[-1]:
            raise VerifyException(f"{x[-1]} features do not split into {scale[-1]} groups")
        if self.granularity.data is Granularity.TOKEN and self.groups != 1:
            raise VerifyException("one scale per token means one group")
        if self.smooth is not None:
            expect_shape(self, self.smooth, (x[-1],))
            if self.granularity.data is not Granularity.TOKEN:
                raise VerifyException("only whole tokens are smoothed")


@irdl_op_definition
class QLinearOp(IRDLOperation):
    """(f32(x W^T) * (sx * sw) + bias + residual) * gate: int8 codes in, fp32 out; W out x in of int8, one scale per output;
    residual and gate in bf16."""

    name = "hpcc_nn.qlinear"
    x = operand_def(AnyTensor)
    x_scale = operand_def(F32Tensor)
    weight = operand_def(AnyTensor)
    weight_scale = operand_def(F32Tensor)
    bias = opt_operand_def(F32Tensor)
    residual = opt_operand_def(AnyTensor)
    gate = opt_operand_def(AnyTensor)
    role = prop_def(StringAttr)
    result = result_def(F32Tensor)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(Pure())
    assembly_format = (
        "$role $x `,` $x_scale `,` $weight `,` $weight_scale (`bias` $bias^)? (`residual` $residual^)?"
        " (`gate` $gate^)? attr-dict"
        " `:` type($x) `,` type($x_scale) `,` type($weight) `,` type($weight_scale)"
        " (`bias` type($bias)^)? (`residual` type($residual)^)? (`gate` type($gate)^)? `->` type($result)"
    )

    def __init__(
        self,
        role: str,
        x: SSAValue,
        x_scale: SSAValue,
        weight: SSAValue,
        weight_scale: SSAValue,
        bias: SSAValue | None,
        residual: SSAValue | None,
        type: TensorType,
        *,
        gate: SSAValue | None = None,
    ) -> None:
        super().__init__(
            operands=[x, x_scale, weight, weight_scale, bias, residual, gate],
            properties={"role": StringAttr(role)},
            result_types=[type],
        )

    def verify_(self) -> None:
        verify_linear(self, self.x, self.weight, self.bias)
        expect_shape(self, self.x_scale, (*shape_of(self.x)[:-1], 1))
        expect_shape(self, self.weight_scale, shape_of(self.weight)[:1])
        for addend in (self.residual, self.gate):
            if addend is not None:
                expect_shape(self, addend, shape_of(self.result))
