"""Pruning with training: a fused `hpcc_nn` module as a torch network, trained under zero patterns (extra `train`).

`plan`, `batches` and `masks` are plain numpy; `meanings`, `network`, `losses`, `state` and `loop` import torch when they
are imported, so whoever wants them asks `require_torch` first.
"""

from __future__ import annotations

from importlib.util import find_spec

from hw_targets.errors import MissingToolError


def require_torch() -> None:
    """Raises MissingToolError HPCC5110 where torch is not installed."""
    if find_spec("torch") is None:
        raise MissingToolError("HPCC5110", "training needs torch, which is not installed", hint="pip install 'hpcc[train]'")
