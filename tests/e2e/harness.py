"""Runs of the command line inside the test's own process: arguments in, exit status and texts out."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.tools.hpcc import main
from hw_targets.errors import InputError
from runtime.bundle import MANIFEST, digest
from runtime.manifest import parse_manifest

ROOT = Path(__file__).parent.parent.parent
SENTENCES = ROOT / "examples" / "sentences.txt"
TARGET = "fpga-u280"


@dataclass(frozen=True)
class Done:
    """What a command left: exit status, stdout, stderr."""

    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on stderr; asserts that it is exactly one and no traceback."""
        assert self.err.endswith("\n"), self.err
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err.rstrip("\n")


def call(command: Any, *arguments: object) -> Done:
    """Run an entry point such as `main` with arguments; argparse's SystemExit counts as an exit status."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = command([str(argument) for argument in arguments])
        except SystemExit as leave:
            status = leave.code if isinstance(leave.code, int) else 1
    return Done(int(status), out.getvalue(), err.getvalue())


def hpcc(*arguments: object) -> Done:
    return call(main, *arguments)


def compiled(folder: Path, model: Path, *arguments: object) -> Path:
    """Compile `model` for the default target into folder/out.hpcc; asserts success."""
    done = hpcc(model, "--target", TARGET, "-o", folder / "out.hpcc", *arguments)
    assert (done.status, done.err) == (0, "")
    return folder / "out.hpcc"


def python(*arguments: object, seed: int | None = None, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A new interpreter that imports this checkout, with its own PYTHONHASHSEED."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if seed is not None:
        environment["PYTHONHASHSEED"] = str(seed)
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, cwd=folder, check=False
    )


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def digests(folder: Path, *, without: Sequence[str] = ()) -> Mapping[str, str]:
    """sha256 of every file below `folder`, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in without
    }


def resign(bundle: Path) -> None:
    """Make the digests of a bundle those of its files as they are now, as far as its manifest still reads."""
    if not (bundle / MANIFEST).is_file():  # it may be a link to /dev/zero, which has no end
        return
    try:
        manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
        for name in manifest["digests"]:
            if (bundle / name).is_file():
                manifest["digests"][name] = digest((bundle / name).read_bytes())
        whole = parse_manifest(json.dumps({**manifest, "digest": ""}), MANIFEST)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, InputError):
        return
    text = json.dumps({**manifest, "digest": digest(whole.text().encode())})
    (bundle / MANIFEST).write_text(text, encoding="utf-8")


@contextlib.contextmanager
def unchanged(*folders: Path) -> Iterator[None]:
    """Asserts that nothing below the folders was made, changed or removed (permissions of folders aside)."""
    before = [_listing(folder) for folder in folders]
    yield
    assert [_listing(folder) for folder in folders] == before


def _listing(folder: Path) -> tuple[list[str], Mapping[str, str]]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")), digests(folder)
