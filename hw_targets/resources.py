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

<<<<<<< HEAD
DEFAULTS = {"multipliers": 8, "window": 32, "selector": 8, "queue_depth": 32}
TOKEN_CHOICES = (32, 24, 20, 16, 14, 12, 10, 8, 6, 4, 2, 1)
OUTPUT_CHOICES = (128, 64, 32, 16, 8, 4, 2, 1)
# Powers of two, for the tree of sums.
LANE_CHOICES = (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
# What an array and its lanes are weighed by: millions of multiplications of BERT-base on 128 tokens, dense and with
# hp:0.75, and of lane passes with fused chains (2.99 a layer), all counted by the simulator.
DENSE_MACS = 11170.0
PRUNED_MACS = 3020.0
LANE_PASSES = 35.9
# Rows of the token tile by which arrays are compared: one whose tokens do not divide it idles in the last step.
TILE_ROWS = 32

FIELDS = tuple(field.name for field in fields(Accelerator) if field.name not in ("cores", "design"))
=======
FIELDS = tuple(field.name for field in fields(Accelerator) if field.name != "cores")
>>>>>>> machine
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
<<<<<<< HEAD


# ---- sizing ---------------------------------------------------------------------------------------------------------


def size(target: Target, asked: dict[str, int | None]) -> Accelerator:
    """The accelerator with every field of `asked` that is None chosen to fit the device.

    Of the arrays with lanes that fit beside the smallest memories the fastest is taken (of equals, the one with fewest
    lanes, then the one that reads fewest bytes per cycle), then the memories grow by turns. Raises InfeasibleError where
    nothing fits.
    """
    best: tuple[tuple[float, int, int], Accelerator] | None = None
    least: tuple[float, Accelerator] | None = None
    for array in _arrays(target, asked):
        accelerator = _smallest_memories(array, asked, target)
        over = overshoot(broken_by(target, accelerator))
        if over:
            least = (over, accelerator) if least is None or over < least[0] else least
            continue
        rating = (-_pace(accelerator), -accelerator.lanes, -_reads_per_cycle(accelerator))
        if best is None or rating > best[0]:
            best = (rating, accelerator)
    if best is not None:
        return _grow_memories(best[1], asked, target)
    assert least is not None, "at least one array is tried"
    nearest = replace(target, accelerator=least[1])
    raise _infeasible(nearest, broken_by(nearest, nearest.accelerator))


def _arrays(target: Target, asked: dict[str, int | None]) -> Iterator[Accelerator]:
    """Candidate arrays with memories still of size 0."""
    fixed = {name: asked[name] or default for name, default in DEFAULTS.items()}
    cores = asked["cores"] or target.device.slrs
    for tokens, outputs in product(_choices(asked["tokens"], TOKEN_CHOICES), _choices(asked["outputs"], OUTPUT_CHOICES)):
        for lanes in _choices(asked["lanes"], LANE_CHOICES):
            yield Accelerator(
                cores=cores,
                tokens=tokens,
                outputs=outputs,
                lanes=lanes,
                act_bytes=0,
                weight_bytes=0,
                acc_bytes=0,
                param_bytes=0,
                design=target.accelerator.design,
                **fixed,
            )


def _choices(asked: int | None, choices: tuple[int, ...]) -> tuple[int, ...]:
    return choices if asked is None else (asked,)


def _pace(a: Accelerator) -> float:
    """Cycles (millions, squared) of the dense model times those of the pruned one, MATRIX or VECTOR whichever is slower."""
    macs, vector = _effective_macs(a), LANE_PASSES / a.lanes
    return max(DENSE_MACS / macs, vector) * max(PRUNED_MACS / macs, vector)


def _effective_macs(a: Accelerator) -> float:
    steps = _ceil(TILE_ROWS, a.tokens)
    return a.macs_per_cycle * TILE_ROWS / (steps * a.tokens)


def _reads_per_cycle(a: Accelerator) -> int:
    return memory_width("act", a) + memory_width("weights", a) // a.cores


def _step(memory: str, a: Accelerator, target: Target) -> int:
    """Bytes by which a memory grows: its width times the words of its block kind."""
    words = URAM_WORDS if memory in PLACEMENTS[0] and target.device.usable.uram else BRAM_WORDS
    return memory_width(memory, a) * words


def _smallest_memories(a: Accelerator, asked: dict[str, int | None], target: Target) -> Accelerator:
    sizes = {FIELD_OF[memory]: asked[FIELD_OF[memory]] or _step(memory, a, target) for memory in MEMORIES}
    return replace(a, **sizes)


def _grow_memories(a: Accelerator, asked: dict[str, int | None], target: Target) -> Accelerator:
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


def limit(target: Target) -> Limit | None:
    """What binds the sizing; None where nothing faster could be asked for with what the file fixes."""
    asked = {name: None if name in target.auto else getattr(target.accelerator, name) for name in ("cores", *FIELDS)}
    pace = _pace(target.accelerator)
    found: list[tuple[float, int, Limit]] = []
    for array in _arrays(target, asked):
        if _pace(array) < pace:
            larger = _smallest_memories(array, asked, target)
            broken = broken_by(target, larger)
            if broken:
                found.append((overshoot(broken), len(found), Limit(larger, broken)))
    return min(found)[2] if found else None


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


def _part_line(part: Part) -> str:
    takes = ", ".join(f"{n:,} {name.upper()}" for name, n in part.takes.as_dict().items() if n)
    return f"{part.name}: {takes or 'nothing'}"
=======
>>>>>>> machine
