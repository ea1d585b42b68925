"""From --targets, --patterns and --cost to the space of a search: devices by kind, their patterns, their cost classes."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from compiler.backends.cpu.build import find_compiler
from compiler.explore.costs import CLASSES, CPU
from compiler.explore.selection import Objective
from compiler.explore.space import DENSE, Part, Space
from compiler.sparsity.base import Dense
from compiler.sparsity.patterns import parse_pattern, patterns
from compiler.tools.exploring.hardware import sized
from compiler.tools.exploring.measuring import this_machine
from compiler.tools.exploring.options import FAMILIES, ExploreOptions
from hw_targets.catalogue import list_targets
from hw_targets.cpu import CpuTarget
from hw_targets.errors import UsageError
from hw_targets.load import load_any_target

PRECISIONS: Mapping[str, str] = {"fpga": "int8", "cpu": "fp32"}
"""The kinds of device that a search knows, and their arithmetic."""


def space_of(options: ExploreOptions) -> Space:
    """Raises UsageError for targets and patterns that there are not, MissingToolError where a CPU needs a C compiler."""
    parts = {
        kind: Part(devices, _families(options.patterns, kind), options.mixed, PRECISIONS[kind])
        for kind, devices in _devices(options.targets).items()
    }
    for device in parts["cpu"].devices if "cpu" in parts else ():
        target = load_any_target(device)
        if isinstance(target, CpuTarget) and target.runs_here():
            find_compiler(target.instructions)
    return Space(parts)


def _devices(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Names and files by kind, globs of names resolved."""
    kinds = {name: kind for name, kind, _ in list_targets()}
    known = {name: kind for name, kind in kinds.items() if kind in PRECISIONS}
    found: dict[str, str] = {}
    for text in texts:
        if text == "all":
            found.update(known)
        elif any(sign in text for sign in "*?["):
            matching = fnmatch.filter(known, text)
            if not matching:
                others = sorted({kinds[name] for name in fnmatch.filter(kinds, text)})
                untimed = f"is of kind {', '.join(others)}, which a search does not time"
                message = f"--targets {text!r} {untimed if others else 'matches none'}"
                raise UsageError("HPCC2288", message, hint=f"targets: {', '.join(known)}")
            found.update((name, known[name]) for name in matching)
        else:
            kind = load_any_target(text).kind
            if kind not in PRECISIONS:
                message = f"--targets {text!r} is a {kind}, which a search does not time"
                raise UsageError("HPCC2288", message, hint=f"targets: {', '.join(known)}")
            found[str(Path(text).resolve()) if text.endswith(".toml") else text] = kind
    return {kind: tuple(name for name in found if found[name] == kind) for kind in dict.fromkeys(found.values())}


def _families(texts: Sequence[str], kind: str) -> dict[str, tuple[str, ...]]:
    """Pattern families, as a kind of device spells them; single patterns make one of their own. Equal patterns under two
    names count once."""
    seen: set[str] = set()
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        members = FAMILIES.get(text) or ((text,) if ":" in text or text == DENSE else None)
        if members is None:
            names = ", ".join((*FAMILIES, *(name for name in patterns() if name not in (*FAMILIES, DENSE))))
            raise UsageError("HPCC2289", f"--patterns {text!r} is neither a family nor a pattern", hint=names)
        parsed = [parse_pattern(member, kind).canonical() for member in members]
        specs = [p.spec() for p in parsed if not isinstance(p, Dense)]
        found[text] = tuple(spec for spec in dict.fromkeys(specs) if spec not in seen)
        seen.update(specs)
    return found


# ---- costs and digests ----------------------------------------------------------------------------------------------


def cost_of(device: str, own: Mapping[str, float]) -> float | None:
    """The cost class of a device, `own` ones first; None where none is known."""
    name = load_any_target(device).name if device.endswith(".toml") else device
    otherwise = CPU if isinstance(load_any_target(device), CpuTarget) else None
    return own.get(name, CLASSES.get(name, otherwise))


def check_costs(space: Space, own: Mapping[str, float], objective: Objective) -> None:
    """Raises UsageError where the cheapest is asked for and a class is missing."""
    missing = next((device for device in space.devices if cost_of(device, own) is None), None)
    if missing is not None and objective is Objective.CHEAPEST:
        name = load_any_target(missing).name
        message = f"no cost class is known of {name!r}, so it cannot be the cheapest"
        raise UsageError("HPCC2290", message, hint=f"--cost {name}=3, or --objective fastest")


def digests_of(space: Space) -> dict[str, str]:
    """Of the devices' descriptions, as sized; what is measured holds for this machine alone."""
    found: dict[str, str] = {}
    for kind, part in space.parts.items():
        for device in part.devices:
            described = sized(device).snapshot() if kind == "fpga" else load_any_target(device).snapshot() | this_machine()
            found[device] = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    return found
