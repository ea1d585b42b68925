"""Ctrl-C at moments when files change places, and at those when Python forgets it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def uninterrupted() -> Generator[None]:
    """Ctrl-C waits for the end of the block, which has to be short: some renames that belong together."""
    if threading.current_thread() is not threading.main_thread():  # Python interrupts no other
        yield
        return
    waiting: list[FrameType | None] = []
    handler = signal.signal(signal.SIGINT, lambda _, frame: waiting.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if handler is None else handler)
        if waiting and callable(handler):
            handler(signal.SIGINT, waiting[0])


AGAIN_AFTER = 0.02
"""Seconds after which a forgotten interrupt comes again: what Python ignored it in is over by then."""


@contextmanager
def remembered() -> Generator[None]:
    """A Ctrl-C that comes where Python ignores every exception, as in a callback of a library, comes again a moment later
    instead of ending as a traceback on stderr."""
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            again = threading.Timer(AGAIN_AFTER, os.kill, (os.getpid(), signal.SIGINT))
            again.daemon = True
            again.start()
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
