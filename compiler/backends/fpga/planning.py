"""How to cut the work for a target: the largest tiles that fit, with activations on chip if they can be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compiler.backends.fpga.lowering import SLOTS, TilePlan
from hw_targets.target import Accelerator

MOST_TOKENS = 32
"""Tokens of a linear task: two passes of 16. More would leave VECTOR waiting for the first, fewer waste pipeline fill."""

MOST_STREAMING_TOKENS = 256
MOST_QUERIES = 128
ACCUMULATOR = 4
"""Bytes."""


@dataclass(frozen=True)
class Extent:
    """What the plan must serve: the widest linear output, the longest row of keys."""

    widest: int
    keys: int


def plans(accelerator: Accelerator, extent: Extent) -> Iterator[list[TilePlan]]:
    """Plans in order of preference: on chip before DRAM, large tiles before small ones; those of a list differ in what
    a loaded weight may take."""

    def largest(limit: int, width: int, slots: int) -> int:
        rows = limit
        while rows > 1 and slots * rows * max(width, 1) * ACCUMULATOR > accelerator.acc_bytes:
            rows //= 2
        return rows

    most_tokens = max(MOST_TOKENS, accelerator.tokens)
    tokens = largest(most_tokens, extent.widest, SLOTS)
    streaming = largest(max(MOST_STREAMING_TOKENS, most_tokens), extent.widest, 1)
    queries = largest(MOST_QUERIES, extent.keys, SLOTS)
    for spill, shrinks in ((False, (0,)), (True, (0, 1, 2, 3))):
        for shrink in shrinks:
            few_tokens, few_streaming, few_queries = (max(n >> shrink, 1) for n in (tokens, streaming, queries))
            # What stays in the weight memory besides (keys, values) is not known before; ask for less until it fits.
            limits = [accelerator.weight_bytes // share for share in (1, 2, 4, 8, 16)]
            yield [
                TilePlan(few_tokens, few_streaming, few_queries, limit, limit // SLOTS, accelerator.outputs, spill)
                for limit in limits
            ]
