"""The page of a bundle for a CPU: measured times, rates, the ledger, bytes. Chapters that FPGAs have too are in views."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.figures import count_text, ms_text, share_text, size_text
from runtime.html import charts, views
from runtime.html.parts import (
    Bars,
    Box,
    Column,
    Fact,
    Facts,
    Group,
    Lane,
    Page,
    Pair,
    Pairs,
    Part,
    Row,
    Section,
    Share,
    Split,
    Table,
    Timeline,
)
from runtime.html.views import Document


def page(report: Document, run: Document, manifest: Document, extra: Sequence[Section] = ()) -> Page:
    """The page of report.json and run.json of a CPU bundle; without times where nothing was run."""
    target = report["target"]
    ran = run["latency"]["total_ms"]["source"] == "measured"
    sections = [
        _latency(report, run, ran),
        *extra,
        *([_timeline(run)] if run["layers"] else []),
        _ledger(report, run),
        _bytes(report),
        views.checks(report, run),
        views.host(report, run),
        views.sources(_numbers(manifest["target"]), target["name"]),
        views.making(report, run, _build(run)),
    ]
    total = run["latency"]["total_ms"]["ms"]
    verdict = f"{ms_text(total)} ms per batch on {_threads(run)}." if ran else "Compiled, not run."
    return Page(
        f"{report['model']['name']} on {target['name']}",
        "CPU, measured" if ran else "CPU",
        verdict,
        _facts(report, run, ran),
        [section for section in sections if section.parts or section.lead],
        f"hpcc {report['hpcc_version']}",
    )


def _threads(run: Document) -> str:
    return f"{run['threads']} thread{'s' if run['threads'] != 1 else ''}"


def _facts(report: Document, run: Document, ran: bool) -> Facts:
    total, memory = run["latency"]["total_ms"], report["memory"]
    facts = [
        Fact(
            "per batch",
            ms_text(total["ms"]) if ran else "n/a",
            "ms" if ran else "",
            total["source"],
            _threads(run) if ran else "",
        ),
        Fact(
            "batch",
            f"{report['batch']} x {report['tokens']}",
            "tokens",
            "",
            f"{report['precision']}, {report['target']['isa']}",
        ),
        Fact(
            "weights packed",
            size_text(memory["weights_packed_bytes"]),
            "",
            "",
            f"dense fp32 {size_text(memory['weights_dense_bytes'])}",
        ),
        Fact("multiplications done", _done(report), "", "", "of what a dense model has"),
    ]
    return Facts(facts)


def _done(report: Document) -> str:
    executed, dense = views.sums(report["layers"], "macs_executed", "macs_dense")
    return share_text(executed / dense) if dense else "n/a"


def _latency(report: Document, run: Document, ran: bool) -> Section:
    parts: list[Part] = [Pairs(views.pruning(report))]
    if ran:
        latency = run["latency"]
        total = latency["total_ms"]["ms"] or 1.0
        words = (("device", "in the library", "accelerator"), ("host", "on the host", "host"))
        shares = [
            Share(label, f"{ms_text(entry['ms'])} ms", entry["ms"] / total, tone, entry["source"])
            for key, label, tone in words
            for entry in [latency[f"{key}_ms"]]
        ]
        parts.insert(0, Split(f"{ms_text(total)} ms in all", shares))
    lead = "Medians of several runs on the machine named below." if ran else "Nothing was run: there are no times to show."
    return Section("latency", "Latency of one batch", lead, parts)


def _timeline(run: Document) -> Section:
    layers = run["layers"]
    total = sum(layer["ms"] for layer in layers) or 1.0
    boxes: list[Box] = []
    starts: dict[str, float] = {}
    now = 0.0
    for layer in layers:
        starts.setdefault(views.block_of(layer["name"]), now / total)
        words = f"{layer['name']}: {layer['ms']:.4f} ms"
        boxes.append(Box(now / total, layer["ms"] / total, 1.0, views.family_of(layer["name"]), words))
        now += layer["ms"]
    ticks = charts.thinned(sorted((at, name) for name, at in starts.items()), 0.09)
    return Section(
        "timeline",
        "Time line",
        "The steps of the library one after the other, each measured by itself.",
        [Timeline("Steps", [Lane("library", "", boxes)], ticks, charts.scale(total, "ms"), views.legend())],
    )


def _ledger(report: Document, run: Document) -> Section:
    times = {row["name"]: row for row in run["layers"]}
    layers = [{**layer, "ms": times[layer["name"]]["ms"] if layer["name"] in times else 0.0} for layer in report["layers"]]
    labels = views.pattern_labels(layers)
    unit = "GFLOP/s" if report["precision"] == "fp32" else "GOP/s"
    columns = (
        Column("layer", mono=True),
        Column("pattern", mono=True, wrap=True),
        Column("kernel", mono=True),
        Column("bytes", right=True),
        Column("multiplied", right=True),
        Column("ms", right=True),
        Column(unit, right=True),
        Column("as if dense", right=True),
        Column("rate beside dense rate"),
        Column("why", wrap=True),
    )
    most = max((row["dense_equivalent_gflops"] for row in run["layers"]), default=1.0) or 1.0
    groups: list[Group] = []
    for name, rows in views.blocks(layers).items():
        stored = sum(row["value_bytes"] + row["index_bytes"] for row in rows)
        took = sum(row["ms"] for row in rows)
        head = Row([name, "", "", views.size_or_nothing(stored), "", f"{took:.3f}" if times else "", "", "", "", ""])
        inside = [_row(row, times.get(row["name"]), most, labels[row["pattern"]]) for row in rows]
        groups.append(Group(inside, head if len(rows) > 1 else None))
    took = sum(row["ms"] for row in layers)
    packed = size_text(report["memory"]["weights_packed_bytes"])
    foot = Row(["total", "", "", packed, "", f"{took:.3f}" if times else "", "", "", "", ""])
    by = ("ms", "time") if times else ("macs_executed", "multiplications")
    return Section(
        "ledger",
        "The ledger: what the zeros bought",
        "What each layer took, the rate at which it really multiplied, and the rate that a dense layer would have needed.",
        [views.reasons(layers, *by), Table("Layer by layer", columns, groups, foot, tall=len(layers) > 24)],
    )


def _row(layer: Document, time: Document | None, most: float, pattern: str) -> Row:
    linear = bool(layer["macs_dense"])
    pair: Pair | str = ""
    if time is not None and linear:
        first, second = time["gflops"] / most, time["dense_equivalent_gflops"] / most
        pair = Pair(first, second, f"{time['gflops']:.1f} done, {time['dense_equivalent_gflops']:.1f} as if dense")
    return Row(
        [
            layer["name"],
            pattern,
            layer["kernel"],
            views.size_or_nothing(layer["value_bytes"] + layer["index_bytes"]),
            f"{layer['density']:.0%}" if linear else "",
            f"{time['ms']:.3f}" if time is not None else "",
            f"{time['gflops']:.1f}" if time is not None and linear else "",
            f"{time['dense_equivalent_gflops']:.1f}" if time is not None and linear else "",
            pair,
            layer["reason"],
        ],
        title=f"{layer['onnx_node']}: {layer['explanation']}",
    )


def _bytes(report: Document) -> Section:
    memory = report["memory"]
    dense, largest = memory["weights_dense_bytes"], max(memory["weights_dense_bytes"], 1)
    bars = [
        Share(label, size_text(memory[key]), min(memory[key] / largest, 1.0), tone)
        for label, key, tone in (
            ("dense fp32", "weights_dense_bytes", "dense"),
            ("packed", "weights_packed_bytes", "accelerator"),
            ("of these values", "value_bytes", "matrix"),
            ("and indices", "index_bytes", "memory"),
        )
    ]
    rows = [
        ("linear weights", f"{size_text(dense)} dense, {size_text(memory['weights_packed_bytes'])} packed"),
        ("weights.bin", f"{size_text(memory['image_bytes'])}: with embeddings, norms and biases"),
        ("activations", size_text(memory["activation_bytes"])),
    ]
    return Section("bytes", "Bytes", "Weights as the kernels read them.", [Bars("Linear weights", bars), Pairs(rows)])


def _numbers(target: Document) -> list[tuple[str, str, str]]:
    values = {key: target.get(key.removeprefix("cpu.")) for key, _ in target.get("sources", ())}
    return [(key, f"{values[key]:,}" if values[key] else "", source) for key, source in target.get("sources", ())]


def _build(run: Document) -> list[tuple[str, str]]:
    rows = [(name.replace("_", " "), words) for name, words in run["build"].items()]
    if run["reference_ms"] is not None:
        rows.append(("ONNX Runtime", f"{ms_text(run['reference_ms'])} ms a batch (one run, same weights)"))
    rate = [row["gflops"] for row in run["layers"] if row["gflops"]]
    if rate:
        rows.append(("rate", f"at most {count_text(max(rate) * 1e9)} operations per second in a layer"))
    return rows
