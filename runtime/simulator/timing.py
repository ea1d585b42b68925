"""The timing simulator: when every instruction of an expanded program starts and ends, in one pass in program order.

Everything an instruction waits for stands before it in program order: its dispatch (one a cycle, held back by a full
queue), its queue, the signals its waits match, bytes that its own queue is still writing, and the off-chip memory.
Costs come from hw_targets.timing, the steps of unstructured matrices from their own bytes. Not modelled: bank and port
conflicts of the on-chip memories, refresh and row misses of the off-chip one (its efficiency stands for them), and the
instruction fetch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hw_targets.check import Semaphore, accesses
from hw_targets.codec import Resolved
from hw_targets.errors import InputError
from hw_targets.extents import Extent, overlap
from hw_targets.isa import Queue
from hw_targets.storage import storage_of_code
from hw_targets.target import Target
from hw_targets.timing import Cost, cost, matrix_macs, transfer
from runtime.simulator.residents import Decoded, Residents


class Wait(StrEnum):
    """What an instruction started after."""

    DISPATCH = "dispatch"
    QUEUE = "queue"
    SEMAPHORE = "semaphore"
    INTERLOCK = "interlock"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Event:
    """One executed instruction in cycles: it occupies its queue from `start` to `end`, its result is complete at
    `done`.

    It stood at the head of its queue from `head` on, and what it waited for was there at `ready`: it started then,
    unless the off-chip memory was taken. `cause` is what it started after, `blocker` the event that it waited for (-1:
    the dispatch, or the off-chip memory). `after` are the events whose signals it consumed.
    """

    index: int
    node: int
    name: str
    queue: Queue
    start: int
    end: int
    done: int
    cause: Wait
    blocker: int
    head: int
    ready: int
    after: tuple[int, ...]


@dataclass(frozen=True)
class UnitCycles:
    """The cycles of one unit: every one of a run is exactly one of these.

    `semaphore`: the instruction at the head of the queue waits for signals, or for results that its own unit has under
    way; `memory`: it waits for the off-chip memory; `idle`: the queue is empty.
    """

    busy: int
    semaphore: int
    memory: int
    idle: int

    @property
    def total(self) -> int:
        return self.busy + self.semaphore + self.memory + self.idle


UNITS = (Queue.LOAD, Queue.MATRIX, Queue.VECTOR, Queue.STORE)
"""The queues that do work; CONTROL hands it out."""


@dataclass(frozen=True)
class Timing:
    """The result: cycles from the first dispatch until everything is complete, and what happened in them.

    `busy` is the cycles each queue was occupied; bytes and MACs are counted from the instructions executed.
    """

    total: int
    events: tuple[Event, ...]
    busy: Mapping[Queue, int]
    memory_busy: int
    bytes_loaded: int
    bytes_stored: int
    macs_dense: int
    macs_executed: int

    @property
    def units(self) -> dict[Queue, UnitCycles]:
        """What every unit did in every cycle; each of them adds up to `total`."""
        busy, semaphore, memory = (dict.fromkeys(UNITS, 0) for _ in range(3))
        for event in self.events:
            if event.queue in busy:
                busy[event.queue] += event.end - event.start
                semaphore[event.queue] += event.ready - event.head
                memory[event.queue] += event.start - event.ready
        return {
            unit: UnitCycles(
                busy[unit], semaphore[unit], memory[unit], self.total - busy[unit] - semaphore[unit] - memory[unit]
            )
            for unit in UNITS
        }


@dataclass
class _Channels:
    """The off-chip memory's time: one transfer at a time over all channels, in gaps that earlier ones left."""

    starts: list[int] = field(default_factory=lambda: [])
    ends: list[int] = field(default_factory=lambda: [])

    def reserve(self, earliest: int, cycles: int) -> int:
        """Take the first `cycles` free cycles in a row from `earliest` on, and return where they begin."""
        place = bisect_right(self.ends, earliest)
        start = earliest
        while place < len(self.starts) and self.starts[place] < start + cycles:
            start = max(start, self.ends[place])
            place += 1
        end = start + cycles
        first, last = place, place
        if place and self.ends[place - 1] == start:
            first, start_joined = place - 1, self.starts[place - 1]
        else:
            start_joined = start
        if place < len(self.starts) and self.starts[place] == end:
            end, last = self.ends[place], place + 1
        self.starts[first:last] = [start_joined]
        self.ends[first:last] = [end]
        return start


@dataclass
class _QueueState:
    """Where one queue stands."""

    free: int = 0
    done: int = 0
    last: int = -1
    starts: list[int] = field(default_factory=lambda: [])
    writing: list[tuple[int, int, Extent]] = field(default_factory=lambda: [])
    """(done, event, region) of results that may still be under way."""


@dataclass
class _SemaphoreState:
    initial: int
    waits: int = 0
    signals: list[tuple[int, int]] = field(default_factory=lambda: [])
    """(cycle, event) of every signal."""


class _Clock:
    """The pass itself."""

    def __init__(self, semaphores: Sequence[Semaphore], target: Target, decoded: Decoded | None) -> None:
        self.target = target
        self.depth = target.accelerator.queue_depth
        self.queues = {queue: _QueueState() for queue in Queue}
        self.semaphores = [_SemaphoreState(s.initial) for s in semaphores]
        self.channels = _Channels()
        self.residents = Residents(target.accelerator, decoded)
        self.events: list[Event] = []
        self.dispatched = 0
        self.memory_busy = 0
        self.bytes: dict[Queue, int] = {Queue.LOAD: 0, Queue.STORE: 0}
        self.macs = (0, 0)
        self._costs: dict[tuple[object, ...], Cost] = {}

    def execute(self, instruction: Resolved) -> None:
        queue = self.queues[instruction.queue]
        after: list[int] = []
        start, cause, blocker, head = self._ready(instruction, queue, after)
        ready = start
        steps = self.residents.execute(instruction)
        if instruction.queue in (Queue.LOAD, Queue.STORE):
            begins, occupied = self._transfer(instruction, start)
            if begins > start:
                start, cause, blocker = begins, Wait.MEMORY, -1
        else:
            occupied = self._cost(instruction, steps)
        end = start + occupied.busy
        # Results complete in order, which is what makes a signal speak for everything before it in its queue.
        done = max(end + occupied.latency, queue.done)
        number = len(self.events)
        self.events.append(
            Event(
                instruction.index,
                instruction.node,
                instruction.name,
                instruction.queue,
                start,
                end,
                done,
                cause,
                blocker,
                head,
                ready,
                tuple(after),
            )
        )
        queue.free, queue.done, queue.last = end, done, number
        queue.starts.append(start)
        if instruction.queue in (Queue.VECTOR, Queue.LOAD):  # MATRIX and STORE read nothing that they write.
            queue.writing += [(done, number, region) for region, writes in accesses(instruction) if writes]
        for semaphore in instruction.signals:
            self.semaphores[semaphore].signals.append((done, number))
        if instruction.queue is Queue.MATRIX:
            dense, executed = matrix_macs(instruction)
            self.macs = (self.macs[0] + dense, self.macs[1] + executed)

    def _ready(self, instruction: Resolved, queue: _QueueState, after: list[int]) -> tuple[int, Wait, int, int]:
        """(cycle, cause, blocker) of the last thing that the instruction waits for, memory apart, and when it came to the
        head of its queue. The events whose signals it takes are put into `after`."""
        start, cause, blocker = self._dispatch(instruction, queue), Wait.DISPATCH, -1
        if queue.free > start:
            start, cause, blocker = queue.free, Wait.QUEUE, queue.last
        head = start
        for time, event in self._interlocks(instruction, queue, start):
            if time > start:
                start, cause, blocker = time, Wait.INTERLOCK, event
        for number in instruction.waits:
            state = self.semaphores[number]
            matched = state.waits - state.initial
            state.waits += 1
            if matched >= 0:
                time, event = state.signals[matched]
                after.append(event)
                if time > start:
                    start, cause, blocker = time, Wait.SEMAPHORE, event
        if instruction.name in ("control.halt", "control.pause"):
            last = max(self.queues.values(), key=lambda state: state.done)
            if last.done > start:
                start, cause, blocker = last.done, Wait.QUEUE, last.last
        if instruction.queue is Queue.CONTROL:
            self.dispatched = start
        return start, cause, blocker, head

    def _dispatch(self, instruction: Resolved, queue: _QueueState) -> int:
        """When CONTROL hands the instruction over: one a cycle, once its queue has room."""
        time = self.dispatched + 1 if self.events else 0
        if instruction.queue is not Queue.CONTROL and len(queue.starts) >= self.depth:
            time = max(time, queue.starts[len(queue.starts) - self.depth])
        self.dispatched = time
        return time

    def _interlocks(self, instruction: Resolved, queue: _QueueState, now: int) -> list[tuple[int, int]]:
        """(done, event) of unfinished results of the same queue that the instruction reads."""
        queue.writing = [entry for entry in queue.writing if entry[0] > now]
        if not queue.writing:
            return []
        reads = [region for region, writes in accesses(instruction) if not writes]
        return [(done, event) for done, event, written in queue.writing if any(overlap(written, r) for r in reads)]

    def _transfer(self, instruction: Resolved, start: int) -> tuple[int, Cost]:
        """When the off-chip memory takes the transfer, and what it costs the queue."""
        try:
            moved = transfer(instruction, self.target)
        except KeyError as error:
            word = storage_of_code(instruction.integer("format")).name
            message = f"target {self.target.name} decodes no {word} weights"
            raise InputError("HPCC1234", message, where=instruction.place) from error
        begins = self.channels.reserve(start, moved.memory)
        self.memory_busy += moved.memory
        self.bytes[instruction.queue] += moved.bytes
        return begins, Cost(moved.busy, moved.latency)

    def _cost(self, instruction: Resolved, steps: int | None) -> Cost:
        key = (instruction.name, steps, "codes" in instruction.operands, *instruction.immediates.values())
        if key not in self._costs:
            self._costs[key] = cost(instruction, self.target.accelerator, steps)
        return self._costs[key]


def simulate_timing(
    program: Sequence[Resolved], semaphores: Sequence[Semaphore], target: Target, decoded: Decoded | None = None
) -> Timing:
    """Time a checked expansion on a target.

    `decoded` gives the compute layout that a load.weights writes; a program with unstructured matrices cannot be timed
    without. Raises InputError where the target lacks a decoder that the program uses, and for weights that are damaged.
    """
    clock = _Clock(semaphores, target, decoded)
    for instruction in program:
        clock.execute(instruction)
    busy = {queue: 0 for queue in Queue}
    for event in clock.events:
        busy[event.queue] += event.end - event.start
    return Timing(
        max((event.done for event in clock.events), default=0),
        tuple(clock.events),
        busy,
        clock.memory_busy,
        clock.bytes[Queue.LOAD],
        clock.bytes[Queue.STORE],
        *clock.macs,
    )
