"""Weights and constants: the operations whose results are known from the file alone."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    IntegerType,
    StringAttr,
    TensorType,
    f32,
)
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
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import ConstantLike, Pure
from xdsl.utils.exceptions import VerifyException

from compiler.dialects.nn.types import (
    AnyTensor,
    F32Tensor,
    broadcast_shape,
    expect_shape,
    shape_of,
)


@irdl_op_definition
class WeightOp(IRDLOperation):
    """A tensor of the WeightStore. `stored = "io"` says that the file holds the transpose of this 2-d type."""

    name = "hpcc_nn.weight"
    key = prop_def(StringAttr)
    digest = prop_def(StringAttr)
    stored = opt_prop_def(StringAttr)
    result = result_def(AnyTensor)
    traits = traits_def(Pure(), ConstantLike())
    assembly_format = "$key `digest` $digest (`stored` $stored^)? attr-dict `:` type($result)"

    def __init__(self, key: str, digest: str, type: TensorType, *, stored: str | None = None) -> None:
        super().__init__(
            properties={
                "key": StringAttr(key),
                "digest": StringAttr(digest),
                "stored": None if stored is None else StringAttr(stored),
            },
            result_types=[type],
        )

    @property
    def transposed(self) -> bool:
        return self.stored is not None and self.stored.data == "io"

    def verify_(self) -> None:
        if self.stored is not None:
            if self.stored.data not in ("io", "oi"):
                raise VerifyException(f'stored layout {self.stored.data!r} is neither "oi" nor "io"')
            if len(shape_of(self.result)) != 2:
                raise VerifyException("only a matrix has a stored layout")


@irdl_op_definition
class DequantizeOp(IRDLOperation):
    """A weight that its file holds in integers: f32(codes) * scale, the scale broadcast to the codes.

    A linear's codes are out x in, as its fp32 weight would be, and its scale is [out, 1] or [1, 1] where the accelerator
    can use the codes as they are. A sparsity encoding stands on both types.
    """

    name = "hpcc_nn.dequantize"
    codes = operand_def(AnyTensor)
    scale = operand_def(F32Tensor)
    result = result_def(F32Tensor)
    traits = traits_def(Pure())
    assembly_format = "$codes `,` $scale attr-dict `:` type($codes) `,` type($scale) `->` type($result)"

    def __init__(self, codes: SSAValue, scale: SSAValue) -> None:
        assert isinstance(codes.type, TensorType)
        type = TensorType(f32, codes.type.get_shape(), codes.type.encoding)
        super().__init__(operands=[codes, scale], result_types=[type])

    def verify_(self) -> None:
        assert isinstance(self.codes.type, TensorType)
        assert isinstance(self.result.type, TensorType)
        if not isinstance(self.codes.type.element_type, IntegerType):
            raise VerifyException("codes are integers")
        expect_shape(self, self.result, broadcast_shape(shape_of(self.codes), shape_of(self.scale)))
        expect_shape(self, self.codes, shape_of(self.result))
        if self.codes.type.encoding != self.result.type.encoding:
            raise VerifyException("the codes' encoding is not that of the result")


def stored_weight(value: SSAValue) -> WeightOp | None:
    """The stored tensor behind a value: the weight itself, or the codes of a dequantised one."""
    owner = value.owner.codes.owner if isinstance(value.owner, DequantizeOp) else value.owner
    return owner if isinstance(owner, WeightOp) else None


@irdl_op_definition
class ConstantOp(IRDLOperation):
    """A small constant written in the text: scalars, epsilons, axes. Larger data belongs into the WeightStore."""

    LIMIT: ClassVar[int] = 16
    name = "hpcc_nn.constant"
    value = prop_def(DenseIntOrFPElementsAttr)
    result = result_def(AnyTensor)
    traits = traits_def(Pure(), ConstantLike())

    @classmethod
    def parse(cls, parser: Parser) -> ConstantOp:
        value = parser.parse_attribute()
        if not isinstance(value, DenseIntOrFPElementsAttr):
            parser.raise_error("expected dense<...> : tensor<...>")
        return ConstantOp(value)

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_attribute(self.value)

    def __init__(self, value: DenseIntOrFPElementsAttr) -> None:
        super().__init__(properties={"value": value}, result_types=[value.type])

    def verify_(self) -> None:
        if self.value.type != self.result.type:
            raise VerifyException("the constant's type is not its result type")
        count = 1
        for size in shape_of(self.result):
            count *= size
        if count > self.LIMIT:
            raise VerifyException(f"a constant of {count} elements (over {self.LIMIT}) belongs into the weight store")


STORED = (WeightOp, ConstantOp, DequantizeOp)
"""The operations whose results are known from the file alone."""
