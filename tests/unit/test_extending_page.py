"""docs/EXTENDING.md shows code of the packages that the tests install, and every entry point that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compiler import pipelines
from compiler.sparsity import patterns
from compiler.storage import formats
from hw_targets import catalogue, storage

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "EXTENDING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|toml)\n(.*?)```", PAGE, flags=re.DOTALL)
PACKAGES = ROOT / "tests" / "packages"
SOURCES = [path.read_text(encoding="utf-8") for path in sorted([*PACKAGES.rglob("*.py"), *PACKAGES.rglob("*.toml")])]


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_a_block_is_code_that_a_test_installs(index: int) -> None:
    assert any(BLOCKS[index][1] in source for source in SOURCES), BLOCKS[index][1]


def test_every_entry_point_is_on_the_page() -> None:
    points = (catalogue.ENTRY_POINTS, pipelines.ENTRY_POINTS, patterns.ENTRY_POINTS, formats.ENTRY_POINTS, storage.DECODERS)
    assert re.findall(r"^\| `(hpcc\.\w+)` \|", PAGE, flags=re.MULTILINE) == list(points)
