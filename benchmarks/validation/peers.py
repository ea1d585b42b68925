"""What is measured: ONNX Runtime on this CPU beside simulated boards, and the accuracy of both softmaxes on real text."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.validation import prepared
from benchmarks.validation.ablations import with_design
from compiler.interpreters.evaluate import evaluate
from compiler.tools.inputs import InputSpec, from_text
from hw_targets.load import load_target
from runtime.host import import_onnxruntime

Array = NDArray[Any]
ROUNDS = 15
SENTENCES = Path(__file__).parents[2] / "examples" / "sentences.txt"


@dataclass(frozen=True)
class Speed:
    """One model: ONNX Runtime's milliseconds (least and median), and (board, pattern, simulated milliseconds)."""

    model: str
    threads: int
    least_ms: float
    median_ms: float
    boards: tuple[tuple[str, str, float], ...]


def measured(model: Path, shape: tuple[int, int], threads: int) -> tuple[float, float]:
    """(least, median) milliseconds of one inference of ONNX Runtime in fp32."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    ones = {entry.name: np.ones(shape, np.int64) for entry in session.get_inputs()}
    session.run(None, ones)
    times: list[float] = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        session.run(None, ones)
        times.append(1e3 * (time.perf_counter() - start))
    return min(times), statistics.median(times)


def speeds(models: dict[str, Path], boards: tuple[str, ...], patterns: tuple[str, ...]) -> list[Speed]:
    threads = os.cpu_count() or 1
    found: list[Speed] = []
    for name, model in models.items():
        least, median = measured(model, (1, 128), threads)
        simulated: list[tuple[str, str, float]] = []
        for pattern in patterns:
            made = prepared(model, (1, 128), pattern)
            simulated += [(board, pattern, made.on(load_target(board)).milliseconds) for board in boards]
        found.append(Speed(name, threads, least, median, tuple(simulated)))
    return found


@dataclass(frozen=True)
class Accuracy:
    """One softmax on one model: the worst output of the integer reference against ONNX Runtime in fp32, and cycles."""

    model: str
    softmax: str
    relative_l2: float
    token_cosine: float
    cycles: int


def sentences(model: Path, tokenizer: Path, shape: tuple[int, int]) -> dict[str, Array]:
    """The demo's sentences as inputs of the model, a sentence a row."""
    runtime = import_onnxruntime()
    session = runtime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    specs = [InputSpec(entry.name, "int64", shape) for entry in session.get_inputs()]
    return dict(from_text(SENTENCES, tokenizer, specs, None).arrays)


def accuracies(models: dict[str, Path], tokenizer: Path, shifts: tuple[int, ...], shape: tuple[int, int]) -> list[Accuracy]:
    """Dense models on the sentences, all at once. Tokens that are padding do not count."""
    found: list[Accuracy] = []
    target = load_target("fpga-u280")
    for name, model in models.items():
        feeds = sentences(model, tokenizer, shape)
        names = list(evaluated(model, feeds, None))
        session = import_onnxruntime().InferenceSession(str(model), providers=["CPUExecutionProvider"])
        outputs = [entry.name for entry in session.get_outputs() if entry.name in names]
        floats = dict(zip(outputs, session.run(outputs, feeds), strict=True))
        cycles: dict[bool, int] = {}
        """By whether softmax streams: the shift is a constant of the circuit and costs nothing."""
        for shift in (None, *shifts):
            integers = evaluated(model, feeds, shift)
            distances = [distance(integers[o], floats[o], feeds["attention_mask"]) for o in outputs]
            built = target if shift is None else with_design(target, softmax="streaming", softmax_shift=shift)
            streams = shift is not None
            if streams not in cycles:
                cycles[streams] = prepared(model, (1, shape[1]), "dense", shift).on(built).timing.total
            label = "exact" if shift is None else f"streaming, shift {shift}"
            worst = max(d[0] for d in distances), min(d[1] for d in distances)
            found.append(Accuracy(name, label, *worst, cycles[streams]))
    return found


def evaluated(model: Path, feeds: dict[str, Array], shift: int | None) -> dict[str, Array]:
    """The integer reference's outputs."""
    made = prepared(model, (len(feeds["input_ids"]), feeds["input_ids"].shape[1]), "dense", shift)
    return evaluate(made.module, made.store, feeds)


def distance(found: Array, wanted: Array, mask: Array) -> tuple[float, float]:
    """(relative L2, least cosine of a row) where rows of padding do not count."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    if a.ndim == 3:
        a, b = a[mask != 0], b[mask != 0]
    cosine = (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-30)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b)), float(cosine.min())
