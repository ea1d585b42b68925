"""A timing as a Chrome/Perfetto trace: one row a queue, one box an instruction; equal timings give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hw_targets.isa import Queue
from runtime.simulator.timing import Event, Timing

PROCESS = 1
ROWS = tuple(Queue)


def chrome_trace(timing: Timing, mhz: float, nodes: Sequence[str] = (), layers: Sequence[str] = ()) -> str:
    """Trace JSON; times in microseconds at `mhz`, the exact cycles in each box's arguments.

    `nodes` and `layers` name the node numbers of the instructions. LOOP and END are left out.
    """
    boxes = [event for event in timing.events if event.queue is not Queue.CONTROL]
    rows = [
        {"ph": "M", "name": "thread_name", "pid": PROCESS, "tid": row, "args": {"name": queue.name}}
        for row, queue in enumerate(ROWS)
        if queue is not Queue.CONTROL
    ]
    lines = [json.dumps(entry, sort_keys=True) for entry in rows]
    lines += [json.dumps(_box(event, mhz, nodes, layers), sort_keys=True) for event in boxes]
    return '{"displayTimeUnit": "ns", "traceEvents": [\n' + ",\n".join(lines) + "\n]}\n"


def _box(event: Event, mhz: float, nodes: Sequence[str], layers: Sequence[str]) -> dict[str, object]:
    layer = layers[event.node] if event.node < len(layers) else ""
    node = nodes[event.node] if event.node < len(nodes) else ""
    arguments = {"cycle": event.start, "end": event.end, "done": event.done, "instruction": event.index}
    return {
        "ph": "X",
        "name": f"{event.name.partition('.')[2]} {layer}".rstrip(),
        "cat": event.queue.value,
        "pid": PROCESS,
        "tid": ROWS.index(event.queue),
        "ts": round(event.start / mhz, 6),
        "dur": round((event.end - event.start) / mhz, 6),
        "args": {**arguments, "node": node, "waited_for": event.cause.value},
    }
