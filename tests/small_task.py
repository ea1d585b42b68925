"""A tiny encoder with a task that pruning hurts: labels are the signs that a random head gives the dense model's results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.interpreters.evaluate import evaluate
from compiler.tools.variants import Prepared, prepare
from tests.graphs import Encoder, feeds, write

Array = NDArray[Any]
SPEC = Encoder(hidden=32, heads=2, intermediate=64, layers=1, vocabulary=50, position="sliced")
TOKENS = 8
SIZES = {"train": 16, "dev": 96, "test": 32}


@dataclass(frozen=True)
class SmallTask:
    folder: Path
    model: Path
    task: Path


def small_task(
    folder: Path,
    *,
    head: str = "file",
    labels: bool = True,
    extra: str = "",
    metric: str = "accuracy",
    tables: str = "",
    train: int = 16,
) -> SmallTask:
    """Model, samples and task file in a folder."""
    model = write(SPEC, folder / "model.onnx", 16, TOKENS, symbolic=True)
    prepared = prepare(model, {name: (16, TOKENS) for name in ("input_ids",)}, "dense")
    random = np.random.default_rng(7)
    weight = random.standard_normal((4, SPEC.hidden))
    np.savez(folder / "head.npz", weight=weight, bias=np.zeros(4))
    for number, (name, count) in enumerate((SIZES | {"train": train}).items()):
        arrays = feeds(SPEC, count, TOKENS, seed=number + 1)
        rows = np.concatenate(
            [_rows(prepared, {k: v[at : at + 16] for k, v in arrays.items()}) for at in range(0, count, 16)]
        )
        own = {"labels": (rows @ weight.T).argmax(axis=1)} if labels else {}
        np.savez(folder / f"{name}.npz", **arrays, **own)
    lines = [f'name = "small"\nmetric = "{metric}"\nsubset = 0.5\npool = "mean"\n{extra}']
    lines.append('[splits]\ntrain = "train.npz"\ndev = "dev.npz"\ntest = "test.npz"')
    if head == "file":
        lines.append('[head]\nkind = "file"\nfile = "head.npz"')
    elif head == "logistic":
        lines.append('[head]\nkind = "logistic"')
    task = folder / "task.toml"
    lines.append(tables)
    task.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return SmallTask(folder, model, task)


def _rows(prepared: Prepared, inputs: dict[str, Array]) -> Array:
    """Mean-pooled results of the integers."""
    tokens = next(iter(evaluate(prepared.module, prepared.store, inputs).values()))
    mask = inputs["attention_mask"][..., None]
    return (tokens * mask).sum(1) / mask.sum(1)
