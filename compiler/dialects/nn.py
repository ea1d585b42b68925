"""The `hpcc_nn` dialect: a transformer on whole tensors, from ONNX semantics down to its integer form.

Three layers share it. `import` yields the elementary ops (ONNX meaning, numpy broadcasting, static shapes); `fuse`
yields the transformer ops; `quantize` yields the integer ops. Weights are references into the WeightStore.
A linear's weight type is always the LOGICAL matrix, out x in, whatever the file stores (`stored = "io"`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from xdsl.dialects.builtin import (
    BFloat16Type,
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    Float32Type,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    StringAttr,
    TensorType,
    f32,
    i64,
)
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import Attribute, Dialect, SpacedOpaqueSyntaxAttribute, SSAValue
from xdsl.irdl import (
    AnyAttr,
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import ConstantLike, Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

AnyTensor = TensorType.constr(AnyAttr())
F32Tensor = TensorType.constr(Float32Type())


def shape_of(value: SSAValue) -> tuple[int, ...]:
    """The static shape of a tensor value."""
    assert isinstance(value.type, TensorType)
    return value.type.get_shape()


def element_type_of(value: SSAValue) -> Attribute:
    assert isinstance(value.type, TensorType)
    return value.type.element_type


def int_array(values: Sequence[int]) -> DenseArrayBase[IntegerType]:
    return DenseArrayBase.from_list(i64, list(values))


def int_values(array: DenseArrayBase[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in array.get_values())


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The numpy broadcast of static shapes; raises VerifyException where they do not fit."""
    rank = max((len(s) for s in shapes), default=0)
    result: list[int] = []
    for axis in range(rank):
        sizes = {s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0} - {1}
        if len(sizes) > 1:
            raise VerifyException(f"shapes {[tuple(s) for s in shapes]} do not broadcast")
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def _sequence_shape(op: IRDLOperation, value: SSAValue) -> tuple[int, int, int]:
    """Batch, tokens and features of a value."""
    shape = shape_of(value)
    if len(shape) != 3:
        raise VerifyException(f"'{op.name}' takes batch x tokens x features, not {shape}")
    return shape[0], shape[1], shape[2]


def _expect_shape(op: IRDLOperation, value: SSAValue, shape: Sequence[int]) -> None:
    if shape_of(value) != tuple(shape):
        raise VerifyException(f"'{op.name}' expects shape {tuple(shape)}, the type says {shape_of(value)}")


# ---- weights and constants ------------------------------------------------------------------------------------------


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
        _expect_shape(self, self.result, broadcast_shape(shape_of(self.codes), shape_of(self.scale)))
        _expect_shape(self, self.codes, shape_of(self.result))
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


# ---- elementary ops: ONNX semantics ---------------------------------------------------------------------------------


class UnaryKind(StrEnum):
    NEG = "neg"
    ABS = "abs"
    SQRT = "sqrt"
    RECIPROCAL = "reciprocal"
    EXP = "exp"
    LOG = "log"
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
        _expect_shape(self, self.result, shape_of(self.x))


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
        _expect_shape(self, self.result, broadcast_shape(shape_of(self.lhs), shape_of(self.rhs)))


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
        _expect_shape(self, self.result, broadcast_shape(*shapes))


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
        _expect_shape(self, self.result, shape_of(self.x))


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
        _expect_shape(self, self.result, (*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else ())))


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
        _expect_shape(self, self.result, (m, n))


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
        _expect_shape(self, self.result, [shape_of(self.x)[axis] for axis in self.permutation])


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
        _expect_shape(self, self.result, broadcast_shape(shape_of(self.x), shape_of(self.result)))


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
        _expect_shape(self, self.result, (*shape[:axis], *shape_of(self.indices), *shape[axis + 1 :]))


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
        _expect_shape(self, self.result, (*shapes[0][:axis], total, *shapes[0][axis + 1 :]))


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
        _expect_shape(self, self.result, shape_of(self.x))
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


# ---- transformer ops: after `fuse` ----------------------------------------------------------------------------------


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
        _expect_shape(self, self.result, (*broadcast_shape(*map(shape_of, self.ids)), widths.pop()))


def _verify_linear(op: LinearOp | QLinearOp) -> None:
    x, w = shape_of(op.x), shape_of(op.weight)
    if len(w) != 2 or not x or x[-1] != w[1]:
        raise VerifyException(f"a linear of weight {w} (out x in) does not take {x}")
    _expect_shape(op, op.result, (*x[:-1], w[0]))
    if op.bias is not None:
        _expect_shape(op, op.bias, (w[0],))


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
        _verify_linear(self)


def _verify_attention(op: AttentionOp | QAttentionOp) -> None:
    q, k, v = shape_of(op.q), shape_of(op.k), shape_of(op.v)
    heads = op.heads.value.data
    if len(q) != 3 or k != v or len(k) != 3 or q[0] != k[0] or q[2] != k[2]:
        raise VerifyException(f"attention takes q, k, v of batch x tokens x features, not {q}, {k}, {v}")
    if heads < 1 or q[2] % heads:
        raise VerifyException(f"{q[2]} features do not split into {heads} heads")
    if op.mask is not None and op.mask_kind is None:
        raise VerifyException("a masked attention says its mask_kind")
    if op.mask is not None and op.mask_kind is not None:
        kind = op.mask_kind.data
        if kind == "boolean":
            _expect_shape(op, op.mask, (k[0], k[1]))
        elif kind != "additive":
            raise VerifyException(f'mask_kind {kind!r} is neither "boolean" nor "additive"')
    _expect_shape(op, op.result, q)


@irdl_op_definition
class AttentionOp(IRDLOperation):
    """softmax(scale * q k^T, masked) v per head, heads side by side in the feature axis.

    A boolean mask is [batch, keys], nonzero = attend; an additive mask is fp32 and broadcasts to the scores.
    """

    name = "hpcc_nn.attention"
    q = operand_def(AnyTensor)
    k = operand_def(AnyTensor)
    v = operand_def(AnyTensor)
    mask = opt_operand_def(AnyTensor)
    heads = prop_def(IntegerAttr)
    scale = prop_def(FloatAttr)
    mask_kind = opt_prop_def(StringAttr)
    role = prop_def(StringAttr)
    result = result_def(AnyTensor)
    traits = traits_def(Pure())
    assembly_format = (
        "$role $q `,` $k `,` $v (`mask` $mask^)? (`kind` $mask_kind^)? `heads` $heads `scale` $scale attr-dict"
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
    ) -> None:
        super().__init__(
            operands=[q, k, v, mask],
            properties={
                "role": StringAttr(role),
                "heads": IntegerAttr(heads, 64),
                "scale": FloatAttr(scale, f32),
                "mask_kind": None if mask_kind is None else StringAttr(mask_kind),
            },
            result_types=[type],
        )

    def verify_(self) -> None:
        _verify_attention(self)


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
        _expect_shape(self, self.result, shape_of(self.x))
        for value in (self.gamma, self.beta):
            _expect_shape(self, value, shape_of(self.x)[-1:])


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
        _expect_shape(self, self.result, shape_of(self.x))


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
        b, s, d = _sequence_shape(self, self.x)
        _expect_shape(self, self.mask, (b, s))
        _expect_shape(self, self.result, (b, d))


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
        b, s, d = _sequence_shape(self, self.x)
        if not 0 <= self.index.value.data < s:
            raise VerifyException(f"token {self.index.value.data} is outside a sequence of {s}")
        _expect_shape(self, self.result, (b, d))


# ---- integer ops: after `quantize` ----------------------------------------------------------------------------------


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
        _expect_shape(self, self.codes, x)
        expected = (x[0], 1, self.groups) if self.granularity.data is Granularity.SEQUENCE_HEAD else (*x[:-1], self.groups)
        _expect_shape(self, self.scale, expected)
        if scale[-1] < 1 or x[-1] % scale[-1]:
            raise VerifyException(f"{x[-1]} features do not split into {scale[-1]} groups")
        if self.granularity.data is Granularity.TOKEN and self.groups != 1:
            raise VerifyException("one scale per token means one group")
        if self.smooth is not None:
            _expect_shape(self, self.smooth, (x[-1],))
            if self.granularity.data is not Granularity.TOKEN:
                raise VerifyException("only whole tokens are smoothed")


@irdl_op_definition
class QLinearOp(IRDLOperation):
    """f32(x W^T) * (sx * sw) + bias + residual: int8 codes in, fp32 out; W out x in of int8, one scale per output."""

    name = "hpcc_nn.qlinear"
    x = operand_def(AnyTensor)
    x_scale = operand_def(F32Tensor)
    weight = operand_def(AnyTensor)
    weight_scale = operand_def(F32Tensor)
    bias = opt_operand_def(F32Tensor)
    residual = opt_operand_def(AnyTensor)
    role = prop_def(StringAttr)
    result = result_def(F32Tensor)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(Pure())
    assembly_format = (
        "$role $x `,` $x_scale `,` $weight `,` $weight_scale (`bias` $bias^)? (`residual` $residual^)? attr-dict"
        " `:` type($x) `,` type($x_scale) `,` type($weight) `,` type($weight_scale)"
        " (`bias` type($bias)^)? (`residual` type($residual)^)? `->` type($result)"
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
    ) -> None:
        super().__init__(
            operands=[x, x_scale, weight, weight_scale, bias, residual],
            properties={"role": StringAttr(role)},
            result_types=[type],
        )

    def verify_(self) -> None:
        _verify_linear(self)
        _expect_shape(self, self.x_scale, (*shape_of(self.x)[:-1], 1))
        _expect_shape(self, self.weight_scale, shape_of(self.weight)[:1])
        if self.residual is not None:
            _expect_shape(self, self.residual, shape_of(self.result))


@irdl_op_definition
class QAttentionOp(IRDLOperation):
    """Integer attention: scores from int8 q and k, uint8 probabilities, int8 v; fp32 out. See docs/NUMERICS.md."""

    name = "hpcc_nn.qattention"
    q = operand_def(AnyTensor)
    q_scale = operand_def(F32Tensor)
    k = operand_def(AnyTensor)
    k_scale = operand_def(F32Tensor)
    v = operand_def(AnyTensor)
    v_scale = operand_def(F32Tensor)
    mask = opt_operand_def(AnyTensor)
    heads = prop_def(IntegerAttr)
    scale = prop_def(FloatAttr)
    mask_kind = opt_prop_def(StringAttr)
    role = prop_def(StringAttr)
    result = result_def(F32Tensor)
    traits = traits_def(Pure())
    assembly_format = (
        "$role $q `,` $q_scale `,` $k `,` $k_scale `,` $v `,` $v_scale (`mask` $mask^)? (`kind` $mask_kind^)?"
        " `heads` $heads `scale` $scale attr-dict `:` type($q) `,` type($q_scale) `,` type($k) `,` type($k_scale)"
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
    ) -> None:
        super().__init__(
            operands=[*q, *k, *v, mask],
            properties={
                "role": StringAttr(role),
                "heads": IntegerAttr(heads, 64),
                "scale": FloatAttr(scale, f32),
                "mask_kind": None if mask_kind is None else StringAttr(mask_kind),
            },
            result_types=[type],
        )

    def verify_(self) -> None:
        _verify_attention(self)
        heads = self.heads.value.data
        _expect_shape(self, self.q_scale, (*shape_of(self.q)[:2], heads))
        _expect_shape(self, self.k_scale, (*shape_of(self.k)[:2], heads))
        _expect_shape(self, self.v_scale, (shape_of(self.v)[0], 1, heads))


NN = Dialect(
    "hpcc_nn",
    [
        WeightOp,
        ConstantOp,
        DequantizeOp,
        UnaryOp,
        BinaryOp,
        WhereOp,
        CastOp,
        MatMulOp,
        GemmOp,
        TransposeOp,
        ReshapeOp,
        ExpandOp,
        GatherOp,
        SliceOp,
        ConcatOp,
        ReduceOp,
        SoftmaxOp,
        OpaqueOp,
        EmbeddingOp,
        LinearOp,
        AttentionOp,
        LayerNormOp,
        ActivationOp,
        MeanPoolOp,
        TakeTokenOp,
        QuantizeOp,
        QLinearOp,
        QAttentionOp,
    ],
    [UnaryKindAttr, BinaryKindAttr, ReduceKindAttr, ActivationKindAttr, GranularityAttr],
)
