"""From a target's name, or the path of a user's own .toml file, to a checked and sized Target."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import cast, get_args

from pydantic import BaseModel, ValidationError

from hw_targets import resources, sizing
from hw_targets.catalogue import plugin_files, target_files
from hw_targets.cpu import HOST, PICK_COST, CpuTarget, detect_cache, detect_isa, detect_pick_cost
from hw_targets.errors import InfeasibleError, InputError, UsageError
from hw_targets.gpu import GpuTarget
from hw_targets.schema import (
    FORMS,
    AcceleratorTable,
    AnyTargetFile,
    Count,
    CpuTargetFile,
    GpuTargetFile,
    Quantity,
    ResourceTable,
    TargetFile,
)
from hw_targets.target import (
    Accelerator,
    Clock,
    Decoder,
    Design,
    Device,
    Link,
    Memory,
    Resources,
    Target,
    Workload,
)

AnyTarget = Target | CpuTarget | GpuTarget

UNSIZED = Accelerator(1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1)


def load_target(name_or_path: str | Path, workload: Workload | None = None) -> Target:
    """The FPGA target of a name or a path; see load_any_target. Raises UsageError for a target of another kind.

    With a `workload` its "auto" fields are sized for that, where it pays.
    """
    target = load_any_target(name_or_path, workload)
    if not isinstance(target, Target):
        raise UsageError("HPCC2103", f"target {target.name!r} is a {target.kind}; an fpga is needed here")
    return target


def load_any_target(name_or_path: str | Path, workload: Workload | None = None) -> AnyTarget:
    """The target of a name, or of a .toml file (anything with a slash or the suffix .toml is a path).

    Raises UsageError for an unknown name or a missing file, InputError for a file with a wrong content, and
    InfeasibleError where what it fixes does not fit its device.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(".toml"):
        return load_target_file(Path(name_or_path), workload)
    shipped = target_files()
    if text not in shipped:
        shipped = shipped | plugin_files()
    if text not in shipped:
        near = difflib.get_close_matches(text, shipped, n=1, cutoff=0.5)
        suggestion = f"did you mean {near[0]!r}? " if near else ""
        hint = f"{suggestion}targets: {', '.join(shipped)}; or the path of a .toml file"
        raise UsageError("HPCC2101", f"unknown target {text!r}", hint=hint)
    return load_target_file(shipped[text], workload)


def load_target_file(path: Path, workload: Workload | None = None) -> AnyTarget:
    """The target of a .toml file; see load_any_target."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError("HPCC2102", f"there is no target file {str(path)!r}", hint="hpcc --list-targets") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("HPCC1301", f"cannot read the target file: {error}", where=str(path)) from error
    return parse_any_target(text, where=str(path), workload=workload)


def parse_target(text: str, *, where: str, workload: Workload | None = None) -> Target:
    """The FPGA target of a TOML text; `where` names it in errors, `workload` is what `load_target` takes."""
    target = parse_any_target(text, where=where, workload=workload)
    if not isinstance(target, Target):
        raise UsageError("HPCC2103", f"target {target.name!r} is a {target.kind}; an fpga is needed here")
    return target


def parse_any_target(text: str, *, where: str, workload: Workload | None = None) -> AnyTarget:
    """The target of a TOML text; `where` names it in errors."""
    form = parse_form(text, where=where)
    if isinstance(form, CpuTargetFile):
        return _cpu(form, where)
    if isinstance(form, GpuTargetFile):
        return _gpu(form)
    try:
        return _sized_once(text, workload)
    except InfeasibleError as error:
        error.where = where
        raise


def parse_form(text: str, *, where: str) -> AnyTargetFile:
    """A TOML text as the form of its kind; nothing is sized or detected yet."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError("HPCC1302", f"not valid TOML: {error}", where=where) from error
    kind = document.get("kind")
    model = FORMS.get(kind, TargetFile) if isinstance(kind, str) else TargetFile
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise _form_error(error, text, where, model) from error


# ---- from the form to the target ------------------------------------------------------------------------------------


@lru_cache(maxsize=128)
def _sized_once(text: str, workload: Workload | None) -> Target:
    """Several stages of a compilation ask for the same target, and to size it takes as long as a small model."""
    form = parse_form(text, where="")
    assert isinstance(form, TargetFile)
    return _sized(form, workload, None if workload is None else _sized_once(text, None).accelerator)


def _sized(form: TargetFile, workload: Workload | None, common: Accelerator | None) -> Target:
    """`common` is the accelerator of the same form without a workload, if that is known."""
    table = form.accelerator
    asked = {name: _number(getattr(table, name)) for name in AcceleratorTable.model_fields if name != "design"}
    design = Design(**table.design.model_dump())
    unsized = _target(form, replace(UNSIZED, design=design), tuple(name for name, value in asked.items() if value is None))
    resources.check_cores(unsized, asked["cores"])
    accelerator, for_workload = sizing.size(unsized, asked, workload, common)
    target = replace(unsized, accelerator=accelerator, workload=workload if for_workload else None)
    resources.check(target)
    return target


def _cpu(form: CpuTargetFile, where: str) -> CpuTarget:
    cpu = form.cpu
    l1, l2, isa = cpu.l1_bytes.value, cpu.l2_bytes.value, cpu.isa
    pick_cost = cpu.pick_cost.value if cpu.pick_cost else PICK_COST
    sources = tuple(sources_of(form))
    if isa == HOST:
        isa, l1, l2, pick_cost = detect_isa(where), detect_cache(1, l1), detect_cache(2, l2), detect_pick_cost(pick_cost)
        sources = tuple((key, "detected") for key, _ in sources)
    return CpuTarget(form.name, form.kind, form.summary, isa, l1, l2, sources, pick_cost)


def _gpu(form: GpuTargetFile) -> GpuTarget:
    gpu = form.gpu
    return GpuTarget(
        name=form.name,
        kind=form.kind,
        summary=form.summary,
        capability=gpu.capability,
        multiprocessors=gpu.multiprocessors.value,
        block_shared_bytes=gpu.block_shared_bytes.value,
        shared_bytes=gpu.shared_bytes.value,
        l2_bytes=gpu.l2_bytes.value,
        memory_gbytes_per_s=gpu.memory_gbytes_per_s.value,
        fp32_tflops=gpu.fp32_tflops.value,
        fp16_tflops=gpu.fp16_tflops.value,
        int8_tops=gpu.int8_tops.value,
        sparse_speedup=gpu.sparse_speedup.value,
        sources=tuple(sources_of(form)),
    )


def _number(value: int | str) -> int | None:
    return value if isinstance(value, int) else None


def _target(form: TargetFile, accelerator: Accelerator, auto: tuple[str, ...]) -> Target:
    device, memory, link = form.device, form.memory, form.link
    return Target(
        name=form.name,
        kind=form.kind,
        summary=form.summary,
        device=Device(
            part=device.part,
            dsp_kind=device.dsp_kind,
            slrs=device.slrs.value,
            slr_dsp=device.slr_dsp.value if device.slr_dsp else max(1, device.usable.dsp.value // device.slrs.value),
            die=_resources(device.die),
            usable=_resources(device.usable),
        ),
        clock=Clock(mhz=float(form.clock.mhz.value)),
        memory=Memory(
            kind=memory.kind,
            channels=memory.channels.value,
            gbytes_per_s=float(memory.gbytes_per_s.value),
            efficiency=float(memory.efficiency.value),
            latency_ns=float(memory.latency_ns.value),
            burst_bytes=memory.burst_bytes.value,
            capacity_bytes=memory.capacity_bytes.value,
        ),
        link=Link(gbytes_per_s=float(link.gbytes_per_s.value), latency_us=float(link.latency_us.value)),
        accelerator=accelerator,
        decoders=tuple(
            Decoder(name, decoder.values_per_cycle, decoder.lut_per_value) for name, decoder in form.decode.listed().items()
        ),
        sources=tuple(sources_of(form)),
        auto=auto,
    )


def _resources(table: ResourceTable) -> Resources:
    return Resources(
        lut=table.lut.value, ff=table.ff.value, bram=table.bram.value, uram=table.uram.value, dsp=table.dsp.value
    )


def sources_of(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, source) of every number of the form."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Count | Quantity):
            yield f"{prefix}{name}", value.source
        elif isinstance(value, BaseModel):
            yield from sources_of(value, f"{prefix}{name}.")


# ---- errors ---------------------------------------------------------------------------------------------------------


def _form_error(error: ValidationError, text: str, where: str, form: type[BaseModel]) -> InputError:
    """The most telling of pydantic's errors as one line: an unknown key first, since it explains a missing one."""
    found = error.errors(include_url=False)
    first = min(found, key=lambda item: item["type"] != "extra_forbidden")
    location = tuple(str(key) for key in first["loc"])
    location += tuple(str(key) for key in first.get("ctx", {}).values()) if first["type"] == "extra_forbidden" else ()
    keys = _known_keys(form, location)
    line = _line_of(text, keys)
    place = f"{where}:{line}" if line else where
    section, key = ".".join(keys[:-1]), keys[-1] if keys else "target"
    inside = f" in [{section}]" if section else ""
    match first["type"]:
        case "extra_forbidden":
            valid = _valid_keys(form, keys[:-1])
            near = difflib.get_close_matches(key, valid, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"
            return InputError("HPCC1303", f"unknown key {key!r}{inside}", where=place, hint=hint)
        case "missing":
            return InputError("HPCC1304", f"key {key!r}{inside} is missing", where=place)
        case "model_type" if _is_sourced(form, keys):
            hint = f'write {key} = {{ value = {first["input"]!r}, source = "..." }}, or source = "unverified"'
            return InputError("HPCC1305", f"the number {key!r}{inside} has no source", where=place, hint=hint)
        case _:
            message = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
            alternative = ' or "auto"' if keys[0] == "accelerator" and not message.startswith("must") else ""
            given = _given(first["input"])
            return InputError("HPCC1306", f"{key!r}{inside}: {message}{alternative}, not {given!r}", where=place)


def _given(value: object) -> object:
    """What the file says, without the source of a number."""
    return cast("dict[str, object]", value).get("value") if isinstance(value, dict) else value


def _known_keys(form: type[BaseModel], location: tuple[str, ...]) -> tuple[str, ...]:
    """A pydantic location without the tags it adds for the members of a union: a leaf ends it."""
    for length in range(1, len(location)):
        if _model_at(form, location[:length]) is None:
            return location[:length]
    return location


def _model_at(form: type[BaseModel], keys: tuple[str, ...]) -> type[BaseModel] | None:
    """The model that describes the table at `keys`."""
    model: type[BaseModel] = form
    for key in keys:
        field = model.model_fields.get(key)
        if field is None:
            return None
        candidates = (field.annotation, *get_args(field.annotation))
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not nested:
            return None
        model = nested[0]
    return model


def _valid_keys(form: type[BaseModel], keys: tuple[str, ...]) -> list[str]:
    model = _model_at(form, keys)
    return list(model.model_fields) if model else []


def _is_sourced(form: type[BaseModel], keys: tuple[str, ...]) -> bool:
    return _model_at(form, keys) in (Count, Quantity)


def _line_of(text: str, keys: tuple[str, ...]) -> int | None:
    """The line of a key, or of the table that should hold it; None where it cannot be told."""
    section: tuple[str, ...] = ()
    best: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[([^\[\]]+)\]", line)
        if header:
            section = tuple(part.strip().strip('"') for part in header[1].split("."))
            path = section
        else:
            assignment = re.match(r"\s*([A-Za-z0-9_.\"-]+)\s*=", line)
            if not assignment:
                continue
            path = section + tuple(assignment[1].replace('"', "").split("."))
        if path == keys[: len(path)] and (best is None or len(path) > best[0]):
            best = (len(path), number)
    return best[1] if best else None
