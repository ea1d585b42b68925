"""A target as the compiler and the simulator see it: plain frozen numbers, sized and checked.

How a .toml file is read and checked is hw_targets/schema.py and load.py; how `auto` is sized is sizing.py. This
module imports neither pydantic nor numpy, so that a machine that only runs programs stays light.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar, cast

from hw_targets.errors import InputError

SNAPSHOT_VERSION = 3
UNVERIFIED = "unverified"


@dataclass(frozen=True)
class Resources:
    """Counts of FPGA resources: 6-input LUTs, flip-flops, 36 Kb block RAMs, UltraRAMs, DSP slices."""

    lut: int
    ff: int
    bram: int
    uram: int
    dsp: int

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            lut=self.lut + other.lut,
            ff=self.ff + other.ff,
            bram=self.bram + other.bram,
            uram=self.uram + other.uram,
            dsp=self.dsp + other.dsp,
        )

    def as_dict(self) -> dict[str, int]:
        return {"dsp": self.dsp, "lut": self.lut, "ff": self.ff, "bram": self.bram, "uram": self.uram}


NO_RESOURCES = Resources(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Device:
    """The FPGA: `die` is what the silicon has, `usable` what the shell leaves, `slrs` the super logic regions.

    `slr_dsp` are the usable DSPs of the smallest SLR: a core lies in one.
    """

    part: str
    dsp_kind: str
    slrs: int
    slr_dsp: int
    die: Resources
    usable: Resources


@dataclass(frozen=True)
class Clock:
    """The one clock of the accelerator."""

    mhz: float


@dataclass(frozen=True)
class Memory:
    """Off-chip memory. `gbytes_per_s` is the peak of all channels (1e9 bytes), `efficiency` the share reached."""

    kind: str
    channels: int
    gbytes_per_s: float
    efficiency: float
    latency_ns: float
    burst_bytes: int
    capacity_bytes: int


@dataclass(frozen=True)
class Link:
    """The way between the host and the board's memory."""

    gbytes_per_s: float
    latency_us: float


@dataclass(frozen=True)
class Design:
    """Choices of the microarchitecture that no size expresses; the defaults are the machine that the pages describe.

    `softmax`: "exact", or "streaming" with its `softmax_shift` (docs/NUMERICS.md, 5.11). The other two are poorer machines
    to compare with: without `chained` every operation of a vector chain is a pass of its own, with `probabilities` in
    "dram" they leave the chip between softmax and the product with V.
    """

    softmax: str = "exact"
    softmax_shift: int = 5
    chained: bool = True
    probabilities: str = "chip"

    @property
    def streaming_shift(self) -> int | None:
        """The shift of the streaming softmax, if it is built."""
        return self.softmax_shift if self.softmax == "streaming" else None


DESIGN = Design()


@dataclass(frozen=True)
class Accelerator:
    """The array and its memories.

    `cores` arrays of `tokens` x `outputs` x `multipliers`, each token fed with a `window` of activations per cycle and
    each multiplier with a `selector`:1 choice of them; `lanes` fp32 vector lanes. The *_bytes are the whole memories of
    the instruction set's address spaces (all cores together; double buffering divides them further).
    """

    cores: int
    tokens: int
    outputs: int
    multipliers: int
    window: int
    selector: int
    lanes: int
    act_bytes: int
    weight_bytes: int
    acc_bytes: int
    param_bytes: int
    queue_depth: int
    design: Design = DESIGN

    @property
    def macs_per_cycle(self) -> int:
        return self.cores * self.tokens * self.outputs * self.multipliers


@dataclass(frozen=True)
class Decoder:
    """A storage format that LOAD can decode: its rate and what one value per cycle of it costs."""

    format: str
    values_per_cycle: int
    lut_per_value: int


@dataclass(frozen=True)
class Workload:
    """What an accelerator may be sized for: matrices of one pattern, as their compute layout is described (layout.py).

    `reach`: the most inputs that a multiplier has to choose from in any matrix of the model; 0 if that is not known.
    """

    pattern: str
    mode: str
    n: int = 1
    m: int = 1
    block_rows: int = 0
    window: int = 0
    keep: int = 0
    reach: int = 0

    @classmethod
    def from_snapshot(cls, data: Any) -> Workload:
        """The inverse of `asdict`; `reach` may be absent. Raises TypeError or ValueError for what describes no matrix."""
        from hw_targets.isa import MatrixMode
        from hw_targets.layout import Layout

        missing = {field.name for field in fields(cls)} - set(data)
        workload = record_of(cls, {"reach": 0, **data} if missing == {"reach"} else data)
        w, ins = workload, 1024
        problem = Layout(MatrixMode(w.mode), 1, ins, w.n, w.m, w.block_rows, w.window, w.keep).problem()
        if problem:
            raise ValueError(problem)
        return workload


@dataclass(frozen=True)
class Target:
    """A target description whose every number is known. `auto` names the accelerator fields that were sized, `workload`
    what for, if that was one pattern alone."""

    name: str
    kind: str
    summary: str
    device: Device
    clock: Clock
    memory: Memory
    link: Link
    accelerator: Accelerator
    decoders: tuple[Decoder, ...]
    sources: tuple[tuple[str, str], ...]
    auto: tuple[str, ...]
    workload: Workload | None = None

    @property
    def decode(self) -> dict[str, int]:
        """Values per cycle of each storage format that LOAD decodes; a format that is absent cannot be chosen."""
        return {decoder.format: decoder.values_per_cycle for decoder in self.decoders}

    @property
    def capacities(self) -> Mapping[str, int]:
        """Bytes of every memory, by the names of the instruction set."""
        return {
            "dram": self.memory.capacity_bytes,
            "act": self.accelerator.act_bytes,
            "weights": self.accelerator.weight_bytes,
            "acc": self.accelerator.acc_bytes,
            "param": self.accelerator.param_bytes,
        }

    @property
    def dram_bytes_per_cycle(self) -> float:
        """Bytes that all channels together deliver per clock cycle, efficiency included."""
        return self.memory.gbytes_per_s * 1e3 * self.memory.efficiency / self.clock.mhz

    @property
    def dram_latency_cycles(self) -> int:
        """Cycles from a request to its first bytes, rounded up."""
        return -int(-self.memory.latency_ns * self.clock.mhz // 1000)

    def unverified(self) -> tuple[str, ...]:
        """The numbers that no source backs, as dotted keys of the target file."""
        return tuple(key for key, source in self.sources if source == UNVERIFIED)

    def resources(self) -> dict[str, dict[str, int]]:
        """What the accelerator takes of the device: {"dsp": {"used": n, "usable": n}, "lut": ..., ...}."""
        from hw_targets.resources import used

        taken, usable = used(self).as_dict(), self.device.usable.as_dict()
        return {name: {"used": taken[name], "usable": usable[name]} for name in taken}

    def explain(self) -> tuple[str, ...]:
        """Short lines on the sizing: what was chosen, what it takes, what stopped it from being larger."""
        from hw_targets.sizing import explain

        return explain(self)

    def snapshot(self) -> dict[str, Any]:
        """Everything as JSON-able data, for a program's manifest."""
        data = {"snapshot_version": SNAPSHOT_VERSION, **asdict(self)}
        if self.workload is None:
            del data["workload"]
        return data

    @classmethod
    def from_snapshot(cls, data: Mapping[str, Any], *, where: str = "") -> Target:
        """The inverse of `snapshot`, also after a round trip through JSON. Raises InputError for anything else."""
        version = data.get("snapshot_version")
        if version != SNAPSHOT_VERSION:
            raise InputError("HPCC1310", f"target snapshot of version {version!r}, expected {SNAPSHOT_VERSION}", where=where)
        try:
            device = dict(data["device"])
            device["die"] = record_of(Resources, device["die"])
            device["usable"] = record_of(Resources, device["usable"])
            accelerator = dict(data["accelerator"])
            accelerator["design"] = record_of(Design, accelerator["design"])
            return cls(
                name=str(data["name"]),
                kind=str(data["kind"]),
                summary=str(data["summary"]),
                device=record_of(Device, device),
                clock=record_of(Clock, data["clock"]),
                memory=record_of(Memory, data["memory"]),
                link=record_of(Link, data["link"]),
                accelerator=record_of(Accelerator, accelerator),
                decoders=tuple(record_of(Decoder, decoder) for decoder in data["decoders"]),
                sources=tuple((str(key), str(source)) for key, source in data["sources"]),
                auto=tuple(str(name) for name in data["auto"]),
                workload=Workload.from_snapshot(data["workload"]) if "workload" in data else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("HPCC1311", damage(error), where=where) from error


RANGES: Mapping[str, tuple[int, int]] = {
    "cores": (1, 16),
    "tokens": (1, 256),
    "outputs": (1, 1024),
    "multipliers": (1, 64),
    "window": (4, 256),
    "selector": (2, 32),
    "lanes": (1, 4096),
    "act_bytes": (1024, 1 << 30),
    "weight_bytes": (1024, 1 << 30),
    "acc_bytes": (1024, 1 << 30),
    "param_bytes": (1024, 1 << 30),
    "queue_depth": (2, 4096),
}
"""Smallest and largest value of every number of an accelerator; a GiB on chip is more than any FPGA has."""
DESIGN_RANGES: Mapping[str, tuple[int, int]] = {"softmax_shift": (0, 5)}
"""The same of a design."""
WORDS_OF: Mapping[str, tuple[str, ...]] = {"softmax": ("exact", "streaming"), "probabilities": ("chip", "dram")}
"""What the words of a design may be."""
POWERS_OF_TWO = ("window", "selector", "lanes")
MAY_BE_ZERO = (Resources, Decoder, Workload)
QUANTITY_LIMIT = 1e12
"""Quantities lie between this and its reciprocal, counts below it: what is beyond is damage, and would not compute."""

Record = TypeVar("Record")


def damage(error: Exception) -> str:
    """What a snapshot's error says of it."""
    return f"the target snapshot is damaged: {str(error) if isinstance(error, ValueError) else repr(error)}"


def record_of(kind: type[Record], data: Any) -> Record:
    """A dataclass from a mapping that has exactly its fields, each of its type and possible as a number."""
    values = cast("dict[str, Any]", dict(data))
    expected = {field.name: str(field.type) for field in fields(cast(Any, kind))}
    if set(values) != set(expected):
        raise ValueError(f"{kind.__name__} needs {sorted(expected)}, not {sorted(values)}")
    for name, type_name in expected.items():
        problem = _problem(kind, name, type_name, values[name])
        if problem:
            raise ValueError(f"{name} {problem}, it is {values[name]!r}")
    return kind(**values)


def _problem(kind: type[Any], name: str, type_name: str, value: Any) -> str:
    """Why `value` cannot be the field `name` of a record, or an empty string."""
    if type_name == "int":
        low, high = (0 if kind in MAY_BE_ZERO else 1), int(QUANTITY_LIMIT)
        if kind in (Accelerator, Design):
            low, high = {**RANGES, **DESIGN_RANGES}[name]
        elif name == "values_per_cycle":
            low = 1
        if type(value) is not int or not low <= value <= high:
            return f"is no whole number from {low} to {high}"
        if kind is Accelerator and name in POWERS_OF_TWO and value & (value - 1):
            return "is no power of two"
    elif type_name == "float":
        high = 1.0 if name == "efficiency" else QUANTITY_LIMIT
        if type(value) not in (int, float) or not 1 / QUANTITY_LIMIT <= value <= high:
            return f"is no number from {1 / QUANTITY_LIMIT} to {high}"
    elif type_name == "bool" and type(value) is not bool:
        return "is neither true nor false"
    elif type_name == "str" and not isinstance(value, str):
        return "is no text"
    elif name in WORDS_OF and kind is Design and value not in WORDS_OF[name]:
        return f"is none of {', '.join(WORDS_OF[name])}"
    return ""
