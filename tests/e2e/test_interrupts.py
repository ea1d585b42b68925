"""Ctrl-C and a full disk, at any moment: nothing half written, an older bundle as it was."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compiler.tools import hpcc_opt, stages
from runtime.cli import main_run
from runtime.program import Program
from tests.e2e.harness import TARGET, call, digests, hpcc, python, unchanged
from tests.graphs import Encoder, write

SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50)
STAGES = ("fuse", "sparsify", "quantize", "encode", "tile", "schedule", "emit")


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("older")
    write(SMALL, folder / "model.onnx", 2, 7)
    assert hpcc(folder / "model.onnx", "--target", TARGET, "-q", "-o", folder / "out.hpcc").status == 0
    return folder


@pytest.fixture
def place(older: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and an older bundle, whose temporary files lie in it, too."""
    shutil.copytree(older, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compile_again(*arguments: object) -> Any:
    return hpcc("model.onnx", "--target", TARGET, "--sparsity", "nm:2:4", "-o", "out.hpcc", *arguments)


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def at_stage(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def arrange(patch: pytest.MonkeyPatch) -> None:
        apply = stages.StageRunner._apply

        def late(self: Any, stage: Any, module: Any) -> None:
            if stage.name == name:
                raise KeyboardInterrupt
            apply(self, stage, module)

        patch.setattr(stages.StageRunner, "_apply", late)

    return arrange


def at_write(number: int, error: BaseException) -> Callable[[pytest.MonkeyPatch], None]:
    """As the file of this number is written into the bundle, half of it being there."""

    def arrange(patch: pytest.MonkeyPatch) -> None:
        write_bytes, written = Path.write_bytes, []

        def late(path: Path, data: bytes) -> int:
            written.append(path)
            if len(written) == number:
                write_bytes(path, bytes(data)[: len(data) // 2])
                raise error
            return write_bytes(path, data)

        patch.setattr(Path, "write_bytes", late)

    return arrange


MOMENTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    **{f"stage {name}": at_stage(name) for name in STAGES},
    "first file": at_write(1, KeyboardInterrupt()),
    "second file": at_write(2, KeyboardInterrupt()),
    "simulation": lambda patch: patch.setattr(Program, "run", interrupt),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_run_leaves_nothing(place: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MOMENTS[moment](monkeypatch)
    with unchanged(place):
        done = compile_again()
    assert (done.status, done.err) == (130, "interrupted\n")


def test_other_commands_are_interrupted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Program, "load", interrupt)
    monkeypatch.setattr(hpcc_opt.HpccOptMain, "run", interrupt)
    with unchanged(place):
        assert call(main_run, "out.hpcc", "-o", "out.npz").status == 130
        assert call(hpcc_opt.main, "model.onnx").status == 130


def signalling(patch: pytest.MonkeyPatch, name: str) -> list[Path]:
    """A real signal before each rename by this function of `os`; returns the list of what was renamed."""
    rename, renamed = getattr(os, name), []

    def interrupted(source: Any, target: Any) -> None:
        renamed.append(Path(target))
        os.kill(os.getpid(), signal.SIGINT)
        rename(source, target)

    patch.setattr(os, name, interrupted)
    return renamed


def test_a_bundle_takes_the_place_of_an_older_one_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        renamed = signalling(patch, "rename")
        assert compile_again("--timing-only", "-q").status == 130
    assert [path.name for path in renamed] == ["old0", "out.hpcc"]
    assert Program.load(place / "out.hpcc").manifest.model.pattern == "nm:2:4"
    assert not list(place.glob(".*"))


def test_a_module_and_its_weights_appear_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "m.mlir").write_text("older")
    with monkeypatch.context() as patch:
        renamed = signalling(patch, "replace")
        assert hpcc("model.onnx", "--emit", "linalg", "-q", "-o", "m.mlir").status == 130
    assert [path.name for path in renamed] == ["m.safetensors", "m.mlir"]
    assert "linalg.generic" in (place / "m.mlir").read_text(encoding="utf-8")
    assert not list(place.glob(".*"))


SIGNAL = """
import os, signal, sys, threading
from compiler.tools.hpcc import main
timer = threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), signal.SIGINT))
timer.daemon = True
timer.start()
status = main(sys.argv[2:])
os._exit(status)
"""


@pytest.mark.parametrize("seconds", [0.4, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.05, 1.0))])
def test_a_real_signal(place: Path, seconds: float) -> None:
    """Wherever it comes, the bundle is the older one or the new one, whole."""
    before = digests(place)
    arguments = ("model.onnx", "--target", TARGET, "--sparsity", "nm:2:4", "-q", "-o", "out.hpcc")
    done = python("-c", SIGNAL, seconds, *arguments, folder=place)
    assert done.returncode in (0, 130), done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode == 130:
        assert digests(place) == before


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_full_disk_is_one_line(place: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    at_write(number, OSError(errno.ENOSPC, "No space left on device"))(monkeypatch)
    with unchanged(place):
        done = compile_again()
    assert done.status == 1
    assert "No space left on device" in done.line


LIMITED = """
import resource, signal, sys
from compiler.tools.hpcc import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform != "linux" or resource.getrlimit(resource.RLIMIT_FSIZE)[1] == 0, reason="needs the limit")
@pytest.mark.parametrize("limit", [pytest.param(100, marks=pytest.mark.slow), 6000])
def test_a_file_that_the_system_does_not_let_grow(place: Path, limit: int) -> None:
    arguments = ("model.onnx", "--target", TARGET, "--sparsity", "nm:2:4", "-q", "-o", "out.hpcc")
    with unchanged(place):
        done = python("-B", "-c", LIMITED, limit, *arguments, folder=place)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "File too large" in done.stderr
