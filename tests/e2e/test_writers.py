"""Where results go: two writers at once, an older file while the new one is not whole, a place that takes nothing."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import workloads
from compiler.tools import session
from hw_targets.errors import InputError
from runtime.bundle import Room, load_bundle
from runtime.cli import main_run
from tests.e2e.error_shelf import COMPILE, expect
from tests.e2e.harness import ROOT, call, hpcc, unchanged


def test_two_runs_into_one_folder_one_after_the_other(place: Path) -> None:
    for pattern in ("dense", "nm:2:4"):
        assert hpcc(*COMPILE, "--sparsity", pattern, "-q", "--timing-only", "-o", "older.hpcc").status == 0
    assert load_bundle(place / "older.hpcc").manifest.model.pattern == "nm:2:4"


def test_two_writers_at_once_leave_one_whole_bundle(place: Path) -> None:
    """Two processes replace one bundle again and again, a third one reads: whole or, for a moment, not there."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom runtime.bundle import load_bundle, save_bundle\n"
        "bundle = load_bundle(Path(sys.argv[1]))\n"
        "for number in range(60):\n"
        "    save_bundle(bundle, Path('shared.hpcc'), {'run.json': sys.argv[2] * 1000})\n"
    )
    shutil.copytree(place / "older.hpcc", place / "shared.hpcc")
    before, seen = {path.name for path in place.iterdir()}, {"whole"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "older.hpcc"]
    writers = [subprocess.Popen([*command, name], env=environment, stderr=subprocess.PIPE, text=True) for name in "ab"]
    while any(writer.poll() is None for writer in writers):
        seen.add(reading(place / "shared.hpcc"))
    for writer in writers:
        assert writer.communicate()[1] == ""
        assert writer.returncode == 0
    assert reading(place / "shared.hpcc") == "whole"
    assert seen <= {"whole", "HPCC1244", "HPCC1245", "HPCC1249"}, "or not there, or taken away while it was read"
    assert set((place / "shared.hpcc" / "run.json").read_text()) in ({"a"}, {"b"})
    assert {path.name for path in place.iterdir()} == before, "nothing is left over"


def test_a_bundle_that_another_writer_takes_away_is_not_mistaken(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking for the folder and for its manifest another writer puts its own bundle there."""
    shutil.copytree(place / "older.hpcc", place / "theirs.hpcc")
    look, looks = Path.is_file, []

    def late(path: Path) -> bool:
        looks.append(path)
        if len(looks) > 1:
            return look(path)
        os.rename(place / "older.hpcc", place / "taken.hpcc")
        found = look(path)
        os.rename(place / "theirs.hpcc", place / "older.hpcc")
        return found

    monkeypatch.setattr(Path, "is_file", late)
    with Room(place / "older.hpcc"):
        pass
    assert len(looks) == 2
    (place / "older.hpcc" / "manifest.json").unlink()
    with pytest.raises(InputError, match="no bundle"):
        Room(place / "older.hpcc")


def reading(bundle: Path) -> str:
    try:
        load_bundle(bundle)
    except InputError as error:
        return error.code
    return "whole"


def test_an_older_file_of_outputs_stays_until_the_new_one_is_whole(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "out.npz").write_bytes(b"older")

    def full(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with unchanged(place):
        done = call(main_run, "older.hpcc", "--inputs", "good.npz", "-o", "out.npz")
    assert (done.status, done.line) == (1, "out.npz: error: cannot write: No space left on device [HPCC1261]")


@pytest.mark.parametrize("kind", ["l3", "l6", "tokenizer"])
def test_a_cache_that_cannot_be_written(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("precious\n", encoding="utf-8")
    for name in ("HPCC_L3", "HPCC_L6"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HPCC_CACHE", str(tmp_path / "occupied" / "cache"))
    done = call(workloads.main, kind)
    expect(done, "cache below a file", tmp_path)


def test_an_unwritable_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_writable", lambda folder: False)
    with unchanged(place.parent):
        done = hpcc(*COMPILE, "-o", "a folder/out.hpcc")
    assert done.status == 1
    assert re.fullmatch(r".*/a folder: error: cannot write there \(-o DIR\) \[HPCC1702\]", done.line)
