"""How the `auto` fields of an accelerator are sized: the fastest array and lanes that fit, then memories.

Without a workload arrays are compared by BERT-base on 128 tokens, dense and with hp:0.75 together: one bitstream for
everything. With one, by the pattern that is asked for: a bitstream of its own, where that pays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

from hw_targets.isa import MatrixMode
from hw_targets.layout import Layout, ceil_div
from hw_targets.resources import (
    BRAM_WORDS,
    CEILINGS,
    FIELD_OF,
    FIELDS,
    MEMORIES,
    PLACEMENTS,
    URAM_WORDS,
    Part,
    Violation,
    bill,
    broken_by,
    infeasible,
    logic_parts,
    memory_width,
    overshoot,
    total,
    used,
    violations,
)
from hw_targets.target import RANGES, Accelerator, Target, Workload

DEFAULTS = {"multipliers": 8, "window": 32, "selector": 8, "queue_depth": 32}
TOKEN_CHOICES = (32, 24, 20, 16, 14, 12, 10, 8, 6, 4, 2, 1)
OUTPUT_CHOICES = (128, 64, 32, 16, 8, 4, 2, 1)
# Powers of two, for the tree of sums.
LANE_CHOICES = (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
# Multipliers of an array for one pattern: fewer where a window leaves fewer values, more where it leaves more.
MULTIPLIER_CHOICES = (16, 8, 6, 4, 3, 2)
# What an array and its lanes are weighed by: millions of multiplications of BERT-base on 128 tokens, dense and with
# hp:0.75, and of lane passes with fused chains (2.99 a layer), all counted by the simulator.
DENSE_MACS = 11170.0
PRUNED_MACS = 3020.0
LANE_PASSES = 35.9
# Rows of the token tile by which arrays are compared: one whose tokens do not divide it idles in the last step.
TILE_ROWS = 32

# BERT-base on 128 tokens, by which arrays for one pattern are compared: (outputs, inputs, how many) of its matrices.
TOKENS = 128
LAYERS = 12
LINEARS = ((768, 768, 4), (3072, 768, 1), (768, 3072, 1))
HEADS, HEAD_WIDTH = 12, 64
# What the less busy of MATRIX and VECTOR adds, as a share of its own time: what list scheduling leaves of it uncovered.
UNCOVERED = 0.1
# An array for one pattern is a bitstream of its own: it must take at most this share of the common one's cycles.
WORTHWHILE = 0.9
SHOWN = 3
"""Candidates that an explanation names."""

# Shares by which the memories grow, and bytes beyond which more does not help a BERT-sized model.
SHARES = {"act": 0.40, "weights": 0.45, "acc": 0.08, "param": 0.07}
LIMITS = {"act": 16 << 20, "weights": 16 << 20, "acc": 2 << 20, "param": 1 << 20}

Pace = Callable[[Accelerator], float]
"""What an array is compared by, less is faster."""


def size(
    target: Target, asked: Mapping[str, int | None], workload: Workload | None = None, common: Accelerator | None = None
) -> tuple[Accelerator, bool]:
    """The accelerator with every field of `asked` that is None chosen to fit the device, and whether it was chosen for
    `workload` alone.

    Of the arrays with lanes that fit beside the smallest memories the fastest is taken (of equals, the one with fewest
    lanes, then the one that reads fewest bytes per cycle), then the memories grow by turns. Raises InfeasibleError where
    nothing fits. `common` is what comes out without a workload, where that is known already.
    """
    common = common or _grow_memories(_fastest(target, asked, None), asked, target)
    if workload is None:
        return common, False
    own = _fastest(target, asked, workload, common.lanes)
    if cycles(own, workload) > WORTHWHILE * cycles(common, workload):
        return common, False
    return _grow_memories(own, asked, target), True


def _fastest(
    target: Target, asked: Mapping[str, int | None], workload: Workload | None, least_lanes: int = 1
) -> Accelerator:
    """The fastest array that fits, its memories as small as they can be. Raises InfeasibleError where nothing fits."""
    arrays = _arrays(target, asked, workload, least_lanes)
    candidates = sorted(arrays, key=lambda array: _rating(array, workload))
    for array in candidates:
        if violations(total(logic_parts(target, array)), target.device):
            continue  # memories only add to that
        accelerator = _smallest_memories(array, asked, target)
        if not broken_by(target, accelerator):
            return accelerator
    smallest = (_smallest_memories(array, asked, target) for array in candidates)
    nearest = min(smallest, key=lambda accelerator: overshoot(broken_by(target, accelerator)))
    raise infeasible(replace(target, accelerator=nearest), broken_by(target, nearest))


def _rating(a: Accelerator, workload: Workload | None) -> tuple[float, int, int]:
    return cycles(a, workload), a.lanes, _reads_per_cycle(a)


def _arrays(
    target: Target, asked: Mapping[str, int | None], workload: Workload | None, least_lanes: int = 1
) -> Iterator[Accelerator]:
    """Candidate arrays with memories still of size 0; how many multipliers, and how wide their selectors must be, is only
    asked for one workload. Its arrays have at least the common one's lanes: what VECTOR has to do depends on no pattern, and
    models narrower than BERT-base have more of it for each multiplication."""
    fixed = {name: asked[name] or default for name, default in DEFAULTS.items()}
    if asked["selector"] is None and workload is not None:
        fixed["selector"] = _selector(workload)
    depths = (fixed["multipliers"],)
    if asked["multipliers"] is None:  # a window feeds them
        choices = depths if workload is None else MULTIPLIER_CHOICES
        depths = tuple(dict.fromkeys(min(depth, fixed["window"]) for depth in choices))
    cores = asked["cores"] or target.device.slrs
    for tokens, outputs in product(_choices(asked["tokens"], TOKEN_CHOICES), _choices(asked["outputs"], OUTPUT_CHOICES)):
        for lanes, depth in product(_choices(asked["lanes"], LANE_CHOICES), depths):
            if lanes < least_lanes:
                continue
            array = {**fixed, "multipliers": depth, "tokens": tokens, "outputs": outputs, "lanes": lanes}
            memories = {field: 0 for field in FIELD_OF.values()}
            yield Accelerator(cores=cores, design=target.accelerator.design, **memories, **array)


def _selector(workload: Workload) -> int:
    """The narrowest selector that reaches all that one of the model's multipliers chooses from; never wider than the
    common one, which takes such a group in several reads."""
    least, most = RANGES["selector"][0], DEFAULTS["selector"]
    return min(1 << (max(workload.reach, least) - 1).bit_length(), most) if workload.reach else most


def _choices(asked: int | None, choices: tuple[int, ...]) -> tuple[int, ...]:
    return choices if asked is None else (asked,)


# ---- what arrays are compared by ------------------------------------------------------------------------------------


def cycles(a: Accelerator, workload: Workload | None) -> float:
    """What arrays are compared by, less is faster: millions of cycles of the pattern; without one, those of the dense model
    times those of the pruned one. MATRIX or VECTOR, whichever is slower."""
    vector = LANE_PASSES / a.lanes
    if workload is None:
        macs = _effective_macs(a)
        return max(DENSE_MACS / macs, vector) * max(PRUNED_MACS / macs, vector)
    matrix = matrix_cycles(a, workload) / 1e6
    return max(matrix, vector) + UNCOVERED * min(matrix, vector)


def _effective_macs(a: Accelerator) -> float:
    steps = ceil_div(TILE_ROWS, a.tokens)
    return a.macs_per_cycle * TILE_ROWS / (steps * a.tokens)


def matrix_cycles(a: Accelerator, workload: Workload) -> int:
    """Cycles of MATRIX for BERT-base with the pattern, what the array pads included."""
    width = a.outputs * a.cores
    key = (a.multipliers, a.window)
    linears = sum(n * ceil_div(outs, width) * _steps(*key, workload, ins) for outs, ins, n in LINEARS)
    dense = Workload("dense", MatrixMode.DENSE.value)
    scores = ceil_div(TOKENS, width) * _steps(*key, dense, HEAD_WIDTH)
    contexts = ceil_div(HEAD_WIDTH, width) * _steps(*key, dense, TOKENS)
    return LAYERS * ceil_div(TOKENS, a.tokens) * (linears + HEADS * (scores + contexts))


@cache
def _steps(multipliers: int, window: int, workload: Workload, ins: int) -> int:
    """Steps of one pass over `ins` inputs."""
    from hw_targets.timing import matrix_steps

    w = workload
    layout = Layout(MatrixMode(w.mode), 1, ins, w.n, w.m, w.block_rows, w.window, w.keep)
    array = Accelerator(1, 1, 1, multipliers, window, multipliers, 1, 0, 0, 0, 0, 1)
    return matrix_steps(layout, array)


def _reads_per_cycle(a: Accelerator) -> int:
    return memory_width("act", a) + memory_width("weights", a) // a.cores


# ---- memories -------------------------------------------------------------------------------------------------------


def _step(memory: str, a: Accelerator, target: Target) -> int:
    """Bytes by which a memory grows: its width times the words of its block kind."""
    words = URAM_WORDS if memory in PLACEMENTS[0] and target.device.usable.uram else BRAM_WORDS
    return memory_width(memory, a) * words


def _smallest_memories(a: Accelerator, asked: Mapping[str, int | None], target: Target) -> Accelerator:
    sizes = {FIELD_OF[memory]: asked[FIELD_OF[memory]] or _step(memory, a, target) for memory in MEMORIES}
    return replace(a, **sizes)


def _grow_memories(a: Accelerator, asked: Mapping[str, int | None], target: Target) -> Accelerator:
    """Grow the `auto` memories by turns, always the one furthest below its share, until the next step does not fit."""
    growing = [memory for memory in MEMORIES if asked[FIELD_OF[memory]] is None]
    while growing:
        memory = min(growing, key=lambda name: getattr(a, FIELD_OF[name]) / SHARES[name])
        larger = getattr(a, FIELD_OF[memory]) + _step(memory, a, target)
        grown = replace(a, **{FIELD_OF[memory]: larger})
        if larger > LIMITS[memory] or violations(total(bill(target, grown)), target.device):
            growing.remove(memory)
        else:
            a = grown
    return a


# ---- why ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """What stopped the array from being faster: the faster one that misses by least, and the ceilings that it breaks."""

    accelerator: Accelerator
    broken: tuple[Violation, ...]

    def __str__(self) -> str:
        a = self.accelerator
        ceilings = "; ".join(map(str, self.broken))
        return (
            f"the nearest faster array, {a.tokens} x {a.outputs} x {a.multipliers} with {a.lanes} lanes, breaks {ceilings}"
        )


def _asked(target: Target) -> dict[str, int | None]:
    """What the target's file fixes."""
    return {name: None if name in target.auto else getattr(target.accelerator, name) for name in ("cores", *FIELDS)}


def _least_lanes(target: Target) -> int:
    return 1 if target.workload is None else _fastest(target, _asked(target), None).lanes


def limit(target: Target) -> Limit | None:
    """What binds the sizing; None where nothing faster could be asked for with what the file fixes."""
    asked, workload = _asked(target), target.workload
    pace = cycles(target.accelerator, workload)
    found: list[tuple[float, int, Limit]] = []
    for array in _arrays(target, asked, workload, _least_lanes(target)):
        if cycles(array, workload) < pace:
            larger = _smallest_memories(array, asked, target)
            broken = broken_by(target, larger)
            if broken:
                found.append((overshoot(broken), len(found), Limit(larger, broken)))
    return min(found)[2] if found else None


def candidates(target: Target) -> Iterator[Accelerator]:
    """The arrays that fit, the fastest for the target's workload first, each with the smallest memories."""
    asked, workload = _asked(target), target.workload
    arrays = _arrays(target, asked, workload, _least_lanes(target))
    for array in sorted(arrays, key=lambda array: _rating(array, workload)):
        accelerator = _smallest_memories(array, asked, target)
        if not broken_by(target, accelerator):
            yield accelerator


def explain(target: Target) -> tuple[str, ...]:
    """Short lines: the array and who chose it, the bill, what is closest to its ceiling, what bound the sizing, what no
    source backs."""
    a = target.accelerator
    chosen = f"sized: {', '.join(target.auto)}" if target.auto else "every field is fixed by the target file"
    taken, usable = used(target).as_dict(), target.device.usable.as_dict()
    shares = {name: 100 * taken[name] / usable[name] for name in taken if usable[name]}
    tightest = max(shares, key=lambda name: shares[name] / CEILINGS[name])
    lines = [
        f"{a.cores} core{'s' if a.cores > 1 else ''} x {a.tokens} tokens x {a.outputs} outputs x {a.multipliers} multipliers"
        f" = {a.macs_per_cycle:,} MAC per cycle at {target.clock.mhz:g} MHz, window {a.window}, selectors {a.selector}:1, "
        f"{a.lanes} vector lanes",
        chosen,
        *_candidate_lines(target),
        *(_part_line(part) for part in bill(target)),
        "in all " + ", ".join(f"{name.upper()} {share:.0f} % of {usable[name]:,}" for name, share in shares.items()),
        f"closest to its ceiling: {tightest.upper()}, {shares[tightest]:.1f} % of at most {CEILINGS[tightest]} %",
    ]
    bound = limit(target)
    if bound is not None:
        lines.append(f"bound by: {bound}")
    if target.unverified():
        lines.append("no source for: " + ", ".join(target.unverified()))
    return tuple(lines)


def _candidate_lines(target: Target) -> Iterator[str]:
    """For an array of one pattern: the estimate by which it was chosen, beside the next best and the common array's."""
    workload = target.workload
    if workload is None:
        return
    yield f"sized for {workload.pattern} alone; estimates for BERT-base on {TOKENS} tokens, MATRIX and VECTOR:"
    shown = [array for array, _ in zip(candidates(target), range(SHOWN), strict=False)]
    for array in (*shown, _fastest(target, _asked(target), None)):
        matrix, vector = matrix_cycles(array, workload), LANE_PASSES * 1e6 / array.lanes
        what = "the array for all patterns" if array not in shown else "chosen" if array == shown[0] else "candidate"
        yield (
            f"{what}: {array.tokens} x {array.outputs} x {array.multipliers} with {array.lanes} lanes, "
            f"{matrix:,} and {vector:,.0f} cycles"
        )


def _part_line(part: Part) -> str:
    takes = ", ".join(f"{n:,} {name.upper()}" for name, n in part.takes.as_dict().items() if n)
    return f"{part.name}: {takes or 'nothing'}"
