"""From model.c to a shared library with the C compiler of this machine: `cc`, else the one of the `ziglang` wheel."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hw_targets.cpu import Isa
from hw_targets.errors import InputError, MissingToolError

FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-Wall", "-Wextra", "-fPIC", "-shared", "-pthread")
"""fp-contract: a product and a sum become one rounding, which twice the speed rests on."""


@dataclass(frozen=True)
class CCompiler:
    """A command that takes C, its name and version for the record, and its flags for the instruction set."""

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...]


def find_compiler(isa: Isa) -> CCompiler:
    """The C compiler for an instruction set. Raises MissingToolError if there is none."""
    native = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine()) == isa.machine
    cc = shutil.which("cc")
    if native and cc is not None:
        return CCompiler((cc,), _version((cc,)), (*FLAGS, *isa.flags))
    if importlib.util.find_spec("ziglang") is not None:
        zig = (sys.executable, "-m", "ziglang")
        flags = (*FLAGS, "-g0", "-target", isa.zig_target, *isa.zig_flags)
        return CCompiler((*zig, "cc"), f"zig {_version((*zig,), 'version')}", flags)
    if native:
        what, hint = "no C compiler `cc` was found", "install gcc or clang, or pip install 'hpcc[cc]'"
    else:  # this machine's own compiler would not do
        what, hint = f"a compiler for {isa.machine} is needed on this {platform.machine()}", "pip install 'hpcc[cc]'"
    raise MissingToolError("HPCC5104", what, hint=f"{hint}; --emit c needs none")


def _version(command: Sequence[str], option: str = "--version") -> str:
    done = subprocess.run([*command, option], capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ["unknown"])[0].strip()


def build_library(source: Path, library: Path, compiler: CCompiler) -> None:
    """Build `library`. Raises InputError with the compiler's first message if that fails."""
    # In the source's folder and by bare names, so that no path of this machine gets into the library.
    command = [*compiler.command, *compiler.flags, source.name, "-o", library.name, "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=source.parent)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no message"]
        raise InputError("HPCC1435", f"the C compiler failed: {lines[0].strip()}", where=source.name)
