"""The `hpcc_sparsity` dialect: sparsity patterns as encodings of weight tensor types.

`tensor<768x768xf32, #hpcc_sparsity.nm<2:4>>`. An attribute only wraps a Pattern of compiler/sparsity/patterns.py, which
holds the rules, the spelling and the counts; a dense tensor has no encoding.
"""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import NoneAttr, TensorType
from xdsl.ir import Attribute, Data, Dialect
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from compiler.sparsity.base import Dense, Pattern
from compiler.sparsity.patterns import HP, NM, Block, Unstructured
from hw_targets.errors import UsageError


def _parse_scalar(parser: AttrParser) -> str:
    """A word, a number, a ratio 2:4, a fraction 1/4 or a shape 4x1."""
    word = parser.parse_optional_identifier()
    if word is not None:
        return word
    number = parser.parse_number(allow_boolean=False)
    rest = parser.parse_optional_identifier()  # 4x1 reads as the number 4 and the word x1
    if rest is not None:
        return f"{number}{rest}"
    for separator in (":", "/"):
        if parser.parse_optional_punctuation(separator) is not None:
            return f"{number}{separator}{parser.parse_integer(allow_boolean=False, allow_negative=False)}"
    return str(number)


def _parse_item(parser: AttrParser) -> str:
    scalar = _parse_scalar(parser)
    return f"{scalar}={_parse_scalar(parser)}" if parser.parse_optional_punctuation("=") is not None else scalar


def parse_body(parser: AttrParser, kind: type[Pattern]) -> Pattern:
    """`<...>` as `kind` spells its parameters; a bad pattern is an error at this place of the file."""
    position = parser.pos
    items = parser.parse_comma_separated_list(parser.Delimiter.ANGLE, lambda: _parse_item(parser))
    try:
        return kind.parse(",".join(items), kind="any")
    except UsageError as error:
        hint = f" ({error.hint})" if error.hint else ""
        parser.raise_error(f"{error.message}{hint}", position, parser.pos)


class PatternAttr(Data[Pattern]):
    """What all attributes of this dialect share: they print as their pattern's body."""

    kind: ClassVar[type[Pattern]]

    @property
    def pattern(self) -> Pattern:
        return self.data

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Pattern:
        return parse_body(parser, cls.kind)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f"<{self.data.body()}>")


@irdl_attr_definition
class NMAttr(PatternAttr):
    """`#hpcc_sparsity.nm<2:4>`: n of every m consecutive inputs stay."""

    name = "hpcc_sparsity.nm"
    kind = NM


@irdl_attr_definition
class HPAttr(PatternAttr):
    """`#hpcc_sparsity.hp<rows = 64, window = 32, keep = 16, fine = 2:4>`: hierarchical."""

    name = "hpcc_sparsity.hp"
    kind = HP


@irdl_attr_definition
class BlockAttr(PatternAttr):
    """`#hpcc_sparsity.block<4x1, keep = 1/4>`: a share of the blocks of outputs x inputs stays."""

    name = "hpcc_sparsity.block"
    kind = Block


@irdl_attr_definition
class UnstructuredAttr(PatternAttr):
    """`#hpcc_sparsity.unstructured<density = 0.25>`: a share of the weights stays, anywhere."""

    name = "hpcc_sparsity.unstructured"
    kind = Unstructured


ATTRIBUTES: dict[type[Pattern], type[PatternAttr]] = {
    NM: NMAttr,
    HP: HPAttr,
    Block: BlockAttr,
    Unstructured: UnstructuredAttr,
}


def attribute_of(pattern: Pattern) -> PatternAttr | NoneAttr:
    """The encoding that says `pattern`; none for a dense one."""
    if isinstance(pattern, Dense):
        return NoneAttr()
    return ATTRIBUTES[type(pattern)](pattern)


def pattern_of(type: Attribute) -> Pattern:
    """The pattern that a tensor type carries, as a sparsity or a storage encoding; Dense() where it has none."""
    encoding = type.encoding if isinstance(type, TensorType) else NoneAttr()
    pattern = getattr(encoding, "pattern", None)
    return pattern if isinstance(pattern, Pattern) else Dense()


SPARSITY = Dialect("hpcc_sparsity", [], list(ATTRIBUTES.values()))
