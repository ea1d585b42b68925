"""Accuracy of what the accelerator computes, on whole test sets: `python -m benchmarks.tasks l3 l6`.

T1 (Reuters R8, 2,189 test texts) with a head fitted once on ONNX Runtime's fp32 embeddings of the training texts, and T3
(Lee, 1,225 rated pairs). Every text runs through the simulator, and through ONNX Runtime in fp32 beside it. The rows of
a pattern are what one-shot magnitude pruning leaves; `unstructured:0.999` is the control: an encoder next to zero, which
must agree much less. Needs scikit-learn (extra `bench`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import hpcc
from benchmarks import texts, workloads
from benchmarks.__main__ import conditions
from hw_targets.errors import HpccError

Floats = NDArray[np.float32]
Ids = Mapping[str, NDArray[np.int64]]
MODELS: Mapping[str, Callable[[], Path]] = {
    "l3": workloads.l3_model,
    "l6": partial(workloads.l6_model, "torchscript", "pool"),
    "l6-dynamo": partial(workloads.l6_model, "dynamo", "pool"),
    "l6-int8": workloads.l6_int8_model,
}
BATCH = 16
CONTROL = "unstructured:0.999"


@dataclass(frozen=True)
class Task:
    """Embeddings of all texts by fp32 ONNX Runtime, and what is measured with them."""

    train: texts.Split
    test: texts.Split
    train_ids: Ids
    test_ids: Ids
    lee_ids: Ids
    ratings: NDArray[np.float64]


def load_task(train: int | None, test: int | None, length: int) -> Task:
    documents, ratings = texts.lee()
    training, testing = texts.reuters("train"), texts.reuters("test")
    training, testing = (
        split if count is None else split.first(count) for split, count in ((training, train), (testing, test))
    )
    train_ids, test_ids, lee_ids = (texts.tokenise(part, length) for part in (training.texts, testing.texts, documents))
    return Task(training, testing, train_ids, test_ids, lee_ids, ratings)


def named(ids: Ids, names: list[str]) -> dict[str, NDArray[np.int64]]:
    """The model's inputs: token types, if it wants them, are 0."""
    return {name: ids[name] if name in ids else np.zeros_like(ids["input_ids"]) for name in names}


def embeddings(outputs: Mapping[str, Any], mask: NDArray[np.int64]) -> Floats:
    """Mean-pooled [texts, width]: the model's own pooled output, or the mean of its tokens."""
    floats = [array for array in outputs.values() if array.dtype.kind == "f"]
    pooled = [array for array in floats if array.ndim == 2]
    return pooled[0] if pooled else texts.mean_pooled(floats[0], mask)


def batches(ids: Ids) -> Iterator[dict[str, NDArray[np.int64]]]:
    for start in range(0, len(ids["input_ids"]), BATCH):
        yield {name: array[start : start + BATCH] for name, array in ids.items()}


def by_onnx_runtime(model: Path, ids: Ids) -> Floats:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names, inputs = [output.name for output in session.get_outputs()], [entry.name for entry in session.get_inputs()]
    return np.concatenate(
        [
            embeddings(dict(zip(names, session.run(None, named(part, inputs)), strict=True)), part["attention_mask"])
            for part in batches(ids)
        ]
    )


def measure(name: str, target: str, patterns: list[str], task: Task) -> None:
    model = MODELS[name]()
    reference = {key: by_onnx_runtime(model, ids) for key, ids in (("train", task.train_ids), ("test", task.test_ids))}
    lee_reference = by_onnx_runtime(model, task.lee_ids)
    classify = texts.frozen_head(reference["train"], task.train.labels)
    dense = classify(reference["test"])
    accuracy, rated = (dense == task.test.labels).mean(), texts.pearson(lee_reference, task.ratings)
    print(f"{name:<10} {'ONNX Runtime fp32':<41} {accuracy:9.4f} {1:9.4f} {1:9.4f} {1:9.4f} {rated:9.4f}")
    for pattern in patterns:
        shape = {"input_ids": (BATCH, task.test_ids["input_ids"].shape[1])}
        compiled = hpcc.compile(model, target, shapes=shape, sparsity=pattern, verify=False)
        inputs = [entry.name for entry in compiled.program.manifest.model_inputs]
        start = time.perf_counter()
        found = embeddings(compiled.run(named(task.test_ids, inputs)).outputs, task.test_ids["attention_mask"])
        seconds = time.perf_counter() - start
        documents = embeddings(compiled.run(named(task.lee_ids, inputs)).outputs, task.lee_ids["attention_mask"])
        predicted, cosines = classify(found), texts.cosines(found, reference["test"])
        figures = ((predicted == task.test.labels).mean(), (predicted == dense).mean(), cosines.mean())
        figures += (np.quantile(cosines, 0.05), texts.pearson(documents, task.ratings))
        what = f"{target} {pattern}" + (" (control)" if pattern == CONTROL else "")
        print(f"{name:<10} {what:<41} {' '.join(f'{figure:9.4f}' for figure in figures)} {seconds:8.1f} s", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", default=["l3", "l6"], help=f"of {', '.join(MODELS)}")
    parser.add_argument("--target", default="fpga-u280")
    parser.add_argument("--sparsity", nargs="+", default=["dense", CONTROL], metavar="SPEC")
    parser.add_argument("--train", type=int, help="training texts the head sees (all)")
    parser.add_argument("--test", type=int, help="test texts (all)")
    parser.add_argument("--length", type=int, default=texts.MAX_LENGTH, help="tokens of a text (%(default)s)")
    options = parser.parse_args(arguments)
    for name in options.models:
        if name not in MODELS:
            parser.error(f"no model {name!r}: one of {', '.join(MODELS)}")
    try:
        print(conditions())
        task = load_task(options.train, options.test, options.length)
        print(
            f"R8: {len(task.train.texts)} training, {len(task.test.texts)} test texts, {options.length} tokens, frozen head"
        )
        print(f"{'':52} {'accuracy':>9} {'agreement':>9} {'cosine':>9} {'5 %':>9} {'Lee r':>9}")
        for name in options.models:
            measure(name, options.target, options.sparsity, task)
    except HpccError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
