"""A folder of good and bad files for the tests of errors, and the comparison with a golden line."""

import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import hw_targets
from tests.e2e.golden_errors import GOLDEN, matches
from tests.e2e.harness import TARGET, Done, hpcc
from tests.graphs import Encoder, feeds, write

Array = NDArray[Any]
SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50)
TARGET_TEXT = (Path(hw_targets.__file__).parent / f"{TARGET}.toml").read_text(encoding="utf-8")
SHAPE = ("--shape", "input_ids:2x7")
COMPILE = ("dynamic.onnx", "--target", TARGET, *SHAPE)


def expect(done: Done, name: str, folder: Path) -> None:
    """The run failed as the golden line of `name` says."""
    status, text = GOLDEN[name]
    assert matches(done.line.replace(str(folder), "TMP"), text), f"\n  got  {done.line}\n  want {text}"
    assert re.search(r" \[HPCC\d{4}\]$", done.line)
    assert done.status == status
    assert done.out == ""


def toml(**changes: object) -> str:
    """The shipped target with some keys replaced."""
    text = TARGET_TEXT
    for key, value in changes.items():
        text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert count == 1, key
    return text


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All the good and bad files; a test gets a copy."""
    folder = tmp_path_factory.mktemp("shelf")
    model = write(SMALL, folder / "dynamic.onnx", 2, 7, symbolic=True).read_bytes()
    write(SMALL, folder / "static.onnx", 2, 7)
    cached = onnx.load(folder / "static.onnx")
    cached.graph.input.append(onnx.helper.make_tensor_value_info("past_key_values.0.key", 1, [2, 4, "past", 8]))
    onnx.save(cached, folder / "cache.onnx")
    files: dict[str, bytes | str] = {
        "half.onnx": model[: len(model) // 2],
        "last byte gone.onnx": model[:-1],
        "empty.onnx": b"",
        "text.onnx": "This is no model.\n" * 20,
        "picture.onnx": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        "unknown key.toml": TARGET_TEXT.replace("lanes = ", "lane = "),
        "no source.toml": TARGET_TEXT.replace('mhz = { value = 250, source = "unverified" }', "mhz = 250"),
        "bad.toml": "name = = 3\n",
        "small activations.toml": toml(cores=1, tokens=4, outputs=4, lanes=8, act_bytes=1024),
        "small weights.toml": toml(cores=1, tokens=4, outputs=4, lanes=8, weight_bytes=1024),
        "small memory.toml": toml(capacity_bytes='{ value = 1000, source = "made up" }'),
        "too many dsps.toml": toml(cores=3, tokens=256, outputs=1024),
        "text.txt": "A sentence.\n",
        "latin 1.txt": "Un caf\xe9.\n".encode("latin-1"),
        "list.json": "[1, 2]\n",
        "infinite clock.toml": TARGET_TEXT.replace("mhz = { value = 250,", "mhz = { value = inf,"),
        "negative clock.toml": TARGET_TEXT.replace("mhz = { value = 250,", "mhz = { value = -250,"),
        "endless memory.toml": toml(capacity_bytes='{ value = 1000000000000000, source = "made up" }'),
        "odd lanes.toml": toml(lanes=3),
        "another kind.toml": TARGET_TEXT.replace('kind = "fpga"', 'kind = "abacus"'),
        "latin 1.toml": "# caf\xe9\n".encode("latin-1"),
        "no text.txt": "\n\n",
        "no tokenizer.json": "{}\n",
        "not an npz.npz": "no zip\n",
        "module.mlir": "builtin.module {\n  hpcc_nn.nonsense\n}\n",
        "cut.mlir": 'builtin.module attributes {name = "' + 200 * "x",
        "escape.mlir": 'builtin.module attributes {name = "' + 50 * "\\22x" + '\\1.0"} {\n}\n',
        "wide.mlir": "builtin.module attributes {i16777215 = 0 : i16777215, n = 0 : i4294967295} {\n}\n",
        "no main.mlir": "builtin.module {\n}\n",
        "occupied": "precious\n",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    write_broken_models(folder)
    (folder / "a folder").mkdir()
    (folder / "a folder" / "precious").write_text("precious\n", encoding="utf-8")
    given = feeds(SMALL, 4, 7)
    arrays: Mapping[str, Mapping[str, Array]] = {
        "good": given,
        "wrong name": {**without(given, "input_ids"), "input_id": given["input_ids"]},
        "missing": without(given, "attention_mask"),
        "wrong dtype": {**given, "input_ids": given["input_ids"].astype(np.float32)},
        "wrong length": {**given, "input_ids": given["input_ids"][:, :5]},
        "wrong rank": {**given, "input_ids": given["input_ids"][0]},
        "beyond the vocabulary": {**given, "input_ids": np.full((4, 7), 50)},
        "negative": {**given, "input_ids": np.full((4, 7), -1)},
        "other counts": {**given, "input_ids": given["input_ids"][:3]},
        "pickle": {**given, "input_ids": np.array([{"code": "evil"}], dtype=object)},
        "texts": {**given, "input_ids": np.full((4, 7), "word")},
        "no sample": {name: array[:0] for name, array in given.items()},
    }
    for name, values in arrays.items():
        np.savez(folder / f"{name}.npz", **values)  # pyright: ignore[reportArgumentType]
    np.save(folder / "array.npy", given["input_ids"])
    shutil.move(folder / "array.npy", folder / "array.npz")
    with zipfile.ZipFile(folder / "bomb.npz", "w") as archive:  # a header of a hundred bytes, for 50 TB
        header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000, 7)}".ljust(117) + b"\n"
        archive.writestr("input_ids.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with zipfile.ZipFile(folder / "no header.npz", "w") as archive:
        archive.writestr("input_ids.npy", b"\x93NUMPY\x01\x00\x05\x00((((\n")
    whole = (folder / "good.npz").read_bytes()
    (folder / "truncated.npz").write_bytes(whole[: len(whole) // 2])
    assert hpcc(folder / "dynamic.onnx", "--target", TARGET, *SHAPE, "-q", "-o", folder / "older.hpcc").status == 0
    changes = {
        "other": ("layer.0.", "block.0."),
        "damaged": ('"clock_mhz"', '"clock"'),
        "nameless": ('"name": "layer.0.attn.q"', '"name": 7'),
        "endless": ('"macs": ', '"macs": 1e999, "least_macs": '),
    }
    for name, (old, new) in changes.items():
        (folder / f"{name}.hpcc").mkdir()
        for file in ("report.json", "run.json"):
            text = (folder / "older.hpcc" / file).read_text(encoding="utf-8")
            (folder / f"{name}.hpcc" / file).write_text(text.replace(old, new), encoding="utf-8")
    (folder / "cut.hpcc").mkdir()
    (folder / "cut.hpcc" / "report.json").write_text('{"model": ', encoding="utf-8")
    return folder


def write_broken_models(folder: Path) -> None:
    """Copies of the model, each broken in one place."""

    def model() -> onnx.ModelProto:
        return onnx.load(folder / "dynamic.onnx")

    for name, part, number in (
        ("nan", "up.weight", np.nan),
        ("infinite table", "embeddings.word", np.inf),
        ("nan bias", "query.bias", np.nan),
        ("infinite gamma", "attention.norm.gamma", -np.inf),
    ):
        proto = model()
        tensor = next(tensor for tensor in proto.graph.initializer if part in tensor.name)
        array = numpy_helper.to_array(tensor).copy()
        array.reshape(-1)[7] = number
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        onnx.save(proto, folder / f"{name}.onnx")
    onnx.save(model(), folder / "external.onnx", save_as_external_data=True, location="external.bin", size_threshold=0)
    onnx.save(model(), folder / "short.onnx", save_as_external_data=True, location="short.bin", size_threshold=0)
    (folder / "external.bin").unlink()
    (folder / "short.bin").write_bytes((folder / "short.bin").read_bytes()[:-1])
    proto = onnx.load(folder / "external.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../external.bin"
    onnx.save(proto, folder / "outside.onnx")
    text = model().SerializeToString()
    assert text.count(b"LayerNormalization_56") > 1
    (folder / "no text.onnx").write_bytes(text.replace(b"LayerNormalization_56", b"LayerNormalization_\xff6"))
    proto = model()
    proto.graph.initializer[0].dims[0] += 1
    onnx.save(proto, folder / "half a constant.onnx")
    proto = model()
    tensor = next(tensor for tensor in proto.graph.initializer if "up.weight" in tensor.name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:-1].copy(), tensor.name))
    onnx.save(proto, folder / "narrow weight.onnx")
    proto = model()
    proto.graph.initializer[0].data_type = TensorProto.STRING
    proto.graph.initializer[0].ClearField("raw_data")
    onnx.save(proto, folder / "no strings.onnx")
    proto = model()
    proto.opset_import[0].version = -(1 << 63)
    onnx.save(proto, folder / "no opset.onnx")
    (folder / "graph.onnx").write_bytes(model().graph.SerializeToString())
    info = helper.make_tensor_value_info
    for name, source, size in (("undefined tensor", "nothing", 4), ("empty input", "x", 0)):
        graph = helper.make_graph(
            [helper.make_node("Relu", [source], ["y"])],
            "relu",
            [info("x", TensorProto.FLOAT, [size, 4])],
            [info("y", TensorProto.FLOAT, [size, 4])],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(proto, folder / f"{name}.onnx")


def without(arrays: Mapping[str, Array], name: str) -> dict[str, Array]:
    return {key: value for key, value in arrays.items() if key != name}


@pytest.fixture
def place(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "place"
    shutil.copytree(shelf, folder)
    monkeypatch.chdir(folder)
    return folder
