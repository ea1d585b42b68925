"""How often Python looks for garbage in cycles."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

SELDOM = (50_000, 20, 100)
"""Objects made before the youngest are looked through, and how many such looks before the older and the oldest are."""


@contextmanager
def seldom_collecting() -> Generator[None]:
    """Look for garbage in cycles seldom meanwhile.

    A compiler's operations refer to each other by the hundred thousand, and nearly all of them live to the end: looking
    through them at Python's own rate finds nothing and takes a fifth of the time.
    """
    before = gc.get_threshold()
    gc.set_threshold(*map(max, before, SELDOM))
    try:
        yield
    finally:
        gc.set_threshold(*before)
