"""`--baseline dense|BUNDLE`: what a program is compared with, and the comparison as it is stored, printed and shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from compiler.tools.options import Options
from compiler.tools.report import Form
from runtime.compare import Difference, Document, compare, read_reports, text
from runtime.html import diff_views
from runtime.html.parts import Section

DENSE = "dense"
COMPARISON = "comparison.json"
NO_FIT = "the dense model does not fit this target: there is no baseline"


def dense_options(options: Options, *, simulated: bool) -> Options:
    """What a second run is asked, that compiles the dense model for the same target: for an accelerator only cycles."""
    return replace(
        options,
        sparsity=DENSE,
        baseline=None,
        verify=False,
        verify_each=False,
        output=None,
        emit=None,
        dump_stages=None,
        timing_only=simulated,
        json=False,
        quiet=True,
    )


def read_baseline(options: Options) -> tuple[str, Document, Document] | None:
    """(name, report, run) of the bundle that --baseline names, None where it names none. Raises InputError."""
    if options.baseline in (None, DENSE):
        return None
    folder = Path(options.baseline)
    return (folder.resolve().name, *read_reports(folder))


def compared(baseline: tuple[str, Document, Document], name: str, report: Form, run: Form) -> Difference:
    """The program with its baseline. Raises InputError where that is of another model."""
    return compare(baseline, (name, report.model_dump(mode="json"), run.model_dump(mode="json")))


def comparison_text(comparison: Difference) -> str:
    """comparison.json of a bundle."""
    return json.dumps(comparison.document(), indent=1) + "\n"


def baseline_section(comparison: Difference | None) -> tuple[Section, ...]:
    """The chapter of report.html."""
    return () if comparison is None else (diff_views.section(comparison),)


def print_comparison(comparison: Difference | None, asked: str | None) -> None:
    """The comparison as a table, below the summary."""
    if asked is None:
        return
    said = NO_FIT if comparison is None else text(comparison)
    Console(highlight=False, markup=False, soft_wrap=True).print(f"\n{said}")
