"""What all our commands share: argparse with one-line errors, exit statuses, and one line for a fault of our own."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from hw_targets.collection import seldom_collecting
from hw_targets.errors import HpccError, InputError, UsageError
from hw_targets.interrupts import remembered


class Parser(argparse.ArgumentParser):
    """argparse whose errors are UsageErrors, so that they are one line with a code."""

    def error(self, message: str) -> NoReturn:
        raise UsageError("HPCC2000", message, hint=f"{self.prog} --help")


class OneMore(argparse.Action):
    """An option that may come more than once: a tuple of what was given, empty by default."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), values))


INTERRUPTED = 130


def guarded(
    parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None
) -> int:
    """Parse `argv` (None: the process's own) and run `command`: the exit status.

    A user's error is one line on stderr, whatever libraries have to say beside it; with --debug it is raised, for its
    traceback, and their warnings are shown.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        with warnings.catch_warnings(), seldom_collecting(), remembered():
            if not debug:
                warnings.simplefilter("ignore")
            status = command(parser.parse_args(arguments))
        sys.stdout.flush()
    except HpccError as error:
        if debug:
            raise
        print(error, file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough; keep the interpreter from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        print(internal_error(error), file=sys.stderr)
        return HpccError.exit_status
    return status or 0


def internal_error(error: BaseException) -> HpccError:
    """The line for an exception that no user should ever see, and for what the system refuses where nobody expected it."""
    if isinstance(error, OSError) and error.strerror:
        return InputError("HPCC1901", error.strerror.lower(), where=str(error.filename or ""))
    if isinstance(error, MemoryError):
        return InputError("HPCC1902", "this needs more memory than the machine has")
    lines = str(error).strip().splitlines() or ["no message"]
    message = f"internal error: {type(error).__name__}: {lines[0]}"
    return HpccError("HPCC1900", message, hint="this is a bug of hpcc; --debug shows where")
