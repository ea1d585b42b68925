"""The transformer operations that `fuse` makes, attention apart."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    FloatAttr,
    IntegerAttr,
    StringAttr,
    TensorType,
    f32,
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
    var_operand_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from compiler.dialects.nn.types import (
    AnyTensor,
    broadcast_shape,
    expect_shape,
    sequence_shape,
    shape_of,
)


@irdl_op_definition
class EmbeddingOp(IRDLOperation):
    """Sum of table rows, in operand order: tables[0][ids[0]] + tables[1][ids[1]] + ...; ids are [b, s] (or [1, s])."""

    name = "hpcc_nn.embedding"
    ids = var_operand_def(AnyTensor)
    tables = var_operand_def(AnyTensor)
    result = result_def(AnyTensor)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(Pure())
    assembly_format = "$ids `of` $tables attr-dict `:` type($ids) `of` type($tables) `->` type($result)"

    def __init__(self, ids: Sequence[SSAValue], tables: Sequence[SSAValue], type: TensorType) -> None:
        super().__init__(operands=[list(ids), list(tables)], result_types=[type])

    def verify_(self) -> None:
        if len(self.ids) != len(self.tables) or not self.ids:
            raise VerifyException("an embedding takes one ids tensor per table")
        widths = {shape_of(table)[-1] for table in self.tables if len(shape_of(table)) == 2}
        if len(widths) != 1 or any(len(shape_of(table)) != 2 for table in self.tables):
            raise VerifyException("embedding tables are matrices of one width")
        expect_shape(self, self.result, (*broadcast_shape(*map(shape_of, self.ids)), widths.pop()))


def verify_linear(op: IRDLOperation, x: SSAValue, weight: SSAValue, bias: SSAValue | None) -> None:
    """x [.., ins] by a weight out x in, with a bias [outs], to the operation's one result."""
    sizes, w = shape_of(x), shape_of(weight)
    if len(w) != 2 or not sizes or sizes[-1] != w[1]:
        raise VerifyException(f"a linear of weight {w} (out x in) does not take {sizes}")
    expect_shape(op, op.results[0], (*sizes[:-1], w[0]))
    if bias is not None:
        expect_shape(op, bias, (w[0],))


@irdl_op_definition
class LinearOp(IRDLOperation):
    """y = x W^T + b with W out x in. `role` is the layer's path found from structure, as in layer.3.ffn.down."""

    name = "hpcc_nn.linear"
    x = operand_def(AnyTensor)
    weight = operand_def(AnyTensor)
    bias = opt_operand_def(AnyTensor)
    role = prop_def(StringAttr)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = (
        "$role $x `,` $weight (`bias` $bias^)? attr-dict"
        " `:` type($x) `,` type($weight) (`,` type($bias)^)? `->` type($result)"
    )

    def __init__(self, role: str, x: SSAValue, weight: SSAValue, bias: SSAValue | None, type: TensorType) -> None:
        super().__init__(operands=[x, weight, bias], properties={"role": StringAttr(role)}, result_types=[type])

    def verify_(self) -> None:
        verify_linear(self, self.x, self.weight, self.bias)


@irdl_op_definition
class LayerNormOp(IRDLOperation):
    """Layer normalisation over the last axis."""

    name = "hpcc_nn.layer_norm"
    x = operand_def(AnyTensor)
    gamma = operand_def(AnyTensor)
    beta = operand_def(AnyTensor)
    eps = prop_def(FloatAttr)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = (
        "$x `,` $gamma `,` $beta `eps` $eps attr-dict `:` type($x) `,` type($gamma) `,` type($beta) `->` type($result)"
    )

    def __init__(self, x: SSAValue, gamma: SSAValue, beta: SSAValue, eps: float, type: TensorType) -> None:
        super().__init__(operands=[x, gamma, beta], properties={"eps": FloatAttr(eps, f32)}, result_types=[type])

    def verify_(self) -> None:
        expect_shape(self, self.result, shape_of(self.x))
        for value in (self.gamma, self.beta):
            expect_shape(self, value, shape_of(self.x)[-1:])


class ActivationKind(StrEnum):
    GELU = "gelu"
    TANH = "tanh"
    RELU = "relu"
    GELU_TANH = "gelu_tanh"
    QUICK_GELU = "quick_gelu"
    SILU = "silu"


@irdl_attr_definition
class ActivationKindAttr(EnumAttribute[ActivationKind], SpacedOpaqueSyntaxAttribute):
    name = "hpcc_nn.activation_kind"


@irdl_op_definition
class ActivationOp(IRDLOperation):
    """An elementwise activation: GELU (by erf), tanh, ReLU, GELU by tanh, x sigmoid(1.702 x), x sigmoid(x)."""

    name = "hpcc_nn.activation"
    kind = prop_def(ActivationKindAttr)
    x = operand_def(AnyTensor)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$kind $x attr-dict `:` type($x) `->` type($result)"

    def __init__(self, kind: ActivationKind, x: SSAValue, type: TensorType) -> None:
        super().__init__(operands=[x], properties={"kind": ActivationKindAttr(kind)}, result_types=[type])

    def verify_(self) -> None:
        expect_shape(self, self.result, shape_of(self.x))


@irdl_op_definition
class MeanPoolOp(IRDLOperation):
    """sum_t x[b, t] m[b, t] / max(sum_t m[b, t], minimum): [b, s, d] and a 0/1 mask [b, s] to [b, d]."""

    name = "hpcc_nn.mean_pool"
    x = operand_def(AnyTensor)
    mask = operand_def(AnyTensor)
    minimum = prop_def(FloatAttr)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$x `,` $mask `minimum` $minimum attr-dict `:` type($x) `,` type($mask) `->` type($result)"

    def __init__(self, x: SSAValue, mask: SSAValue, minimum: float, type: TensorType) -> None:
        super().__init__(operands=[x, mask], properties={"minimum": FloatAttr(minimum, f32)}, result_types=[type])

    def verify_(self) -> None:
        b, s, d = sequence_shape(self, self.x)
        expect_shape(self, self.mask, (b, s))
        expect_shape(self, self.result, (b, d))


@irdl_op_definition
class TakeTokenOp(IRDLOperation):
    """x[:, index, :] of [b, s, d]: the token a pooler or a classifier reads."""

    name = "hpcc_nn.take_token"
    x = operand_def(AnyTensor)
    index = prop_def(IntegerAttr)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$x `,` $index attr-dict `:` type($x) `->` type($result)"

    def __init__(self, x: SSAValue, index: int, type: TensorType) -> None:
        super().__init__(operands=[x], properties={"index": IntegerAttr(index, 64)}, result_types=[type])

    def verify_(self) -> None:
        b, s, d = sequence_shape(self, self.x)
        if not 0 <= self.index.value.data < s:
            raise VerifyException(f"token {self.index.value.data} is outside a sequence of {s}")
        expect_shape(self, self.result, (b, d))
