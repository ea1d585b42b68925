"""Import and fuse of every spelling of an encoder against ONNX Runtime, and what the fused module must contain."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from xdsl.context import Context

from compiler.dialects import nn
from compiler.frontend.importer import Imported, import_onnx
from compiler.interpreters.evaluate import evaluate
from compiler.module import main_function
from compiler.passes.fuse import FusePass
from compiler.weights import attach_store
from tests.graphs import Encoder, feeds, write

BATCH, TOKENS = 2, 8

SPELLINGS = {
    "torchscript": Encoder(layers=2, linear="bias_first", head="mean", token_types="constant"),
    "dynamo": Encoder(layers=2, attention="sdpa", mask="gathered", gelu="dynamo", head="pooler", names="numbers"),
    "old": Encoder(layer_norm="decomposed", gelu="half_first", mask="1e4"),
    "reciprocal": Encoder(layer_norm="reciprocal", gelu="op", mask="where"),
    "gemm": Encoder(linear="gemm", head="classifier", mask="masked_fill"),
    "transposed": Encoder(linear="transposed", position="folded", token_types="none", gelu="relu"),
    "batched": Encoder(attention="batched", mask="none"),
    "weak": Encoder(mask="weak"),
    "causal": Encoder(mask="causal"),
    "split": Encoder(projections="split"),
    "chosen": Encoder(projections="chosen", layers=2),
    "interleaved": Encoder(projections="interleaved"),
    "einsum": Encoder(linear="einsum", layers=2),
    "gelu_by_tanh": Encoder(gelu="tanh"),
    "gelu_by_tanh_cubed": Encoder(gelu="tanh_cubed"),
    "gelu_op_by_tanh": Encoder(gelu="op_tanh"),
    "quick_gelu": Encoder(gelu="quick"),
    "silu": Encoder(gelu="silu"),
    "odd": Encoder(hidden=36, heads=3, intermediate=52, layers=2),
}


def load(spec: Encoder, folder: Path) -> Imported:
    return import_onnx(write(spec, folder / "model.onnx", BATCH, TOKENS), {})


def fuse(imported: Imported) -> Counter[str]:
    ctx = Context()
    attach_store(ctx, imported.store)
    FusePass().apply(ctx, imported.module)
    imported.module.verify()
    return Counter(op.name.removeprefix("hpcc_nn.") for op in main_function(imported.module).body.block.ops)


def worst_error(imported: Imported, inputs: dict[str, np.ndarray]) -> float:
    """The largest error against ONNX Runtime, over the rms of the output."""
    session = ort.InferenceSession(str(imported.path), providers=["CPUExecutionProvider"])
    expected = session.run(None, inputs)
    found = evaluate(imported.module, imported.store, inputs)
    pairs = [(found[output.name], e) for output, e in zip(session.get_outputs(), expected, strict=True)]
    return max(float(np.abs(f - e).max() / np.sqrt(np.mean(np.square(e)))) for f, e in pairs)


@pytest.mark.parametrize("name", SPELLINGS)
def test_import_and_fuse_agree_with_onnxruntime(name: str, tmp_path: Path) -> None:
    spec = SPELLINGS[name]
    imported = load(spec, tmp_path)
    inputs = feeds(spec, BATCH, TOKENS)
    assert worst_error(imported, inputs) <= 1e-4
    fuse(imported)
    assert worst_error(imported, inputs) <= 1e-4


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_part_is_recognised(name: str, tmp_path: Path) -> None:
    spec = SPELLINGS[name]
    counts = fuse(load(spec, tmp_path))
    heads = {"none": 0, "mean": 0, "pooler": 1, "classifier": 2}[spec.head]
    assert counts["linear"] == 6 * spec.layers + heads
    assert counts["attention"] == spec.layers
    assert counts["layer_norm"] == 2 * spec.layers + 1
    assert counts["embedding"] == 1
    assert counts["mean_pool"] == (spec.head == "mean")
    assert counts["take_token"] == (heads > 0)
    for leftover in ("matmul", "gemm", "softmax", "transpose", "gather", "unary", "reduce", "expand"):
        assert counts[leftover] == 0, leftover


def attentions(imported: Imported) -> list[nn.AttentionOp]:
    return [op for op in main_function(imported.module).body.block.ops if isinstance(op, nn.AttentionOp)]


@pytest.mark.parametrize("mask", ["1e4", "finfo", "where", "gathered", "masked_fill", "dropped", "clamped"])
@pytest.mark.parametrize("attention", ["scores", "sdpa"])
def test_masks_from_a_0_1_input_become_boolean(mask: str, attention: str, tmp_path: Path) -> None:
    imported = load(Encoder(mask=mask, attention=attention), tmp_path)  # pyright: ignore[reportArgumentType]
    fuse(imported)
    (op,) = attentions(imported)
    assert op.bias is None
    assert op.mask is main_function(imported.module).body.block.args[1]
    assert worst_error(imported, feeds(Encoder(), BATCH, TOKENS)) <= 1e-4


def test_a_weak_mask_stays_an_addition(tmp_path: Path) -> None:
    imported = load(Encoder(mask="weak"), tmp_path)
    fuse(imported)
    (op,) = attentions(imported)
    assert op.mask is None
    assert op.bias is not None


def test_a_causal_mask_beside_one_of_padding(tmp_path: Path) -> None:
    imported = load(Encoder(mask="causal"), tmp_path)
    fuse(imported)
    (op,) = attentions(imported)
    assert op.mask is not None
    assert op.bias is None
    assert op.causal is not None


def test_no_mask(tmp_path: Path) -> None:
    imported = load(Encoder(mask="none"), tmp_path)
    fuse(imported)
    (op,) = attentions(imported)
    assert op.mask is None
    assert op.bias is None


@pytest.mark.parametrize("name", ["torchscript", "dynamo", "gemm"])
def test_roles_do_not_depend_on_the_exporter(name: str, tmp_path: Path) -> None:
    spec = replace(SPELLINGS[name], layers=2, head="pooler")
    imported = load(spec, tmp_path)
    fuse(imported)
    roles = [op.role.data for op in main_function(imported.module).body.block.ops if isinstance(op, nn.LinearOp)]
    layer = ("attn.q", "attn.k", "attn.v", "attn.o", "ffn.up", "ffn.down")
    assert roles == [f"layer.{i}.{part}" for i in range(2) for part in layer] + ["pooler"]
    assert [op.role.data for op in attentions(imported)] == ["layer.0.attn", "layer.1.attn"]


def test_a_classifier_is_named(tmp_path: Path) -> None:
    imported = load(Encoder(head="classifier"), tmp_path)
    fuse(imported)
    roles = [op.role.data for op in main_function(imported.module).body.block.ops if isinstance(op, nn.LinearOp)]
    assert roles[-2:] == ["pooler", "classifier"]


@pytest.mark.parametrize("spelling", ["matmul", "gemm", "transposed"])
def test_weight_types_are_out_x_in_and_no_data_moves(spelling: str, tmp_path: Path) -> None:
    imported = load(Encoder(linear=spelling), tmp_path)  # pyright: ignore[reportArgumentType]
    before = {key: imported.store.get(key) for key in imported.store.keys()}  # noqa: SIM118
    fuse(imported)
    up = next(
        op for op in main_function(imported.module).body.block.ops if isinstance(op, nn.LinearOp) and "up" in op.role.data
    )
    weight = up.weight.owner
    assert isinstance(weight, nn.WeightOp)
    assert nn.shape_of(up.weight) == (64, 32)
    assert weight.transposed == (spelling == "matmul")
    assert imported.store.get(weight.key.data) is before[weight.key.data]


def test_the_sum_of_an_embedding_keeps_its_order(tmp_path: Path) -> None:
    imported = load(Encoder(), tmp_path)
    fuse(imported)
    embedding = next(op for op in main_function(imported.module).body.block.ops if isinstance(op, nn.EmbeddingOp))
    keys = [table.owner.key.data for table in embedding.tables if isinstance(table.owner, nn.WeightOp)]
    assert keys == ["embeddings.word", "embeddings.type", "embeddings.position"]


def test_operations_know_their_onnx_node(tmp_path: Path) -> None:
    imported = load(Encoder(), tmp_path)
    nodes = {node.name for node in imported.model.graph}
    fuse(imported)
    from compiler.interpreters.evaluate import node_name

    for op in main_function(imported.module).body.block.ops:
        if isinstance(op, nn.LinearOp | nn.AttentionOp | nn.LayerNormOp | nn.EmbeddingOp | nn.ActivationOp):
            assert node_name(op) in nodes
