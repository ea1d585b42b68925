"""Movements of data around linear layers and attention that the device need not see: against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from compiler.frontend.importer import import_onnx
from compiler.frontend.preflight import preflight
from compiler.interpreters.evaluate import evaluate
from compiler.module import main_function
from compiler.passes.fuse import FusePass
from compiler.passes.partition import PartitionPass
from compiler.weights import attach_store

HEADS, SIZE = 4, 8
WIDTH = HEADS * SIZE


class Graph:
    """Nodes and weights under construction."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def ints(self, *values: int) -> str:
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), f"ints_{len(self.weights)}"))
        return self.weights[-1].name

    def weight(self, *shape: int) -> str:
        values = self.random.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[-1]))
        self.weights.append(numpy_helper.from_array(values, f"weight_{len(self.weights)}"))
        return self.weights[-1].name

    def number(self, value: float) -> str:
        self.weights.append(numpy_helper.from_array(np.float32(value), f"number_{len(self.weights)}"))
        return self.weights[-1].name

    def turn(self, x: str, *perm: int) -> str:
        return self.op("Transpose", x, perm=list(perm))

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.ints(*shape))

    def rows(self, x: str, start: int, stop: int) -> str:
        return self.op("Slice", x, self.ints(start), self.ints(stop), self.ints(0))

    def linear(self, x: str, weight: str, bias: str) -> str:
        return self.op("Add", self.op("MatMul", x, self.turn(weight, 1, 0)), bias)

    def save(self, path: Path, shape: tuple[int, ...], output: str) -> Path:
        self.nodes.append(helper.make_node("Identity", [output], ["y"]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "g", [x], [y], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(onnx.shape_inference.infer_shapes(model), str(path))
        return path


def on_the_device(path: Path, shape: tuple[int, ...]) -> ModuleOp:
    """The module if the host has nothing to do, held to ONNX Runtime."""
    imported = import_onnx(path, {})
    ctx = Context()
    attach_store(ctx, imported.store)
    for step in (FusePass(), PartitionPass()):
        step.apply(ctx, imported.module)
        imported.module.verify()
    assert preflight(imported.module).rows == ()
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    wanted = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    (got,) = evaluate(imported.module, imported.store, {"x": x}).values()
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    return imported.module


def kinds(module: ModuleOp) -> list[str]:
    return [op.name.removeprefix("hpcc_nn.") for op in main_function(module).body.block.ops]


@pytest.mark.parametrize("batch", [1, 2])
def test_attention_that_pools_with_a_stored_query(batch: int, tmp_path: Path) -> None:
    """torch's MultiheadAttention behind a stored token: tokens before samples, q cut off the weights, k and v chosen."""
    g, tokens = Graph(), 6
    weight, bias = g.weight(3 * WIDTH, WIDTH), g.weight(3 * WIDTH)
    query = g.turn(g.op("Tile", g.weight(1, 1, WIDTH), g.ints(batch, 1, 1)), 1, 0, 2)
    q = g.linear(query, g.rows(weight, 0, WIDTH), g.rows(bias, 0, WIDTH))
    both = g.linear(g.turn("x", 1, 0, 2), g.rows(weight, WIDTH, 3 * WIDTH), g.rows(bias, WIDTH, 3 * WIDTH))
    both = g.turn(g.reshape(both, 1, tokens, batch, 2, WIDTH), 3, 1, 2, 0, 4)
    both = g.reshape(both, 2, tokens, batch, WIDTH)
    k, v = (g.reshape(g.op("Gather", both, g.ints(i), axis=0), tokens, batch * HEADS, SIZE) for i in (0, 1))
    q = g.turn(g.reshape(q, 1, batch * HEADS, SIZE), 1, 0, 2)
    scores = g.op("MatMul", g.op("Mul", q, g.number(SIZE**-0.5)), g.turn(k, 1, 2, 0))
    context = g.op("MatMul", g.op("Softmax", scores, axis=-1), g.turn(v, 1, 0, 2))
    pooled = g.reshape(g.turn(context, 1, 0, 2), batch, WIDTH)
    y = g.op("Gemm", pooled, g.weight(WIDTH, WIDTH), g.weight(WIDTH), transB=1)
    shape = (batch, tokens, WIDTH)
    found = kinds(on_the_device(g.save(tmp_path / "m.onnx", shape, y), shape))
    assert found.count("linear") == 4
    assert found.count("attention") == found.count("embedding") == 1


def test_channels_in_front_change_places_with_sums_and_activations(tmp_path: Path) -> None:
    """Convolutions over single positions, with the residual and the activation in the convolutions' layout."""
    g = Graph()
    x = g.turn("x", 0, 2, 1)
    up = g.op("Relu", g.op("Conv", x, g.weight(64, WIDTH, 1), g.weight(64)))
    down = g.op("Conv", up, g.weight(WIDTH, 64, 1), g.weight(WIDTH))
    y = g.turn(g.op("Add", down, x), 0, 2, 1)
    found = kinds(on_the_device(g.save(tmp_path / "m.onnx", (2, 6, WIDTH), y), (2, 6, WIDTH)))
    assert "transpose" not in found


def test_one_head_needs_no_merging(tmp_path: Path) -> None:
    """With one head, exporters and simplifications leave no movement between the context and the layer behind it."""
    g = Graph()
    q, k, v = (g.linear("x", g.weight(WIDTH, WIDTH), g.weight(WIDTH)) for _ in range(3))
    q, k, v = (g.turn(g.reshape(part, 2, 6, 1, WIDTH), 0, 2, 1, 3) for part in (q, k, v))
    scores = g.op("Mul", g.op("MatMul", q, g.turn(k, 0, 1, 3, 2)), g.number(WIDTH**-0.5))
    context = g.op("MatMul", g.op("Softmax", scores, axis=-1), v)
    flat = g.reshape(g.turn(context, 0, 2, 1, 3), 2, 6, WIDTH)
    y = g.linear(flat, g.weight(WIDTH, WIDTH), g.weight(WIDTH))
    found = kinds(on_the_device(g.save(tmp_path / "m.onnx", (2, 6, WIDTH), y), (2, 6, WIDTH)))
    assert found.count("attention") == 1


def test_a_kernel_made_of_stored_tensors_is_stored(tmp_path: Path) -> None:
    """Weight norm: a direction over its length, times a length, as speech encoders have it before their positions."""
    g = Graph()
    direction = g.weight(16, 8, 3)
    length = g.op("ReduceL2", direction, g.ints(0, 1), keepdims=1)
    kernel = g.op("Mul", direction, g.op("Div", g.weight(1, 1, 3), length))
    g.nodes.append(helper.make_node("Conv", ["x", kernel], ["c"], name="c", pads=[1, 1]))
    path = g.save(tmp_path / "m.onnx", (1, 8, 20), "c")
    imported = import_onnx(path, {})
    ctx = Context()
    attach_store(ctx, imported.store)
    FusePass().apply(ctx, imported.module)
    PartitionPass().apply(ctx, imported.module)
    table = preflight(imported.module)
    assert (table.device_macs, table.host_macs) == (20 * 16 * 8 * 3, 0)
