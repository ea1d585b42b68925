"""What pruning without training leaves: `python -m benchmarks.pruning order l3 l6`, `... retained l3 l6`, `... curves l3`.

T1 (Reuters R8, at most 64 tokens): a head is fitted once on the dense model's embeddings of all training texts and frozen.
Two control rows go with every pattern: random zeros of the same pattern, and the encoder zeroed, from which
`retained = (accuracy - zeroed) / (dense - zeroed)` counts. Calibration texts come from the training split, by seed.

order     the mean cosine to the dense model on held-out texts, method against method, paired over texts (bootstrap)
retained  accuracy, agreement, cosine and retained of the patterns that are promised, on the whole test split, and T3 (Lee)
curves    one method and one calibration set over sparsities and pattern families, and the bytes of each

Needs scikit-learn (extra `bench`). The dense embeddings are kept in build/, by the model's digest.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

import hpcc
from benchmarks import texts
from benchmarks.__main__ import conditions
from benchmarks.tasks import MODELS, embeddings, named
from compiler.sparsity.base import Pattern
from compiler.sparsity.patterns import parse_pattern
from compiler.storage.formats import candidates
from hw_targets.errors import HpccError

Floats = NDArray[np.float32]
Ids = Mapping[str, NDArray[np.int64]]

HP_625 = "hp:rows=64,window=32,keep=24,fine=2:4"
PROMISED = ("nm:2:4", HP_625)
ORDERED = ("nm:2:4", "nm:2:8", HP_625, "hp:0.75", "unstructured:0.75")
METHODS = ("random", "magnitude", "activation", "second-order")
CURVES: Mapping[str, tuple[str, ...]] = {
    "unstructured": tuple(f"unstructured:{share}" for share in ("0.5", "0.75", "0.9", "0.95")),
    "N:M": ("nm:2:4", "nm:2:8", "nm:1:8", "nm:1:10", "nm:1:16"),
    "HP": ("hp:0.5", "hp:0.75", "hp:0.9", "hp:0.95"),
    "block 4x1": tuple(f"block:4x1:{share}" for share in ("0.5", "0.75", "0.9", "0.95")),
    "block 16x16": tuple(f"block:16x16:{share}" for share in ("0.5", "0.75", "0.9", "0.95")),
    "column": tuple(f"column:{share}" for share in ("0.5", "0.75", "0.9", "0.95")),
}
CALIBRATION = 256
BATCH = 16
RESAMPLES = 2000


def seconds() -> float:
    return time.process_time()


# ---- models and texts -----------------------------------------------------------------------------------------------


def run(model: Path, ids: Ids, threads: int) -> Floats:
    """Mean-pooled embeddings [texts, width]. Texts go through sorted by length, each batch as long as its longest: what is
    masked changes nothing."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    outputs, inputs = [output.name for output in session.get_outputs()], [entry.name for entry in session.get_inputs()]
    lengths = ids["attention_mask"].sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    parts: list[Floats] = []
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = {name: array[rows, : lengths[rows].max()] for name, array in ids.items()}
        found = session.run(None, named(batch, inputs))
        parts.append(embeddings(dict(zip(outputs, found, strict=True)), batch["attention_mask"]))
    result = np.empty((len(order), parts[0].shape[1]), np.float32)
    result[order] = np.concatenate(parts)
    return result


@dataclass(frozen=True)
class Bench:
    """A dense model, its frozen head and its results on the test texts."""

    name: str
    model: Path
    threads: int
    train: texts.Split
    train_ids: Ids
    test: texts.Split
    test_ids: Ids
    dense: Floats
    classify: Callable[[Floats], NDArray[np.int64]]
    shapes: dict[tuple[str, ...], tuple[int, int]] = field(default_factory=dict[tuple[str, ...], tuple[int, int]])
    """Of the pruned matrices, out x in, by the tensors they are read from."""

    def calibration(self, seed: int, count: int = CALIBRATION) -> dict[str, NDArray[np.int64]]:
        chosen = np.sort(np.random.default_rng(seed).choice(len(self.train.texts), count, replace=False))
        inputs = [value.name for value in onnx.load(str(self.model), load_external_data=False).graph.input]
        return named({name: array[chosen] for name, array in self.train_ids.items()}, inputs)

    def pruned(self, pattern: str, method: str, seed: int, folder: Path) -> Path:
        """The file that `hpcc.prune` writes."""
        path = folder / "pruned.onnx"
        data = self.calibration(seed) if method in ("activation", "second-order") else None
        pruned = hpcc.prune(self.model, pattern=pattern, method=method, calibrate=data, seed=seed, output=path)
        self.shapes.update({layer.tensors: (layer.outs, layer.ins) for layer in pruned.pruned if not layer.tied_to})
        return path

    def zeroed(self, folder: Path) -> Path:
        """Every matrix of the encoder's linears set to zero: what the head scores without an encoder."""
        path = folder / "zeroed.onnx"
        pruned = hpcc.prune(self.model, pattern="unstructured:0.999", method="random", output=path)
        names = {name for layer in pruned.pruned for name in layer.tensors}
        model = onnx.load(str(path))
        for tensor in model.graph.initializer:
            if tensor.name in names:
                array = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(array), tensor.name))
        onnx.save(model, str(path))
        return path


def load(name: str, threads: int) -> Bench:
    model = MODELS[name]()
    train, test = texts.reuters("train"), texts.reuters("test")
    train_ids, test_ids = texts.tokenise(train.texts), texts.tokenise(test.texts)
    digest = hashlib.sha256(model.read_bytes()).hexdigest()[:16]
    cache = Path("build") / f"embeddings-{digest}.npz"
    if not cache.is_file():
        cache.parent.mkdir(exist_ok=True)
        np.savez(cache, train=run(model, train_ids, threads), test=run(model, test_ids, threads))
    known = np.load(cache)
    classify = texts.frozen_head(known["train"], train.labels)
    return Bench(name, model, threads, train, train_ids, test, test_ids, known["test"], classify)


# ---- tables ---------------------------------------------------------------------------------------------------------


def interval(differences: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of paired differences, over texts."""
    random = np.random.default_rng(seed)
    means = differences[random.integers(0, len(differences), (RESAMPLES, len(differences)))].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def order(bench: Bench, patterns: tuple[str, ...], seeds: int, held_out: int) -> None:
    """Methods against each other: cosines of `held_out` test texts, averaged over calibration seeds text by text."""
    chosen = np.sort(np.random.default_rng(0).choice(len(bench.test.texts), held_out, replace=False))
    ids = {name: array[chosen] for name, array in bench.test_ids.items()}
    print(
        f"\n{bench.name}: mean cosine to dense on {held_out} held-out texts, {CALIBRATION} calibration texts, {seeds} seeds"
    )
    print("| model | pattern | random | magnitude | activation | second-order | least of the differences, 95 % interval |")
    print("|---|---|---|---|---|---|---|")
    for pattern in patterns:
        found: dict[str, NDArray[np.float64]] = {}
        spread: dict[str, float] = {}
        for method in METHODS:
            runs = 1 if method == "magnitude" else seeds
            rows: list[NDArray[np.float64]] = []
            for seed in range(runs):
                with tempfile.TemporaryDirectory() as folder:
                    got = run(bench.pruned(pattern, method, seed, Path(folder)), ids, bench.threads)
                rows.append(texts.cosines(got, bench.dense[chosen]))
            found[method] = np.mean(rows, axis=0)
            spread[method] = float(np.ptp([row.mean() for row in rows]))
        lows = [
            (better, worse, *interval(found[better] - found[worse]))
            for worse, better in zip(METHODS, METHODS[1:], strict=False)
        ]
        better, worse, low, high = min(lows, key=lambda entry: entry[2])
        cells = " | ".join(f"{found[m].mean():.4f}" + (f" (range {spread[m]:.4f})" if spread[m] else "") for m in METHODS)
        print(f"| {bench.name} | `{pattern}` | {cells} | {better} - {worse}: {low:.4f} to {high:.4f} |", flush=True)


def retained(bench: Bench, patterns: tuple[str, ...], seeds: int) -> None:
    """The promised patterns on the whole test split, with both controls."""
    documents, ratings = texts.lee()
    lee_ids = texts.tokenise(documents)
    labels, dense = bench.test.labels, bench.classify(bench.dense)

    def row(what: str, model: Path, base: float, top: float) -> float:
        got = run(model, bench.test_ids, bench.threads)
        predicted, cosines = bench.classify(got), texts.cosines(got, bench.dense)
        accuracy = float((predicted == labels).mean())
        share = f"{(accuracy - base) / (top - base):.3f}" if top > base else "-"
        rated = texts.pearson(run(model, lee_ids, bench.threads), ratings)
        agreed = (predicted == dense).mean()
        print(
            f"| {bench.name} | {what} | {accuracy:.4f} | {share} | {agreed:.4f} | {cosines.mean():.4f} |"
            f" {np.quantile(cosines, 0.05):.4f} | {rated:.4f} |",
            flush=True,
        )
        return accuracy

    print(f"\n{bench.name}: R8, {len(labels)} test texts, frozen head; T3 Lee, 1,225 pairs")
    print("| model | weights | accuracy | retained | agreement | cosine | 5 % of cosines | Lee r |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        top = row("dense", bench.model, 0.0, 0.0)
        base = row("encoder zeroed (control)", bench.zeroed(folder), 0.0, 0.0)
        for pattern in patterns:
            row(f"`{pattern}` random (control)", bench.pruned(pattern, "random", 0, folder), base, top)
            row(f"`{pattern}` magnitude", bench.pruned(pattern, "magnitude", 0, folder), base, top)
            for seed in range(seeds):
                what = f"`{pattern}` second-order, seed {seed}"
                row(what, bench.pruned(pattern, "second-order", seed, folder), base, top)


def curves(bench: Bench, families: Mapping[str, tuple[str, ...]], held_out: int) -> None:
    """One method (second-order), one calibration set (seed 0): accuracy retained and bytes, over sparsity."""
    chosen = np.sort(np.random.default_rng(1).choice(len(bench.test.texts), held_out, replace=False))
    ids, labels = {n: a[chosen] for n, a in bench.test_ids.items()}, bench.test.labels[chosen]
    top = float((bench.classify(bench.dense[chosen]) == labels).mean())
    print(f"\n{bench.name}: second-order, {CALIBRATION} calibration texts of seed 0, {held_out} held-out texts")
    print(
        "| model | family | pattern | zeros | accuracy | retained | cosine | bytes of the encoder, int8 values, by format |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = float((bench.classify(run(bench.zeroed(folder), ids, bench.threads)) == labels).mean())
        print(f"| {bench.name} | dense | | 0 % | {top:.4f} | 1 | 1 | |")
        print(f"| {bench.name} | encoder zeroed (control) | | 100 % | {base:.4f} | 0 | | |")
        for family, patterns in families.items():
            for pattern in patterns:
                got = run(bench.pruned(pattern, "second-order", 0, folder), ids, bench.threads)
                accuracy = float((bench.classify(got) == labels).mean())
                cosine = texts.cosines(got, bench.dense[chosen]).mean()
                shapes = list(bench.shapes.values())
                parsed = parse_pattern(pattern)
                zeros = 1 - sum(parsed.kept(*shape) for shape in shapes) / sum(outs * ins for outs, ins in shapes)
                sizes = ", ".join(f"{form} {size / 1e6:.2f} MB" for form, size in _bytes(parsed, shapes))
                share = (accuracy - base) / (top - base)
                print(
                    f"| {bench.name} | {family} | `{pattern}` | {zeros:.1%} | {accuracy:.4f} | {share:.3f} | {cosine:.4f} |"
                    f" {sizes} |",
                    flush=True,
                )


def _bytes(pattern: Pattern, shapes: list[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    for form in candidates(pattern):
        yield form.name, sum(form.size_bits(*shape, pattern).total_bytes for shape in shapes)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("order", "retained", "curves"))
    parser.add_argument("models", nargs="*", default=["l3", "l6"], help=f"of {', '.join(MODELS)}")
    parser.add_argument("--patterns", nargs="+", metavar="SPEC")
    parser.add_argument("--seeds", type=int, default=3, help="calibration seeds (%(default)s)")
    parser.add_argument(
        "--held-out", type=int, default=500, metavar="N", help="test texts of order and curves (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "0")))
    options: Any = parser.parse_args(arguments)
    try:
        print(conditions())
        print(f"python -m benchmarks.pruning {' '.join(sys.argv[1:] if arguments is None else arguments)}")
        for name in options.models:
            bench, began = load(name, options.threads), seconds()
            if options.what == "order":
                order(bench, tuple(options.patterns or ORDERED), options.seeds, options.held_out)
            elif options.what == "retained":
                retained(bench, tuple(options.patterns or PROMISED), options.seeds)
            else:
                families = {"asked": tuple(options.patterns)} if options.patterns else CURVES
                curves(bench, families, options.held_out)
            print(f"{name}: {seconds() - began:.0f} s of CPU time", flush=True)
    except HpccError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
