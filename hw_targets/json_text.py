"""JSON whose numbers can be counted with."""

from __future__ import annotations

import json
import math
from typing import Any

MOST = 1 << 63
"""Numbers of files are counts, bytes, cycles and times: larger ones are damage."""


def parse_json(text: str) -> Any:
    """What a JSON text says. Raises ValueError where it is none, also for NaN, infinity and whole numbers of 2^63 and more,
    which Python would read."""
    return json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_small)


def _refuse(text: str) -> None:
    raise ValueError(f"{text[:30]} is no number to count with")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _refuse(text)
    return value


def _small(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= MOST:
        _refuse(text)
    return int(text)
