"""The `hpcc_isa` dialect: the accelerator's program, one op per instruction, loops kept as regions.

The instruction table of hw_targets/isa.py says what is legal; nothing is repeated here.
"""

from __future__ import annotations

from xdsl.dialects.builtin import (
    I64,
    ArrayAttr,
    DenseArrayBase,
    DictionaryAttr,
    FloatAttr,
    IntegerAttr,
    NameLoc,
    StringAttr,
    i64,
)
from xdsl.ir import Attribute, Dialect, Region
from xdsl.irdl import IRDLOperation, irdl_op_definition, opt_prop_def, prop_def, region_def, traits_def
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import NoTerminator
from xdsl.utils.exceptions import VerifyException

from compiler.dialects.making import immediates_attr, make, numbers_attr, numbers_of, text_attr
from compiler.dialects.tile import DRAM_KINDS, ELEMENT_BYTES, check_immediate, check_semaphores
from hw_targets import isa


@irdl_op_definition
class InstructionOp(IRDLOperation):
    """One instruction; `addresses` maps an operand to [base, pitch, stride of loop 0, stride of loop 1] in bytes."""

    name = "hpcc_isa.inst"
    function = prop_def(StringAttr)
    addresses = prop_def(DictionaryAttr)
    immediates = prop_def(DictionaryAttr)
    waits = opt_prop_def(DenseArrayBase.constr(i64))
    signals = opt_prop_def(DenseArrayBase.constr(i64))
    layer = prop_def(StringAttr)

    def __init__(self, instruction: isa.Instruction, layer: str) -> None:
        addresses = {name: numbers_attr((a.base, a.pitch, *a.strides)) for name, a in instruction.operands}
        properties: dict[str, Attribute | None] = {
            "function": text_attr(instruction.name),
            "addresses": DictionaryAttr(addresses),
            "immediates": immediates_attr(instruction.name, instruction.immediates),
            "layer": text_attr(layer),
            "waits": numbers_attr(instruction.waits) if instruction.waits else None,
            "signals": numbers_attr(instruction.signals) if instruction.signals else None,
        }
        make(self, properties)

    def instruction(self, node: int = 0) -> isa.Instruction:
        """The instruction this op stands for, with `node` as its provenance index."""
        operands: list[tuple[str, isa.Address]] = []
        for name, numbers in self.addresses.data.items():
            assert isinstance(numbers, DenseArrayBase)
            base, pitch, outer, inner = numbers_of(numbers)
            operands.append((name, isa.Address(base, pitch, (outer, inner))))
        values: list[tuple[str, int | float]] = []
        for name, attr in self.immediates.data.items():
            assert isinstance(attr, IntegerAttr | FloatAttr)
            values.append((name, attr.value.data))
        return isa.Instruction(
            self.function.data, tuple(operands), tuple(values), numbers_of(self.waits), numbers_of(self.signals), node
        )

    def verify_(self) -> None:
        row = isa.BY_NAME.get(self.function.data)
        if row is None:
            raise VerifyException(f"{self.function.data!r} is no instruction")
        fields = {field.name: field for field in row.immediates}
        if self.immediates.data.keys() != fields.keys():
            odd = sorted(self.immediates.data.keys() ^ fields.keys())
            raise VerifyException(f"immediates of {row.name}: {', '.join(odd)} missing or unknown")
        for name, attr in self.immediates.data.items():
            check_immediate(fields[name], attr)
        known = {operand.name for operand in row.operands}
        needed = {operand.name for operand in row.operands if not operand.optional}
        present = self.addresses.data.keys()
        if present - known or needed - present:
            odd = sorted((present - known) | (needed - present))
            raise VerifyException(f"operands of {row.name}: {', '.join(odd)} missing or unknown")
        for name, numbers in self.addresses.data.items():
            if not isinstance(numbers, DenseArrayBase) or len(numbers) != 2 + isa.LOOP_LEVELS:
                raise VerifyException(f"operand {name!r} is [base, pitch, stride, stride]")
        for numbers, limit in ((self.waits, isa.MAX_WAITS), (self.signals, isa.MAX_SIGNALS)):
            check_semaphores(numbers, limit)

    @classmethod
    def parse(cls, parser: Parser) -> InstructionOp:
        properties: dict[str, Attribute | None] = {"function": StringAttr(parser.parse_str_literal())}
        addresses: dict[str, Attribute] = {}

        def operand() -> None:
            name = parser.parse_identifier()
            if name in addresses:
                parser.raise_error(f"operand {name!r} is named twice")
            parser.parse_punctuation("=")
            numbers = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
            addresses[name] = DenseArrayBase.from_list(i64, numbers)

        parser.parse_comma_separated_list(parser.Delimiter.PAREN, operand)
        properties["addresses"] = DictionaryAttr(addresses)
        properties["immediates"] = DictionaryAttr(parser.parse_optional_dictionary_attr_dict())
        parser.parse_keyword("layer")
        properties["layer"] = StringAttr(parser.parse_str_literal())
        for keyword, name in (("wait", "waits"), ("signal", "signals")):
            if parser.parse_optional_keyword(keyword):
                numbers = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
                properties[name] = DenseArrayBase.from_list(i64, numbers)
        extra = parser.parse_optional_attr_dict_with_keyword()
        return InstructionOp.build(properties=properties, attributes={} if extra is None else dict(extra.data))

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_string_literal(self.function.data)
        parts = [f"{name} = {list(numbers_of(numbers))}" for name, numbers in self.addresses.data.items()]  # pyright: ignore
        printer.print_string(f" ({', '.join(parts)}) {{")
        printer.print_list(self.immediates.data.items(), lambda item: printer.print_string(f"{item[0]} = {item[1]}"))
        printer.print_string("} layer ")
        printer.print_string_literal(self.layer.data)
        for keyword, numbers in (("wait", self.waits), ("signal", self.signals)):
            if numbers is not None:
                printer.print_string(f" {keyword} {list(numbers_of(numbers))}")
        printer.print_op_attributes(self.attributes, print_keyword=True)


@irdl_op_definition
class LoopOp(IRDLOperation):
    """LOOP count ... END. Loops nest at most as deep as the operand strides reach."""

    name = "hpcc_isa.loop"
    count = prop_def(IntegerAttr[I64])
    body = region_def("single_block")
    traits = traits_def(NoTerminator())
    assembly_format = "$count $body attr-dict"

    def __init__(self, count: int, body: Region) -> None:
        super().__init__(properties={"count": IntegerAttr(count, i64)}, regions=[body])

    def verify_(self) -> None:
        if self.count.value.data < 1:
            raise VerifyException("a loop runs at least once")
        nesting, parent = 1, self.parent_op()
        while isinstance(parent, LoopOp):
            nesting, parent = nesting + 1, parent.parent_op()
        if nesting > isa.LOOP_LEVELS:
            raise VerifyException(f"loops nest {isa.LOOP_LEVELS} deep at most")


@irdl_op_definition
class ImageOp(IRDLOperation):
    """A DRAM region of the program: its kind, place, size and the WeightStore keys of its bytes."""

    name = "hpcc_isa.image"
    kind = prop_def(StringAttr)
    label = prop_def(StringAttr)
    address = prop_def(IntegerAttr[I64])
    bytes = prop_def(IntegerAttr[I64])
    element = prop_def(Attribute)
    content = prop_def(ArrayAttr[StringAttr])
    encoding = opt_prop_def(Attribute)
    parts = opt_prop_def(DenseArrayBase.constr(i64))
    assembly_format = (
        "$kind $label `at` $address `bytes` $bytes `of` $element `from` $content (`parts` qualified($parts)^)?"
        " (`as` $encoding^)? attr-dict"
    )

    def __init__(
        self,
        kind: str,
        label: str,
        address: int,
        bytes: int,
        element: Attribute,
        content: ArrayAttr[StringAttr],
        encoding: Attribute | None,
        parts: DenseArrayBase | None = None,
    ) -> None:
        super().__init__(
            properties={
                "kind": StringAttr(kind),
                "label": StringAttr(label),
                "address": IntegerAttr(address, i64),
                "bytes": IntegerAttr(bytes, i64),
                "element": element,
                "content": content,
                "encoding": encoding,
                "parts": parts,
            }
        )

    def verify_(self) -> None:
        if self.kind.data not in DRAM_KINDS:
            raise VerifyException(f"DRAM kind {self.kind.data!r} is none of {', '.join(DRAM_KINDS)}")
        if self.address.value.data < 0 or self.bytes.value.data < 1:
            raise VerifyException("an image's bytes are at 0 or above and not none")
        if str(self.element) not in ELEMENT_BYTES:
            raise VerifyException(f"an image holds i8, i32, f32 or bf16, not {self.element}")
        if self.kind.data == "weights" and self.encoding is None:
            raise VerifyException("encoded weights have a storage format")


def node_name(op: InstructionOp) -> str:
    """The ONNX node of an instruction ("" if unknown)."""
    return op.location.desc.data if isinstance(op.location, NameLoc) else ""


ISA = Dialect("hpcc_isa", [InstructionOp, LoopOp, ImageOp], [])
