"""Fused operators of ONNX Runtime and of opset 23: what they are spelled out as computes what ONNX Runtime computes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compiler.frontend.importer import import_onnx
from compiler.frontend.preflight import preflight
from compiler.interpreters.evaluate import evaluate
from compiler.passes.fuse import FusePass
from compiler.passes.partition import PartitionPass
from compiler.tools.stages import new_context

Array = NDArray[Any]
MS = "com.microsoft"
B, S, D, H = 2, 6, 16, 4


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


IDS = np.random.default_rng(3).integers(0, 9, (B, S)).astype(np.int32)
MASK = (np.arange(S)[None] < np.array([[4], [6]])).astype(np.int32)
TABLES = [normal(9, D), normal(S, D), normal(2, D), normal(D) + 1, normal(D)]
FOUR = [normal(B, H, S, D // H, seed=seed) for seed in (1, 2, 3)]
THREE = [normal(B, S, D, seed=seed) for seed in (1, 2, 3)]

# name: (domain, operator, inputs, how many of them are graph inputs, outputs, attributes)
CASES: dict[str, tuple[str, str, list[Array | None], int, int, dict[str, Any]]] = {
    "Gelu": (MS, "Gelu", [normal(B, S, D)], 1, 1, {}),
    "BiasGelu": (MS, "BiasGelu", [normal(B, S, D), normal(D)], 1, 1, {}),
    "FastGelu": (MS, "FastGelu", [normal(B, S, D), normal(D)], 1, 1, {}),
    "QuickGelu": (MS, "QuickGelu", [normal(B, S, D)], 1, 1, {"alpha": 1.702}),
    "SkipLayerNormalization": (MS, "SkipLayerNormalization", [*THREE[:2], normal(D) + 1, normal(D)], 2, 1, {}),
    "SkipLayerNormalization, bias and sum": (
        MS,
        "SkipLayerNormalization",
        [*THREE[:2], normal(D) + 1, normal(D), normal(D, seed=5)],
        2,
        4,
        {"epsilon": 1e-5},
    ),
    "SkipSimplifiedLayerNormalization": (MS, "SkipSimplifiedLayerNormalization", [*THREE[:2], normal(D) + 1], 2, 1, {}),
    "SimplifiedLayerNormalization": ("", "SimplifiedLayerNormalization", [THREE[0], normal(D) + 1], 1, 1, {}),
    "EmbedLayerNormalization": (MS, "EmbedLayerNormalization", [IDS, IDS % 2, *TABLES], 2, 2, {"epsilon": 1e-6}),
    "FusedMatMul": (MS, "FusedMatMul", FOUR[:2], 2, 1, {"transB": 1, "alpha": 0.5}),
    "FusedMatMul, stored": (MS, "FusedMatMul", [THREE[0], normal(D, 8)], 1, 1, {}),
    "Attention": (MS, "Attention", [THREE[0], normal(D, 3 * D), normal(3 * D), MASK], 1, 1, {"num_heads": H}),
    "Attention, causal": (
        MS,
        "Attention",
        [THREE[0], normal(D, 3 * D), normal(3 * D)],
        1,
        1,
        {"num_heads": H, "unidirectional": 1},
    ),
    "MultiHeadAttention": (
        MS,
        "MultiHeadAttention",
        [*THREE, normal(3 * D), MASK, normal(1, H, S, S)],
        3,
        1,
        {"num_heads": H},
    ),
    "Attention-23": ("", "Attention", FOUR, 3, 1, {}),
    "Attention-23, causal": ("", "Attention", FOUR, 3, 1, {"is_causal": 1, "scale": 0.3}),
    "Attention-23, boolean mask": ("", "Attention", [*FOUR, np.repeat(MASK[:, None, None] > 0, S, 2)], 4, 1, {}),
    "Attention-23, flat": ("", "Attention", THREE, 3, 1, {"q_num_heads": H, "kv_num_heads": H}),
    "Attention-23, grouped": ("", "Attention", [FOUR[0], FOUR[1][:, :2], FOUR[2][:, :2]], 3, 1, {}),
    "RMSNormalization": ("", "RMSNormalization", [THREE[0], normal(D) + 1], 1, 1, {}),
    "Einsum": ("", "Einsum", FOUR[:2], 2, 1, {"equation": "bhsd,bhtd->bhst"}),
    "Einsum, tokens first": ("", "Einsum", [normal(B, S, H, 4), normal(B, 5, H, 4)], 2, 1, {"equation": "bshd,bthd->bhst"}),
    "Einsum, heads": ("", "Einsum", [THREE[0], normal(D, H, 4)], 1, 1, {"equation": "bsd,dhk->bshk"}),
    "Einsum, heads first": ("", "Einsum", [THREE[0], normal(H, 4, D)], 1, 1, {"equation": "bsd,hkd->bshk"}),
}


def model_of(name: str, path: Path) -> tuple[Path, dict[str, Array]]:
    """A model of one node; its first inputs are graph inputs, the others initializers."""
    domain, op_type, arrays, given, outputs, attributes = CASES[name]
    names = ["" if array is None else f"x{index}" for index, array in enumerate(arrays)]
    pairs = [(label, array) for label, array in zip(names, arrays, strict=True) if array is not None]
    results = ["y", "unused"] if outputs == 2 else ["y", "", "", "total"][:outputs]
    node = helper.make_node(op_type, names, results, name="node", domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [_info(label, array) for label, array in pairs[:given]],
        [helper.make_tensor_value_info(label, TensorProto.FLOAT, None) for label in results if label in ("y", "total")],
        [numpy_helper.from_array(array, label) for label, array in pairs[given:]],
    )
    opset = 23 if op_type in ("Attention", "RMSNormalization") and not domain else 17
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    return path, dict(pairs[:given])


def _info(name: str, array: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_what_onnxruntime_computes(name: str, tmp_path: Path) -> None:
    path, feeds = model_of(name, tmp_path / "model.onnx")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = dict(zip((o.name for o in session.get_outputs()), session.run(None, feeds), strict=True))
    imported = import_onnx(path, {})
    found = evaluate(imported.module, imported.store, feeds)
    assert found.keys() == wanted.keys()
    for label, array in wanted.items():
        np.testing.assert_allclose(found[label], array, rtol=2e-4, atol=2e-5)


def test_a_soft_cap_stays_on_the_host(tmp_path: Path) -> None:
    CASES["softcap"] = ("", "Attention", FOUR, 3, 1, {"softcap": 10.0})
    try:
        path, _ = model_of("softcap", tmp_path / "model.onnx")
    finally:
        del CASES["softcap"]
    imported = import_onnx(path, {})
    ctx = new_context(imported.store)
    FusePass().apply(ctx, imported.module)
    PartitionPass().apply(ctx, imported.module)
    assert [row.op for row in preflight(imported.module).rows] == ["Attention"]


@pytest.mark.parametrize("multi_head", [False, True])
@pytest.mark.parametrize("approximate", [False, True])
def test_the_optimiser_of_onnxruntime(multi_head: bool, approximate: bool, l3_model: Path, tmp_path: Path) -> None:
    """MiniLM as onnxruntime.transformers.optimizer writes it runs whole on the accelerator and computes the same."""
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.use_multi_head_attention = multi_head
    options.enable_gelu_approximation = approximate
    options.enable_embed_layer_norm = not approximate
    logging.disable(logging.CRITICAL)
    try:
        optimised = optimize_model(
            str(l3_model), "bert", num_heads=12, hidden_size=384, optimization_options=options, opt_level=0
        )
    finally:
        logging.disable(logging.NOTSET)
    path = tmp_path / "optimised.onnx"
    optimised.save_model_to_file(str(path))
    kinds = {node.op_type for node in onnx.load(path).graph.node if node.domain == MS}
    assert {"SkipLayerNormalization", "MultiHeadAttention" if multi_head else "Attention"} <= kinds
    imported = import_onnx(path, {"input_ids": (2, 12)})
    ctx = new_context(imported.store)
    FusePass().apply(ctx, imported.module)
    random = np.random.default_rng(1)
    feeds = {
        "input_ids": random.integers(5, 2000, (2, 12)),
        "attention_mask": (np.arange(12)[None] < np.array([[12], [7]])).astype(np.int64),
    }
    found = evaluate(imported.module, imported.store, feeds)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for output, wanted in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        error = np.abs(found[output.name] - wanted).max()
        assert error <= 1e-3 * max(1.0, float(np.abs(wanted).max())), output.name
    PartitionPass().apply(ctx, imported.module)
    assert preflight(imported.module).host_macs == 0
