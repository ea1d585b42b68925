"""Run a command and measure it: wall-clock time, peak memory, what it printed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """Wall-clock seconds, peak memory, exit status and stdout of one command."""

    seconds: float
    peak_mb: float
    status: int = 0
    output: str = ""


def run(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, allowed: Collection[int] = (0,)
) -> Measured:
    """Run a command once. Raises CalledProcessError, with its stderr shown, if its status is none of `allowed`."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=errors, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in allowed:
            errors.seek(0)
            sys.stderr.write(errors.read().decode(errors="replace"))
            raise subprocess.CalledProcessError(process.returncode, list(command))
        said.seek(0)
        output = said.read().decode(errors="replace")
    per_mb = 1 << 20 if sys.platform == "darwin" else 1 << 10  # ru_maxrss is in bytes there, in KiB elsewhere
    return Measured(seconds, usage.ru_maxrss / per_mb, process.returncode, output)
