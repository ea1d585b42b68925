"""Does inheriting pay? IDP against three other ways to spend a budget on T2: `python -m benchmarks.inheritance`.

A ladder of k patterns, one budget of B steps; each way starts at the same dense teacher and sees the same samples:

* ladder: B steps in all, each rung inherits the weights of the one before and goes on for B / k steps;
* each: every pattern from the dense model by itself, B / k steps each;
* last: B steps for the last pattern alone, from the dense model;
* one-shot: second-order reconstruction from 256 training sentences, no steps.

Needs what `python -m benchmarks.finetuning prepare --seed S` has written, and torch. The dev set chooses the state of each
run; the test set is read once for each model. With several seeds: the mean and the range.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import finetuning
from benchmarks.__main__ import conditions
from benchmarks.finetuning_report import by_onnx_runtime, once
from compiler.sparsity.base import Pattern
from compiler.training.plan import parse_ladder
from hw_targets.errors import HpccError

LADDER = "4:8,2:8,1:8"
WAYS = ("ladder", "each", "last", "one-shot")


def models(
    folder: Path,
    patterns: Sequence[Pattern],
    seed: int,
    steps: int,
    changes: Mapping[str, Any],
    ways: Sequence[str] = WAYS,
) -> dict[str, list[Path]]:
    """Train what is not there yet: by way, the files of the patterns that it makes, in the ladder's order."""
    teacher, room = folder / f"teacher-{seed}.onnx", folder / f"inheritance-{steps}"
    if not teacher.exists():
        raise SystemExit(f"{teacher}: there is no such file (python -m benchmarks.finetuning prepare)")
    room.mkdir(exist_ok=True)
    settings = replace(finetuning.DISTIL, steps=steps, seed=seed, gradual=0.5, **changes)
    short = replace(settings, steps=steps // len(patterns))

    def files(way: str) -> list[Path]:
        return [room / f"{way}-{finetuning.name_of(pattern.spec())}-{seed}.onnx" for pattern in patterns]

    def run(chosen: Sequence[Pattern], plan: Any, outs: Sequence[Path]) -> None:
        samples, dev = folder / "distil.npz", folder / "dev.npz"
        finetuning.train(teacher, samples, dev, chosen, plan, teacher, outs, folder / f"answers-{seed}")

    made: dict[str, list[Path]] = {}
    for way in ways:
        made[way] = files(way)
        if way == "ladder":
            run(patterns, settings, made[way])
        elif way == "each":
            for pattern, out in zip(patterns, made[way], strict=True):
                run([pattern], short, [out])
        elif way == "last":
            made[way] = made[way][-1:]
            run(patterns[-1:], settings, made[way])
        else:
            made[way] = [finetuning.start_of(folder, pattern.spec(), seed) for pattern in patterns]
    return made


def accuracy(model: Path, folder: Path, count: int | None) -> float:
    """On the first `count` sentences of the test set (None: all), in fp32."""
    with np.load(folder / "test.npz") as data:
        samples = {name: data[name][:count] for name in data.files}
    kept = model.with_suffix(".fp32.npy" if count is None else f".fp32-{count}.npy")
    logits = once(kept, lambda: by_onnx_runtime(model, samples))
    return float((logits.argmax(1) == samples["labels"]).mean())


def table(patterns: Sequence[Pattern], found: Sequence[Mapping[str, Sequence[float]]]) -> list[str]:
    """Rows of Markdown: a pattern each, the ways in columns; `found` holds accuracies by way, of each seed."""
    ways = list(found[0])
    lines = [f"| pattern | {' | '.join(ways)} |", f"|{'---|' * (len(ways) + 1)}"]
    for index, pattern in enumerate(patterns):
        cells: list[str] = []
        for way in ways:
            place = index - (len(patterns) - len(found[0][way]))  # a way that makes fewer makes the last ones
            scores = [seed[way][place] for seed in found] if place >= 0 else []
            spread = f" ({min(scores):.4f} to {max(scores):.4f})" if len(scores) > 1 else ""
            cells.append(f"{np.mean(scores):.4f}{spread}" if scores else "-")
        lines.append(f"| {pattern.spec()} | {' | '.join(cells)} |")
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("build/t2"))
    parser.add_argument("--ladder", default=LADDER, help="as hpcc-prune takes it (%(default)s)")
    parser.add_argument("--steps", type=int, default=1100, help="the budget B (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, metavar="WAY", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--test", type=int, metavar="N", help="test sentences (all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=NUMBER", help="other settings of training")
    options = parser.parse_args(arguments)
    changes = {name: json.loads(value) for name, _, value in (item.partition("=") for item in options.set)}
    try:
        patterns = parse_ladder(options.ladder)
        print(conditions())
        settings = {"threads": options.threads, **changes}
        made = [models(options.folder, patterns, seed, options.steps, settings, options.ways) for seed in options.seeds]
        found = [
            {way: [accuracy(path, options.folder, options.test) for path in paths] for way, paths in each.items()}
            for each in made
        ]
        print(f"budget {options.steps} steps, seeds {options.seeds}: accuracy on the test set")
        print("\n".join(table(patterns, found)))
    except HpccError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
