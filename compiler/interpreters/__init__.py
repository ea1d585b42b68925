"""The numpy meaning of every operation up to `quantize`: the golden reference of the later stages."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec


def load_meanings() -> None:
    """Register the meanings of all dialects (idempotent)."""
    for name in ("nn_float", "nn_integer", "nn_attention"):
        if find_spec(f"{__name__}.{name}") is not None:
            import_module(f"{__name__}.{name}")
