"""The errors a user may see: one line saying where, what and what to do, with a stable code and an exit status.

It stands in the lowest room because every other room raises these; it knows nothing about them.

A new error takes the next free code of its area and an entry in errors.toml, which says how: docs/ERRORS.md and
`hpcc --explain` are made from there. The code stands as a literal where it is raised, so that a search finds the place.
"""

from __future__ import annotations

from typing import ClassVar


class HpccError(Exception):
    """A user-facing error.

    `where` names the file, the node or the line (it may be empty), `hint` says what to do next. The printed form is
    `where: error: message [code]` followed by `hint: ...` on the same line, so that one error is one line.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, code: str, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        prefix = f"{self.where}: " if self.where else ""
        suffix = f" ({self.hint})" if self.hint else ""
        return " ".join(f"{prefix}error: {self.message}{suffix} [{self.code}]".split())


class InputError(HpccError):
    """The content of a file, or the compilation of it, is at fault."""

    exit_status = 1


class UsageError(HpccError):
    """The command line is at fault: an unknown flag, target or pattern, an impossible specification."""

    exit_status = 2


class InfeasibleError(HpccError):
    """The model does not fit this target; the message says by how much."""

    exit_status = 3


class VerificationError(HpccError):
    """The compiled program does not compute what the reference computes."""

    exit_status = 4


class MissingToolError(HpccError):
    """A tool or an optional package is not installed."""

    exit_status = 5
