"""docs/VALIDATION.md by one command: `python -m benchmarks.validation`. Each module makes one section."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from compiler.tools.variants import Prepared, prepare


@cache
def prepared(model: Path, shape: tuple[int, int], pattern: str, streaming: int | None = None) -> Prepared:
    """A model after `quantize`, made once for all sections; `shape` is batch x tokens."""
    return prepare(model, {"input_ids": shape}, pattern, streaming)
