"""Closed forms of single layers beside the simulator: cycles of MATRIX and of the softmax, counted from shapes alone.

The formulas are those of docs/ACCELERATOR.md, written here once more: nothing of hw_targets/timing.py is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from xdsl.dialects.builtin import ModuleOp, TensorType

from compiler.dialects import nn
from compiler.dialects.storage import StorageAttr
from compiler.tools.variants import Prepared, Variant
from hw_targets.isa import Queue
from hw_targets.target import Accelerator, Target


@dataclass(frozen=True)
class Form:
    """One layer: what the formula says and what the simulator counted, in cycles."""

    layer: str
    what: str
    closed: int
    simulated: int


def window_steps(array: Accelerator, inputs: int, n: int, m: int, keep: int, window: int) -> int:
    kept = min(inputs, m * ceil(ceil(keep * inputs / window) / m))
    slots = kept // m * n + ceil(n * (kept % m) / m)
    return max(ceil(slots / array.multipliers), ceil(inputs / array.window), 1)


def steps(array: Accelerator, spec: str, ins: int) -> int:
    """Steps of one pass over `ins` inputs of a dense, nm or hp matrix."""
    if spec == "dense":
        return ceil(ins / array.multipliers)
    if found := re.fullmatch(r"nm:(\d+):(\d+)", spec):
        n, m = map(int, found.groups())
        return ceil(ceil(ins / m) / min(array.multipliers // n, array.window // m))
    found = re.fullmatch(r"hp:rows=\d+,window=(\d+),keep=(\d+),fine=(dense|\d+:\d+)", spec)
    assert found is not None, f"no closed form of {spec}"
    window, keep = int(found[1]), int(found[2])
    n, m = (1, 1) if found[3] == "dense" else map(int, found[3].split(":"))
    widths = [min(window, ins - first) for first in range(0, ins, window)]
    return sum(window_steps(array, width, n, m, keep, window) for width in widths)


def product(array: Accelerator, rows: int, outs: int, steps_of_pass: int) -> int:
    return ceil(rows / array.tokens) * ceil(outs / (array.cores * array.outputs)) * steps_of_pass


def counted(variant: Variant, layer: str, name: str) -> int:
    """Cycles that the instructions `name` of a layer kept their unit busy."""
    nodes = variant.parts.nodes
    events = (e for e in variant.timing.events if e.name == name and nodes[e.node].layer == layer)
    return sum(event.end - event.start for event in events)


def linears(module: ModuleOp) -> Iterator[tuple[str, int, int, int, str]]:
    """(layer, rows, outs, ins, pattern) of the linear layers."""
    for op in module.walk():
        if isinstance(op, nn.QLinearOp):
            type = op.weight.type
            assert isinstance(type, TensorType)
            outs, ins = type.get_shape()
            pattern = type.encoding.pattern.spec() if isinstance(type.encoding, StorageAttr) else "dense"
            shape = nn.shape_of(op.x)
            rows = 1
            for size in shape[:-1]:
                rows *= size
            yield op.role.data, rows, outs, ins, pattern


def forms(prepared: Prepared, target: Target) -> list[Form]:
    """Every linear layer and attention of the model on a target."""
    module, array = prepared.encoded(target), target.accelerator
    variant = prepared.on(target)
    found: list[Form] = []
    for layer, rows, outs, ins, pattern in linears(module):
        closed = product(array, rows, outs, steps(array, pattern, ins))
        found.append(Form(layer, f"linear {pattern}", closed, counted(variant, layer, "matrix.multiply")))
    for op in module.walk():
        if isinstance(op, nn.QAttentionOp):
            batch, queries, width = nn.shape_of(op.q)
            keys, heads = nn.shape_of(op.k)[1], op.heads.value.data
            size = width // heads
            one = product(array, queries, keys, ceil(size / array.multipliers))
            one += product(array, queries, size, ceil(keys / array.multipliers))
            layer = op.role.data
            matrix = counted(variant, layer, "matrix.multiply")
            found.append(Form(layer, "attention, MATRIX", batch * heads * one, matrix))
            lanes = 2 * batch * heads * queries * keys // array.lanes
            found.append(Form(layer, "attention, softmax", lanes, counted(variant, layer, "vector.softmax")))
    return found


def bounds(variant: Variant) -> tuple[int, int]:
    """Least and most cycles: the busiest unit alone, and all units one after the other with every latency."""
    events = variant.timing.events
    least = max(variant.timing.busy[queue] for queue in (Queue.MATRIX, Queue.VECTOR))
    return max(least, variant.timing.memory_busy), sum(e.done - e.start for e in events) + len(events)
