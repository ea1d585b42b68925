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
from itertools import takewhile

from compiler.backends.fpga.allocation import aligned, is_streamed, pool_of
from compiler.backends.fpga.room import Foresight, Room
from compiler.backends.fpga.semaphores import QUEUE_INDEX, QUEUES, Extent, placed_dependencies, rectangles_overlap
from compiler.backends.fpga.tasks import Instance, Task
from hw_targets.codec import Place, Resolved
from hw_targets.isa import Memory, Queue
from hw_targets.target import Target
from hw_targets.timing import Cost, cost, transfer

SKEWS = (0.0, 0.25, 0.5, 1.0, 2.0, 8.0)
"""Shares of one layer's time by which the first tokens of a batch run ahead of the last ones."""

MOST_TASKS = 8192
"""Longer programs keep the order that they were tiled in, which rolls up into loops; a list has an instruction a task."""

REACHES = (1 << 30, 32)
"""How many tasks in the tiled order a task may be ahead of the first that has not started: as many as there are, or few
where memories are so small that many would cut them up."""

PLANNED_REACHES = (128, 32, 4)
"""The same where what lasts waits for its place in the tiled order: a memory that one large buffer nearly fills has no room
for it anywhere else."""


@dataclass(frozen=True)
class Order:
    """Tasks by start time, the cycles that the scheduler reckons with, and where each buffer on the chip lies."""

    tasks: list[Task]
    cycles: int
    addresses: dict[Instance, int]


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
        """Cycles from the start of each task to the end of the program along its longest way.

        What is gathered in one accumulator is needed at one time, so all of it is as urgent as the most urgent part; loads
        are needed when the task is that they are for.
        """
        result = [0] * len(self.tasks)
        gathered: dict[Instance, list[int]] = {}
        for index in range(len(self.tasks) - 1, -1, -1):
            task = self.tasks[index]
            result[index] = max((result[later] for later in self.after[index]), default=0)
            if task.queue is not Queue.LOAD:
                result[index] += sum(self.costs[index])
            if task.queue is Queue.MATRIX:
                gathered.setdefault(task.operands["acc"].instance, []).append(index)
        for parts in gathered.values():
            longest = max(result[index] for index in parts)
            for index in parts:
                result[index] = longest
        for index, task in enumerate(self.tasks):
            if task.queue is Queue.LOAD:
                result[index] = max((result[later] for later in self.after[index]), default=0)
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


def orders(
    tasks: Sequence[Task], target: Target, capacity: Mapping[Memory, int], placed: Mapping[Instance, int] | None = None
) -> list[Order]:
    """What list scheduling finds with each skew, the fastest first; empty where the memories are too small for any, or
    where the program is too long.

    `tasks` are in an order that computes the right thing, and their buffers have addresses for it; those of the results
    compute the same. `placed` buffers have their addresses and take nothing of the `capacity`.
    """
    if not tasks or len(tasks) > MOST_TASKS:
        return []
    graph = Graph.of(tasks, target)
    ways = graph.ways()
    depth, place = levels(graph)
    layer = max(ways) / (max(depth) + 1)
    urgencies = [[way - skew * layer * at for way, at in zip(ways, place, strict=True)] for skew in SKEWS]
    found: list[Order] = []
    for planned, reaches in ((False, REACHES), (True, PLANNED_REACHES)):
        for reach in reaches if not found or not planned else ():
            listed = (list_schedule(graph, urgency, capacity, reach, placed, planned=planned) for urgency in urgencies)
            fitting = list(takewhile(lambda order: order is not None, listed))
            found += [order for order in fitting if order is not None]
            if len(fitting) == len(SKEWS):
                break
    return sorted(found, key=lambda order: order.cycles)


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


def list_schedule(
    graph: Graph,
    urgency: Sequence[float],
    capacity: Mapping[Memory, int],
    reach: int = REACHES[0],
    placed: Mapping[Instance, int] | None = None,
    *,
    planned: bool = False,
) -> Order | None:
    """Start the most urgent task that can start, unit by unit; None where every ready task waits for memory.

    `planned`: activations that last lie where they do in the tiled order.
    """
    return _Scheduler(graph, urgency, capacity, reach, placed or {}, planned=planned).run()


COUNTED = (Memory.ACC, Memory.ACT, Memory.WEIGHTS, Memory.PARAM)
"""Memories on the chip."""


RESERVE = 0.5
"""Share of a memory that is kept for the first few of every kind of temporary: more of a kind must leave it free, or tasks
that run far ahead would take the room that what they wait for needs."""


class _Scheduler:
    def __init__(
        self,
        graph: Graph,
        urgency: Sequence[float],
        capacity: Mapping[Memory, int],
        reach: int,
        placed: Mapping[Instance, int],
        *,
        planned: bool,
    ) -> None:
        self.graph = graph
        self.planned = planned
        self.urgency = urgency
        self.reach = reach
        self.instances = [_instances(task, placed) for task in graph.tasks]
        self.room = {memory: Room(capacity[memory]) for memory in COUNTED}
        self.foresight = {memory: Foresight(capacity[memory], len(graph.tasks)) for memory in COUNTED}
        self.reserve = {memory: int(RESERVE * capacity[memory]) for memory in COUNTED}
        self.uses: dict[Instance, int] = {}
        self.spans: dict[Instance, tuple[int, int]] = {}
        """First and last task of each buffer in the tiled order."""
        for index, instances in enumerate(self.instances):
            for instance in instances:
                self.uses[instance] = self.uses.get(instance, 0) + 1
                self.spans[instance] = self.spans.get(instance, (index, index))[0], index
        for instance, (first, last) in self.spans.items():
            self.foresight[instance.memory].plan(first, last, aligned(instance.bytes))
        self.addresses = dict(placed)
        self.live: dict[tuple[str, str], int] = {}
        self.waiting = [len(earlier) for earlier in graph.before]
        self.ready: list[list[tuple[float, int]]] = [[] for _ in QUEUES]
        self.starts = [-1] * len(graph.tasks)
        self.oldest = 0
        """The first task that has not started."""

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
                while self.oldest < len(self.starts) and self.starts[self.oldest] >= 0:
                    self.oldest += 1
                busy_until[queue] = now + max(busy, 1)
                heappush(happenings, (busy_until[queue], -1))
                heappush(happenings, (now + max(busy + latency, 1), index))
            if not happenings:
                return None
            now = happenings[0][0]
            while happenings and happenings[0][0] == now:
                self._complete(heappop(happenings)[1])
        end = max(start + sum(cost) for start, cost in zip(self.starts, graph.costs, strict=True))
        order = sorted(range(len(graph.tasks)), key=lambda index: (self.starts[index], index))
        return Order([graph.tasks[index] for index in order], end, self.addresses)

    def _make_ready(self, index: int) -> None:
        queue = QUEUE_INDEX[self.graph.tasks[index].queue]
        heappush(self.ready[queue], (-self.urgency[index], index))

    def _next(self, queue: int) -> int:
        """Take the most urgent ready task of a unit whose results have room; -1 if there is none.

        One that waits for room in a memory is overtaken only by what stands before it in the tiled order.
        """
        heap, passed, found = self.ready[queue], list[tuple[float, int]](), -1
        blocked: dict[Memory, int] = {}
        while heap:
            entry = heappop(heap)
            if entry[1] < self.oldest + self.reach and self._take_memory(entry[1], blocked):
                found = entry[1]
                break
            passed.append(entry)
        for entry in passed:
            heappush(heap, entry)
        return found

    def _take_memory(self, index: int, blocked: dict[Memory, int]) -> bool:
        """Take room for what a task writes first; where there is none, say in which memory."""
        new = [instance for instance in self.instances[index] if instance not in self.addresses]
        for instance in new:
            memory = instance.memory
            if index > blocked.get(memory, index) or self._one_of_many(index, instance):
                return False
            if not self.foresight[memory].allows(self.oldest, self.spans[instance][0], aligned(instance.bytes)):
                blocked[memory] = index
                return False
        lasts = not is_streamed(self.graph.tasks[index])
        for number, instance in enumerate(new):
            address = self._address(instance, lasts=lasts and not instance.rotates)
            if address is None:
                for taken in new[:number]:
                    self.room[taken.memory].give_back(self.addresses.pop(taken), aligned(taken.bytes))
                blocked[instance.memory] = index
                return False
            self.addresses[instance] = address
        for instance in new:
            self.foresight[instance.memory].take_early(self.spans[instance][0], aligned(instance.bytes))
            pool = pool_of(instance)
            self.live[pool] = self.live.get(pool, 0) + 1
        return True

    def _address(self, instance: Instance, *, lasts: bool) -> int | None:
        """Room for one buffer, if there is any."""
        room, size = self.room[instance.memory], aligned(instance.bytes)
        if self.planned and lasts and instance.memory is Memory.ACT:
            return room.take_at(instance.address, size)
        return room.take(size, high=lasts)

    def _one_of_many(self, index: int, instance: Instance) -> bool:
        """Whether a temporary is for later: there are as many of its kind as it has slots, and little room for more."""
        if index == self.oldest or not instance.rotates or self.live.get(pool_of(instance), 0) < instance.slots:
            return False
        return self.room[instance.memory].free - aligned(instance.bytes) < self.reserve[instance.memory]

    def _complete(self, index: int) -> None:
        if index < 0:
            return
        for instance in self.instances[index]:
            self.uses[instance] -= 1
            if not self.uses[instance]:
                size = aligned(instance.bytes)
                self.room[instance.memory].give_back(self.addresses[instance], size)
                self.foresight[instance.memory].give_back(self.spans[instance][1], size)
                self.live[pool_of(instance)] -= 1
        for later in self.graph.after[index]:
            self.waiting[later] -= 1
            if not self.waiting[later]:
                self._make_ready(later)


def _instances(task: Task, placed: Mapping[Instance, int]) -> list[Instance]:
    """The buffers of the counted memories that a task touches and that are not placed yet."""
    return list(
        dict.fromkeys(
            r.instance for r in task.operands.values() if r.instance.memory in COUNTED and r.instance not in placed
        )
    )
