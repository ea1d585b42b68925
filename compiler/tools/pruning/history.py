"""What a pruned file says of itself: the pattern of all its blocks or of each layer, and what was done to it so far."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from compiler.passes.sparsify import PRUNABLE
from compiler.sparsity.base import METADATA_KEY, METADATA_LAYERS_KEY, Dense, Pattern
from compiler.tools.hpcc import installed_version

HISTORY_KEY = "hpcc.pruning.history"


def pruning_metadata(
    patterns: Mapping[str, Pattern], before: Mapping[str, str], sha256: str, done: Mapping[str, Any]
) -> dict[str, str]:
    """Metadata of a file whose linears have `patterns` by role (Dense where none), pruned as `done` says from a file with
    the metadata `before` and the digest `sha256`. An empty value takes out what the file said."""
    pruned = {role: pattern for role, pattern in patterns.items() if not isinstance(pattern, Dense)}
    inside = {role: pattern for role, pattern in patterns.items() if PRUNABLE.fullmatch(role)}
    specs = {pattern.spec() for pattern in pruned.values()}
    history = [*_history(before.get(HISTORY_KEY)), {"hpcc": installed_version(), "sha256": sha256, **done}]
    return {
        METADATA_KEY: next(iter(specs)) if len(specs) == 1 else "",
        METADATA_LAYERS_KEY: json.dumps({role: pattern.spec() for role, pattern in {**inside, **pruned}.items()}),
        HISTORY_KEY: json.dumps(history),
    }


def _history(text: str | None) -> list[Any]:
    try:
        known = json.loads(text) if text else []
    except ValueError:
        known = []
    return known if isinstance(known, list) else []
