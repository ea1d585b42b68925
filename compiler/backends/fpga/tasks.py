"""The unrolled program: one task per instruction, buffers as instances, operands as rectangles of bytes.

`schedule` orders tasks, gives instances addresses and tasks semaphores, and rolls the list up again into loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from xdsl.dialects.builtin import MemRefType
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Block, Operation, SSAValue

from compiler.dialects.tile import AllocOp, DramOp, ForOp, RunOp, ViewOp, element_bytes, memory_of, no_tile_op, row_stride
from hw_targets.isa import Memory, Queue

Extent = tuple[int, int, int, int]
"""offset, rows, row_bytes, pitch inside one buffer."""


@dataclass(eq=False)
class Instance:
    """One buffer of the unrolled program: an alloc or DRAM region, a temporary once per iteration."""

    op: AllocOp | DramOp
    memory: Memory
    type: MemRefType
    bytes: int
    slots: int = 1
    address: int = -1

    @cached_property
    def label(self) -> str:
        return self.op.label.data

    @cached_property
    def rotates(self) -> bool:
        """Whether it is a temporary of one iteration, be it with a single slot."""
        return self.slots > 1 or (isinstance(self.op, AllocOp) and self.op.slots is not None)

    @cached_property
    def pitch(self) -> int:
        """Bytes from row to row."""
        return self.bytes // self.type.get_shape()[0]


@dataclass(frozen=True)
class Rectangle:
    """An operand: `rows` rows of `row_bytes` bytes, `pitch` bytes apart, from (row, col) of an instance."""

    instance: Instance
    row: int
    col: int
    rows: int
    row_bytes: int
    pitch: int
    type: MemRefType

    @cached_property
    def offset(self) -> int:
        return self.row * self.instance.pitch + self.col * element_bytes(self.type)

    @property
    def address(self) -> int:
        return self.instance.address + self.offset

    @cached_property
    def extent(self) -> Extent:
        """Where it lies in its instance."""
        return (self.offset, self.rows, self.row_bytes, self.pitch)


@dataclass(eq=False)
class Task:
    """One instruction of the unrolled program."""

    op: RunOp
    operands: dict[str, Rectangle]
    waits: list[int] = field(default_factory=list)
    signals: list[int] = field(default_factory=list)

    @cached_property
    def queue(self) -> Queue:
        return self.op.row.queue

    @property
    def stage(self) -> int:
        """0, or 1 for what a loop nest may put off until its next first stage is under way."""
        return self.op.stage.value.data if self.op.stage is not None else 0

    @cached_property
    def accesses(self) -> list[tuple[Rectangle, bool]]:
        """The rectangles this task touches, with whether it writes."""
        row = self.op.row
        return [(rect, row.operand(name).access == "w") for name, rect in self.operands.items()]


def is_pause(task: Task) -> bool:
    """Whether the program stops here for the host."""
    return task.op.function.data == "control.pause"


def parts_of_program(tasks: Sequence[Task]) -> list[list[Task]]:
    """The tasks between pauses, which nothing is carried over but what the memories hold."""
    parts: list[list[Task]] = [[]]
    for task in tasks:
        if is_pause(task):
            parts.append([])
        else:
            parts[-1].append(task)
    return parts


def flatten(block: Block) -> list[Task]:
    """Unroll a tile-stage function body. Loop nests with a second stage are software-pipelined by one unit.

    Raises InputError for an op of another stage.
    """
    return _Flattener().block(block, {})


class _Flattener:
    def __init__(self) -> None:
        self._views: dict[SSAValue, tuple[Instance, int, int]] = {}
        self._extents: dict[SSAValue, tuple[int, int, int, MemRefType]] = {}
        """Rows, bytes of a row, pitch and type of a buffer or view: the same in every iteration."""

    def block(self, block: Block, counters: dict[SSAValue, int]) -> list[Task]:
        tasks: list[Task] = []
        for op in block.ops:
            if isinstance(op, ForOp):
                tasks.extend(self._loop(op, counters))
            else:
                tasks.extend(self._op(op, counters))
        return tasks

    def _op(self, op: Operation, counters: dict[SSAValue, int]) -> list[Task]:
        if isinstance(op, RunOp):
            return [Task(op, {name: self._rectangle(value) for name, value in op.named.items()})]
        if isinstance(op, ViewOp):
            source = op.source
            instance, row, col = self._views[source]
            first_row, first_col = op.origin.data.eval([counters[c] for c in op.counters], [])
            step = self._extent(source)[2] // instance.pitch
            self._views[op.result] = (instance, row + first_row * step, col + first_col)
        elif isinstance(op, AllocOp | DramOp):
            rows, row_bytes, _, type = self._extent(op.result)
            slots = op.slots.value.data if isinstance(op, AllocOp) and op.slots is not None else 1
            self._views[op.result] = (Instance(op, memory_of(type), type, rows * row_bytes, slots), 0, 0)
        elif not isinstance(op, ReturnOp):
            raise no_tile_op(op)
        return []

    def _extent(self, value: SSAValue) -> tuple[int, int, int, MemRefType]:
        if value not in self._extents:
            type = value.type
            assert isinstance(type, MemRefType)
            rows, cols = type.get_shape()
            size = element_bytes(type)
            self._extents[value] = rows, cols * size, row_stride(type) * size, type
        return self._extents[value]

    def _rectangle(self, value: SSAValue) -> Rectangle:
        instance, row, col = self._views[value]
        return Rectangle(instance, row, col, *self._extent(value))

    def _loop(self, loop: ForOp, counters: dict[SSAValue, int]) -> list[Task]:
        tasks: list[Task] = []
        for i in range(loop.count.value.data):
            tasks += self.block(loop.body.block, {**counters, loop.counter: i})
        return tasks if counters else _pipelined(tasks)


def _pipelined(tasks: Sequence[Task]) -> list[Task]:
    """The tasks of a whole loop nest, the second stage of each unit moved behind the first stage of the next.

    So MATRIX computes the next scores while VECTOR turns these into probabilities. A unit is one run of first-stage
    tasks and the second-stage tasks after it, whether a loop around them made it or a tail tile beside one.
    """
    units: list[tuple[list[Task], list[Task]]] = [([], [])]
    for task in tasks:
        if not task.stage and units[-1][1]:
            units.append(([], []))
        units[-1][task.stage].append(task)
    result = list(units[0][0])
    for (_, second), (first, _) in pairwise(units):
        result += first + second
    return result + units[-1][1]
