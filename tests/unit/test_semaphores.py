"""Dependence tokens: enough, none too many, never past what a 4-bit counter holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import bf16, f32, i8, i32

from compiler.backends.fpga import semaphores
from compiler.backends.fpga.overlaps import Overlaps, rectangles_overlap
from compiler.backends.fpga.tasks import Rectangle, Task
from hw_targets.errors import InputError
from hw_targets.isa import SEMAPHORE_MAX, Memory, Queue
from tests.unit import tile_programs as tp

# ---- overlap ---------------------------------------------------------------------------------------------------------

EXTENTS = st.tuples(st.integers(0, 40), st.integers(1, 5), st.integers(1, 9), st.integers(0, 12))


def bytes_of(extent: tuple[int, int, int, int]) -> set[int]:
    offset, rows, row_bytes, pitch = extent
    return {offset + row * pitch + byte for row in range(rows) for byte in range(row_bytes)}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(EXTENTS, EXTENTS), min_size=20, max_size=20))
def test_no_overlap_is_missed(pairs: list[tuple[tuple[int, int, int, int], tuple[int, int, int, int]]]) -> None:
    for a, b in pairs:
        if bytes_of(a) & bytes_of(b):
            assert rectangles_overlap(a, b), (a, b)
            assert rectangles_overlap(b, a), (b, a)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.data())
def test_overlap_is_exact_for_rectangles_of_one_buffer(pitch: int, data: st.DataObject) -> None:
    def rectangle() -> tuple[int, int, int, int]:
        col = data.draw(st.integers(0, pitch - 1))
        width = data.draw(st.integers(1, pitch - col))
        return (data.draw(st.integers(0, 4)) * pitch + col, data.draw(st.integers(1, 4)), width, pitch)

    for _ in range(20):
        a, b = rectangle(), rectangle()
        assert rectangles_overlap(a, b) == bool(bytes_of(a) & bytes_of(b)), (a, b)


@settings(max_examples=50, deadline=None)
@given(st.lists(EXTENTS, min_size=1, max_size=30))
def test_rectangles_find_each_other(extents: list[tuple[int, int, int, int]]) -> None:
    """Asked in any order, each knows its own state and those of all that overlap it, also of those that came later."""
    known: Overlaps[list[object]] = Overlaps(list)
    own = {extent: known.at(extent)[0] for extent in extents}
    for extent, state in own.items():
        first, *others = known.at(extent)
        assert first is state
        met = [other for other in own if other != extent and rectangles_overlap(extent, other)]
        assert sorted(map(id, others)) == sorted(id(own[other]) for other in met)


# ---- random programs -------------------------------------------------------------------------------------------------


class Buffers:
    """Two buffers of every kind that instructions hand over, apart in memory, rows of 16 columns."""

    def __init__(self) -> None:
        place = dict.fromkeys(Memory, 0)

        def new(memory: Memory, element: object) -> tp.Instance:
            made = tp.buffer(memory, 8, 16, element, place[memory])  # pyright: ignore[reportArgumentType]
            place[memory] += made.bytes
            return made

        self.dram = [new(Memory.DRAM, i8) for _ in range(2)]
        self.codes = [new(Memory.ACT, i8) for _ in range(2)]
        self.values = [new(Memory.ACT, bf16) for _ in range(2)]
        self.scales = [new(Memory.ACT, f32) for _ in range(2)]
        self.totals = [new(Memory.ACT, i32) for _ in range(1)]
        self.keys = [new(Memory.WEIGHTS, i8) for _ in range(2)]
        self.acc = [new(Memory.ACC, i32) for _ in range(2)]


def half(buffers: list[tp.Instance], draw: Callable[[int], int], cols: int | None = None) -> Rectangle:
    """Four rows of one of the buffers: the upper, the lower, or one straddling both."""
    return tp.part(buffers[draw(len(buffers))], 2 * draw(3), 4, 0, cols)


def random_task(b: Buffers, draw: Callable[[int], int]) -> Task:
    kind = draw(6)
    if kind == 0:
        return tp.load(half(b.dram, draw), half(b.codes, draw))
    if kind == 1:
        return tp.multiply(half(b.codes, draw), half(b.keys, draw), half(b.acc, draw, 4))
    if kind == 2:
        values = half(b.values, draw)
        return tp.quantize(values, half(b.codes if draw(2) else b.keys, draw), half(b.scales, draw, 1))
    if kind == 3:
        total, scale = tp.part(b.totals[0], 0, 1, 0, 4), tp.part(b.scales[draw(2)], 0, 1, 0, 1)
        return tp.context_of(half(b.acc, draw, 4), total, scale, half(b.values, draw, 4))
    return tp.store(half(b.codes, draw), half(b.dram, draw))


@st.composite
def programs(draw: st.DrawFn, most: int = 40) -> list[Task]:
    buffers = Buffers()
    count = draw(st.integers(2, most))
    seeds = draw(st.lists(st.integers(0, 2**20), min_size=count, max_size=count))
    tasks: list[Task] = []
    for seed in seeds:

        def pick(limit: int) -> int:
            nonlocal seed
            seed, value = divmod(seed, limit)
            return value

        tasks.append(random_task(buffers, pick))
    return tasks


def edges(tasks: list[Task], pairs: list[semaphores.SemaphorePair]) -> list[tuple[Task, Task, int]]:
    """(producer, consumer, semaphore): the k-th signal of a semaphore answers the k-th wait."""
    found: list[tuple[Task, Task, int]] = []
    for pair in pairs:
        signals = [task for task in tasks for number in task.signals if number == pair.number]
        waits = [task for task in tasks for number in task.waits if number == pair.number]
        found += [(producer, consumer, pair.number) for producer, consumer in zip(signals, waits, strict=True)]
    return found


@settings(max_examples=40, deadline=None)
@given(programs())
def test_the_static_check_accepts_every_program(tasks: list[Task]) -> None:
    pairs = tp.semaphores_of(tasks)
    tp.check(tasks, pairs)
    queues = [(pair.producer, pair.consumer) for pair in pairs]
    assert len(set(queues)) == len(queues)
    assert all(producer is not consumer for producer, consumer in queues)
    for producer, consumer, number in edges(tasks, pairs):
        assert (producer.queue, consumer.queue) == (pairs[number].producer, pairs[number].consumer)
        assert tasks.index(producer) < tasks.index(consumer)


@settings(max_examples=25, deadline=None)
@given(programs(most=14))
def test_every_token_is_needed(tasks: list[Task]) -> None:
    """Take any one pair of signal and wait out: the check must find a hazard. (No program so short can overflow.)"""
    pairs = tp.semaphores_of(tasks)
    tokens = edges(tasks, pairs)
    assume(tokens)
    for producer, consumer, number in tokens:
        producer.signals.remove(number)
        consumer.waits.remove(number)
        with pytest.raises(InputError, match="nothing orders"):
            tp.check(tasks, pairs)
        producer.signals = sorted([*producer.signals, number])
        consumer.waits = sorted([*consumer.waits, number])
    tp.check(tasks, pairs)


def most_tokens(tasks: list[Task], pairs: list[semaphores.SemaphorePair]) -> int:
    """The most signals of one semaphore in a program, as if its consumer never came."""
    return max(sum(task.signals.count(pair.number) for task in tasks) for pair in pairs)


# ---- producers far ahead ---------------------------------------------------------------------------------------------


def spy_on_overflow(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the two remedies `_reduce` asks for, in order."""
    seen: list[str] = []
    original = semaphores._reduce

    def spy(tasks, needed):  # type: ignore[no-untyped-def]
        result = original(tasks, needed)
        seen.extend(
            "producer waits" if consumer > producer and tasks[consumer].queue is Queue.VECTOR else "one for many"
            for consumer, producer in result[1]
        )
        return result

    monkeypatch.setattr(semaphores, "_reduce", spy)
    return seen


def test_a_producer_far_ahead_of_its_first_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 VECTOR tasks, then 40 MATRIX tasks that need one each: a signal for each would be 40 tokens at once."""
    seen = spy_on_overflow(monkeypatch)
    x, codes = tp.buffer(Memory.ACT, 40, 16, bf16, 0), tp.buffer(Memory.ACT, 40, 16, i8, 2048)
    scale, keys = tp.buffer(Memory.ACT, 40, 1, f32, 4096), tp.buffer(Memory.WEIGHTS, 4, 16, i8, 0)
    acc = tp.buffer(Memory.ACC, 40, 4, i32, 0)
    tasks = [tp.quantize(tp.part(x, i, 1), tp.part(codes, i, 1), tp.part(scale, i, 1)) for i in range(40)]
    tasks += [tp.multiply(tp.part(codes, i, 1), tp.part(keys, 0, 4), tp.part(acc, i, 1)) for i in range(40)]
    pairs = tp.semaphores_of(tasks)
    tp.check(tasks, pairs)
    assert "one for many" in seen
    (pair,) = pairs
    assert (pair.producer, pair.consumer) == (Queue.VECTOR, Queue.MATRIX)
    assert 1 <= most_tokens(tasks, pairs) <= SEMAPHORE_MAX


def test_a_producer_that_runs_on_while_its_consumer_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """MATRIX takes one row after every VECTOR row, but nothing keeps VECTOR from being 40 rows ahead of it."""
    seen = spy_on_overflow(monkeypatch)
    x, codes = tp.buffer(Memory.ACT, 40, 16, bf16, 0), tp.buffer(Memory.ACT, 40, 16, i8, 2048)
    scale, keys = tp.buffer(Memory.ACT, 40, 1, f32, 4096), tp.buffer(Memory.WEIGHTS, 4, 16, i8, 0)
    acc = tp.buffer(Memory.ACC, 40, 4, i32, 0)
    tasks: list[Task] = []
    for i in range(40):
        tasks.append(tp.quantize(tp.part(x, i, 1), tp.part(codes, i, 1), tp.part(scale, i, 1)))
        tasks.append(tp.multiply(tp.part(codes, i, 1), tp.part(keys, 0, 4), tp.part(acc, i, 1)))
    pairs = tp.semaphores_of(tasks)
    tp.check(tasks, pairs)
    assert "producer waits" in seen
    # VECTOR now waits for MATRIX too, but seldom: the counter may be full, the queues still overlap.
    back = [pair for pair in pairs if (pair.producer, pair.consumer) == (Queue.MATRIX, Queue.VECTOR)]
    assert len(back) == 1
    assert 1 <= sum(task.waits.count(back[0].number) for task in tasks) <= 40 - SEMAPHORE_MAX


@settings(max_examples=15, deadline=None)
@given(st.integers(16, 60), st.integers(1, 60), st.integers(0, 2**30))
def test_bursts_stay_below_the_maximum(rows: int, burst: int, seed: int) -> None:
    """VECTOR writes in bursts, MATRIX reads them in any order; the check proves the counters."""
    import random

    shuffled = random.Random(seed)
    x, codes = tp.buffer(Memory.ACT, rows, 16, bf16, 0), tp.buffer(Memory.ACT, rows, 16, i8, 2048)
    scale, keys = tp.buffer(Memory.ACT, rows, 1, f32, 4096), tp.buffer(Memory.WEIGHTS, 4, 16, i8, 0)
    acc = tp.buffer(Memory.ACC, rows, 4, i32, 0)
    tasks: list[Task] = []
    for start in range(0, rows, burst):
        order = list(range(start, min(start + burst, rows)))
        tasks += [tp.quantize(tp.part(x, i, 1), tp.part(codes, i, 1), tp.part(scale, i, 1)) for i in order]
        shuffled.shuffle(order)
        tasks += [tp.multiply(tp.part(codes, i, 1), tp.part(keys, 0, 4), tp.part(acc, i, 1)) for i in order]
    tp.check(tasks, tp.semaphores_of(tasks))
