"""The order of tasks: list scheduling by critical path over everything that is ready, across layer borders.

Tasks start when what they read is there and their unit is free. Of several that could start, the one with the longest
way to the end goes first; `skew` puts tasks of earlier tokens ahead by as much, so that one tile multiplies its
feed-forward layer while VECTOR works on the attention of the next. Which skew is best depends on the model and the
target, so several are tried. Memories are counted while it goes: a task that would fill one waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from compiler.backends.fpga.allocation import is_streamed, pool_of
from compiler.backends.fpga.semaphores import QUEUE_INDEX, QUEUES, Extent, placed_dependencies, rectangles_overlap
from compiler.backends.fpga.tasks import Instance, Task
from compiler.dialects.tile import DramOp
from hw_targets.codec import Place, Resolved
from hw_targets.isa import Memory, Queue
from hw_targets.target import Target
from hw_targets.timing import Cost, cost, transfer

SKEWS = (0.0, 0.25, 0.5, 1.0, 2.0, 8.0)
"""Shares of one layer's time by which the first tokens of a batch run ahead of the last ones."""

MOST_TASKS = 4096
"""Longer programs keep the order that they were tiled in, which rolls up into loops; a list has an instruction a task."""

Span = tuple[int, int]
"""Cycles from the first write of a buffer until its last use is complete."""


@dataclass(frozen=True)
class Order:
    """Tasks by start time, the cycles that the scheduler reckons with, and how long each buffer is in use."""

    tasks: list[Task]
    cycles: int
    spans: dict[Instance, Span]


@dataclass(frozen=True)
class Graph:
    """Tasks with what they wait for and what waits for them, and their costs."""

    tasks: Sequence[Task]
    before: list[list[int]]
    after: list[list[int]]
    costs: list[Cost]

    @classmethod
    def of(cls, tasks: Sequence[Task], target: Target) -> Graph:
        before = dependencies(tasks)
        after: list[list[int]] = [[] for _ in tasks]
        for index, earlier in enumerate(before):
            for producer in earlier:
                after[producer].append(index)
        return cls(tasks, before, after, task_costs(tasks, target))

    def ways(self) -> list[int]:
        """Cycles from the start of each task to the end of the program along its longest way."""
        result = [0] * len(self.tasks)
        for index in range(len(self.tasks) - 1, -1, -1):
            result[index] = max((result[later] for later in self.after[index]), default=0)
            if self.tasks[index].queue is not Queue.LOAD:  # loads come in the order in which they are needed
                result[index] += sum(self.costs[index])
        return result


def task_costs(tasks: Sequence[Task], target: Target) -> list[Cost]:
    """Busy cycles and latency of every task alone."""
    known: dict[tuple[object, ...], Cost] = {}
    result: list[Cost] = []
    for task in tasks:
        values = task.op.values
        name = task.op.function.data
        shape = tuple((operand, rect.rows, rect.row_bytes, rect.pitch) for operand, rect in task.operands.items())
        key = (name, shape, *values.values())
        if key not in known:
            known[key] = _cost(name, task, values, target)
        result.append(known[key])
    return result


def _cost(name: str, task: Task, values: Mapping[str, int | float], target: Target) -> Cost:
    places = {o: Place(r.instance.memory, r.offset, r.pitch) for o, r in task.operands.items()}
    instruction = Resolved(0, name, task.queue, 0, (), (), (), places, values)
    if task.queue in (Queue.LOAD, Queue.STORE):
        moved = transfer(instruction, target)
        return Cost(moved.busy, moved.latency)
    return cost(instruction, target.accelerator)


def dependencies(tasks: Sequence[Task]) -> list[list[int]]:
    """For each task the earlier ones that it must come after: writers of what it reads, all users of what it writes."""
    logs: dict[Instance, dict[Extent, tuple[list[int], list[int]]]] = {}
    result: list[list[int]] = []
    for index, task in enumerate(tasks):
        needed: set[int] = set()
        touched: list[tuple[dict[Extent, tuple[list[int], list[int]]], Extent, bool]] = []
        for rect, writes in task.accesses():
            log = logs.setdefault(rect.instance, {})
            extent = (rect.offset, rect.rows, rect.row_bytes, rect.pitch)
            for other, (readers, writers) in log.items():
                if other == extent or rectangles_overlap(extent, other):
                    needed.update(writers)
                    if writes:
                        needed.update(readers)
            touched.append((log, extent, writes))
        for log, extent, writes in touched:
            if writes:
                log[extent] = ([], [index])
            else:
                log.setdefault(extent, ([], []))[0].append(index)
        needed.discard(index)
        result.append(sorted(needed))
    return result


def levels(graph: Graph) -> tuple[list[int], list[float]]:
    """How many attentions lie before each task, and where in the batch its tokens stand (0: the first, to 1)."""
    depth: list[int] = []
    place: list[float] = []
    writer: dict[Instance, int] = {}
    for index, task in enumerate(graph.tasks):
        below = max((depth[earlier] for earlier in graph.before[index]), default=0)
        depth.append(below + (task.op.function.data == "vector.softmax"))
        position = 0.0
        for rect, writes in task.accesses():
            instance = rect.instance
            if instance.rotates:
                position = max(position, place[writer[instance]] if instance in writer else 0.0)
            elif instance.memory is Memory.ACT:
                position = max(position, rect.row / instance.type.get_shape()[0])
            if writes:
                writer[instance] = index
        place.append(position)
    return depth, place


def orders(tasks: Sequence[Task], target: Target, capacity: Mapping[Memory, int]) -> list[Order]:
    """What list scheduling finds with each skew, the fastest first; empty where the memories are too small for any, where
    activations spill, or where the program is too long.

    `tasks` are in an order that computes the right thing; so are those of the results.
    """
    if not tasks or len(tasks) > MOST_TASKS or _spills(tasks):
        return []
    graph = Graph.of(tasks, target)
    ways = graph.ways()
    depth, place = levels(graph)
    layer = max(ways) / (max(depth) + 1)
    found = (
        list_schedule(graph, [way - skew * layer * at for way, at in zip(ways, place, strict=True)], capacity)
        for skew in SKEWS
    )
    return sorted((order for order in found if order is not None), key=lambda order: order.cycles)


def _spills(tasks: Sequence[Task]) -> bool:
    """Whether activations pass through DRAM: then tiles are cut to fill the memories, and the order follows from that."""
    regions = (rect.instance.op for task in tasks for rect in task.operands.values())
    return any(isinstance(op, DramOp) and op.kind.data == "scratch" for op in regions)


def makespan(tasks: Sequence[Task], target: Target) -> int:
    """Cycles of placed tasks in their order, each unit in turn: what bytes they share decides what waits for what."""
    free, results = [0] * len(QUEUES), [0] * len(tasks)
    for index, (task, needed, own) in enumerate(
        zip(tasks, placed_dependencies(tasks), task_costs(tasks, target), strict=True)
    ):
        queue = QUEUE_INDEX[task.queue]
        start = max([free[queue], *(results[earlier] for earlier in needed.values())])
        free[queue] = start + own.busy
        results[index] = start + own.busy + own.latency
    return max(results, default=0)


def list_schedule(graph: Graph, urgency: Sequence[float], capacity: Mapping[Memory, int]) -> Order | None:
    """Start the most urgent task that can start, unit by unit; None where every ready task waits for memory."""
    return _Scheduler(graph, urgency, capacity).run()


COUNTED = (Memory.ACC, Memory.ACT, Memory.WEIGHTS, Memory.PARAM)
"""Memories on the chip."""

FILL = 0.9
"""Share of a memory that may be in use: the rest is lost between buffers of different sizes."""


RESERVE = {Memory.ACC: 0.5, Memory.ACT: 0.5, Memory.WEIGHTS: 0.0, Memory.PARAM: 0.0}
"""Shares that are kept for the first few of every kind of temporary: more of a kind must leave them free, or tasks that
run far ahead would take the room that what they wait for needs."""


class _Scheduler:
    def __init__(self, graph: Graph, urgency: Sequence[float], capacity: Mapping[Memory, int]) -> None:
        self.graph = graph
        self.urgency = urgency
        self.free = {memory: int(FILL * capacity[memory]) for memory in COUNTED}
        self.reserve = {memory: int(RESERVE[memory] * capacity[memory]) for memory in COUNTED}
        self.loaded_room = self.free[Memory.WEIGHTS] - _kept_beside_weights(graph)
        self.loaded: set[Instance] = set()
        self.live: dict[tuple[str, str], int] = {}
        self.waiting = [len(earlier) for earlier in graph.before]
        self.computing = [sum(graph.tasks[e].queue is not Queue.LOAD for e in earlier) for earlier in graph.before]
        """Results that each task still waits for, loads apart."""
        self.ready: list[list[tuple[float, int]]] = [[] for _ in QUEUES]
        self.instances = [_instances(task) for task in graph.tasks]
        self.uses: dict[Instance, int] = {}
        for instances in self.instances:
            for instance in instances:
                self.uses[instance] = self.uses.get(instance, 0) + 1
        self.starts = [0] * len(graph.tasks)
        self.spans: dict[Instance, Span] = {}

    def run(self) -> Order | None:
        graph = self.graph
        for index, count in enumerate(self.waiting):
            if not count:
                self._make_ready(index)
        for heap in self.ready:
            heapify(heap)
        busy_until = [0] * len(QUEUES)
        happenings: list[tuple[int, int]] = []  # (cycle, task that is complete then, or -1 where a unit is free)
        now, left = 0, len(graph.tasks)
        while left:
            for queue in range(len(QUEUES)):
                if busy_until[queue] > now:
                    continue
                index = self._next(queue)
                if index < 0:
                    continue
                left -= 1
                busy, latency = graph.costs[index]
                self.starts[index] = now
                busy_until[queue] = now + max(busy, 1)
                heappush(happenings, (busy_until[queue], -1))
                heappush(happenings, (now + max(busy + latency, 1), index))
            if not happenings:
                return None
            now = happenings[0][0]
            while happenings and happenings[0][0] == now:
                self._complete(heappop(happenings)[1], now)
        end = max(start + sum(cost) for start, cost in zip(self.starts, graph.costs, strict=True))
        while happenings:
            cycle, index = heappop(happenings)
            self._complete(index, cycle)
        order = sorted(range(len(graph.tasks)), key=lambda index: (self.starts[index], index))
        return Order([graph.tasks[index] for index in order], end, self.spans)

    def _make_ready(self, index: int) -> None:
        queue = QUEUE_INDEX[self.graph.tasks[index].queue]
        heappush(self.ready[queue], (-self.urgency[index], index))

    def _next(self, queue: int) -> int:
        """Take the most urgent ready task of a unit whose results have room; -1 if there is none.

        A task that waits for room in a memory is not overtaken by others that want some of it, unless it only runs ahead.
        """
        heap, passed, found = self.ready[queue], list[tuple[float, int]](), -1
        full: set[Memory] = set()
        while heap:
            entry = heappop(heap)
            if self._take_memory(entry[1], full):
                found = entry[1]
                break
            passed.append(entry)
        for entry in passed:
            heappush(heap, entry)
        return found

    def _take_memory(self, index: int, full: set[Memory]) -> bool:
        """Take room for what a task writes first; where there is none, say in which memory."""
        new = [instance for instance in self.instances[index] if instance not in self.spans]
        for memory in dict.fromkeys(instance.memory for instance in new):
            wanted = [instance for instance in new if instance.memory is memory]
            size = sum(instance.bytes for instance in wanted)
            loaded = memory is Memory.WEIGHTS and is_streamed(self.graph.tasks[index])
            room = self.free[memory]
            ahead = any(self._runs_ahead(index, instance) for instance in wanted)
            if loaded:
                room = min(room, self.loaded_room)
            elif ahead:
                room -= self.reserve[memory]
            if memory in full or size > room:
                if loaded or not ahead:
                    full.add(memory)
                return False
        for instance in new:
            self.free[instance.memory] -= instance.bytes
            self.spans[instance] = (-1, -1)
            pool = pool_of(instance)
            self.live[pool] = self.live.get(pool, 0) + 1
            if instance.memory is Memory.WEIGHTS and is_streamed(self.graph.tasks[index]):
                self.loaded_room -= instance.bytes
                self.loaded.add(instance)
        return True

    def _runs_ahead(self, index: int, instance: Instance) -> bool:
        """Whether a temporary is for later: there are as many of its kind as it has slots, or it is loaded for a task that
        waits for a result, too."""
        if not instance.rotates:
            return False
        if self.live.get(pool_of(instance), 0) >= instance.slots:
            return True
        load = self.graph.tasks[index].queue is Queue.LOAD
        return load and all(self.computing[later] for later in self.graph.after[index])

    def _complete(self, index: int, now: int) -> None:
        if index < 0:
            return
        for instance in self.instances[index]:
            first, _ = self.spans[instance]
            begun = self.starts[index]
            self.spans[instance] = (begun if first < 0 else min(first, begun), now - 1)
            self.uses[instance] -= 1
            if not self.uses[instance]:
                self.free[instance.memory] += instance.bytes
                self.live[pool_of(instance)] -= 1
                if instance in self.loaded:
                    self.loaded_room += instance.bytes
        for later in self.graph.after[index]:
            self.waiting[later] -= 1
            self.computing[later] -= self.graph.tasks[index].queue is not Queue.LOAD
            if not self.waiting[later]:
                self._make_ready(later)


def _kept_beside_weights(graph: Graph) -> int:
    """Bytes of the weight memory that loaded weights must leave: the keys and values of two attentions, or of two heads
    where they are temporaries."""
    depth, _ = levels(graph)
    by_depth: dict[int, int] = {}
    slots: dict[str, int] = {}
    seen: set[Instance] = set()
    for index, task in enumerate(graph.tasks):
        for rect, writes in task.accesses():
            instance = rect.instance
            if not writes or instance.memory is not Memory.WEIGHTS or instance in seen or is_streamed(task):
                continue
            seen.add(instance)
            if instance.rotates:
                slots[instance.label] = max(slots.get(instance.label, 0), instance.slots * instance.bytes)
            else:
                by_depth[depth[index]] = by_depth.get(depth[index], 0) + instance.bytes
    return sum(sorted(by_depth.values())[-2:]) + sum(slots.values())


def _instances(task: Task) -> list[Instance]:
    """The buffers of the counted memories that a task touches."""
    return list(dict.fromkeys(r.instance for r in task.operands.values() if r.instance.memory in COUNTED))
