"""The page of a bundle for a GPU: estimated bounds, times where a GPU measured them, the ledger, bytes."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.figures import ms_text, share_text, size_text
from runtime.html import views
from runtime.html.parts import Bars, Column, Fact, Facts, Group, Page, Pairs, Part, Row, Section, Share, Split, Table
from runtime.html.views import Document


def page(report: Document, run: Document, manifest: Document, extra: Sequence[Section] = ()) -> Page:
    """The page of report.json and run.json of a GPU bundle; without times where no GPU ran it."""
    target = report["target"]
    entry = run["latency"]["device_ms"]
    measured = entry["source"] == "measured"
    sections = [
        _bound(report),
        *extra,
        _ledger(report, run),
        _bytes(report),
        views.checks(report, run),
        views.host(report, run),
        views.sources(_numbers(manifest["target"]), target["name"]),
        views.making(report, run, _made(run)),
    ]
    if measured:
        verdict = f"{ms_text(entry['ms'])} ms per batch on {run['device']}."
    else:
        verdict = f"Run in {run['device']}: no times." if run["device"] else f"Compiled, not run: {run['not_run']}."
    return Page(
        f"{report['model']['name']} on {target['name']}",
        "GPU, measured" if measured else "GPU, not measured",
        verdict,
        _facts(report, run, measured),
        [section for section in sections if section.parts or section.lead],
        f"hpcc {report['hpcc_version']}",
    )


def _facts(report: Document, run: Document, measured: bool) -> Facts:
    memory, entry = report["memory"], run["latency"]["device_ms"]
    executed, dense = views.sums(report["layers"], "macs_executed", "macs_dense")
    packed = size_text(memory["weights_packed_bytes"])
    stored = f"dense {report['precision']} {size_text(memory['weights_dense_bytes'])}"
    return Facts(
        [
            Fact("per batch", ms_text(entry["ms"]) if measured else "n/a", "ms" if measured else "", entry["source"], ""),
            Fact("bound", ms_text(report["roofline"]["bound_ms"]), "ms", "estimated", "by the rates of the target file"),
            Fact("batch", f"{report['batch']} x {report['tokens']}", "tokens", "", report["precision"]),
            Fact("weights packed", packed, "", "", stored),
            Fact("multiplications done", share_text(executed / dense) if dense else "n/a", "", "", "of a dense model's"),
        ]
    )


def _bound(report: Document) -> Section:
    roofline = report["roofline"]
    total = roofline["products_ms"] + roofline["memory_ms"] or 1.0
    words = (("products", "products", "matrix"), ("memory", "bytes", "memory"))
    shares = [
        Share(label, f"{ms_text(roofline[f'{key}_ms'])} ms", roofline[f"{key}_ms"] / total, tone, "estimated")
        for key, label, tone in words
    ]
    split = Split(f"at least {ms_text(roofline['bound_ms'])} ms: of each launch the longer of both", shares)
    lead = "What the target's peak rates and its bandwidth allow at best. It is no prediction and was not measured."
    parts: list[Part] = [split, Pairs(views.pruning(report))]
    return Section("latency", "Bound of one batch", lead, parts)


def _ledger(report: Document, run: Document) -> Section:
    times = {row["name"]: row["ms"] for row in run["layers"]}
    layers = report["layers"]
    labels = views.pattern_labels(layers)
    columns = (
        Column("layer", mono=True),
        Column("pattern", mono=True, wrap=True),
        Column("kernel", mono=True),
        Column("tile", mono=True),
        Column("bytes", right=True),
        Column("multiplied", right=True),
        Column("bound us", right=True),
        Column("bound by"),
        Column("us", right=True),
        Column("why", wrap=True),
    )
    groups: list[Group] = []
    for name, rows in views.blocks(layers).items():
        stored = sum(row["value_bytes"] + row["index_bytes"] for row in rows)
        bound = 1e3 * sum(row["bound_ms"] for row in rows)
        took = f"{1e3 * sum(times[row['name']] for row in rows):.2f}" if times else ""
        head = Row([name, "", "", "", views.size_or_nothing(stored), "", f"{bound:.2f}", "", took, ""])
        inside = [_row(row, times.get(row["name"]), labels[row["pattern"]]) for row in rows]
        groups.append(Group(inside, head if len(rows) > 1 else None))
    packed = size_text(report["memory"]["weights_packed_bytes"])
    took = f"{1e3 * sum(times.values()):.2f}" if times else ""
    foot = Row(["total", "", "", "", packed, "", f"{1e3 * report['roofline']['bound_ms']:.2f}", "", took, ""])
    return Section(
        "ledger",
        "The ledger: what the zeros bought",
        "How each weight is multiplied, what of it, and the time that the target's rates allow (estimated).",
        [
            views.reasons(layers, "macs_executed", "multiplications"),
            Table("Layer by layer", columns, groups, foot, tall=len(layers) > 24),
        ],
    )


def _row(layer: Document, ms: float | None, pattern: str) -> Row:
    linear = layer["op"] == "linear"
    return Row(
        [
            layer["name"],
            pattern,
            layer["kernel"],
            layer["tile"],
            views.size_or_nothing(layer["value_bytes"] + layer["index_bytes"]),
            f"{layer['density']:.0%}" if linear else "",
            f"{1e3 * layer['bound_ms']:.2f}",
            layer["bound"],
            f"{1e3 * ms:.2f}" if ms is not None else "",
            layer["reason"],
        ],
        title=f"{layer['onnx_node']}: {layer['explanation']}",
    )


def _bytes(report: Document) -> Section:
    memory = report["memory"]
    largest = max(memory["weights_dense_bytes"], memory["weights_packed_bytes"], 1)
    bars = [
        Share(label, size_text(memory[key]), memory[key] / largest, tone)
        for label, key, tone in (
            (f"dense {report['precision']}", "weights_dense_bytes", "dense"),
            ("packed", "weights_packed_bytes", "accelerator"),
            ("of these values", "value_bytes", "matrix"),
            ("and indices", "index_bytes", "memory"),
        )
    ]
    rows = [
        ("weights.bin", f"{size_text(memory['image_bytes'])}: with embeddings, norms and biases"),
        ("activations", size_text(memory["activation_bytes"])),
        ("moved by launches", f"{size_text(memory['moved_bytes'])} a batch, every buffer once"),
    ]
    return Section("bytes", "Bytes", "Weights as the kernels read them.", [Bars("Linear weights", bars), Pairs(rows)])


def _numbers(target: Document) -> list[tuple[str, str, str]]:
    return [(key, f"{target[key.removeprefix('gpu.')]:,}", source) for key, source in target.get("sources", ())]


def _made(run: Document) -> list[tuple[str, str]]:
    rows = [("ran on", run["device"] or f"nothing: {run['not_run']}")]
    if run["reference_ms"] is not None:
        rows.append(("ONNX Runtime", f"{ms_text(run['reference_ms'])} ms a batch on the CPU (one run, same weights)"))
    return rows
