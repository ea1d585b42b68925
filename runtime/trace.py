"""A timing as a Chrome/Perfetto trace: one track a queue, one box an instruction, one arrow from every signal to the
instruction that waited for it; equal timings give equal bytes.

The format is Google's "Trace Event Format": complete events (X), metadata (M), and flows (s, f) bound to the boxes
that enclose them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from hw_targets.isa import Queue
from runtime.simulator.timing import Event, Timing

PROCESS = 1
ROWS = tuple(Queue)


def chrome_trace(
    timing: Timing, mhz: float, nodes: Sequence[str] = (), layers: Sequence[str] = (), name: str = "accelerator"
) -> str:
    """Trace JSON; times in microseconds at `mhz`, the exact cycles in each box's arguments.

    `nodes` and `layers` name the node numbers of the instructions, `name` the process. LOOP and END are left out.
    """
    entries = [*_titles(name), *_boxes(timing, mhz, nodes, layers), *_arrows(timing, mhz)]
    lines = [json.dumps(entry, sort_keys=True) for entry in entries]
    return '{"displayTimeUnit": "ns", "traceEvents": [\n' + ",\n".join(lines) + "\n]}\n"


def _titles(name: str) -> Iterator[dict[str, object]]:
    yield {"ph": "M", "name": "process_name", "pid": PROCESS, "tid": 0, "args": {"name": name}}
    for row, queue in enumerate(ROWS):
        if queue is not Queue.CONTROL:
            track = {"ph": "M", "pid": PROCESS, "tid": row}
            yield {**track, "name": "thread_name", "args": {"name": queue.name}}
            yield {**track, "name": "thread_sort_index", "args": {"sort_index": row}}


def _at(cycle: int, mhz: float) -> float:
    """Microseconds, to the picosecond: boxes that touch in cycles touch in these, too."""
    return round(cycle / mhz, 6)


def _boxes(timing: Timing, mhz: float, nodes: Sequence[str], layers: Sequence[str]) -> Iterator[dict[str, object]]:
    for event in timing.events:
        if event.queue is Queue.CONTROL:
            continue
        layer = layers[event.node] if event.node < len(layers) else ""
        node = nodes[event.node] if event.node < len(nodes) else ""
        start, end = _at(event.start, mhz), _at(event.end, mhz)
        yield {
            "ph": "X",
            "name": f"{event.name.partition('.')[2]} {layer}".rstrip(),
            "cat": event.queue.value,
            "pid": PROCESS,
            "tid": ROWS.index(event.queue),
            "ts": start,
            "dur": round(end - start, 6),
            "args": {
                "cycle": event.start,
                "end": event.end,
                "done": event.done,
                "instruction": event.index,
                "node": node,
                "waited_for": event.cause.value,
            },
        }


def _arrows(timing: Timing, mhz: float) -> Iterator[dict[str, object]]:
    """From the last cycle of a box whose signal was consumed to the start of the box that consumed it."""
    number = 0
    for event in timing.events:
        for producer in (timing.events[index] for index in event.after):
            number += 1
            arrow = {"name": "signal", "cat": "semaphore", "pid": PROCESS, "id": number}
            yield {**arrow, "ph": "s", "tid": ROWS.index(producer.queue), "ts": _last(producer, mhz)}
            yield {**arrow, "ph": "f", "bp": "e", "tid": ROWS.index(event.queue), "ts": _at(event.start, mhz)}


def _last(event: Event, mhz: float) -> float:
    return _at(max(event.end - 1, event.start), mhz)
