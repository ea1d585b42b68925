"""`hpcc-schedule`: order, addresses, double buffers, dependence tokens, and the loops rolled up again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    IntegerAttr,
    ModuleOp,
    NameLoc,
    StringAttr,
    i64,
)
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap
from xdsl.passes import ModulePass

from compiler.backends.fpga.allocation import aligned, allocate, capacities, place
from compiler.backends.fpga.machine import machine_of
from compiler.backends.fpga.ordering import COUNTED, Order, makespan, orders, task_costs
from compiler.backends.fpga.rolling import Item, Loop, roll
from compiler.backends.fpga.semaphores import Dependencies, SemaphorePair, assign_semaphores, dependencies_by_part
from compiler.backends.fpga.tasks import Instance, Rectangle, Task, flatten, is_pause, parts_of_program
from compiler.dialects.tile import AllocOp, DramOp, ForOp, RunOp, ViewOp, parts_of, single_block
from compiler.module import main_function
from hw_targets.isa import LOOP_LEVELS, Memory
from hw_targets.target import Target
from hw_targets.timing import Cost


@dataclass(frozen=True)
class SchedulePass(ModulePass):
    """Order the tiled program and place it on the target. Raises InfeasibleError where it does not fit.

    `order`: "fastest" takes what list scheduling finds where that is faster; "tiled" keeps the order of the tiles.
    """

    name: ClassVar[str] = "hpcc-schedule"
    target: str = "fpga-u280"
    order: str = "fastest"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        schedule_module(op, machine_of(op, self.target), listed=self.order != "tiled")


def schedule_module(
    module: ModuleOp, target: Target, *, listed: bool = True, unrolled: Sequence[Task] | None = None
) -> None:
    """The pass for a target that need not be a file; `listed` also looks for a faster order than that of the tiles.
    `unrolled` is the module's program as `tile_module` returned it, where that is at hand."""
    function = main_function(module)
    tasks, used, needed = _placed(unrolled or flatten(function.body.block), target, listed)
    pairs = assign_semaphores(tasks, needed)
    block = _Writer().write(roll(_items(tasks), LOOP_LEVELS))
    block.add_op(ReturnOp())
    function.body.detach_block(function.body.block)
    function.body.add_block(block)
    function.attributes["semaphores"] = ArrayAttr([_semaphore(pair) for pair in pairs])
    function.attributes["sizes"] = DictionaryAttr({memory.value: IntegerAttr(used.get(memory, 0), i64) for memory in Memory})


class _Placed(NamedTuple):
    """Tasks in their order, bytes used of every memory, and what waits for what in every part."""

    tasks: Sequence[Task]
    used: dict[Memory, int]
    needed: list[Dependencies]


def _placed(tasks: Sequence[Task], target: Target, listed: bool) -> _Placed:
    """The tasks in the fastest order that fits: as they were tiled, or as list scheduling finds."""
    capacity = capacities(target)
    tiled, used = allocate(tasks, capacity)
    needed = dependencies_by_part(tiled)
    costs = task_costs(tasks, target) if listed else {}
    candidates = _orders(tasks, costs, capacity) if listed else []
    least, chosen = _makespan(tiled, needed, costs) if candidates else 0, None
    for order in candidates:
        if order.cycles >= least:
            break
        place(order.tasks, order.addresses, capacity)
        own = dependencies_by_part(order.tasks)
        cycles = _makespan(order.tasks, own, costs)
        if cycles < least:
            least, chosen, needed = cycles, order, own
    # Addresses lie in the buffers themselves: whoever is chosen is placed last.
    if chosen is not None:
        return _Placed(chosen.tasks, place(chosen.tasks, chosen.addresses, capacity), needed)
    if candidates:
        tiled, used = allocate(tasks, capacity)
    return _Placed(tiled, used, needed)


def _makespan(tasks: Sequence[Task], needed: Sequence[Dependencies], costs: Mapping[Task, Cost]) -> int:
    parts = parts_of_program(tasks)
    return sum(makespan(part, own, costs) for part, own in zip(parts, needed, strict=True))


def _orders(tasks: Sequence[Task], costs: Mapping[Task, Cost], capacity: Mapping[Memory, int]) -> list[Order]:
    """`orders` of every part of a program, the fastest of each, then the second, one behind the other.

    What several parts use stays in one place from the first to the last, at the end of its memory.
    """
    parts = parts_of_program(tasks)
    if len(parts) == 1:
        return orders(tasks, costs, capacity)
    users: dict[Instance, set[int]] = {}
    for number, part in enumerate(parts):
        for instance in (rect.instance for task in part for rect in task.operands.values()):
            users.setdefault(instance, set()).add(number)
    left, placed = dict(capacity), dict[Instance, int]()
    for instance, numbers in users.items():
        if len(numbers) > 1 and instance.memory in COUNTED:
            left[instance.memory] -= aligned(instance.bytes)
            placed[instance] = left[instance.memory]
    if min(left.values()) < 0:
        return []
    found = [orders(part, costs, left, placed) for part in parts]
    pauses = [task for task in tasks if is_pause(task)]
    return [_joined(list(choice), pauses) for choice in zip(*found, strict=False)]


def _joined(choice: Sequence[Order], pauses: Sequence[Task]) -> Order:
    """Orders of parts one after another."""
    tasks = list(choice[0].tasks)
    for pause, order in zip(pauses, choice[1:], strict=True):
        tasks += [pause, *order.tasks]
    addresses = {instance: address for order in choice for instance, address in order.addresses.items()}
    return Order(tasks, sum(order.cycles for order in choice), addresses)


def _semaphore(pair: SemaphorePair) -> DictionaryAttr:
    return DictionaryAttr({"producer": StringAttr(pair.producer.value), "consumer": StringAttr(pair.consumer.value)})


class _Numbering:
    """Equal attributes have one number, which is quicker to compare than they are."""

    def __init__(self) -> None:
        self._by_identity: dict[int, int] = {}
        self._by_value: dict[Attribute, int] = {}

    def of(self, attr: Attribute) -> int:
        """The number of an attribute, which lives as long as this."""
        number = self._by_identity.get(id(attr))
        if number is None:
            number = self._by_identity[id(attr)] = self._by_value.setdefault(attr, len(self._by_value))
        return number


def _items(tasks: Sequence[Task]) -> list[Item]:
    """Of every task what must be equal for two of them to share a loop body, and the origins that may move."""
    number = _Numbering().of
    result: list[Item] = []
    for task in tasks:
        op = task.op
        location = op.location.desc.data if isinstance(op.location, NameLoc) else ""
        operands = tuple(
            (name, rect.instance.label, rect.instance.address, number(rect.instance.type), number(rect.type))
            for name, rect in task.operands.items()
        )
        waits, signals = tuple(task.waits), tuple(task.signals)
        key = (op.function.data, operands, number(op.immediates), op.layer.data, location, waits, signals)
        coordinates = tuple(v for rect in task.operands.values() for v in (rect.row, rect.col))
        result.append(Item(key, coordinates, task))
    return result


class _Move(NamedTuple):
    """How far an operand's origin moves with each iteration of one loop."""

    counter: SSAValue
    row: int
    col: int


class _Writer:
    """Writes rolled tasks as `hpcc_tile` ops: one alloc per placed buffer, one view per operand."""

    def __init__(self) -> None:
        self._by_instance: dict[Instance, SSAValue] = {}
        self._by_place: dict[tuple[str, int, Attribute], SSAValue] = {}
        self._block = Block()

    def write(self, nodes: Sequence[Item | Loop]) -> Block:
        top: list[Operation] = []
        for node in nodes:
            top += self._node(node, (), ())
        self._block.add_ops(top)
        return self._block

    def _node(
        self, node: Item | Loop, counters: tuple[SSAValue, ...], steps: tuple[tuple[int, ...], ...]
    ) -> list[Operation]:
        if isinstance(node, Item):
            return self._task(node, counters, steps)
        region, block = single_block()
        cursor = 0
        for inner, own in zip(node.body, node.steps, strict=True):
            width = len(inner.coordinates)
            outer = tuple(s[cursor : cursor + width] for s in steps)
            block.add_ops(self._node(inner, (*counters, block.args[0]), (*outer, own)))
            cursor += width
        return [ForOp(node.count, region)]

    def _task(self, item: Item, counters: tuple[SSAValue, ...], steps: tuple[tuple[int, ...], ...]) -> list[Operation]:
        task = item.payload
        assert isinstance(task, Task)
        ops: list[Operation] = []
        operands: dict[str, SSAValue] = {}
        for number, (name, rect) in enumerate(task.operands.items()):
            moves = [_Move(counter, s[2 * number], s[2 * number + 1]) for counter, s in zip(counters, steps, strict=True)]
            operands[name] = self._operand(rect, moves, ops)
        op = task.op
        run = RunOp(op.function.data, operands, op.values, op.layer.data, waits=task.waits, signals=task.signals)
        run.location = op.location
        return [*ops, run]

    def _operand(self, rect: Rectangle, moves: list[_Move], ops: list[Operation]) -> SSAValue:
        base = self._buffer(rect.instance)
        moving = [move for move in moves if move.row or move.col]
        if not moving and (rect.row, rect.col) == (0, 0) and (rect.type is base.type or rect.type == base.type):
            return base
        exprs: list[AffineExpr] = []
        for constant, steps in ((rect.row, [m.row for m in moving]), (rect.col, [m.col for m in moving])):
            expr: AffineExpr | None = None
            for dim, step in enumerate(steps):
                if step:
                    term = AffineExpr.dimension(dim) * step
                    expr = term if expr is None else expr + term
            exprs.append(AffineExpr.constant(constant) if expr is None else expr + constant if constant else expr)
        view = ViewOp(base, [m.counter for m in moving], AffineMap(len(moving), 0, tuple(exprs)), rect.type)
        ops.append(view)
        return view.result

    def _buffer(self, instance: Instance) -> SSAValue:
        known = self._by_instance.get(instance)
        if known is None:
            place = (instance.label, instance.address, instance.type)
            if place not in self._by_place:
                self._by_place[place] = self._copy(instance)
            known = self._by_instance[instance] = self._by_place[place]
        return known

    def _copy(self, instance: Instance) -> SSAValue:
        op = instance.op
        if isinstance(op, AllocOp):
            copy: AllocOp | DramOp = AllocOp(op.label.data, instance.type, instance.address)
        else:
            content = [key.data for key in op.content]
            copy = DramOp(
                op.kind.data, op.label.data, instance.type, content, op.encoding, instance.address, parts_of(op.parts)
            )
        copy.location = op.location
        self._block.add_op(copy)
        return copy.result
