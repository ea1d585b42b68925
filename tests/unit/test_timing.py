"""Cycle formulas against counting by hand, and the invariants of the one-pass timing."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_targets.asm import assemble
from hw_targets.check import Semaphore
from hw_targets.codec import Resolved, expand
from hw_targets.errors import InputError
from hw_targets.isa import MatrixMode, Queue
from hw_targets.layout import Layout
from hw_targets.load import load_target
from hw_targets.target import Accelerator, Target
from hw_targets.timing import DIVIDE, MATRIX_FILL, VECTOR_FILL, cost, cycles, matrix_steps, transfer
from runtime.ledger import Cause, attribute, roofline
from runtime.simulator.timing import Timing, Wait, _Channels, simulate_timing
from runtime.trace import chrome_trace
from tests.unit.hand_programs import LINEAR_SEMAPHORES, linear

U280 = load_target("fpga-u280")
ARRAY = replace(U280.accelerator, cores=3, tokens=16, outputs=32, multipliers=8, window=32, lanes=128, queue_depth=32)


def one(text: str) -> Resolved:
    return expand(assemble(text + "\ncontrol.halt"))[0]


def multiply(rows: int, outs: int, ins: int, pattern: str = "n=1 m=1") -> Resolved:
    return one(f"matrix.multiply x=0x0 w=0x0 acc=0x0 rows={rows} outs={outs} ins={ins} {pattern}")


HP = "mode=hp n={n} m={m} block_rows=64 window=32 keep={keep}"


@pytest.mark.parametrize(
    ("ins", "pattern", "steps"),
    [
        (768, "n=1 m=1", 96),
        (770, "n=1 m=1", 97),
        (768, "mode=nm n=2 m=4", 48),  # min(8 / 2, 32 / 4) = 4 groups of 192
        (770, "mode=nm n=2 m=4", 49),
        (768, "mode=nm n=1 m=8", 24),  # the window of 32 words holds 4 groups of 8
        (768, "mode=nm n=1 m=16", 24),
        (768, "mode=nm n=3 m=4", 96),  # only 2 groups of 3 fit 8 multipliers
        (32, "mode=nm n=12 m=16", 4),  # a group takes two steps
        (768, HP.format(n=2, m=4, keep=16), 24),  # 8 slots a window
        (768, HP.format(n=1, m=4, keep=12), 24),  # 3 slots a window still take a step
        (768, HP.format(n=2, m=4, keep=32), 48),
        (768, HP.format(n=1, m=1, keep=20), 72),
        (312, HP.format(n=2, m=4, keep=16), 10),  # 9 windows and a tail of 24 that keeps 12: 6 slots
        (312, HP.format(n=2, m=4, keep=32), 20),  # the tail has 12 slots
    ],
)
def test_steps(ins: int, pattern: str, steps: int) -> None:
    assert cost(multiply(16, 96, ins, pattern), ARRAY) == (steps, MATRIX_FILL)


def test_passes_of_the_array() -> None:
    assert cycles(multiply(17, 97, 8), ARRAY) == 2 * 2 + MATRIX_FILL
    assert cycles(multiply(16, 96, 8), ARRAY) == 1 + MATRIX_FILL
    assert cycles(multiply(32, 768, 768), ARRAY) == 2 * 8 * 96 + MATRIX_FILL
    unsigned = multiply(32, 768, 768, "n=1 m=1 x_unsigned=1")
    assert cost(unsigned, ARRAY) == cost(multiply(32, 768, 768), ARRAY)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.integers(1, 16), st.integers(0, 15), st.integers(1, 32))
def test_a_pattern_never_beats_its_slots_nor_the_window(ins: int, m: int, spare: int, keep: int) -> None:
    n = max(1, m - spare)
    for mode in (MatrixMode.NM, MatrixMode.HP):
        layout = Layout(mode, 64, ins, n, m, 64, 32, keep)
        steps = matrix_steps(layout, ARRAY)
        assert steps >= -(-layout.slots // ARRAY.multipliers)
        assert steps >= -(-ins // ARRAY.window)


FINISH = "vector.finish acc=0x0 row_scale=0x0 columns=0x0 rows=32 cols=768"


@pytest.mark.parametrize(
    ("text", "busy"),
    [
        (FINISH + " out=0x0", 192),
        (FINISH + " out=0x0 norm=1", 3 * 192),
        (FINISH + " codes=0x0 scale=0x0 group=768", 2 * 192),
        (FINISH + " codes=0x0 scale=0x0 group=768 norm=1", 4 * 192),
        ("vector.softmax acc=0x0 row_scale=0x0 col_scale=0x0 p=0x0 l=0x0 rows=32 cols=128", 64),
        ("vector.context acc=0x0 l=0x0 v_scale=0x0 out=0x0 rows=32 cols=64", 16),
        ("vector.quantize x=0x0 codes=0x0 scale=0x0 rows=32 cols=768 group=768", 384),
        ("vector.quantize x=0x0 codes=0x0 scale=0x0 rows=32 cols=8 group=4", 16),  # 128 divisions on 8 dividers
        ("vector.quantize_columns x=0x0 codes=0x0 scale=0x0 rows=128 cols=64", 128),
        (
            "vector.embed rows_in=0x0 columns=0x0 out=0x0 codes=0x0 scale=0x0 rows=32 cols=768 group=768 tables=3 norm=1",
            6 * 192,
        ),
        ("vector.pool x=0x0 mask=0x0 out=0x0 rows=128 cols=768", 768),
    ],
)
def test_vector_passes(text: str, busy: int) -> None:
    assert cost(one(text), ARRAY).busy == busy


def test_vector_latency_grows_with_what_is_fused() -> None:
    plain, norm = (cost(one(FINISH + " out=0x0" + extra), ARRAY).latency for extra in ("", " norm=1"))
    assert plain == VECTOR_FILL
    assert norm == VECTOR_FILL + 2 * 4 * 7 + 2 * DIVIDE


def memory(**changes: float) -> Target:
    """32 channels of 64-byte bursts at 64 bytes a cycle and channel: a burst is one cycle."""
    fields = {"channels": 32, "burst_bytes": 64, "gbytes_per_s": 32 * 64 * 0.3, "efficiency": 1.0, "latency_ns": 100.0}
    clock = replace(U280.clock, mhz=300.0)
    return replace(U280, clock=clock, memory=replace(U280.memory, **{**fields, **changes}), accelerator=ARRAY)


@pytest.mark.parametrize(
    ("text", "bursts", "busy"),
    [
        ("load.copy src=0x0:64 dst=0x0 rows=32 row_bytes=64", 32, 1),
        ("load.copy src=0x0 dst=0x0 rows=1 row_bytes=2049", 33, 2),
        ("load.copy src=0x20 dst=0x0 rows=1 row_bytes=64", 2, 1),
        ("load.copy src=0x0:128 dst=0x0 rows=33 row_bytes=4", 33, 2),
        ("load.gather table=0x0:256 ids=0x0 dst=0x0 rows=64 row_bytes=128 table_rows=9", 128, 4),
        ("load.gather table=0x2:256 ids=0x0 dst=0x0 rows=64 row_bytes=128 table_rows=9", 192, 6),
        ("store.copy src=0x0 dst=0x0 rows=4 row_bytes=1024", 64, 2),
    ],
)
def test_transfers(text: str, bursts: int, busy: int) -> None:
    moved = transfer(one(text), memory())
    assert (moved.bursts, moved.busy, moved.latency) == (bursts, busy, 30)


def test_weights_take_the_slower_of_memory_and_decoder() -> None:
    text = "load.weights src=0x0 dst=0x0 format=nm outs=64 ins=1024 n=2 m=4 stored_bytes=40960"
    slow = replace(memory(), decoders=tuple(replace(d, values_per_cycle=256) for d in U280.decoders))
    assert transfer(one(text), slow).busy == 64 * 512 // 256
    fast = replace(memory(), decoders=tuple(replace(d, values_per_cycle=1 << 20) for d in U280.decoders))
    assert transfer(one(text), fast).busy == 40960 // 2048
    without = replace(memory(), decoders=tuple(d for d in U280.decoders if d.format != "nm"))
    with pytest.raises(InputError, match="decodes no nm weights"):
        simulate_timing(expand(assemble(text + "\ncontrol.halt")), [], without)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=20))
def test_the_memory_serves_one_transfer_at_a_time(requests: list[tuple[int, int]]) -> None:
    channels, taken = _Channels(), set[int]()
    for earliest, length in requests:
        start = channels.reserve(earliest, length)
        wanted = next(t for t in range(earliest, 1000) if not taken & set(range(t, t + length)))
        assert start == wanted
        taken |= set(range(start, start + length))


# ---- the pass -------------------------------------------------------------------------------------------------------

PIPELINE = """
control.loop count=20
  load.copy src=0x0 dst=0x0 rows=1 row_bytes=4096 wait=1 signal=0 ; node 1
  vector.quantize x=0x0 codes=0x1000 scale=0x2000 rows=16 cols=128 group=128 wait=0,3 signal=1,2 ; node 2
  matrix.multiply x=0x1000 w=0x0 acc=0x0 rows=16 outs=96 ins=128 n=1 m=1 wait=2 signal=3 ; node 3
control.end
control.halt
"""
PIPELINE_SEMAPHORES = (
    Semaphore("loaded", 0, Queue.LOAD, Queue.VECTOR),
    Semaphore("buffer", 1, Queue.VECTOR, Queue.LOAD),
    Semaphore("codes", 0, Queue.VECTOR, Queue.MATRIX),
    Semaphore("free", 1, Queue.MATRIX, Queue.VECTOR),
)
LAYERS = ("", "a", "b", "c")


def run(text: str, semaphores: tuple[Semaphore, ...], array: Accelerator = ARRAY) -> Timing:
    return simulate_timing(expand(assemble(text)), semaphores, replace(memory(), accelerator=array))


def check_semaphores(timing: Timing, text: str, semaphores: tuple[Semaphore, ...]) -> None:
    """Replay in time: a semaphore is never negative."""
    program = expand(assemble(text))
    changes: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for instruction, event in zip(program, timing.events, strict=True):
        for number in instruction.waits:
            changes[number].append((event.start, -1))
        for number in instruction.signals:
            changes[number].append((event.done, 1))
    for number, steps in changes.items():
        value = semaphores[number].initial
        for _, step in sorted(steps, key=lambda s: (s[0], -s[1])):
            value += step
            assert value >= 0


def test_the_linear_by_hand() -> None:
    timing = simulate_timing(expand(linear()), LINEAR_SEMAPHORES, memory())
    copy, weights, columns, quantize, matrix, finish, store, halt = timing.events
    assert [(e.start, e.end, e.done) for e in (copy, weights, columns)] == [(0, 1, 31), (1, 2, 32), (2, 3, 33)]
    assert (quantize.start, quantize.cause, quantize.blocker) == (31, Wait.SEMAPHORE, 0)
    assert quantize.end == 33
    assert matrix.start == quantize.done
    assert (matrix.end, matrix.done) == (matrix.start + 3, matrix.start + 3 + MATRIX_FILL)
    assert finish.start == matrix.done
    assert store.start == finish.done
    assert halt.start == store.done == timing.total - 1
    assert timing.bytes_loaded == 192 + 384 + 128
    assert timing.bytes_stored == 256
    assert timing.macs_executed == 4 * 16 * 24


@pytest.mark.parametrize("depth", [1, 2, 32])
def test_queues_are_in_order_and_never_overlap(depth: int) -> None:
    timing = run(PIPELINE, PIPELINE_SEMAPHORES, replace(ARRAY, queue_depth=depth))
    check_semaphores(timing, PIPELINE, PIPELINE_SEMAPHORES)
    for queue in Queue:
        events = [e for e in timing.events if e.queue is queue]
        assert all(a.end <= b.start and a.done <= b.done for a, b in zip(events, events[1:], strict=False))
    assert timing.total == max(e.done for e in timing.events)


def test_a_shallow_queue_is_not_faster() -> None:
    totals = [run(PIPELINE, PIPELINE_SEMAPHORES, replace(ARRAY, queue_depth=d)).total for d in (1, 2, 4, 32)]
    assert totals == sorted(totals, reverse=True)


def test_a_second_credit_overlaps_the_queues() -> None:
    deeper = tuple(replace(s, initial=2) if s.initial else s for s in PIPELINE_SEMAPHORES)
    assert run(PIPELINE, deeper).total < run(PIPELINE, PIPELINE_SEMAPHORES).total


def test_a_vector_instruction_waits_for_what_it_reads() -> None:
    first = "vector.quantize x=0x0 codes=0x1000 scale=0x2000 rows=16 cols=128 group=128\n"
    reads = "vector.pool x=0x{:x} mask=0x3000 out=0x3100 rows=16 cols=64\ncontrol.halt\n"
    timing = run(first + reads.format(0x1000), ())
    assert (timing.events[1].start, timing.events[1].cause) == (timing.events[0].done, Wait.INTERLOCK)
    timing = run(first + reads.format(0x800), ())
    assert (timing.events[1].start, timing.events[1].cause) == (timing.events[0].end, Wait.QUEUE)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 300), st.integers(1, 300), st.integers(1, 4), st.integers(1, 3))
def test_layers_add_up_to_the_total(rows: int, cols: int, size: int, depth: int, credits: int) -> None:
    text = PIPELINE.replace("rows=16", f"rows={rows}").replace("ins=128", f"ins={cols}").replace("4096", str(4 * size))
    semaphores = tuple(replace(s, initial=credits) if s.initial else s for s in PIPELINE_SEMAPHORES)
    timing = run(text, semaphores, replace(ARRAY, queue_depth=depth))
    layers = attribute(timing, LAYERS)
    assert sum(layer.total for layer in layers) == timing.total
    matrix = next(layer for layer in layers if layer.layer == "c")
    assert matrix.cycles[Cause.MATRIX] == timing.busy[Queue.MATRIX]
    assert all(value >= 0 for layer in layers for value in layer.cycles.values())


def test_cycles_are_blamed_on_what_is_waited_for() -> None:
    slow_load = run(PIPELINE.replace("row_bytes=4096", "row_bytes=4194304"), PIPELINE_SEMAPHORES)
    by_layer = {layer.layer: layer for layer in attribute(slow_load, LAYERS)}
    assert by_layer["a"].bound is Cause.LOAD
    assert by_layer["a"].total > 0.9 * slow_load.total
    slow_vector = run(PIPELINE.replace("cols=128 group=128", "cols=8192 group=64"), PIPELINE_SEMAPHORES)
    by_layer = {layer.layer: layer for layer in attribute(slow_vector, LAYERS)}
    assert by_layer["b"].bound is Cause.VECTOR
    assert by_layer["b"].total > 0.9 * slow_vector.total
    slow_matrix = run(PIPELINE.replace("ins=128", "ins=60000"), PIPELINE_SEMAPHORES)
    by_layer = {layer.layer: layer for layer in attribute(slow_matrix, LAYERS)}
    assert by_layer["c"].cycles[Cause.MATRIX] > 0.9 * slow_matrix.total


def test_roofline_is_a_bound() -> None:
    timing = run(PIPELINE, PIPELINE_SEMAPHORES)
    bounds = roofline(timing, memory())
    assert 0 < bounds.attained <= 1
    assert bounds.bound_ms == max(bounds.matrix_ms, bounds.vector_ms, bounds.memory_ms)


def test_trace_is_json_and_deterministic() -> None:
    text = chrome_trace(run(PIPELINE, PIPELINE_SEMAPHORES), 300.0, ("", "x", "y", "z"), LAYERS)
    assert text == chrome_trace(run(PIPELINE, PIPELINE_SEMAPHORES), 300.0, ("", "x", "y", "z"), LAYERS)
    boxes = [e for e in json.loads(text)["traceEvents"] if e["ph"] == "X"]
    assert len(boxes) == 60
    assert {b["args"]["node"] for b in boxes} == {"x", "y", "z"}


def test_halt_alone() -> None:
    timing = run("control.halt", ())
    assert timing.total == 1
    assert sum(layer.total for layer in attribute(timing, ("",))) == 1
