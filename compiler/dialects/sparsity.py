"""The `hpcc_sparsity` dialect: sparsity patterns as encodings of weight tensor types.

`tensor<768x768xf32, #hpcc_sparsity.nm<2:4>>`. An attribute only wraps a Pattern of compiler/sparsity/patterns.py, which
holds the rules, the spelling and the counts. Every pattern, those of other packages too, has an attribute of its name; a
dense tensor has no encoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import ClassVar

from xdsl.dialects.builtin import NoneAttr, TensorType
from xdsl.ir import Attribute, Data, Dialect
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from compiler.sparsity.base import Dense, Pattern
from compiler.sparsity.patterns import patterns
from hw_targets.errors import UsageError


def _parse_scalar(parser: AttrParser) -> str:
    """A word, a number, a ratio 2:4, a fraction 1/4, a shape 4x1 or a text in quotation marks."""
    text = parser.parse_optional_str_literal()
    if text is not None:
        return text
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


def _attribute_class(pattern: type[Pattern]) -> type[PatternAttr]:
    """`#hpcc_sparsity.NAME<...>`, with the pattern's own spelling of its parameters."""
    fields = {"name": f"hpcc_sparsity.{pattern.name}", "kind": pattern, "__doc__": pattern.__doc__, "__module__": __name__}
    return irdl_attr_definition(type(f"{pattern.__name__}Attr", (PatternAttr,), fields))


@cache
def pattern_attributes() -> Mapping[type[Pattern], type[PatternAttr]]:
    """The attribute of every pattern; a dense tensor has none."""
    return {pattern: _attribute_class(pattern) for pattern in patterns().values() if pattern is not Dense}


def attribute_of(pattern: Pattern) -> PatternAttr | NoneAttr:
    """The encoding that says `pattern`; none for a dense one."""
    if isinstance(pattern, Dense):
        return NoneAttr()
    return pattern_attributes()[type(pattern)](pattern)


def pattern_of(type: Attribute) -> Pattern:
    """The pattern that a tensor type carries, as a sparsity or a storage encoding; Dense() where it has none."""
    encoding = type.encoding if isinstance(type, TensorType) else NoneAttr()
    pattern = getattr(encoding, "pattern", None)
    return pattern if isinstance(pattern, Pattern) else Dense()


SPARSITY = Dialect("hpcc_sparsity", [], list(pattern_attributes().values()))
