"""Runs one command in a forked child with limits, and says what was wrong with what it did.

The child imports nothing that its parent has not imported, so a case costs a fork and the command's own work.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.tools.hpcc import main as hpcc
from compiler.tools.hpcc_opt import main as hpcc_opt
from compiler.tools.hpcc_prune import main as hpcc_prune
from hw_targets.error_catalogue import entries
from runtime.cli import main_objdump, main_run
from tests.fuzz.workshop import Case

PRELOADED = (
    *(f"compiler.tools.{kind}_session" for kind in ("fpga", "cpu", "gpu", "bucket")),
    *("compiler.tools.pruning.session", "compiler.tools.training.run"),
    *("runtime.program", "runtime.buckets", "runtime.cpu.program", "runtime.compare", "runtime.html.report"),
    *("onnxruntime", "onnxscript.optimizer", "tokenizers", "yaml", "safetensors.numpy", "rich.console"),
)
for module in PRELOADED:
    importlib.import_module(module)
TOOLS = {"hpcc": hpcc, "hpcc-opt": hpcc_opt, "hpcc-prune": hpcc_prune, "hpcc-run": main_run, "hpcc-objdump": main_objdump}
CPU_SECONDS, WALL_SECONDS = 60, 300
MEMORY_BYTES = 4 << 30
"""Of addresses, above those that the parent has: far more than any case needs, far less than a machine has."""
RESIDENT_BYTES = 1500 << 20
FILE_BYTES = 256 << 20
LINE = re.compile(r"error: .* \[(HPCC\d{4})\]$")
TALKATIVE = {"--time-passes", "--verify-each"}
"""Options that say on stderr what they found."""
BUGS = {"HPCC1900", "HPCC1432"}
"""Codes that say that hpcc is at fault, not its input."""
KEPT_AFTER_AN_ERROR = ("stages",)
"""The stages that were dumped before the error are what the user asked for."""


@dataclass(frozen=True)
class Outcome:
    """What a run left: the exit status (negative: the signal that ended it), its output, and what is wrong with it."""

    case: Case
    status: int
    out: str
    err: str
    seconds: float
    resident: int
    problems: tuple[str, ...]

    @property
    def code(self) -> str:
        found = LINE.search(self.err.strip())
        return found[1] if found else ""


def run(case: Case, room: Path, files: Path) -> Outcome:
    """Run `case` in room/case, a copy of `files`; nothing but its outputs may change below `room`."""
    shutil.copytree(files.parent, room, symlinks=True)
    temporary = room / "tmp"
    temporary.mkdir()
    before = listing(room)
    out, err = room.with_name(f"{room.name}.out"), room.with_name(f"{room.name}.err")
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_child(case, room / "case", temporary, out, err)
    status, seconds, resident = _wait(child, start)
    texts = [path.read_bytes()[: 1 << 20].decode("utf-8", "replace") for path in (out, err)]
    for path in (out, err):
        path.unlink()
    problems = _judge(case, status, *texts, resident)
    problems += _changes(case, status, before, listing(room))
    return Outcome(case, status, *texts, seconds, resident, tuple(problems))


def _be_the_child(case: Case, folder: Path, temporary: Path, out: Path, err: Path) -> None:
    status = 70
    try:
        os.chdir(folder)
        os.setpgid(0, 0)
        for path, descriptor in ((Path(os.devnull), 0), (out, 1), (err, 2)):
            flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(path, flags, 0o644), descriptor)
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
        size = (
            int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            if Path("/proc").is_dir()
            else 1 << 30
        )
        for limit, value in (
            (resource.RLIMIT_AS, size + MEMORY_BYTES),
            (resource.RLIMIT_CPU, CPU_SECONDS),
            (resource.RLIMIT_FSIZE, FILE_BYTES),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(limit, (value, value))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        streams = [os.fdopen(number, mode, encoding="utf-8", closefd=False) for number, mode in enumerate("rww")]
        sys.stdin, sys.stdout, sys.stderr = streams
        try:
            status = TOOLS[case.tool](list(case.arguments))
        except SystemExit as leave:
            status = leave.code if isinstance(leave.code, int) else 0 if leave.code is None else 1
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status & 0xFF)


def _wait(child: int, start: float) -> tuple[int, float, int]:
    """(exit status or minus the signal, seconds, resident bytes at most); a child past its time is ended."""
    handle = os.pidfd_open(child)
    try:
        if not select.select([handle], [], [], WALL_SECONDS)[0]:
            os.killpg(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
    finally:
        os.close(handle)
    return os.waitstatus_to_exitcode(status), time.monotonic() - start, usage.ru_maxrss * 1024


def _judge(case: Case, status: int, out: str, err: str, resident: int) -> list[str]:
    problems: list[str] = []
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        problems.append(f"hang: more than {CPU_SECONDS} s of work")
    elif status not in range(6):
        problems.append(f"exit status {status}")
    if "Traceback (most recent" in err or "Traceback (most recent" in out:
        problems.append("traceback")
    if resident > RESIDENT_BYTES:
        problems.append(f"memory: {resident >> 20} MB")
    lines = [line for line in err.splitlines() if not line.startswith("note: no --inputs")]
    table = status == 3 and "--check" in case.arguments and bool(out)  # not a target that is itself infeasible
    if status == 0 or table:
        if lines and not TALKATIVE & set(case.arguments):
            problems.append("success, and something on stderr")
    elif status in range(6) and "traceback" not in problems:
        if len(lines) != 1 or not LINE.search(lines[0]):
            problems.append("no single line with a code")
        else:
            code = LINE.search(lines[0])
            assert code is not None
            if code[1] not in entries():
                problems.append(f"{code[1]} is not in the catalogue")
            elif entries()[code[1]].exit_status != status:
                problems.append(f"{code[1]} with exit status {status}")
            if code[1] in BUGS:
                problems.append("a bug of hpcc")
            if len(lines[0]) > 10_000:
                problems.append(f"a line of {len(lines[0])} characters")
    return problems


def listing(room: Path) -> dict[str, str]:
    """What is below `room`: the kind of every entry, the digest of every file."""
    found: dict[str, str] = {}
    for folder, folders, files in os.walk(room):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                found[str(path.relative_to(room))] = f"link {os.readlink(path)}"
            elif path.is_file():
                found[str(path.relative_to(room))] = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
            else:
                found[str(path.relative_to(room))] = "folder"
    return found


def _changes(case: Case, status: int, before: dict[str, str], after: dict[str, str]) -> list[str]:
    allowed = case.outputs if status in (0, 4) else tuple(set(case.outputs) & set(KEPT_AFTER_AN_ERROR))
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return [f"changed {path}" for path in changed if not _below(path, allowed)][:5]


def _below(path: str, outputs: Sequence[str]) -> bool:
    top = Path(path).parts[:2]
    return len(top) == 2 and top[0] == "case" and any(top[1].startswith(name) for name in outputs)


def keep(outcome: Outcome, case_folder: Path, failures: Path, traceback: str) -> Path:
    """Save the files and the command of a failure; returns the folder."""
    place = failures / outcome.case.name
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(case_folder, place, symlinks=True)
    words = " ".join(f"'{word}'" if re.search(r"[^\w./:=-]", word) or not word else word for word in outcome.case.arguments)
    text = (
        f"{outcome.case.tool} {words}\n\nagain: python -m tests.fuzz --case {outcome.case.name}\n"
        f"exit status {outcome.status}, {outcome.seconds:.1f} s, {outcome.resident >> 20} MB\n"
        f"problems: {'; '.join(outcome.problems)}\n\n"
        f"---- stderr\n{outcome.err[-8000:]}\n---- stdout\n{outcome.out[-2000:]}\n"
        f"---- with --debug\n{traceback[-8000:]}\n"
    )
    (place / "FAILURE.txt").write_text(text, encoding="utf-8")
    return place
