"""The few SVG elements that the drawings are made of: boxes, lines with arrow heads, text. Coordinates are pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

STYLE = """
text { font-family: "DejaVu Sans", Verdana, Helvetica, sans-serif; font-size: 12px; fill: #1d2733; }
.title { font-size: 17px; font-weight: bold; }
.name { font-size: 14px; font-weight: bold; }
.small { font-size: 10.5px; fill: #4a5866; }
.box { stroke: #3b4a5a; stroke-width: 1.2; }
.wire { fill: none; stroke: #3b4a5a; stroke-width: 1.6; }
.halo { fill: none; stroke: #ffffff; stroke-width: 6; }
.thin { fill: none; stroke: #8b98a5; stroke-width: 0.7; }
.dash { fill: none; stroke: #8b98a5; stroke-width: 1; stroke-dasharray: 5 4; }
"""
WHITE, GREY, BLUE, GREEN, ORANGE, VIOLET = "#ffffff", "#eef1f4", "#d7e6f5", "#d9efdc", "#fbe3c8", "#e6def5"
"""Fills: paper, control, memories, MATRIX, VECTOR, transfers."""
ARROW = (
    '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
    '<path d="M0 0 L8 4 L0 8 z" fill="#3b4a5a"/></marker>'
)

Point = tuple[float, float]


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


@dataclass
class Drawing:
    """A picture that is drawn element by element, later ones above earlier ones."""

    width: int
    height: int
    title: str
    elements: list[str] = field(default_factory=lambda: [])

    def box(self, x: float, y: float, width: float, height: float, fill: str, round: float = 5) -> None:
        place = f'x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" height="{_number(height)}"'
        self.elements.append(f'<rect class="box" {place} rx="{_number(round)}" fill="{fill}"/>')

    def text(self, x: float, y: float, content: str, style: str = "", anchor: str = "start") -> None:
        css = f' class="{style}"' if style else ""
        place = f'x="{_number(x)}" y="{_number(y)}"'
        self.elements.append(f'<text{css} {place} text-anchor="{anchor}">{escape(content)}</text>')

    def lines(self, x: float, y: float, contents: Sequence[str], style: str = "small", step: float = 15) -> None:
        for number, content in enumerate(contents):
            self.text(x, y + number * step, content, style)

    def shape(self, points: Sequence[Point], fill: str) -> None:
        path = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self.elements.append(f'<polygon class="box" points="{path}" fill="{fill}"/>')

    def line(self, points: Sequence[Point], style: str = "thin") -> None:
        path = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self.elements.append(f'<polyline class="{style}" points="{path}"/>')

    def arrow(self, *points: Point, both: bool = False) -> None:
        """A wire with a head at its end; it passes over earlier ones with a gap."""
        path = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        start = ' marker-start="url(#arrow)"' if both else ""
        self.elements.append(f'<polyline class="halo" points="{path}"/>')
        self.elements.append(f'<polyline class="wire" points="{path}" marker-end="url(#arrow)"{start}/>')

    def svg(self) -> str:
        """The file's text."""
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>{escape(self.title)}</title>\n'
        paper = f'<rect width="{self.width}" height="{self.height}" fill="{WHITE}"/>'
        body = "\n".join([f"<style>{STYLE}</style>", f"<defs>{ARROW}</defs>", paper, *self.elements])
        return f"{head}{body}\n</svg>\n"
