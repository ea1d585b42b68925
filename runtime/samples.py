"""Outputs of batches as one array of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_targets.errors import InputError
from runtime.manifest import BorderEntry, TensorEntry


def joined(entry: TensorEntry | BorderEntry, parts: Sequence[NDArray[Any]], batch: int, samples: int) -> NDArray[Any]:
    """What an output is for all samples, from that of each batch of `batch`; the last one may be filled up.

    One whole batch stays as it is. Raises InputError for other numbers of samples where the output has no axis of them.
    """
    if samples == batch:
        return parts[0]
    if not entry.shape or entry.shape[0] != batch:
        message = f"output {entry.name!r} of shape {entry.shape} has no axis of samples"
        raise InputError("HPCC1258", message, hint="give exactly one compiled batch of inputs")
    return np.concatenate(parts)[:samples]
