"""The order of tasks: list scheduling by critical path over everything that is ready, across layer borders.

Tasks start when what they read is there and their unit is free. Of several that could start, the one with the longest
way to the end goes first; `skew` puts tasks of earlier tokens ahead by as much, so that one tile multiplies its
feed-forward layer while VECTOR works on the attention of the next. Which skew is best depends on the model and the
target, so several are tried. Memories are counted while it goes: a task that would fill one waits.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import takewhile

from compiler.backends.fpga.allocation import aligned, is_streamed, pool_of
from compiler.backends.fpga.overlaps import Overlaps
from compiler.backends.fpga.room import Foresight, Room
from compiler.backends.fpga.semaphores import QUEUE_INDEX, QUEUES, Dependencies
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


COUNTED = (Memory.ACC, Memory.ACT, Memory.WEIGHTS, Memory.PARAM)
"""Memories on the chip."""


@dataclass(frozen=True)
class Order:
    """Tasks by start time, the cycles that the scheduler reckons with, and where each buffer on the chip lies."""

    tasks: list[Task]
    cycles: int
    addresses: dict[Instance, int]


@dataclass(frozen=True, eq=False)
class Buffer:
    """A buffer on the chip that has no address yet, as the scheduler looks at it again and again."""

    instance: Instance
    memory: int
    """Place in `COUNTED`."""
    size: int
    """Bytes, aligned."""
    kind: tuple[str, str]
    slots: int
    """How many of its kind there may be while room is short; 0 where it is no temporary."""
    users: list[int]
    """Tasks that touch it, in the tiled order."""


@dataclass(frozen=True)
class Graph:
    """Tasks with what they wait for and what waits for them, their costs, and the buffers that they touch.

    `placed` buffers have their addresses.
    """

    tasks: Sequence[Task]
    before: list[list[int]]
    after: list[list[int]]
    costs: list[Cost]
    buffers: list[list[Buffer]]
    placed: Mapping[Instance, int]

    @classmethod
    def of(cls, tasks: Sequence[Task], costs: Mapping[Task, Cost], placed: Mapping[Instance, int] | None = None) -> Graph:
        before = dependencies(tasks)
        after: list[list[int]] = [[] for _ in tasks]
        for index, earlier in enumerate(before):
            for producer in earlier:
                after[producer].append(index)
        placed = placed or {}
        return cls(tasks, before, after, [costs[task] for task in tasks], buffers_of(tasks, placed), placed)

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


def task_costs(tasks: Sequence[Task], target: Target) -> dict[Task, Cost]:
    """Busy cycles and latency of every task alone."""
    known: dict[tuple[object, ...], Cost] = {}
    result: dict[Task, Cost] = {}
    for task in tasks:
        values = task.op.values
        name = task.op.function.data
        shape = tuple((operand, rect.rows, rect.row_bytes, rect.pitch) for operand, rect in task.operands.items())
        key = (name, shape, *values.values())
        if key not in known:
            known[key] = _cost(name, task, values, target)
        result[task] = known[key]
    return result


def _cost(name: str, task: Task, values: Mapping[str, int | float], target: Target) -> Cost:
    places = {o: Place(r.instance.memory, r.offset, r.pitch) for o, r in task.operands.items()}
    instruction = Resolved(0, name, task.queue, 0, (), (), (), places, values)
    if task.queue in (Queue.LOAD, Queue.STORE):
        moved = transfer(instruction, target)
        return Cost(moved.busy, moved.latency)
    return cost(instruction, target.accelerator)


@dataclass
class _Users:
    """Tasks that touched a rectangle and that a later one must come after."""

    readers: list[int] = field(default_factory=list)
    writers: list[int] = field(default_factory=list)


def dependencies(tasks: Sequence[Task]) -> list[list[int]]:
    """For each task the earlier ones that it must come after: writers of what it reads, all users of what it writes."""
    logs: dict[Instance, Overlaps[_Users]] = {}
    result: list[list[int]] = []
    for index, task in enumerate(tasks):
        needed: set[int] = set()
        touched: list[tuple[_Users, bool]] = []
        for rect, writes in task.accesses:
            overlapping = logs.setdefault(rect.instance, Overlaps(_Users)).at(rect.extent)
            for users in overlapping:
                needed.update(users.writers)
                if writes:
                    needed.update(users.readers)
            touched.append((overlapping[0], writes))
        for users, writes in touched:
            if writes:
                users.readers, users.writers = [], [index]
            else:
                users.readers.append(index)
        needed.discard(index)
        result.append(sorted(needed))
    return result


def buffers_of(tasks: Sequence[Task], placed: Mapping[Instance, int]) -> list[list[Buffer]]:
    """The buffers of the counted memories that each task touches, but those that are `placed`."""
    known: dict[Instance, Buffer] = {}
    result: list[list[Buffer]] = []
    for index, task in enumerate(tasks):
        touched: list[Buffer] = []
        for instance in dict.fromkeys(rect.instance for rect in task.operands.values()):
            if instance.memory in COUNTED and instance not in placed:
                if instance not in known:
                    slots = instance.slots if instance.rotates else 0
                    memory, size = COUNTED.index(instance.memory), aligned(instance.bytes)
                    known[instance] = Buffer(instance, memory, size, pool_of(instance), slots, [])
                known[instance].users.append(index)
                touched.append(known[instance])
        result.append(touched)
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
        for rect, writes in task.accesses:
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
    tasks: Sequence[Task],
    costs: Mapping[Task, Cost],
    capacity: Mapping[Memory, int],
    placed: Mapping[Instance, int] | None = None,
) -> list[Order]:
    """What list scheduling finds with each skew, the fastest first; empty where the memories are too small for any, or
    where the program is too long.

    `tasks` are in an order that computes the right thing, with addresses for it; those of the results compute the same.
    `placed` buffers have their addresses and take nothing of the `capacity`.
    """
    if not tasks or len(tasks) > MOST_TASKS:
        return []
    graph = Graph.of(tasks, costs, placed)
    ways = graph.ways()
    depth, place = levels(graph)
    layer = max(ways) / (max(depth) + 1)
    urgencies = [[way - skew * layer * at for way, at in zip(ways, place, strict=True)] for skew in SKEWS]
    found: list[Order] = []
    for planned, reaches in ((False, REACHES), (True, PLANNED_REACHES)):
        for reach in reaches if not found or not planned else ():
            listed = (list_schedule(graph, urgency, capacity, reach, planned=planned) for urgency in urgencies)
            fitting = list(takewhile(lambda order: order is not None, listed))
            found += [order for order in fitting if order is not None]
            if len(fitting) == len(SKEWS):
                break
    return sorted(found, key=lambda order: order.cycles)


def makespan(tasks: Sequence[Task], needed: Dependencies, costs: Mapping[Task, Cost]) -> int:
    """Cycles of placed tasks in their order, each unit in turn: what bytes they share decides what waits for what."""
    free, results = [0] * len(QUEUES), [0] * len(tasks)
    for index, task in enumerate(tasks):
        queue, own = QUEUE_INDEX[task.queue], costs[task]
        start = max([free[queue], *(results[earlier] for earlier in needed[index].values())])
        free[queue] = start + own.busy
        results[index] = start + own.busy + own.latency
    return max(results, default=0)


def list_schedule(
    graph: Graph,
    urgency: Sequence[float],
    capacity: Mapping[Memory, int],
    reach: int = REACHES[0],
    *,
    planned: bool = False,
) -> Order | None:
    """Start the most urgent task that can start, unit by unit; None where every ready task waits for memory.

    `planned`: activations that last lie where they do in the tiled order.
    """
    return _Scheduler(graph, urgency, capacity, reach, planned=planned).run()


RESERVE = 0.5
"""Share of a memory that is kept for the first few of every kind of temporary: more of a kind must leave it free, or tasks
that run far ahead would take the room that what they wait for needs."""


class _Scheduler:
    def __init__(
        self, graph: Graph, urgency: Sequence[float], capacity: Mapping[Memory, int], reach: int, *, planned: bool
    ) -> None:
        self.graph = graph
        self.planned = planned
        self.urgency = urgency
        self.reach = reach
        self.room = [Room(capacity[memory]) for memory in COUNTED]
        self.foresight = [Foresight(capacity[memory], len(graph.tasks)) for memory in COUNTED]
        self.reserve = [int(RESERVE * capacity[memory]) for memory in COUNTED]
        self.missing = [list(buffers) for buffers in graph.buffers]
        """What each task touches and has no address yet."""
        self.uses = {buffer: len(buffer.users) for buffers in graph.buffers for buffer in buffers}
        """How many tasks that touch a buffer are not complete."""
        for buffer in self.uses:
            self.foresight[buffer.memory].plan(buffer.users[0], buffer.users[-1], buffer.size)
        self.addresses = dict(graph.placed)
        self.live: dict[tuple[str, str], int] = {}
        self.waiting = [len(earlier) for earlier in graph.before]
        self.ready: list[list[tuple[float, int]]] = [[] for _ in QUEUES]
        """The tasks of each unit that wait for nothing but the unit and room, the most urgent first."""
        self.starts = [-1] * len(graph.tasks)
        self.oldest = 0
        """The first task that has not started."""
        self.hopeless = [False] * len(QUEUES)
        """Units for which nothing was found, and nothing has changed since."""

    def run(self) -> Order | None:
        graph = self.graph
        for index, count in enumerate(self.waiting):
            if not count:
                self._make_ready(index)
        busy_until = [0] * len(QUEUES)
        happenings: list[tuple[int, int]] = []  # (cycle, task that is complete then, or -1 where a unit is free)
        now, left = 0, len(graph.tasks)
        while left:
            for queue in range(len(QUEUES)):
                if busy_until[queue] > now or self.hopeless[queue]:
                    continue
                index = self._next(queue)
                if index < 0:
                    continue
                left -= 1
                busy, latency = graph.costs[index]
                self._start(index, now)
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
        insort(self.ready[queue], (-self.urgency[index], index))
        self.hopeless[queue] = False

    def _start(self, index: int, now: int) -> None:
        self.starts[index] = now
        if index == self.oldest:
            while self.oldest < len(self.starts) and self.starts[self.oldest] >= 0:
                self.oldest += 1
            self._has_changed()

    def _has_changed(self) -> None:
        """The oldest task has started, a buffer has its address, or bytes are free: what was refused may be granted now."""
        self.hopeless = [False] * len(QUEUES)

    def _next(self, queue: int) -> int:
        """Take the most urgent ready task of a unit whose results have room; -1 if there is none.

        One that waits for room in a memory is overtaken only by what stands before it in the tiled order.
        """
        ready, missing, horizon = self.ready[queue], self.missing, self.oldest + self.reach
        blocked = [len(missing)] * len(COUNTED)  # for each memory the first task that waits for room there
        for position, (_, index) in enumerate(ready):
            if index >= horizon:
                continue
            new = missing[index]
            if not new or (index <= blocked[new[0].memory] and self._take_memory(index, new, blocked)):
                del ready[position]
                return index
        self.hopeless[queue] = True
        return -1

    def _take_memory(self, index: int, new: list[Buffer], blocked: list[int]) -> bool:
        """Take room for what a task writes first; where there is none, say in which memory."""
        for buffer in new:
            memory = buffer.memory
            if index > blocked[memory] or self._one_of_many(index, buffer):
                return False
            if not self.foresight[memory].allows(self.oldest, buffer.users[0], buffer.size):
                blocked[memory] = index
                return False
        lasts = not is_streamed(self.graph.tasks[index])
        taken: list[int] = []
        for buffer in new:
            address = self._address(buffer, lasts=lasts and not buffer.slots)
            if address is None:
                for other, place in zip(new, taken, strict=False):
                    self.room[other.memory].give_back(place, other.size)
                blocked[buffer.memory] = index
                return False
            taken.append(address)
        for buffer, address in zip(list(new), taken, strict=True):
            self.addresses[buffer.instance] = address
            self.foresight[buffer.memory].take_early(buffer.users[0], buffer.size)
            self.live[buffer.kind] = self.live.get(buffer.kind, 0) + 1
            for user in buffer.users:
                self.missing[user].remove(buffer)
        self._has_changed()
        return True

    def _address(self, buffer: Buffer, *, lasts: bool) -> int | None:
        """Room for one buffer, if there is any."""
        room = self.room[buffer.memory]
        if self.planned and lasts and buffer.instance.memory is Memory.ACT:
            return room.take_at(buffer.instance.address, buffer.size)
        return room.take(buffer.size, high=lasts)

    def _one_of_many(self, index: int, buffer: Buffer) -> bool:
        """Whether a temporary is for later: there are as many of its kind as it has slots, and little room for more."""
        if index == self.oldest or not buffer.slots or self.live.get(buffer.kind, 0) < buffer.slots:
            return False
        return self.room[buffer.memory].free - buffer.size < self.reserve[buffer.memory]

    def _complete(self, index: int) -> None:
        if index < 0:
            return
        for buffer in self.graph.buffers[index]:
            self.uses[buffer] -= 1
            if not self.uses[buffer]:
                self.room[buffer.memory].give_back(self.addresses[buffer.instance], buffer.size)
                self.foresight[buffer.memory].give_back(buffer.users[-1], buffer.size)
                self.live[buffer.kind] -= 1
                self._has_changed()
        for later in self.graph.after[index]:
            self.waiting[later] -= 1
            if not self.waiting[later]:
                self._make_ready(later)
