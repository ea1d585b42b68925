"""all-MiniLM-L6 exported by both torch exporters: same roles, same operations, no MACs left to the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from xdsl.context import Context

from compiler.dialects import nn
from compiler.frontend.importer import import_onnx
from compiler.frontend.preflight import preflight
from compiler.interpreters.evaluate import evaluate
from compiler.module import main_function
from compiler.passes.fuse import FusePass
from compiler.passes.partition import PartitionPass
from compiler.weights import attach_store

BATCH, TOKENS = 2, 48
EXPORTS = list(product(("torchscript", "dynamo"), ("pooler", "pool"), ("sdpa", "eager")))

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("exporter", "head", "attention"), EXPORTS)
def test_both_exporters_fuse_alike(l6_export: Callable[..., Path], exporter: str, head: str, attention: str) -> None:
    path = l6_export(exporter, head, attention)
    imported = import_onnx(path, {"input_ids": (BATCH, TOKENS)})
    ctx = Context()
    attach_store(ctx, imported.store)
    FusePass().apply(ctx, imported.module)
    imported.module.verify()
    random = np.random.default_rng(0)
    feed = {
        "input_ids": random.integers(0, 30522, (BATCH, TOKENS)),
        "attention_mask": (np.arange(TOKENS)[None] < np.array([[TOKENS], [7]])).astype(np.int64),
        "token_type_ids": random.integers(0, 2, (BATCH, TOKENS)),
    }
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = evaluate(imported.module, imported.store, feed)
    for output, expected in zip(session.get_outputs(), session.run(None, feed), strict=True):
        assert np.abs(found[output.name] - expected).max() <= 1e-4 * np.sqrt(np.mean(np.square(expected)))
    PartitionPass().apply(ctx, imported.module)
    assert preflight(imported.module).rows == ()
    ops = list(main_function(imported.module).body.block.ops)
    has_pooler = head == "pooler"
    counts = Counter(op.name.removeprefix("hpcc_nn.") for op in ops)
    assert counts["linear"] == 36 + has_pooler
    assert (counts["attention"], counts["layer_norm"], counts["embedding"]) == (6, 13, 1)
    assert counts["mean_pool"] == (not has_pooler)
    roles = [op.role.data for op in ops if isinstance(op, nn.LinearOp)]
    layer = ("attn.q", "attn.k", "attn.v", "attn.o", "ffn.up", "ffn.down")
    assert roles == [f"layer.{i}.{part}" for i in range(6) for part in layer] + ["pooler"] * has_pooler
    assert all(op.mask is not None and op.bias is None for op in ops if isinstance(op, nn.AttentionOp))
