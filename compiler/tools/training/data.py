"""Samples with labels from .npz files, checked against the model before any training starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.tools.inputs import InputSpec, from_npz
from compiler.training.batches import UNLABELLED, Samples
from compiler.weights import content_digest
from hw_targets.errors import InputError

Array = NDArray[Any]
LABELS = "labels"
WRONG_SHAPE = "HPCC1507"


def sample_shapes(path: Path, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of one sample of each model input that an .npz file has; what is wrong with the file is said later."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name].shape[1:] for name in names if name in data.files}
    except Exception:  # `read` opens it again and says what it is
        return {}


def read(path: Path, specs: Sequence[InputSpec], mask: str | None, classes: int | None, *, labelled: bool) -> Samples:
    """The samples of a file. `classes` is the number of logits, None where no output has any.

    Raises InputError for arrays that do not fit the model (see `inputs.from_npz`), for labels out of range, of a wrong
    shape or dtype, and for none where `labelled` asks for them. The label -1 says that a sample has none.
    """
    try:
        found = from_npz(path, specs)
    except InputError as error:
        if error.code == WRONG_SHAPE:  # its own hint is for runs, which bind shapes
            raise InputError(error.code, error.message, where=error.where, hint="as long as those of --train") from error
        raise
    with np.load(path, allow_pickle=False) as data:
        labels = data[LABELS] if LABELS in data.files else None
    where = str(path)
    if labels is None:
        if labelled:
            raise InputError("HPCC1555", "there is no array 'labels'", where=where, hint="--loss distill needs none")
        return Samples(found.arrays, None, mask)
    if labels.shape != (found.count,) or labels.dtype.kind not in "iu":
        message = f"'labels' is {labels.dtype} {labels.shape}, not integers of shape ({found.count},)"
        raise InputError("HPCC1556", message, where=where)
    labels = labels.astype(np.int64)
    if classes is not None:
        wrong = (labels != UNLABELLED) & ((labels < 0) | (labels >= classes))
        if wrong.any():
            row = int(np.argmax(wrong))
            message = f"label {labels[row]} of sample {row} is out of range: the logits have {classes} classes"
            raise InputError("HPCC1557", message, where=where, hint=f"0 to {classes - 1}, or -1 for no label")
    return Samples(found.arrays, labels, mask)


def digest(samples: Samples | None) -> str:
    """One digest of all arrays, for the checkpoint to name its data by."""
    if samples is None:
        return "none"
    arrays: Mapping[str, Array] = {**samples.inputs, **({} if samples.labels is None else {LABELS: samples.labels})}
    return " ".join(f"{name}={content_digest(array)}" for name, array in sorted(arrays.items()))
