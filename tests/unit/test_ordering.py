"""List scheduling: orders that compute the same, never fill a memory, and keep two units busy where they can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.backends.fpga import ordering
from compiler.backends.fpga.allocation import OutOfMemoryError, allocate, capacities, place
from compiler.backends.fpga.attention_planning import FEWEST_QUERIES, Attention
from compiler.backends.fpga.ordering import Graph, Order, dependencies, list_schedule, makespan, orders, task_costs
from compiler.backends.fpga.room import Foresight, Room
from compiler.backends.fpga.semaphores import placed_dependencies
from compiler.backends.fpga.tasks import Task, flatten
from compiler.dialects.tile import DramOp
from compiler.module import main_function
from compiler.passes.tile import tile_module
from compiler.tools.variants import Prepared, prepare
from hw_targets.isa import Memory
from hw_targets.load import load_target
from hw_targets.target import Target
from tests.graphs import Encoder, write
from tests.unit.tile_programs import check, semaphores_of

U280 = load_target("fpga-u280")
SMALL = replace(U280, accelerator=replace(U280.accelerator, cores=1, tokens=8, outputs=16, lanes=32))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    encoder = Encoder(hidden=96, heads=3, intermediate=192, layers=2, positions=96)
    return prepare(write(encoder, Path(tmp_path_factory.mktemp("m")) / "m.onnx", 1, 96), None, "hp:0.75")


def tasks_of(prepared: Prepared, target: Target) -> list[Task]:
    module = prepared.encoded(target)
    tile_module(module, target, prepared.store)
    return flatten(main_function(module).body.block)


def ordered_pairs(tasks: list[Task]) -> set[tuple[int, int]]:
    """Pairs of instructions, by identity, of which the second depends on the first."""
    return {(id(tasks[p]), id(tasks[c])) for c, before in enumerate(dependencies(tasks)) for p in before}


def cycles_of(tasks: Sequence[Task], target: Target) -> int:
    """Cycles of placed tasks in their order."""
    return makespan(tasks, placed_dependencies(tasks), task_costs(tasks, target))


def check_order(tasks: list[Task], order: Order) -> None:
    position = {id(task): number for number, task in enumerate(order.tasks)}
    assert len(position) == len(tasks)
    assert all(position[first] < position[second] for first, second in ordered_pairs(tasks))


def test_every_order_keeps_the_dependencies(prepared: Prepared) -> None:
    tasks = tasks_of(prepared, SMALL)
    found = orders(tasks, task_costs(tasks, SMALL), capacities(SMALL))
    assert len(found) > 1
    for order in found:
        check_order(tasks, order)
    assert [order.cycles for order in found] == sorted(order.cycles for order in found)


def test_the_best_order_beats_layer_by_layer(prepared: Prepared) -> None:
    tasks = tasks_of(prepared, SMALL)
    best = orders(tasks, task_costs(tasks, SMALL), capacities(SMALL))[0]
    layer_by_layer = cycles_of(allocate(tasks, capacities(SMALL))[0], SMALL)
    place(best.tasks, best.addresses, capacities(SMALL))
    assert cycles_of(best.tasks, SMALL) < 0.98 * layer_by_layer


def test_the_estimate_is_what_the_simulator_counts(prepared: Prepared) -> None:
    tasks = tasks_of(prepared, SMALL)
    best = orders(tasks, task_costs(tasks, SMALL), capacities(SMALL))[0]
    assert prepared.on(SMALL).timing.total == pytest.approx(best.cycles, rel=0.02)


def test_half_of_a_sequence_is_a_task(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """MATRIX has the next layers of one half to multiply while VECTOR works on the attention of the other."""
    one = Attention(128, 128, 64, False)
    assert [one.most_rows(tokens) for tokens in (16, 12, 8, 96)] == [64, 72, 64, 96]
    assert replace(one, queries=20).most_rows(8) == FEWEST_QUERIES
    assert replace(one, sequences=2).most_rows(16) == 128
    monkeypatch.setattr(ordering, "SKEWS", (0.5,))
    halves = prepared.on(SMALL).timing.total
    monkeypatch.setattr(Attention, "most_rows", lambda self, tokens: self.queries)  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType]
    assert halves < prepared.on(SMALL).timing.total


@settings(max_examples=4, deadline=None)
@given(act=st.integers(15, 19), acc=st.integers(13, 17), weights=st.integers(15, 18))
def test_no_memory_is_overfilled(prepared: Prepared, act: int, acc: int, weights: int) -> None:
    """Whatever the memories are: what is placed fits, and the static checks of the machine hold."""
    array = replace(SMALL.accelerator, act_bytes=1 << act, acc_bytes=1 << acc, weight_bytes=1 << weights)
    target = replace(SMALL, accelerator=array)
    try:
        tasks = tasks_of(prepared, target)
    except OutOfMemoryError:
        return
    sizes = capacities(target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "SKEWS", (0.5,))
        allocate(tasks, sizes)
        found = orders(tasks, task_costs(tasks, target), sizes)
    for order in found:
        check_order(tasks, order)
        used = place(order.tasks, order.addresses, sizes)
        assert all(used[memory] <= sizes[memory] for memory in Memory)
        for task in order.tasks:
            task.waits, task.signals = [], []
        check(order.tasks, semaphores_of(order.tasks), 1 << 24)


@pytest.mark.parametrize("act_bytes", [1 << 20, 32768])
def test_what_was_refused_is_asked_again_only_where_something_changed(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, act_bytes: int
) -> None:
    """The same order as if every unit were asked again after every task that starts."""
    target = replace(SMALL, accelerator=replace(SMALL.accelerator, act_bytes=act_bytes, acc_bytes=24576))
    tasks = tasks_of(prepared, target)
    allocate(tasks, capacities(target))
    graph = Graph.of(tasks, task_costs(tasks, target))

    def listed() -> list[tuple[list[int], int] | None]:
        found = [list_schedule(graph, graph.ways(), capacities(target), reach) for reach in (1 << 30, 32)]
        return [order and ([id(task) for task in order.tasks], order.cycles) for order in found]

    once = listed()
    start = ordering._Scheduler._start

    def started(self: ordering._Scheduler, index: int, now: int) -> None:
        start(self, index, now)
        self._has_changed()

    monkeypatch.setattr(ordering._Scheduler, "_start", started)
    assert any(once)
    assert once == listed()


def test_a_memory_too_small_for_anything_has_no_order(prepared: Prepared) -> None:
    tasks = tasks_of(prepared, SMALL)
    graph = Graph.of(tasks, task_costs(tasks, SMALL))
    assert list_schedule(graph, graph.ways(), {**capacities(SMALL), Memory.ACC: 64}) is None


def test_spilled_activations_are_listed_too(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where activations pass through DRAM the fastest order is still one that list scheduling found, and a faster one."""
    monkeypatch.setattr(ordering, "SKEWS", (0.5,))
    array = replace(SMALL.accelerator, act_bytes=32768, acc_bytes=24576, weight_bytes=24576)
    target = replace(SMALL, accelerator=array)
    tasks = tasks_of(prepared, target)
    regions = [rect.instance.op for task in tasks for rect in task.operands.values()]
    assert any(isinstance(op, DramOp) and op.kind.data == "scratch" for op in regions)
    found = orders(tasks, task_costs(tasks, target), capacities(target))
    assert found
    tiled = cycles_of(allocate(tasks, capacities(target))[0], target)
    place(found[0].tasks, found[0].addresses, capacities(target))
    assert cycles_of(found[0].tasks, target) < 0.9 * tiled


def test_a_memory_that_a_buffer_nearly_fills_is_listed_in_planned_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The codes of the wide layer need a third of the activations in one run: no order finds that among what others left."""
    encoder = Encoder(hidden=96, heads=3, intermediate=384, layers=2, positions=96)
    wide = prepare(write(encoder, tmp_path / "m.onnx", 1, 96), None, "hp:0.75")
    array = replace(SMALL.accelerator, act_bytes=96 << 10, acc_bytes=1 << 15, weight_bytes=1 << 17)
    target = replace(SMALL, accelerator=array)
    tasks = tasks_of(wide, target)
    tiled = cycles_of(allocate(tasks, capacities(target))[0], target)
    monkeypatch.setattr(ordering, "SKEWS", (0.0,))
    found = orders(tasks, task_costs(tasks, target), capacities(target))
    assert found[0].cycles < 0.85 * tiled
    place(found[0].tasks, found[0].addresses, capacities(target))
    check_order(tasks, found[0])
    monkeypatch.setattr(ordering, "PLANNED_REACHES", ())
    assert not orders(tasks, task_costs(tasks, target), capacities(target))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_room_never_gives_a_byte_twice(data: st.DataObject) -> None:
    """Runs that are in use are disjoint and inside; what is given back joins up again to the whole."""
    room, held = Room(1024), list[tuple[int, int]]()
    for _ in range(data.draw(st.integers(1, 40))):
        if held and data.draw(st.booleans()):
            room.give_back(*held.pop(data.draw(st.integers(0, len(held) - 1))))
            continue
        size = data.draw(st.integers(1, 400))
        if data.draw(st.booleans()):
            address = room.take_at(data.draw(st.integers(-10, 1030)), size)
        else:
            address = room.take(size, high=data.draw(st.booleans()))
        if address is not None:
            assert 0 <= address <= 1024 - size
            assert all(address + size <= start or start + count <= address for start, count in held)
            held.append((address, size))
        assert room.free == 1024 - sum(count for _, count in held)
    for run in held:
        room.give_back(*run)
    assert room.take(1024) == 0


def test_foresight_keeps_the_planned_way_open() -> None:
    """Steps 0, 1 and 2 plan 60, 80 and 30 of 100 bytes: what is for step 2 may come early only while step 1 finds room."""
    foresight = Foresight(100, 3)
    for step, size in enumerate((60, 80, 30)):
        foresight.plan(step, step, size)
    assert not foresight.allows(0, 2, 30)
    assert foresight.allows(0, 2, 20)
    foresight.take_early(2, 20)
    assert not foresight.allows(1, 2, 1)
    foresight.give_back(1, 80)
    assert foresight.allows(1, 2, 60)
    assert foresight.allows(2, 2, 1000), "what stands first waits for nothing"
