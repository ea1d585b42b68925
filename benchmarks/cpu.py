"""`python -m benchmarks.cpu [MODEL.onnx]`: CPU programs against dense and sparse engines on the same pruned file.

Every engine is a process of its own and runs in turn, one run each in every round, so that all see the same machine; a
ratio is that of the medians. ONNX Runtime is always there; OpenVINO and DeepSparse where this environment has
them or HPCC_OPENVINO_PYTHON and HPCC_DEEPSPARSE_PYTHON name the Python of one that does, else they are skipped and the
reason is printed.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.workloads import l3_model
from compiler.tools.options import Options
from compiler.tools.session import open_session
from hw_targets.errors import HpccError

ROOT = Path(__file__).parents[1]
PATTERNS = ("dense", "hp:0.75", "hp:0.9")
PRECISIONS = {
    "fp32": ("hpcc", "onnxruntime", "openvino", "deepsparse"),
    "int8": ("hpcc", "onnxruntime", "openvino_int8"),
}
"""The engines that are compared: in int8 ONNX Runtime quantises dynamically, OpenVINO by NNCF on the inputs of the run."""
NO_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
"""What keeps OpenVINO and ONNX Runtime from AMX, for a comparison with a target that has none."""

PAUSE = 0.2
"""Seconds between two runs: the threads of the engine before fall asleep. ONNX Runtime's wait actively for longer than
10 ms, and take a core from who comes next."""


@dataclass
class Engine:
    """A running peer."""

    name: str
    version: str
    load_seconds: float
    process: subprocess.Popen[str]
    peak_mb: float = 0.0

    def run(self) -> float:
        """Milliseconds of one run."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        milliseconds, self.peak_mb = map(float, self.process.stdout.readline().split())
        return milliseconds

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def pythons() -> dict[str, str]:
    """The Python of every engine; empty if none is known."""
    own = {
        name: os.environ.get(f"HPCC_{name.upper()}_PYTHON") or (sys.executable if find_spec(name) else "")
        for name in ("openvino", "deepsparse")
    }
    return {"hpcc": sys.executable, "onnxruntime": sys.executable, "openvino_int8": own["openvino"], **own}


def start(name: str, python: str, model: Path, threads: int, inputs: Path, settings: Mapping[str, str]) -> Engine | str:
    """A peer that is ready, or why there is none."""
    if not python:
        return f"no HPCC_{name.removesuffix('_int8').upper()}_PYTHON"
    command = [python, str(ROOT / "benchmarks" / "peers.py"), name, str(model), str(threads), str(inputs)]
    environment = {**os.environ, **settings}
    if python == sys.executable:
        environment["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready "):
                _, _, version, seconds = line.split()
                return Engine(name, version, float(seconds), process)
        process.wait()
        errors.seek(0)
        said = errors.read().strip().splitlines()
    return said[-1] if said else "it ended without a word"


def measure(engines: Sequence[Engine], rounds: int) -> Mapping[str, list[float]]:
    """Milliseconds of every engine, one run each in every round."""
    times: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for _ in range(rounds):
        for engine in engines:
            time.sleep(PAUSE)
            times[engine.name].append(engine.run())
    return times


def quantized(model: Path) -> Path:
    """The model with dynamic int8 products, as ONNX Runtime makes it."""
    from importlib import import_module

    path = model.with_name("quantized.onnx")
    tools: Any = import_module("onnxruntime.quantization")
    logging.disable(logging.WARNING)  # it advises a preparation that changes nothing here
    tools.quantize_dynamic(str(model), str(path), weight_type=tools.QuantType.QInt8)
    logging.disable(logging.NOTSET)
    return path


@dataclass(frozen=True)
class Case:
    """One comparison; `settings` are variables of the environment for the peers."""

    pattern: str
    precision: str
    target: str
    shape: tuple[int, int]
    settings: Mapping[str, str]

    @property
    def title(self) -> str:
        return f"{self.pattern} {self.precision} {self.shape[0]}x{self.shape[1]} on {self.target}"


def compare(model: Path, case: Case, threads: Sequence[int], rounds: int) -> None:
    """Compile for this machine, then print a line for each number of threads and engine."""
    with tempfile.TemporaryDirectory(prefix="hpcc-bench-") as name:
        folder = Path(name)
        bundle, pruned, inputs = folder / "model.hpcc", folder / "pruned.onnx", folder / "inputs.npz"
        options = Options(
            str(model),
            case.target,
            shapes={"input_ids": case.shape},
            sparsity=case.pattern,
            precision=case.precision,
            output=str(bundle),
            emit="program",
            quiet=True,
        )
        began = time.perf_counter()
        session = open_session(options)
        session.compile()
        seconds = time.perf_counter() - began
        onnx.save(session.pruned_model(), pruned)
        np.savez(inputs, **dict[str, Any](session.samples.arrays))
        models = {engine: bundle if engine == "hpcc" else pruned for engine in pythons()}
        if case.precision == "int8":
            models["onnxruntime"] = quantized(pruned)
        for count in threads:
            started = [
                (name, start(name, python, models[name], count, inputs, case.settings))
                for name, python in pythons().items()
                if name in PRECISIONS[case.precision]
            ]
            engines = [engine for _, engine in started if isinstance(engine, Engine)]
            times = measure(engines, rounds)
            for engine in engines:
                engine.close()
            _report(f"{case.title}, {count} thread(s); hpcc compiled and built in {seconds:.1f} s", engines, times)
            for skipped, reason in started:
                if isinstance(reason, str):
                    print(f"  {skipped:<13} skipped: {reason}")


def _report(title: str, engines: Sequence[Engine], times: Mapping[str, list[float]]) -> None:
    ours = statistics.median(times["hpcc"]) if "hpcc" in times else None
    print(title)
    for engine in engines:
        median, least = statistics.median(times[engine.name]), min(times[engine.name])
        ratio = f"{median / ours:6.2f}x" if ours and engine.name != "hpcc" else ""
        print(
            f"  {engine.name:<13} {engine.version:<24} median {median:8.2f} ms, least {least:8.2f} ms {ratio:>8}"
            f"   loaded in {engine.load_seconds:6.2f} s, {engine.peak_mb:5.0f} MB",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description="CPU programs beside other engines.")
    parser.add_argument("model", nargs="?", type=Path, help="an .onnx file (default: the model of the demo)")
    parser.add_argument("--shapes", nargs="+", default=["1x128"], help="batch x tokens (default 1x128)")
    parser.add_argument("--target", default="cpu-host", help="default cpu-host")
    parser.add_argument("--no-amx", action="store_true", help="keep the peers from AMX, as a target without it is")
    parser.add_argument("--patterns", nargs="+", default=PATTERNS, help=f"default: {' '.join(PATTERNS)}")
    parser.add_argument("--precision", default="fp32", choices=tuple(PRECISIONS), help="default fp32")
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2), help="default: 1 2")
    parser.add_argument("--rounds", type=int, default=15, help="runs of every engine (default 15)")
    options = parser.parse_args()
    shapes = [(int(batch), int(tokens)) for batch, tokens in (shape.split("x") for shape in options.shapes)]
    settings = NO_AMX if options.no_amx else {}
    try:
        model = options.model or l3_model()
        print(f"{model.name}: milliseconds of one batch; the ratio says how much longer than hpcc it takes")
        for pattern, shape in product(options.patterns, shapes):
            case = Case(pattern, options.precision, options.target, shape, settings)
            compare(model, case, options.threads, options.rounds)
    except HpccError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
