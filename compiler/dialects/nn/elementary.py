"""The elementary operations: ONNX meaning, numpy broadcasting, static shapes."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    DenseArrayBase,
    FloatAttr,
    IntegerAttr,
    StringAttr,
    TensorType,
    f32,
)
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import Attribute, SpacedOpaqueSyntaxAttribute, SSAValue
from xdsl.irdl import (
    AnyAttr,
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from compiler.dialects.nn.types import (
    AnyTensor,
    broadcast_shape,
    expect_shape,
    int_array,
    int_values,
    shape_of,
)


class UnaryKind(StrEnum):
    NEG = "neg"
    ABS = "abs"
    SQRT = "sqrt"
    RECIPROCAL = "reciprocal"
    EXP = "exp"
    LOG = "log"
    COS = "cos"
    SIN = "sin"
    ERF = "erf"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    RELU = "relu"
    NOT = "not"
    ISNAN = "isnan"


class BinaryKind(StrEnum):
    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    POW = "pow"
    MIN = "min"
    MAX = "max"
    EQUAL = "equal"
    LESS = "less"
    LESS_EQUAL = "less_equal"
    GREATER = "greater"
    GREATER_EQUAL = "greater_equal"
    AND = "and"
    OR = "or"


class ReduceKind(StrEnum):
    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    MIN = "min"


@irdl_attr_definition
class UnaryKindAttr(EnumAttribute[UnaryKind], SpacedOpaqueSyntaxAttribute):
    name = "hpcc_nn.unary_kind"


@irdl_attr_definition
class BinaryKindAttr(EnumAttribute[BinaryKind], SpacedOpaqueSyntaxAttribute):
    name = "hpcc_nn.binary_kind"


@irdl_attr_definition
class ReduceKindAttr(EnumAttribute[ReduceKind], SpacedOpaqueSyntaxAttribute):
    name = "hpcc_nn.reduce_kind"


@irdl_op_definition
class UnaryOp(IRDLOperation):
    name = "hpcc_nn.unary"
    kind = prop_def(UnaryKindAttr)
    x = operand_def(AnyTensor)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$kind $x attr-dict `:` type($x) `->` type($result)"

    def __init__(self, kind: UnaryKind, x: SSAValue, type: TensorType) -> None:
        super().__init__(operands=[x], properties={"kind": UnaryKindAttr(kind)}, result_types=[type])

    def verify_(self) -> None:
        expect_shape(self, self.result, shape_of(self.x))


@irdl_op_definition
class BinaryOp(IRDLOperation):
    name = "hpcc_nn.binary"
    kind = prop_def(BinaryKindAttr)
    lhs = operand_def(AnyTensor)
    rhs = operand_def(AnyTensor)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$kind $lhs `,` $rhs attr-dict `:` type($lhs) `,` type($rhs) `->` type($result)"

    def __init__(self, kind: BinaryKind, lhs: SSAValue, rhs: SSAValue, type: TensorType) -> None:
        super().__init__(operands=[lhs, rhs], properties={"kind": BinaryKindAttr(kind)}, result_types=[type])

    def verify_(self) -> None:
        expect_shape(self, self.result, broadcast_shape(shape_of(self.lhs), shape_of(self.rhs)))


@irdl_op_definition
class WhereOp(IRDLOperation):
    name = "hpcc_nn.where"
    condition = operand_def(AnyTensor)
    lhs = operand_def(AnyTensor)
    rhs = operand_def(AnyTensor)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = (
        "$condition `,` $lhs `,` $rhs attr-dict `:` type($condition) `,` type($lhs) `,` type($rhs) `->` type($result)"
    )

    def __init__(self, condition: SSAValue, lhs: SSAValue, rhs: SSAValue, type: TensorType) -> None:
        super().__init__(operands=[condition, lhs, rhs], result_types=[type])

    def verify_(self) -> None:
        shapes = shape_of(self.condition), shape_of(self.lhs), shape_of(self.rhs)
        expect_shape(self, self.result, broadcast_shape(*shapes))


@irdl_op_definition
class CastOp(IRDLOperation):
    """Change of element type. f32 -> bf16 rounds to nearest even."""

    name = "hpcc_nn.cast"
    x = operand_def(AnyTensor)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$x attr-dict `:` type($x) `->` type($result)"

    def __init__(self, x: SSAValue, type: TensorType) -> None:
        super().__init__(operands=[x], result_types=[type])

    def verify_(self) -> None:
        expect_shape(self, self.result, shape_of(self.x))


@irdl_op_definition
class MatMulOp(IRDLOperation):
    """ONNX MatMul: numpy.matmul with broadcast batch dimensions."""

    name = "hpcc_nn.matmul"
    lhs = operand_def(AnyTensor)
    rhs = operand_def(AnyTensor)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$lhs `,` $rhs attr-dict `:` type($lhs) `,` type($rhs) `->` type($result)"

    def __init__(self, lhs: SSAValue, rhs: SSAValue, type: TensorType) -> None:
        super().__init__(operands=[lhs, rhs], result_types=[type])

    def verify_(self) -> None:
        a, b = shape_of(self.lhs), shape_of(self.rhs)
        if not a or not b or a[-1] != b[max(len(b) - 2, 0)]:
            raise VerifyException(f"inner dimensions of {a} and {b} differ")
        batch = broadcast_shape(a[:-2], b[:-2])
        expect_shape(self, self.result, (*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else ())))


@irdl_op_definition
class GemmOp(IRDLOperation):
    """ONNX Gemm: alpha * op(a) op(b) + beta * c."""

    name = "hpcc_nn.gemm"
    a = operand_def(AnyTensor)
    b = operand_def(AnyTensor)
    c = opt_operand_def(AnyTensor)
    alpha = prop_def(FloatAttr)
    beta = prop_def(FloatAttr)
    trans_a = prop_def(IntegerAttr)
    trans_b = prop_def(IntegerAttr)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = (
        "$a `,` $b (`,` $c^)? `alpha` $alpha `beta` $beta `trans` $trans_a `,` $trans_b attr-dict"
        " `:` type($a) `,` type($b) (`,` type($c)^)? `->` type($result)"
    )

    def __init__(
        self,
        a: SSAValue,
        b: SSAValue,
        c: SSAValue | None,
        type: TensorType,
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
        trans_a: bool = False,
        trans_b: bool = False,
    ) -> None:
        super().__init__(
            operands=[a, b, c],
            properties={
                "alpha": FloatAttr(alpha, f32),
                "beta": FloatAttr(beta, f32),
                "trans_a": IntegerAttr(int(trans_a), 64),
                "trans_b": IntegerAttr(int(trans_b), 64),
            },
            result_types=[type],
        )

    def verify_(self) -> None:
        a, b = shape_of(self.a), shape_of(self.b)
        if len(a) != 2 or len(b) != 2:
            raise VerifyException("gemm takes matrices")
        m, k = a[::-1] if self.trans_a.value.data else a
        k2, n = b[::-1] if self.trans_b.value.data else b
        if k != k2:
            raise VerifyException(f"inner dimensions {k} and {k2} differ")
        expect_shape(self, self.result, (m, n))


@irdl_op_definition
class TransposeOp(IRDLOperation):
    name = "hpcc_nn.transpose"
    x = operand_def(AnyTensor)
    perm = prop_def(DenseArrayBase)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$x qualified($perm) attr-dict `:` type($x) `->` type($result)"

    def __init__(self, x: SSAValue, perm: Sequence[int], type: TensorType) -> None:
        super().__init__(operands=[x], properties={"perm": int_array(perm)}, result_types=[type])

    @property
    def permutation(self) -> tuple[int, ...]:
        return int_values(self.perm)

    def verify_(self) -> None:
        if sorted(self.permutation) != list(range(len(shape_of(self.x)))):
            raise VerifyException(f"{self.permutation} is not a permutation of the axes")
        expect_shape(self, self.result, [shape_of(self.x)[axis] for axis in self.permutation])


@irdl_op_definition
class ReshapeOp(IRDLOperation):
    """Reshape, Squeeze, Unsqueeze and Flatten alike: same elements in row-major order, another static shape."""

    name = "hpcc_nn.reshape"
    x = operand_def(AnyTensor)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$x attr-dict `:` type($x) `->` type($result)"

    def __init__(self, x: SSAValue, type: TensorType) -> None:
        super().__init__(operands=[x], result_types=[type])

    def verify_(self) -> None:
        counts = [1, 1]
        for index, value in enumerate((self.x, self.result)):
            for size in shape_of(value):
                counts[index] *= size
        if counts[0] != counts[1]:
            raise VerifyException(f"cannot reshape {counts[0]} elements into {counts[1]}")


@irdl_op_definition
class ExpandOp(IRDLOperation):
    """Broadcast to the result's shape."""

    name = "hpcc_nn.expand"
    x = operand_def(AnyTensor)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$x attr-dict `:` type($x) `->` type($result)"

    def __init__(self, x: SSAValue, type: TensorType) -> None:
        super().__init__(operands=[x], result_types=[type])

    def verify_(self) -> None:
        expect_shape(self, self.result, broadcast_shape(shape_of(self.x), shape_of(self.result)))


@irdl_op_definition
class GatherOp(IRDLOperation):
    """ONNX Gather along `axis`."""

    name = "hpcc_nn.gather"
    x = operand_def(AnyTensor)
    indices = operand_def(AnyTensor)
    axis = prop_def(IntegerAttr)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$x `,` $indices `axis` $axis attr-dict `:` type($x) `,` type($indices) `->` type($result)"

    def __init__(self, x: SSAValue, indices: SSAValue, axis: int, type: TensorType) -> None:
        super().__init__(operands=[x, indices], properties={"axis": IntegerAttr(axis, 64)}, result_types=[type])

    def verify_(self) -> None:
        axis, shape = self.axis.value.data, shape_of(self.x)
        if not 0 <= axis < len(shape):
            raise VerifyException(f"axis {axis} is outside the shape {shape}")
        expect_shape(self, self.result, (*shape[:axis], *shape_of(self.indices), *shape[axis + 1 :]))


@irdl_op_definition
class SliceOp(IRDLOperation):
    """x[starts:starts + step * size:step] on every axis; the sizes are the result's shape."""

    name = "hpcc_nn.slice"
    x = operand_def(AnyTensor)
    starts = prop_def(DenseArrayBase)
    steps = prop_def(DenseArrayBase)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$x `starts` qualified($starts) `steps` qualified($steps) attr-dict `:` type($x) `->` type($result)"

    def __init__(self, x: SSAValue, starts: Sequence[int], steps: Sequence[int], type: TensorType) -> None:
        super().__init__(
            operands=[x], properties={"starts": int_array(starts), "steps": int_array(steps)}, result_types=[type]
        )

    def verify_(self) -> None:
        starts, steps = int_values(self.starts), int_values(self.steps)
        source, sizes = shape_of(self.x), shape_of(self.result)
        if not len(starts) == len(steps) == len(source) == len(sizes):
            raise VerifyException("a slice names every axis")
        for start, step, total, size in zip(starts, steps, source, sizes, strict=True):
            if step == 0 or not (0 <= start < total and 0 <= start + (size - 1) * step < total):
                raise VerifyException(f"slice from {start} of {size} steps of {step} leaves an axis of {total}")


@irdl_op_definition
class ConcatOp(IRDLOperation):
    name = "hpcc_nn.concat"
    inputs = var_operand_def(AnyTensor)
    axis = prop_def(IntegerAttr)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$inputs `axis` $axis attr-dict `:` type($inputs) `->` type($result)"

    def __init__(self, inputs: Sequence[SSAValue], axis: int, type: TensorType) -> None:
        super().__init__(operands=[list(inputs)], properties={"axis": IntegerAttr(axis, 64)}, result_types=[type])

    def verify_(self) -> None:
        if not self.inputs:
            raise VerifyException("concat needs at least one input")
        axis = self.axis.value.data
        shapes = [list(shape_of(value)) for value in self.inputs]
        if not 0 <= axis < len(shapes[0]):
            raise VerifyException(f"axis {axis} is outside the shape {tuple(shapes[0])}")
        first = shapes[0]
        others = [(len(s), s[:axis], s[axis + 1 :]) for s in shapes]
        if any(other != (len(first), first[:axis], first[axis + 1 :]) for other in others):
            raise VerifyException("concatenated shapes differ outside the axis")
        total = sum(shape[axis] for shape in shapes)
        expect_shape(self, self.result, (*shapes[0][:axis], total, *shapes[0][axis + 1 :]))


@irdl_op_definition
class ReduceOp(IRDLOperation):
    """Reduction over `axes`; kept dimensions are decided by the result's shape."""

    name = "hpcc_nn.reduce"
    kind = prop_def(ReduceKindAttr)
    x = operand_def(AnyTensor)
    axes = prop_def(DenseArrayBase)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$kind $x `axes` qualified($axes) attr-dict `:` type($x) `->` type($result)"

    def __init__(self, kind: ReduceKind, x: SSAValue, axes: Sequence[int], type: TensorType) -> None:
        super().__init__(
            operands=[x], properties={"kind": ReduceKindAttr(kind), "axes": int_array(axes)}, result_types=[type]
        )

    @property
    def axis_tuple(self) -> tuple[int, ...]:
        return int_values(self.axes)

    def verify_(self) -> None:
        shape, axes = shape_of(self.x), self.axis_tuple
        if any(not 0 <= axis < len(shape) for axis in axes):
            raise VerifyException(f"axes {axes} are outside the shape {shape}")
        kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
        dropped = tuple(size for axis, size in enumerate(shape) if axis not in axes)
        if shape_of(self.result) not in (kept, dropped):
            raise VerifyException(f"reducing {shape} over {axes} gives {kept} or {dropped}")


@irdl_op_definition
class SoftmaxOp(IRDLOperation):
    name = "hpcc_nn.softmax"
    x = operand_def(AnyTensor)
    axis = prop_def(IntegerAttr)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = "$x `axis` $axis attr-dict `:` type($x) `->` type($result)"

    def __init__(self, x: SSAValue, axis: int, type: TensorType) -> None:
        super().__init__(operands=[x], properties={"axis": IntegerAttr(axis, 64)}, result_types=[type])

    def verify_(self) -> None:
        expect_shape(self, self.result, shape_of(self.x))
        if not 0 <= self.axis.value.data < len(shape_of(self.x)):
            raise VerifyException(f"axis {self.axis.value.data} is outside the shape {shape_of(self.x)}")


@irdl_op_definition
class OpaqueOp(IRDLOperation):
    """An ONNX node with no meaning here: it runs on the host, and the preflight table says why."""

    name = "hpcc_nn.opaque"
    inputs = var_operand_def(AnyAttr())
    op_type = prop_def(StringAttr)
    reason = prop_def(StringAttr)
    outputs = var_result_def(AnyAttr())
    assembly_format = "$op_type `because` $reason `(` $inputs `)` attr-dict `:` functional-type($inputs, $outputs)"

    def __init__(self, op_type: str, reason: str, inputs: Sequence[SSAValue], types: Sequence[Attribute]) -> None:
        super().__init__(
            operands=[list(inputs)],
            properties={"op_type": StringAttr(op_type), "reason": StringAttr(reason)},
            result_types=[list(types)],
        )
