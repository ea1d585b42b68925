"""A Ctrl-C where Python ignores exceptions is not lost, and anything else there is still told."""

import argparse
import os
import signal
import time
from collections.abc import Callable

import pytest

from hw_targets.command_line import INTERRUPTED, guarded
from hw_targets.errors import HpccError


class Dying:
    """Python ignores what is raised while an object goes."""

    def __init__(self, last: Callable[[], None]) -> None:
        self.last = last

    def __del__(self) -> None:
        self.last()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)


def fail() -> None:
    raise HpccError("HPCC1900", "made up")


def goes_on_after(last: Callable[[], None]) -> int:
    """The exit status of a command in which an object's last act is `last`, and that then goes on for a while."""

    def command(_: argparse.Namespace) -> None:
        Dying(last)
        time.sleep(2)

    return guarded(argparse.ArgumentParser(), command, [])


def test_an_interrupt_that_python_ignores_comes_again(capfd: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    assert goes_on_after(interrupt) == INTERRUPTED
    assert time.monotonic() - began < 1.5
    assert capfd.readouterr().err == "interrupted\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_ignored_exceptions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: told.append(unraisable.exc_value))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert goes_on_after(fail) == 0
    assert [str(error) for error in told] == ["error: made up [HPCC1900]"]
