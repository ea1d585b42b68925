"""Partitioned models, host segments in ONNX Runtime and the device part in the interpreter, against the whole model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from xdsl.context import Context

from compiler.dialects import nn
from compiler.frontend.bridging import build_bridges
from compiler.frontend.host import HostSegment, host_segments
from compiler.frontend.importer import Imported, import_onnx
from compiler.frontend.preflight import preflight
from compiler.interpreters.evaluate import evaluate
from compiler.module import main_function, names_of
from compiler.passes.bridges import BRIDGES
from compiler.passes.fuse import FusePass
from compiler.passes.partition import PartitionPass
from compiler.weights import attach_store
from tests.graphs import Encoder, build, feeds

Change = Callable[[onnx.ModelProto], None]


def partition(spec: Encoder, folder: Path, change: Change | None = None, kind: str = "fpga") -> Imported:
    model = build(spec, 2, 8)
    if change is not None:
        change(model)
    onnx.save(model, str(folder / "model.onnx"))
    imported = import_onnx(folder / "model.onnx", {})
    ctx = Context()
    attach_store(ctx, imported.store)
    for step in (FusePass(), PartitionPass(kind=kind)):
        step.apply(ctx, imported.module)
        imported.module.verify()
    return imported


def run(segment: HostSegment, values: dict[str, np.ndarray]) -> None:
    onnx.checker.check_model(segment.model)
    session = ort.InferenceSession(segment.model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert {value.name for value in session.get_inputs()} <= set(segment.inputs)
    given = {value.name: values[value.name] for value in session.get_inputs()}
    values.update(zip(segment.outputs, session.run(list(segment.outputs), given), strict=True))


def worst_error(imported: Imported, inputs: dict[str, np.ndarray]) -> float:
    """Run host and device in turn; the largest error over the rms of an output. What a later part of the device reads is 0
    as long as it is not there."""
    values = dict(inputs)
    segments = host_segments(imported.module, imported.model)
    function = main_function(imported.module)
    shapes = {n: nn.shape_of(a) for n, a in zip(names_of(function, "input_names"), function.body.block.args, strict=True)}
    for segment in segments:
        if segment.when != "before":
            values.update(device(imported, values, shapes))
        run(segment, values)
    if not segments or segments[-1].when != "after":
        values.update(device(imported, values, shapes))
    session = ort.InferenceSession(str(imported.path), providers=["CPUExecutionProvider"])
    expected = zip(session.get_outputs(), session.run(None, inputs), strict=True)
    pairs = [(values[output.name].astype(float), e.astype(float)) for output, e in expected]
    return max(float(np.abs(f - e).max() / max(np.sqrt(np.mean(np.square(e))), 1e-30)) for f, e in pairs)


def device(imported: Imported, values: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    missing = {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if name not in values}
    return evaluate(imported.module, imported.store, {**values, **missing})


def device_ops(imported: Imported) -> list[object]:
    return list(main_function(imported.module).body.block.ops)


@pytest.mark.parametrize("head", ["none", "mean", "pooler", "classifier"])
def test_a_whole_encoder_stays_on_the_device(head: str, tmp_path: Path) -> None:
    spec = Encoder(head=head, layers=2)  # pyright: ignore[reportArgumentType]
    imported = partition(spec, tmp_path)
    table = preflight(imported.module)
    assert table.feasible
    assert table.rows == ()
    assert host_segments(imported.module, imported.model) == []
    assert worst_error(imported, feeds(spec)) <= 1e-4


def test_slopes_that_the_host_counts_are_added_to_scores(tmp_path: Path) -> None:
    """ALiBi, with heads and sequences in one axis around the products and apart around the softmax: only the counting of
    words before a key is the host's."""
    spec = Encoder(attention="batched", mask="counted", layers=2)
    imported = partition(spec, tmp_path)
    found = [op for op in device_ops(imported) if isinstance(op, nn.AttentionOp)]
    assert [op.bias_extents for op in found] == [(2, spec.heads, 1, 8)] * 2
    table = preflight(imported.module)
    assert {row.when for row in table.rows} == {"before"}
    assert table.host_macs == 0
    assert worst_error(imported, feeds(spec)) <= 1e-4


def test_macs_are_those_of_the_formula(tmp_path: Path) -> None:
    spec = Encoder(layers=2, mask="none")
    rows, h, i = 2 * 8, spec.hidden, spec.intermediate
    expected = spec.layers * (rows * (4 * h * h + 2 * h * i) + 2 * rows * 8 * h)
    assert preflight(partition(spec, tmp_path).module).device_macs == expected


def pass_input_through(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["input_ids"], ["ids_again"], name="echo"))
    model.graph.output.append(helper.make_tensor_value_info("ids_again", TensorProto.INT64, [2, 8]))


def test_a_passed_input_is_host_work(tmp_path: Path) -> None:
    spec = Encoder()
    imported = partition(spec, tmp_path, pass_input_through)
    (row,) = preflight(imported.module).rows
    assert (row.op, row.macs, row.when) == ("Identity", 0, "after")
    assert "ids_again" not in names_of(main_function(imported.module), "output_names")
    assert worst_error(imported, feeds(spec)) <= 1e-4


def normalise_output(model: onnx.ModelProto) -> None:
    name = model.graph.output[0].name
    model.graph.node.append(helper.make_node("LpNormalization", [name], ["unit"], name="unit", axis=-1, p=2))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("unit", TensorProto.FLOAT, [2, 8, 32]))


def test_an_unsupported_tail_runs_after(tmp_path: Path) -> None:
    spec = Encoder()
    imported = partition(spec, tmp_path, normalise_output)
    table = preflight(imported.module)
    (row,) = table.rows
    assert (row.onnx_node, row.op, row.when) == ("unit", "LpNormalization", "after")
    assert "LpNormalization" in row.reason
    assert table.feasible
    assert worst_error(imported, feeds(spec)) <= 1e-4


def shift_ids(model: onnx.ModelProto) -> None:
    """input_ids goes through an operator that the accelerator does not have."""
    for node in model.graph.node:
        node.input[:] = ["shifted" if name == "input_ids" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("BitwiseXor", ["input_ids", "one"], ["shifted"], name="shift"))
    model.graph.initializer.append(helper.make_tensor("one", TensorProto.INT64, [1], [1]))


def test_an_unsupported_front_runs_before(tmp_path: Path) -> None:
    spec = Encoder()
    imported = partition(spec, tmp_path, shift_ids)
    (row,) = preflight(imported.module).rows
    assert (row.onnx_node, row.when) == ("shift", "before")
    assert names_of(main_function(imported.module), "input_names")[0] == "shifted"
    inputs = feeds(spec)
    inputs["input_ids"] &= ~1
    assert worst_error(imported, inputs) <= 1e-4


def swish_in_the_middle(model: onnx.ModelProto) -> None:
    """Layer 0's activation becomes one that stays elementary."""
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type = "Softplus"


def test_the_device_goes_on_behind_the_host(tmp_path: Path) -> None:
    """Two parts: the first hands the feed-forward layer's middle over, keeps the residual, and the second takes it back."""
    spec = Encoder(layers=2, gelu="relu", head="mean")
    macs = preflight(partition(spec, tmp_path).module).device_macs
    imported = partition(spec, tmp_path, swish_in_the_middle)
    table = preflight(imported.module)
    assert (table.device_macs, table.host_macs) == (macs, 0)
    ((row,),) = [table.rows]
    assert (row.op, row.when) == ("Softplus", "between")
    kinds = [isinstance(op, nn.HandOverOp) for op in device_ops(imported)]
    assert sum(kinds) == 1
    first = device_ops(imported)[: kinds.index(True)]
    assert sum(isinstance(op, nn.LinearOp) for op in first) == 5
    (handed,) = [op for op in device_ops(imported) if isinstance(op, nn.HandOverOp)]
    assert len(handed.values) == 1
    function = main_function(imported.module)
    assert [p.value.data for p in function.attributes["input_parts"]] == [0, 0, 0, 1]
    assert sorted(p.value.data for p in function.attributes["output_parts"]) == [0, 1, 1]
    assert worst_error(imported, feeds(spec)) <= 1e-4


def test_borders_without_a_name_are_movements_of_the_graphs_tensors(tmp_path: Path) -> None:
    """Feed-forward layers as convolutions over single positions: the graph has their channels in front, the device does not.
    The operator between two of them reads and writes what the graph has no name for."""
    spec = Encoder(layers=2, gelu="relu", linear="conv")
    macs = preflight(partition(spec, tmp_path).module).device_macs
    imported = partition(spec, tmp_path, soften_before_it_is_turned_back)
    table = preflight(imported.module)
    assert (table.device_macs, table.host_macs) == (macs, 0)
    handed = [name for op in device_ops(imported) if isinstance(op, nn.HandOverOp) for name in op.tensors]
    assert len(handed) == 1
    assert ":" in str(handed[0])
    assert len(imported.module.attributes[BRIDGES].data) == 2  # pyright: ignore
    assert worst_error(imported, feeds(spec)) <= 1e-4
    before = [str(node.name) for node in imported.model.graph]
    build_bridges(imported.module, imported.model)
    assert [str(node.name) for node in imported.model.graph] == before, "what is there already is not built again"


def stray_configuration(model: onnx.ModelProto) -> None:
    """Against the standard: a Reshape by a mask of floats, and a node for devices that the model does not list, at which
    ONNX's own inference of shapes gives up for everything behind it."""
    soften = next(node for node in model.graph.node if node.op_type == "Add" and "mask" in node.input[1])
    soften.op_type = "Reshape"
    next(node for node in model.graph.node if "embeddings.position" in node.input).device_configurations.add()


def test_borders_of_a_graph_whose_shapes_onnx_does_not_infer(tmp_path: Path) -> None:
    """What import found out about them is written into the graph."""
    imported = partition(Encoder(projections="chosen"), tmp_path, stray_configuration)
    segments = host_segments(imported.module, imported.model)
    assert any(node.op == "Reshape" for segment in segments for node in segment.nodes)
    borders = {name for segment in segments for name in segment.inputs}
    values = {value.name: value for node in imported.model.graph for value in node.outputs if value.name in borders}
    assert values
    assert all(value.shape is not None and value.dtype is not None for value in values.values())


def soften_before_it_is_turned_back(model: onnx.ModelProto) -> None:
    """Between the two convolutions of layer 0's feed-forward part, Softplus on the channels in place of everything."""
    swish_in_the_middle(model)
    nodes = list(model.graph.node)
    soft = next(node for node in nodes if node.op_type == "Softplus")
    back = next(node for node in nodes if node.output[0] == soft.input[0])
    turn = next(node for node in nodes if soft.output[0] in node.input)
    assert back.op_type == turn.op_type == "Transpose"
    convolution = next(node for node in nodes if turn.output[0] in node.input)
    soft.input[0], convolution.input[0] = back.input[0], soft.output[0]
    for node in (back, turn):
        model.graph.node.remove(node)


def test_a_cpu_has_one_part(tmp_path: Path) -> None:
    spec = Encoder(layers=2, gelu="relu", head="mean")
    imported = partition(spec, tmp_path, swish_in_the_middle, kind="cpu")
    table = preflight(imported.module)
    assert not table.feasible
    assert sum(isinstance(op, nn.LinearOp) for op in device_ops(imported)) == 5
    assert {row.when for row in table.rows} == {"after"}
    assert any(row.reason == "it follows a node that runs on the host" for row in table.rows)
    assert worst_error(imported, feeds(spec)) <= 1e-4


def soften_the_pooler(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Tanh").op_type = "Softsign"


def test_a_few_products_do_not_bring_the_model_back_to_the_device(tmp_path: Path) -> None:
    """The classifier behind the pooler's activation is 0.07 % of the MACs, less than a request each way is worth."""
    spec = Encoder(layers=2, head="classifier")
    imported = partition(spec, tmp_path, soften_the_pooler)
    rows = preflight(imported.module).rows
    assert [(row.op, row.when) for row in rows] == [("Softsign", "after"), ("linear", "after")]
    assert "too few products" in rows[1].reason
    assert 0 < rows[1].macs_share < 0.0025
    assert not any(isinstance(op, nn.HandOverOp) for op in device_ops(imported))
    assert worst_error(imported, feeds(spec)) <= 1e-4


def test_a_mask_that_is_not_boolean_is_made_on_the_host_and_added_on_the_device(tmp_path: Path) -> None:
    spec = Encoder(mask="weak")
    imported = partition(spec, tmp_path)
    table = preflight(imported.module)
    assert table.host_macs == 0
    assert {row.when for row in table.rows} == {"before"}
    (attention,) = [op for op in device_ops(imported) if isinstance(op, nn.AttentionOp)]
    assert attention.mask is None
    assert attention.bias_extents == (2, 1, 1, 8)
    assert worst_error(imported, feeds(spec)) <= 1e-4


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_cpus_and_gpus_leave_attention_with_a_bias_to_the_host(kind: str, tmp_path: Path) -> None:
    spec = Encoder(mask="weak")
    imported = partition(spec, tmp_path, kind=kind)
    attention = next(row for row in preflight(imported.module).rows if row.op == "attention")
    assert f"the {kind.upper()} kernels add no bias" in attention.reason
    assert attention.macs == 2 * 2 * 8 * 8 * 32
    assert worst_error(imported, feeds(spec)) <= 1e-4


def test_the_table_reads_well(tmp_path: Path) -> None:
    text = preflight(partition(Encoder(), tmp_path, normalise_output).module).text()
    assert text.startswith("100.0% of ")
    table, _, helps = text.partition("\nwhat would help\n")
    assert table.rstrip().splitlines()[-1].startswith("unit")
    assert helps.strip()
    assert "no node runs on the host" in preflight(partition(Encoder(), tmp_path).module).text()
