"""The pieces of a page, as data. Each names the macro that draws it; none knows where its figures are from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Fact:
    """A large figure with a word on it; `tag` says how it is known (simulated, measured, estimated)."""

    label: str
    value: str
    unit: str = ""
    tag: str = ""
    note: str = ""


@dataclass(frozen=True)
class Facts:
    draw: ClassVar[str] = "facts"
    facts: Sequence[Fact]


@dataclass(frozen=True)
class Share:
    """A part of a whole: `share` in 0..1, `tone` its colour's name in the style sheet."""

    label: str
    value: str
    share: float
    tone: str
    tag: str = ""


@dataclass(frozen=True)
class Split:
    """A whole cut into its parts: one bar with a legend."""

    draw: ClassVar[str] = "split"
    title: str
    parts: Sequence[Share]


@dataclass(frozen=True)
class Bars:
    """Bars below each other; a `mark` in 0..1 is a limit that they should not reach."""

    draw: ClassVar[str] = "bars"
    title: str
    bars: Sequence[Share]
    marks: Sequence[float | None] = ()


@dataclass(frozen=True)
class Column:
    """A column of a table; `right` aligns figures, `wrap` lets long words break."""

    title: str
    right: bool = False
    wrap: bool = False
    mono: bool = False


@dataclass(frozen=True)
class Pair:
    """Two bars in a cell: this one and what it is compared with, shares of the table's largest."""

    first: float
    second: float | None
    title: str


Cell = str | Pair


@dataclass(frozen=True)
class Row:
    cells: Sequence[Cell]
    title: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Group:
    """Rows that belong together, below a row with their sum."""

    rows: Sequence[Row]
    head: Row | None = None


@dataclass(frozen=True)
class Table:
    draw: ClassVar[str] = "table"
    title: str
    columns: Sequence[Column]
    groups: Sequence[Group]
    foot: Row | None = None
    tall: bool = False
    """Whether the table scrolls in a window of its own on a screen."""


@dataclass(frozen=True)
class Box:
    """Something that lasted, in 0..1 of the time line: `level` in 0..1 is how busy it was."""

    start: float
    width: float
    level: float
    tone: str
    title: str


@dataclass(frozen=True)
class Lane:
    label: str
    note: str
    boxes: Sequence[Box]


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Timeline:
    draw: ClassVar[str] = "timeline"
    title: str
    lanes: Sequence[Lane]
    ticks: Sequence[Tick]
    scale: Sequence[Tick]
    legend: Sequence[tuple[str, str]]
    """(tone, words)."""


@dataclass(frozen=True)
class Columns:
    """Two columns for each group of layers, side by side: shares of the tallest."""

    draw: ClassVar[str] = "columns"
    title: str
    names: tuple[str, str]
    groups: Sequence[tuple[str, float, float | None, str]]
    """(label, first, second, title)."""


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    label: str
    title: str
    main: bool = False
    tone: str = ""


@dataclass(frozen=True)
class Line:
    points: Sequence[tuple[float, float]]
    label: str
    tone: str


@dataclass(frozen=True)
class Roofline:
    """Places in a drawing of `width` x `height`; see charts.roofline."""

    draw: ClassVar[str] = "roofline"
    title: str
    description: str
    width: int
    height: int
    lines: Sequence[Line]
    points: Sequence[Point]
    xticks: Sequence[Tick]
    yticks: Sequence[Tick]


@dataclass(frozen=True)
class Scatter:
    """Points over two figures in a drawing of `width` x `height`; see charts.scatter. The legend is (tone, words)."""

    draw: ClassVar[str] = "scatter"
    title: str
    description: str
    axes: tuple[str, str]
    width: int
    height: int
    lines: Sequence[Line]
    points: Sequence[Point]
    xticks: Sequence[Tick]
    yticks: Sequence[Tick]
    legend: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Statement:
    """One statement with its verdict, and what it does not say."""

    title: str
    verdict: str
    tone: str
    lines: Sequence[str]
    limits: str


@dataclass(frozen=True)
class Statements:
    draw: ClassVar[str] = "statements"
    statements: Sequence[Statement]


@dataclass(frozen=True)
class Text:
    draw: ClassVar[str] = "text"
    paragraphs: Sequence[str]


@dataclass(frozen=True)
class Items:
    draw: ClassVar[str] = "items"
    items: Sequence[str]


@dataclass(frozen=True)
class Pairs:
    """Names and values below each other."""

    draw: ClassVar[str] = "pairs"
    pairs: Sequence[tuple[str, str]]


Part = Facts | Split | Bars | Table | Timeline | Columns | Roofline | Scatter | Statements | Text | Items | Pairs


@dataclass(frozen=True)
class Section:
    """A chapter of the page; `lead` says in a sentence what it shows."""

    name: str
    title: str
    lead: str
    parts: Sequence[Part] = field(default_factory=tuple[Part, ...])


@dataclass(frozen=True)
class Page:
    title: str
    kicker: str
    verdict: str
    facts: Facts
    sections: Sequence[Section]
    foot: str
