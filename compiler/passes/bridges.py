"""Names for values that the ONNX graph has not: a movement of data away from a tensor that it has.

Fusion leaves values that no exporter wrote, such as a linear layer's rows where the graph has a convolution's channels in
front. Where one crosses between device and host it gets a name and, in the module's attribute `hpcc.bridges`, the
transpositions and reshapes that make it of the nearest tensor; compiler/frontend/bridging.py puts these into the ONNX graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from xdsl.dialects.builtin import ArrayAttr, DenseArrayBase, DictionaryAttr, StringAttr
from xdsl.ir import Attribute, Operation, SSAValue

from compiler.dialects import nn

BRIDGES = "hpcc.bridges"
"""Module attribute: {name = {of, there, back}} for every value that is named after a movement."""

Movement = nn.TransposeOp | nn.ReshapeOp


@dataclass(frozen=True)
class Step:
    """A transposition by `numbers`, or a reshape to them."""

    is_transpose: bool
    numbers: tuple[int, ...]

    @staticmethod
    def along(op: Movement) -> Step:
        return Step(True, op.permutation) if isinstance(op, nn.TransposeOp) else Step(False, nn.shape_of(op.result))

    @staticmethod
    def against(op: Movement) -> Step:
        if isinstance(op, nn.TransposeOp):
            return Step(True, tuple(op.permutation.index(axis) for axis in range(len(op.permutation))))
        return Step(False, nn.shape_of(op.x))

    def attribute(self) -> Attribute:
        return DictionaryAttr({"transpose" if self.is_transpose else "reshape": nn.int_array(self.numbers)})


@dataclass(frozen=True)
class Bridge:
    """`there` makes a value of the ONNX tensor `of`; where the graph computes the tensor of the value, `back` says how."""

    of: str
    there: tuple[Step, ...]
    back: tuple[Step, ...] = ()

    def attribute(self) -> Attribute:
        steps = {"there": self.there, "back": self.back}
        lists: dict[str, Attribute] = {name: ArrayAttr([step.attribute() for step in each]) for name, each in steps.items()}
        return DictionaryAttr({"of": StringAttr(self.of), **lists})

    @staticmethod
    def read(entry: Attribute) -> Bridge:
        """The bridge of an attribute."""
        assert isinstance(entry, DictionaryAttr)
        of = entry.data["of"]
        assert isinstance(of, StringAttr)
        return Bridge(of.data, tuple(_steps(entry.data["there"])), tuple(_steps(entry.data["back"])))


def _steps(attribute: Attribute) -> Iterator[Step]:
    assert isinstance(attribute, ArrayAttr)
    for entry in attribute:
        assert isinstance(entry, DictionaryAttr)
        for name, numbers in entry.data.items():
            assert isinstance(numbers, DenseArrayBase)
            yield Step(name == "transpose", nn.int_values(numbers))


def find_bridge(value: SSAValue, name_of: Callable[[SSAValue], str | None], *, for_host: bool) -> Bridge | None:
    """The shortest way to a value without a name from a tensor that is a movement of it or, unless the host reads it, that
    it is a movement of: the host's nodes lead back to the tensors that the graph computes of the value, to no others."""
    chain: list[Movement] = []
    source = value
    while not for_host and isinstance(source.owner, Movement):
        chain.append(source.owner)
        source = source.owner.x
        if name := name_of(source):
            return Bridge(name, tuple(Step.along(op) for op in reversed(chain)))
    for chain in _movements(value):
        if name := name_of(chain[-1].result):
            there = tuple(Step.against(op) for op in reversed(chain))
            return Bridge(name, there, tuple(Step.along(op) for op in chain))
    return None


def _movements(value: SSAValue) -> Iterable[list[Movement]]:
    """The chains of movements that begin at a value, the shortest first."""
    front: list[tuple[SSAValue, list[Movement]]] = [(value, [])]
    while front:
        at, chain = front.pop(0)
        for use in at.uses:
            op: Operation = use.operation
            if isinstance(op, Movement):
                front.append((op.result, [*chain, op]))
                yield [*chain, op]
