"""Faults in what the program covers and in what orders it: tails and semaphores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from compiler.backends.fpga.builder import TileBuilder
from compiler.backends.fpga.semaphores import Dependencies, SemaphorePair
from compiler.backends.fpga.tasks import Task
from compiler.passes import schedule
from compiler.storage.formats import HPMarkFormat
from hw_targets import numerics
from hw_targets.isa import Queue
from runtime import decoders
from runtime.decoding import formats
from runtime.simulator import functional
from tests.e2e.mutations import BITS, ENCODED, LOADED, MODEL, ONNX_RUNTIME, TILED, Array, Mutation, Patch, wrapped

# ---- a tail is left out ---------------------------------------------------------------------------------------------


def no_tail_of_tokens(patch: Patch) -> None:
    """Tiles cover the full ones only."""
    tiles = TileBuilder.tiles

    def broken(self: Any, total: int, size: int, hint: str) -> Any:
        return tiles(self, total - total % size or total, size, hint)

    patch.setattr(TileBuilder, "tiles", broken)


def no_tail_of_windows(patch: Patch) -> None:
    """The encoder forgets what the last, shorter window of inputs holds."""
    encode = HPMarkFormat.encode

    def broken(self: Any, codes: Array, pattern: Any) -> Array:
        codes = codes.copy()
        codes[:, codes.shape[1] // 32 * 32 :] = 0
        return encode(self, codes, pattern)

    patch.setattr(HPMarkFormat, "encode", broken)


def no_tail_of_row_blocks(patch: Patch) -> None:
    """The array leaves out the rows behind the last whole block of 64."""

    def spoil(codes: Array) -> Array:
        codes = codes.copy()
        codes[len(codes) // 64 * 64 :] = 0
        return codes

    wrapped(patch, functional, "expand_layout", spoil)


def no_tail_of_groups(patch: Patch) -> None:
    """The decoder counts whole groups of 4 only: 70 inputs are 17 groups and a tail of 2."""
    true = decoders.geometry
    for module in (decoders, formats):
        patch.setattr(module, "geometry", lambda outs, ins, n, m, *rest: true(outs, ins - ins % m, n, m, *rest))


def no_tail_of_the_reduction(patch: Patch) -> None:
    """The product stops at the last whole step of the array: inputs 68 to 71 are not multiplied."""
    product = numerics.matmul_i32

    def broken(x: Array, w: Array) -> Array:
        return product(x[:, :-4], w[:, :-4]) if w.shape[1] == MODEL.hidden else product(x, w)

    patch.setattr(numerics, "matmul_i32", broken)


# ---- the wrong semaphore --------------------------------------------------------------------------------------------


def semaphores(patch: Patch, spoil: Callable[[Sequence[Task], list[SemaphorePair]], None]) -> None:
    assign = schedule.assign_semaphores

    def broken(tasks: Sequence[Task], needed: Sequence[Dependencies]) -> list[SemaphorePair]:
        pairs = assign(tasks, needed)
        spoil(tasks, pairs)
        return pairs

    patch.setattr(schedule, "assign_semaphores", broken)


def signal_another_queues_semaphore(tasks: Sequence[Task], pairs: list[SemaphorePair]) -> None:
    task = next(task for task in tasks if task.signals)
    task.signals = [next(pair.number for pair in pairs if pair.producer is not task.queue)]


def signal_another_consumer(tasks: Sequence[Task], pairs: list[SemaphorePair]) -> None:
    """The first signal of a queue that serves two others goes to the wrong one."""
    for task in tasks:
        others = [p.number for p in pairs if p.producer is task.queue and p.number not in task.signals]
        if task.signals and others:
            task.signals = [others[0]]
            return
    raise AssertionError("no queue serves two others")


def signal_nothing(tasks: Sequence[Task], pairs: list[SemaphorePair]) -> None:
    next(task for task in tasks if task.signals).signals = []


def need_no_token(tasks: Sequence[Task], pairs: list[SemaphorePair]) -> None:
    """The last token of a semaphore is left out on both sides: nothing deadlocks, but nothing orders the two either."""
    number = next(pair.number for pair in pairs if pair.producer is Queue.MATRIX)
    for side in ("signals", "waits"):
        task = [task for task in tasks if number in getattr(task, side)][-1]
        getattr(task, side).remove(number)


MUTATIONS: dict[str, Mutation] = {
    "drop a tail: tokens": Mutation(no_tail_of_tokens, BITS, each=TILED),
    "drop a tail: window": Mutation(no_tail_of_windows, BITS, 4, "hp:0.75", ENCODED),
    "drop a tail: row block": Mutation(no_tail_of_row_blocks, BITS, 4, "hp:0.75"),
    "drop a tail: group": Mutation(no_tail_of_groups, LOADED + ".* bytes expected", 1, "nm:2:5"),
    "drop a tail: reduction": Mutation(no_tail_of_the_reduction, ONNX_RUNTIME),
    "wrong semaphore: of another queue": Mutation(
        lambda patch: semaphores(patch, signal_another_queues_semaphore),
        r"signals semaphore .* whose producer is .*HPCC1222",
        1,
    ),
    "wrong semaphore: for another consumer": Mutation(
        lambda patch: semaphores(patch, signal_another_consumer), r"deadlock: wait \d+ for semaphore .*HPCC1223", 1
    ),
    "wrong semaphore: none": Mutation(
        lambda patch: semaphores(patch, signal_nothing), r"deadlock: wait \d+ for semaphore .*HPCC1223", 1
    ),
    "wrong semaphore: not needed": Mutation(
        lambda patch: semaphores(patch, need_no_token), r"and nothing orders matrix before .*HPCC1227", 1
    ),
}
