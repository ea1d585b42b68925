"""How much memory this process may still take, and the error where that is too little.

It stands in the lowest room because compiler and runtime ask it.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path

from hw_targets.errors import InputError

SHORTER = "a shorter --shape, or a smaller batch"


def available_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take: the least of what the machine has left, what the control groups that hold
    the process allow, and its limit of addresses. None where the system says nothing. `root` is where /proc and /sys are."""
    known = [*_machine(root), *_control_groups(root), *_addresses(root)]
    return max(min(known), 0) if known else None


def require_memory(what: str, needed: int, hint: str = SHORTER) -> None:
    """Raises InputError where `what` takes more bytes than this process may still have. Nothing where nobody knows."""
    available = available_bytes()
    if available is not None and needed > available:
        message = f"{what} takes about {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available"
        raise InputError("HPCC1903", message, hint=hint)


def _machine(root: Path) -> Iterator[int]:
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    if found is not None:
        yield int(found[1]) << 10


def _control_groups(root: Path) -> Iterator[int]:
    """What each group around the process has left, of version 2 and of version 1. Cached files count as free."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if number == "0" and not controllers:
            place, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            place = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts) + 1):
            yield from _group(place.joinpath(*parts[:depth]), *names)


def _group(folder: Path, limit: str, usage: str, cached: str) -> Iterator[int]:
    most, used = _text(folder / limit).strip(), _text(folder / usage).strip()
    if most.isdigit() and used.isdigit():
        files = re.search(rf"^{cached} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
        yield int(most) - int(used) + (int(files[1]) if files else 0)


def _addresses(root: Path) -> Iterator[int]:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    size = _text(root / "proc/self/statm").split()
    if limit != resource.RLIM_INFINITY and size:
        yield limit - int(size[0]) * resource.getpagesize()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
