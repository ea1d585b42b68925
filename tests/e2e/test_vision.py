"""Vision transformers and pre-norm models on the accelerator: patches, class token, LayerScale, norms of stored tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

import hw_targets
from tests.e2e.harness import TARGET, hpcc, read_json
from tests.unit.test_frontend_encoders import fuse, worst_error
from tests.vision import Vision, feeds, write

MODELS = {
    "vit": Vision(),
    "deit": Vision(special=2, gelu="torchscript"),
    "dino": Vision(layer_scale=True, image=(24, 8), head=False),
    "clip": Vision(patch_bias=False, pre_norm=True, gelu="quick", layers=1),
    "no class token": Vision(special=0, resized=True, head=False, layers=1),
}


@pytest.mark.parametrize("name", MODELS)
def test_import_and_fuse_agree_with_onnxruntime(name: str, tmp_path: Path) -> None:
    from compiler.frontend.importer import import_onnx

    spec = MODELS[name]
    imported = import_onnx(write(spec, tmp_path / "model.onnx"), {})
    assert worst_error(imported, feeds(spec)) <= 1e-4
    found = fuse(imported)
    assert worst_error(imported, feeds(spec)) <= 1e-4
    assert found["attention"] == spec.layers
    assert found["linear"] == 6 * spec.layers + 1 + spec.head
    assert not found["gather"]
    assert not found["matmul"]


@pytest.mark.parametrize("name", MODELS)
def test_only_the_cut_into_patches_stays_on_the_host(name: str, tmp_path: Path) -> None:
    done = hpcc(write(MODELS[name], tmp_path / "model.onnx"), "--target", TARGET, "--check", "--json")
    assert done.status == 0
    rows = json.loads(done.out)["host_ops"]
    assert [(row["op"], row["when"]) for row in rows] == [(op, "before") for op in ("reshape", "transpose", "reshape")]


class Calibration(CalibrationDataReader):
    def __init__(self) -> None:
        self.samples = iter([feeds(MODELS["vit"], seed=seed) for seed in range(4)])

    def get_next(self) -> Any:
        return next(self.samples, None)


def static(source: str, path: str, **options: Any) -> None:
    quantize_static(source, path, Calibration(), **options)


QUANTISED: dict[str, tuple[str, Callable[[str, str], None]]] = {
    "dynamic": ("ConvInteger", quantize_dynamic),
    "QDQ": ("QuantizeLinear", partial(static, per_channel=True)),
    "QOperator": ("QLinearConv", partial(static, quant_format=QuantFormat.QOperator)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "QOperator" else pytest.mark.slow) for name in QUANTISED]
)
def test_quantised_patches_heads_and_numbers(name: str, tmp_path: Path) -> None:
    """A convolution of windows, tokens put together, numbers of an activation, a classifier: as ONNX Runtime quantises them,
    with every product on the device; against the file as ONNX Runtime runs it."""
    from compiler.frontend.importer import import_onnx

    source = write(MODELS["vit"], tmp_path / "source.onnx")
    path = tmp_path / "model.onnx"
    operator, quantise = QUANTISED[name]
    quantise(str(source), str(path))
    assert operator in {node.op_type for node in onnx.load(path).graph.node}
    assert json.loads(hpcc(path, "--target", TARGET, "--check", "--json").out)["host_macs"] == 0
    imported = import_onnx(path, {})
    assert worst_error(imported, feeds(MODELS["vit"])) <= 0.25
    fuse(imported)
    assert worst_error(imported, feeds(MODELS["vit"])) <= 0.25


def check_bits(spec: Vision, target: str, folder: Path) -> None:
    model = write(spec, folder / "model.onnx")
    done = hpcc(model, "--target", target, "--verify-each", "-q", "-o", folder / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    verify = read_json(folder / "out.hpcc" / "run.json")["verify"]
    assert verify["bit_exact"]
    assert all(output["passed"] and output["relative_l2"] <= 0.1 for output in verify["outputs"])


@pytest.mark.parametrize("name", MODELS)
def test_every_stage_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    check_bits(MODELS[name], TARGET, tmp_path)


def test_activations_in_dram(tmp_path: Path) -> None:
    """On a board so small that the tokens do not stay on chip: every new instruction reads and writes through DRAM."""
    text = (Path(hw_targets.__file__).parent / "fpga-pynq-z2.toml").read_text(encoding="utf-8")
    small, count = re.subn(r"(?m)^act_bytes = .*$", "act_bytes = 65536", text)
    assert count == 1
    board = tmp_path / "board.toml"
    board.write_text(small, encoding="utf-8")
    check_bits(Vision(image=(64, 64), hidden=96, layer_scale=True, layers=1), str(board), tmp_path)
    assert hpcc(tmp_path / "model.onnx", "--target", board, "--emit", "asm").out.count("store.copy") > 2
