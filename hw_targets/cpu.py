"""A CPU as a target: its vector instruction set, the register tiles that suit it, its caches; and what this machine is.

Imports neither pydantic nor numpy. How a .toml file is read is hw_targets/schema.py and load.py.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hw_targets.errors import InfeasibleError, InputError
from hw_targets.target import damage, record_of

SNAPSHOT_VERSION = 1
HOST = "host"
CPU_INFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
PICK_COST = 1.45
INTEL_PICK_COST = 2.2
"""Time of an int8 product whose row picks its inputs, against one of a dense weight. On Zen 4 VPERMB runs beside VPDPBUSD
(307 and 450 GOP/s); on Intel's servers it takes one of the two ports that multiply (270 and 607 GOP/s, Emerald Rapids)."""


@dataclass(frozen=True)
class ByteProducts:
    """How int8 products are made: `inputs` are multiplied and summed at once, each in a code of `code_bytes`; unsigned
    codes stand `offset` higher. `part` is the file of compiler/backends/cpu/kernels that does it."""

    part: str
    inputs: int
    code_bytes: int
    offset: int


VNNI = ByteProducts("bytes", 4, 1, 128)
"""VPDPBUSD, of which the first operand is unsigned."""
WORDS = ByteProducts("words", 2, 2, 0)
"""VPMADDWD, on codes in 16 bits."""
DOTS = ByteProducts("dots", 4, 1, 0)
"""SDOT, which takes signed bytes."""


@dataclass(frozen=True)
class Isa:
    """A vector instruction set: `floats` in a register, and how many registers a tile of sums takes.

    A tile is `tile_vectors` vectors of tokens times 4 rows of a sparse or `panel` rows of a dense weight; with the
    inputs and a weight it fits the register file (32 registers, 16 of AVX2). `machine` and `zig_target` name the
    architecture, `flags` are what a C compiler takes; `needs` are the flags of /proc/cpuinfo that a machine must have.
    """

    name: str
    machine: str
    zig_target: str
    floats: int
    tile_vectors: int
    panel: int
    flags: tuple[str, ...]
    zig_flags: tuple[str, ...]
    needs: tuple[str, ...]
    int8: ByteProducts | None = None
    """What `--precision int8` multiplies with; None where it has no form."""
    has_picks: bool = False
    """Whether each lane can pick its bytes out of a register (VPERMB): int8 weights whose rows share no inputs."""
    has_tiles: bool = False
    """Whether it multiplies whole tiles of bytes (AMX): int8 weights of which 16 rows share their inputs."""

    @property
    def tile(self) -> int:
        """Tokens in a tile."""
        return self.floats * self.tile_vectors

    @property
    def byte_vectors(self) -> int:
        """`tile_vectors` of a program with int8 products. VPMADDWD takes its vectors by pairs: of three, the last would take
        as long as two."""
        return self.tile_vectors - self.tile_vectors % 2 if self.int8 == WORDS else self.tile_vectors

    @property
    def code_row(self) -> int:
        """Bytes of an input's codes for a tile."""
        return (self.int8.code_bytes if self.int8 else 1) * self.floats * self.byte_vectors


_AVX2_NEEDS = ("avx2", "fma", "bmi2", "f16c")
_AVX512_NEEDS = (*_AVX2_NEEDS, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

ISAS: Mapping[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa(
            "amx",
            "x86_64",
            "x86_64-linux-gnu",
            16,
            4,
            6,
            ("-march=x86-64-v4", "-mavx512vnni", "-mavx512vbmi", "-mamx-tile", "-mamx-int8"),
            ("-mcpu=x86_64_v4+avx512vnni+avx512vbmi+amx_tile+amx_int8",),
            (*_AVX512_NEEDS, "avx512_vnni", "avx512vbmi", "amx_tile", "amx_int8"),
            int8=VNNI,
            has_picks=True,
            has_tiles=True,
        ),
        Isa(
            "avx512-vbmi",
            "x86_64",
            "x86_64-linux-gnu",
            16,
            4,
            6,
            ("-march=x86-64-v4", "-mavx512vnni", "-mavx512vbmi"),
            ("-mcpu=x86_64_v4+avx512vnni+avx512vbmi",),
            (*_AVX512_NEEDS, "avx512_vnni", "avx512vbmi"),
            int8=VNNI,
            has_picks=True,
        ),
        Isa(
            "avx512-vnni",
            "x86_64",
            "x86_64-linux-gnu",
            16,
            4,
            6,
            ("-march=x86-64-v4", "-mavx512vnni"),
            ("-mcpu=x86_64_v4+avx512vnni",),
            (*_AVX512_NEEDS, "avx512_vnni"),
            int8=VNNI,
        ),
        Isa(
            "avx512",
            "x86_64",
            "x86_64-linux-gnu",
            16,
            4,
            6,
            ("-march=x86-64-v4",),
            ("-mcpu=x86_64_v4",),
            _AVX512_NEEDS,
            WORDS,
        ),
        Isa("avx2", "x86_64", "x86_64-linux-gnu", 8, 3, 4, ("-march=x86-64-v3",), ("-mcpu=x86_64_v3",), _AVX2_NEEDS, WORDS),
        Isa(
            "neon-dotprod",
            "aarch64",
            "aarch64-linux-gnu",
            4,
            4,
            6,
            ("-march=armv8.2-a+dotprod",),
            ("-mcpu=generic+v8_2a+dotprod",),
            ("asimddp",),
            DOTS,
        ),
        Isa("neon", "aarch64", "aarch64-linux-gnu", 4, 4, 6, ("-march=armv8-a",), ("-mcpu=generic",), ()),
    )
}
"""Every instruction set by name, the widest of a machine first."""


@dataclass(frozen=True)
class CpuTarget:
    """A CPU whose instruction set and caches are known."""

    name: str
    kind: str
    summary: str
    isa: str
    l1_bytes: int
    l2_bytes: int
    sources: tuple[tuple[str, str], ...]
    pick_cost: float = PICK_COST

    @property
    def instructions(self) -> Isa:
        return ISAS[self.isa]

    @property
    def dense_block(self) -> int:
        """Inputs per cache block where every input of a tile is read: a fifth of the second-level cache."""
        return _multiple_of_64(self.l2_bytes // 5 // (4 * self.instructions.tile))

    @property
    def single_block(self) -> int:
        """Inputs per cache block where each row reads a few inputs of its own: three quarters of the first level."""
        return max(32, self.l1_bytes * 3 // 4 // (4 * self.instructions.tile) // 32 * 32)

    def shapes(self, precision: str) -> str:
        """Whose list of pattern shapes `hp:S` is resolved with."""
        return "cpu-tiles" if precision == "int8" and self.instructions.has_tiles else self.kind

    @property
    def vector_block(self) -> int:
        """Inputs per cache block where four rows share a list. On AVX2 half a `dense_block`: of more, the second level takes
        too long where a quarter is used; of less, sums that wait between blocks do where a tenth is."""
        return _multiple_of_64(self.dense_block // 2) if self.instructions.floats == 8 else self.dense_block

    def unverified(self) -> tuple[str, ...]:
        return tuple(key for key, source in self.sources if source == "unverified")

    def runs_here(self) -> bool:
        """Whether this machine executes the target's instructions."""
        return self.isa in _isas_here()

    def snapshot(self) -> dict[str, Any]:
        """Everything as JSON-able data, for a bundle's manifest."""
        return {"snapshot_version": SNAPSHOT_VERSION, **asdict(self)}

    @classmethod
    def from_snapshot(cls, data: Mapping[str, Any], *, where: str = "") -> CpuTarget:
        """The inverse of `snapshot`. Raises InputError for anything else."""
        names = {field.name for field in fields(cls)}
        if data.get("snapshot_version") != SNAPSHOT_VERSION or set(data) != {*names, "snapshot_version"}:
            raise InputError("HPCC1320", "the target snapshot is not one of this release", where=where)
        try:
            sources = tuple((str(key), str(source)) for key, source in data["sources"])
            target = record_of(cls, {name: data[name] for name in names} | {"sources": sources})
        except (TypeError, ValueError) as error:
            raise InputError("HPCC1321", damage(error), where=where) from error
        if target.isa not in ISAS:
            raise InputError("HPCC1321", f"the target snapshot has no known isa: {target.isa!r}", where=where)
        return target


def _multiple_of_64(count: int) -> int:
    return max(64, count // 64 * 64)


# ---- this machine ---------------------------------------------------------------------------------------------------


def _isas_here() -> list[str]:
    """The instruction sets of this machine, the widest first."""
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    flags = _flags_here()
    return [isa.name for isa in ISAS.values() if isa.machine == machine and all(flag in flags for flag in isa.needs)]


def _cpu_info() -> str:
    """What the system says of its cores; nothing where it says nothing."""
    try:
        return CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _flags_here() -> set[str]:
    named = [line for line in _cpu_info().splitlines() if line.startswith(("flags", "Features"))]  # x86, Arm
    return {flag for line in named for flag in line.partition(":")[2].split()}


def detect_isa(where: str) -> str:
    """The widest instruction set of this machine. Raises InfeasibleError if none is supported or it cannot be told."""
    found = _isas_here()
    if not found:
        message = f"this machine ({platform.machine()}) shows none of the supported instruction sets: {', '.join(ISAS)}"
        raise InfeasibleError("HPCC3301", message, where=where, hint="name what it has: --target cpu-avx2")
    return found[0]


def detect_pick_cost(otherwise: float) -> float:
    """Intel's, where the machine is one of theirs; `otherwise` for any other."""
    return INTEL_PICK_COST if "GenuineIntel" in _cpu_info() else otherwise


def detect_cache(level: int, otherwise: int) -> int:
    """Bytes of the first core's data cache of a level, `otherwise` where the system does not say."""
    for folder in sorted(CACHES.glob("index*")):
        try:
            kind, size = ((folder / name).read_text(encoding="utf-8").strip() for name in ("type", "size"))
            if int((folder / "level").read_text(encoding="utf-8")) == level and kind in ("Data", "Unified"):
                return int(size.removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return otherwise
