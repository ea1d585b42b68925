"""Two bundles side by side: a page of its own, and a chapter of report.html where a baseline was asked for."""

from __future__ import annotations

from runtime.compare import Difference, Whole, changed, time_text
from runtime.figures import ms_text, ratio_text, size_text
from runtime.html import views
from runtime.html.page import html
from runtime.html.parts import (
    Bars,
    Column,
    Columns,
    Fact,
    Facts,
    Group,
    Items,
    Page,
    Pair,
    Part,
    Row,
    Section,
    Share,
    Table,
)


def diff_page(comparison: Difference, version: str) -> str:
    """The text of an HTML file that compares two bundles."""
    a, b = comparison.first, comparison.second
    speed = comparison.speedup
    verdict = f"B is {speed:.2f}x as fast as A." if speed is not None else "At least one of the two was not run."
    facts = [
        Fact("A", ms_text(a.ms) if a.ms is not None else "n/a", "ms" if a.ms is not None else "", a.source, a.name),
        Fact("B", ms_text(b.ms) if b.ms is not None else "n/a", "ms" if b.ms is not None else "", b.source, b.name),
        Fact("B against A", ratio_text(speed) or "n/a", "", "", "how many times as fast"),
        Fact("weights of A", size_text(a.weight_bytes), "", "", f"{views.pattern_text(a.pattern)} on {a.target}"),
        Fact("weights of B", size_text(b.weight_bytes), "", "", f"{views.pattern_text(b.pattern)} on {b.target}"),
    ]
    page = Page(
        f"{comparison.model}: A and B", "Two programs of one model", verdict, Facts(facts), sections(comparison), version
    )
    return html(page)


def section(comparison: Difference) -> Section:
    """The comparison as a chapter of the report of B."""
    a, speed = comparison.first, comparison.speedup
    said = f"This program is {speed:.2f}x as fast as it." if speed is not None else "At least one of the two was not run."
    return Section(
        "baseline",
        "Beside the baseline",
        f"The baseline is {a.name}: {views.pattern_text(a.pattern)} on {a.target}. {said}",
        [*_overview(comparison, a.name, "this program"), _layers(comparison)],
    )


def sections(comparison: Difference) -> list[Section]:
    """The chapters of a page of its own."""
    return [
        Section("whole", "As a whole", "Time and bytes of both.", _overview(comparison, "A", "B")),
        Section(
            "layers",
            "Layer by layer",
            "What a layer takes in each, and its reason in the ledger; where a word changed, both are named.",
            [_columns(comparison), _layers(comparison)],
        ),
    ]


def _overview(comparison: Difference, first: str, second: str) -> list[Part]:
    a, b = comparison.first, comparison.second
    longest = max(a.ms or 0.0, b.ms or 0.0) or 1.0
    largest = max(a.weight_bytes, b.weight_bytes) or 1

    def time(whole: Whole, label: str, tone: str) -> Share:
        known = whole.ms is not None
        return Share(
            label, f"{ms_text(whole.ms or 0)} ms" if known else "not run", (whole.ms or 0) / longest, tone, whole.source
        )

    def size(whole: Whole, label: str, tone: str) -> Share:
        return Share(label, size_text(whole.weight_bytes), whole.weight_bytes / largest, tone)

    parts: list[Part] = [
        Bars("Time of a batch", [time(a, first, "dense"), time(b, second, "accelerator")]),
        Bars("Bytes of the linear weights", [size(a, first, "dense"), size(b, second, "accelerator")]),
    ]
    if comparison.notes:
        parts.append(Items(comparison.notes))
    return parts


def _columns(comparison: Difference) -> Columns:
    """Time by block: B first, as in the report of B."""
    sums: dict[str, list[float]] = {}
    for pair in comparison.layers:
        entry = sums.setdefault(views.block_of(pair.name), [0.0, 0.0])
        for number, side in enumerate((pair.second, pair.first)):
            entry[number] += (side.ms or 0.0) if side is not None else 0.0
    tallest = max((max(entry) for entry in sums.values()), default=1.0) or 1.0
    groups = [
        (name, b / tallest, a / tallest, f"{name}: {ms_text(a)} ms in A, {ms_text(b)} ms in B")
        for name, (b, a) in sums.items()
    ]
    return Columns("Milliseconds by block", ("B", "A"), groups)


def _layers(comparison: Difference) -> Table:
    unit = "cycles" if comparison.in_cycles else "ms"
    columns = (
        Column("layer", mono=True),
        Column(f"{unit} A", right=True),
        Column(f"{unit} B", right=True),
        Column("B beside A"),
        Column("A / B", right=True),
        Column("bytes A", right=True),
        Column("bytes B", right=True),
        Column("pattern", mono=True, wrap=True),
        Column("format", mono=True, wrap=True),
        Column("bound"),
        Column("why", wrap=True),
    )
    times = [side.ms or 0.0 for pair in comparison.layers for side in (pair.first, pair.second) if side is not None]
    most = max(times, default=1.0) or 1.0
    rows: list[Row] = []
    for pair in comparison.layers:
        a, b = pair.first, pair.second
        bars = Pair(
            (b.ms or 0.0) / most if b is not None else 0.0,
            (a.ms or 0.0) / most if a is not None else 0.0,
            f"{pair.name}: {time_text(b, comparison.in_cycles)} beside {time_text(a, comparison.in_cycles)} {unit}",
        )
        rows.append(
            Row(
                [
                    pair.name,
                    time_text(a, comparison.in_cycles),
                    time_text(b, comparison.in_cycles),
                    bars,
                    ratio_text(pair.speedup),
                    views.size_or_nothing(a.bytes) if a is not None else "",
                    views.size_or_nothing(b.bytes) if b is not None else "",
                    views.pattern_text(changed(pair, "pattern")),
                    changed(pair, "format"),
                    changed(pair, "bound"),
                    changed(pair, "reason"),
                ]
            )
        )
    wholes = (comparison.first, comparison.second)
    if comparison.in_cycles:
        totals = [f"{whole.cycles:,}" for whole in wholes]
    else:
        totals = ["" if whole.ms is None else f"{whole.ms:.3f}" for whole in wholes]
    sizes = [size_text(whole.weight_bytes) for whole in wholes]
    foot = Row(["total", *totals, "", ratio_text(comparison.speedup), *sizes, "", "", "", ""])
    return Table("Layers of A and B", columns, [Group(rows)], foot, tall=len(rows) > 24)
