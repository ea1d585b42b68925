"""How to cut the work for a target: the largest tiles that fit, with activations on chip if they can be, and for every
linear layer whether its weights stay on chip while the tokens pass, or stream past tokens that stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from compiler.backends.fpga.weights import WeightPlan
from hw_targets.isa import MatrixMode
from hw_targets.layout import Layout, ceil_div
from hw_targets.target import Accelerator, Target
from hw_targets.timing import matrix_steps

SLOTS = 2
"""Places a temporary rotates through, so that one queue fills one while another drains the other."""

MOST_TOKENS = 32
"""Tokens of a linear task: two passes of 16. More would leave VECTOR waiting for the first, fewer waste pipeline fill."""

MOST_STREAMING_TOKENS = 256
MOST_QUERIES = 128
FEWEST_QUERIES = 16
"""Query rows of a task below which keys rather come in pieces: their loads, and the instructions, would be too many."""

PARTS = 2
"""Parts of streamed weights that fit the weight memory: one is used, the next ones arrive."""

ACCUMULATOR = 4
"""Bytes."""


@dataclass(frozen=True)
class Extent:
    """What the plan must serve: the longest row of keys; the fewest bytes of activations that lie on chip at one time if
    all do; the most bytes of keys and values of one attention, and of one of its heads."""

    keys: int
    act_bytes: int = 0
    attention_bytes: int = 0
    head_bytes: int = 0


@dataclass(frozen=True)
class TilePlan:
    """How the work is cut for a target.

    `tokens`: the most rows of one linear task whose weights stay on chip for all tasks; `streaming_tokens`: of one whose
    weights stream past them; `queries`: the most query rows of one attention task; `weight_bytes`: what one loaded
    weight may take, `chunk_bytes`: what a part of a larger one may, `head_bytes`: what keys and values may that come from
    DRAM; `sum_bytes`: accumulators kept free for sums that outlive others (of contexts whose keys come in pieces),
    `acc_bytes`: the rest; `stage_bytes`: what the temporaries of one layer may take of the activation memory; `spill`: large
    activations lie in DRAM and pass through temporaries.
    """

    tokens: int
    streaming_tokens: int
    queries: int
    weight_bytes: int
    chunk_bytes: int
    head_bytes: int
    acc_bytes: int
    sum_bytes: int
    stage_bytes: int
    spill: bool

    def rows(self, most: int, row_bytes: int, fixed_bytes: int = 0) -> int:
        """At most `most` rows whose temporaries, `row_bytes` each besides `fixed_bytes`, fit the activation memory."""
        return max(min(most, (self.stage_bytes - fixed_bytes) // max(row_bytes, 1)), 1)


@dataclass(frozen=True)
class Linear:
    """A linear layer: what each token moves between DRAM and temporaries in all, and of its inputs; how often each of its
    results passes a vector lane."""

    weight: WeightPlan
    tokens: int
    input_bytes: int
    moved_bytes: int
    passes: int


@dataclass(frozen=True)
class Cut:
    """Whether the weights stay on chip for all tokens, the tokens of one task, the places of its inputs and accumulators."""

    resident: bool
    rows: int
    slots: Literal[1, 2]


def plans(accelerator: Accelerator, extent: Extent) -> Iterator[list[TilePlan]]:
    """Plans in order of preference: on chip before DRAM, large tiles before small ones; those of a list differ in what
    a loaded weight may take."""

    most_tokens = max(MOST_TOKENS, accelerator.tokens)
    fewest = max(FEWEST_QUERIES, 2 * accelerator.tokens)
    in_pieces = SLOTS * fewest * extent.keys * ACCUMULATOR > accelerator.acc_bytes
    sum_bytes = accelerator.acc_bytes // 4 if in_pieces else 0
    head_bytes = min(SLOTS * extent.head_bytes, accelerator.weight_bytes // 2)
    for spill, shrinks in ((False, (0, 1, 2)), (True, (0, 1, 2, 3))):
        if not spill and extent.act_bytes > accelerator.act_bytes:
            continue
        # How long keys and values live is not known before; ask for less until it fits.
        beside = accelerator.weight_bytes - (head_bytes if spill else extent.attention_bytes)
        limits = [limit for limit in (beside, *(accelerator.weight_bytes // share for share in (2, 4, 8, 16))) if limit > 0]
        for shrink in shrinks:
            yield [
                TilePlan(
                    tokens=max(most_tokens >> shrink, 1),
                    streaming_tokens=max(max(MOST_STREAMING_TOKENS, most_tokens) >> shrink, 1),
                    queries=max(MOST_QUERIES >> shrink, 1),
                    weight_bytes=limit,
                    chunk_bytes=limit // PARTS,
                    head_bytes=head_bytes,
                    acc_bytes=accelerator.acc_bytes - sum_bytes,
                    sum_bytes=sum_bytes,
                    stage_bytes=accelerator.act_bytes * (7 if spill else 2) // 8 >> shrink,
                    spill=spill,
                )
                for limit in limits
            ]


def cut(target: Target, plan: TilePlan, linear: Linear) -> Cut:
    """How a linear layer is cut: of the ways that fit, the one that takes fewest cycles by `estimate`."""
    accelerator = target.accelerator

    def fitting(most: int, slots: int) -> int:
        by_accumulators = plan.acc_bytes // (slots * linear.weight.outs * ACCUMULATOR)
        row_bytes = slots * linear.input_bytes + SLOTS * (linear.moved_bytes - linear.input_bytes)
        rows = min(plan.rows(most, row_bytes), max(by_accumulators, 1), linear.tokens)
        return rows - rows % accelerator.tokens if rows > accelerator.tokens else rows

    cuts: list[Cut] = []
    if linear.weight.compute_bytes <= plan.weight_bytes:
        cuts.append(Cut(True, fitting(plan.tokens, SLOTS), SLOTS))
    for slots in (1, SLOTS):
        rows = fitting(plan.streaming_tokens, slots)
        cuts += [Cut(False, fitting(max(rows >> half, 1), slots), slots) for half in range(3)]
    return min(cuts, key=lambda choice: (estimate(target, plan, linear, choice), not choice.resident, -choice.rows))


def estimate(target: Target, plan: TilePlan, linear: Linear, choice: Cut) -> int:
    """Cycles of a linear layer, roughly: every unit's own, added where one waits for the other.

    Weights that stay are loaded once, ahead if two such fit side by side. Weights that stream are loaded for every task,
    beside its multiplications; with one place for accumulators VECTOR's work on a task stands between two.
    """
    array, weight = target.accelerator, linear.weight
    layout = Layout(MatrixMode(weight.mode), weight.outs, weight.ins, *weight.pattern_fields.values())
    steps = ceil_div(weight.outs, array.outputs * array.cores) * matrix_steps(layout, array)
    decoded = ceil_div(layout.values, target.decode[weight.format])
    load = max(int(weight.stored_bytes / target.dram_bytes_per_cycle), decoded)

    def tasks(rows: int) -> list[int]:
        full, tail = divmod(linear.tokens, rows)
        return [rows] * full + [tail] * (tail > 0)

    multiply = [ceil_div(rows, array.tokens) * steps for rows in tasks(choice.rows)]
    finish = [ceil_div(rows * weight.outs, array.lanes) * linear.passes for rows in tasks(choice.rows)]
    alone = finish[0] if len(finish) == 1 else 0  # else the next layer begins with the first task's results
    move = int(linear.tokens * linear.moved_bytes / target.dram_bytes_per_cycle)
    if choice.resident:
        ahead = SLOTS * weight.compute_bytes <= plan.weight_bytes
        return max(sum(multiply), sum(finish), move + load * ahead) + load * (not ahead) + alone
    pace = [max(task, load) for task in multiply]
    if choice.slots == 1:
        return max(sum(pace) + sum(finish), move + load * len(pace))
    return max(sum(pace), sum(finish), move + load * len(pace)) + alone
