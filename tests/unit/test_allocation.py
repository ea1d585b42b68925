"""Addresses: what is alive at the same time is apart, weights arrive in time, and what does not fit is said in bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import bf16, f32, i8, i32

from compiler.backends.fpga.allocation import ALIGNMENT, PREFETCH, allocate
from compiler.backends.fpga.tasks import Instance, Task, flatten
from compiler.module import main_function
from hw_targets.errors import InfeasibleError
from hw_targets.isa import Memory
from tests.unit import tile_programs as tp

PLENTY = dict.fromkeys(Memory, 1 << 24)


def lifetimes(tasks: Sequence[Task]) -> dict[Instance, tuple[int, int]]:
    """First and last position of every buffer in the final order. Anew, not with the allocator's own function."""
    result: dict[Instance, tuple[int, int]] = {}
    for position, task in enumerate(tasks):
        for rect in task.operands.values():
            result[rect.instance] = (result.get(rect.instance, (position, position))[0], position)
    return result


def assert_apart(tasks: Sequence[Task], used: dict[Memory, int]) -> None:
    """No two buffers share a byte while both hold something; all lie within what is said to be used."""
    entries = sorted(lifetimes(tasks).items(), key=lambda entry: (entry[0].memory, entry[0].address))
    for number, (a, (first, last)) in enumerate(entries):
        assert a.address >= 0
        assert a.address % ALIGNMENT == 0
        assert a.address + a.bytes <= used[a.memory]
        for b, (begin, end) in entries[number + 1 :]:
            if b.memory is not a.memory or b.address >= a.address + a.bytes:
                break
            assert last < begin or end < first, (a.label, a.address, (first, last), b.label, b.address, (begin, end))


# ---- random tasks ----------------------------------------------------------------------------------------------------


@st.composite
def linears(draw: st.DrawFn) -> list[Task]:
    """Layers as `tile` writes them: one weight each, of any size, used for a few row tiles, results kept for a while."""
    tasks: list[Task] = []
    codes = [tp.buffer(Memory.ACT, 8, 64, i8, -1)]
    scale = tp.buffer(Memory.ACT, 8, 1, f32, -1)
    source = tp.buffer(Memory.DRAM, 64, 64, i8, -1)
    tasks.append(tp.load(tp.part(source, 0, 8), tp.part(codes[0], 0, 8)))
    for _ in range(draw(st.integers(1, 12))):
        rows = draw(st.integers(1, 40))
        weight = tp.buffer(Memory.WEIGHTS, rows, 64, i8, -1)
        stored = tp.buffer(Memory.DRAM, rows, 64, i8, -1)
        tasks.append(
            tp.task("load.weights", {"src": tp.part(stored, 0, rows), "dst": tp.part(weight, 0, rows)}, outs=rows, ins=64)
        )
        x = draw(st.sampled_from(codes))
        values, result = tp.buffer(Memory.ACT, 8, 64, bf16, -1), tp.buffer(Memory.ACT, 8, 64, i8, -1)
        for tile in range(draw(st.integers(1, 3))):
            acc = tp.buffer(Memory.ACC, 4, rows, i32, -1, slots=2)
            tasks.append(tp.multiply(tp.part(x, 4 * (tile % 2), 4), tp.part(weight, 0, rows), tp.part(acc, 0, 4)))
            out = tp.part(values, 4 * (tile % 2), 4)
            tasks.append(tp.context_of(tp.part(acc, 0, 4), tp.part(scale, 0, 1), tp.part(scale, 0, 1), out))
        tasks.append(tp.quantize(tp.part(values, 0, 8), tp.part(result, 0, 8), tp.part(scale, 0, 8)))
        codes.append(result)
    return tasks


def weight_bytes(tasks: Sequence[Task]) -> list[int]:
    return [t.operands["dst"].instance.bytes for t in tasks if t.op.function.data == "load.weights"]


@settings(max_examples=40, deadline=None)
@given(linears(), st.integers(0, 4000))
def test_what_lives_at_the_same_time_is_apart(tasks: list[Task], spare: int) -> None:
    """Down to a ring that holds the largest weight and a little more."""
    largest = max(-(-size // ALIGNMENT) * ALIGNMENT for size in weight_bytes(tasks))
    order, used = allocate(tasks, {**PLENTY, Memory.WEIGHTS: largest + spare})
    assert sorted(map(id, order)) == sorted(map(id, tasks))
    body = [task for task in order if task.op.function.data != "load.weights"]
    assert body == [task for task in tasks if task.op.function.data != "load.weights"]
    assert_apart(order, used)
    assert used[Memory.WEIGHTS] <= largest + spare


@settings(max_examples=20, deadline=None)
@given(linears())
def test_weights_are_prefetched_but_not_all_at_once(tasks: list[Task]) -> None:
    order, _ = allocate(tasks, PLENTY)
    loaded_before_use = 0
    used: set[Instance] = set()
    loaded: list[Instance] = []
    for task in order:
        if task.op.function.data == "load.weights":
            loaded.append(task.operands["dst"].instance)
            loaded_before_use = max(loaded_before_use, len([i for i in loaded if i not in used]))
        elif "w" in task.operands:
            assert task.operands["w"].instance in loaded
            used.add(task.operands["w"].instance)
    assert loaded_before_use <= PREFETCH + 1
    if len(weight_bytes(tasks)) > 1:
        assert loaded_before_use > 1


def test_a_small_tenant_does_not_hide_the_large_one_below_it() -> None:
    """A large weight is still in use while two small ones move into its place, one after the other."""
    sizes = [96, 32, 32, 32, 96, 32, 32, 32]
    tasks: list[Task] = []
    x, acc = tp.buffer(Memory.ACT, 4, 64, i8, -1), tp.buffer(Memory.ACC, 4, 96, i32, -1)
    for rows in sizes:
        weight, stored = tp.buffer(Memory.WEIGHTS, rows, 64, i8, -1), tp.buffer(Memory.DRAM, rows, 64, i8, -1)
        operands = {"src": tp.part(stored, 0, rows), "dst": tp.part(weight, 0, rows)}
        tasks.append(tp.task("load.weights", operands, outs=rows, ins=64))
        tasks += [tp.multiply(tp.part(x, 0, 4), tp.part(weight, 0, rows), tp.part(acc, 0, 4, 0, rows))] * 3
    order, used = allocate(tasks, {**PLENTY, Memory.WEIGHTS: 96 * 64})
    assert_apart(order, used)


# ---- real programs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "tokens"), [(1, 24), (3, 40), (1, 200), (2, 300)])
def test_a_block_of_a_transformer(batch: int, tokens: int) -> None:
    """Sequences with a tail tile, several sequences: temporaries rotate in time."""
    ctx = tp.context(tp.block_store(32))
    module = tp.apply(ctx, tp.parse(tp.block_text(batch, tokens, 32, 2), ctx), "quantize", "encode-storage", "tile")
    order, used = allocate(flatten(main_function(module).body.block), PLENTY)
    assert_apart(order, used)


# ---- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "what"),
    [
        (Memory.ACT, "activations"),
        (Memory.ACC, "accumulators"),
        (Memory.WEIGHTS, "keys, values and the largest weight"),
        (Memory.PARAM, "the largest layer's parameters"),
    ],
)
def test_what_does_not_fit_is_said_in_bytes(memory: Memory, what: str) -> None:
    """One byte less than enough is too little, and the message says by how much."""

    def program() -> list[Task]:
        ctx = tp.context(tp.block_store(32))
        module = tp.apply(ctx, tp.parse(tp.block_text(1, 24, 32, 2), ctx), "quantize", "encode-storage", "tile")
        return flatten(main_function(module).body.block)

    def needed(capacity: int) -> int | None:
        try:
            allocate(program(), {**PLENTY, memory: capacity})
        except InfeasibleError as caught:
            error = caught
        else:
            return None
        said = r"need ([\d,]+) bytes of (\w+) memory, the target has ([\d,]+) \(([\d,]+) too few\)"
        found = re.search(said, str(error))
        assert found, str(error)
        numbers = [int(found[i].replace(",", "")) for i in (1, 3, 4)]
        assert found[2] == memory.value
        assert what in str(error)
        assert numbers[0] - numbers[1] == numbers[2]
        assert numbers[1] == capacity
        assert error.exit_status == 3
        return numbers[0]

    enough = needed(0)
    assert enough is not None
    assert needed(enough - 1) == enough
    assert needed(enough) is None


def test_a_ring_that_comes_round_too_early_is_infeasible() -> None:
    """Two weights in use at the same time, and room for one."""
    x, acc = tp.buffer(Memory.ACT, 4, 64, i8, -1), tp.buffer(Memory.ACC, 4, 8, i32, -1)
    tasks: list[Task] = []
    weights = [tp.buffer(Memory.WEIGHTS, 8, 64, i8, -1) for _ in range(2)]
    for weight in weights:
        stored = tp.buffer(Memory.DRAM, 8, 64, i8, -1)
        tasks.append(tp.task("load.weights", {"src": tp.part(stored, 0, 8), "dst": tp.part(weight, 0, 8)}, outs=8, ins=64))
    for weight in (*weights, weights[0]):
        tasks.append(tp.multiply(tp.part(x, 0, 4), tp.part(weight, 0, 8), tp.part(acc, 0, 4)))
    with pytest.raises(InfeasibleError, match="512 bytes of weights memory are needed while 512 of 600 bytes are in use"):
        allocate(tasks, {**PLENTY, Memory.WEIGHTS: 600})
    order, used = allocate(tasks, {**PLENTY, Memory.WEIGHTS: 1024})
    assert_apart(order, used)


def test_constant_regions_come_first_in_dram() -> None:
    """The weight image is one piece from 0; inputs and outputs follow."""
    ctx = tp.context(tp.block_store(32))
    module = tp.apply(ctx, tp.parse(tp.block_text(1, 24, 32, 2), ctx), "quantize", "encode-storage", "tile")
    order, used = allocate(flatten(main_function(module).body.block), PLENTY)
    regions = {rect.instance for task in order for rect in task.operands.values() if rect.instance.memory is Memory.DRAM}
    borders = {r for r in regions if r.op.kind.data in ("input", "output")}  # pyright: ignore[reportAttributeAccessIssue]
    assert borders
    assert max(r.address + r.bytes for r in regions - borders) <= min(r.address for r in borders)
    assert used[Memory.DRAM] == max(r.address + r.bytes + (-r.bytes) % ALIGNMENT for r in regions)
