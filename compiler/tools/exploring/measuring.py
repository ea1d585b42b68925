"""The hardware side of candidates on CPUs: built, and run in a process of its own. One at a time, so that none disturbs
another: never on workers."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from compiler.explore.selection import Hardware
from compiler.explore.space import Algorithm
from compiler.passes.sparsify import RECIPE
from compiler.tools.exploring.bench import SAMPLES
from compiler.tools.exploring.models import Shapes, timing_spec
from compiler.tools.options import Options
from compiler.tools.session import open_session
from hw_targets.cpu import CPU_INFO, CpuTarget
from hw_targets.errors import HpccError, InputError
from hw_targets.load import load_any_target
from runtime.bundle import WEIGHTS
from runtime.cpu.program import available_threads
from runtime.cpu.stopwatch import Latency

LIMIT_S = 600


def this_machine() -> dict[str, str]:
    """What a measurement holds for: the processor, and how many of them this process may use."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", CPU_INFO.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    return {"processor": found[1] if found else platform.processor(), "threads": str(available_threads())}


def measure_on(model: Path, shapes: Shapes, algorithm: Algorithm, device: str, data: Path) -> Hardware:
    """Build the model with the algorithm's zeros, by magnitude, for a CPU and run it. Which weights are zero makes no
    difference to the time of balanced patterns."""
    target = load_any_target(device)
    assert isinstance(target, CpuTarget)
    if not target.runs_here():
        return Hardware(problem=f"it is measured, and this machine does not have {target.isa}", measured=True)
    spec = timing_spec(algorithm, data)
    with tempfile.TemporaryDirectory(prefix="hpcc-") as folder:
        bundle = Path(folder) / "model.hpcc"
        try:
            build(model, shapes, spec, device, bundle)
            return measured(bundle, data)
        except HpccError as error:
            return Hardware(problem=str(error), measured=True)


def build(model: Path, shapes: Shapes, spec: str | None, device: str, bundle: Path) -> None:
    """Write the bundle; it is not run. `spec` is a pattern, a recipe, or None for the weights as they are."""
    recipe = spec.removeprefix(RECIPE) if spec is not None and spec.startswith(RECIPE) else None
    options = Options(
        model=str(model),
        target=device,
        shapes=dict(shapes),
        sparsity=None if recipe is not None else spec,
        recipe=recipe,
        output=str(bundle),
        emit="program",
        quiet=True,
    )
    open_session(options).compile()


def measured(bundle: Path, data: Path) -> Hardware:
    """The latency of a bundle on this machine: the median of runs in a process of its own. Raises InputError."""
    command = [sys.executable, "-m", "runtime.cpu.stopwatch", str(bundle), str(data / SAMPLES)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise InputError("HPCC1586", f"the program was not done after {LIMIT_S} s", where=str(bundle)) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise InputError("HPCC1586", f"the program cannot be timed: {lines[-1]}", where=str(bundle))
    found = Latency(**json.loads(done.stdout))
    return Hardware(
        accelerator_ms=found.batch_ms - found.host_ms,
        host_ms=found.host_ms,
        bytes=(bundle / WEIGHTS).stat().st_size,
        measured=True,
        spread_ms=found.spread_ms,
    )
