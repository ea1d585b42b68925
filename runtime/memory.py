"""How much memory this process has had."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_rss_mb(status: Path = STATUS) -> float:
    """Peak memory of this process in MB. ru_maxrss survives fork and exec, so that it may be the peak of the process that
    started this one; what Linux says of the memory map itself is not."""
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) / 1024
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
