"""Turns exceptions into the one line and the exit status that a user gets."""

from __future__ import annotations

import sys

from xdsl.utils.exceptions import ParseError

from hw_targets.errors import HpccError


def line_of(error: BaseException) -> str:
    """The one line that describes an error."""
    if isinstance(error, HpccError):
        return str(error)
    if isinstance(error, ParseError):
        location = error.span.get_location()
        return f"{location.file}:{location.line}:{location.col}: error: {error.msg} [HPCC1003]"
    text = str(error).strip().splitlines() or [type(error).__name__]
    return f"error: {text[0]} [HPCC1004]"


def report(error: BaseException) -> int:
    """Print the line on stderr and return the exit status."""
    print(line_of(error), file=sys.stderr)
    return error.exit_status if isinstance(error, HpccError) else 1
