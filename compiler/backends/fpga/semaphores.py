"""Dependence tokens: which task must wait for which task of another queue, from the bytes that they touch.

One counting semaphore per ordered pair of queues. Vector clocks keep only waits that nothing implies already, and find
the places where a producer could run further ahead than a 4-bit counter can say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from compiler.backends.fpga.tasks import Instance, Rectangle, Task, parts_of_program
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


Extent = tuple[int, int, int, int]
"""offset, rows, row_bytes, pitch inside one buffer."""


def rectangles_overlap(a: Extent, b: Extent) -> bool:
    """Whether two rectangles of one buffer share a byte. Exact for equal pitches whose rows do not wrap, else safe."""
    a_end = a[0] + (a[1] - 1) * a[3] + a[2]
    b_end = b[0] + (b[1] - 1) * b[3] + b[2]
    if a_end <= b[0] or b_end <= a[0]:
        return False
    if a[1] == 1 and b[1] == 1:
        return True
    pitch = a[3] if a[1] > 1 else b[3]
    if (a[1] > 1 and b[1] > 1 and a[3] != b[3]) or pitch == 0:
        return True
    a_col, b_col = a[0] % pitch, b[0] % pitch
    if a_col + a[2] > pitch or b_col + b[2] > pitch:
        return True
    return a_col < b_col + b[2] and b_col < a_col + a[2]


@dataclass
class _Log:
    """The accesses to one buffer that a later one may have to wait for."""

    by_extent: dict[Extent, dict[tuple[int, bool], int]] = field(default_factory=dict)
    latest: dict[tuple[int, bool], int] = field(default_factory=dict)


def placed_dependencies(tasks: Sequence[Task]) -> list[dict[int, int]]:
    """For each task the latest task of every other queue that touches the same bytes, one of them writing: {queue index:
    task index}. Buffers have their addresses."""
    logs: dict[tuple[Memory, int, int, int], _Log] = {}
    neighbours: dict[tuple[Memory, int, int, int], list[tuple[Memory, int, int, int]]] = {}

    def place(instance: Instance) -> tuple[Memory, int, int, int]:
        return (instance.memory, instance.address, instance.bytes, instance.pitch)

    def log_of(key: tuple[Memory, int, int, int]) -> _Log:
        if key not in logs:
            near = [
                other for other in logs if other[0] is key[0] and other[1] < key[1] + key[2] and key[1] < other[1] + other[2]
            ]
            for other in near:
                neighbours[other].append(key)
            logs[key], neighbours[key] = _Log(), near
        return logs[key]

    result: list[dict[int, int]] = []
    for index, task in enumerate(tasks):
        queue = QUEUE_INDEX[task.queue]
        needed: dict[int, int] = {}

        touched: list[tuple[_Log, Extent, bool]] = []
        for rect, writes in task.accesses():
            key = place(rect.instance)
            log = log_of(key)
            extent = _extent(rect)
            for other_extent, entries in log.by_extent.items():
                if rectangles_overlap(extent, other_extent):
                    _require(needed, queue, entries, writes)
            for other in neighbours[key]:
                _require(needed, queue, logs[other].latest, writes)
            touched.append((log, extent, writes))
        for log, extent, writes in touched:
            if writes:
                log.by_extent[extent] = {}
            log.by_extent.setdefault(extent, {})[queue, writes] = index
            log.latest[queue, writes] = index
        result.append(needed)
    return result


def _require(needed: dict[int, int], queue: int, entries: dict[tuple[int, bool], int], writes: bool) -> None:
    """Note the accesses of other queues that conflict with a new one."""
    for (other, wrote), earlier in entries.items():
        if other != queue and (wrote or writes) and earlier > needed.get(other, -1):
            needed[other] = earlier


def _extent(rect: Rectangle) -> Extent:
    return (rect.offset, rect.rows, rect.row_bytes, rect.pitch)


def assign_semaphores(tasks: Sequence[Task]) -> list[SemaphorePair]:
    """Fill in waits and signals of every task; returns the semaphores used.

    Program order is a valid sequential order of the result: a wait's signal always stands before it. At a pause everything
    is complete, so nothing waits for what stands before one.
    """
    edges = [edge for part in parts_of_program(tasks) for edge in _edges(part)]
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


def _edges(tasks: Sequence[Task]) -> list[tuple[Task, Task]]:
    """(producer, consumer) of every signal that is needed."""
    needed = placed_dependencies(tasks)
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
