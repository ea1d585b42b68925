"""`report.json` and `run.json` of a CPU bundle: what steps_report.py has not, and the CPU's own reasons."""

from __future__ import annotations

from enum import StrEnum

from compiler.tools.report import Form
from compiler.tools.steps_report import (
    STEP_EXPLANATIONS,
    StepReason,
    StepsLayerPart,
    StepsMemoryPart,
    StepsReport,
    StepsRunReport,
)


class CpuReason(StrEnum):
    """Why a pruned layer got the speed-up it got, or why not more."""

    FULL = "full rate"
    SINGLES = "rows share no inputs"
    PADDED = "rows share few inputs"
    PICKED = "rows pick inputs"
    UNEVEN = "rows pick unevenly"
    TILED = "tiles share inputs"
    MIXED = "tiles hold zeros"
    FASTER_DENSE = "faster dense"


CPU_EXPLANATIONS: dict[StepReason | CpuReason, str] = {
    **STEP_EXPLANATIONS,
    CpuReason.FULL: "four rows share their inputs: a loaded vector is used four times, as in a dense product",
    CpuReason.SINGLES: "each row has inputs of its own, loaded for each weight; hp:S or block:4x1:S is faster here",
    CpuReason.PADDED: "not all of four rows use the inputs that one of them needs; hp:S or block:4x1:S is faster here",
    CpuReason.PICKED: "each row picks its own of 64 inputs in a register, at half to two thirds of a dense product's rate",
    CpuReason.UNEVEN: "16 rows pick together and wait for the one with most inputs; nm or hp, balanced, are faster here",
    CpuReason.TILED: "16 rows share their inputs: a tile of weights takes those alone",
    CpuReason.MIXED: "16 rows do not share their inputs, so tiles of weights hold zeros; hp:S of this target is faster here",
    CpuReason.FASTER_DENSE: "a dense product takes less time than this pattern's; hp:S or block:4x1:S is faster here",
}


class CpuTargetPart(Form):
    name: str
    kind: str
    isa: str
    unverified: tuple[str, ...]


class CpuLayerPart(StepsLayerPart):
    reason: StepReason | CpuReason


class CpuReport(StepsReport):
    """report.json: the same bytes for the same command on machines of the same kind."""

    target: CpuTargetPart
    memory: StepsMemoryPart
    layers: tuple[CpuLayerPart, ...]


class CpuRunReport(StepsRunReport):
    """run.json, with how the library was built and on how many threads it ran."""

    threads: int
    build: dict[str, str]
