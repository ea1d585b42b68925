"""The page of a bundle for an accelerator: simulated cycles, their bound, the time line, the ledger, bytes, the board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hw_targets.isa import Queue
from hw_targets.target import Target
from runtime.figures import count_text, ms_text, ratio_text, share_text, size_text
from runtime.html import charts, views
from runtime.html.parts import (
    Bars,
    Box,
    Column,
    Columns,
    Fact,
    Facts,
    Group,
    Lane,
    Page,
    Pair,
    Pairs,
    Part,
    Roofline,
    Row,
    Section,
    Share,
    Split,
    Table,
    Timeline,
)
from runtime.html.views import Document
from runtime.timeline import LEVELS, Stretch

CAUSES = (
    ("matrix", "multiplying"),
    ("vector", "waiting for VECTOR"),
    ("load", "waiting for memory"),
    ("token", "waiting for the layer before"),
    ("drain", "draining"),
)
ROWS = ((Queue.LOAD, "LOAD"), (Queue.MATRIX, "MATRIX"), (Queue.VECTOR, "VECTOR"), (Queue.STORE, "STORE"))


def page(
    report: Document,
    run: Document,
    manifest: Document,
    lanes: Mapping[Queue, Sequence[Stretch]],
    extra: Sequence[Section] = (),
) -> Page:
    """The page of report.json and run.json; `lanes` are the stretches of each queue, none for a program not simulated."""
    target = Target.from_snapshot(manifest["target"])
    name, cycles, dense = report["model"]["name"], report["cycles"], report["cycles_if_dense"]
    sections = [
        _latency(report, run),
        *extra,
        _bound(report, target),
        *([_timeline(report, lanes)] if lanes else []),
        _ledger(report),
        _bytes(report),
        _formats(report),
        _board(report, manifest),
        views.checks(report, run),
        views.host(report, run),
        views.sources(_numbers(manifest["target"]), target.name, target.explain()),
        views.making(report, run, _simulation(run)),
    ]
    gain = (
        f", {ratio_text(dense / cycles)} the speed of dense weights on the same board" if dense and dense != cycles else ""
    )
    return Page(
        f"{name} on {target.name}",
        "Accelerator, simulated",
        f"{ms_text(report['latency']['accelerator_ms'])} ms per batch{gain}.",
        _facts(report, run),
        [section for section in sections if section.parts or section.lead],
        f"hpcc {report['hpcc_version']}",
    )


def _facts(report: Document, run: Document) -> Facts:
    roof, dense = report["roofline"], report["cycles_if_dense"]
    total = run["latency"]["total_ms"]
    memory = report["memory"]
    facts = [
        Fact(
            "on the accelerator",
            ms_text(report["latency"]["accelerator_ms"]),
            "ms",
            "simulated",
            f"{report['cycles']:,} cycles",
        ),
        Fact("with transfer and host", ms_text(total["ms"]), "ms", total["source"]),
        Fact(
            "against dense weights",
            ratio_text(dense / report["cycles"]) if dense else "n/a",
            "",
            "simulated",
            f"{dense:,} cycles if dense" if dense else "the dense model does not fit",
        ),
        Fact("of the bound attained", f"{roof['attained']:.0%}", "", "simulated", f"bound by {_binding(roof)}"),
        Fact(
            "weights stored",
            size_text(memory["weights_stored_bytes"]),
            "",
            "",
            f"dense int8 {size_text(memory['weights_dense_bytes'])}",
        ),
    ]
    return Facts(facts)


def _binding(roof: Document) -> str:
    return max(("matrix", "vector", "memory"), key=lambda unit: roof[f"{unit}_ms"])


def _latency(report: Document, run: Document) -> Section:
    latency = run["latency"]
    words = (("accelerator", "on the accelerator"), ("transfer", "transfer to and from the board"), ("host", "on the host"))
    total = sum(latency[f"{key}_ms"]["ms"] for key, _ in words) or 1.0
    parts = [
        Share(label, f"{ms_text(entry['ms'])} ms", entry["ms"] / total, key, entry["source"])
        for key, label in words
        for entry in [latency[f"{key}_ms"]]
    ]
    rows = views.pruning(report)
    return Section(
        "latency",
        "Latency of one batch",
        "Three parts that add up, each with how it is known. None of them is hidden behind another.",
        [Split(f"{ms_text(latency['total_ms']['ms'])} ms in all", parts), Pairs(rows)],
    )


def _bound(report: Document, target: Target) -> Section:
    roof, total = report["roofline"], report["latency"]["accelerator_ms"] or 1.0
    tones = (
        ("matrix", "MATRIX, the pattern's multiplications"),
        ("vector", "VECTOR, its busy cycles"),
        ("memory", "off-chip memory, all bytes"),
    )
    bars = [Share(label, f"{ms_text(roof[f'{key}_ms'])} ms", roof[f"{key}_ms"] / total, key) for key, label in tones]
    bars.append(Share("what the program takes", f"{ms_text(total)} ms", 1.0, "accelerator", "simulated"))
    cycles = report["cycles"] or 1
    causes = [
        Share(label, f"{part:,} ({share_text(part / cycles)})", part / cycles, f"cause-{key}")
        for key, label in CAUSES
        for part in [sum(layer["cycles_by_cause"][key] for layer in report["layers"])]
    ]
    parts: list[Part] = [
        Bars("Least time of each unit by itself", bars, (None, None, None, roof["bound_ms"] / total)),
        Split("What MATRIX did in each cycle", causes),
    ]
    drawing = _roofline(report, target)
    if drawing is not None:
        parts.append(drawing)
    lead = (
        f"No schedule is faster than the busiest unit, here {_binding(roof)} with {ms_text(roof['bound_ms'])} ms;"
        f" this one attains {roof['attained']:.0%} of that."
    )
    return Section("bound", "What binds it", lead, parts)


def _roofline(report: Document, target: Target) -> Roofline | None:
    """The whole program against all bytes moved, layers against their weights."""
    roof, hertz = report["roofline"], target.clock.mhz * 1e6
    executed = sum(layer["macs_executed"] for layer in report["layers"])
    if not executed or not report["cycles"]:
        return None
    loads = [
        charts.Load(
            views.short_name(layer["name"]),
            layer["macs_executed"],
            layer["weight_bytes_loaded"],
            layer["cycles"] / hertz,
            f"{layer['name']}: {count_text(layer['macs_executed'])} multiplications,"
            f" {size_text(layer['weight_bytes_loaded'])} of weights, {layer['cycles']:,} cycles, {layer['reason']}",
        )
        for layer in report["layers"]
        if layer["weight_bytes_loaded"] and layer["cycles"]
    ]
    moved = roof["bytes_moved"]
    whole = f"the whole program: {count_text(executed)} multiplications, {size_text(moved)} moved"
    loads.append(charts.Load("whole program", executed, moved, report["cycles"] / hertz, whole, main=True))
    peak = target.accelerator.macs_per_cycle * hertz
    vector = executed / (roof["vector_ms"] * 1e-3) if roof["vector_ms"] else 0.0
    return charts.roofline(loads, peak, target.dram_bytes_per_cycle * hertz, vector)


def _timeline(report: Document, lanes: Mapping[Queue, Sequence[Stretch]]) -> Section:
    total, clock = report["cycles"] or 1, report["target"]["clock_mhz"] * 1e3
    busy = report["busy"]
    rows = [
        Lane(
            label,
            share_text(busy.get(queue.value, 0) / total),
            [
                Box(
                    piece.start / total,
                    (piece.end - piece.start) / total,
                    piece.level / LEVELS,
                    views.family_of(piece.layer),
                    f"{piece.layer or 'no layer'}: {piece.start / clock:.4f} to {piece.end / clock:.4f} ms,"
                    f" {label} {piece.level / LEVELS:.0%} busy",
                )
                for piece in lanes.get(queue, ())
            ],
        )
        for queue, label in ROWS
    ]
    starts: dict[str, float] = {}
    for piece in lanes.get(Queue.MATRIX, ()):
        starts.setdefault(views.block_of(piece.layer), piece.start / total)
    ticks = charts.thinned(sorted((at, name) for name, at in starts.items() if name), 0.09)
    return Section(
        "timeline",
        "Time line of the units",
        "Each row is a queue that runs by itself; paler is less busy. The whole trace, instruction by instruction, is"
        " trace.json (open it in ui.perfetto.dev).",
        [Timeline("Busy cycles by unit", rows, ticks, charts.scale(total / clock, "ms"), views.legend())],
    )


# ---- the ledger -----------------------------------------------------------------------------------------------------

COLUMNS = (
    Column("layer", mono=True),
    Column("pattern", mono=True, wrap=True),
    Column("format", mono=True),
    Column("bytes", right=True),
    Column("kept", right=True),
    Column("cycles", right=True),
    Column("if dense", right=True),
    Column("dense beside sparse"),
    Column("gain", right=True),
    Column("bound"),
    Column("why", wrap=True),
)


def _ledger(report: Document) -> Section:
    layers = report["layers"]
    labels = views.pattern_labels(layers)
    most = max((max(layer["cycles"], layer["cycles_if_dense"] or 0) for layer in layers), default=1) or 1
    grouped = views.blocks(layers)
    groups: list[Group] = []
    columns: list[tuple[str, float, float | None, str]] = []
    sums = {name: tuple(views.sums(rows, "cycles", "cycles_if_dense")) for name, rows in grouped.items()}
    tallest = max((max(pair) for pair in sums.values()), default=1) or 1
    known = report["cycles_if_dense"] is not None
    for name, rows in grouped.items():
        cycles, dense = sums[name]
        stored = sum(row["value_bytes"] + row["metadata_bytes"] for row in rows)
        inside = [_row(layer, most, labels[layer["pattern"]]) for layer in rows]
        gain = ratio_text(dense / cycles) if known and cycles else ""
        head = Row(
            [name, "", "", views.size_or_nothing(stored), "", f"{cycles:,}", f"{dense:,}" if known else "", "", gain, "", ""]
        )
        groups.append(Group(inside, head if len(rows) > 1 else None))
        words = f"{name}: {cycles:,} cycles" + (f", {dense:,} if dense" if known else "")
        columns.append((name, cycles / tallest, dense / tallest if known else None, words))
    total, dense = report["cycles"], report["cycles_if_dense"]
    foot = Row(
        [
            "total",
            "",
            "",
            size_text(report["memory"]["weights_stored_bytes"]),
            "",
            f"{total:,}",
            f"{dense:,}" if dense is not None else "does not fit",
            "",
            ratio_text(dense / total) if dense is not None and total else "",
            "",
            "",
        ]
    )
    return Section(
        "ledger",
        "The ledger: what the zeros bought",
        "Every cycle belongs to one layer, so layers add up to the total. `if dense` is the same model with dense weights,"
        " compiled for the same machine, not an estimate from the share of zeros.",
        [
            views.reasons(layers, "cycles", "cycles"),
            Columns("Cycles by block", ("with this pattern", "if dense"), columns),
            Table("Layer by layer", COLUMNS, groups, foot, tall=len(layers) > 24),
        ],
    )


def _row(layer: Document, most: int, pattern: str) -> Row:
    dense, linear = layer["cycles_if_dense"], layer["op"] == "linear"
    stored = layer["value_bytes"] + layer["metadata_bytes"]
    causes = ", ".join(f"{words} {layer['cycles_by_cause'][key]:,}" for key, words in CAUSES)
    return Row(
        [
            layer["name"],
            pattern,
            layer["format"],
            views.size_or_nothing(stored),
            f"{layer['density']:.0%}" if linear else "",
            f"{layer['cycles']:,}",
            f"{dense:,}" if dense is not None else "",
            Pair(layer["cycles"] / most, dense / most if dense is not None else None, causes),
            ratio_text(layer["speedup"]) if linear else "",
            layer["bound"],
            layer["reason"],
        ],
        title=f"{layer['onnx_node']}: {layer['explanation']}",
    )


# ---- bytes, formats, board ------------------------------------------------------------------------------------------


def _bytes(report: Document) -> Section:
    memory = report["memory"]
    dense, stored, embedding = memory["weights_dense_bytes"], memory["weights_stored_bytes"], memory["embedding_bytes"]
    image = memory["image_bytes"]
    largest = max(dense, 1)
    bars = [
        Share("dense int8", size_text(dense), dense / largest, "dense"),
        Share("stored", size_text(stored), stored / largest, "accelerator"),
        Share("of these values", size_text(memory["value_bytes"]), memory["value_bytes"] / largest, "matrix"),
        Share("and indices", size_text(memory["metadata_bytes"]), memory["metadata_bytes"] / largest, "memory"),
    ]
    rows = [
        Row(["linear weights", size_text(dense), size_text(stored), _less(dense, stored)]),
        Row(
            [
                "with embedding tables",
                size_text(dense + embedding),
                size_text(stored + embedding),
                _less(dense + embedding, stored + embedding),
            ]
        ),
        Row(
            [
                "all constants (weights.bin)",
                size_text(image - stored + dense),
                size_text(image),
                _less(image - stored + dense, image),
            ]
        ),
        Row(["program", "", size_text(memory["program_bytes"]), ""]),
        Row(["weights in the compute layout", "", size_text(memory["compute_bytes"]), ""]),
    ]
    columns = [Column("what"), Column("dense", right=True), Column("stored", right=True), Column("smaller by", right=True)]
    return Section(
        "bytes",
        "Bytes",
        "Embedding tables are bf16 and are never pruned: with them the whole shrinks less than the weights do.",
        [Bars("Linear weights", bars), Table("With and without embedding", columns, [Group(rows)])],
    )


def _less(before: int, after: int) -> str:
    return f"{before / after:.2f}x" if after else ""


def _formats(report: Document) -> Section:
    """One row for layers that had the same choice, largest first."""
    choices: dict[tuple[Any, ...], list[Document]] = {}
    for layer in report["layers"]:
        if layer["candidates"]:
            key = (layer["pattern"], layer["format"], *sorted(layer["candidates"].items()))
            choices.setdefault(key, []).append(layer)
    names = sorted({name for layers in choices.values() for name in layers[0]["candidates"]})
    if not choices:
        return Section("formats", "Storage formats", "")
    columns = [
        Column("layers", mono=True, wrap=True),
        Column("count", right=True),
        Column("pattern", mono=True, wrap=True),
        Column("chosen", mono=True),
        *(Column(name, right=True) for name in names),
    ]
    rows: list[Row] = []
    for layers in sorted(choices.values(), key=lambda found: -sum(layer["dense_bytes"] for layer in found)):
        first = layers[0]
        cells = [f"{first['candidates'][name]:,}" if name in first["candidates"] else "" for name in names]
        shown = first["name"] if len(layers) == 1 else f"{first['name']} ... {layers[-1]['name']}"
        rows.append(Row([shown, str(len(layers)), views.pattern_text(first["pattern"]), first["format"], *cells]))
    return Section(
        "formats",
        "Storage formats",
        "Bytes of one layer in each format that the target decodes; chosen is the one that is loaded soonest.",
        [Table("Candidates", columns, [Group(rows)], tall=len(rows) > 16)],
    )


def _board(report: Document, manifest: Document) -> Section:
    used = [
        Share(
            name.upper(),
            f"{part['used']:,} of {part['usable']:,}",
            part["used"] / part["usable"] if part["usable"] else 0.0,
            "accelerator",
        )
        for name, part in report["resources"].items()
    ]
    chip = [
        Share(
            name,
            f"{size_text(part['used'])} of {size_text(part['usable'])}",
            part["used"] / part["usable"] if part["usable"] else 0.0,
            "memory",
        )
        for name, part in report["memory"]["on_chip"].items()
    ]
    regions = [
        Row(
            [
                f"{entry['offset']:#010x}",
                f"{entry['offset'] + entry['bytes']:#010x}",
                entry["kind"],
                entry["name"],
                size_text(entry["bytes"]),
            ]
        )
        for entry in sorted(manifest["dram"], key=lambda entry: entry["offset"])
    ]
    columns = [
        Column("from", mono=True),
        Column("to", mono=True),
        Column("kind"),
        Column("name", mono=True, wrap=True),
        Column("bytes", right=True),
    ]
    return Section(
        "board",
        "The board",
        "What the accelerator takes of what the shell leaves (an estimate, not a synthesis result), and what the program"
        " takes of the accelerator's memories.",
        [
            Bars("Resources", used),
            Bars("Memories", chip),
            Table("Memory map of the DRAM", columns, [Group(regions)], tall=len(regions) > 12),
        ],
    )


def _numbers(snapshot: Document) -> list[tuple[str, str, str]]:
    """(name, value, source) of every number of a target's snapshot."""
    rows: list[tuple[str, str, str]] = []
    for key, source in snapshot["sources"]:
        value: Any = snapshot
        for part in key.split("."):
            value = value[part]
        rows.append((key, f"{value:,}" if isinstance(value, int) else f"{value:g}", source))
    return rows


def _simulation(run: Document) -> list[tuple[str, str]]:
    rows = [("simulated in", f"{run['simulate_seconds']:.2f} s" if run["simulate_seconds"] else "cycles only, no values")]
    if run["reference_ms"] is not None:
        rows.append(("ONNX Runtime", f"{ms_text(run['reference_ms'])} ms a batch on this machine (measured once, fp32)"))
    return rows
