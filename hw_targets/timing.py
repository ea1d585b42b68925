"""Cycles of one instruction on one accelerator, from its immediates: never from the values it computes on.

One thing is not in the immediates: how unevenly the values of an unstructured matrix lie. Its steps are counted from its
real indices by hw_targets/steps.py and given to `cost`.

An instruction occupies its queue for `busy` cycles and its result is complete `latency` cycles after that, so that
the next instruction of the queue follows without a bubble. The pipeline depths below are design
estimates for fp32 units at 250 to 350 MHz on UltraScale+, not synthesis results. Not modelled: a fine pattern whose
groups are wider than the selectors (`selector`:1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hw_targets.codec import Resolved
from hw_targets.extents import floor_sum, layout_of, transfer_rows
from hw_targets.isa import MatrixMode, Memory, Queue
from hw_targets.layout import Layout, ceil_div
from hw_targets.resources import LANES_PER_DIVIDER
from hw_targets.storage import storage_of_code
from hw_targets.target import Accelerator, Target

MATRIX_FILL = 12
"""Window register, kept crossbar, select, DSP (3), adder cascade (4), accumulator write."""
VECTOR_FILL = 24
"""Read, convert, multiply (4), three adds (3 x 4), round, table, write."""
TREE_STAGE = 4
"""One fp32 add of the reduction tree over the lanes."""
MAX_STAGE = 1
"""One compare of the maximum tree over the lanes."""
DIVIDE = 28
"""One division or square root; a divider starts one every cycle, and there is one for every LANES_PER_DIVIDER lanes."""


class Cost(NamedTuple):
    """Cycles that the queue is occupied, and cycles from then until the result is complete."""

    busy: int
    latency: int


def cycles(instruction: Resolved, array: Accelerator) -> int:
    """Cycles of one MATRIX, VECTOR or CONTROL instruction alone, its pipeline empty before and after."""
    return sum(cost(instruction, array))


def cost(instruction: Resolved, array: Accelerator, steps: int | None = None) -> Cost:
    """The cost of an instruction of MATRIX, VECTOR or CONTROL. LOAD and STORE are priced by `transfer`.

    `steps`: see `matrix_cost`.
    """
    if instruction.queue is Queue.MATRIX:
        return matrix_cost(instruction, array, steps)
    if instruction.queue is Queue.VECTOR:
        return vector_cost(instruction, array)
    if instruction.queue is Queue.CONTROL:
        return Cost(1, 0)
    raise ValueError(f"{instruction.name} is priced by its transfer")


# ---- MATRIX ---------------------------------------------------------------------------------------------------------


def matrix_steps(layout: Layout, array: Accelerator) -> int:
    """Steps of one pass over the reduction: the cycles one block of tokens and outputs takes.

    Dense: L inputs a step. N:M: min(floor(L / N), W / M) groups a step; where one group needs more than L multipliers
    or W words it takes several. HP: window by window, L kept slots a step, and no window faster than its words
    arrive, W a step. Unstructured: the balanced minimum, as if every row had equally many values, L of them a step; what a
    matrix really takes is counted from its indices (hw_targets/steps.py).
    """
    if layout.mode is MatrixMode.UNSTRUCTURED:
        values = ceil_div(layout.values, layout.outs)
        return max(ceil_div(values, array.multipliers), ceil_div(layout.ins, array.window))
    if layout.mode is MatrixMode.DENSE:
        return ceil_div(layout.ins, array.multipliers)
    if layout.mode is MatrixMode.NM:
        groups = ceil_div(layout.ins, layout.m)
        together = min(array.multipliers // layout.n, array.window // layout.m)
        if together:
            return ceil_div(groups, together)
        return groups * max(ceil_div(layout.n, array.multipliers), ceil_div(layout.m, array.window))
    return sum(
        max(ceil_div(layout.slots_of(kept), array.multipliers), ceil_div(width, array.window), 1)
        for width, kept in zip(layout.windows, layout.kept_inputs, strict=True)
    )


def matrix_cost(instruction: Resolved, array: Accelerator, steps: int | None = None) -> Cost:
    """Steps of all passes over the outputs, once for every T tokens.

    `steps` are those of all passes over the outputs of an unstructured matrix (hw_targets/steps.py); without them the cost
    is the balanced minimum.
    """
    layout = layout_of(instruction)
    if steps is None:
        steps = ceil_div(layout.outs, array.outputs * array.cores) * matrix_steps(layout, array)
    return Cost(ceil_div(instruction.integer("rows"), array.tokens) * steps, MATRIX_FILL)


def matrix_macs(instruction: Resolved) -> tuple[int, int]:
    """(multiplications of the dense matrix, multiplications its pattern leaves), without the array's padding."""
    layout = layout_of(instruction)
    rows = instruction.integer("rows")
    return rows * layout.outs * layout.ins, rows * layout.values


# ---- VECTOR ---------------------------------------------------------------------------------------------------------

PASSES: Mapping[str, int] = {
    "vector.finish": 1,
    "vector.softmax": 2,
    "vector.maximum": 1,
    "vector.context": 1,
    "vector.quantize": 2,
    "vector.quantize_columns": 2,
    "vector.absmax": 1,
    "vector.embed": 0,
    "vector.pool": 1,
    "vector.heads": 1,
}
NORM_PASSES: Sequence[int] = (0, 2, 1)
"""None; layer: the mean, then the variance; rms: the mean of squares."""

"""Passes of every element through a lane: softmax maximum and exponentials, quantise absmax and codes. `passes` adds
the fused parts: a layer norm is two more, an RMS norm one, a gate one (a lane multiplies once more), a rotation one (for the
pair's other half), fused codes one (their absmax rides on the pass before), an embedding one per table, a second
accumulator one; a maximum or absmax that is given saves its pass."""
GIVEN: Mapping[str, str] = {"vector.softmax": "maximum", "vector.quantize_columns": "absmax"}
"""Operands that an earlier instruction has found, where this one would have to look first."""


def passes(instruction: Resolved) -> int:
    """How often every element passes a lane."""
    extra = 0
    if instruction.name in ("vector.finish", "vector.embed"):
        extra = NORM_PASSES[instruction.integer("norm")] + ("codes" in instruction.operands)
    if instruction.name == "vector.finish":
        extra += "gate" in instruction.operands
    if instruction.name == "vector.heads":
        extra = sum(name in instruction.operands for name in ("columns", "table", "codes"))
    if instruction.name == "vector.embed":
        extra += instruction.integer("tables")
    if instruction.name == "vector.context":
        extra = instruction.integer("wide")
    if GIVEN.get(instruction.name) in instruction.operands:
        extra = -1
    return PASSES[instruction.name] + extra


def unchained_passes(instruction: Resolved) -> int:
    """How often where every operation of a chain is a pass of its own, through the memories: scale, bias, residual, gate,
    the steps of a norm (mean, deviation, scaling, affine), activation, absmax, codes; of scores also maximum, exponentials
    and their sum."""
    has = instruction.operands.__contains__
    norm = (0, 4, 3)[int(instruction.immediates.get("norm", 0))] + 2 * has("codes")
    match instruction.name:
        case "vector.finish":
            return 2 + has("residual") + has("gate") + norm + (instruction.integer("activation") > 0)
        case "vector.softmax":
            return 3 + has("bias") + (not has("maximum"))
        case "vector.maximum":
            return 2 + has("bias")
        case "vector.embed":
            return max(instruction.integer("tables") - 1, 1) + norm
        case "vector.heads":
            return 3 * has("columns") + has("table") + norm
        case _:
            return passes(instruction)


BYTES_PER_PORT = 4
"""Logits that a lane of the streaming softmax turns into probabilities in a cycle."""


def lane_cycles(instruction: Resolved, array: Accelerator) -> int:
    """Cycles of all passes through the lanes."""
    elements = ceil_div(instruction.integer("rows") * instruction.integer("cols"), array.lanes)
    if instruction.immediates.get("streaming"):
        return elements + ceil_div(elements, BYTES_PER_PORT)
    if array.design.chained:
        return elements * passes(instruction)
    count = unchained_passes(instruction)
    return elements * count + VECTOR_FILL * max(count - 1, 0)


def scalar_operations(instruction: Resolved) -> int:
    """Divisions and square roots: norm 2 a row (of a head 2 each), quantise 2 a scale, context 1 a row, pool 1 a column,
    the streaming softmax 1 a row."""
    rows = instruction.integer("rows")
    if instruction.name == "vector.context":
        return rows
    if instruction.immediates.get("streaming"):
        return rows
    if instruction.name == "vector.quantize_columns":
        return 2
    if instruction.name == "vector.pool":
        return instruction.integer("cols")
    groups = instruction.integer("cols") // instruction.integer("group") if "codes" in instruction.operands else 0
    if instruction.name == "vector.heads":
        heads = instruction.integer("cols") // instruction.integer("group")
        return rows * 2 * (groups + heads * ("columns" in instruction.operands))
    norm = bool(instruction.immediates.get("norm", 0))
    return rows * (2 * norm + 2 * groups)


def _float_sums(instruction: Resolved) -> int:
    """Sums over the lanes that a result waits for: two of a layer norm, one of an RMS norm or a mean."""
    if instruction.name in ("vector.pool", "vector.heads"):
        return int(instruction.name == "vector.pool" or "columns" in instruction.operands)
    return NORM_PASSES[int(instruction.immediates.get("norm", 0))]


def vector_cost(instruction: Resolved, array: Accelerator) -> Cost:
    """Lane passes, or the dividers where they are the busier unit; then the pipeline's depth."""
    scalars = scalar_operations(instruction)
    dividers = max(array.lanes // LANES_PER_DIVIDER, 1)
    busy = max(lane_cycles(instruction, array), ceil_div(scalars, dividers))
    levels = (array.lanes - 1).bit_length()
    sums = _float_sums(instruction)
    norms = int(sums > 0 and instruction.name != "vector.pool")
    maxima = "codes" in instruction.operands or instruction.name in ("vector.softmax", "vector.maximum", "vector.absmax")
    latency = VECTOR_FILL + levels * (TREE_STAGE * sums + MAX_STAGE * maxima) + DIVIDE * (norms + (scalars > 0))
    return Cost(busy, latency)


# ---- LOAD and STORE -------------------------------------------------------------------------------------------------


class Transfer(NamedTuple):
    """What a LOAD or STORE asks of the off-chip memory, in cycles of the accelerator's clock.

    `memory` is the time the channels are taken, `busy` the time of the queue (decoder included), `latency` what
    follows.
    """

    bytes: int
    bursts: int
    memory: int
    busy: int
    latency: int


def bursts_of(instruction: Resolved, burst_bytes: int) -> tuple[int, int]:
    """(bytes asked for, bursts moved). Rows apart are rounded to whole bursts each; a gathered row costs the worst
    id's."""
    if instruction.name == "load.gather":
        rows, row_bytes = instruction.integer("rows"), instruction.integer("row_bytes")
        aligned = instruction.operands["table"].base % burst_bytes == 0 and row_bytes % burst_bytes == 0
        return rows * row_bytes, rows * (ceil_div(row_bytes, burst_bytes) + (not aligned))
    operand = next(o.name for o in instruction.function.operands if o.memory is Memory.DRAM)
    rows, row_bytes = transfer_rows(instruction, operand)
    place = instruction.operands[operand]
    if place.pitch in (0, row_bytes):
        rows, row_bytes = 1, rows * row_bytes
    last = floor_sum(rows, place.pitch, place.base + row_bytes - 1, burst_bytes)
    return rows * row_bytes, last - floor_sum(rows, place.pitch, place.base, burst_bytes) + rows


def transfer(instruction: Resolved, target: Target) -> Transfer:
    """The cost of a LOAD or STORE. Bursts interleave over the channels; load.weights also takes its decoder's time.

    Raises KeyError for a storage format that the target does not decode.
    """
    memory = target.memory
    total, bursts = bursts_of(instruction, memory.burst_bytes)
    rounds = ceil_div(bursts, memory.channels)
    taken = max(_ceil(rounds * memory.burst_bytes * memory.channels / target.dram_bytes_per_cycle), 1)
    busy = taken
    if instruction.name == "load.weights":
        layout = layout_of(instruction)
        rate = target.decode[storage_of_code(instruction.integer("format")).name]
        busy = max(taken, ceil_div(layout.values, rate))
    return Transfer(total, bursts, taken, busy, target.dram_latency_cycles)


def _ceil(value: float) -> int:
    """Round up, forgiving the last bits of a quotient of floats, so that every machine counts alike."""
    return -int(-(value - 1e-9) // 1)
