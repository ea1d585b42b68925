"""What would make a layer faster: one change from a closed list, and the target that has it.

The change follows from where the layer's cycles went, so it can be tried: a test compiles the model again with exactly
that change and sees the layer take fewer cycles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compiler.tools.report import Help, Reason
from hw_targets.isa import Queue
from hw_targets.target import Target
from runtime.ledger import Cause, LayerCycles

MATRIX_SHARE = 0.5
"""From this share of a layer's cycles on, MATRIX itself is what binds it."""

FULL_SHARE = 0.95
"""From this share of all cycles on, VECTOR is what binds the program: more of anything else gains next to nothing."""

OF_REASON: dict[Reason, Help] = {
    Reason.DENSE: Help.PATTERN,
    Reason.NO_WEIGHTS: Help.ARRAY,
    Reason.OUT_OF_SCOPE: Help.ARRAY,
    Reason.FACTOR: Help.ARRAY,
    Reason.LEFT_DENSE: Help.ARRAY,
    Reason.STORED_DENSE: Help.PATTERN,
    Reason.FULL: Help.SPARSER,
    Reason.UNEVEN_K: Help.SPARSER,
    Reason.WINDOW: Help.NARROW,
    Reason.SHORT_ROWS: Help.TOKENS,
    Reason.IMBALANCE: Help.SELECTORS,
}
"""For layers that MATRIX binds. A reason that is a wait has its help from the wait."""


def vector_is_full(entries: Sequence[LayerCycles]) -> bool:
    """Whether VECTOR works almost all of a program's cycles."""
    busy, total = sum(entry.busy[Queue.VECTOR] for entry in entries), sum(entry.total for entry in entries)
    return busy >= FULL_SHARE * total


def help_of(
    entry: LayerCycles, reason: Reason, *, vector_full: bool = False, decoding: bool = False, full_windows: bool = True
) -> Help:
    """The change that would help a layer.

    `vector_full`: the program is bound by VECTOR as a whole. `decoding`: the layer's loads take the decoder's time, not
    the memory's. `full_windows`: a window has more kept inputs than a row has multipliers, so that keeping fewer would
    save steps.
    """
    if vector_full:
        return Help.LANES
    if entry.cycles[Cause.MATRIX] < MATRIX_SHARE * entry.total:
        waits = {cause: count for cause, count in entry.cycles.items() if cause is not Cause.MATRIX}
        worst = max(waits, key=lambda cause: waits[cause])
        if worst is Cause.VECTOR:
            return Help.LANES
        if worst is Cause.LOAD:
            return Help.DECODER if decoding else Help.BANDWIDTH
        return Help.BATCH
    help = OF_REASON.get(reason, Help.ARRAY)
    return Help.ARRAY if help is Help.SPARSER and not full_windows else help


def with_help(target: Target, help: Help) -> Target | None:
    """The target with twice of what would help; None where the change is not the target's (a pattern, a batch).

    It is not asked whether the device has room for it: `hpcc` with such a target says what it takes.
    """
    array, memory = target.accelerator, target.memory
    match help:
        case Help.LANES:
            return replace(target, accelerator=replace(array, lanes=2 * array.lanes))
        case Help.ARRAY:
            return replace(target, accelerator=replace(array, outputs=2 * array.outputs))
        case Help.SELECTORS:
            return replace(target, accelerator=replace(array, selector=array.window))
        case Help.NARROW:
            changed = replace(array, multipliers=max(array.multipliers // 2, 1), outputs=2 * array.outputs)
            return replace(target, accelerator=changed)
        case Help.TOKENS:
            return replace(target, accelerator=replace(array, outputs=max(array.outputs // 2, 1), tokens=2 * array.tokens))
        case Help.BANDWIDTH:
            return replace(target, memory=replace(memory, gbytes_per_s=2 * memory.gbytes_per_s))
        case Help.DECODER:
            faster = tuple(replace(d, values_per_cycle=2 * d.values_per_cycle) for d in target.decoders)
            return replace(target, decoders=faster)
        case Help.PATTERN | Help.SPARSER | Help.BATCH:
            return None
