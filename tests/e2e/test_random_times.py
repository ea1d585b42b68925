"""Random encoders, patterns, batches and boards: no program is faster than its roofline, and no cycle is lost."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from compiler.tools.variants import Prepared, Variant, prepare
from hw_targets.errors import InfeasibleError, UsageError
from hw_targets.isa import Queue
from hw_targets.load import load_target
from hw_targets.target import Target
from tests.e2e.test_random_models import NO_LAYER, Case, cases
from tests.graphs import write

U280 = load_target("fpga-u280")


@st.composite
def memories(draw: st.DrawFn) -> dict[str, float]:
    """Off-chip memories from one slow channel to many fast ones."""
    return {
        "channels": draw(st.sampled_from([1, 2, 4, 32])),
        "gbytes_per_s": draw(st.sampled_from([0.5, 4.2, 19.2, 460.0])),
        "latency_ns": draw(st.sampled_from([10.0, 120.0, 900.0])),
        "efficiency": draw(st.sampled_from([0.35, 0.7, 1.0])),
    }


def target_of(case: Case, memory: dict[str, float]) -> Target:
    return replace(U280, accelerator=replace(U280.accelerator, **case.board), memory=replace(U280.memory, **memory))


def prepared(case: Case) -> Prepared:
    with tempfile.TemporaryDirectory() as folder:
        return prepare(write(case.encoder, Path(folder) / "m.onnx", case.batch, case.tokens), None, case.pattern)


def check_times(variant: Variant) -> None:
    """What holds for every program on every target."""
    timing, roof = variant.timing, variant.roofline
    assert 0 < roof.attained <= 1 + 1e-9
    cycles = variant.target.accelerator.macs_per_cycle
    assert timing.total >= timing.macs_executed / cycles
    assert timing.total * variant.target.dram_bytes_per_cycle >= timing.bytes_loaded + timing.bytes_stored - 1e-6
    assert timing.total >= max(timing.busy.values())
    layers = variant.layers
    assert sum(layer.total for layer in layers) == timing.total
    assert all(value >= 0 for layer in layers for value in layer.cycles.values())
    for unit, part in timing.units.items():
        assert part.total == timing.total
        assert min(part.busy, part.semaphore, part.memory, part.idle) >= 0
        assert part.busy == timing.busy[unit] == sum(layer.busy[unit] for layer in layers)
    for queue in Queue:
        events = [event for event in timing.events if event.queue is queue]
        assert all(e.head <= e.ready <= e.start <= e.end <= e.done for e in events)
        assert all(a.end <= b.head for a, b in zip(events, events[1:], strict=False))


def attempt(case: Case, memory: dict[str, float]) -> None:
    try:
        check_times(prepared(case).on(target_of(case, memory)))
    except InfeasibleError as error:
        event(f"infeasible {error.code}")
    except UsageError as error:
        if error.code != NO_LAYER:
            raise
        event("the pattern applies to no layer")


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(), memories())
def test_no_program_beats_its_roofline(case: Case, memory: dict[str, float]) -> None:
    attempt(case, memory)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(), memories())
def test_no_program_beats_its_roofline_more_often(case: Case, memory: dict[str, float]) -> None:
    attempt(case, memory)
