"""How to cut an attention: query rows of a task, keys of a piece, and whether scores are kept or made twice.

A row's maximum must be known before its first exponential. Either the scores of all keys of a block of rows stay in the
accumulators until then (one pass), or a first pass over the keys finds the maxima and a second makes the scores again
(two passes: one more product, but blocks as large as if there were few keys). Both give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compiler.backends.fpga.planning import ACCUMULATOR, FEWEST_QUERIES, SLOTS, TilePlan
from hw_targets.layout import ceil_div
from hw_targets.numerics import NARROW_KEYS
from hw_targets.target import Target
from hw_targets.timing import MATRIX_FILL, VECTOR_FILL

PIECE = 64
"""Pieces of keys are multiples of this: a burst of codes."""


@dataclass(frozen=True)
class Attention:
    """One head of an attention. `streamed`: its keys and values come from DRAM; `row_bytes`: what a query row takes of
    the activation memory besides its probabilities, `bias_bytes` what a row's addend to one score does there;
    `shared_bias`: one addend serves all rows; `sequences`: how many there are in the batch."""

    queries: int
    keys: int
    size: int
    streamed: bool
    row_bytes: int = 0
    bias_bytes: int = 0
    shared_bias: bool = False
    streaming: bool = False
    """The streaming softmax: whole rows, probabilities of one byte."""
    sequences: int = 1

    def most_rows(self, tokens: int) -> int:
        """The most query rows of a task: half of a single sequence, in whole blocks of the array's tokens.

        All heads of the first half are then done while those of the second are under way, so that MATRIX has the next
        layers of one to multiply while VECTOR works on the other. Several sequences do that for each other.
        """
        if self.sequences > 1:
            return self.queries
        half = max(ceil_div(self.queries, 2), FEWEST_QUERIES)
        return min(ceil_div(half, tokens) * tokens, self.queries)

    @property
    def planes(self) -> int:
        """Bytes of a probability."""
        return 1 if self.keys <= NARROW_KEYS or self.streaming else 2


@dataclass(frozen=True)
class AttentionCut:
    """Query rows of a task, keys of a piece, and whether scores are made twice."""

    rows: int
    keys: int
    two_pass: bool


def keys_at_once(plan: TilePlan, attention: Attention) -> int:
    """Keys of one head, and their values, that the weight memory holds while others arrive."""
    if not attention.streamed:
        return attention.keys
    return _piece(attention.keys, plan.head_bytes // (2 * SLOTS * attention.size))


def values_at_once(plan: TilePlan, attention: Attention) -> bool:
    """Whether V of a head can come on chip as a whole to be quantised there."""
    fits = SLOTS * 2 * attention.keys * attention.size <= plan.stage_bytes // 2
    return fits and keys_at_once(plan, attention) == attention.keys


def cut_attention(target: Target, plan: TilePlan, attention: Attention) -> AttentionCut:
    """Of the ways that fit, the one that takes fewest cycles by `estimate`."""
    whole, cuts = _one_pass(target, plan, attention), list(_two_passes(target, plan, attention))
    if attention.streaming:
        return whole
    if not cuts or whole.rows >= min(FEWEST_QUERIES, attention.queries):
        cuts.append(whole)
    return min(cuts, key=lambda cut: (estimate(target, plan, attention, cut), cut.two_pass))


def _piece(keys: int, limit: int) -> int:
    """All keys if the limit allows, else the most whole bursts, one at least."""
    return keys if limit >= keys else min(max(limit - limit % PIECE, PIECE), keys)


def _whole_rows(rows: int, tokens: int) -> int:
    """Rows without a tail on the array."""
    return max(rows - rows % tokens if rows > tokens else rows, 1)


def _fixed_bytes(plan: TilePlan, attention: Attention) -> int:
    """What a head takes of the activation memory, whatever the rows: scales of keys, values to be quantised, a bias."""
    bias = SLOTS * attention.keys * 4 * attention.shared_bias
    if not attention.streamed:
        return bias
    values = 2 * attention.size if values_at_once(plan, attention) else 0
    return SLOTS * attention.keys * (4 + values) + bias


def _one_pass(target: Target, plan: TilePlan, attention: Attention) -> AttentionCut:
    a, array = attention, target.accelerator
    by_accumulators = plan.acc_bytes // (SLOTS * ACCUMULATOR * max(a.keys, a.planes * a.size))
    most = min(plan.queries, max(by_accumulators, 1), a.most_rows(array.tokens))
    row_bytes = a.row_bytes + SLOTS * a.keys * (a.planes + a.bias_bytes)
    rows = _whole_rows(plan.rows(most, row_bytes, _fixed_bytes(plan, a)), array.tokens)
    return AttentionCut(rows, keys_at_once(plan, a), False)


def _two_passes(target: Target, plan: TilePlan, attention: Attention) -> Iterator[AttentionCut]:
    a, array = attention, target.accelerator
    rows = min(plan.queries, a.queries)
    while rows:
        fits = SLOTS * rows * a.planes * a.size * ACCUMULATOR <= plan.sum_bytes
        by_accumulators = plan.acc_bytes // (SLOTS * rows * ACCUMULATOR)
        left = plan.stage_bytes - _fixed_bytes(plan, a) - rows * (a.row_bytes + SLOTS * ACCUMULATOR)
        by_activations = left // (SLOTS * rows * (a.planes + a.bias_bytes))
        limit = min(by_accumulators, by_activations, keys_at_once(plan, a))
        if fits and min(max(PIECE, rows), a.keys) <= limit:
            yield AttentionCut(_whole_rows(rows, array.tokens), _piece(a.keys, limit), True)
        rows //= 2


def estimate(target: Target, plan: TilePlan, attention: Attention, cut: AttentionCut) -> int:
    """Cycles of one head, roughly: the busiest unit's, and the pipelines filled once a block."""
    a, array = attention, target.accelerator
    together = array.outputs * array.cores
    blocks, pieces = ceil_div(a.queries, cut.rows), ceil_div(a.keys, cut.keys)
    scores = ceil_div(cut.rows, array.tokens) * ceil_div(cut.keys, together) * ceil_div(a.size, array.multipliers)
    contexts = ceil_div(cut.rows * a.planes, array.tokens) * ceil_div(a.size, together)
    contexts *= ceil_div(cut.keys, array.multipliers)
    matrix = pieces * ((1 + cut.two_pass) * scores + contexts)
    vector = 2 * ceil_div(cut.rows * a.keys, array.lanes) + a.planes * ceil_div(cut.rows * a.size, array.lanes)
    again = a.keys * a.size * (2 + cut.two_pass) if keys_at_once(plan, a) < a.keys else 0
    again += (1 + cut.two_pass) * cut.rows * a.keys * a.bias_bytes
    load = int(again / target.dram_bytes_per_cycle)
    return blocks * (max(matrix, vector, load) + MATRIX_FILL + VECTOR_FILL)
