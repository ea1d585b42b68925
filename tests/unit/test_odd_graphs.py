"""Graphs and reports that only a fuzzer writes: what they are is said in one line, or they just run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import hpcc
from compiler.dialects import nn
from compiler.frontend.importer import import_onnx
from compiler.passes.fuse import FusePass
from compiler.tools.stages import new_context
from hw_targets.errors import InputError
from hw_targets.storage import BASIS
from runtime.compare import compare, read_reports
from runtime.manifest import TensorEntry
from runtime.samples import joined
from tests.e2e.harness import hpcc as run_tool
from tests.graphs import Encoder, write

BASE = Encoder(hidden=96, heads=4, intermediate=208, layers=1, head="pooler")


def graph(path: Path, nodes: list[onnx.NodeProto], shape: list[int], result: list[int]) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, result)
    names = {name for node in nodes for name in node.input if name != "x"}
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [shape[-1]], np.ones(shape[-1])) for name in sorted(names)]
    body = helper.make_graph(nodes, "odd", [x], [y], weights)
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_an_attribute_of_a_function_outside_of_one(tmp_path: Path) -> None:
    node = helper.make_node("LayerNormalization", ["x", "gamma"], ["y"], epsilon=1e-5)
    node.attribute[0].ref_attr_name = "elsewhere"
    with pytest.raises(InputError, match="'epsilon' refers to an attribute of a function") as error:
        import_onnx(graph(tmp_path / "m.onnx", [node], [2, 4], [2, 4]), {})
    assert error.value.code == "HPCC1016"


@pytest.mark.parametrize("op", ["Gather", "GatherND"])
def test_indices_that_are_no_integers(op: str, tmp_path: Path) -> None:
    """ONNX has no such node: it is left to ONNX Runtime, which says so."""
    node = helper.make_node(op, ["x", "places"], ["y"])
    module = import_onnx(graph(tmp_path / "m.onnx", [node], [4, 4], [4, 4]), {}).module
    assert not any(isinstance(op, nn.GatherOp) for op in module.walk())


def test_a_bound_input_without_entries(tmp_path: Path) -> None:
    model = write(BASE, tmp_path / "model.onnx", symbolic=True)
    with pytest.raises(InputError, match="is empty") as error:
        import_onnx(model, {"input_ids": (0, 8)})
    assert error.value.code == "HPCC1011"


def test_scores_scaled_by_more_than_fp32_holds(tmp_path: Path) -> None:
    """1 / 1e-40 is a number here and none there: the attention stays in parts."""
    model = onnx.load(write(BASE, tmp_path / "model.onnx"))
    divisor = next(node.input[1] for node in model.graph.node if node.op_type == "Div" and "attention" in node.input[0])
    constant = next(entry for entry in model.graph.initializer if entry.name == divisor)
    constant.CopyFrom(onnx.numpy_helper.from_array(np.array(1e-40, np.float32), divisor))
    onnx.save(model, tmp_path / "odd.onnx")
    imported = import_onnx(tmp_path / "odd.onnx", {})
    ctx = new_context(imported.store)
    FusePass().apply(ctx, imported.module)
    ops = list(imported.module.walk())
    assert not any(isinstance(op, nn.AttentionOp) for op in ops)
    assert any(isinstance(op, nn.SoftmaxOp) for op in ops)


def test_an_output_whose_rows_are_no_samples(tmp_path: Path) -> None:
    node = helper.make_node("Flatten", ["x"], ["y"], axis=3)
    model = graph(tmp_path / "m.onnx", [node], [2, 3, 4, 5], [24, 5])
    compiled = hpcc.compile(model, "fpga-u280")
    assert compiled.outputs["y"].shape == (24, 5)


def test_bundles_are_compared_with_a_layer_of_two_factors(tmp_path: Path) -> None:
    """A dense program and one of products are of one model; a report whose layers lack their kind is of no model."""
    model = write(BASE, tmp_path / "model.onnx", 2, 8)
    for name, spec in (("dense", "dense"), ("low", "low_rank:0.75")):
        hpcc.compile(model, "fpga-u280", sparsity=spec, output=tmp_path / name)
    dense, low = ((name, *read_reports(tmp_path / name)) for name in ("dense", "low"))
    names = [pair.name for pair in compare(dense, low).layers]
    assert sum(name.endswith(BASIS) for name in names) > 0
    for layer in low[1]["layers"]:
        del layer["op"]
    with pytest.raises(InputError, match="different models"):
        compare(dense, low)


def test_one_figure_of_a_whole_batch(tmp_path: Path) -> None:
    """A loss: compared like every output, and of one batch only."""
    node = helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)
    model = graph(tmp_path / "m.onnx", [node], [2, 4], [])
    done = run_tool(model, "--target", "fpga-u280", "-q", "-o", tmp_path / "out")
    assert (done.status, done.err) == (0, "")
    entry = TensorEntry(name="y", dtype="float32", shape=())
    batch = np.array(2.5, np.float32)
    assert joined(entry, [batch], 2, 2) is batch
    for samples in (1, 3):
        with pytest.raises(InputError, match="no axis of samples") as error:
            joined(entry, [batch, batch][: samples // 2 + 1], 2, samples)
        assert error.value.code == "HPCC1258"
