"""The code of the pages runs, page by page, and prints what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.page_session import Session, expected
from tests.pages import Page, pages, read_page

PAGES = {page.name: page for page in pages() if any(block.is_code for block in page.blocks)}
FAST = ("WRITING_A_TARGET.md",)
"""What the fast tests run; the commands of all pages are parsed by them (tests/unit/test_pages.py)."""


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in PAGES])
def test_the_code_of_a_page_runs(name: str, tmp_path: Path) -> None:
    read(PAGES[name], tmp_path / "clone")


def read(page: Page, folder: Path) -> None:
    """Run every block of a page that has no note why not."""
    folder.mkdir()
    with Session(page, folder) as session:
        for block in page.blocks:
            if expected(block):
                fault = session.run(block)
                assert not fault, fault
        assert session.ran == [block for block in page.blocks if expected(block)]


PAGE = """<!-- given: model.onnx -->
```sh
LAYERS=layers.txt
hpcc-prune model.onnx --shape input_ids:1x16 --list-layers > $LAYERS
```
<!-- figures vary: "took 3 s" -->
```console
$ echo one; echo took 4.25 s
one
took 3 s
$ grep -c ffn.up < $LAYERS
2
```
```python
from pathlib import Path
text = Path("layers.txt").read_text()
```
```python
assert text.count("ffn.up") == 2
```
"""
WRONG = {
    "a command that fails": ("--list-layers >", "--list-nothing >"),
    "a figure": ("```console\n$ echo one", "```console\n$ echo two"),
    "a line": ("\n2\n", "\n2\n3\n"),
    "Python": ("== 2", "== 3"),
    "an exit status": ("> $LAYERS", "> $LAYERS; false"),
}


def test_a_page_goes_on_from_block_to_block(tmp_path: Path) -> None:
    read(read_page(PAGE, "PAGE.md"), tmp_path / "clone")


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_page_is_found(name: str, tmp_path: Path) -> None:
    right, wrong = WRONG[name]
    assert PAGE.count(right) == 1
    with pytest.raises(AssertionError, match="PAGE.md"):
        read(read_page(PAGE.replace(right, wrong), "PAGE.md"), tmp_path / "clone")
