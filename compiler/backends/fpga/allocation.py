"""Addresses for every buffer, and the places in the program where weights are prefetched.

Activations: first fit by lifetime in program order. Temporaries: a few fixed slots in rotation. Weights and column
parameters: a ring that is filled ahead of use. What does not fit raises InfeasibleError with the bytes.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import NameLoc

from compiler.backends.fpga.tasks import Instance, Task
from hw_targets.errors import InfeasibleError
from hw_targets.isa import Memory
from hw_targets.target import Target

ALIGNMENT = 64
"""Bytes; one HBM or DDR burst, and a whole word of every on-chip memory."""

PREFETCH = 4
"""Weight (or parameter) loads that run ahead of the one in use; more would only fill the LOAD queue."""

SUMS = "acc.sum"
"""Accumulators that others come and go beside: they rotate among themselves."""

STREAMED = ("load.weights", "load.copy")


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def capacities(target: Target) -> dict[Memory, int]:
    """Bytes of each memory of a target."""
    accelerator = target.accelerator
    return {
        Memory.ACT: accelerator.act_bytes,
        Memory.WEIGHTS: accelerator.weight_bytes,
        Memory.ACC: accelerator.acc_bytes,
        Memory.PARAM: accelerator.param_bytes,
        Memory.DRAM: target.memory.capacity_bytes,
    }


def _lifetimes(tasks: Sequence[Task]) -> dict[Instance, tuple[int, int]]:
    """First and last task that touches each instance, in order of first use."""
    spans: dict[Instance, tuple[int, int]] = {}
    for index, task in enumerate(tasks):
        for rect, _ in task.accesses:
            first = spans.get(rect.instance, (index, index))[0]
            spans[rect.instance] = (first, index)
    return spans


def is_streamed(task: Task) -> bool:
    dst = task.operands.get("dst")
    return (
        task.op.function.data in STREAMED
        and dst is not None
        and dst.instance.memory
        in (
            Memory.WEIGHTS,
            Memory.PARAM,
        )
    )


class OutOfMemoryError(InfeasibleError):
    """Buffers do not fit a memory; which one says what a smaller tiling would have to change."""

    def __init__(self, memory: Memory, code: str, message: str, *, hint: str) -> None:
        super().__init__(code, message, hint=hint)
        self.memory = memory


def _require(memory: Memory, used: int, capacity: int, what: str) -> None:
    if used > capacity:
        raise OutOfMemoryError(
            memory,
            "HPCC3001",
            f"{what} need {used:,} bytes of {memory.value} memory, the target has {capacity:,}"
            f" ({used - capacity:,} too few)",
            hint="compile shorter sequences or smaller batches with --shape, prune more, or take a larger target",
        )


@dataclass(frozen=True)
class Block:
    """What is placed as one: an instance, or the slots that temporaries rotate through; `span` in program order."""

    bytes: int
    span: tuple[int, int]
    tenants: tuple[tuple[Instance, int], ...]
    """Instances with their offsets."""


def pool_of(instance: Instance) -> tuple[str, str]:
    """The label of a buffer and the ONNX node it works for: temporaries of two layers need no place at the same time."""
    location = instance.op.location
    return (instance.label, location.desc.data if isinstance(location, NameLoc) else "")


def _blocks(spans: Mapping[Instance, tuple[int, int]], memory: Memory, skip: Container[Instance] = ()) -> list[Block]:
    """The blocks of a memory: one per lasting buffer, one per pool of temporaries (one node's, or all accumulators)."""
    blocks: list[Block] = []
    pools: dict[tuple[str, str], list[Instance]] = {}
    for instance, span in spans.items():
        if instance.memory is not memory or instance in skip:
            continue
        if instance.rotates:
            shared = memory is Memory.ACC and instance.label != SUMS
            pools.setdefault(("", "") if shared else pool_of(instance), []).append(instance)
        else:
            blocks.append(Block(aligned(instance.bytes), span, ((instance, 0),)))
    for pool in pools.values():
        slots = {instance: min(instance.slots, len(pool)) for instance in pool}
        total = max(slots[instance] * aligned(instance.bytes) for instance in pool)
        tenants: list[tuple[Instance, int]] = []
        for number, instance in enumerate(pool):
            size = total // slots[instance] // ALIGNMENT * ALIGNMENT
            tenants.append((instance, number % slots[instance] * size))
        span = min(spans[i][0] for i in pool), max(spans[i][1] for i in pool)
        blocks.append(Block(total, span, tuple(tenants)))
    # Pools first: they are in use almost always, so that what lasts shorter finds its gaps beside them.
    return sorted(blocks, key=lambda block: (len(block.tenants) == 1, block.span[0]))


def _first_fit(blocks: Iterable[Block]) -> int:
    """Place blocks at the lowest address that is free during their span; the bytes used."""
    placed: list[tuple[int, int, int, int]] = []  # start address, end address, first task, last task
    end = 0
    for block in blocks:
        first, last = block.span
        address = 0
        for start, stop, begin, finish in placed:
            if finish < first or begin > last:
                continue
            if start - address >= block.bytes:
                break
            address = max(address, stop)
        insort(placed, (address, address + block.bytes, first, last))
        for instance, offset in block.tenants:
            instance.address = address + offset
        end = max(end, address + block.bytes)
    return end


class _Tenants:
    """Who lay last at every byte of a ring: disjoint runs of bytes, each with its tenant's last use.

    Whoever moves in is used later than whoever lay there before, so of those only what sticks out is kept.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[int, int, int]] = []

    def free_from(self, start: int, stop: int) -> int:
        """The first task after the last use of these bytes."""
        return max((last + 1 for low, high, last in self._runs if low < stop and start < high), default=0)

    def live(self, task: int) -> int:
        """Bytes still in use at a task."""
        return sum(high - low for low, high, last in self._runs if last >= task)

    def move_in(self, start: int, stop: int, last: int) -> None:
        runs: list[tuple[int, int, int]] = []
        for low, high, until in self._runs:
            if low < start:
                runs.append((low, min(high, start), until))
            if high > stop:
                runs.append((max(low, stop), high, until))
        self._runs = [*runs, (start, stop, last)]


def _ring(
    loads: Sequence[tuple[int, Instance]], spans: dict[Instance, tuple[int, int]], base: int, capacity: int
) -> tuple[list[int], int]:
    """Place loaded instances round a ring; for each the earliest program position of its load, and the bytes used.

    Raises InfeasibleError where the ring comes round to an instance that is still in use.
    """
    cursor = base
    tenants = _Tenants()
    positions: list[int] = []
    used = base
    for number, (first_use, instance) in enumerate(loads):
        size = aligned(instance.bytes)
        if cursor + size > capacity:
            cursor = base
        start, stop = cursor, cursor + size
        after_use = tenants.free_from(start, stop)
        ahead = loads[number - PREFETCH][0] if number >= PREFETCH else 0
        # Never before the load that came before it: that one may have evicted part of what lies here.
        position = max(after_use, ahead, positions[-1] if positions else 0)
        positions.append(min(first_use, position))
        if after_use > first_use:
            live = tenants.live(first_use)
            raise OutOfMemoryError(
                instance.memory,
                "HPCC3002",
                f"{size:,} bytes of {instance.memory.value} memory are needed"
                f" while {live:,} of {capacity:,} bytes are in use",
                hint="prune more, or take a larger target",
            )
        instance.address = start
        tenants.move_in(start, stop, spans[instance][1])
        cursor = stop
        used = max(used, stop)
    return positions, used


def allocate(tasks: Sequence[Task], capacity: Mapping[Memory, int]) -> tuple[list[Task], dict[Memory, int]]:
    """Give every instance an address and return the tasks in their final order, with the bytes used per memory.

    `capacity` in bytes per memory. Raises InfeasibleError for what does not fit.
    """
    body = [task for task in tasks if not is_streamed(task)]
    spans = _lifetimes(body)
    used: dict[Memory, int] = {}

    used[Memory.ACC] = _first_fit(_blocks(spans, Memory.ACC))
    _require(Memory.ACC, used[Memory.ACC], capacity[Memory.ACC], "accumulators")
    used[Memory.ACT] = _first_fit(_blocks(spans, Memory.ACT))
    _require(Memory.ACT, used[Memory.ACT], capacity[Memory.ACT], "activations")

    streamed = [task for task in tasks if is_streamed(task)]
    loaded = {task.operands["dst"].instance for task in streamed}
    floor = {Memory.WEIGHTS: _first_fit(_blocks(spans, Memory.WEIGHTS, loaded)), Memory.PARAM: 0}
    inserted: list[tuple[int, int, Task]] = []
    for memory in (Memory.WEIGHTS, Memory.PARAM):
        loads = [task for task in streamed if task.operands["dst"].instance.memory is memory]
        loads.sort(key=lambda task: spans[task.operands["dst"].instance][0])
        uses = [(spans[task.operands["dst"].instance][0], task.operands["dst"].instance) for task in loads]
        largest = max((aligned(instance.bytes) for _, instance in uses), default=0)
        what = "keys, values and the largest weight" if memory is Memory.WEIGHTS else "the largest layer's parameters"
        _require(memory, floor[memory] + largest, capacity[memory], what)
        positions, used[memory] = _ring(uses, spans, floor[memory], capacity[memory])
        inserted += [(p, use[0], task) for p, use, task in zip(positions, uses, loads, strict=True)]

    inserted.sort(key=lambda entry: entry[:2])
    order: list[Task] = []
    cursor = 0
    for position, _, task in inserted:
        order += body[cursor:position]
        cursor = position
        order.append(task)
    order += body[cursor:]
    used[Memory.DRAM] = _place_dram(order)
    _require(Memory.DRAM, used[Memory.DRAM], capacity[Memory.DRAM], "weights, inputs and outputs")
    return order, used


def place(tasks: Sequence[Task], addresses: Mapping[Instance, int], capacity: Mapping[Memory, int]) -> dict[Memory, int]:
    """Give every buffer of scheduled tasks its address; returns the bytes used per memory.

    `addresses` are those of the buffers on the chip. Raises InfeasibleError where DRAM is too small.
    """
    used: dict[Memory, int] = dict.fromkeys(Memory, 0)
    for instance, address in addresses.items():
        instance.address = address
        used[instance.memory] = max(used[instance.memory], address + aligned(instance.bytes))
    used[Memory.DRAM] = _place_dram(tasks)
    _require(Memory.DRAM, used[Memory.DRAM], capacity[Memory.DRAM], "weights, inputs and outputs")
    return used


def _place_dram(tasks: Sequence[Task]) -> int:
    """DRAM regions one after another: constant data first (the weight image), then inputs and outputs."""
    regions = dict.fromkeys(
        rect.instance for task in tasks for rect, _ in task.accesses if rect.instance.memory is Memory.DRAM
    )
    address = 0
    for constant in (True, False):
        for instance in regions:
            if (instance.op.kind.data not in ("input", "output", "scratch")) is constant:  # pyright: ignore
                instance.address = address
                address += aligned(instance.bytes)
    return address
