"""Dependence tokens: which task must wait for which task of another queue, from the bytes that they touch.

One counting semaphore per ordered pair of queues. Vector clocks keep only waits that nothing implies already, and find
the places where a producer could run further ahead than a 4-bit counter can say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from compiler.backends.fpga.overlaps import Overlaps
from compiler.backends.fpga.tasks import Instance, Task, parts_of_program
from hw_targets.isa import SEMAPHORE_MAX, Memory, Queue

QUEUES = (Queue.LOAD, Queue.MATRIX, Queue.VECTOR, Queue.STORE)
QUEUE_INDEX = {queue: index for index, queue in enumerate(QUEUES)}
Clock = tuple[int, ...]


@dataclass(frozen=True)
class SemaphorePair:
    """Semaphore number and the queues it connects."""

    number: int
    producer: Queue
    consumer: Queue


Dependencies = list[dict[int, int]]
"""For each task the latest task of every other queue that it must wait for: {queue index: task index}."""

Accesses = dict[tuple[int, bool], int]
"""The latest task of every queue that touched something, reading or writing: {(queue index, wrote): task index}."""


@dataclass
class _Log:
    """The accesses to one placed buffer that a later one may have to wait for."""

    rectangles: Overlaps[Accesses] = field(default_factory=lambda: Overlaps[Accesses](dict))
    latest: Accesses = field(default_factory=dict)
    neighbours: list[_Log] = field(default_factory=list)
    """Of buffers that lie in some of the same bytes."""


class _Logs:
    """The log of every place that a buffer has."""

    def __init__(self) -> None:
        self._by_instance: dict[Instance, _Log] = {}
        self._by_place: dict[tuple[Memory, int, int, int], _Log] = {}

    def of(self, instance: Instance) -> _Log:
        log = self._by_instance.get(instance)
        if log is None:
            place = (instance.memory, instance.address, instance.bytes, instance.pitch)
            if place not in self._by_place:
                self._by_place[place] = self._beside(place)
            log = self._by_instance[instance] = self._by_place[place]
        return log

    def _beside(self, place: tuple[Memory, int, int, int]) -> _Log:
        memory, start, end = place[0], place[1], place[1] + place[2]
        log = _Log()
        for other, near in self._by_place.items():
            if other[0] is memory and other[1] < end and start < other[1] + other[2]:
                near.neighbours.append(log)
                log.neighbours.append(near)
        return log


def dependencies_by_part(tasks: Sequence[Task]) -> list[Dependencies]:
    """`placed_dependencies` of the tasks between pauses: at a pause everything is complete."""
    return [placed_dependencies(part) for part in parts_of_program(tasks)]


def placed_dependencies(tasks: Sequence[Task]) -> Dependencies:
    """What every task must wait for: tasks of other queues that touch the same bytes, one of them writing. Buffers have
    their addresses."""
    logs = _Logs()
    result: Dependencies = []
    for index, task in enumerate(tasks):
        queue = QUEUE_INDEX[task.queue]
        needed: dict[int, int] = {}
        touched: list[tuple[_Log, Accesses, bool]] = []
        for rect, writes in task.accesses:
            log = logs.of(rect.instance)
            overlapping = log.rectangles.at(rect.extent)
            for accesses in overlapping:
                _require(needed, queue, accesses, writes)
            for other in log.neighbours:
                _require(needed, queue, other.latest, writes)
            touched.append((log, overlapping[0], writes))
        for log, own, writes in touched:
            if writes:
                own.clear()
            own[queue, writes] = log.latest[queue, writes] = index
        result.append(needed)
    return result


def _require(needed: dict[int, int], queue: int, accesses: Accesses, writes: bool) -> None:
    """Note the accesses of other queues that conflict with a new one."""
    for (other, wrote), earlier in accesses.items():
        if other != queue and (wrote or writes) and earlier > needed.get(other, -1):
            needed[other] = earlier


def assign_semaphores(tasks: Sequence[Task], needed: Sequence[Dependencies]) -> list[SemaphorePair]:
    """Fill in waits and signals of every task; returns the semaphores used. `needed` comes of `dependencies_by_part`.

    Program order is a valid sequential order of the result: a wait's signal always stands before it. At a pause everything
    is complete, so nothing waits for what stands before one.
    """
    parts = parts_of_program(tasks)
    edges = [edge for part, own in zip(parts, needed, strict=True) for edge in _edges(part, own)]
    pairs = sorted({(QUEUE_INDEX[p.queue], QUEUE_INDEX[c.queue]) for p, c in edges})
    numbers = {pair: number for number, pair in enumerate(pairs)}
    for producer, consumer in edges:
        number = numbers[QUEUE_INDEX[producer.queue], QUEUE_INDEX[consumer.queue]]
        producer.signals.append(number)
        consumer.waits.append(number)
    for task in tasks:
        task.signals.sort()
        task.waits.sort()
    return [SemaphorePair(numbers[pair], QUEUES[pair[0]], QUEUES[pair[1]]) for pair in pairs]


def _edges(tasks: Sequence[Task], dependencies: Dependencies) -> list[tuple[Task, Task]]:
    """(producer, consumer) of every signal that is needed."""
    needed = [dict(own) for own in dependencies]
    while True:
        edges, overflow = _reduce(tasks, needed)
        if not overflow:
            return [(tasks[producer], tasks[consumer]) for producer, consumer in edges]
        for consumer, producer in overflow:
            queue = QUEUE_INDEX[tasks[producer].queue]
            needed[consumer][queue] = max(needed[consumer].get(queue, -1), producer)


def _reduce(tasks: Sequence[Task], needed: Sequence[dict[int, int]]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The (producer, consumer) edges that nothing implies, and the edges to add where a semaphore could overflow."""
    count = len(QUEUES)
    last: list[Clock] = [(0,) * count] * count  # done-clock of the latest task per queue
    starts: list[Clock] = []
    dones: list[Clock] = []
    positions = [0] * len(tasks)
    lengths = [0] * count
    edges: list[tuple[int, int]] = []
    history: dict[tuple[int, int], list[tuple[int, int]]] = {}
    overflow: list[tuple[int, int]] = []
    for index, task in enumerate(tasks):
        queue = QUEUE_INDEX[task.queue]
        clock = last[queue]
        candidates = [p for q, p in needed[index].items() if positions[p] + 1 > clock[q]]
        kept = [
            p
            for p in candidates
            if not any(o != p and dones[o][QUEUE_INDEX[tasks[p].queue]] > positions[p] for o in candidates)
        ]
        for producer in kept:
            clock = tuple(max(a, b) for a, b in zip(clock, dones[producer], strict=True))
            edges.append((producer, index))
            pair = (QUEUE_INDEX[tasks[producer].queue], queue)
            earlier = history.setdefault(pair, [])
            finished = starts[producer][queue]
            waiting = [entry for entry in earlier[-SEMAPHORE_MAX - 1 :] if positions[entry[1]] + 1 > finished]
            if len(waiting) >= SEMAPHORE_MAX and not overflow:
                oldest = waiting[0]
                if oldest[1] < producer:
                    overflow.append((producer, oldest[1]))  # the producer waits until the counter has room
                else:
                    overflow.append((oldest[1], producer))  # one wait for many signals
            earlier.append((producer, index))
        positions[index] = lengths[queue]
        lengths[queue] += 1
        done = list(clock)
        done[queue] = lengths[queue]
        starts.append(clock)
        dones.append(tuple(done))
        last[queue] = tuple(done)
    return edges, overflow
