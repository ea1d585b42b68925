"""Models in whose middle the host does something: convolutions behind convolutions, operators without an instruction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.frontend.importer import import_onnx
from runtime.bundle import load_bundle
from runtime.program import Program
from tests.e2e.harness import TARGET, hpcc, read_json
from tests.graphs import Encoder, build

SPELLINGS = {
    "stride and padding": {"kernel_shape": [3], "strides": [2], "pads": [1, 1]},
    "uneven padding": {"kernel_shape": [3], "strides": [1], "pads": [2, 0]},
    "dilated": {"kernel_shape": [3], "strides": [1], "pads": [0, 0], "dilations": [2]},
    "same": {"kernel_shape": [3], "strides": [2], "auto_pad": "SAME_UPPER"},
    "groups": {"kernel_shape": [3], "strides": [1], "pads": [1, 1], "group": 2},
}


def convolutions(path: Path, second: dict[str, object], *, space: int = 1) -> Path:
    """Two convolutions with a GELU behind each, as speech encoders begin: [1, 8, 20 (x 20)] -> [1, 16, ...]."""
    random = np.random.default_rng(0)
    groups = int(second.get("group", 1))  # pyright: ignore[reportArgumentType]
    first = {"kernel_shape": [3] * space, "pads": [1] * 2 * space}
    kernel = second["kernel_shape"] * space  # pyright: ignore[reportOperatorIssue]
    shapes = {"w1": (16, 8, *[3] * space), "w2": (16, 16 // groups, *kernel)}
    weights = [numpy_helper.from_array(random.standard_normal(s).astype(np.float32) / 7, n) for n, s in shapes.items()]
    weights += [numpy_helper.from_array(random.standard_normal(16).astype(np.float32), name) for name in ("b1", "b2")]
    attributes = {k: v * space if isinstance(v, list) and k != "pads" else v for k, v in second.items()}
    if "pads" in attributes:
        before, after = attributes["pads"]  # pyright: ignore[reportGeneralTypeIssues]
        attributes["pads"] = [before] * space + [after] * space
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="first", **first),
        helper.make_node("Gelu", ["a"], ["b"], name="gelu"),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"], name="second", **attributes),
        helper.make_node("Gelu", ["c"], ["y"], name="gelu2"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, *[20] * space])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), str(path))
    return path


def rewritten(model: Path) -> onnx.ModelProto:
    import onnx_ir as ir

    return ir.to_proto(import_onnx(model, {}).model)


@pytest.mark.parametrize("space", [1, 2])
@pytest.mark.parametrize("name", list(SPELLINGS))
def test_products_over_patches_are_the_convolution(name: str, space: int, tmp_path: Path) -> None:
    path = convolutions(tmp_path / "m.onnx", SPELLINGS[name], space=space)
    x = np.random.default_rng(1).standard_normal((1, 8, *[20] * space)).astype(np.float32)
    wanted, got = (
        ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for data in (path.read_bytes(), rewritten(path).SerializeToString())
    )
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_heads_that_the_host_reads_apart(tmp_path: Path) -> None:
    """The attention stays on the device though an operator without an instruction stands before its heads are merged."""
    model = build(Encoder(layers=1), 2, 8)
    nodes = list(model.graph.node)
    turned = max(i for i, node in enumerate(nodes) if node.op_type == "Transpose" and node.attribute[0].ints == [0, 2, 1, 3])
    soft = helper.make_node("Softplus", nodes[turned].output, ["soft"], name="soft")
    nodes[turned + 1].input[0] = "soft"
    model.graph.node.insert(turned + 1, soft)
    onnx.save(model, tmp_path / "m.onnx")
    done = hpcc(tmp_path / "m.onnx", "--target", TARGET, "-q", "--verify-each", "-o", tmp_path / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    report, run = read_json(tmp_path / "out.hpcc" / "report.json"), read_json(tmp_path / "out.hpcc" / "run.json")
    assert {(entry["op"], entry["macs_share"]) for entry in report["host_ops"]} <= {("Softplus", 0), ("reshape", 0)}
    assert run["verify"]["bit_exact"]
    assert all(output["passed"] for output in run["verify"]["outputs"])


def test_the_program_pauses_between_two_convolutions(tmp_path: Path) -> None:
    """No product on the host; the parts one after another, with the bits of the reference; the bundle does the same."""
    path = convolutions(tmp_path / "m.onnx", SPELLINGS["stride and padding"])
    done = hpcc(path, "--target", TARGET, "-q", "--verify-each", "-o", tmp_path / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    report, run = read_json(tmp_path / "out.hpcc" / "report.json"), read_json(tmp_path / "out.hpcc" / "run.json")
    assert sum(entry["macs_share"] for entry in report["host_ops"]) == 0
    assert run["verify"]["bit_exact"]
    assert all(output["passed"] for output in run["verify"]["outputs"])
    program = Program(load_bundle(tmp_path / "out.hpcc"))
    assert [segment.kind for segment in program.manifest.segments] == ["host", "device", "host", "device", "host"]
    assert {border.part for border in program.manifest.inputs} == {0, 1}
    assert sum(layer.total for layer in program.layers()) == program.timing().total
    assert sum(event.name == "control.pause" for event in program.timing().events) == 1
    link = program.target.link
    assert program.transfer_ms >= 4 * link.latency_us / 1e3  # two requests, each way


def test_a_value_stays_on_the_device_while_the_host_works(tmp_path: Path) -> None:
    """The residual around an operator of the host is neither stored nor loaded; several samples at once."""
    model = build(Encoder(layers=2, gelu="relu"), 2, 8)
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Softplus"
    onnx.save(model, str(tmp_path / "m.onnx"))
    done = hpcc(tmp_path / "m.onnx", "--target", TARGET, "-q", "--verify-each", "-o", tmp_path / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    assert read_json(tmp_path / "out.hpcc" / "run.json")["verify"]["bit_exact"]
    manifest = load_bundle(tmp_path / "out.hpcc").manifest
    assert [border.part for border in manifest.inputs] == [0, 0, 0, 1]
    assert sorted(border.part for border in manifest.outputs) == [0, 1]


@pytest.mark.slow
def test_what_crosses_a_border_may_have_no_name_in_the_graph(tmp_path: Path) -> None:
    """The graph has a convolution's channels in front, the device behind: before it and behind it the host turns them."""
    path = convolutions(tmp_path / "m.onnx", {"kernel_shape": [1], "strides": [1], "pads": [0, 0]})
    model = onnx.load(str(path))
    for node in model.graph.node:
        node.op_type = node.op_type.replace("Gelu", "Softsign")
    onnx.save(model, str(path))
    done = hpcc(path, "--target", TARGET, "-q", "--verify-each", "-o", tmp_path / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    report, run = read_json(tmp_path / "out.hpcc" / "report.json"), read_json(tmp_path / "out.hpcc" / "run.json")
    assert sum(entry["macs_share"] for entry in report["host_ops"]) == 0
    assert run["verify"]["bit_exact"]
    assert all(output["passed"] for output in run["verify"]["outputs"])
    manifest = load_bundle(tmp_path / "out.hpcc").manifest
    named = [border.name for border in (*manifest.inputs, *manifest.outputs)]
    assert sum(":" in name for name in named) == 2


@pytest.mark.parametrize("op", ["Gemm", pytest.param("LayerNormalization", marks=pytest.mark.slow)])
def test_what_reads_a_mean_over_tokens_runs_on_the_host(op: str, tmp_path: Path) -> None:
    """A classifier over mean embeddings: the accelerator's mean is fp32, its readers take bf16. `hpcc` verifies."""
    model = build(Encoder(hidden=96, heads=4, intermediate=208, layers=1, head="mean"), 1, 12)
    mean = model.graph.output[-1].name
    shapes = {"Gemm": [(2, 96), (2,)], "LayerNormalization": [(96,), (96,)]}[op]
    random = np.random.default_rng(0)
    for name, shape in zip(("reader.weight", "reader.bias"), shapes, strict=True):
        model.graph.initializer.append(numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name))
    options = {"transB": 1} if op == "Gemm" else {"epsilon": 1e-5}
    model.graph.node.append(helper.make_node(op, [mean, "reader.weight", "reader.bias"], ["read"], "reader", **options))
    model.graph.output.append(helper.make_tensor_value_info("read", TensorProto.FLOAT, [1, 2 if op == "Gemm" else 96]))
    onnx.save(model, tmp_path / "model.onnx")
    done = hpcc(tmp_path / "model.onnx", "--target", TARGET, "-q", "-o", tmp_path / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    host = read_json(tmp_path / "out.hpcc" / "report.json")["host_ops"]
    assert any("mean over tokens" in row["reason"] for row in host), host
