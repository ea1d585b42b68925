"""Which device meets a latency and an accuracy limit, on T2: `python -m benchmarks.exploring front choose measure`.

After `python -m benchmarks.finetuning prepare` with the same `--folder`: the model is the fine-tuned teacher with its head.
`front` searches with limits that everything meets, so that every pruning is judged on dev, and fixes four pairs of limits:
quartiles of the Pareto front, the tightest latency with the loosest accuracy. `choose` searches
under each pair, the first one with random masks too (controls). `measure` rebuilds each winner by the printed commands in
another folder and measures both limits there: the time that the bundle's own program takes, the accuracy of the rebuilt
model by ONNX Runtime on the whole test split, and of the bundle on the simulator on some of it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.__main__ import conditions
from benchmarks.finetuning import LENGTH
from runtime.program import Program

Array = NDArray[Any]
QUARTILES = (0.25, 0.5, 0.75, 1.0)
TASK = """name = "Rotten Tomatoes, L6 with a fine-tuned head"
metric = "accuracy"
output = "logits"
calibration = 64

[splits]
train = "train.npz"
dev = "dev.npz"
test = "test.npz"
"""
LOOSE = ("100ms", "0")
"""Limits under which every pruning is judged on the whole dev set."""
BATCH = 16


def prepare(source: Path, folder: Path, seed: int, test: int) -> Path:
    """Samples, task and model of the search; the test split is the first `test` sentences of the stratified one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "dev", "test"):
        with np.load(source / f"{name}.npz") as data:
            rows = {key: data[key][:test] if name == "test" else data[key] for key in data.files}
        np.savez(folder / f"{name}.npz", **rows)  # pyright: ignore[reportArgumentType]
    (folder / "task.toml").write_text(TASK, encoding="utf-8")
    model = folder / "model.onnx"
    if not model.exists():
        shutil.copyfile(source / f"teacher-{seed}.onnx", model)
    return model


def search(folder: Path, limits: tuple[str, str], options: Sequence[str]) -> dict[str, Any]:
    """One run of hpcc-explore; what it found."""
    words = ["hpcc-explore", str(folder / "model.onnx"), "--task", str(folder / "task.toml")]
    words += ["--max-latency", limits[0], "--min-accuracy", limits[1], "--shape", f"input_ids:1x{LENGTH}", *options]
    words += ["-o", str(folder / "search")]
    print(shlex.join(words), flush=True)
    started = time.perf_counter()
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        sys.exit(done.stderr)
    print(done.stdout + done.stderr + f"[{time.perf_counter() - started:.0f} s]", flush=True)
    return json.loads((folder / "search" / "explore.json").read_text(encoding="utf-8"))


def pairs_of(front: Sequence[Any]) -> list[tuple[str, str]]:
    """Quartiles of the latencies with those of the lower bounds, rounded so that the ends stay on the front."""
    latencies = np.quantile([point["latency_ms"] for point in front], QUARTILES)
    bounds = np.quantile([point["accuracy"]["low"] for point in front], QUARTILES)
    return [
        (f"{np.ceil(a * 1e4) / 1e4:.4f}ms", f"{np.floor(b * 1e4) / 1e4:.4f}") for a, b in zip(latencies, bounds, strict=True)
    ]


def rebuilt(commands: Sequence[str], old: Path, new: Path) -> Path:
    """Run the commands with their results in another folder; the bundle."""
    new.mkdir(parents=True, exist_ok=True)
    for line in commands:
        for name in ("winner.onnx", "winner.hpcc"):
            line = line.replace(str(old / name), str(new / name))
        subprocess.run(line, shell=True, check=True, stdout=subprocess.DEVNULL)
    return new / "winner.hpcc"


def by_onnx_runtime(model: Path, inputs: dict[str, Array]) -> Array:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    count = len(next(iter(inputs.values())))
    found = [
        session.run(None, {name: array[start : start + BATCH] for name, array in inputs.items()})[0]
        for start in range(0, count, BATCH)
    ]
    return np.concatenate([np.asarray(part) for part in found])


def measure(folder: Path, source: Path, number: int, simulated: int) -> None:
    """Both limits of one winner, from what its commands make."""
    place = folder / f"winner-{number}"
    found = json.loads((place / "explore.json").read_text(encoding="utf-8"))
    winner, limits = found["winner"], found["limits"]
    if winner is None:
        print(f"pair {number}: nothing was found")
        return
    bundle = rebuilt(winner["commands"], folder / "search", place / "rebuilt")
    program = Program.load(bundle, threads=1)
    assert program.manifest.digest == winner["digest"], "the rebuilt bundle is another one"
    with np.load(source / "test.npz") as data:
        labels, inputs = data["labels"], {name: data[name] for name in data.files if name != "labels"}
    model = place / "rebuilt" / "winner.onnx"
    right = by_onnx_runtime(model if model.exists() else folder / "model.onnx", inputs).argmax(1) == labels
    runs = [program.run({name: array[row : row + 1] for name, array in inputs.items()}) for row in range(simulated)]
    correct = [int(run.outputs["logits"].argmax()) == label for run, label in zip(runs, labels[:simulated], strict=True)]
    ms = program.accelerator_ms + program.transfer_ms
    trial = winner["trial"]
    print(
        f"pair {number}: {limits['max_latency_ms']} ms, {limits['min_accuracy']}: {trial['device']} {trial['pattern']}"
        f" | rebuilt, same digest, {ms:.4f} ms + {trial['host_ms']:.4f} ms on the host, searched {trial['latency_ms']:.4f}"
        f" | dev {trial['accuracy']['value']:.4f}, bound {trial['accuracy']['low']:.4f}, int8 on test"
        f" {winner['test']['value']:.4f} (bound {winner['test']['low']:.4f})"
        f" | ONNX Runtime {np.mean(right):.4f} of {len(right)}, simulator {np.mean(correct):.4f} of {simulated}",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tasks", nargs="+", choices=["front", "choose", "measure"])
    parser.add_argument("--folder", type=Path, default=Path("build/t2"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test", type=int, default=2000, help="test sentences of the searches (all)")
    parser.add_argument("--simulated", type=int, default=100, help="test sentences that the simulator runs in `measure`")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of hpcc-explore, the same for all searches")
    options = parser.parse_args(arguments)
    source, folder = options.folder.resolve(), options.folder.resolve() / "explore"
    limits = folder / "limits.json"
    print(conditions())
    if "front" in options.tasks:
        prepare(source, folder, options.seed, options.test)
        front = search(folder, LOOSE, options.options)["front"]
        limits.write_text(json.dumps(pairs_of(front)))
        shutil.copyfile(folder / "search" / "explore.json", folder / "front.json")
        print(f"{len(front)} on the front; limits: {limits.read_text()}", flush=True)
    for number, (latency, accuracy) in enumerate(json.loads(limits.read_text()), 1):
        if "choose" in options.tasks:
            search(folder, (latency, accuracy), [*options.options, *(["--controls"] if number == 1 else [])])
            (folder / f"winner-{number}").mkdir(exist_ok=True)
            shutil.copyfile(folder / "search" / "explore.json", folder / f"winner-{number}" / "explore.json")
        if "measure" in options.tasks:
            measure(folder, source, number, options.simulated)
    return 0


if __name__ == "__main__":
    sys.exit(main())
