"""The table of T2: what the models of `benchmarks.finetuning` score on the test set, beside one-shot pruning and controls.

Accuracy in fp32 by ONNX Runtime and as the int8 program that hpcc runs (simulated, bit for bit); agreement with the dense
model that was trained equally long; the one-sided 95 % lower bound of the paired difference to it, by bootstrap over the
sentences; retained = (accuracy - zeroed) / (dense - zeroed), where `zeroed` is the dense model with every encoder matrix
set to zero. The controls are not trained: the dense model under a random mask, and under one by magnitude.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    tokens = samples["attention_mask"].sum(1)
    order = np.argsort(tokens, kind="stable")
    logits: dict[int, Array] = {}
    for start in range(0, len(order), 50):
        rows = order[start : start + 50]  # sorted, and cut to the longest: padding changes no result
        found = session.run(["logits"], {name: samples[name][rows, : tokens[rows].max()] for name in names})[0]
        logits.update(zip(rows.tolist(), np.asarray(found), strict=True))
    return np.stack([logits[row] for row in range(len(order))])


def by_simulator(model: Path, samples: Mapping[str, Array], count: int) -> Array:
    """Logits of the first `count` samples by the compiled int8 program."""
    shape = {"input_ids": (SIMULATED_BATCH, samples["input_ids"].shape[1])}
    compiled = hpcc.compile(model, TARGET, shapes=shape, verify=False)
    names = [entry.name for entry in compiled.program.manifest.model_inputs]
    return compiled.run({name: samples[name][:count] for name in names}).outputs["logits"]


def control(source: Path, out: Path, pattern: Pattern | None, seed: int | None) -> None:
    """`source` with its encoder's matrices under a mask: by magnitude, at random (`seed`), or all zero (no pattern)."""
    from compiler.frontend.onnx_file import open_onnx
    from compiler.tools.pruning.onnx_output import write_tensors
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


def once(path: Path, compute: Callable[[], Array]) -> Array:
    """What was computed before, else computed now and kept: the test set is read once for each final model."""
    if not path.exists():
        np.save(path, compute())
    return np.load(path)


@dataclass
class Table:
    """The rows of one seed; `base` is the equally trained dense model, `zeroed` the floor."""

    folder: Path
    seed: int
    samples: Mapping[str, Array]
    simulated: int

    def logits(self, model: Path) -> Array:
        return once(model.with_suffix(".fp32.npy"), lambda: by_onnx_runtime(model, self.samples))

    def integers(self, model: Path) -> Array:
        path = model.with_suffix(f".int8-{self.simulated}.npy")
        return once(path, lambda: by_simulator(model, self.samples, self.simulated))

    def model(self, name: str) -> Path:
        return self.folder / f"{name}-{self.seed}.onnx"

    def right(self, logits: Array) -> Array:
        return logits.argmax(1) == self.samples["labels"][: len(logits)]

    def row(self, name: str, model: Path, facts: Mapping[str, Any]) -> str:
        dense, teacher = self.logits(self.model("dense")), self.logits(self.model("teacher"))
        found = self.logits(model)
        right, base = self.right(found), self.right(dense)
        floor = self.right(self.logits(self.model("zeroed"))).mean()
        retained = (right.mean() - floor) / (base.mean() - floor)
        cells = [
            f"{right.mean():.4f}",
            f"{(found.argmax(1) == dense.argmax(1)).mean():.4f}",
            f"{100 * (right.mean() - base.mean()):+.2f}",
            f"{100 * lower_bound(right, base):+.2f}",
            f"{100 * lower_bound(right, self.right(teacher)):+.2f}",
            f"{retained:.3f}",
        ]
        if facts:
            cells += self._integer_cells(model, right, base)
            cells += [f"{facts['dev']:.3f}", f"{facts['minutes']:.0f} ({facts['cpu_minutes']:.1f})"]
        else:
            cells += ["", "", "", ""]
        return f"| {name} | {' | '.join(cells)} |"

    def _integer_cells(self, model: Path, right: Array, base: Array) -> list[str]:
        """Accuracy of the int8 program, of fp32 on the same sentences, and the bound of the difference to fp32 dense."""
        if not self.simulated:
            return ["", ""]
        integer = self.right(self.integers(model))
        count = len(integer)
        bound = 100 * lower_bound(integer, base[:count])
        return [f"{integer.mean():.4f} ({right[:count].mean():.4f})", f"{bound:+.2f}"]


HEAD = (
    "| model | accuracy | agreement | difference | bound | bound to the teacher | retained | int8 (fp32 of the same texts)"
    " | bound | dev | minutes (of CPU) |"
)


def report(folder: Path, patterns: Sequence[str], seed: int, simulated: int) -> None:
    """Print the table of the models that are there, a row at a time."""
    with np.load(folder / "test.npz") as data:
        table = Table(folder, seed, {name: data[name] for name in data.files}, simulated)
    dense, zeroed = table.model("dense"), table.model("zeroed")
    if not zeroed.exists():
        control(dense, zeroed, None, None)
    print(f"{HEAD}\n|{'---|' * HEAD.count('|', 1)}")
    print(table.row("encoder zeroed (control)", zeroed, {}), flush=True)
    print(table.row("dense, plain fine-tuning (the teacher)", table.model("teacher"), {}), flush=True)
    for spec in patterns:
        trained = table.model("".join(letter if letter.isalnum() else "-" for letter in spec))
        if not trained.exists():
            continue
        pattern = parse_pattern(spec).canonical()
        print(table.row(f"{spec}, trained", trained, json.loads(trained.with_suffix(".json").read_text())), flush=True)
        if not isinstance(pattern, Dense):
            for how, chosen in (("magnitude", None), ("random", seed)):
                out = trained.with_suffix(f".{how}.onnx")
                if not out.exists():
                    control(dense, out, pattern, chosen)
                print(table.row(f"{spec}, {how} mask, untrained", out, {}), flush=True)
