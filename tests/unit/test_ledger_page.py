"""docs/LEDGER.md names every field of both reports and every reason of a CPU layer; docs/GPU.md what GPUs add."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from compiler.tools import cpu_report, gpu_report, report, steps_report
from compiler.tools.cpu_report import CPU_EXPLANATIONS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "LEDGER.md").read_text(encoding="utf-8")
GPUS = (DOCS / "GPU.md").read_text(encoding="utf-8")


def named(page: str) -> set[str]:
    return {word for code in re.findall(r"`([^`\n]+)`", page) for word in re.findall(r"\w+", code)}


def forms(module: ModuleType) -> list[type[BaseModel]]:
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return [kind for kind in kinds if kind.__module__ == module.__name__]


EXPLAINED = [*forms(report), *forms(steps_report), *forms(cpu_report)]


@pytest.mark.parametrize("form", EXPLAINED, ids=lambda form: form.__name__)
def test_every_field_is_explained(form: type[BaseModel]) -> None:
    assert set(form.model_fields) - named(PAGE) == set()


@pytest.mark.parametrize("form", forms(gpu_report), ids=lambda form: form.__name__)
def test_every_field_of_a_gpu_is_explained(form: type[BaseModel]) -> None:
    assert set(form.model_fields) - named(PAGE) - named(GPUS) == set()


def test_the_reasons_of_cpu_layers_are_the_codes_own() -> None:
    section = PAGE.split("| CPU reason | meaning |", 1)[1]
    assert re.findall(r"^\| ([a-z ]+) \| (.+) \|$", section, re.MULTILINE) == [
        (reason.value, words) for reason, words in CPU_EXPLANATIONS.items()
    ]
