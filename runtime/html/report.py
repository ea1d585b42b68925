"""report.html of a bundle: one face for every kind of target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hw_targets.isa import Queue
from runtime.html import cpu_views, fpga_views, gpu_views
from runtime.html.page import html
from runtime.html.parts import Section
from runtime.html.views import Document
from runtime.timeline import Stretch


def report_page(
    report: Document,
    run: Document,
    manifest: Document,
    lanes: Mapping[Queue, Sequence[Stretch]] | None = None,
    extra: Sequence[Section] = (),
) -> str:
    """The text of report.html from the bundle's JSON; `lanes` are a simulated program's (runtime.timeline.stretches)."""
    if report["target"]["kind"] == "cpu":
        return html(cpu_views.page(report, run, manifest, extra))
    if report["target"]["kind"] == "gpu":
        return html(gpu_views.page(report, run, manifest, extra))
    return html(fpga_views.page(report, run, manifest, lanes or {}, extra))
