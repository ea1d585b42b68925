"""Prints a page: one HTML file that holds its style, its drawings and the little script that it can do without."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.html.parts import Page

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

    def include_raw(name: str) -> Markup:
        """A file of this package as it is: style and script are ours, everything else is escaped."""
        return Markup((FOLDER / name).read_text(encoding="utf-8"))

    environment.globals |= {"include_raw": include_raw}  # pyright: ignore[reportUnknownMemberType]
    environment.filters |= {"percent": _percent}  # pyright: ignore[reportUnknownMemberType]
    return environment


def _percent(share: float) -> str:
    """A length in per cent of its container; a bar never leaves it."""
    return f"{100 * min(max(share, 0.0), 1.0):.3f}%"


def html(page: Page) -> str:
    """The text of the file."""
    return _environment().get_template("page.html.jinja").render(page=page)
