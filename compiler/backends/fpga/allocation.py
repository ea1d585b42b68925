"""Addresses for every buffer, and the places in the program where weights are prefetched.

Activations: first fit by lifetime in program order. Temporaries: a few fixed slots in rotation. Weights and column
parameters: a ring that is filled ahead of use. What does not fit raises InfeasibleError with the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compiler.backends.fpga.tasks import Instance, Task
from hw_targets.errors import InfeasibleError
from hw_targets.isa import Memory

ALIGNMENT = 64
"""Bytes; one HBM or DDR burst, and a whole word of every on-chip memory."""

PREFETCH = 4
"""Weight (or parameter) loads that run ahead of the one in use; more would only fill the LOAD queue."""

STREAMED = ("load.weights", "load.copy")


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _lifetimes(tasks: Sequence[Task]) -> dict[Instance, tuple[int, int]]:
    """First and last task that touches each instance, in order of first use."""
    spans: dict[Instance, tuple[int, int]] = {}
    for index, task in enumerate(tasks):
        for rect, _ in task.accesses():
            first = spans.get(rect.instance, (index, index))[0]
            spans[rect.instance] = (first, index)
    return spans


def _is_streamed(task: Task) -> bool:
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


def _require(memory: Memory, used: int, capacity: int, what: str) -> None:
    if used > capacity:
        raise InfeasibleError(
            "HPCC3001",
            f"{what} need {used:,} bytes of {memory.value} memory, the target has {capacity:,}"
            f" ({used - capacity:,} too few)",
            hint="compile shorter sequences or smaller batches with --shape, prune more, or take a larger target",
        )


def _first_fit(spans: Iterable[tuple[Instance, tuple[int, int]]], base: int) -> int:
    """Place instances at the lowest address that is free during their lifetime; the end of the used space."""
    placed: list[tuple[int, int, int, int]] = []  # start address, end address, first task, last task
    end = base
    for instance, (first, last) in spans:
        size = aligned(instance.bytes)
        address = base
        for start, stop, begin, finish in sorted(placed):
            if finish < first or begin > last:
                continue
            if start - address >= size:
                break
            address = max(address, stop)
        instance.address = address
        placed.append((address, address + size, first, last))
        end = max(end, address + size)
    return end


def _rotate(instances: Sequence[Instance], base: int) -> int:
    """Put temporaries into rotating slots of their largest size, one pool per label (one for all accumulators)."""
    pools: dict[str, list[Instance]] = {}
    for instance in instances:
        pools.setdefault("" if instance.memory is Memory.ACC else instance.label, []).append(instance)
    for pool in pools.values():
        size = max(aligned(instance.bytes) for instance in pool)
        slots = min(max(instance.slots for instance in pool), len(pool))
        for number, instance in enumerate(pool):
            instance.address = base + number % slots * size
        base += slots * size
    return base


def _ring(
    loads: Sequence[tuple[int, Instance]], spans: dict[Instance, tuple[int, int]], base: int, capacity: int
) -> tuple[list[int], int]:
    """Place loaded instances round a ring; for each the earliest program position of its load, and the bytes used.

    Raises InfeasibleError where the ring comes round to an instance that is still in use.
    """
    cursor = base
    tenants: list[tuple[int, int, int]] = []  # start, stop, last use; a later, smaller tenant may cover one in part
    positions: list[int] = []
    used = base
    for number, (first_use, instance) in enumerate(loads):
        size = aligned(instance.bytes)
        if cursor + size > capacity:
            cursor = base
        start, stop = cursor, cursor + size
        after_use = max((last + 1 for low, high, last in tenants if low < stop and start < high), default=0)
        ahead = loads[number - PREFETCH][0] if number >= PREFETCH else 0
        positions.append(min(first_use, max(after_use, ahead)))
        if after_use > first_use:
            live = sum(high - low for low, high, last in tenants if last >= first_use)
            raise InfeasibleError(
                "HPCC3002",
                f"{size:,} bytes of {instance.memory.value} memory are needed"
                f" while {live:,} of {capacity:,} bytes are in use",
                hint="prune more, or take a larger target",
            )
        instance.address = start
        tenants.append((start, stop, spans[instance][1]))
        cursor = stop
        used = max(used, stop)
    return positions, used


def allocate(tasks: Sequence[Task], capacity: dict[Memory, int]) -> tuple[list[Task], dict[Memory, int]]:
    """Give every instance an address and return the tasks in their final order, with the bytes used per memory.

    `capacity` in bytes per memory. Raises InfeasibleError for what does not fit.
    """
    body = [task for task in tasks if not _is_streamed(task)]
    spans = _lifetimes(body)
    used: dict[Memory, int] = {}

    static = {
        memory: [(i, span) for i, span in spans.items() if i.memory is memory and i.slots == 1]
        for memory in (Memory.ACT, Memory.ACC)
    }
    rotating = {memory: [i for i in spans if i.memory is memory and i.slots > 1] for memory in (Memory.ACT, Memory.ACC)}
    used[Memory.ACC] = _first_fit(static[Memory.ACC], _rotate(rotating[Memory.ACC], 0))
    _require(Memory.ACC, used[Memory.ACC], capacity[Memory.ACC], "accumulators")
    used[Memory.ACT] = _first_fit(static[Memory.ACT], _rotate(rotating[Memory.ACT], 0))
    _require(Memory.ACT, used[Memory.ACT], capacity[Memory.ACT], "activations")

    streamed = [task for task in tasks if _is_streamed(task)]
    loaded = {task.operands["dst"].instance for task in streamed}
    kept = [(i, s) for i, s in spans.items() if i.memory is Memory.WEIGHTS and i not in loaded]
    floor = {Memory.WEIGHTS: _first_fit(kept, 0), Memory.PARAM: 0}
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


def _place_dram(tasks: Sequence[Task]) -> int:
    """DRAM regions one after another: constant data first (the weight image), then inputs and outputs."""
    regions = dict.fromkeys(
        rect.instance for task in tasks for rect, _ in task.accesses() if rect.instance.memory is Memory.DRAM
    )
    address = 0
    for constant in (True, False):
        for instance in regions:
            if (instance.op.kind.data not in ("input", "output")) is constant:  # pyright: ignore
                instance.address = address
                address += aligned(instance.bytes)
    return address
