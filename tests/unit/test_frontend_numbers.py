"""Models whose numbers are not fp32: half precision, and every way ONNX Runtime's quantiser writes integers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from compiler.frontend.importer import import_onnx
from compiler.interpreters.evaluate import evaluate
from tests.e2e.harness import TARGET, hpcc
from tests.graphs import Encoder, feeds, write

SPEC = Encoder(hidden=32, head="classifier", mask="1e4", opset=17)
BATCH, TOKENS = 2, 8


class Calibration(CalibrationDataReader):
    def __init__(self) -> None:
        self.samples: Iterator[Mapping[str, Any]] = iter([feeds(SPEC, BATCH, TOKENS, seed) for seed in range(4)])

    def get_next(self) -> Any:
        return next(self.samples, None)


def dynamic(**options: Any) -> Callable[[Path, Path], None]:
    return lambda source, path: quantize_dynamic(str(source), str(path), **options)


def static(**options: Any) -> Callable[[Path, Path], None]:
    return lambda source, path: quantize_static(str(source), str(path), Calibration(), **options)


def half(**options: Any) -> Callable[[Path, Path], None]:
    return lambda source, path: onnx.save(convert_float_to_float16(onnx.load(source), **options), path)


def bfloat16(source: Path, path: Path) -> None:
    """Every float of the graph becomes bfloat16."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            bits = numpy_helper.to_array(tensor).view(np.uint32) >> 16
            raw = bits.astype(np.uint16).tobytes()
            tensor.CopyFrom(TensorProto(name=tensor.name, dims=tensor.dims, data_type=TensorProto.BFLOAT16, raw_data=raw))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.BFLOAT16
    for value in model.graph.output:
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    onnx.save(model, path)


MODELS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "dynamic int8": (dynamic(weight_type=QuantType.QInt8), "MatMulInteger"),
    "dynamic int8 per channel": (dynamic(weight_type=QuantType.QInt8, per_channel=True), "MatMulInteger"),
    "dynamic uint8": (dynamic(weight_type=QuantType.QUInt8), "MatMulInteger"),
    "static QDQ": (static(quant_format=QuantFormat.QDQ), "DequantizeLinear"),
    "static QDQ per channel": (static(quant_format=QuantFormat.QDQ, per_channel=True), "DequantizeLinear"),
    "static QOperator": (static(quant_format=QuantFormat.QOperator), "QLinearMatMul"),
    "float16": (half(), "float16 parameters"),
    "float16 with fp32 borders": (half(keep_io_types=True), "float16 parameters"),
    "bfloat16": (bfloat16, "bfloat16 parameters"),
}


def made(name: str, folder: Path) -> Path:
    source = write(SPEC, folder / "source.onnx", BATCH, TOKENS)
    MODELS[name][0](source, folder / "model.onnx")
    return folder / "model.onnx"


def output_of(path: Path) -> np.ndarray:
    """The file's outputs by ONNX Runtime, whose sums of int8 products must not saturate where a CPU has no VNNI."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if not any(node.op_type == "QLinearMatMul" for node in onnx.load(path).graph.node):  # it has no kernel for them then
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds(SPEC, BATCH, TOKENS))[0].astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_understood_and_said(name: str, tmp_path: Path) -> None:
    """Against the file as ONNX Runtime runs it; what is left is the quantisation of activations, or its half precision."""
    path = made(name, tmp_path)
    imported = import_onnx(path, {})
    assert len(imported.notes) == 1
    assert MODELS[name][1] in imported.notes[0]
    wanted = output_of(path if name != "bfloat16" else tmp_path / "source.onnx")  # ONNX Runtime has no bfloat16 here
    found = next(iter(evaluate(imported.module, imported.store, feeds(SPEC, BATCH, TOKENS)).values()))
    assert found.dtype == np.float32
    limit = 0.005 if name.startswith("float16") else 0.15
    assert np.linalg.norm(found - wanted) <= limit * np.linalg.norm(wanted)


@pytest.mark.parametrize("name", MODELS)
def test_everything_runs_on_the_accelerator(name: str, tmp_path: Path) -> None:
    done = hpcc(made(name, tmp_path), "--target", TARGET, "--json", "-o", tmp_path / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    document = json.loads(done.out)
    assert document["run"]["verify"]["bit_exact"]
    assert document["report"]["host_ops"] == []
    assert document["report"]["model"]["notes"]


@pytest.mark.parametrize("name", ["dynamic int8", "dynamic int8 per channel", "static QDQ"])
def test_int8_codes_of_the_file_are_kept(name: str, tmp_path: Path) -> None:
    path = made(name, tmp_path)
    stages = tmp_path / "stages"
    done = hpcc(path, "--target", TARGET, "--dump-stages", stages, "--emit", "quantize", "-o", tmp_path / "q.mlir")
    assert (done.status, done.err) == (0, "")
    from safetensors.numpy import load_file

    kept = {array.tobytes() for array in load_file(tmp_path / "q.safetensors").values() if array.dtype == np.int8}
    codes = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if "layer" in t.name]
    matrices = [array for array in codes if array.dtype == np.int8 and array.ndim == 2]
    assert len(matrices) == 6
    for array in matrices:
        assert {array.T.tobytes(), np.ascontiguousarray(array.T).tobytes()} & kept


def test_matrices_that_the_file_quantises_are_codes(tmp_path: Path) -> None:
    """Floats behind QuantizeLinear and DequantizeLinear, as training with quantisation leaves them."""
    model = onnx.load(write(SPEC, tmp_path / "source.onnx", BATCH, TOKENS))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            weight, names = node.input[1], [f"{node.name}.{part}" for part in ("scale", "zero")]
            scale = np.abs(numpy_helper.to_array(stored[weight])).max(0) / 100
            zeros = np.zeros(scale.size, np.int8)
            arrays = (scale.astype(np.float32), zeros)
            model.graph.initializer.extend(map(numpy_helper.from_array, arrays, names))
            nodes.append(helper.make_node("QuantizeLinear", [weight, *names], [f"{node.name}.q"], axis=1))
            nodes.append(helper.make_node("DequantizeLinear", [f"{node.name}.q", *names], [f"{node.name}.dq"], axis=1))
            node.input[1] = f"{node.name}.dq"
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "model.onnx")
    imported = import_onnx(tmp_path / "model.onnx", {})
    codes = [array for array in map(imported.store.get, imported.store.keys()) if array.dtype == np.int8 and array.ndim == 2]
    assert len(codes) == 8
    assert all(np.abs(array).max() == 100 for array in codes)
    found = next(iter(evaluate(imported.module, imported.store, feeds(SPEC, BATCH, TOKENS)).values()))
    wanted = output_of(tmp_path / "model.onnx")
    assert np.linalg.norm(found - wanted) <= 1e-4 * np.linalg.norm(wanted)
