"""One engine in a process of its own, driven by lines: `python peers.py ENGINE MODEL THREADS INPUTS.npz`.

It loads the model, prints "ready NAME VERSION", and for every line on stdin runs once and prints the milliseconds. It
imports its engine and numpy only, so that an engine may live in a virtual environment of its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Inputs = Mapping[str, Any]


def hpcc(model: str, threads: int, inputs: Inputs) -> tuple[str, Callable[[], Any]]:
    from importlib.metadata import version

    from runtime.cpu.program import CpuProgram

    program = CpuProgram.load(model, threads)
    return version("hpcc"), lambda: program.run(inputs)


def onnxruntime(model: str, threads: int, inputs: Inputs) -> tuple[str, Callable[[], Any]]:
    import onnxruntime as engine

    runtime: Any = engine
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = {entry.name for entry in session.get_inputs()}
    feed = {name: array for name, array in inputs.items() if name in names}
    return runtime.__version__, lambda: session.run(None, feed)


def openvino(model: str, threads: int, inputs: Inputs) -> tuple[str, Callable[[], Any]]:
    from importlib import import_module

    engine: Any = import_module("openvino")
    core = engine.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()
    return engine.__version__, lambda: request.infer(dict(inputs))


def deepsparse(model: str, threads: int, inputs: Inputs) -> tuple[str, Callable[[], Any]]:
    from importlib import import_module

    package: Any = import_module("deepsparse")
    engine = package.Engine(model=model, batch_size=len(next(iter(inputs.values()))), num_cores=threads)
    arrays = [np.ascontiguousarray(inputs[name]) for name in engine.input_names]
    return package.__version__, lambda: engine.run(arrays)


ENGINES = {"hpcc": hpcc, "onnxruntime": onnxruntime, "openvino": openvino, "deepsparse": deepsparse}


def main() -> None:
    engine, model, threads, inputs = sys.argv[1:]
    with np.load(inputs, allow_pickle=False) as archive:
        version, run = ENGINES[engine](model, int(threads), {name: archive[name] for name in archive.files})
    run()
    print(f"ready {engine} {version}", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        run()
        print(1e3 * (time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main()
