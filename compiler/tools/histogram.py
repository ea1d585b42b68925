"""How often inputs of each length come: `--length-histogram FILE`, from .npz, .json or .csv."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hw_targets.errors import InputError

FORMS = "an .npz with arrays length and count, a .json object of counts by length, or a .csv with lines length,count"


@dataclass(frozen=True)
class Histogram:
    """Counts by length, as read; `source` is the file's name."""

    source: str
    counts: tuple[tuple[int, int], ...]

    @property
    def total(self) -> int:
        return sum(count for _, count in self.counts)

    def between(self, low: int, high: int) -> int:
        """Inputs longer than `low` and at most `high` long."""
        return sum(count for length, count in self.counts if low < length <= high)


def read_histogram(path: Path) -> Histogram:
    """The histogram of a file. Raises InputError for one that does not read, or holds no count."""
    try:
        pairs = list(_pairs(path))
    except OSError as error:
        raise InputError("HPCC1520", f"cannot read the histogram: {error.strerror}", where=str(path)) from error
    except Exception as error:  # zipfile, csv and json have errors of their own for damaged files
        raise InputError("HPCC1521", f"this is no histogram: {error}", where=str(path), hint=FORMS) from error
    counts: Counter[int] = Counter()
    for length, count in pairs:
        if length < 1 or count < 0:
            raise InputError("HPCC1521", f"a length of {length} with a count of {count}", where=str(path), hint=FORMS)
        counts[length] += count
    if not sum(counts.values()):
        raise InputError("HPCC1521", "the histogram counts nothing", where=str(path), hint=FORMS)
    return Histogram(path.name, tuple(sorted(counts.items())))


def _pairs(path: Path) -> Iterable[tuple[int, int]]:
    match path.suffix:
        case ".npz":
            with np.load(path, allow_pickle=False) as data:
                return [(int(a), int(b)) for a, b in zip(data["length"], data["count"], strict=True)]
        case ".json":
            document: Any = json.loads(path.read_text(encoding="utf-8"))
            pairs: Any = document.items() if isinstance(document, dict) else document
            return [(int(length), int(count)) for length, count in pairs]
        case ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.reader(file) if row]
            body = rows[1:] if rows and not rows[0][0].strip().isdigit() else rows
            return [(int(length), int(count)) for length, count in body]
        case _:
            raise ValueError(f"{path.suffix or 'no suffix'} is none of .npz, .json and .csv")
