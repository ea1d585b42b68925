"""Two bundles layer by layer: what took how long, in how many bytes, why. Read from their reports; runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hw_targets.errors import InputError
from hw_targets.json_text import parse_json
from hw_targets.storage import BASIS
from runtime.bundle import check_plain
from runtime.figures import ms_text, ratio_text, size_text

Document = Mapping[str, Any]
REPORT, RUN = "report.json", "run.json"


@dataclass(frozen=True)
class Side:
    """A layer of one of the two. `cycles` is None where times are measured, `ms` where nothing was run."""

    ms: float | None
    cycles: int | None
    bytes: int
    pattern: str
    format: str
    bound: str
    reason: str


@dataclass(frozen=True)
class Whole:
    """One of the two. `ms` are of the accelerator, or of a CPU's library; `source` says how they are known."""

    name: str
    target: str
    pattern: str
    ms: float | None
    source: str
    cycles: int | None
    clock_mhz: float | None
    weight_bytes: int
    multiplications: int


@dataclass(frozen=True)
class LayerPair:
    """A layer in both; None where one does not have it."""

    name: str
    first: Side | None
    second: Side | None

    @property
    def speedup(self) -> float | None:
        """How many times as fast the second is."""
        times = [None if side is None else side.ms for side in (self.first, self.second)]
        return times[0] / times[1] if times[0] and times[1] else None


@dataclass(frozen=True)
class Difference:
    """Two bundles of one model. `notes` say what keeps them from being compared like with like."""

    model: str
    first: Whole
    second: Whole
    layers: tuple[LayerPair, ...]
    notes: tuple[str, ...]

    @property
    def speedup(self) -> float | None:
        """How many times as fast the second is."""
        return self.first.ms / self.second.ms if self.first.ms and self.second.ms else None

    @property
    def in_cycles(self) -> bool:
        """Whether cycles can stand for time: both are simulated, at one clock."""
        return self.first.clock_mhz is not None and self.first.clock_mhz == self.second.clock_mhz

    def document(self) -> dict[str, Any]:
        """As JSON: fields as above, the ratios beside them."""
        layers = [{**asdict(pair), "speedup": pair.speedup} for pair in self.layers]
        return {**asdict(self), "layers": layers, "speedup": self.speedup}


def read_reports(bundle: Path) -> tuple[Document, Document]:
    """report.json and run.json of a bundle. Raises InputError for a folder that has none."""
    return _read(bundle, REPORT), _read(bundle, RUN)


def _read(bundle: Path, name: str) -> Document:
    file = bundle / name
    try:
        check_plain(file)
        document = parse_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "name a bundle that hpcc has written"
        raise InputError("HPCC1280", f"cannot read the report: {error.strerror}", where=str(file), hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise InputError("HPCC1281", f"this is no report: {error}", where=str(file)) from error
    if not isinstance(document, dict):
        raise InputError("HPCC1281", "this is no report: not a JSON object", where=str(file))
    entries: dict[str, Any] = {**document}
    return entries


def compare(first: tuple[str, Document, Document], second: tuple[str, Document, Document]) -> Difference:
    """The comparison of two (name, report, run). Raises InputError for different models, or for damaged reports."""
    sides: list[tuple[Whole, dict[str, Side]]] = []
    for name, report, run in (first, second):
        try:
            sides.append((_whole(name, report, run), _layers(report, run)))
            _expect_text(report, *sides[-1])
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            message = f"this is no report of this release: {error!r}"
            raise InputError("HPCC1281", message, where=name, hint="compile the model again") from error
    models = [report["model"] for _, report, _ in (first, second)]
    _expect_one_model(first, second)
    (one, before), (other, after) = sides
    names = dict.fromkeys((*before, *after))
    return Difference(
        str(models[0]["name"]),
        one,
        other,
        tuple(LayerPair(name, before.get(name), after.get(name)) for name in names),
        tuple(_notes(models, one, other)),
    )


def _expect_text(report: Document, whole: Whole, layers: Mapping[str, Side]) -> None:
    """Raises TypeError where a name or another word is none."""
    words: list[object] = [report["model"]["name"], report["model"]["sha256"], whole.target, whole.pattern, *layers]
    for side in layers.values():
        words += [side.pattern, side.format or "", side.bound, side.reason]
    for word in words:
        if not isinstance(word, str):
            raise TypeError(f"{word!r} is no name")


def _expect_one_model(first: tuple[str, Document, Document], second: tuple[str, Document, Document]) -> None:
    """Raises InputError unless both have the same linear layers: a pruned file is another file, but the same model."""
    linears = [
        {layer["name"] for layer in report["layers"] if layer.get("op") == "linear" and not layer["name"].endswith(BASIS)}
        for _, report, _ in (first, second)
    ]
    if linears[0] == linears[1]:
        return
    names = [report["model"]["name"] for _, report, _ in (first, second)]
    odd = sorted(linears[0] ^ linears[1])
    message = (
        f"these are programs of different models: {names[0]!r} with {len(linears[0])} linear layers and {names[1]!r} with"
        f" {len(linears[1])}, of which only one has {odd[0]!r}"
    )
    where = f"{first[0]}, {second[0]}"
    raise InputError("HPCC1282", message, where=where, hint="compare bundles of one model")


def _whole(name: str, report: Document, run: Document) -> Whole:
    memory, latency = report["memory"], run["latency"]
    simulated = report["target"]["kind"] == "fpga"
    entry = latency["accelerator_ms" if simulated else "device_ms"]
    known = entry["source"] != "not run"
    return Whole(
        name,
        report["target"]["name"],
        report["pruning"]["pattern"],
        float(entry["ms"]) if known else None,
        entry["source"],
        int(report["cycles"]) if simulated else None,
        float(report["target"]["clock_mhz"]) if simulated else None,
        int(memory["weights_stored_bytes" if simulated else "weights_packed_bytes"]),
        int(report["model"]["macs"]),
    )


def _layers(report: Document, run: Document) -> dict[str, Side]:
    if report["target"]["kind"] != "fpga":
        times = {row["name"]: float(row["ms"]) for row in run["layers"]}
        return {
            layer["name"]: Side(
                times.get(layer["name"]),
                None,
                layer["value_bytes"] + layer["index_bytes"],
                layer["pattern"],
                layer["kernel"],
                "",
                layer["reason"],
            )
            for layer in report["layers"]
        }
    per_ms = report["target"]["clock_mhz"] * 1e3
    return {
        layer["name"]: Side(
            layer["cycles"] / per_ms,
            layer["cycles"],
            layer["value_bytes"] + layer["metadata_bytes"],
            layer["pattern"],
            layer["format"],
            layer["bound"],
            layer["reason"],
        )
        for layer in report["layers"]
    }


def _notes(models: Sequence[Document], first: Whole, second: Whole) -> list[str]:
    notes: list[str] = []
    if models[0]["sha256"] != models[1]["sha256"]:
        notes.append("the two come from different files with the same layers")
    if first.multiplications != second.multiplications:
        counts = f"{first.multiplications:,} and {second.multiplications:,} multiplications"
        notes.append(f"the inputs have other shapes: {counts}")
    if first.source != second.source:
        notes.append(f"times of the first are {first.source}, of the second {second.source}")
    elif first.target != second.target:
        notes.append(f"the targets differ: {first.target} and {second.target}")
    return notes


# ---- as text --------------------------------------------------------------------------------------------------------

FIGURES = 5
"""Columns of figures behind the first one; the others are words."""


def text(comparison: Difference) -> str:
    """The comparison as a table for a terminal; what is the same in both is said once."""
    a, b = comparison.first, comparison.second
    unit = "cycles" if comparison.in_cycles else "ms"
    rows = [_cells(pair, comparison.in_cycles) for pair in comparison.layers if _matters(pair, comparison)]
    rows.append(_total(comparison))
    heads = ("layer", f"{unit} A", f"{unit} B", "A/B", "bytes A", "bytes B", "pattern", "format", "bound", "why")
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    lines = [f"A  {a.name}: {_described(a)}", f"B  {b.name}: {_described(b)}", ""]
    for row in (heads, *rows):
        numbered = enumerate(zip(row, widths, strict=True))
        cells = [cell.rjust(width) if 0 < n <= FIGURES else cell.ljust(width) for n, (cell, width) in numbered]
        lines.append("  ".join(cells).rstrip())
    lines.append("")
    if comparison.speedup is not None:
        lines.append(f"B takes {ms_text(b.ms or 0)} ms, A {ms_text(a.ms or 0)} ms: B is {comparison.speedup:.2f}x as fast")
    lines += [f"note: {note}" for note in comparison.notes]
    return "\n".join(lines)


def _described(whole: Whole) -> str:
    time = "not run" if whole.ms is None else f"{ms_text(whole.ms)} ms ({whole.source})"
    return f"{whole.pattern} on {whole.target}, {time}, weights {size_text(whole.weight_bytes)}"


def _matters(pair: LayerPair, comparison: Difference) -> bool:
    """Layers without weights are left out where they take less than a hundredth of the time."""
    total = max(comparison.first.ms or 0.0, comparison.second.ms or 0.0)
    sides = [side for side in (pair.first, pair.second) if side is not None]
    return any(side.bytes or (side.ms or 0.0) > total / 100 for side in sides)


def _cells(pair: LayerPair, in_cycles: bool) -> tuple[str, ...]:
    sides = (pair.first, pair.second)
    times = [time_text(side, in_cycles) for side in sides]
    sizes = [size_text(side.bytes) if side is not None and side.bytes else "" for side in sides]
    words = [changed(pair, field) for field in ("pattern", "format", "bound", "reason")]
    return (pair.name, *times, ratio_text(pair.speedup), *sizes, *words)


def time_text(side: Side | None, in_cycles: bool) -> str:
    """A layer's cycles, or its milliseconds."""
    if side is None:
        return "-"
    if in_cycles:
        return f"{side.cycles:,}"
    return "" if side.ms is None else f"{side.ms:.3f}"


def changed(pair: LayerPair, field: str) -> str:
    """`csr -> hp_mark` where a word differs, the word alone where it does not; of patterns the name, where that tells."""
    words = ["" if side is None else str(getattr(side, field)) for side in (pair.first, pair.second)]
    names = [word.partition(":")[0] for word in words]
    words = names if names[0] != names[1] else words
    if not (words[0] and words[1]):  # a side that has no such word says nothing about a change
        return words[0] or words[1]
    return words[0] if words[0] == words[1] else f"{words[0]} -> {words[1]}"


def _total(comparison: Difference) -> tuple[str, ...]:
    wholes = (comparison.first, comparison.second)
    if comparison.in_cycles:
        times = [f"{whole.cycles:,}" for whole in wholes]
    else:
        times = ["" if whole.ms is None else f"{whole.ms:.3f}" for whole in wholes]
    sizes = [size_text(whole.weight_bytes) for whole in wholes]
    return ("total", *times, ratio_text(comparison.speedup), *sizes, "", "", "", "")
