"""Scalar code: what stands inside a linalg.generic. Numbers are signless, as upstream MLIR has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import numpy as np
from xdsl.builder import Builder
from xdsl.dialects import arith, linalg, math, tensor
from xdsl.dialects.builtin import (
    AnyFloat,
    Float16Type,
    Float32Type,
    Float64Type,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    Signedness,
    i1,
    i64,
)
from xdsl.ir import Attribute, Operation, SSAValue

from compiler.dialects import nn

LOWEST = {Float16Type: float(np.finfo(np.float16).min), Float32Type: float(np.finfo(np.float32).min)}


def signless(element: Attribute) -> Attribute:
    """The element type as upstream MLIR's arith has it: integers lose their sign."""
    return IntegerType(element.width.data) if isinstance(element, IntegerType) else element


def is_unsigned(element: Attribute) -> bool:
    """Whether values of this type widen without a sign: unsigned integers and booleans."""
    if not isinstance(element, IntegerType):
        return False
    return element.width.data == 1 or element.signedness.data is Signedness.UNSIGNED


def is_float(element: Attribute) -> bool:
    return isinstance(element, AnyFloat)


def _width(element: Attribute) -> int:
    assert isinstance(element, AnyFloat | IntegerType)
    return element.bitwidth


class Scalars:
    """Builds scalar operations at one place. Values carry their types; `unsigned` tells what the types cannot."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder

    def insert(self, op: Operation) -> SSAValue:
        return self.builder.insert(op).results[0]

    def constant(self, value: float | bool, element: Attribute) -> SSAValue:
        if is_float(element):
            assert isinstance(element, AnyFloat)
            return self.insert(arith.ConstantOp(FloatAttr(float(value), element)))
        assert isinstance(element, IntegerType | IndexType)
        return self.insert(arith.ConstantOp(IntegerAttr(int(value), element)))

    def like(self, value: float, other: SSAValue) -> SSAValue:
        """A constant of the type of `other`."""
        return self.constant(value, other.type)

    # ---- arithmetic -------------------------------------------------------------------------------------------------

    def _either(self, floats: type[Operation], integers: type[Operation], a: SSAValue, b: SSAValue) -> SSAValue:
        return self.insert((floats if is_float(a.type) else integers)(a, b))  # pyright: ignore[reportCallIssue]

    def add(self, a: SSAValue, b: SSAValue) -> SSAValue:
        return self._either(arith.AddfOp, arith.AddiOp, a, b)

    def sub(self, a: SSAValue, b: SSAValue) -> SSAValue:
        return self._either(arith.SubfOp, arith.SubiOp, a, b)

    def mul(self, a: SSAValue, b: SSAValue) -> SSAValue:
        return self._either(arith.MulfOp, arith.MuliOp, a, b)

    def div(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """ONNX Div: integers truncate towards zero."""
        return self._either(arith.DivfOp, arith.DivSIOp, a, b)

    def maximum(self, a: SSAValue, b: SSAValue, *, unsigned: bool = False) -> SSAValue:
        return self._either(arith.MaximumfOp, arith.MaxUIOp if unsigned else arith.MaxSIOp, a, b)

    def minimum(self, a: SSAValue, b: SSAValue, *, unsigned: bool = False) -> SSAValue:
        return self._either(arith.MinimumfOp, arith.MinUIOp if unsigned else arith.MinSIOp, a, b)

    def compare(self, how: str, a: SSAValue, b: SSAValue, *, unsigned: bool = False) -> SSAValue:
        """`how` is eq, lt, le, gt, ge or ne; a comparison with NaN is false but for `ne`."""
        if is_float(a.type):
            return self.insert(arith.CmpfOp(a, b, ("u" if how == "ne" else "o") + how))
        sign = "" if how in ("eq", "ne") else "u" if unsigned else "s"
        return self.insert(arith.CmpiOp(a, b, sign + how))

    def select(self, condition: SSAValue, a: SSAValue, b: SSAValue) -> SSAValue:
        return self.insert(arith.SelectOp(condition, a, b))

    def logic(self, kind: type[Operation], a: SSAValue, b: SSAValue) -> SSAValue:
        return self.insert(kind(a, b))  # pyright: ignore[reportCallIssue]

    def truth(self, a: SSAValue) -> SSAValue:
        """Whether a value is not zero."""
        return a if a.type == i1 else self.compare("ne", a, self.like(0, a))

    def unary(self, kind: type[Operation], a: SSAValue) -> SSAValue:
        return self.insert(kind(a))  # pyright: ignore[reportCallIssue]

    def exp(self, a: SSAValue) -> SSAValue:
        return self.unary(math.ExpOp, a)

    def sqrt(self, a: SSAValue) -> SSAValue:
        return self.unary(math.SqrtOp, a)

    def tanh(self, a: SSAValue) -> SSAValue:
        return self.unary(math.TanhOp, a)

    def negative(self, a: SSAValue) -> SSAValue:
        return self.insert(arith.NegfOp(a)) if is_float(a.type) else self.sub(self.like(0, a), a)

    def sigmoid(self, a: SSAValue) -> SSAValue:
        one = self.like(1, a)
        return self.div(one, self.add(one, self.exp(self.negative(a))))

    def is_nan(self, a: SSAValue) -> SSAValue:
        return self.insert(arith.CmpfOp(a, a, "uno"))

    # ---- types ------------------------------------------------------------------------------------------------------

    def cast(self, a: SSAValue, element: Attribute, *, unsigned: bool = False) -> SSAValue:
        """ONNX Cast: floats to integers truncate towards zero, anything to bool asks for zero."""
        source = a.type
        if source == element:
            return a
        if element == i1:
            return self.truth(a)
        if is_float(source) and is_float(element):
            wider = _width(element) > _width(source)
            if _width(element) == _width(source):  # f16 and bf16
                return self.cast(self.cast(a, Float32Type()), element)
            assert isinstance(element, AnyFloat)
            return self.insert(arith.ExtFOp(a, element) if wider else arith.TruncFOp(a, element))
        if is_float(element):
            assert isinstance(element, AnyFloat)
            return self.insert((arith.UIToFPOp if unsigned else arith.SIToFPOp)(a, element))
        assert isinstance(element, IntegerType)
        if is_float(source):
            return self.insert(arith.FPToSIOp(a, element))
        if _width(element) < _width(source):
            return self.insert(arith.TruncIOp(a, element))
        return self.insert((arith.ExtUIOp if unsigned else arith.ExtSIOp)(a, element))

    # ---- places -----------------------------------------------------------------------------------------------------

    def index(self, axis: int) -> SSAValue:
        """The position along an axis of the generic around this code."""
        return self.insert(linalg.ops.IndexOp(axis))

    def position(self, a: SSAValue, extent: int, *, unsigned: bool = False) -> SSAValue:
        """An ONNX index as an index: negative ones count from the end."""
        if not unsigned:
            wrapped = self.add(a, self.like(extent, a))
            a = self.select(self.compare("lt", a, self.like(0, a)), wrapped, a)
        elif a.type != i64:
            a = self.cast(a, i64, unsigned=True)
        return self.insert(arith.IndexCastOp(a, IndexType()))

    def extract(self, x: SSAValue, places: Sequence[SSAValue]) -> SSAValue:
        return self.insert(tensor.ExtractOp(x, list(places), nn.element_type_of(x)))


Code = Callable[..., SSAValue]
"""code(scalars, *elements) -> element: the inside of a linalg.generic."""


def lowest(element: Attribute) -> float:
    """What a maximum starts from."""
    if is_float(element):
        return -inf
    assert isinstance(element, IntegerType)
    return 0 if element.width.data == 1 else -(2 ** (element.width.data - 1))


def highest(element: Attribute) -> float:
    """What a minimum starts from."""
    if is_float(element):
        return inf
    assert isinstance(element, IntegerType)
    return 1 if element.width.data == 1 else 2 ** (element.width.data - 1) - 1


def least_finite(element: Attribute) -> float:
    """The most negative finite value of a float type."""
    return float(np.finfo(np.float64).min) if isinstance(element, Float64Type) else LOWEST[type(element)]
