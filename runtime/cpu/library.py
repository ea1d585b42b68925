"""The C library of a compiled model through ctypes: its memory, its weights, one call for each run.

The interface is that of model.h; the sizes of tensors are checked there, and an error code becomes an InputError here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_targets.errors import InputError

AnyArray = NDArray[Any]
ALIGNMENT = 64
MAX_THREADS = 64


class _Tensor(ctypes.Structure):
    """hpcc_input and hpcc_output: a pointer and the bytes behind it."""

    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t)]


def _tensors(arrays: Sequence[AnyArray]) -> Any:
    return (_Tensor * len(arrays))(*(_Tensor(array.ctypes.data, array.nbytes) for array in arrays))


class Library:
    """One loaded model. `weights` stay mapped, `threads` workers wait for runs until `close`.

    Raises InputError for a library that cannot be loaded or does not fit the weights.
    """

    def __init__(self, path: Path, weights: NDArray[np.uint8], threads: int) -> None:
        self._where = str(path)
        self._model = ctypes.c_void_p()
        try:
            self._library: Any = ctypes.CDLL(str(path.resolve()))
            self._library.hpcc_memory_bytes.restype = ctypes.c_size_t
            self._library.hpcc_error.restype = ctypes.c_char_p
            self._library.hpcc_destroy.restype = None
            self._library.hpcc_profile.restype = None
        except (OSError, AttributeError) as error:
            raise InputError("HPCC1262", f"cannot load the library: {error}", where=self._where) from error
        size = int(self._library.hpcc_memory_bytes(threads))
        self._memory = _aligned(size)
        self._weights = weights
        status = self._library.hpcc_create(
            ctypes.byref(self._model),
            ctypes.c_void_p(self._memory.ctypes.data),
            ctypes.c_size_t(size),
            ctypes.c_void_p(weights.ctypes.data),
            ctypes.c_size_t(weights.size),
            threads,
        )
        self._raise(status)

    @property
    def memory_bytes(self) -> int:
        return self._memory.size

    def run(self, batch: int, tokens: int, inputs: Sequence[AnyArray], outputs: Sequence[AnyArray]) -> None:
        """Compute `outputs` in place; all arrays packed, in the library's order. Raises InputError for what it refuses."""
        status = self._library.hpcc_run(
            self._model, batch, tokens, _tensors(inputs), len(inputs), _tensors(outputs), len(outputs)
        )
        self._raise(status)

    def profile(self, seconds: NDArray[np.float64] | None) -> None:
        """Add the seconds of each step to `seconds` from now on; None ends that."""
        self._library.hpcc_profile(self._model, ctypes.c_void_p(None if seconds is None else seconds.ctypes.data))

    def close(self) -> None:
        """End the threads. The library itself stays loaded."""
        if self._model:
            self._library.hpcc_destroy(self._model)
            self._model = ctypes.c_void_p()

    def __del__(self) -> None:
        if hasattr(self, "_library"):
            self.close()

    def _raise(self, status: int) -> None:
        if status:
            name = self._library.hpcc_error(status).decode()
            raise InputError("HPCC1263", f"the library refuses: {name}", where=self._where)


def _aligned(size: int) -> NDArray[np.uint8]:
    whole = np.zeros(size + ALIGNMENT, np.uint8)
    start = -whole.ctypes.data % ALIGNMENT
    return whole[start : start + size]
