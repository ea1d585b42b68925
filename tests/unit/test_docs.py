"""The pages: generated ones are fresh, links lead somewhere, and the README shows what the tools really take and print."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from compiler.pipelines import STAGE_NAMES
from compiler.tools.pages import FOLDER, PAGES
from hw_targets import errors
from hw_targets.catalogue import list_targets

ROOT = FOLDER.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = [ROOT / "README.md", *sorted(FOLDER.glob("*.md"))]
LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)")
FENCE = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_fresh(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name](), "run: make docs"


def test_every_schema_of_the_folder_is_generated() -> None:
    found = {path.relative_to(FOLDER).as_posix() for path in (FOLDER / "schemas").iterdir()}
    assert found == {name for name in PAGES if name.startswith("schemas/")}


@pytest.mark.parametrize("page", TEXTS, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", TEXTS, ids=lambda path: path.name)
def test_pages_name_no_absolute_path(page: Path) -> None:
    assert not re.findall(r"(?<![\w.~$}/])/(?:home|tmp|work|root|usr|opt)\b", page.read_text(encoding="utf-8"))


def test_the_readme_draws_every_stage_in_order() -> None:
    picture = next(block for block in FENCE.findall(README) if "-->" in block)
    places = [picture.index(stage) for stage in STAGE_NAMES]
    assert places == sorted(places)


def test_the_readme_lists_the_exit_statuses() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", README, re.MULTILINE))
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HpccError))
    assert {int(status) for status in rows} == {0, 130} | {kind.exit_status for kind in kinds}


def test_the_readme_names_the_shipped_targets() -> None:
    for name, _, _ in list_targets():
        assert f"`{name}`" in README


def test_the_readmes_demo_is_the_makefiles() -> None:
    shown = re.search(r"^hpcc \S+\.onnx .*--text examples/sentences\.txt.*$", README, re.MULTILINE)
    assert shown is not None
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    options = [word for word in shown[0].split() if word.startswith(("--", "hp:", "fpga-", "input_ids:", "examples/"))]
    assert all(word in makefile for word in options)


def test_the_packages_data_is_declared() -> None:
    """A wheel holds the target files and the markers of typed packages."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    assert data["hw_targets"] == ["*.toml"]
    assert "py.typed" in data["*"]
