"""The trace against the Trace Event Format, read as strictly as the format is written, without a network."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest

from hw_targets.asm import assemble
from hw_targets.check import Semaphore
from hw_targets.codec import expand
from hw_targets.isa import Queue
from hw_targets.load import load_target
from runtime.simulator.timing import UNITS, Timing, simulate_timing
from runtime.trace import PROCESS, ROWS, chrome_trace

PROGRAM = """
control.loop count=20
  load.copy src=0x0 dst=0x0 rows=1 row_bytes=4096 wait=1 signal=0 ; node 1
  vector.quantize x=0x0 codes=0x1000 scale=0x2000 rows=16 cols=128 group=128 wait=0,3 signal=1,2 ; node 2
  matrix.multiply x=0x1000 w=0x0 acc=0x0 rows=16 outs=96 ins=128 n=1 m=1 wait=2 signal=3 ; node 3
control.end
control.halt
"""
SEMAPHORES = (
    Semaphore("loaded", 0, Queue.LOAD, Queue.VECTOR),
    Semaphore("buffer", 1, Queue.VECTOR, Queue.LOAD),
    Semaphore("codes", 0, Queue.VECTOR, Queue.MATRIX),
    Semaphore("free", 1, Queue.MATRIX, Queue.VECTOR),
)
KEYS = {
    "M": {"ph", "name", "pid", "tid", "args"},
    "X": {"ph", "name", "cat", "pid", "tid", "ts", "dur", "args"},
    "s": {"ph", "name", "cat", "id", "pid", "tid", "ts"},
    "f": {"ph", "name", "cat", "id", "pid", "tid", "ts", "bp"},
}
"""The fields of each phase that the format names, and that this trace writes: no more, no less."""


def timing() -> Timing:
    return simulate_timing(expand(assemble(PROGRAM)), SEMAPHORES, load_target("fpga-u280"))


def check_trace(text: str, result: Timing, mhz: float) -> dict[str, list[dict[str, Any]]]:
    """Everything that a viewer relies on; returns the events by phase."""
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert set(document) == {"displayTimeUnit", "traceEvents"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    phases: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in document["traceEvents"]:
        assert set(event) == KEYS[event["ph"]]
        assert event["pid"] == PROCESS
        assert isinstance(event["tid"], int)
        phases[event["ph"]].append(event)
    names = {(e["name"], e["tid"]): e["args"] for e in phases["M"]}
    tracks = {event["tid"] for event in phases["X"]}
    assert all(names["thread_name", track] == {"name": ROWS[track].name} for track in tracks)
    assert ("process_name", 0) in names

    boxes: dict[int, list[tuple[float, float]]] = defaultdict(list)
    busy: dict[str, int] = defaultdict(int)
    for box in phases["X"]:
        assert box["ts"] >= 0
        assert box["dur"] > 0
        assert box["cat"] == ROWS[box["tid"]].value
        boxes[box["tid"]].append((box["ts"], box["ts"] + box["dur"]))
        busy[box["cat"]] += box["args"]["end"] - box["args"]["cycle"]
        assert box["ts"] == pytest.approx(box["args"]["cycle"] / mhz, abs=1e-6)
    for track in boxes.values():
        for (_, end), (start, _) in zip(track, track[1:], strict=False):
            assert start >= end - 1e-9, "two boxes of one track overlap"
    assert busy == {unit.value: cycles.busy for unit, cycles in result.units.items() if cycles.busy}

    starts, ends = ({e["id"]: e for e in phases[phase]} for phase in "sf")
    assert set(starts) == set(ends)
    assert len(starts) == len(phases["s"]) == len(phases["f"])
    for number, start in starts.items():
        end = ends[number]
        assert end["bp"] == "e"
        assert start["ts"] < end["ts"], "an arrow points into the past"
        assert (start["name"], start["cat"]) == (end["name"], end["cat"])
        for arrow in (start, end):
            assert any(a <= arrow["ts"] < b for a, b in boxes[arrow["tid"]]), "an arrow touches no box"
    return phases


@pytest.mark.parametrize("mhz", [100.0, 250.0, 300.0, 333.0])
def test_the_trace_is_what_the_format_says(mhz: float) -> None:
    result = timing()
    phases = check_trace(chrome_trace(result, mhz, layers=("", "a", "b", "c")), result, mhz)
    assert len(phases["X"]) == 60
    # Every signal that is waited for is an arrow; the first waits are covered by the semaphores' initial values.
    assert len(phases["s"]) == 20 + 19 + 20 + 19
    producers = {(ROWS[s["tid"]], ROWS[f["tid"]]) for s, f in zip(phases["s"], phases["f"], strict=True)}
    assert producers == {(s.producer, s.consumer) for s in SEMAPHORES}


def test_the_check_can_fail() -> None:
    """The controls: a longer box, and an arrow without its head."""
    result = timing()
    lines = chrome_trace(result, 250.0).splitlines()
    longer = [line.replace('"dur": ', '"dur": 9') if '"cat": "matrix"' in line else line for line in lines]
    with pytest.raises(AssertionError, match="overlap"):
        check_trace("\n".join(longer), result, 250.0)
    headless = [line for line in lines if '"id": 3, ' not in line or '"ph": "f"' not in line]
    with pytest.raises(AssertionError):
        check_trace("\n".join(headless), result, 250.0)


def test_every_cycle_of_every_unit_is_one_thing() -> None:
    result = timing()
    assert set(result.units) == set(UNITS)
    for unit, cycles in result.units.items():
        assert cycles.total == result.total
        assert cycles.busy == result.busy[unit]
        assert min(cycles.semaphore, cycles.memory, cycles.idle) >= 0
    assert result.units[Queue.MATRIX].semaphore > 0
    assert result.units[Queue.STORE].idle == result.total
