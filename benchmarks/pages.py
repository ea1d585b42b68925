"""Pages of figures that are made a section at a time: what is made anew takes its place, the rest stays as it was."""

from __future__ import annotations

import re
from collections.abc import Mapping


def heading_of(section: str) -> str:
    """The first line, `## ...`."""
    return section.lstrip("\n").split("\n", 1)[0]


def sections_of(page: str) -> dict[str, str]:
    """A page's sections by heading, each as it stands; what comes before the first is none."""
    parts = re.split(r"^(?=## )", page, flags=re.MULTILINE)[1:]
    return {heading_of(part): part for part in parts}


def page_of(introduction: str, sections: Mapping[str, str]) -> str:
    """A page of sections in their order, one empty line between them."""
    return "\n\n".join(part.strip("\n") for part in (introduction, *sections.values())) + "\n"
