"""Parsing of command-line values that several tools share. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod

from hw_targets.errors import UsageError

MOST_ELEMENTS = 1 << 30
SHAPE = re.compile(r"(?P<name>.+):(?P<dims>[0-9]+(x[0-9]+)*)", re.DOTALL)
"""ONNX names may hold anything, colons too: the last one separates."""


def parse_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """`input_ids:1x128` and the like, by input name. Raises UsageError for anything else."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        match = SHAPE.fullmatch(text)
        if match is None:
            raise UsageError("HPCC2001", f"--shape {text!r} is no NAME:AxB", hint="for example --shape input_ids:1x128")
        dims = tuple(int(d) for d in match["dims"].split("x"))
        if 0 in dims:
            raise UsageError("HPCC2002", f"--shape {text!r} has an empty dimension", hint="sizes start at 1")
        if prod(dims) > MOST_ELEMENTS:
            raise UsageError("HPCC2016", f"--shape {text!r} is larger than any input", hint="dimensions are AxB")
        if shapes.setdefault(match["name"], dims) != dims:
            raise UsageError("HPCC2017", f"--shape gives {match['name']!r} two shapes", hint="give it once")
    return shapes
