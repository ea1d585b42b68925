"""The `hpcc_tile` dialect: loops and transfers over the accelerator's named memories.

Buffers are two-dimensional memrefs whose memory space names a memory of the machine; a buffer allocated inside a loop
is a temporary of one iteration. A `run` op is one instruction of hw_targets/isa.py on buffers instead of addresses: its
operand names, memories and immediates are checked against that table. After `schedule` every alloc has an address and
every run op its semaphores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from xdsl.dialects.builtin import (
    I64,
    AffineMapAttr,
    ArrayAttr,
    BFloat16Type,
    DenseArrayBase,
    DictionaryAttr,
    Float32Type,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    MemRefType,
    NoneAttr,
    StridedLayoutAttr,
    StringAttr,
    i64,
)
from xdsl.ir import Attribute, Block, Dialect, Operation, Region, SSAValue
from xdsl.ir.affine import AffineMap
from xdsl.irdl import (
    AnyAttr,
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import NoTerminator
from xdsl.utils.exceptions import VerifyException

from compiler.dialects.making import immediates_attr, integer_attr, make, names_attr, numbers_attr, numbers_of, text_attr
from hw_targets import isa
from hw_targets.errors import InputError

AnyBuffer = MemRefType.constr(AnyAttr())
ELEMENT_BYTES: dict[str, int] = {"i8": 1, "i32": 4, "f32": 4, "bf16": 2}


def element_bytes(type: MemRefType) -> int:
    """Bytes of one element of a buffer type (i8, i32, f32 or bf16)."""
    element = type.element_type
    if isinstance(element, IntegerType) and element.width.data in (8, 32):
        return element.width.data // 8
    if isinstance(element, BFloat16Type):
        return 2
    if isinstance(element, Float32Type):
        return 4
    raise VerifyException(f"a buffer holds i8, i32, f32 or bf16, not {element}")


@lru_cache(maxsize=4096)
def buffer_type(memory: isa.Memory, rows: int, cols: int, element: Attribute, row_stride: int | None = None) -> MemRefType:
    """The memref type of a buffer, or of a view whose rows are `row_stride` elements apart. A program has few, and to make
    one takes as long as the rest of its op."""
    layout: Attribute = NoneAttr()
    if row_stride is not None and row_stride != cols:
        layout = StridedLayoutAttr([row_stride, 1], None)
    return MemRefType(element, [rows, cols], layout, StringAttr(memory.value))  # pyright: ignore[reportArgumentType]


def memory_of(type: Attribute) -> isa.Memory:
    """The machine memory of a buffer type; raises VerifyException if it names none."""
    if isinstance(type, MemRefType) and isinstance(type.memory_space, StringAttr):
        try:
            return isa.Memory(type.memory_space.data)
        except ValueError:
            pass
    raise VerifyException(f"{type} lies in no memory of the machine ({', '.join(m.value for m in isa.Memory)})")


def row_stride(type: MemRefType) -> int:
    """Elements from one row to the next."""
    strides = type.get_strides()
    assert strides is not None
    first = strides[0]
    assert first is not None
    return first


def no_tile_op(op: Operation) -> InputError:
    """The error of a pass that meets an op of another stage."""
    return InputError("HPCC1408", f"{op.name} is not a tile op", hint="run the stages in order: tile, schedule, emit")


def _check_buffer(type: Attribute, *, strided: bool = False) -> MemRefType:
    """A buffer has static rows and columns, and without `strided` (a view) no gaps between its rows."""
    assert isinstance(type, MemRefType)
    memory_of(type)
    element_bytes(type)
    shape, strides = type.get_shape(), type.get_strides()
    if len(shape) != 2 or min(shape) < 1:
        raise VerifyException(f"a buffer has rows and columns, {type} has not")
    if strides is None or strides[1] != 1 or strides[0] is None or strides[0] < 1:
        raise VerifyException(f"a buffer's rows are a known distance apart and its columns adjacent, not in {type}")
    if not strided and not isinstance(type.layout, NoneAttr):
        raise VerifyException(f"a buffer has no layout but rows side by side, {type} is a view's type")
    return type


def _check_address(address: IntegerAttr | None) -> None:
    if address is not None and address.value.data < 0:
        raise VerifyException(f"address {address.value.data} is negative")


@irdl_op_definition
class AllocOp(IRDLOperation):
    """An on-chip buffer. `slots` marks a temporary of one iteration that rotates through so many places; `address`
    (bytes) comes with `schedule`."""

    name = "hpcc_tile.alloc"
    label = prop_def(StringAttr)
    slots = opt_prop_def(IntegerAttr[I64])
    address = opt_prop_def(IntegerAttr[I64])
    result = result_def(AnyBuffer)
    assembly_format = "$label (`slots` $slots^)? (`at` $address^)? attr-dict `:` type($result)"

    def __init__(self, label: str, type: MemRefType, address: int | None = None, slots: int | None = None) -> None:
        properties: dict[str, Attribute | None] = {
            "label": StringAttr(label),
            "slots": None if slots is None else IntegerAttr(slots, 64),
            "address": None if address is None else IntegerAttr(address, 64),
        }
        super().__init__(properties=properties, result_types=[type])

    def verify_(self) -> None:
        type = _check_buffer(self.result.type)
        if memory_of(type) is isa.Memory.DRAM:
            raise VerifyException("DRAM regions are declared by hpcc_tile.dram")
        if self.slots is not None and self.slots.value.data < 1:
            raise VerifyException("a buffer has at least one slot")
        _check_address(self.address)


DRAM_KINDS = ("input", "output", "scratch", "weights", "columns", "table", "ids")


class Part(NamedTuple):
    """Output rows [first, first + outs) of a weight, stored by themselves at byte `offset` of a region."""

    first: int
    outs: int
    offset: int

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + self.outs)


def parts_of(parts: DenseArrayBase | None) -> list[Part]:
    """The parts of an attribute that lists first, count and offset of each; none where a weight is stored whole."""
    values = [int(v) for v in parts.get_values()] if parts is not None else []  # pyright: ignore
    return [Part(*values[at : at + 3]) for at in range(0, len(values), 3)]


@irdl_op_definition
class DramOp(IRDLOperation):
    """A DRAM region. `content` lists the WeightStore keys its bytes are made from ("" = zeros), `encoding` is the
    storage format of encoded weights, `parts` the first, count and byte offset of runs of rows that are stored apart."""

    name = "hpcc_tile.dram"
    kind = prop_def(StringAttr)
    label = prop_def(StringAttr)
    content = prop_def(ArrayAttr[StringAttr])
    encoding = opt_prop_def(AnyAttr())
    parts = opt_prop_def(DenseArrayBase.constr(i64))
    address = opt_prop_def(IntegerAttr[I64])
    result = result_def(AnyBuffer)
    assembly_format = (
        "$kind $label `from` $content (`parts` qualified($parts)^)? (`as` $encoding^)? (`at` $address^)? attr-dict"
        " `:` type($result)"
    )

    def __init__(
        self,
        kind: str,
        label: str,
        type: MemRefType,
        content: Sequence[str] = (),
        encoding: Attribute | None = None,
        address: int | None = None,
        parts: Sequence[Part] = (),
    ) -> None:
        properties: dict[str, Attribute | None] = {
            "kind": StringAttr(kind),
            "label": StringAttr(label),
            "content": ArrayAttr([StringAttr(key) for key in content]),
            "encoding": encoding,
            "parts": DenseArrayBase.from_list(i64, [v for part in parts for v in part]) if parts else None,
            "address": None if address is None else IntegerAttr(address, 64),
        }
        super().__init__(properties=properties, result_types=[type])

    def verify_(self) -> None:
        if self.kind.data not in DRAM_KINDS:
            raise VerifyException(f"DRAM kind {self.kind.data!r} is none of {', '.join(DRAM_KINDS)}")
        if memory_of(_check_buffer(self.result.type)) is not isa.Memory.DRAM:
            raise VerifyException("a DRAM region lies in dram")
        if self.parts is not None and len(self.parts) % 3:
            raise VerifyException("a part has a first row, a count and an offset")
        _check_address(self.address)


@irdl_op_definition
class ViewOp(IRDLOperation):
    """A rectangle of a buffer: first row and column are affine in the loop counters; the row step is in the type."""

    name = "hpcc_tile.view"
    source = operand_def(AnyBuffer)
    counters = var_operand_def(IndexType())
    origin = prop_def(AffineMapAttr)
    result = result_def(AnyBuffer)
    assembly_format = "$source `[` $counters `]` `origin` qualified($origin) attr-dict `:` type($source) `->` type($result)"

    def __init__(self, source: SSAValue, counters: Sequence[SSAValue], origin: AffineMap, type: MemRefType) -> None:
        make(self, {"origin": AffineMapAttr(origin)}, (source, *counters), (type,))

    def verify_(self) -> None:
        source, result = _check_buffer(self.source.type, strided=True), _check_buffer(self.result.type, strided=True)
        if memory_of(source) != memory_of(result) or source.element_type != result.element_type:
            raise VerifyException("a view keeps its source's memory and element type")
        if len(self.origin.data.results) != 2 or self.origin.data.num_dims != len(self.counters):
            raise VerifyException("a view's origin maps the loop counters to a row and a column")
        if row_stride(result) % row_stride(source):
            raise VerifyException("a view's rows are whole rows of its source apart")


@irdl_op_definition
class ForOp(IRDLOperation):
    """A counted loop from 0. A body with run ops of `stage` 1 is software-pipelined by `schedule`."""

    name = "hpcc_tile.for"
    count = prop_def(IntegerAttr[I64])
    body = region_def("single_block")
    traits = traits_def(NoTerminator())

    def __init__(self, count: int, body: Region) -> None:
        super().__init__(properties={"count": IntegerAttr(count, 64)}, regions=[body])

    @property
    def counter(self) -> SSAValue:
        return self.body.block.args[0]

    def verify_(self) -> None:
        if self.count.value.data < 1:
            raise VerifyException("a loop runs at least once")
        if [arg.type for arg in self.body.block.args] != [IndexType()]:
            raise VerifyException("a loop body takes its counter, an index")

    @classmethod
    def parse(cls, parser: Parser) -> ForOp:
        counter = parser.parse_argument(expect_type=False).resolve(IndexType())
        parser.parse_keyword("to")
        count = parser.parse_integer(allow_boolean=False)
        op = ForOp(count, parser.parse_region((counter,)))
        op.attributes.update(_parse_extra(parser))
        return op

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_block_argument(self.body.block.args[0], print_type=False)
        printer.print_string(f" to {self.count.value.data} ")
        printer.print_region(self.body, print_entry_block_args=False, print_empty_block=False)
        printer.print_op_attributes(self.attributes, print_keyword=True)


def _parse_extra(parser: Parser) -> dict[str, Attribute]:
    """Attributes of an op that its own syntax does not name."""
    extra = parser.parse_optional_attr_dict_with_keyword()
    return {} if extra is None else dict(extra.data)


def check_immediate(field: isa.Immediate, attr: Attribute) -> None:
    """A float field takes an f32, any other an integer that fits its bits. Raises VerifyException."""
    if field.is_float:
        if not isinstance(attr, FloatAttr) or not isinstance(attr.type, Float32Type):
            raise VerifyException(f"immediate {field.name!r} is an f32, not {attr}")
    elif not isinstance(attr, IntegerAttr):
        raise VerifyException(f"immediate {field.name!r} is an integer, not {attr}")
    elif not 0 <= attr.value.data < 1 << field.bits:
        raise VerifyException(f"immediate {field.name!r} = {attr.value.data} does not fit {field.bits} bits")


def check_semaphores(numbers: DenseArrayBase[IntegerType] | None, limit: int) -> None:
    """At most `limit` different semaphores of those the machine has. Raises VerifyException."""
    values = list(numbers_of(numbers))
    if len(values) > limit or any(not 0 <= v < isa.SEMAPHORES for v in values):
        raise VerifyException(f"at most {limit} semaphores of {isa.SEMAPHORES}, not {values}")


@irdl_op_definition
class RunOp(IRDLOperation):
    """One instruction on buffers: `function` is a row of the ISA table, `names` its operands in order."""

    name = "hpcc_tile.run"
    function = prop_def(StringAttr)
    names = prop_def(ArrayAttr[StringAttr])
    buffers = var_operand_def(AnyBuffer)
    immediates = prop_def(DictionaryAttr)
    layer = prop_def(StringAttr)
    stage = opt_prop_def(IntegerAttr[I64])
    waits = opt_prop_def(DenseArrayBase.constr(i64))
    signals = opt_prop_def(DenseArrayBase.constr(i64))

    def __init__(
        self,
        function: str,
        operands: Mapping[str, SSAValue],
        immediates: Mapping[str, int | float],
        layer: str,
        *,
        stage: int = 0,
        waits: Sequence[int] = (),
        signals: Sequence[int] = (),
    ) -> None:
        properties: dict[str, Attribute | None] = {
            "function": text_attr(function),
            "names": names_attr(tuple(operands)),
            "immediates": immediates_attr(function, tuple(sorted(immediates.items()))),
            "layer": text_attr(layer),
            "stage": integer_attr(stage) if stage else None,
            "waits": numbers_attr(tuple(waits)) if waits else None,
            "signals": numbers_attr(tuple(signals)) if signals else None,
        }
        make(self, properties, tuple(operands.values()))

    @property
    def row(self) -> isa.Function:
        return isa.BY_NAME[self.function.data]

    @property
    def named(self) -> dict[str, SSAValue]:
        return {name.data: value for name, value in zip(self.names, self.buffers, strict=True)}

    @property
    def values(self) -> dict[str, int | float]:
        """The immediates as Python numbers."""
        result: dict[str, int | float] = {}
        for name, attr in self.immediates.data.items():
            assert isinstance(attr, IntegerAttr | FloatAttr)
            result[name] = attr.value.data
        return result

    def verify_(self) -> None:
        row = isa.BY_NAME.get(self.function.data)
        if row is None:
            raise VerifyException(f"{self.function.data!r} is no instruction")
        if len(self.names) != len(self.buffers):
            raise VerifyException("one name per operand")
        if len(self.named) != len(self.names):
            raise VerifyException(f"an operand of {row.name} is named twice")
        known = {operand.name: operand for operand in row.operands}
        values = self.immediates.data
        for name, value in self.named.items():
            _check_buffer(value.type, strided=True)
            operand = known.get(name)
            if operand is None:
                raise VerifyException(f"{row.name} has no operand {name!r}")
            expected = operand.memory
            selector = values.get(operand.selector) if operand.selector else None
            if isinstance(selector, IntegerAttr) and selector.value.data:
                assert operand.alternative is not None
                expected = operand.alternative
            if memory_of(value.type) is not expected:
                raise VerifyException(f"operand {name!r} of {row.name} lies in {expected.value}, not in {value.type}")
        for operand in row.operands:
            if not operand.optional and operand.name not in self.named:
                raise VerifyException(f"{row.name} needs operand {operand.name!r}")
        fields = {field.name: field for field in row.immediates}
        for name, attr in values.items():
            if name not in fields:
                raise VerifyException(f"{row.name} has no immediate {name!r}")
            check_immediate(fields[name], attr)
        for required in fields.keys() - values.keys():
            raise VerifyException(f"{row.name} needs immediate {required!r}")
        if self.stage is not None and self.stage.value.data not in (0, 1):
            raise VerifyException("a loop has two stages, 0 and 1")
        for numbers, limit in ((self.waits, isa.MAX_WAITS), (self.signals, isa.MAX_SIGNALS)):
            check_semaphores(numbers, limit)

    @classmethod
    def parse(cls, parser: Parser) -> RunOp:
        function = StringAttr(parser.parse_str_literal())
        names: list[StringAttr] = []
        operands: list[SSAValue] = []

        def operand() -> None:
            names.append(StringAttr(parser.parse_identifier()))
            parser.parse_punctuation("=")
            value = parser.parse_unresolved_operand()
            parser.parse_punctuation(":")
            operands.append(parser.resolve_operand(value, parser.parse_type()))

        parser.parse_comma_separated_list(parser.Delimiter.PAREN, operand)
        immediates = parser.parse_optional_dictionary_attr_dict()
        parser.parse_keyword("layer")
        properties: dict[str, Attribute | None] = {
            "function": function,
            "names": ArrayAttr(names),
            "immediates": DictionaryAttr(immediates),
            "layer": StringAttr(parser.parse_str_literal()),
        }
        if parser.parse_optional_keyword("stage"):
            properties["stage"] = IntegerAttr(parser.parse_integer(), 64)
        for keyword, prop in (("wait", "waits"), ("signal", "signals")):
            if parser.parse_optional_keyword(keyword):
                numbers = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
                properties[prop] = DenseArrayBase.from_list(i64, numbers)
        return RunOp.build(operands=[operands], properties=properties, attributes=_parse_extra(parser))

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_string_literal(self.function.data)
        printer.print_string(" (")

        def operand(item: tuple[str, SSAValue]) -> None:
            printer.print_string(f"{item[0]} = ")
            printer.print_ssa_value(item[1])
            printer.print_string(" : ")
            printer.print_attribute(item[1].type)

        printer.print_list(self.named.items(), operand)
        printer.print_string(") {")
        printer.print_list(self.immediates.data.items(), lambda item: printer.print_string(f"{item[0]} = {item[1]}"))
        printer.print_string("} layer ")
        printer.print_string_literal(self.layer.data)
        if self.stage is not None:
            printer.print_string(f" stage {self.stage.value.data}")
        for keyword, numbers in (("wait", self.waits), ("signal", self.signals)):
            if numbers is not None:
                printer.print_string(f" {keyword} {list(numbers_of(numbers))}")
        printer.print_op_attributes(self.attributes, print_keyword=True)


def single_block(counter_hint: str | None = None) -> tuple[Region, Block]:
    """A region with one block taking a loop counter."""
    block = Block(arg_types=[IndexType()])
    if counter_hint:
        block.args[0].name_hint = counter_hint
    return Region(block), block


def walk_runs(op: Operation) -> list[RunOp]:
    return [inner for inner in op.walk() if isinstance(inner, RunOp)]


TILE = Dialect("hpcc_tile", [AllocOp, DramOp, ViewOp, ForOp, RunOp], [])
