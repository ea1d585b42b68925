"""docs/LEDGER.md names every field of both reports, for accelerators and CPUs, and every reason of a CPU layer."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from compiler.tools import cpu_report, report
from compiler.tools.cpu_report import CPU_EXPLANATIONS

PAGE = (Path(__file__).parents[2] / "docs" / "LEDGER.md").read_text(encoding="utf-8")
NAMED = {word for code in re.findall(r"`([^`\n]+)`", PAGE) for word in re.findall(r"\w+", code)}


def forms(module: ModuleType) -> list[type[BaseModel]]:
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return [kind for kind in kinds if kind.__module__ == module.__name__]


@pytest.mark.parametrize("form", [*forms(report), *forms(cpu_report)], ids=lambda form: form.__name__)
def test_every_field_is_explained(form: type[BaseModel]) -> None:
    assert set(form.model_fields) - NAMED == set()


def test_the_reasons_of_cpu_layers_are_the_codes_own() -> None:
    section = PAGE.split("| CPU reason | meaning |", 1)[1]
    assert re.findall(r"^\| ([a-z ]+) \| (.+) \|$", section, re.MULTILINE) == [
        (reason.value, words) for reason, words in CPU_EXPLANATIONS.items()
    ]
