"""T2: L6 with a head for Rotten Tomatoes, pruned with training: `python -m benchmarks.finetuning prepare train report`.

6,030 / 500 / 2,000 sentences by a published seed. The dev set chooses; the test set is read by `report` alone. `prepare`
writes the samples and fine-tunes the dense model on the labels (plain): the teacher. `train` distils it into each pattern
and, as the baseline that is equally trained, into the dense model itself: same steps, data, order and losses. Needs torch
(extra `train`); everything is kept in `--folder`, and a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks import texts, workloads
from benchmarks.__main__ import conditions
from benchmarks.finetuning_report import report
from compiler.sparsity.base import Dense, Pattern
from compiler.sparsity.patterns import parse_pattern
from compiler.tools.pruning.options import PruneOptions
from compiler.tools.pruning.session import PruneSession
from compiler.training.plan import Settings
from hw_targets.errors import HpccError

Array = NDArray[Any]
SPLIT_SEED = 20261124
SIZES = (6030, 500, 2000)
LENGTH = 48
UNLABELLED_SENTENCES = 30_000
"""With the training set, as many as 1,100 steps see: each once."""
CPU_SHAPE = "hp:rows=4,window=in,keep=1/4,fine=dense"
PATTERNS = ("dense", "nm:2:4", "nm:2:8", "hp:0.75", CPU_SHAPE, "nm:1:8", "hp:0.9")
PLAIN = Settings(376, loss="labels", rate=1e-4, head_rate=1e-3, evaluate=37, save=50, weight_decay=0.01)
"""Two epochs of 6,030 sentences."""
DISTIL = Settings(
    1100, loss="distill", rate=6e-4, head_rate=6e-4, evaluate=55, save=50, weight_decay=0.0, gradual=0.0, regulariser=25.0
)
"""From second-order reconstruction, so nothing is gradual. 1 / regulariser is about the size of the weights: Adam moves a
weight by the rate whatever its gradient is, and a pull of less would not hold the masked ones."""
CALIBRATION = 256


def with_head(source: Path, out: Path, seed: int) -> None:
    """L6 with mean pooling and a linear of two classes behind it; its one output is `logits`."""
    model = onnx.load(str(source))
    random = np.random.default_rng(seed)
    weight = (random.standard_normal((2, 384)) * 0.02).astype(np.float32)
    model.graph.initializer.extend(
        [numpy_helper.from_array(weight, "head.weight"), numpy_helper.from_array(np.zeros(2, np.float32), "head.bias")]
    )
    model.graph.node.append(helper.make_node("Gemm", ["sentence", "head.weight", "head.bias"], ["logits"], "head", transB=1))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2]))
    onnx.save(model, str(out))


# ---- samples --------------------------------------------------------------------------------------------------------


def _samples(sentences: Sequence[str], labels: Array) -> dict[str, Array]:
    ids = texts.tokenise(sentences, LENGTH)
    return {**ids, "token_type_ids": np.zeros_like(ids["input_ids"]), "labels": labels}


def write_samples(folder: Path) -> None:
    split = texts.rotten_tomatoes()
    parts = dict(zip(("train", "dev", "test"), texts.stratified(split.labels, SIZES, SPLIT_SEED), strict=True))
    chosen = {name: [split.texts[row] for row in rows] for name, rows in parts.items()}
    for name, rows in parts.items():
        np.savez(folder / f"{name}.npz", **_samples(chosen[name], split.labels[rows]))  # pyright: ignore[reportArgumentType]
    extra = texts.review_sentences(UNLABELLED_SENTENCES, SPLIT_SEED, [*chosen["test"], *chosen["dev"]])
    labels = np.concatenate([split.labels[parts["train"]], np.full(len(extra), -1)])
    np.savez(folder / "distil.npz", **_samples([*chosen["train"], *extra], labels))  # pyright: ignore[reportArgumentType]


class Remembered:
    """A teacher whose answers are kept in files, hidden states as bf16: all patterns see the same batches in one order."""

    def __init__(self, teacher: Any, folder: Path) -> None:
        self._teacher, self._folder = teacher, folder
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, length: int, inputs: Mapping[str, Array]) -> Any:
        import torch  # pyright: ignore[reportMissingImports]

        from compiler.training.network import Result

        path = self._folder / hashlib.blake2b(inputs["input_ids"].tobytes(), digest_size=16).hexdigest()
        if not path.exists():
            result = self._teacher(length, inputs)
            hidden = [value.bfloat16() for value in result.hidden]
            unfinished = path.with_suffix(f".{os.getpid()}")
            torch.save({"outputs": result.outputs, "hidden": hidden, "mask": result.mask}, unfinished)
            unfinished.replace(path)
        return Result(**torch.load(path))


# ---- training -------------------------------------------------------------------------------------------------------


def name_of(spec: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in spec)


def train(
    model: Path,
    samples: Path,
    dev: Path,
    patterns: Sequence[Pattern],
    settings: Settings,
    teacher: Path | None,
    outs: Sequence[Path],
    answers: Path | None = None,
) -> None:
    """One run, resumed if it was begun: a file for each pattern, one or the rungs of a ladder. A .json beside each says that
    it is done. `answers` keeps the teacher's."""
    from compiler.tools.pruning.onnx_output import write_tensors
    from compiler.tools.training.run import Request, RungDone, TrainingRun

    last = outs[-1]
    if last.exists():
        print(f"{last.name}: is there", flush=True)
        return
    started, cpu = time.perf_counter(), time.process_time()

    def progress(step: int, loss: float) -> None:
        if step % 20 == 0:
            minutes = (time.perf_counter() - started) / 60
            print(f"{last.stem}: step {step} of {settings.steps}, loss {loss:.4f}, {minutes:.1f} min", flush=True)

    request = Request(model, samples, patterns, settings, dev, teacher, "logits", last.with_suffix(".run"))
    run = TrainingRun(request, progress)
    if run.teacher is not None and answers is not None:
        run.teacher = Remembered(run.teacher, answers)  # pyright: ignore[reportAttributeAccessIssue]
    for note in run.notes:
        print(note, file=sys.stderr)

    def finished(done: RungDone) -> None:
        out = outs[done.rung]
        write_tensors(model, done.tensors, out, done.metadata)
        facts = {
            "pattern": done.pattern.spec(),
            "zeros": done.zeros,
            "dev": done.score,
            "chosen_step": done.chosen,
            "minutes": (time.perf_counter() - started) / 60,
            "cpu_minutes": (time.process_time() - cpu) / 60,
            "settings": settings.as_dict(),
            "conditions": conditions(),
        }
        out.with_suffix(".json").write_text(json.dumps(facts, indent=1))
        print(f"{out.name}: dev {done.score}, step {done.chosen}", flush=True)

    run.run(finished)


def prepare(folder: Path, seed: int, changes: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "distil.npz").exists():
        write_samples(folder)
    start, teacher = folder / f"start-{seed}.onnx", folder / f"teacher-{seed}.onnx"
    if not start.exists():
        with_head(workloads.l6_model("torchscript", "pool"), start, seed)
    settings = replace(PLAIN, seed=seed, **changes)
    train(start, folder / "train.npz", folder / "dev.npz", [Dense()], settings, None, [teacher])


def start_of(folder: Path, spec: str, seed: int) -> Path:
    """The teacher as second-order reconstruction brings it to the pattern, calibrated on training sentences."""
    out = folder / f"{name_of(spec)}-start-{seed}.onnx"
    if not out.exists():
        with np.load(folder / "train.npz") as data:
            rows = np.random.default_rng(seed).permutation(len(data["labels"]))[:CALIBRATION]
            samples = {name: data[name][rows] for name in data.files if name != "labels"}
        options = PruneOptions(str(folder / f"teacher-{seed}.onnx"), str(out), spec, calibrate=samples, quiet=True)
        PruneSession(options).run().save(out)
    return out


def train_all(folder: Path, patterns: Sequence[str], seed: int, changes: Mapping[str, Any]) -> None:
    teacher = folder / f"teacher-{seed}.onnx"
    settings = replace(DISTIL, seed=seed, **changes)
    for spec in patterns:
        out, pattern = folder / f"{name_of(spec)}-{seed}.onnx", parse_pattern(spec).canonical()
        begin = teacher if spec == "dense" or settings.gradual else start_of(folder, spec, seed)
        answers = folder / f"answers-{seed}"
        train(begin, folder / "distil.npz", folder / "dev.npz", [pattern], settings, teacher, [out], answers)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tasks", nargs="+", choices=["prepare", "train", "report"])
    parser.add_argument("--folder", type=Path, default=Path("build/t2"))
    parser.add_argument("--patterns", nargs="+", default=list(PATTERNS), metavar="SPEC")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--simulated", type=int, default=SIZES[2], help="test sentences that the simulator runs (all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of the linears' products in training")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=NUMBER", help="other settings of `train`")
    options = parser.parse_args(arguments)
    common = {"threads": options.threads, "precision": options.precision}
    changes = {name: json.loads(value) for name, _, value in (item.partition("=") for item in options.set)}
    try:
        if "prepare" in options.tasks:
            prepare(options.folder, options.seed, common)
        if "train" in options.tasks:
            train_all(options.folder, options.patterns, options.seed, {**common, **changes})
        if "report" in options.tasks:
            print(conditions())
            report(options.folder, options.patterns, options.seed, options.simulated)
    except HpccError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
