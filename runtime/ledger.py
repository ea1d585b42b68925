"""Where the cycles went: every cycle of a run belongs to one layer and one cause, so that the layers add up to the
total.

A cycle in which MATRIX executes belongs to the layer it executes. Any other cycle belongs to what MATRIX then waited
for, found by walking back from its next instruction through the events that held it up: the layer of the event that
was under way, with the cause vector (VECTOR computes), load (LOAD or STORE, or the off-chip memory, are at work),
token (dispatch, or a queue that stood waiting) or drain (the array's pipeline, and all that follows the last
multiplication).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hw_targets.isa import Queue
from hw_targets.target import Target
from runtime.simulator.timing import Event, Timing, Wait


class Cause(StrEnum):
    """What a cycle was spent on."""

    MATRIX = "matrix"
    VECTOR = "vector"
    LOAD = "load"
    TOKEN = "token"
    DRAIN = "drain"


CAUSE_OF: dict[Queue, Cause] = {
    Queue.LOAD: Cause.LOAD,
    Queue.STORE: Cause.LOAD,
    Queue.VECTOR: Cause.VECTOR,
    Queue.MATRIX: Cause.DRAIN,
    Queue.CONTROL: Cause.TOKEN,
}


@dataclass
class LayerCycles:
    """Cycles of one layer by cause; `vector_busy` and `load_busy` are occupied whether MATRIX waits or not."""

    layer: str
    cycles: dict[Cause, int] = field(default_factory=lambda: dict.fromkeys(Cause, 0))
    busy: dict[Queue, int] = field(default_factory=lambda: dict.fromkeys(Queue, 0))

    @property
    def total(self) -> int:
        return sum(self.cycles.values())

    @property
    def bound(self) -> Cause:
        """The cause of most of its cycles."""
        return max(Cause, key=lambda cause: self.cycles[cause])


@dataclass(frozen=True)
class Roofline:
    """Milliseconds that each unit alone would take, at least, and the share of the bound that was attained.

    `matrix_ms` counts the pattern's MACs without padding, `vector_ms` occupied cycles, `memory_ms` bytes at full rate.
    """

    matrix_ms: float
    vector_ms: float
    memory_ms: float
    total_ms: float

    @property
    def bound_ms(self) -> float:
        return max(self.matrix_ms, self.vector_ms, self.memory_ms)

    @property
    def attained(self) -> float:
        return self.bound_ms / self.total_ms if self.total_ms else 0.0


def roofline(timing: Timing, target: Target) -> Roofline:
    """The three bounds of a run; a MAC is one of cores x tokens x outputs x multipliers per cycle."""
    per_ms = target.clock.mhz * 1e3
    moved = timing.bytes_loaded + timing.bytes_stored
    return Roofline(
        timing.macs_executed / target.accelerator.macs_per_cycle / per_ms,
        timing.busy[Queue.VECTOR] / per_ms,
        moved / target.dram_bytes_per_cycle / per_ms,
        timing.total / per_ms,
    )


def attribute(timing: Timing, layers: Sequence[str]) -> list[LayerCycles]:
    """Cycles by layer, in the order of first execution; their totals add up to `timing.total`.

    `layers` gives the layer of every node number.
    """
    result: dict[str, LayerCycles] = {}

    def of(event: Event) -> LayerCycles:
        layer = layers[event.node] if event.node < len(layers) else ""
        return result.setdefault(layer, LayerCycles(layer))

    for event in timing.events:
        if event.queue is not Queue.CONTROL:
            of(event).busy[event.queue] += event.end - event.start
    now = 0
    for event in timing.events:
        if event.queue is Queue.MATRIX:
            for blamed, cause, cycles in _gap(timing.events, event, now):
                of(blamed).cycles[cause] += cycles
            of(event).cycles[Cause.MATRIX] += event.end - event.start
            now = event.end
    if timing.total > now:
        for blamed, _, cycles in _drain(timing, now):
            of(blamed).cycles[Cause.DRAIN] += cycles
    return [entry for entry in result.values() if entry.total or any(entry.busy.values())]


def _drain(timing: Timing, now: int) -> list[tuple[Event, Cause, int]]:
    """The cycles from `now` to the end of the program, by what was under way."""
    working = [event for event in timing.events if event.queue is not Queue.CONTROL]
    if not working:
        return [(timing.events[-1], Cause.DRAIN, timing.total - now)]
    last = max(working, key=lambda event: event.done)
    parts = _walk(timing.events, last, now, min(last.done, timing.total))
    return [*parts, (last, Cause.DRAIN, timing.total - max(last.done, now))]


def _gap(events: Sequence[Event], waiting: Event, now: int) -> list[tuple[Event, Cause, int]]:
    """(event, cause, cycles) of the cycles from `now` to the start of `waiting`, the next MATRIX instruction."""
    if waiting.start <= now:
        return []
    if waiting.blocker < 0:
        return [(waiting, Cause.TOKEN, waiting.start - now)]
    return _walk(events, events[waiting.blocker], now, waiting.start)


def _walk(events: Sequence[Event], event: Event, low: int, high: int) -> list[tuple[Event, Cause, int]]:
    """Split the cycles low..high, at whose end `event` was complete, along the chain of events that held it up."""
    parts: list[tuple[Event, Cause, int]] = []
    while high > low:
        begin = min(max(event.start, low), high)
        if high > begin:
            parts.append((event, CAUSE_OF[event.queue], high - begin))
            high = begin
        if high > low and event.blocker < 0:
            parts.append((event, Cause.LOAD if event.cause is Wait.MEMORY else Cause.TOKEN, high - low))
            high = low
        elif high > low:
            event = events[event.blocker]
    return parts
