"""The larger workloads through import, fuse, sparsify and quantize: int8 L6, TinyBERT-4L and -6L, BERT-base (slow)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from xdsl.context import Context

from benchmarks.workloads import GENERATED
from compiler.dialects import nn
from compiler.frontend.host import host_parts
from compiler.frontend.importer import Imported, import_onnx
from compiler.interpreters.evaluate import evaluate
from compiler.module import main_function
from compiler.passes.fuse import FusePass
from compiler.passes.partition import PartitionPass
from compiler.passes.quantize import QuantizePass
from compiler.passes.sparsify import SparsifyPass
from compiler.tools.reference import RELATIVE_L2, TOKEN_COSINE, Reference, distance
from compiler.weights import attach_store

pytestmark = pytest.mark.slow

BATCH, TOKENS = 4, 37
LAYERS = {"tinybert4": 4, "tinybert6": 6, "bertbase": 12}
ROLES = ("attn.q", "attn.k", "attn.v", "attn.o", "ffn.up", "ffn.down")


def inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    lengths = np.array([[TOKENS], [1], [20], [36]])
    return {
        "input_ids": random.integers(0, 30522, (BATCH, TOKENS)),
        "attention_mask": (np.arange(TOKENS)[None] < lengths).astype(np.int64),
        "token_type_ids": random.integers(0, 2, (BATCH, TOKENS)),
    }


def fused(path: Path) -> tuple[Context, Imported]:
    imported = import_onnx(path, {"input_ids": (BATCH, TOKENS)})
    ctx = Context()
    attach_store(ctx, imported.store)
    FusePass().apply(ctx, imported.module)
    PartitionPass().apply(ctx, imported.module)
    return ctx, imported


def keys_of(imported: Imported) -> dict[str, str]:
    linears = (op for op in imported.module.walk() if isinstance(op, nn.LinearOp))
    weights = {op.role.data: nn.stored_weight(op.weight) for op in linears}
    return {role: weight.key.data for role, weight in weights.items() if weight is not None}


def check(path: Path, pattern: str) -> Imported:
    """Fused and pruned equals ONNX Runtime on the same weights; the integers stay within the limits."""
    ctx, imported = fused(path)
    before = keys_of(imported)
    if pattern != "dense":
        SparsifyPass(pattern).apply(ctx, imported.module)
    replaced = {old: new for old, new in zip(before.values(), keys_of(imported).values(), strict=True) if old != new}
    feed = inputs()
    wanted = Reference(imported.model, imported.store, replaced).run(feed)
    floats = evaluate(imported.module, imported.store, feed)
    QuantizePass().apply(ctx, imported.module)
    integers = evaluate(imported.module, imported.store, feed)
    for name, value in wanted.items():
        assert np.abs(floats[name] - value).max() <= 1e-4 * np.sqrt(np.mean(np.square(value)))
        found = distance(name, integers[name], value, feed["attention_mask"])
        assert found.relative_l2 <= RELATIVE_L2
        assert found.min_token_cosine >= TOKEN_COSINE
    return imported


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", GENERATED)
def test_everything_runs_on_the_accelerator(name: str, exporter: str, generated: Callable[..., Path]) -> None:
    _, imported = fused(generated(name, exporter))
    assert host_parts(imported.module) == ()
    assert list(keys_of(imported)) == [f"layer.{i}.{role}" for i in range(LAYERS[name]) for role in ROLES] + ["pooler"]
    counts = Counter(op.name.removeprefix("hpcc_nn.") for op in main_function(imported.module).body.block.ops)
    assert (counts["attention"], counts["embedding"]) == (LAYERS[name], 1)
    assert counts["layer_norm"] == 2 * LAYERS[name] + 1


@pytest.mark.parametrize("pattern", ["dense", "nm:2:4", "hp:0.75"])
def test_tails_of_windows_rows_and_heads(pattern: str, generated: Callable[..., Path]) -> None:
    """312 inputs are 9.75 windows of 32, 1,200 are 37.5; a head has 26 features."""
    check(generated("tinybert4"), pattern)


@pytest.mark.parametrize("name", ["tinybert6", "bertbase"])
def test_the_larger_ones_stay_close(name: str, generated: Callable[..., Path]) -> None:
    check(generated(name), "hp:0.75")


@pytest.mark.parametrize("pattern", ["dense", "nm:2:4", "hp:0.75"])
def test_int8_l6_keeps_its_codes(l6_int8_model: Path, pattern: str) -> None:
    _, before = fused(l6_int8_model)
    imported = check(l6_int8_model, pattern)
    assert host_parts(imported.module) == ()
    keys = keys_of(before)
    linears = [op for op in imported.module.walk() if isinstance(op, nn.QLinearOp)]
    assert len(linears) == 36
    for op in linears:
        assert isinstance(op.weight.owner, nn.WeightOp)
        codes = imported.store.get(op.weight.owner.key.data)
        original = before.store.get(keys[op.role.data]).T
        np.testing.assert_array_equal(codes, np.where(codes != 0, original, 0))
        if pattern == "dense":
            np.testing.assert_array_equal(codes, original)
        else:
            assert np.count_nonzero(codes) >= 0.95 * codes.size * {"nm:2:4": 0.5, "hp:0.75": 0.25}[pattern]


def test_compiling_bert_base_takes_less_than_three_times_its_file(tmp_path: Path, generated: Callable[..., Path]) -> None:
    """Peak memory of the whole command; the seconds are for `make bench`, a busy machine proves nothing."""
    path = generated("bertbase")
    command = [sys.executable, "-m", "compiler.tools.hpcc", str(path), "--target", "fpga-u280"]
    options = ["--shape", "input_ids:1x128", "--sparsity", "hp:0.75", "--emit", "program", "--no-verify", "-q"]
    # Between this process, which may be large, and the command: Linux counts what a process was before exec.
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    subprocess.run([*shell, *command, *options, "-o", str(tmp_path / "out.hpcc")], check=True)
    peak_mb = json.loads((tmp_path / "out.hpcc" / "run.json").read_text())["peak_rss_mb"]
    assert 100 < peak_mb <= 3 * path.stat().st_size / 2**20
