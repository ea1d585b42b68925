"""The resource model: what an accelerator takes of an FPGA, and whether it fits. How `auto` is sized: sizing.py.

Every constant below is an ESTIMATE of a pipelined implementation on 6-input LUTs, derived in its comment; none is a
synthesis result. What the model leaves out: wires between SLRs (broadcasting activations takes tokens x window x 8 of
them per crossing), placement of blocks inside one SLR, and the difference between the SLRs' sizes in all but DSPs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from hw_targets.errors import InfeasibleError
from hw_targets.layout import ceil_div
from hw_targets.target import NO_RESOURCES, Accelerator, Decoder, Device, Resources, Target

# FINN's limits for timing closure (platforms.py): the share of each usable resource that a design may take, in
# per cent, and the limit of the mean over BRAM, URAM and DSP.
CEILINGS = {"dsp": 80, "lut": 70, "ff": 50, "bram": 80, "uram": 80}
MEAN_CEILING = 70
MEAN_OVER = ("bram", "uram", "dsp")

# DSP48E2 multiplies one 8-bit weight with the packed activations of two tokens; DSP48E1 does not pack.
TOKENS_PER_DSP = {"dsp48e2": 2, "dsp48e1": 1}

# An S:1 multiplexer of one bit takes S / 4 LUT6 (F7/F8 muxes join them), so 8 bits take 2 S: 16 LUTs at 8:1.
LUT_PER_BYTE_MUX_INPUT = 2
# Per multiplier: the selected byte and the weight, registered, and the DSP's input pipeline.
FF_PER_MULTIPLIER = 24
# Per (token, output): unpacking the 18-bit fields with their correction, joining two cascades, the int32 accumulator.
LUT_PER_CELL = 56
FF_PER_CELL = 80

# A vector lane: one fp32 multiplier and one adder in DSPs (2 each), and one DSP for the fixed-point exponent and
# requantisation; comparators, conversions, flushes, tables' addressing and the lane's share of the tree in LUTs.
DSP_PER_LANE = 5
LUT_PER_LANE = 1200
FF_PER_LANE = 1500
LANES_PER_TABLE_BRAM = 2
# One divider and one square root, fp32, once per row, shared by a group of lanes.
LANES_PER_DIVIDER = 16
LUT_PER_DIVIDER = 1600
FF_PER_DIVIDER = 2400

# The streaming softmax, a lane: four times a subtraction (8 LUTs), a rounded shift (28) and its port for the probabilities;
# a compare, and the shifted sum of 20 bits with its adder for the pass before. The quotients are the dividers'.
LUT_PER_STREAMING_LANE = 200
FF_PER_STREAMING_LANE = 160

# Queues, semaphores, address generators; an instruction is 1,280 bits, kept in LUT RAM, 0.6 LUT a bit per 32 entries.
LUT_CONTROL = 12000
FF_CONTROL = 16000
LUT_PER_QUEUE_BLOCK = 768
QUEUE_BLOCK = 32
QUEUES = 5
# Flip-flops of a decoder, relative to its LUTs.
FF_PER_DECODER_LUT = 1

# FINN, platforms.py: the cost of the HBM ports (8 BRAM18) and of one DDR controller (199 BRAM18).
HBM_PORTS = Resources(lut=10718, ff=21793, bram=4, uram=0, dsp=0)
DDR_CONTROLLER = Resources(lut=33256, ff=44889, bram=100, uram=0, dsp=3)

# A block is 72 bits wide in simple dual port: (bytes of a word, words).
PORT_BYTES = 9
BRAM_WORDS = 512
URAM_WORDS = 4096
BRAM_BYTES = PORT_BYTES * BRAM_WORDS
URAM_BYTES = PORT_BYTES * URAM_WORDS

# Where the two large memories may lie, in order of preference; accumulators and parameters are always in BRAM.
PLACEMENTS: tuple[dict[str, str], ...] = (
    {"act": "uram", "weights": "uram"},
    {"act": "bram", "weights": "uram"},
    {"act": "uram", "weights": "bram"},
    {"act": "bram", "weights": "bram"},
)

FIELDS = tuple(field.name for field in fields(Accelerator) if field.name not in ("cores", "design"))
MEMORIES = ("act", "weights", "acc", "param")
FIELD_OF = {"act": "act_bytes", "weights": "weight_bytes", "acc": "acc_bytes", "param": "param_bytes"}


@dataclass(frozen=True)
class Part:
    """One line of the resource bill."""

    name: str
    takes: Resources


@dataclass(frozen=True)
class Violation:
    """A ceiling that is broken; `resource` is "mean" for the mean over BRAM, URAM and DSP (numbers in per cent), "slr" for
    the DSPs of one core, which lie in one super logic region."""

    resource: str
    used: int
    allowed: int
    usable: int

    @property
    def name(self) -> str:
        """The resource in words."""
        return {"mean": "mean of BRAM, URAM and DSP", "slr": "DSP of one SLR"}.get(self.resource, self.resource.upper())

    @property
    def over(self) -> int:
        return self.used - self.allowed

    def __str__(self) -> str:
        if self.resource == "mean":
            return f"the mean use of BRAM, URAM and DSP is {self.used} %, {self.over} above the limit of {self.allowed} %"
        if self.resource == "slr":
            return (
                f"DSP of one core: {self.used:,} used, {self.over:,} more than the {self.allowed:,} "
                f"({CEILINGS['dsp']} % of {self.usable:,} in its super logic region)"
            )
        return (
            f"{self.resource.upper()}: {self.used:,} used, {self.over:,} more than the {self.allowed:,} "
            f"({CEILINGS[self.resource]} % of {self.usable:,} usable)"
        )


def memory_width(memory: str, a: Accelerator) -> int:
    """Bytes that a memory delivers or takes per cycle when its busiest user runs at full speed."""
    if memory == "act":  # one window of bytes per token, broadcast to the cores
        return a.tokens * a.window
    if memory == "weights":  # a byte and a 4-bit select per multiplier weight
        return a.cores * ceil_div(a.outputs * a.multipliers * 3, 2)
    if memory == "acc":  # a lane reads an int32; a finished tile of results drains within eight cycles
        return max(4 * a.lanes, ceil_div(a.cores * a.tokens * a.outputs * 4, 8))
    return 16 * a.lanes  # scale, bias, gamma and beta of a column


def memory_takes(width: int, size: int, kind: str) -> Resources:
    """Blocks of `kind` for a memory of `size` bytes, `width` bytes wide."""
    words = URAM_WORDS if kind == "uram" else BRAM_WORDS
    blocks = ceil_div(width, PORT_BYTES) * ceil_div(ceil_div(size, width), words)
    return replace(NO_RESOURCES, uram=blocks) if kind == "uram" else replace(NO_RESOURCES, bram=blocks)


def matrix_takes(a: Accelerator, dsp_kind: str) -> Resources:
    """Multipliers, selectors, window crossbars and accumulation cells of all cores."""
    cells = a.cores * a.tokens * a.outputs
    multipliers = cells * a.multipliers
    crossbar_bytes = a.cores * a.tokens * a.window
    selectors = multipliers * LUT_PER_BYTE_MUX_INPUT * a.selector
    crossbars = crossbar_bytes * LUT_PER_BYTE_MUX_INPUT * a.window
    return Resources(
        lut=selectors + crossbars + cells * LUT_PER_CELL,
        ff=multipliers * FF_PER_MULTIPLIER + crossbar_bytes * 16 + cells * FF_PER_CELL,
        bram=0,
        uram=0,
        dsp=a.cores * ceil_div(a.tokens, TOKENS_PER_DSP[dsp_kind]) * a.outputs * a.multipliers,
    )


def vector_takes(lanes: int) -> Resources:
    """Lanes, their tables, and the dividers that groups of them share."""
    dividers = ceil_div(lanes, LANES_PER_DIVIDER)
    return Resources(
        lut=lanes * LUT_PER_LANE + dividers * LUT_PER_DIVIDER,
        ff=lanes * FF_PER_LANE + dividers * FF_PER_DIVIDER,
        bram=ceil_div(lanes, LANES_PER_TABLE_BRAM),
        uram=0,
        dsp=lanes * DSP_PER_LANE,
    )


def softmax_takes(a: Accelerator) -> Resources:
    """What a softmax with an arithmetic of its own takes besides the lanes."""
    if a.design.softmax == "exact":
        return NO_RESOURCES
    return replace(NO_RESOURCES, lut=a.lanes * LUT_PER_STREAMING_LANE, ff=a.lanes * FF_PER_STREAMING_LANE)


def control_takes(queue_depth: int) -> Resources:
    """Instruction queues, semaphores and address generators."""
    queues = QUEUES * ceil_div(queue_depth, QUEUE_BLOCK) * LUT_PER_QUEUE_BLOCK
    return replace(NO_RESOURCES, lut=LUT_CONTROL + queues, ff=FF_CONTROL)


def decoders_take(decoders: tuple[Decoder, ...]) -> Resources:
    lut = sum(decoder.values_per_cycle * decoder.lut_per_value for decoder in decoders)
    return replace(NO_RESOURCES, lut=lut, ff=lut * FF_PER_DECODER_LUT)


def memory_ports_take(kind: str, channels: int) -> Resources:
    """HBM ports once per device; a soft controller per DDR channel; nothing where a processor's controller serves."""
    name = kind.lower()
    if name.startswith("hbm"):
        return HBM_PORTS
    if name.startswith("ps"):
        return NO_RESOURCES
    return Resources(**{key: channels * value for key, value in DDR_CONTROLLER.as_dict().items()})


def memory_parts(a: Accelerator, placement: dict[str, str]) -> Iterator[Part]:
    for memory in MEMORIES:
        kind = placement.get(memory, "bram")
        size: int = getattr(a, FIELD_OF[memory])
        yield Part(f"{memory} memory ({kind.upper()})", memory_takes(memory_width(memory, a), size, kind))


def logic_parts(target: Target, a: Accelerator) -> Iterator[Part]:
    yield Part("MATRIX", matrix_takes(a, target.device.dsp_kind))
    yield Part("VECTOR", vector_takes(a.lanes) + softmax_takes(a))
    yield Part("decoders", decoders_take(target.decoders))
    yield Part("queues and control", control_takes(a.queue_depth))
    yield Part("memory ports", memory_ports_take(target.memory.kind, target.memory.channels))


def total(parts: Iterator[Part] | tuple[Part, ...]) -> Resources:
    result = NO_RESOURCES
    for part in parts:
        result = result + part.takes
    return result


def violations(used: Resources, device: Device) -> tuple[Violation, ...]:
    """The ceilings that `used` breaks on this device."""
    taken, usable = used.as_dict(), device.usable.as_dict()
    broken: list[Violation] = []
    for name, percent in CEILINGS.items():
        allowed = usable[name] * percent // 100
        if taken[name] > allowed:
            broken.append(Violation(name, taken[name], allowed, usable[name]))
    shares = [100 * taken[name] / usable[name] for name in MEAN_OVER if usable[name]]
    mean = sum(shares) / len(shares) if shares else 0.0
    if mean > MEAN_CEILING and not broken:
        broken.append(Violation("mean", -int(-mean // 1), MEAN_CEILING, 100))
    return tuple(broken)


def core_violations(a: Accelerator, device: Device) -> tuple[Violation, ...]:
    """The ceiling that one core breaks in its super logic region, if it does; one region alone is the device itself."""
    if device.slrs == 1:
        return ()
    taken, allowed = matrix_takes(a, device.dsp_kind).dsp // a.cores, device.slr_dsp * CEILINGS["dsp"] // 100
    return (Violation("slr", taken, allowed, device.slr_dsp),) if taken > allowed else ()


def overshoot(broken: tuple[Violation, ...]) -> float:
    """How far beyond the ceilings: 0 where everything fits, else the sum of the excesses relative to them."""
    return sum(violation.over / max(violation.allowed, 1) for violation in broken)


def bill(target: Target, a: Accelerator | None = None) -> tuple[Part, ...]:
    """The resource bill, with the large memories where they fit (where nothing fits: where they miss by least)."""
    accelerator = a or target.accelerator
    logic = tuple(logic_parts(target, accelerator))
    bills = [(*logic, *memory_parts(accelerator, placement)) for placement in PLACEMENTS]
    return min(bills, key=lambda parts: overshoot(violations(total(parts), target.device)))


def broken_by(target: Target, a: Accelerator) -> tuple[Violation, ...]:
    """Every ceiling of the device that the accelerator breaks."""
    return (*violations(total(bill(target, a)), target.device), *core_violations(a, target.device))


def used(target: Target) -> Resources:
    """What the target's accelerator takes of its device."""
    return total(bill(target))


def check_cores(target: Target, cores: int | None) -> None:
    """Raise InfeasibleError if more cores are asked for than the device has SLRs: a core must not straddle two."""
    if cores is not None and cores > target.device.slrs:
        raise InfeasibleError(
            "HPCC3101",
            f"target {target.name!r} asks for {cores} cores, its device has {target.device.slrs} super logic regions, "
            f"{cores - target.device.slrs} too few for one core each",
            hint='write cores = "auto"',
        )


def check(target: Target) -> None:
    """Raise InfeasibleError, saying which resource is short and by how much, unless the target fits its device."""
    broken = broken_by(target, target.accelerator)
    if broken:
        raise infeasible(target, broken)


def infeasible(target: Target, broken: tuple[Violation, ...]) -> InfeasibleError:
    a = target.accelerator
    text = "; ".join(str(violation) for violation in broken)
    shape = f"{a.cores} cores x {a.tokens} tokens x {a.outputs} outputs x {a.multipliers}, {a.lanes} lanes"
    hint = 'ask for less, or write "auto" in [accelerator] for what need not be fixed'
    sized = "even the nearest array of" if target.auto else "its"
    message = f"target {target.name!r} does not fit its device: {sized} {shape} takes too much ({text})"
    return InfeasibleError("HPCC3102", message, hint=hint)
