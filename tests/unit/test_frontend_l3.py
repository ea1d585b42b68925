"""The shipped paraphrase-MiniLM-L3: import and fuse against ONNX Runtime, and what fuse must find in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from xdsl.context import Context

from compiler.frontend.importer import import_onnx
from compiler.frontend.preflight import preflight
from compiler.interpreters.evaluate import evaluate
from compiler.module import main_function
from compiler.passes.fuse import FusePass
from compiler.passes.partition import PartitionPass
from compiler.weights import attach_store

TOKENS = 64


def inputs(batch: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(batch)
    lengths = random.integers(1, TOKENS + 1, batch)
    return {
        "input_ids": random.integers(0, 30522, (batch, TOKENS)),
        "attention_mask": (np.arange(TOKENS)[None] < lengths[:, None]).astype(np.int64),
    }


@pytest.mark.parametrize("batch", [1, 4])
def test_import_and_fuse_agree_with_onnxruntime(l3_model: Path, batch: int) -> None:
    imported = import_onnx(l3_model, {"input_ids": (batch, TOKENS)})
    session = ort.InferenceSession(str(l3_model), providers=["CPUExecutionProvider"])
    feed = inputs(batch)
    expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))

    def errors() -> dict[str, float]:
        found = evaluate(imported.module, imported.store, feed)
        return {
            n: float(np.abs(found[n] - e).max() / np.sqrt(np.mean(np.square(e, dtype=float)))) for n, e in expected.items()
        }

    assert max(errors().values()) <= 1e-4
    ctx = Context()
    attach_store(ctx, imported.store)
    FusePass().apply(ctx, imported.module)
    imported.module.verify()
    assert max(errors().values()) <= 1e-4
    counts = Counter(op.name.removeprefix("hpcc_nn.") for op in main_function(imported.module).body.block.ops)
    expected_counts = {
        "linear": 18, "attention": 3, "layer_norm": 7, "activation": 3, "embedding": 1, "mean_pool": 1, "binary": 6,
    }  # fmt: skip
    assert {name: count for name, count in counts.items() if name not in ("weight", "func.return")} == expected_counts
    PartitionPass().apply(ctx, imported.module)
    table = preflight(imported.module)
    assert table.feasible
    assert [row.op for row in table.rows] == ["Identity", "Identity"]
    assert 17.1e6 < imported.parameters < 17.3e6
