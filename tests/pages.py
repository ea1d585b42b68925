"""The fenced code of the pages, and the comments of their source that say how a block is run.

A comment on a line of its own before a block belongs to it; a reader of the page does not see it:

    <!-- not run: REASON -->                the block cannot be run here
    <!-- needs: torch -->                   it runs where that is there (page_session.NEEDS)
    <!-- exit status: 5 -->                 its last command ends so; all others end with 0
    <!-- figures vary: "PASSAGE" ... -->    in these passages of the output any figures may stand (times, mostly)
    <!-- file: NAME -->                     the block is the content of this file, which the page goes on to use

and one for the page, at its top: <!-- given: NAME, NAME -->, the files and arrays that it takes for granted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = ("sh", "console", "python", "toml")
"""`sh` is commands, `console` is commands behind `$ ` with what they print."""
NOTES = ("not run", "needs", "exit status", "figures vary", "file")
_FENCE = re.compile(r"^```(.*)$")
_COMMENT = re.compile(r"^<!-- ([a-z ]+?): (.+?) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the line of the page that it begins at, its text, and its notes."""

    page: str
    line: int
    language: str
    text: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_code(self) -> bool:
        return self.language in CODE

    def commands(self) -> list[tuple[str, list[str]]]:
        """Of `sh` and `console`: each command, continued lines joined, with the lines that it prints (none for `sh`)."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.replace("\\\n", " ").splitlines():
            if self.language == "console" and not line.startswith("$ "):
                found[-1][1].append(line)
            elif line.strip() and not line.lstrip().startswith("#"):
                found.append((line.removeprefix("$ "), []))
        return found


@dataclass(frozen=True)
class Page:
    """A page: its blocks in order, what it takes for granted, and the text between the blocks."""

    name: str
    blocks: list[Block]
    given: list[str]
    prose: str


def read_page(text: str, name: str) -> Page:
    """Raises ValueError for a fence that is not closed and for a comment that no block follows."""
    blocks: list[Block] = []
    prose: list[str] = []
    notes: dict[str, str] = {}
    given: list[str] = []
    start, language, lines = 0, "", [""]
    for number, line in enumerate(text.splitlines(), 1):
        fence, comment = _FENCE.match(line), _COMMENT.match(line)
        if start and line == "```":
            blocks.append(Block(name, start, language, "\n".join(lines) + "\n", notes))
            start, notes = 0, {}
        elif start:
            lines.append(line)
        elif fence:
            start, language, lines = number, fence[1], []
        elif comment and comment[1] == "given":
            given += comment[2].split(", ")
        elif comment and comment[1] in NOTES:
            notes[comment[1]] = comment[2]
        else:
            if notes and line.strip():
                raise ValueError(f"{name}:{number}: no block follows the comment")
            prose.append(line)
    if start:
        raise ValueError(f"{name}:{start}: the fence is not closed")
    return Page(name, blocks, given, "\n".join(prose))


def pages() -> Iterator[Page]:
    """README.md and every page of docs/."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        yield read_page(path.read_text(encoding="utf-8"), path.name)


def printed_as_shown(shown: list[str], printed: list[str], varies: str) -> bool:
    """Whether a page's lines are those printed: `...` in a line stands for any text, a line of it for any lines; in the
    passages named in `varies`, each in quotes, figures may be others."""
    passages = re.findall(r'"([^"]+)"', varies)
    pattern = "".join("(?:.*\n)*?" if line.strip() == "..." else _line(line, passages) + r" *\n" for line in shown)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None


def _line(line: str, passages: list[str]) -> str:
    escaped = re.escape(line.rstrip()).replace(r"\.\.\.", ".*")
    for passage in passages:
        figures = re.sub(r"\d(?:[\d,]|\\\.\d)*", r"[\\d.,]+", re.escape(passage)).replace(r"\ ", " +")
        escaped = re.sub(re.escape(re.escape(passage)), lambda _, figures=figures: figures, escaped)
    return escaped
