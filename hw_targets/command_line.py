"""What all our commands share: argparse with one-line errors, and one line for a fault of our own."""

from __future__ import annotations

import argparse
from typing import NoReturn

from hw_targets.errors import HpccError, InputError, UsageError


class Parser(argparse.ArgumentParser):
    """argparse whose errors are UsageErrors, so that they are one line with a code."""

    def error(self, message: str) -> NoReturn:
        raise UsageError("HPCC2000", message, hint=f"{self.prog} --help")


def internal_error(error: BaseException) -> HpccError:
    """The line for an exception that no user should ever see, and for what the system refuses where nobody expected it."""
    if isinstance(error, OSError) and error.strerror:
        return InputError("HPCC1901", error.strerror.lower(), where=str(error.filename or ""))
    if isinstance(error, MemoryError):
        return InputError("HPCC1902", "this needs more memory than the machine has")
    lines = str(error).strip().splitlines() or ["no message"]
    message = f"internal error: {type(error).__name__}: {lines[0]}"
    return HpccError("HPCC1900", message, hint="this is a bug of hpcc; --debug shows where")
