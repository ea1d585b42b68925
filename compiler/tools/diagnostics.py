"""Turns exceptions into the one line and the exit status that a user gets."""

from __future__ import annotations

import re
import sys

from xdsl.utils.exceptions import ParseError

from hw_targets.errors import HpccError, InputError


def line_of(error: BaseException) -> str:
    """The one line that describes an error."""
    if isinstance(error, HpccError):
        return str(error)
    if isinstance(error, ParseError):
        return str(syntax_error(error))
    return str(InputError("HPCC1022", _first_line(error)))


def syntax_error(error: BaseException, file: str = "") -> InputError:
    """The error of MLIR text that xDSL cannot parse or that breaks an op's own rules."""
    if not isinstance(error, ParseError):
        return InputError("HPCC1021", _first_line(error), where=file)
    location = error.span.get_location()
    return InputError("HPCC1021", error.msg.splitlines()[0], where=f"{location.file}:{location.line}:{location.col}")


def module_error(error: Exception, file: str) -> InputError:
    """The error of a module that was given as text and that a stage stumbles over: all that the verifiers let through and
    that hpcc itself would not have written."""
    hint = "use a file of --dump-stages as it was written; if this is one, it is a bug of hpcc, and --debug shows where"
    message = f"hpcc cannot go on with this module: {type(error).__name__}: {_first_line(error)}"
    return InputError("HPCC1441", message, where=file, hint=hint)


TOKEN = re.compile(
    r'//[^\n]*|"(?:[^"\\\n\v\f]|\\(?:["nt\\]|[0-9A-Fa-f]{2}))*(?P<end>"?)|(?<![\w%@^#!.$])[su]?i(?P<bits>\d{8,})\b'
)
"""A comment; a string as MLIR writes it, with its closing quote if nothing else comes before that; a wide integer type."""

MOST_BITS = (1 << 24) - 1
"""Of an integer type, as in MLIR."""


def check_text(text: str, file: str) -> None:
    """Raises InputError for what xDSL would parse for exponential time, a string without an end or with an escape that is
    none, or in memory without end, an integer of billions of bits."""
    for match in TOKEN.finditer(text):
        if match["bits"]:
            if len(match["bits"]) < 9 and int(match["bits"]) <= MOST_BITS:
                continue
            message = f"{match[0][:20]} is no type: an integer has {MOST_BITS:,} bits at most"
        elif match[0][0] != '"' or match["end"]:
            continue
        elif text.startswith("\\", match.end()):
            message = f"a string has the escape {text[match.end() :][:3]!r}, which is none"
        else:
            message = "a string has no end"
        line = text.count("\n", 0, match.start()) + 1
        column = match.start() - text.rfind("\n", 0, match.start())
        raise InputError("HPCC1025", message, where=f"{file}:{line}:{column}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def report(error: BaseException) -> int:
    """Print the line on stderr and return the exit status."""
    print(line_of(error), file=sys.stderr)
    return error.exit_status if isinstance(error, HpccError) else 1
