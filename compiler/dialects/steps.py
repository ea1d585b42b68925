"""What the step dialects of CPUs and GPUs share: buffers of activations, and the steps that are alike on both.

These are abstract; a dialect (cpu.py, gpu.py) gives each its name, and a linear the kernel and tiles of its machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from xdsl.dialects.builtin import FloatAttr, IntAttr, IntegerAttr, StringAttr, UnitAttr, f32
from xdsl.ir import Attribute, ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import (
    AttrSizedOperandSegments,
    BaseAttr,
    IRDLOperation,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from compiler.dialects.nn import AnyTensor, shape_of

TOKENS, SAMPLES, CODES, WINDOWS = "tokens", "samples", "codes", "windows"
"""What a buffer has a column for, and codes in two orders: by feature, and by token in windows of 64 features."""


class Buffer(ParametrizedAttribute, TypeAttribute):
    """`buffer<768 x tokens, at 0>`: `place` counts features of the same kind from the memory's begin."""

    features: IntAttr
    per: StringAttr
    place: IntAttr

    @classmethod
    def of(cls, features: int, per: str, place: int) -> Self:
        return cls(IntAttr(features), StringAttr(per), IntAttr(place))

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            features = parser.parse_integer(allow_boolean=False, allow_negative=False)
            parser.parse_keyword("x")
            per = parser.parse_identifier()
            parser.parse_punctuation(",")
            parser.parse_keyword("at")
            place = parser.parse_integer(allow_boolean=False, allow_negative=False)
        return IntAttr(features), StringAttr(per), IntAttr(place)

    def print_parameters(self, printer: Printer) -> None:
        printer.print_string(f"<{self.features.data} x {self.per.data}, at {self.place.data}>")

    def verify(self) -> None:
        if self.per.data not in (TOKENS, SAMPLES, CODES, WINDOWS):
            raise VerifyException(f"a buffer holds {TOKENS}, {SAMPLES}, {CODES} or {WINDOWS}, not {self.per.data}")


AnyBuffer = BaseAttr(Buffer)


def buffer_of(value: SSAValue) -> Buffer:
    assert isinstance(value.type, Buffer)
    return value.type


def features_of(value: SSAValue) -> int:
    return buffer_of(value).features.data


class Activation(StrEnum):
    NONE = "none"
    GELU = "gelu"
    TANH = "tanh"
    RELU = "relu"
    GELU_TANH = "gelu_tanh"
    QUICK_GELU = "quick_gelu"
    SILU = "silu"


def same_columns(op: IRDLOperation, *values: SSAValue | None) -> None:
    kinds = {buffer_of(value).per.data for value in values if value is not None}
    if len(kinds) > 1:
        raise VerifyException(f"'{op.name}' mixes buffers per token and per sample")


class EmbeddingStep(IRDLOperation):
    """The sum of one table row for each token from each pair of ids (int64 input, or a stored constant) and table."""

    ids = var_operand_def(AnyTensor)
    tables = var_operand_def(AnyTensor)
    result = result_def(AnyBuffer)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(Pure())
    assembly_format = "$ids `of` $tables attr-dict `:` type($ids) `of` type($tables) `->` type($result)"

    def __init__(self, ids: Sequence[SSAValue], tables: Sequence[SSAValue], type: Buffer) -> None:
        super().__init__(operands=[list(ids), list(tables)], result_types=[type])

    def verify_(self) -> None:
        if len(self.ids) != len(self.tables) or not self.ids:
            raise VerifyException("an embedding takes one ids tensor per table")
        if any(shape_of(table)[1] != features_of(self.result) for table in self.tables):
            raise VerifyException("the tables are not as wide as the buffer")


class QuantizeStep(IRDLOperation):
    """Codes of 8 bits with one scale per token, from the largest of its values."""

    x = operand_def(AnyBuffer)
    result = result_def(AnyBuffer)
    traits = traits_def(Pure())
    assembly_format = "$x attr-dict `:` type($x) `->` type($result)"

    def __init__(self, x: SSAValue, type: Buffer) -> None:
        super().__init__(operands=[x], result_types=[type])

    def verify_(self) -> None:
        kinds = buffer_of(self.x).per.data, buffer_of(self.result).per.data
        if kinds not in ((TOKENS, CODES), (TOKENS, WINDOWS)) or features_of(self.x) != features_of(self.result):
            raise VerifyException("codes are made of as many features of tokens")


class LinearStep(IRDLOperation):
    """activation(W x + bias + residual). A dialect adds `kernel`, the sizes of its tiles, `activation` and the format."""

    KERNEL: ClassVar[Any]
    ACTIVATION: ClassVar[Any]
    """Those of the properties `kernel` and `activation`."""

    x = operand_def(AnyBuffer)
    weight = operand_def(AnyTensor)
    bias = opt_operand_def(AnyTensor)
    residual = opt_operand_def(AnyBuffer)
    role = prop_def(StringAttr)
    result = result_def(AnyBuffer)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(Pure())

    def __init__(
        self,
        role: str,
        x: SSAValue,
        weight: SSAValue,
        bias: SSAValue | None,
        residual: SSAValue | None,
        type: Buffer,
        *,
        kernel: StrEnum,
        activation: Activation,
        **sizes: int,
    ) -> None:
        super().__init__(
            operands=[x, weight, bias, residual],
            properties={
                "role": StringAttr(role),
                "kernel": self.KERNEL(kernel),
                "activation": self.ACTIVATION(activation),
                **{name: IntegerAttr(size, 64) for name, size in sizes.items()},
            },
            result_types=[type],
        )

    def verify_(self) -> None:
        if buffer_of(self.x).per.data in (CODES, WINDOWS):
            same_columns(self, self.residual, self.result)
        else:
            same_columns(self, self.x, self.residual, self.result)
        if shape_of(self.weight) != (features_of(self.result), features_of(self.x)):
            raise VerifyException("the weight does not fit the buffers")
        if self.bias is not None and shape_of(self.bias) != (features_of(self.result),):
            raise VerifyException("the bias does not fit the result")
        if self.residual is not None and features_of(self.residual) != features_of(self.result):
            raise VerifyException("the residual does not fit the result")


FORMAT = "$role $x `,` $weight (`bias` $bias^)? (`residual` $residual^)? `by` $kernel {sizes} `then` $activation attr-dict"
"""A linear's text before its types; its dialect fills in the sizes."""
TYPES = " `:` type($x) `,` type($weight) (`bias` type($bias)^)? (`residual` type($residual)^)? `->` type($result)"


class AttentionStep(IRDLOperation):
    """softmax(scale q k^T) v per head; the mask is a model input [batch, keys], nonzero = attend. `heads` of q share
    `groups` of k and v, neighbours one; a `causal` query attends to no key behind it."""

    q = operand_def(AnyBuffer)
    k = operand_def(AnyBuffer)
    v = operand_def(AnyBuffer)
    mask = opt_operand_def(AnyTensor)
    role = prop_def(StringAttr)
    heads = prop_def(IntegerAttr)
    groups = prop_def(IntegerAttr)
    causal = opt_prop_def(UnitAttr)
    scale = prop_def(FloatAttr)
    result = result_def(AnyBuffer)
    traits = traits_def(Pure())
    assembly_format = (
        "$role $q `,` $k `,` $v (`mask` $mask^)? (`causal` $causal^)? `heads` $heads `over` $groups `scale` $scale attr-dict"
        " `:` type($q) `,` type($k) `,` type($v) (`mask` type($mask)^)? `->` type($result)"
    )

    def __init__(
        self,
        role: str,
        q: SSAValue,
        k: SSAValue,
        v: SSAValue,
        mask: SSAValue | None,
        type: Buffer,
        *,
        heads: int,
        scale: float,
        groups: int,
        causal: bool,
    ) -> None:
        properties = {
            "role": StringAttr(role),
            "heads": IntegerAttr(heads, 64),
            "groups": IntegerAttr(groups, 64),
            "scale": FloatAttr(scale, f32),
            "causal": UnitAttr() if causal else None,
        }
        super().__init__(operands=[q, k, v, mask], properties=properties, result_types=[type])

    def verify_(self) -> None:
        if any(buffer_of(value).per.data != TOKENS for value in (self.q, self.k, self.v, self.result)):
            raise VerifyException("attention works on tokens")
        heads, groups = self.heads.value.data, self.groups.value.data
        if features_of(self.q) % heads:
            raise VerifyException("the features do not split into heads")
        if heads % groups or any(features_of(value) * heads != features_of(self.q) * groups for value in (self.k, self.v)):
            raise VerifyException("the heads of k and v are not shared by those of q")


class LayerNormStep(IRDLOperation):
    x = operand_def(AnyBuffer)
    gamma = operand_def(AnyTensor)
    beta = operand_def(AnyTensor)
    eps = prop_def(FloatAttr)
    result = result_def(AnyBuffer)
    traits = traits_def(Pure())
    assembly_format = (
        "$x `,` $gamma `,` $beta `eps` $eps attr-dict `:` type($x) `,` type($gamma) `,` type($beta) `->` type($result)"
    )

    def __init__(self, x: SSAValue, gamma: SSAValue, beta: SSAValue, eps: float, type: Buffer) -> None:
        super().__init__(operands=[x, gamma, beta], properties={"eps": FloatAttr(eps, f32)}, result_types=[type])

    def verify_(self) -> None:
        same_columns(self, self.x, self.result)
        if any(shape_of(value) != (features_of(self.x),) for value in (self.gamma, self.beta)):
            raise VerifyException("gamma and beta do not fit the buffer")


class RmsNormStep(IRDLOperation):
    """RMS normalisation in groups of len(gamma) features: of whole tokens, or of every head."""

    x = operand_def(AnyBuffer)
    gamma = operand_def(AnyTensor)
    eps = prop_def(FloatAttr)
    result = result_def(AnyBuffer)
    traits = traits_def(Pure())
    assembly_format = "$x `,` $gamma `eps` $eps attr-dict `:` type($x) `,` type($gamma) `->` type($result)"

    def __init__(self, x: SSAValue, gamma: SSAValue, eps: float, type: Buffer) -> None:
        super().__init__(operands=[x, gamma], properties={"eps": FloatAttr(eps, f32)}, result_types=[type])

    def verify_(self) -> None:
        same_columns(self, self.x, self.result)
        if features_of(self.x) % shape_of(self.gamma)[0]:
            raise VerifyException("the features do not split into groups of gamma's size")


class RotaryStep(IRDLOperation):
    """Rotary embedding of heads of `head_size` features by the angles of each token (see hpcc_nn.rotary)."""

    x = operand_def(AnyBuffer)
    table = operand_def(AnyTensor)
    head_size = prop_def(IntegerAttr)
    interleaved = opt_prop_def(UnitAttr)
    result = result_def(AnyBuffer)
    traits = traits_def(Pure())
    assembly_format = (
        "$x `by` $table (`interleaved` $interleaved^)? `head_size` $head_size attr-dict"
        " `:` type($x) `by` type($table) `->` type($result)"
    )

    def __init__(self, x: SSAValue, table: SSAValue, head_size: int, type: Buffer, *, interleaved: bool) -> None:
        properties = {"head_size": IntegerAttr(head_size, 64), "interleaved": UnitAttr() if interleaved else None}
        super().__init__(operands=[x, table], properties=properties, result_types=[type])

    def verify_(self) -> None:
        if any(buffer_of(value).per.data != TOKENS for value in (self.x, self.result)):
            raise VerifyException("tokens are rotated")
        size = self.head_size.value.data
        if features_of(self.x) % size or shape_of(self.table)[1] > size:
            raise VerifyException("the features do not split into heads that the table turns")


class PointwiseStep(IRDLOperation):
    """activation(x + other), or x * other with `times`: what no linear before it could take over."""

    ATTRIBUTE: ClassVar[Any]
    """That of the property `activation`, which a dialect adds."""

    x = operand_def(AnyBuffer)
    other = opt_operand_def(AnyBuffer)
    times = opt_prop_def(UnitAttr)
    result = result_def(AnyBuffer)
    traits = traits_def(Pure())
    assembly_format = (
        "$x (`,` $other^)? (`times` $times^)? `then` $activation attr-dict"
        " `:` type($x) (`,` type($other)^)? `->` type($result)"
    )

    def __init__(
        self, x: SSAValue, other: SSAValue | None, activation: Activation, type: Buffer, *, times: bool = False
    ) -> None:
        properties = {"activation": self.ATTRIBUTE(activation), "times": UnitAttr() if times else None}
        super().__init__(operands=[x, other], properties=properties, result_types=[type])

    def verify_(self) -> None:
        same_columns(self, self.x, self.other, self.result)


class PoolStep(IRDLOperation):
    """One row per sample: the token of number `token`, else the mean over the tokens that `mask` attends to."""

    x = operand_def(AnyBuffer)
    mask = opt_operand_def(AnyTensor)
    token = opt_prop_def(IntegerAttr)
    minimum = opt_prop_def(FloatAttr)
    result = result_def(AnyBuffer)
    traits = traits_def(Pure())
    assembly_format = (
        "$x (`mask` $mask^)? (`token` $token^)? (`minimum` $minimum^)? attr-dict"
        " `:` type($x) (`mask` type($mask)^)? `->` type($result)"
    )

    NONE: ClassVar[int] = -1

    def __init__(
        self, x: SSAValue, mask: SSAValue | None, type: Buffer, *, token: int | None = None, minimum: float | None = None
    ) -> None:
        super().__init__(
            operands=[x, mask],
            properties={
                "token": None if token is None else IntegerAttr(token, 64),
                "minimum": None if minimum is None else FloatAttr(minimum, f32),
            },
            result_types=[type],
        )

    def verify_(self) -> None:
        if (self.token is None) == (self.mask is None) or (self.mask is None) != (self.minimum is None):
            raise VerifyException("a pool takes a token, or the mean over a mask with a minimal count")
        if buffer_of(self.x).per.data != TOKENS or buffer_of(self.result).per.data != SAMPLES:
            raise VerifyException("a pool goes from tokens to samples")
