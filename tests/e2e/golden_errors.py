"""The golden lines of errors: tests/golden/errors.txt, one case a line, `name | exit status | line`.

TMP stands for the folder of the test, LINE for a line number, `...` for text that other versions of a library may word
differently.
"""

from __future__ import annotations

import re

from tests.e2e.harness import ROOT


def golden() -> dict[str, tuple[int, str]]:
    """Exit status and line by name of the case."""
    lines = (ROOT / "tests" / "golden" / "errors.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split(" | ", 2) for line in lines if line and not line.startswith("#")]
    found = {name: (int(status), text) for name, status, text in rows}
    assert len(found) == len(rows), "a case stands twice"
    return found


GOLDEN = golden()


def matches(line: str, wanted: str) -> bool:
    """Whether a printed line is the golden one."""
    pattern = re.escape(wanted).replace(re.escape("..."), ".*").replace(re.escape("LINE"), r"\d+")
    return re.fullmatch(pattern, line) is not None
