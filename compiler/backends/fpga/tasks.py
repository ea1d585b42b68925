"""The unrolled program: one task per instruction, buffers as instances, operands as rectangles of bytes.

`schedule` orders tasks, gives instances addresses and tasks semaphores, and rolls the list up again into loops.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from xdsl.dialects.builtin import MemRefType
from xdsl.ir import Block, Operation, SSAValue

from compiler.dialects.tile import AllocOp, DramOp, ForOp, RunOp, ViewOp, element_bytes, memory_of, row_stride
from hw_targets.isa import Memory, Queue


@dataclass(eq=False)
class Instance:
    """One buffer of the unrolled program: an alloc or DRAM region, a temporary once per iteration."""

    op: AllocOp | DramOp
    memory: Memory
    type: MemRefType
    bytes: int
    slots: int = 1
    address: int = -1

    @property
    def label(self) -> str:
        return self.op.label.data

    @property
    def pitch(self) -> int:
        """Bytes from row to row."""
        return row_stride(self.type) * element_bytes(self.type)


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

    @property
    def offset(self) -> int:
        return self.row * self.instance.pitch + self.col * element_bytes(self.type)

    @property
    def address(self) -> int:
        return self.instance.address + self.offset


@dataclass(eq=False)
class Task:
    """One instruction of the unrolled program."""

    op: RunOp
    operands: dict[str, Rectangle]
    waits: list[int] = field(default_factory=list)
    signals: list[int] = field(default_factory=list)

    @property
    def queue(self) -> Queue:
        return self.op.row.queue

    def accesses(self) -> list[tuple[Rectangle, bool]]:
        """The rectangles this task touches, with whether it writes."""
        row = self.op.row
        return [(rect, row.operand(name).access == "w") for name, rect in self.operands.items()]


def flatten(block: Block) -> list[Task]:
    """Unroll a tile-stage function body. Loops with a second stage are software-pipelined by one iteration."""
    return _Flattener().block(block, {})


class _Flattener:
    def __init__(self) -> None:
        self._instances: dict[SSAValue, Instance] = {}
        self._views: dict[SSAValue, tuple[Instance, int, int]] = {}

    def block(self, block: Block, counters: dict[SSAValue, int]) -> list[Task]:
        tasks: list[Task] = []
        for op in block.ops:
            if isinstance(op, ForOp):
                tasks.extend(self._loop(op, counters))
            else:
                tasks.extend(self._op(op, counters))
        return tasks

    def _op(self, op: Operation, counters: dict[SSAValue, int]) -> list[Task]:
        if isinstance(op, AllocOp | DramOp):
            type = op.result.type
            assert isinstance(type, MemRefType)
            rows, cols = type.get_shape()
            slots = op.slots.value.data if isinstance(op, AllocOp) and op.slots is not None else 1
            instance = Instance(op, memory_of(type), type, rows * cols * element_bytes(type), slots)
            self._instances[op.result] = instance
            self._views[op.result] = (instance, 0, 0)
        elif isinstance(op, ViewOp):
            instance, row, col = self._views[op.source]
            first_row, first_col = op.origin.data.eval([counters[c] for c in op.counters], [])
            assert isinstance(op.source.type, MemRefType)
            step = row_stride(op.source.type) // row_stride(instance.type)
            self._views[op.result] = (instance, row + first_row * step, col + first_col)
        elif isinstance(op, RunOp):
            return [Task(op, {name: self._rectangle(value) for name, value in op.named.items()})]
        return []

    def _rectangle(self, value: SSAValue) -> Rectangle:
        instance, row, col = self._views[value]
        type = value.type
        assert isinstance(type, MemRefType)
        rows, cols = type.get_shape()
        size = element_bytes(type)
        return Rectangle(instance, row, col, rows, cols * size, row_stride(type) * size, type)

    def _loop(self, loop: ForOp, counters: dict[SSAValue, int]) -> list[Task]:
        iterations = [self.block(loop.body.block, {**counters, loop.counter: i}) for i in range(loop.count.value.data)]
        if not any(isinstance(op, RunOp) and op.stage is not None for op in loop.body.block.ops):
            return [task for iteration in iterations for task in iteration]
        stages = [
            ([t for t in iteration if t.op.stage is None], [t for t in iteration if t.op.stage is not None])
            for iteration in iterations
        ]
        # The second stage of iteration i runs after the first of i + 1, so that MATRIX computes the next scores while
        # VECTOR turns these into probabilities.
        tasks = list(stages[0][0])
        for (first, _), (_, second) in zip(stages[1:], stages[:-1], strict=True):
            tasks += first + second
        return tasks + stages[-1][1]
