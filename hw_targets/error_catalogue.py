"""The catalogue of errors (errors.toml): what a code means and what to do, for docs/ERRORS.md and `hpcc --explain`.

Nothing that raises an error reads it; tests/unit/test_error_catalogue.py holds it to the source.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import groupby

from hw_targets.errors import UsageError

CODE = re.compile(r"(?:HPCC)?(\d{4})", re.IGNORECASE)

STATUSES = {
    1: "the content of a file or the compilation is at fault",
    2: "the command line is at fault",
    3: "infeasible on this target",
    4: "verification failed; the bundle is kept for a look",
    5: "a tool or an optional package is missing",
}


@dataclass(frozen=True)
class Entry:
    """One error. `example` is a line as it is printed, without its code; `...` stands for other words."""

    code: str
    area: str
    meaning: str
    remedy: str
    example: str

    @property
    def exit_status(self) -> int:
        return int(self.code.removeprefix("HPCC")[0])

    def text(self) -> str:
        """The entry for a terminal."""
        return "\n".join(
            [
                f"{self.code}: {self.meaning}",
                f"  what to do   {self.remedy}",
                f"  exit status  {self.exit_status}: {STATUSES[self.exit_status]}",
                f"  for example  {self.example} [{self.code}]",
            ]
        )


@cache
def entries() -> dict[str, Entry]:
    """All entries by code, in the order of the codes."""
    document = tomllib.loads(files("hw_targets").joinpath("errors.toml").read_text(encoding="utf-8"))
    areas: dict[str, str] = document.pop("areas")
    return {code: Entry(code, _area(code, areas), **fields) for code, fields in sorted(document.items())}


def _area(code: str, areas: dict[str, str]) -> str:
    digits = code.removeprefix("HPCC")
    return areas[max((start for start in areas if digits.startswith(start)), key=len)]


def explain(text: str) -> Entry:
    """The entry of a code, which may be written without its letters. Raises UsageError if there is none."""
    known = entries()
    match = CODE.fullmatch(text.strip())
    if match is None or f"HPCC{match[1]}" not in known:
        near = sorted(known, key=lambda code: abs(int(code[4:]) - int(match[1])))[:3] if match else ["HPCC1004"]
        hint = f"there is {', '.join(near)}; docs/ERRORS.md lists all"
        raise UsageError("HPCC2020", f"there is no error {text!r}", hint=hint)
    return known[f"HPCC{match[1]}"]


def page() -> str:
    """docs/ERRORS.md."""
    lines = [
        "# Errors",
        "",
        "Generated from `hw_targets/errors.toml` by `make docs`. An error is one line on stderr:",
        "`where: error: what (what to do) [CODE]`. A code keeps its meaning from release to release and may be tested by",
        "scripts; the words may change. `hpcc --explain CODE` prints its entry. The first digit is the exit status:",
        "",
        "| status | meaning |",
        "|---|---|",
        *(f"| {status} | {meaning} |" for status, meaning in STATUSES.items()),
    ]
    by_area = sorted(entries().values(), key=lambda entry: (_first_code(entry.area), entry.code))
    for area, members in groupby(by_area, key=lambda entry: entry.area):
        lines += ["", f"## {area}", "", "| code | meaning | what to do | for example |", "|---|---|---|---|"]
        lines += [f"| {e.code} | {_cell(e.meaning)} | {_cell(e.remedy)} | `{_cell(e.example)}` |" for e in members]
    return "\n".join(lines) + "\n"


@cache
def _first_code(area: str) -> str:
    return min(entry.code for entry in entries().values() if entry.area == area)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
