"""One engine in a process of its own, driven by lines: `python peers.py ENGINE MODEL THREADS INPUTS.npz`.

It loads the model, prints "ready NAME VERSION SECONDS" (what loading took, an engine's own compilation included), and for
every line on stdin runs once and prints the milliseconds and the most memory it has taken, in MB. It imports its engine
and numpy only, so that an engine may live in a virtual environment of its own.
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


def openvino_int8(model: str, threads: int, inputs: Inputs) -> tuple[str, Callable[[], Any]]:
    """Quantised after training by NNCF, calibrated on the inputs of the run."""
    from importlib import import_module

    engine, tools = import_module("openvino"), import_module("nncf")
    original: Any = engine.Core().read_model(model)
    names = {name for entry in original.inputs for name in entry.names}
    rows = len(next(iter(inputs.values())))
    feed = {name: array for name, array in inputs.items() if name in names}
    original.reshape({name: array.shape for name, array in feed.items()})
    quantised = tools.quantize(original, tools.Dataset([feed]), model_type=tools.ModelType.TRANSFORMER, subset_size=rows)
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = engine.Core().compile_model(quantised, "CPU", settings).create_infer_request()
    return f"{engine.__version__.split('-')[0]}+nncf{tools.__version__}", lambda: request.infer(feed)


def deepsparse(model: str, threads: int, inputs: Inputs) -> tuple[str, Callable[[], Any]]:
    from importlib import import_module

    package: Any = import_module("deepsparse")
    engine = package.Engine(model=model, batch_size=len(next(iter(inputs.values()))), num_cores=threads)
    arrays = [np.ascontiguousarray(inputs[name]) for name in engine.input_names]
    return package.__version__, lambda: engine.run(arrays)


ENGINES = {
    "hpcc": hpcc,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "openvino_int8": openvino_int8,
    "deepsparse": deepsparse,
}


def peak_mb() -> float:
    """The most memory that this process has had, 0 where the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0.0


def main() -> None:
    engine, model, threads, inputs = sys.argv[1:]
    with np.load(inputs, allow_pickle=False) as archive:
        given = {name: archive[name] for name in archive.files}
    began = time.perf_counter()
    version, run = ENGINES[engine](model, int(threads), given)
    run()
    print(f"ready {engine} {version} {time.perf_counter() - began:.3f}", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        run()
        milliseconds = 1e3 * (time.perf_counter() - began)
        print(milliseconds, peak_mb(), flush=True)


if __name__ == "__main__":
    main()
