"""The table of T2: what the models of `benchmarks.finetuning` score on the test set, beside one-shot pruning and controls.

Accuracy in fp32 by ONNX Runtime and as the int8 program that hpcc runs (simulated, bit for bit); agreement with the dense
model that was trained equally long; the one-sided 95 % lower bound of the paired difference to it, by bootstrap over the
sentences; retained = (accuracy - zeroed) / (dense - zeroed), where `zeroed` is the dense model with every encoder matrix
set to zero. The controls are not trained: the dense model under a random mask, and under one by magnitude.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import hpcc
from compiler.sparsity.base import Dense, Pattern
from compiler.sparsity.patterns import parse_pattern

Array = NDArray[Any]
RESAMPLED = 10_000
SIMULATED_BATCH = 16
TARGET = "fpga-u280"


def lower_bound(right: Array, reference: Array, seed: int = 0) -> float:
    """One-sided 95 % lower bound of mean(right) - mean(reference), paired: bootstrap over samples."""
    difference = right.astype(np.float64) - reference.astype(np.float64)
    random = np.random.default_rng(seed)
    means = [difference[random.integers(0, len(difference), len(difference))].mean() for _ in range(RESAMPLED)]
    return float(np.quantile(means, 0.05))


def by_onnx_runtime(model: Path, samples: Mapping[str, Array]) -> Array:
    """Logits [samples, classes] in fp32."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    count = len(samples["input_ids"])
    parts = [session.run(["logits"], {n: samples[n][i : i + 50] for n in names})[0] for i in range(0, count, 50)]
    return np.concatenate([np.asarray(part) for part in parts])


def by_simulator(model: Path, samples: Mapping[str, Array], count: int) -> Array:
    """Logits of the first `count` samples by the compiled int8 program."""
    shape = {"input_ids": (SIMULATED_BATCH, samples["input_ids"].shape[1])}
    compiled = hpcc.compile(model, TARGET, shapes=shape, verify=False)
    names = [entry.name for entry in compiled.program.manifest.model_inputs]
    return compiled.run({name: samples[name][:count] for name in names}).outputs["logits"]


def control(source: Path, out: Path, pattern: Pattern | None, seed: int | None) -> None:
    """`source` with its encoder's matrices under a mask: by magnitude, at random (`seed`), or all zero (no pattern)."""
    from compiler.frontend.onnx_file import open_onnx
    from compiler.tools.training.onnx_writing import write_tensors
    from compiler.tools.training.places import trainable
    from compiler.tools.training.run import open_fused

    opened = open_fused(source, {"input_ids": (1, 16)})
    found = trainable(opened.module, opened.store, open_onnx(source).model, "logits")
    tensors: dict[str, Array] = {}
    for number, key in enumerate(sorted(found.pruned)):
        stored, turned = opened.store.get(key), found.turned[key]
        w = np.ascontiguousarray(stored.T if turned else stored)
        scores = None if seed is None else np.random.default_rng([seed, number]).random(w.shape)
        w = np.zeros_like(w) if pattern is None else np.where(pattern.mask(w, scores), w, np.float32(0))
        tensors[found.places[key].tensor] = found.places[key].written(w.T if turned else w)
    write_tensors(source, tensors, out, {})


def report(folder: Path, patterns: Sequence[str], seed: int, simulated: int) -> None:
    with np.load(folder / "test.npz") as data:
        samples = {name: data[name] for name in data.files}
    labels = samples["labels"]
    dense = folder / f"dense-{seed}.onnx"
    known: dict[Path, Array] = {}

    def right(model: Path) -> Array:
        if model not in known:
            known[model] = by_onnx_runtime(model, samples).argmax(1)
        return known[model] == labels

    zeroed = folder / f"zeroed-{seed}.onnx"
    control(dense, zeroed, None, None)
    base, floor = right(dense), float(right(zeroed).mean())
    print(f"{'':44} accuracy  agree  difference  bound  retained  int8 ({simulated})  bound  dev  minutes")

    def row(name: str, model: Path, facts: Mapping[str, Any]) -> None:
        found = right(model)
        accuracy, difference = found.mean(), found.mean() - base.mean()
        retained = (accuracy - floor) / (base.mean() - floor)
        agree = (known[model] == known[dense]).mean()
        print(
            f"{name:<44} {accuracy:.4f}  {agree:.4f}  {100 * difference:+.2f}  {100 * lower_bound(found, base):+.2f}"
            f"  {retained:.3f}",
            end="",
        )
        if facts and simulated:
            integer = by_simulator(model, samples, simulated).argmax(1) == labels[:simulated]
            bound = 100 * lower_bound(integer, base[:simulated])
            print(f"  {integer.mean():.4f}  {bound:+.2f}", end="")
        print(f"  {facts['dev']:.3f}  {facts['minutes']:.1f}" if facts else "", flush=True)

    row("encoder zeroed (control)", zeroed, {})
    teacher = folder / f"teacher-{seed}.onnx"
    row("dense, plain fine-tuning (the teacher)", teacher, {})
    for spec in patterns:
        name = "".join(letter if letter.isalnum() else "-" for letter in spec)
        trained = folder / f"{name}-{seed}.onnx"
        if not trained.exists():
            continue
        pattern = parse_pattern(spec).canonical()
        row(f"{spec}, trained", trained, json.loads(trained.with_suffix(".json").read_text()))
        if not isinstance(pattern, Dense):
            for how, chosen in (("magnitude, one-shot", None), ("random mask, one-shot (control)", seed)):
                out = folder / "control.onnx"
                control(dense, out, pattern, chosen)
                known.pop(out, None)
                row(f"{spec}, {how}", out, {})
