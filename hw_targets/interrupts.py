"""Ctrl-C at moments when files change places."""

from __future__ import annotations

import signal
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
