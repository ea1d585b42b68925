"""The `hpcc_storage` dialect: storage formats as encodings of weight tensor types, wrapping the pattern they store.

`tensor<768x768xi8, #hpcc_storage.hp_mark<of = #hpcc_sparsity.hp<...>>>`. Formats are specified in docs/FORMATS.md and
implemented in compiler/storage/formats.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import NoneAttr
from xdsl.ir import Attribute, Dialect, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from compiler.dialects.sparsity import PatternAttr, attribute_of
from compiler.sparsity.base import Dense, Pattern
from compiler.storage.formats import FORMATS, Format


class StorageAttr(ParametrizedAttribute):
    """What all formats share: `of`, the sparsity encoding that is stored, none for a dense matrix."""

    of: Attribute

    @property
    def format(self) -> Format:
        return FORMATS[self.name.rpartition(".")[2]]

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


@irdl_attr_definition
class DenseAttr(StorageAttr):
    """`#hpcc_storage.dense`: every code, row by row. `of` says which pattern the zeros follow, if any."""

    name = "hpcc_storage.dense"
    of: Attribute


@irdl_attr_definition
class NMStorageAttr(StorageAttr):
    """`#hpcc_storage.nm<of = ...>`: kept codes and packed indices inside the groups."""

    name = "hpcc_storage.nm"
    of: Attribute


@irdl_attr_definition
class HPMarkAttr(StorageAttr):
    """`#hpcc_storage.hp_mark<of = ...>`: kept codes, kept inputs per tile, marks over kept inputs."""

    name = "hpcc_storage.hp_mark"
    of: Attribute


@irdl_attr_definition
class CSRAttr(StorageAttr):
    """`#hpcc_storage.csr<of = ...>`: kept codes, their columns, where each row starts."""

    name = "hpcc_storage.csr"
    of: Attribute


@irdl_attr_definition
class BitmapAttr(StorageAttr):
    """`#hpcc_storage.bitmap<of = ...>`: kept codes, and a bit for every place of the matrix."""

    name = "hpcc_storage.bitmap"
    of: Attribute


ATTRIBUTES: dict[str, type[StorageAttr]] = {
    "dense": DenseAttr,
    "nm": NMStorageAttr,
    "hp_mark": HPMarkAttr,
    "csr": CSRAttr,
    "bitmap": BitmapAttr,
}


def storage_attribute_of(storage: Format, pattern: Pattern) -> StorageAttr:
    """The encoding that says that `storage` holds matrices of `pattern`."""
    return ATTRIBUTES[storage.name](attribute_of(pattern))


STORAGE = Dialect("hpcc_storage", [], list(ATTRIBUTES.values()))
