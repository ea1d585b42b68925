"""docs/TARGETS.md from the schema, the shipped files and the resource model: `python -m hw_targets.docs`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hw_targets import resources, sizing
from hw_targets.catalogue import FOLDER, target_files
from hw_targets.cpu import ISAS
from hw_targets.load import load_any_target, load_target, parse_form, sources_of
from hw_targets.schema import CpuTargetFile, GpuTargetFile, TargetFile
from hw_targets.target import Target

PAGE = FOLDER.parent / "docs" / "TARGETS.md"

INTRODUCTION = """# Targets

<!-- Written by `python -m hw_targets.docs`; a test compares it with what that command prints. -->

A target is a TOML file: one of the shipped ones by name (`--target fpga-u280`, all by `hpcc --list-targets`), or your
own by path (`--target ./my-board.toml`). An unknown key is an error that names the nearest valid one. Every number of the
device, its memory, clock and link carries its source; `source = "unverified"` is allowed, and reports repeat it.
`python -m hw_targets.schema` prints the JSON Schema, for editors.

`[accelerator]` fields are numbers or `"auto"`. What is auto is sized so that the whole fits the *usable* resources (what
the board's shell leaves) under the ceilings below; what a file fixes and does not fit ends with exit status 3 and says
which resource is short and by how much. `load_target(name_or_path).explain()` tells why a target was sized as it is.

* `cores` is the number of super logic regions; outputs are split over the cores, activations go to all of them. A core lies
  in one region and keeps to the ceiling of its DSPs (`device.slr_dsp`, where the smallest region has fewer than its share).
* `tokens` and `outputs` are those of the fastest array that fits beside the smallest
  memories; an array whose tokens do not divide {tile_rows} rows is rated by what it does on {tile_rows} rows. `outputs` divides
  64 or is a multiple, so that a row block of a pattern is whole steps. Of equals, the one that reads fewest bytes wins.
* `lanes` is a power of two, chosen together with them: the product of two times, BERT-base dense and with hp:0.75 on 128
  tokens, is least. A time is MATRIX's or VECTOR's, whichever is longer ({dense:,.0f} and {pruned:,.0f} million multiplications,
  {passes:.1f} million lane passes).
* `multipliers` and `selector` are 8. For a model whose weights are mostly of one pattern (dense, N:M or HP) the compiler also
  tries {depths} multipliers with every array and all lanes, by what that pattern alone takes: steps
  and padding of MATRIX for BERT-base's matrices and attentions, VECTOR's passes, the longer of the two and a tenth of the
  other. Selectors are then as narrow as the model's fine patterns allow, lanes never fewer than the common ones. That array is a bitstream of its own; it is taken
  where it needs at most {worthwhile:.0%} of the common array's cycles, and the report then says so, with the candidates.
  hp:0.9 keeps 3 of 32 inputs in groups of 4: 8 multipliers would mostly wait for the next window; 3 with selectors 4:1
  leave room for more cells and lanes. A number in the file is never changed.
* The memories then grow by turns until a ceiling, or {limits}.
* `act_bytes`, `weight_bytes`, `acc_bytes` and `param_bytes` are the sizes of the address spaces of the instruction set
  (see ISA.md), all cores together.
"""

MODEL = """## The resource model

All costs are estimates for a pipelined design on 6-input LUTs, not synthesis results; the derivations stand beside
the constants in `hw_targets/resources.py`.

| part | cost |
|---|---|
| multiplier | DSP48E2: {e2} int8 products per slice, the activations of two tokens against one weight; DSP48E1: one |
| selector S:1 | {mux} x S LUTs per multiplier ({mux8} at 8:1, {mux32} at 32:1), {ff_multiplier} FFs |
| window crossbar | W outputs of W:1, {mux} x W LUTs each, per token and core |
| accumulation | {lut_cell} LUTs and {ff_cell} FFs per token x output |
| vector lane | {dsp_lane} DSPs, {lut_lane:,} LUTs, {ff_lane:,} FFs, half a BRAM for tables; a divider per {divider} lanes |
| decoder | LUTs per value x values per cycle, from `[decode]` |
| queues | {lut_control:,} LUTs, {ff_control:,} FFs, and LUT RAM for {queues} queues of `queue_depth` instructions |
| memory ports | HBM {hbm:,} LUTs and {hbm_bram} BRAMs; a DDR controller {ddr:,} LUTs and {ddr_bram} BRAMs per channel (FINN) |
| memories | {port} bytes per port; BRAM {bram:,} B, URAM {uram:,} B; as wide as the busiest user of a cycle |

Ceilings for timing closure (FINN): {ceilings}; mean of BRAM, URAM and DSP {mean} %.
Activation and weight memories lie in URAM where they fit, else in BRAM; accumulators and parameters in BRAM.
Not modelled: wires between SLRs, placement inside an SLR, SLRs that differ in anything but DSPs.
"""


def page() -> str:
    """The text of docs/TARGETS.md."""
    limits = ", ".join(f"{name} {bytes_ >> 20} MiB" for name, bytes_ in sizing.LIMITS.items())
    introduction = INTRODUCTION.format(
        tile_rows=sizing.TILE_ROWS,
        dense=sizing.DENSE_MACS,
        pruned=sizing.PRUNED_MACS,
        passes=sizing.LANE_PASSES,
        limits=limits,
        depths=", ".join(map(str, sizing.MULTIPLIER_CHOICES)),
        worthwhile=sizing.WORTHWHILE,
    )
    sections = [introduction, _boards(), _model(), _keys(), _cpus(), GPU, *(_target(name) for name in target_files())]
    return "\n".join(sections)


BOARDS = """## Boards at a glance

Resources as the die has them, as the shell leaves them and as the sized accelerator takes them (BRAM: 36 Kb blocks). `binds`
is what the nearest faster array would have broken; sections below have the numbers.

| board | part | SLRs | | DSP | LUT | FF | BRAM | URAM |
|---|---|---|---|---|---|---|---|---|
{resources}

| board | off-chip memory | channels | peak GB/s | size GB | MHz | cores x T x O x L | MAC/cycle | lanes | act | weights | DSP used | binds |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
{chosen}
"""


def _boards() -> str:
    targets = [target for name in target_files() if isinstance(target := load_any_target(name), Target)]
    rows = [row for target in targets for row in _resource_rows(target)]
    return BOARDS.format(resources="\n".join(rows), chosen="\n".join(map(_chosen_row, targets)))


def _resource_rows(target: Target) -> Iterator[str]:
    names, device = ("dsp", "lut", "ff", "bram", "uram"), target.device
    die, usable, used = device.die.as_dict(), device.usable.as_dict(), target.resources()
    for head, kind, cells in (
        (f"{target.name} | {device.part} | {device.slrs}", "die", [f"{die[name]:,}" for name in names]),
        (" | | ", "usable", [f"{usable[name]:,}" for name in names]),
        (" | | ", "used", [f"{used[name]['used']:,} ({_share(used[name])})" for name in names]),
    ):
        yield f"| {head} | {kind} | {' | '.join(cells)} |"


def _share(entry: dict[str, int]) -> str:
    return f"{entry['used'] / entry['usable']:.0%}" if entry["usable"] else "none"


def _chosen_row(target: Target) -> str:
    a, memory = target.accelerator, target.memory
    bound = sizing.limit(target)
    binds = ", ".join(violation.name for violation in bound.broken) if bound else "the file fixes it"
    cells = (
        target.name,
        memory.kind,
        memory.channels,
        f"{memory.gbytes_per_s:g}",
        f"{memory.capacity_bytes / (1 << 30):g}",
        f"{target.clock.mhz:g}",
        f"{a.cores} x {a.tokens} x {a.outputs} x {a.multipliers}",
        f"{a.macs_per_cycle:,}",
        a.lanes,
        f"{a.act_bytes / (1 << 20):.1f} MiB",
        f"{a.weight_bytes / (1 << 20):.1f} MiB",
        _share(target.resources()["dsp"]),
        binds,
    )
    return f"| {' | '.join(map(str, cells))} |"


def _model() -> str:
    mux = resources.LUT_PER_BYTE_MUX_INPUT
    return MODEL.format(
        e2=resources.TOKENS_PER_DSP["dsp48e2"],
        mux=mux,
        mux8=8 * mux,
        mux32=32 * mux,
        ff_multiplier=resources.FF_PER_MULTIPLIER,
        lut_cell=resources.LUT_PER_CELL,
        ff_cell=resources.FF_PER_CELL,
        dsp_lane=resources.DSP_PER_LANE,
        lut_lane=resources.LUT_PER_LANE,
        ff_lane=resources.FF_PER_LANE,
        divider=resources.LANES_PER_DIVIDER,
        lut_control=resources.LUT_CONTROL,
        ff_control=resources.FF_CONTROL,
        queues=resources.QUEUES,
        hbm=resources.HBM_PORTS.lut,
        hbm_bram=resources.HBM_PORTS.bram,
        ddr=resources.DDR_CONTROLLER.lut,
        ddr_bram=resources.DDR_CONTROLLER.bram,
        port=resources.PORT_BYTES,
        bram=resources.BRAM_BYTES,
        uram=resources.URAM_BYTES,
        ceilings=", ".join(f"{name.upper()} {percent} %" for name, percent in resources.CEILINGS.items()),
        mean=resources.MEAN_CEILING,
    )


def _keys() -> str:
    schema = TargetFile.model_json_schema()
    lines = ["## Keys", "", "| key | value |", "|---|---|"]
    lines += [f"| `{key}` | {form} |" for key, form in _rows(schema, schema, "")]
    return "\n".join([*lines, ""])


def _rows(schema: dict[str, Any], table: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, entry in table["properties"].items():
        form = _resolve(schema, entry)
        if "properties" not in form:
            yield f"{prefix}{name}", _form(schema, form)
        elif set(form["properties"]) == {"value", "source"}:
            yield f"{prefix}{name}", f"{{ value = {_form(schema, form['properties']['value'])}, source = string }}"
        else:
            yield from _rows(schema, form, f"{prefix}{name}.")


def _resolve(schema: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    options = [option for option in entry.get("anyOf", []) if "$ref" in option]
    reference = entry.get("$ref") or (options[0]["$ref"] if options else None)
    return schema["$defs"][reference.rsplit("/", 1)[1]] if reference else entry


def _form(schema: dict[str, Any], entry: dict[str, Any]) -> str:
    if "anyOf" in entry:
        return " or ".join(_form(schema, option) for option in entry["anyOf"])
    if "const" in entry:
        return f'`"{entry["const"]}"`'
    if "enum" in entry:
        return " or ".join(f'`"{value}"`' for value in entry["enum"])
    low, high = entry.get("minimum"), entry.get("maximum")
    bounds = f" {low} to {high}" if high is not None else f" >= {low}" if low is not None else ""
    above = f" > {entry['exclusiveMinimum']:g}" if "exclusiveMinimum" in entry else ""
    return f"{entry['type']}{bounds}{above}"


CPU = """## CPUs

`kind = "cpu"` needs no accelerator: `[cpu]` names the vector instruction set and the data caches of a core, which size the
blocks of inputs that stay in the cache. A file of your own (`isa`, `l1_bytes`, `l2_bytes`, if you like `pick_cost`) works as above.
CPU.md tells
what is made of it.

| isa | floats in a vector | tokens in a tile | dense rows at a time | C compiler flags |
|---|---|---|---|---|
{rows}
"""


GPU = """## GPUs

`kind = "gpu"` describes what `[gpu]` lists: CUDA's compute capability, the multiprocessors, the bytes of shared memory and
second-level cache, the bandwidth, and dense peak rates by precision. They size tiles, choose kernels and give the bounds
that reports call estimated. A file of your own works as above. GPU.md tells what is made of it.
"""


def _cpus() -> str:
    rows = (f"| `{i.name}` | {i.floats} | {i.tile} | {i.panel} | `{' '.join(i.flags)}` |" for i in ISAS.values())
    return CPU.format(rows="\n".join(rows))


def _target(name: str) -> str:
    path = target_files()[name]
    form = parse_form(path.read_text(encoding="utf-8"), where=name)
    if isinstance(form, CpuTargetFile):
        return _cpu(form)
    if isinstance(form, GpuTargetFile):
        return _gpu(form)
    target = load_target(name)
    lines = [f"## {target.name}", "", f"{target.summary}.", ""]
    lines += [f"* {line}" for line in target.explain()]
    lines += ["", "| number | source |", "|---|---|"]
    lines += [f"| `{key}` | {source} |" for key, source in target.sources]
    return "\n".join([*lines, ""])


def _cpu(form: CpuTargetFile) -> str:
    """A CPU's file as it stands: what `host` detects differs from machine to machine."""
    lines = [f"## {form.name}", "", f"{form.summary}.", "", "| number | value | source |", "|---|---|---|"]
    for key, source in sources_of(form):
        lines.append(f"| `{key}` | {getattr(form.cpu, key.removeprefix('cpu.')).value:,} | {source} |")
    return "\n".join([*lines, ""])


def _gpu(form: GpuTargetFile) -> str:
    lines = [f"## {form.name}", "", f"{form.summary}.", "", "| number | value | source |", "|---|---|---|"]
    for key, source in sources_of(form):
        lines.append(f"| `{key}` | {getattr(form.gpu, key.removeprefix('gpu.')).value:,} | {source} |")
    return "\n".join([*lines, ""])


def write(path: Path = PAGE) -> None:
    path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE)
