"""Static checks of a program: what holds here cannot go wrong on the machine, whatever its timing is.

Program order is a witness schedule, so a program runs to its end if every wait is covered by the semaphore's initial
value or by an earlier signal. Vector clocks over the five queues then say what is ordered with what: no semaphore
passes its maximum, and no two queues touch the same bytes unordered with one of them writing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hw_targets.codec import Resolved, expand
from hw_targets.errors import InputError
from hw_targets.extents import Extent, layout_of, operand_extents, overlap, transfer_rows
from hw_targets.isa import SEMAPHORE_MAX, SEMAPHORES, Instruction, Memory, Queue

QUEUES = tuple(Queue)
QUEUE_INDEX: Mapping[Queue, int] = {queue: index for index, queue in enumerate(QUEUES)}
CONTROL = QUEUE_INDEX[Queue.CONTROL]

Clock = list[int]
"""How many instructions of each queue are known to be finished."""


@dataclass(frozen=True)
class Semaphore:
    """A counting semaphore: `producer` alone signals it, `consumer` alone waits for it; it begins at `initial`."""

    name: str
    initial: int
    producer: Queue
    consumer: Queue


def check_program(
    instructions: Sequence[Instruction], semaphores: Sequence[Semaphore], sizes: Mapping[Memory, int]
) -> list[Resolved]:
    """Check a program and return its expansion (see `codec.expand`).

    `sizes` are the bytes of each memory. Raises InputError HPCC12xx naming the instruction and the rule it breaks.
    """
    expanded = expand(instructions)
    check_expanded(expanded, semaphores, sizes)
    return expanded


def check_expanded(expanded: Sequence[Resolved], semaphores: Sequence[Semaphore], sizes: Mapping[Memory, int]) -> None:
    """`check_program` on an expansion."""
    _check_semaphore_table(semaphores)
    tokens = [_Tokens(semaphore) for semaphore in semaphores]
    pairs = PAIRS_LIMIT + PAIRS_PER_INSTRUCTION * len(expanded)
    memories = {memory: _MemoryAccesses(memory, pairs) for memory in Memory}
    clocks: list[Clock] = [[0] * len(QUEUES) for _ in QUEUES]
    for instruction in expanded:
        _check_fields(instruction)
        _check_rows_apart(instruction)
        clock = _start(instruction, clocks, tokens)
        if instruction.name == "control.pause":  # everything before it is complete when it ends
            clock = clocks[CONTROL] = [max(entries) for entries in zip(*clocks, strict=True)]
        for region, writes in accesses(instruction):
            _check_bounds(instruction, region, sizes)
            memories[region.memory].touch(instruction, region, writes, clock)
        _finish(instruction, clock, tokens)


def _error(code: str, message: str, instruction: Resolved, hint: str = "") -> InputError:
    return InputError(code, message, where=instruction.place, hint=hint)


def _check_semaphore_table(semaphores: Sequence[Semaphore]) -> None:
    if len(semaphores) > SEMAPHORES:
        raise InputError("HPCC1220", f"{len(semaphores)} semaphores, the machine has {SEMAPHORES}")
    for number, semaphore in enumerate(semaphores):
        if not 0 <= semaphore.initial <= SEMAPHORE_MAX:
            message = f"semaphore {number} ({semaphore.name}) begins at {semaphore.initial}, outside 0..{SEMAPHORE_MAX}"
            raise InputError("HPCC1220", message)


# ---- semaphores -----------------------------------------------------------------------------------------------------


@dataclass
class _Tokens:
    """What has happened to one semaphore so far, in program order."""

    semaphore: Semaphore
    signals: list[Clock] = field(default_factory=lambda: [])
    waits: list[int] = field(default_factory=lambda: [])

    @property
    def title(self) -> str:
        return f"semaphore {self.semaphore.name!r}"


def _tokens_of(instruction: Resolved, number: int, tokens: Sequence[_Tokens]) -> _Tokens:
    if number >= len(tokens):
        raise _error("HPCC1221", f"semaphore {number} is not in the manifest, which has {len(tokens)}", instruction)
    return tokens[number]


def _start(instruction: Resolved, clocks: list[Clock], tokens: Sequence[_Tokens]) -> Clock:
    """The clock of the instruction's queue as it finishes: its past, what CONTROL passed, what it waited for."""
    queue = QUEUE_INDEX[instruction.queue]
    clock = [max(a, b) for a, b in zip(clocks[queue], clocks[CONTROL], strict=True)]
    clock[queue] += 1
    for number in instruction.waits:
        state = _tokens_of(instruction, number, tokens)
        if state.semaphore.consumer is not instruction.queue:
            message = f"{instruction.queue} waits for {state.title}, whose consumer is {state.semaphore.consumer}"
            raise _error("HPCC1222", message, instruction)
        matched = len(state.waits) - state.semaphore.initial
        if matched >= len(state.signals):
            message = (
                f"deadlock: wait {len(state.waits) + 1} for {state.title} has no signal before it "
                f"(initial {state.semaphore.initial}, signals {len(state.signals)})"
            )
            raise _error("HPCC1223", message, instruction)
        if matched >= 0:
            clock = [max(a, b) for a, b in zip(clock, state.signals[matched], strict=True)]
        state.waits.append(clock[queue])
    clocks[queue] = clock
    return clock


def _finish(instruction: Resolved, clock: Clock, tokens: Sequence[_Tokens]) -> None:
    for number in instruction.signals:
        state = _tokens_of(instruction, number, tokens)
        semaphore = state.semaphore
        if semaphore.producer is not instruction.queue:
            message = f"{instruction.queue} signals {state.title}, whose producer is {semaphore.producer}"
            raise _error("HPCC1222", message, instruction)
        state.signals.append(clock)
        done = bisect_right(state.waits, clock[QUEUE_INDEX[semaphore.consumer]])
        most = semaphore.initial + len(state.signals) - done
        if most > SEMAPHORE_MAX:
            message = f"{state.title} can reach {most}, above its maximum {SEMAPHORE_MAX}"
            raise _error("HPCC1224", message, instruction, f"{semaphore.producer} must wait for {semaphore.consumer} first")


# ---- fields and bounds ----------------------------------------------------------------------------------------------

SIZES = ("rows", "cols", "outs", "ins", "row_bytes", "tables", "table_rows", "stored_bytes")


def _check_fields(instruction: Resolved) -> None:
    """Immediates that no executor could make sense of."""
    for name in SIZES:
        if instruction.immediates.get(name, 1) == 0:
            raise _error("HPCC1225", f"{name} is 0", instruction)
    if instruction.name in ("load.weights", "matrix.multiply"):
        problem = layout_of(instruction).problem()
        if problem:
            raise _error("HPCC1225", problem, instruction)
    if "codes" in instruction.operands and "group" in instruction.immediates:
        cols, group = instruction.integer("cols"), instruction.integer("group")
        if not group or cols % group:
            raise _error("HPCC1225", f"{cols} columns do not split into groups of {group}", instruction)
        if "scale" not in instruction.operands:
            raise _error("HPCC1225", "codes without their scale", instruction)
    if "bias" in instruction.operands and instruction.integer("bias_rows") not in (1, instruction.integer("rows")):
        raise _error("HPCC1225", "a bias has one row for all, or one for each", instruction)
    if instruction.immediates.get("out_f32") and instruction.integer("activation") not in (0, 3):
        raise _error("HPCC1225", "all activations but relu take the bf16 value, out_f32 does not round it", instruction)
    if instruction.immediates.get("smoothed") and not (instruction.integer("norm") and "codes" in instruction.operands):
        raise _error("HPCC1225", "smoothed without a norm and codes: only a norm's codes are smoothed", instruction)
    if instruction.immediates.get("out_f32") and instruction.integer("norm"):
        raise _error("HPCC1225", "a norm's result is bf16, out_f32 does not round it", instruction)
    if instruction.name == "vector.heads":
        _check_heads(instruction)
    if instruction.immediates.get("causal") and instruction.integer("rows") > instruction.integer("cols"):
        raise _error("HPCC1225", "a causal block has more rows than columns: its first rows see nothing", instruction)
    if instruction.name == "vector.embed" and instruction.integer("norm") and "columns" not in instruction.operands:
        raise _error("HPCC1225", "a norm without its columns operand", instruction)


def _check_heads(instruction: Resolved) -> None:
    cols, group, turned = (instruction.integer(name) for name in ("cols", "group", "turned"))
    if not group or cols % group:
        raise _error("HPCC1225", f"{cols} columns do not split into groups of {group}", instruction)
    if turned % 2 or turned > group or bool(turned) != ("table" in instruction.operands):
        message = f"a rotation of {turned} of {group} columns: an even number, 0 without a table"
        raise _error("HPCC1225", message, instruction)


def accesses(instruction: Resolved) -> Iterator[tuple[Extent, bool]]:
    """(region, whether it is written) of every operand, reads first."""
    present = [operand for operand in instruction.function.operands if operand.name in instruction.operands]
    for operand in present:
        if operand.access == "r" or (operand.updates and instruction.integer(operand.updates)):
            for region in operand_extents(instruction, operand.name):
                yield region, False
    for operand in present:
        if operand.access == "w":
            for region in operand_extents(instruction, operand.name):
                yield region, True


def _check_rows_apart(instruction: Resolved) -> None:
    """Rows may overlap where they are read, as windows of a convolution do; not where they are written."""
    for operand in instruction.function.operands:
        if operand.access == "w" and operand.name in instruction.operands:
            pitch = instruction.operands[operand.name].pitch
            rows, row_bytes = transfer_rows(instruction, operand.name)
            if rows > 1 and 0 < pitch < row_bytes:
                raise _error("HPCC1226", f"writes rows of {row_bytes} bytes only {pitch} bytes apart", instruction)


def _check_bounds(instruction: Resolved, region: Extent, sizes: Mapping[Memory, int]) -> None:
    size = sizes.get(region.memory, 0)
    if region.start < 0 or region.end > size:
        message = f"bytes {region.start}..{region.end} are outside the {region.memory} memory of {size} bytes"
        raise _error("HPCC1226", message, instruction)


# ---- hazards --------------------------------------------------------------------------------------------------------

Table = NDArray[np.int64]
PAIRS_LIMIT, PAIRS_PER_INSTRUCTION = 1 << 22, 256
"""Most pairs of accesses that are compared, so that a damaged program is an error and not an endless check. Compiled
programs have some 20 pairs for each executed instruction."""
KNOWN_PER_PAIR = 64
"""Known regions that are looked through in the time of one such pair."""


class _MemoryAccesses:
    """The last access of every queue to every distinct region of one memory.

    A queue is in order, so what is ordered after its last access to a region is ordered after all of them. Regions
    are few (buffers are reused), and which of them overlap is found once, when a region is first seen.
    """

    def __init__(self, memory: Memory, most_pairs: int) -> None:
        self.memory = memory
        self.most_pairs = most_pairs
        self.regions: list[Extent] = []
        self.index: dict[Extent, int] = {}
        self.neighbours: list[list[int]] = []
        self.bounds: Table = np.zeros((64, 2), np.int64)
        self.reads: list[list[tuple[int, Resolved] | None]] = []
        self.writes: list[list[tuple[int, Resolved] | None]] = []
        self.pairs = 0

    def touch(self, instruction: Resolved, region: Extent, writes: bool, clock: Clock) -> None:
        """Check an access against all earlier ones and remember it."""
        number = self.index.get(region)
        if number is None:
            number = self._add(region)
        queue = QUEUE_INDEX[instruction.queue]
        self.pairs += len(self.neighbours[number])
        if self.pairs > self.most_pairs:
            message = f"too many regions of the {self.memory} memory overlap to be checked"
            raise _error("HPCC1228", message, instruction)
        for other in self.neighbours[number]:
            self._check(self.writes[other], instruction, region, clock, queue, "writes")
            if writes:
                self._check(self.reads[other], instruction, region, clock, queue, "reads")
        (self.writes if writes else self.reads)[number][queue] = (clock[queue], instruction)

    def _check(
        self,
        last: list[tuple[int, Resolved] | None],
        instruction: Resolved,
        region: Extent,
        clock: Clock,
        queue: int,
        verb: str,
    ) -> None:
        for other, access in enumerate(last):
            if access is not None and other != queue and access[0] > clock[other]:
                bytes_text = f"bytes {region.start}..{region.end} of the {self.memory} memory"
                message = (
                    f"touches {bytes_text}, which {access[1].place} {verb}, "
                    f"and nothing orders {QUEUES[other]} before {instruction.queue}"
                )
                raise _error("HPCC1227", message, instruction, "a semaphore is missing")

    def _add(self, region: Extent) -> int:
        number = len(self.regions)
        if number == len(self.bounds):
            self.bounds = np.concatenate([self.bounds, np.zeros_like(self.bounds)])
        known = self.bounds[:number]
        self.pairs += number // KNOWN_PER_PAIR
        near = np.flatnonzero((known[:, 0] < region.end) & (known[:, 1] > region.start)).tolist()
        neighbours = [other for other in near if overlap(self.regions[other], region)]
        for other in neighbours:
            self.neighbours[other].append(number)
        self.neighbours.append([*neighbours, number])
        self.bounds[number] = region.start, region.end
        self.regions.append(region)
        self.index[region] = number
        self.reads.append([None] * len(QUEUES))
        self.writes.append([None] * len(QUEUES))
        return number
