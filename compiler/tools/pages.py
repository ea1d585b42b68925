"""Writes the generated pages of docs/: `python -m compiler.tools.pages [FOLDER]`; a test holds each to its source."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from compiler.tools import dialect_page, pattern_page, supported_ops
from compiler.tools.cpu_report import CpuReport, CpuRunReport
from compiler.tools.exploring.report import schema as explore_schema
from compiler.tools.gpu_report import GpuReport, GpuRunReport
from compiler.tools.report import Report, RunReport
from hw_targets import docs, drawings, error_catalogue, isa_docs, schema
from hw_targets.load import load_target

FOLDER = Path(__file__).parents[2] / "docs"


def _drawing(name: str) -> str:
    return drawings.DRAWINGS[name](load_target(drawings.DRAWN)).svg()


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1) + "\n"


def _schema(form: type[BaseModel]) -> str:
    """The JSON Schema of a report as it is written."""
    return _text(form.model_json_schema(mode="serialization"))


REPORTS: dict[str, tuple[type[BaseModel], type[BaseModel]]] = {
    "": (Report, RunReport),
    ".cpu": (CpuReport, CpuRunReport),
    ".gpu": (GpuReport, GpuRunReport),
}
"""report.json and run.json of a bundle for an accelerator, a CPU, a GPU, by what their schemas' names end in."""

PAGES: dict[str, Callable[[], str]] = {
    "DIALECTS.md": dialect_page.page,
    "ERRORS.md": error_catalogue.page,
    "ISA.md": isa_docs.render,
    "PATTERNS.md": pattern_page.page,
    "SUPPORTED_OPS.md": supported_ops.page,
    "TARGETS.md": docs.page,
    **{f"drawings/{name}.svg": partial(_drawing, name) for name in drawings.DRAWINGS},
    "schemas/explore.schema.json": lambda: _text(explore_schema()),
    **{f"schemas/report{kind}.schema.json": partial(_schema, report) for kind, (report, _) in REPORTS.items()},
    **{f"schemas/run{kind}.schema.json": partial(_schema, run) for kind, (_, run) in REPORTS.items()},
    "schemas/target.schema.json": lambda: _text(schema.json_schema()),
}
"""Each page by its path below docs/, with the function that makes its text."""


def write(folder: Path = FOLDER) -> None:
    for name, render in PAGES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
