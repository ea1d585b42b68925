"""The `hpcc_storage` dialect: storage formats as encodings of weight tensor types, wrapping the pattern they store.

`tensor<768x768xi8, #hpcc_storage.hp_mark<of = #hpcc_sparsity.hp<...>>>`. Formats are specified in docs/FORMATS.md and
implemented in compiler/storage; every one, those of other packages too, has an attribute of its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from xdsl.dialects.builtin import NoneAttr
from xdsl.ir import Attribute, Dialect, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from compiler.dialects.sparsity import PatternAttr, attribute_of
from compiler.sparsity.base import Dense, Pattern
from compiler.storage.formats import Format, all_formats


class StorageAttr(ParametrizedAttribute):
    """What all formats share: `of`, the sparsity encoding that is stored, none for a dense matrix."""

    of: Attribute

    @property
    def format(self) -> Format:
        return all_formats()[self.name.rpartition(".")[2]]

    @property
    def pattern(self) -> Pattern:
        return self.of.pattern if isinstance(self.of, PatternAttr) else Dense()

    def verify(self) -> None:
        if not isinstance(self.of, PatternAttr | NoneAttr) or not self.format.holds(self.pattern):
            raise VerifyException(f"the format '{self.format.name}' does not store {self.of}")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        if parser.parse_optional_punctuation("<") is None:
            return [NoneAttr()]
        parser.parse_keyword("of")
        parser.parse_punctuation("=")
        of = parser.parse_attribute()
        parser.parse_punctuation(">")
        return [of]

    def print_parameters(self, printer: Printer) -> None:
        if isinstance(self.of, NoneAttr):
            return
        printer.print_string("<of = ")
        printer.print_attribute(self.of)
        printer.print_string(">")


def _attribute_class(storage: Format) -> type[StorageAttr]:
    """`#hpcc_storage.NAME<of = ...>`; `of` says which pattern is stored, for a dense format which the zeros follow."""
    fields = {
        "name": f"hpcc_storage.{storage.name}",
        "__annotations__": {"of": Attribute},
        "__doc__": type(storage).__doc__,
        "__module__": __name__,
    }
    return irdl_attr_definition(type(f"{type(storage).__name__}Attr", (StorageAttr,), fields))


@cache
def storage_attributes() -> Mapping[str, type[StorageAttr]]:
    """The attribute of every format by the format's name."""
    return {name: _attribute_class(storage) for name, storage in all_formats().items()}


def storage_attribute_of(storage: Format, pattern: Pattern) -> StorageAttr:
    """The encoding that says that `storage` holds matrices of `pattern`."""
    return storage_attributes()[storage.name](attribute_of(pattern))


STORAGE = Dialect("hpcc_storage", [], list(storage_attributes().values()))
