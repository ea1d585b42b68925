"""The order in which samples are seen: by seed alone, texts of similar length together.

A batch is cut to the shortest of the lengths that holds all of its tokens, if the model does not mind: padding costs as
much as words. Plain numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
UNLABELLED = -1
_NEIGHBOURHOOD = 16
"""Batches' worth of shuffled samples that are sorted by length together."""


@dataclass(frozen=True)
class Samples:
    """Model inputs by name, the first axis counting samples; `labels` [N] or None; `mask` names the attention mask."""

    inputs: Mapping[str, Array]
    labels: Array | None
    mask: str | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def tokens(self) -> Array:
        """The position behind the last token of each sample; the full length where there is no mask."""
        length = next(iter(self.inputs.values())).shape[1] if next(iter(self.inputs.values())).ndim > 1 else 1
        if self.mask is None:
            return np.full(len(self), length)
        attends = self.inputs[self.mask] != 0
        return np.where(attends.any(1), length - np.argmax(attends[:, ::-1], axis=1), 1)

    def take(self, rows: Array, length: int | None, size: int) -> tuple[dict[str, Array], Array | None]:
        """The rows as one batch of `size`, cut to `length` tokens; what is missing repeats the first row."""
        filled = np.concatenate([rows, np.full(size - len(rows), rows[0], rows.dtype)])
        full = None if self.mask is None else self.inputs[self.mask].shape[1]
        cut = {
            name: array[filled, :length]
            if length is not None and array.ndim == 2 and array.shape[1] == full
            else array[filled]
            for name, array in self.inputs.items()
        }
        return cut, None if self.labels is None else self.labels[rows]


def fitting(lengths: tuple[int, ...], tokens: int) -> int:
    """The shortest length that holds `tokens`."""
    return min(length for length in lengths if length >= tokens)


def epoch_order(tokens: Array, batch: int, seed: int, epoch: int) -> list[Array]:
    """The batches of an epoch, full ones only: the same for the same seed, whatever came before."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(tokens))
    near = batch * _NEIGHBOURHOOD
    ordered = [
        rows[np.argsort(tokens[rows], kind="stable")] for rows in (order[i : i + near] for i in range(0, len(order), near))
    ]
    batches = [rows[i : i + batch] for rows in ordered for i in range(0, len(rows) - batch + 1, batch)]
    return [batches[index] for index in random.permutation(len(batches))]


def batch_at(tokens: Array, batch: int, seed: int, step: int) -> Array:
    """The samples of one step. A set smaller than a batch is one batch."""
    if len(tokens) <= batch:
        return np.arange(len(tokens))
    first = epoch_order(tokens, batch, seed, 0)
    epoch, position = divmod(step, len(first))
    return (first if epoch == 0 else epoch_order(tokens, batch, seed, epoch))[position]


def in_order(samples: Samples, batch: int) -> Iterator[Array]:
    """All samples once, sorted by length."""
    order = np.argsort(samples.tokens, kind="stable")
    yield from (order[start : start + batch] for start in range(0, len(order), batch))
