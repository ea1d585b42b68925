"""Figures as people read them: bytes, counts, milliseconds, shares. One spelling for the terminal and for pages."""

from __future__ import annotations


def size_text(count: int) -> str:
    """Bytes in decimal units: `46.8 kB`."""
    for unit, scale in (("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)):
        if abs(count) >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def count_text(count: float) -> str:
    """A large count in three or four digits: `1.2 G`."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(count) >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.3g}"


def ms_text(ms: float) -> str:
    """Milliseconds with three digits that count, whatever their size."""
    return f"{ms:.3f}" if abs(ms) < 100 else f"{ms:,.1f}"


def error_text(error: float) -> str:
    """An error: four decimals, or its power of ten where these would be nothing."""
    return f"{error:.4f}" if error >= 1e-4 or error == 0 else f"{error:.1e}"


def ratio_text(ratio: float | None) -> str:
    """`1.64x`, or nothing where there is none."""
    return "" if ratio is None else f"{ratio:.2f}x"


def share_text(share: float) -> str:
    """A share in per cent, with decimals only where it would be nothing otherwise."""
    return f"{share:.0%}" if share >= 0.1 or share == 0 else f"{share:.1%}" if share >= 0.001 else f"{share:.2%}"
