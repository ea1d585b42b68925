"""Parsing of command-line values that several tools share. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import prod

from hw_targets.errors import UsageError

MOST_ELEMENTS = 1 << 30
MOST_BUCKETS = 64
CHOICES = re.compile(r"\{(?P<choices>[^{}]*)\}")
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


def _choice(text: str, number: int) -> str:
    """The text with one choice in place of each pair of braces."""
    return CHOICES.sub(lambda match: match["choices"].split(",")[number].strip(), text)


def parse_buckets(texts: Sequence[str]) -> list[dict[str, tuple[int, ...]]]:
    """The shapes of all buckets that `input_ids:1x{16,64,128}` and the like name, smallest first; one without braces.

    Several braces go together: the first choice of each, then the second. Raises UsageError for anything else.
    """
    choices = [match["choices"].split(",") for text in texts for match in CHOICES.finditer(text)]
    counts = {len(found) for found in choices} or {1}
    if len(counts) > 1:
        hint = "write as many sizes in each pair of braces; they go together"
        raise UsageError("HPCC2029", f"--shape names {' and '.join(map(str, sorted(counts)))} sizes", hint=hint)
    count = counts.pop()
    if count > MOST_BUCKETS:
        raise UsageError("HPCC2030", f"--shape names {count} buckets", hint=f"at most {MOST_BUCKETS}")
    buckets = [parse_shapes(_choice(text, number) for text in texts) for number in range(count)]
    return sorted(buckets, key=lambda shapes: sum(prod(shape) for shape in shapes.values()))
