"""Host segments: the parts of a model that ONNX Runtime executes, timed, never hidden."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_targets.errors import InputError, MissingToolError
from runtime.manifest import HostEntry

AnyArray = NDArray[Any]


def import_onnxruntime() -> Any:
    """The package onnxruntime, loaded here alone. Raises ImportError.

    Since 1.32 it writes an identifier of the machine below ~/.cache and reports its sessions, unless this variable,
    which it reads as it is loaded, forbids it: compiling a model must write nothing else and tell nobody.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


class HostSegment:
    """One ONNX model with its session. Raises MissingToolError without onnxruntime, InputError for a bad model."""

    def __init__(self, entry: HostEntry, model: bytes, threads: int = 0) -> None:
        try:
            runtime = import_onnxruntime()
        except ImportError as error:
            message = f"{entry.file} runs on the host and needs onnxruntime, which is not installed"
            raise MissingToolError("HPCC5201", message, hint="pip install onnxruntime") from error
        options: Any = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what goes wrong comes as an exception
        # Waiting threads would take the processors from what runs between host segments.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.entry = entry
        try:
            self._session: Any = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise InputError("HPCC1246", f"onnxruntime cannot load it: {error}", where=entry.file) from error

    def run(self, values: Mapping[str, AnyArray]) -> tuple[dict[str, AnyArray], float]:
        """(outputs by name, seconds)."""
        feed = {name: np.ascontiguousarray(values[name]) for name in self.entry.inputs}
        start = time.perf_counter()
        try:
            results: Any = self._session.run(list(self.entry.outputs), feed)
        except Exception as error:  # as above
            raise InputError("HPCC1247", f"onnxruntime failed: {error}", where=self.entry.file) from error
        taken = time.perf_counter() - start
        made: dict[str, Any] = dict(zip(self.entry.outputs, results, strict=True))
        for name, value in made.items():  # a sequence or a map is a list or a dict
            if getattr(getattr(value, "dtype", None), "kind", "") not in ("b", "i", "u", "f"):
                raise InputError("HPCC1248", f"output {name!r} is no tensor of numbers", where=self.entry.file)
        return made, taken
