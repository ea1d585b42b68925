"""What decoder blocks have besides: RMS norms, of whole tokens or of heads, and rotary embeddings."""

from __future__ import annotations

from xdsl.dialects.builtin import FloatAttr, IntegerAttr, TensorType, UnitAttr, f32
from xdsl.ir import SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from compiler.dialects.nn.types import AnyTensor, F32Tensor, expect_shape, sequence_shape, shape_of


@irdl_op_definition
class RmsNormOp(IRDLOperation):
    """x / sqrt(mean x^2 + eps) * gamma over groups of len(gamma) features: the whole last axis, or every head of it."""

    name = "hpcc_nn.rms_norm"
    x = operand_def(AnyTensor)
    gamma = operand_def(AnyTensor)
    eps = prop_def(FloatAttr)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$x `,` $gamma `eps` $eps attr-dict `:` type($x) `,` type($gamma) `->` type($result)"

    def __init__(self, x: SSAValue, gamma: SSAValue, eps: float, type: TensorType) -> None:
        super().__init__(operands=[x, gamma], properties={"eps": FloatAttr(eps, f32)}, result_types=[type])

    @property
    def group(self) -> int:
        """Features normalised together."""
        return shape_of(self.gamma)[0]

    @property
    def is_whole(self) -> bool:
        """Whether it normalises the whole last axis, not heads."""
        return self.group == shape_of(self.x)[-1]

    def verify_(self) -> None:
        expect_shape(self, self.result, shape_of(self.x))
        if len(shape_of(self.gamma)) != 1 or not shape_of(self.x) or shape_of(self.x)[-1] % self.group:
            raise VerifyException(f"{shape_of(self.x)} does not split into groups of {shape_of(self.gamma)}")


@irdl_op_definition
class RotaryOp(IRDLOperation):
    """Rotary embedding of [b, s, heads * head_size]: the first n features of every head turn, by the token's angles.

    `table` [s, n] holds n / 2 cosines, then n / 2 sines. A pair are the features i and i + n / 2 of a head, or, with
    `interleaved`, 2 i and 2 i + 1; (a, b) becomes (a c - b s, b c + a s).
    """

    name = "hpcc_nn.rotary"
    x = operand_def(AnyTensor)
    table = operand_def(F32Tensor)
    head_size = prop_def(IntegerAttr)
    interleaved = opt_prop_def(UnitAttr)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = (
        "$x `by` $table (`interleaved` $interleaved^)? `head_size` $head_size attr-dict"
        " `:` type($x) `by` type($table) `->` type($result)"
    )

    def __init__(self, x: SSAValue, table: SSAValue, head_size: int, *, interleaved: bool, type: TensorType) -> None:
        properties = {"head_size": IntegerAttr(head_size, 64), "interleaved": UnitAttr() if interleaved else None}
        super().__init__(operands=[x, table], properties=properties, result_types=[type])

    @property
    def turned(self) -> int:
        """Features of a head that the table rotates."""
        return shape_of(self.table)[1]

    def verify_(self) -> None:
        _, tokens, features = sequence_shape(self, self.x)
        expect_shape(self, self.result, shape_of(self.x))
        size = self.head_size.value.data
        if size < 1 or features % size:
            raise VerifyException(f"{features} features do not split into heads of {size}")
        table = shape_of(self.table)
        if len(table) != 2 or table[0] != tokens or table[1] % 2 or not 0 < table[1] <= size:
            raise VerifyException(f"a table of {table} does not turn {tokens} tokens of heads of {size}")
