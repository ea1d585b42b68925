"""Bad input is one line, the documented exit status, a stable code, and nothing written.

The golden lines stand in tests/golden/errors.txt, see golden_errors.py.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import hw_targets
from benchmarks import workloads
from compiler.tools import session
from compiler.tools.hpcc_opt import main as hpcc_opt
from hw_targets.codec import decode, encode
from hw_targets.errors import InputError
from hw_targets.isa import Instruction
from runtime.bundle import Room, load_bundle
from runtime.cli import main_objdump, main_run
from tests.e2e import test_error_codes, test_explore_errors, test_prune_errors, test_train_errors
from tests.e2e.golden_errors import GOLDEN, matches
from tests.e2e.harness import ROOT, TARGET, Done, call, digests, hpcc, resign, unchanged
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


@pytest.fixture(scope="module")
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
    for name in ("other", "damaged"):
        (folder / f"{name}.hpcc").mkdir()
        for file in ("report.json", "run.json"):
            text = (folder / "older.hpcc" / file).read_text(encoding="utf-8")
            changed = text.replace("layer.0.", "block.0.") if name == "other" else text.replace('"clock_mhz"', '"clock"')
            (folder / f"{name}.hpcc" / file).write_text(changed, encoding="utf-8")
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
    cut(folder / "short.bin")
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


def compiling(*arguments: str) -> tuple[str, ...]:
    return (*COMPILE, *arguments)


def model(name: str) -> tuple[str, ...]:
    return (name, "--target", TARGET, *SHAPE)


def target(name: str) -> tuple[str, ...]:
    return ("dynamic.onnx", "--target", name, *SHAPE)


def inputs(name: str) -> tuple[str, ...]:
    return compiling("--inputs", f"{name}.npz")


HPCC: dict[str, tuple[str, ...]] = {
    "not an ONNX file: text": model("text.onnx"),
    "not an ONNX file: picture": model("picture.onnx"),
    "a folder for a model": model("a folder"),
    "truncated model": model("half.onnx"),
    "model without its last byte": model("last byte gone.onnx"),
    "empty model": model("empty.onnx"),
    "not a model": model("graph.onnx"),
    "weights with NaN": model("nan.onnx"),
    "weights with NaN to be pruned": (*model("nan.onnx"), "--sparsity", "nm:2:4"),
    "table with infinity": model("infinite table.onnx"),
    "bias with NaN": model("nan bias.onnx"),
    "norm with infinity": model("infinite gamma.onnx"),
    "external data missing": model("external.onnx"),
    "external data truncated": model("short.onnx"),
    "external data of somebody else": model("outside.onnx"),
    "constant with too little data": model("half a constant.onnx"),
    "weight of another shape": model("narrow weight.onnx"),
    "names that are no text": model("no text.onnx"),
    "constant without its strings": model("no strings.onnx"),
    "opset that is none": model("no opset.onnx"),
    "undefined tensor": ("undefined tensor.onnx", "--target", TARGET),
    "empty input": ("empty input.onnx", "--target", TARGET),
    "missing model": model("nowhere/model.onnx"),
    "no model": ("--target", TARGET),
    "no target": ("dynamic.onnx",),
    "no such code": ("--explain", "HPCC1000"),
    "unknown target": target("fpga-u28"),
    "missing target file": target("nowhere.toml"),
    "unknown key": target("unknown key.toml"),
    "number without source": target("no source.toml"),
    "target file that is no TOML": target("bad.toml"),
    "target file of other text": target("latin 1.toml"),
    "a folder for a target": target("a folder/"),
    "infinite number": target("infinite clock.toml"),
    "negative number": target("negative clock.toml"),
    "number beyond reason": target("endless memory.toml"),
    "impossible array": target("odd lanes.toml"),
    "unknown kind": target("another kind.toml"),
    "unbound shape": ("dynamic.onnx", "--target", TARGET),
    "contradicting shape": ("static.onnx", "--target", TARGET, "--shape", "input_ids:2x8"),
    "shapes at odds": compiling("--shape", "attention_mask:2x8"),
    "wrong rank of a shape": ("dynamic.onnx", "--target", TARGET, "--shape", "input_ids:2x7x1"),
    "shape of no input": ("dynamic.onnx", "--target", TARGET, "--shape", "input_id:2x7"),
    "shape that does not read": ("dynamic.onnx", "--target", TARGET, "--shape", "input_ids=2x7"),
    "empty shape": ("dynamic.onnx", "--target", TARGET, "--shape", "input_ids:0x7"),
    "shape without sizes": ("dynamic.onnx", "--target", TARGET, "--shape", "input_ids:axb"),
    "shape beyond reason": ("dynamic.onnx", "--target", TARGET, "--shape", "input_ids:2x99999999999999999999"),
    "two shapes": compiling("--shape", "input_ids:2x6"),
    "longer than the model": ("dynamic.onnx", "--target", TARGET, "--shape", "input_ids:2x70"),
    "key-value cache": ("cache.onnx", "--target", TARGET),
    "unknown pattern": compiling("--sparsity", "mn:2:4"),
    "nm:5:4": compiling("--sparsity", "nm:5:4"),
    "nm:x": compiling("--sparsity", "nm:x"),
    "hp:1.2": compiling("--sparsity", "hp:1.2"),
    "hp:0.2": compiling("--sparsity", "hp:0.2"),
    "unknown parameter of a pattern": compiling("--sparsity", "hp:row=64"),
    "column inside a pattern": compiling("--sparsity", "column:0.5+nm:2:4"),
    "groups that straddle blocks": compiling("--sparsity", "block:6x6:0.5+nm:2:4"),
    "tile that is none": compiling("--sparsity", "row:0.5:tile=8"),
    "storage on a CPU": ("static.onnx", "--target", "cpu-avx2", "--storage", "csr"),
    "input of a wrong name": inputs("wrong name"),
    "missing input": inputs("missing"),
    "input of a wrong dtype": inputs("wrong dtype"),
    "input of a wrong length": inputs("wrong length"),
    "input of a wrong rank": inputs("wrong rank"),
    "token beyond the vocabulary": inputs("beyond the vocabulary"),
    "negative token": inputs("negative"),
    "inputs of unequal counts": inputs("other counts"),
    "not an npz": inputs("not an npz"),
    "an npy": inputs("array"),
    "truncated npz": inputs("truncated"),
    "pickled input": inputs("pickle"),
    "missing npz": inputs("nowhere"),
    "input of texts": inputs("texts"),
    "no sample": inputs("no sample"),
    "npz that claims too much": inputs("bomb"),
    "npz with a broken array": inputs("no header"),
    "a folder for an npz": compiling("--inputs", "a folder"),
    "text of another encoding": compiling("--text", "latin 1.txt", "--tokenizer", "no tokenizer.json"),
    "a folder for a text": compiling("--text", "a folder", "--tokenizer", "no tokenizer.json"),
    "a list for a tokenizer": compiling("--text", "text.txt", "--tokenizer", "list.json"),
    "missing tokenizer": compiling("--text", "text.txt", "--tokenizer", "nowhere.json"),
    "text without tokenizer": compiling("--text", "text.txt"),
    "text and inputs": compiling("--text", "text.txt", "--tokenizer", "no tokenizer.json", "--inputs", "good.npz"),
    "not a tokenizer": compiling("--text", "text.txt", "--tokenizer", "no tokenizer.json"),
    "missing text": compiling("--text", "nowhere.txt", "--tokenizer", "no tokenizer.json"),
    "empty text": compiling("--text", "no text.txt", "--tokenizer", "no tokenizer.json"),
    "no token": compiling("--max-length", "0"),
    "output is a file": compiling("-o", "occupied"),
    "output is a folder": compiling("-o", "a folder"),
    "output below a file": compiling("-o", "occupied/out.hpcc"),
    "output with too long a name": compiling("-o", "x" * 300),
    "output in a file system that takes none": compiling("-o", "/proc/out.hpcc"),
    "output in place of a device": compiling("-o", "/dev/null"),
    "tolerance that is none": compiling("--atol", "nan"),
    "negative tolerance": compiling("--rtol", "-1"),
    "dump into nowhere": compiling("--dump-stages", ""),
    "output with no name": compiling("-o", ""),
    "dump below a file": compiling("--dump-stages", "occupied/stages"),
    "module into a file of another kind": compiling("--emit", "tile", "-o", "tile.txt"),
    "module below a file": compiling("--emit", "tile", "-o", "occupied/tile.mlir"),
    "unknown flag": compiling("--sparsty", "dense"),
    "flag without value": compiling("--sparsity"),
    "flag of a wrong type": compiling("--rtol", "some"),
    "unknown form": compiling("--emit", "tiles"),
    "unknown stage": compiling("--from", "tiles"),
    "model for a stage": compiling("--from", "fuse"),
    "dump without its stage": ("module.mlir", "--target", TARGET),
    "verify-each without a model": ("module.mlir", "--target", TARGET, "--from", "fuse", "--verify-each"),
    "unknown op in a dump": ("module.mlir", "--target", TARGET, "--from", "fuse"),
    "dump with an escape that is none": ("escape.mlir", "--target", TARGET, "--from", "fuse"),
    "truncated dump": ("cut.mlir", "--target", TARGET, "--from", "fuse"),
    "dump without @main": ("no main.mlir", "--target", TARGET, "--from", "fuse"),
    "missing dump": ("nowhere.mlir", "--target", TARGET, "--from", "fuse"),
    "activations do not fit": target("small activations.toml"),
    "weights do not fit": target("small weights.toml"),
    "memory does not fit": target("small memory.toml"),
    "array does not fit": target("too many dsps.toml"),
    "missing baseline": compiling("--baseline", "nowhere.hpcc"),
    "baseline without a name": compiling("--baseline", ""),
    "baseline of another model": compiling("--baseline", "other.hpcc", "--no-verify"),
}

RUN: dict[str, tuple[str, ...]] = {
    "run: no bundle given": (),
    "run: missing bundle": ("nowhere.hpcc",),
    "run: no bundle": ("a folder",),
    "run: unknown flag": ("older.hpcc", "--input", "good.npz", "--fast"),
    "run: no repetition": ("older.hpcc", "--repeat", "0"),
    "run: missing inputs": ("older.hpcc", "--inputs", "nowhere.npz"),
    "run: input of a wrong name": ("older.hpcc", "--inputs", "wrong name.npz", "-o", "out.npz"),
    "run: input of a wrong dtype": ("older.hpcc", "--inputs", "wrong dtype.npz", "-o", "out.npz"),
    "run: input of a wrong length": ("older.hpcc", "--inputs", "wrong length.npz", "-o", "out.npz"),
    "run: token beyond the vocabulary": ("older.hpcc", "--inputs", "beyond the vocabulary.npz", "-o", "out.npz"),
    "run: not an npz": ("older.hpcc", "--inputs", "not an npz.npz", "-o", "out.npz"),
    "run: pickled input": ("older.hpcc", "--inputs", "pickle.npz", "-o", "out.npz"),
    "run: missing input": ("older.hpcc", "--inputs", "missing.npz", "-o", "out.npz"),
    "run: input of texts": ("older.hpcc", "--inputs", "texts.npz", "-o", "out.npz"),
    "run: no sample": ("older.hpcc", "--inputs", "no sample.npz", "-o", "out.npz"),
    "run: npz that claims too much": ("older.hpcc", "--inputs", "bomb.npz", "-o", "out.npz"),
    "run: npz with a broken array": ("older.hpcc", "--inputs", "no header.npz", "-o", "out.npz"),
    "run: output below a file": ("older.hpcc", "--inputs", "good.npz", "-o", "occupied/out.npz"),
    "run: output in a file system that takes none": ("older.hpcc", "--inputs", "good.npz", "-o", "/proc/out.npz"),
    "run: a model": ("dynamic.onnx",),
    "run: vectors of no range": ("older.hpcc", "--inputs", "good.npz", "--dump-vectors", "v", "--instructions", "5"),
    "run: vectors of instructions behind the end": (
        "older.hpcc",
        "--inputs",
        "good.npz",
        "--dump-vectors",
        "v",
        "--instructions",
        "0:99999",
    ),
    "run: vectors of an unknown layer": ("older.hpcc", "--inputs", "good.npz", "--dump-vectors", "v", "--layer", "layer.9"),
    "run: a layer without vectors": ("older.hpcc", "--layer", "layer.0.attn"),
    "run: vectors over a folder": ("older.hpcc", "--inputs", "good.npz", "--dump-vectors", "a folder"),
    "run: output is a folder": ("older.hpcc", "--inputs", "good.npz", "-o", "a folder"),
}

DUMP: dict[str, tuple[str, ...]] = {
    "objdump: nothing to dump": (),
    "objdump: a bundle and a comparison": ("older.hpcc", "--diff", "older.hpcc", "older.hpcc"),
    "objdump: a page of one bundle": ("older.hpcc", "--html", "page.html"),
    "objdump: header of another language": ("--header", "vhdl"),
    "objdump: header of a bundle": ("older.hpcc", "--header", "c"),
    "objdump: comparison with a folder": ("--diff", "older.hpcc", "a folder"),
    "objdump: comparison with half a report": ("--diff", "older.hpcc", "cut.hpcc"),
    "objdump: comparison with a damaged report": ("--diff", "older.hpcc", "damaged.hpcc"),
    "objdump: comparison of different models": ("--diff", "older.hpcc", "other.hpcc"),
    "objdump: page below a file": ("--diff", "older.hpcc", "older.hpcc", "--html", "occupied/page.html"),
}

OPT: dict[str, tuple[str, ...]] = {
    "opt: unknown pass": ("dynamic.onnx", *SHAPE, "-p", "hpcc-fuze"),
    "opt: unknown flag": ("dynamic.onnx", *SHAPE, "--nope"),
    "opt: missing file": ("nowhere.mlir",),
    "opt: unknown kind of file": ("text.txt",),
    "opt: truncated model": ("half.onnx",),
    "opt: unbound shape": ("dynamic.onnx",),
    "opt: truncated file": ("cut.mlir",),
    "opt: an escape that is none": ("escape.mlir",),
    "opt: unknown op": ("module.mlir",),
    "opt: passes out of order": ("dynamic.onnx", *SHAPE, "-p", "hpcc-quantize"),
    "opt: unknown pattern": ("dynamic.onnx", *SHAPE, "-p", 'hpcc-fuse,hpcc-sparsify{spec="mn:2:4"}'),
}


def skip_without_proc(arguments: tuple[str, ...]) -> None:
    if any(argument.startswith("/proc/") for argument in arguments) and not Path("/proc").is_dir():
        pytest.skip("this system has no /proc")


OTHERS = ("verification", "cache below a file")


def test_every_golden_line_has_its_case() -> None:
    cases = (
        HPCC,
        RUN,
        DUMP,
        OPT,
        EDITED,
        HOSTILE,
        test_error_codes.CASES,
        test_prune_errors.CASES,
        test_prune_errors.HPCC,
        test_train_errors.CASES,
        ("train: no torch",),
        (f"explore: {name}" for name in test_explore_errors.CASES),
        OTHERS,
    )
    assert set(GOLDEN) == {name for group in cases for name in group}


@pytest.mark.parametrize("name", HPCC)
def test_hpcc(place: Path, name: str) -> None:
    skip_without_proc(HPCC[name])
    with unchanged(place.parent):
        expect(hpcc(*HPCC[name]), name, place)


@pytest.mark.parametrize("name", ["activations do not fit", "token beyond the vocabulary", "nm:5:4", "truncated model"])
def test_an_older_bundle_stays_as_it_was(place: Path, name: str) -> None:
    with unchanged(place.parent):
        expect(hpcc(*HPCC[name], "-o", "older.hpcc"), name, place)


@pytest.mark.parametrize("name", RUN)
def test_hpcc_run(place: Path, name: str) -> None:
    skip_without_proc(RUN[name])
    with unchanged(place.parent):
        expect(call(main_run, *RUN[name]), name, place)


@pytest.mark.parametrize("name", DUMP)
def test_hpcc_objdump(place: Path, name: str) -> None:
    with unchanged(place.parent):
        expect(call(main_objdump, *DUMP[name]), name, place)


@pytest.mark.parametrize("name", OPT)
def test_hpcc_opt(place: Path, name: str) -> None:
    with unchanged(place.parent):
        expect(call(hpcc_opt, *OPT[name]), name, place)


def test_debug_shows_the_traceback(place: Path) -> None:
    with pytest.raises(Exception, match="truncated"):
        hpcc(*HPCC["truncated model"], "--debug")


# ---- bundles that were changed --------------------------------------------------------------------------------------


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def rename(file: Path) -> None:
    """Still valid JSON: another name of the model."""
    text = file.read_text(encoding="utf-8")
    assert '"name": "dynamic"' in text
    file.write_text(text.replace('"name": "dynamic"', '"name": "dynamit"'), encoding="utf-8")


def newer(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"schema_version": 1', '"schema_version": 99'), encoding="utf-8")


EDITED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "truncated program": ("program.bin", cut),
    "edited program": ("program.bin", flip),
    "empty program": ("program.bin", empty),
    "missing program": ("program.bin", Path.unlink),
    "edited listing": ("program.asm", flip),
    "truncated weights": ("weights.bin", cut),
    "edited weights": ("weights.bin", flip),
    "empty weights": ("weights.bin", empty),
    "missing weights": ("weights.bin", Path.unlink),
    "truncated manifest": ("manifest.json", lambda file: file.write_bytes(file.read_bytes()[:1000]) and None),
    "edited manifest": ("manifest.json", rename),
    "empty manifest": ("manifest.json", empty),
    "missing manifest": ("manifest.json", Path.unlink),
    "manifest of a newer release": ("manifest.json", newer),
}


@pytest.mark.parametrize("name", EDITED)
def test_a_changed_bundle_does_not_load(place: Path, name: str) -> None:
    file, change = EDITED[name]
    change(place / "older.hpcc" / file)
    with unchanged(place.parent):
        expect(call(main_run, "older.hpcc", "-o", "out.npz"), name, place)
        expect(call(main_objdump, "older.hpcc"), name, place)


# ---- bundles that were changed by somebody who can make digests ------------------------------------------------------


def manifest(*path: str | int, value: Any) -> Callable[[Path], None]:
    """Set one value of the manifest."""

    def change(bundle: Path) -> None:
        file = bundle / "manifest.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value
        file.write_text(json.dumps(document), encoding="utf-8")

    return change


def program(change: Callable[[list[Instruction]], None]) -> Callable[[Path], None]:
    """Change the instructions."""

    def edit(bundle: Path) -> None:
        instructions = decode((bundle / "program.bin").read_bytes())
        change(instructions)
        (bundle / "program.bin").write_bytes(encode(instructions))

    return edit


def endless_loop(program: list[Instruction]) -> None:
    program[:0] = [
        Instruction("control.loop", immediates=(("count", (1 << 32) - 1),)),
        Instruction("control.end"),
    ]


def huge_matrix(program: list[Instruction]) -> None:
    """A matrix of 4 G entries of which one is stored."""
    place = next(i for i, instruction in enumerate(program) if instruction.name == "load.weights")
    values = {"format": 3, "outs": 65535, "ins": 65535, "n": 1, "m": 1, "stored_bytes": 64, "kept": 1}
    changed = tuple((name, values.get(name, 0)) for name, _ in program[place].immediates)
    program[place] = replace(program[place], immediates=changed)


def without_first_signal(program: list[Instruction]) -> None:
    place = next(i for i, instruction in enumerate(program) if instruction.signals)
    program[place] = replace(program[place], signals=())


def pipe(bundle: Path) -> None:
    (bundle / "weights.bin").unlink()
    os.mkfifo(bundle / "weights.bin")


def deep(bundle: Path) -> None:
    (bundle / "manifest.json").write_text("[" * 100_000, encoding="utf-8")


HOSTILE: dict[str, Callable[[Path], None]] = {
    "hostile: memory beyond the target": manifest("sizes", "act", value=1 << 40),
    "hostile: memory beyond any address": manifest("sizes", "dram", value=1 << 62),
    "hostile: tensor beyond reason": manifest("model_inputs", 0, "shape", value=[1 << 31, 7]),
    "hostile: empty tensor": manifest("model_inputs", 0, "shape", value=[0, 7]),
    "hostile: type that is none": manifest("model_inputs", 0, "dtype", value="object"),
    "hostile: output of another shape": manifest("model_outputs", 0, "shape", value=[2, 7, 16, 2]),
    "hostile: clock that stands": manifest("target", "clock", "mhz", value=0),
    "hostile: clock that is text": manifest("target", "clock", "mhz", value="fast"),
    "hostile: no queue": manifest("target", "accelerator", "queue_depth", value=0),
    "hostile: window that is no power of two": manifest("target", "accelerator", "window", value=33),
    "hostile: file outside": manifest("digests", "/dev/zero", value=""),
    "hostile: pipe for a file": pipe,
    "hostile: deep manifest": deep,
    "hostile: endless loop": program(endless_loop),
    "hostile: matrix beyond reason": program(huge_matrix),
    "hostile: signal left out": program(without_first_signal),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_bundle_is_refused(place: Path, name: str) -> None:
    HOSTILE[name](place / "older.hpcc")
    resign(place / "older.hpcc")
    os.chdir(place)
    expect(call(main_run, "older.hpcc", "--inputs", "good.npz", "-o", "out.npz"), name, place)
    assert not (place / "out.npz").exists()


# ---- two at once ----------------------------------------------------------------------------------------------------


def test_two_runs_into_one_folder_one_after_the_other(place: Path) -> None:
    for pattern in ("dense", "nm:2:4"):
        assert hpcc(*COMPILE, "--sparsity", pattern, "-q", "--timing-only", "-o", "older.hpcc").status == 0
    assert load_bundle(place / "older.hpcc").manifest.model.pattern == "nm:2:4"


def test_two_writers_at_once_leave_one_whole_bundle(place: Path) -> None:
    """Two processes replace one bundle again and again, a third one reads: whole or, for a moment, not there."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom runtime.bundle import load_bundle, save_bundle\n"
        "bundle = load_bundle(Path(sys.argv[1]))\n"
        "for number in range(60):\n"
        "    save_bundle(bundle, Path('shared.hpcc'), {'run.json': sys.argv[2] * 1000})\n"
    )
    shutil.copytree(place / "older.hpcc", place / "shared.hpcc")
    before, seen = {path.name for path in place.iterdir()}, {"whole"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "older.hpcc"]
    writers = [subprocess.Popen([*command, name], env=environment, stderr=subprocess.PIPE, text=True) for name in "ab"]
    while any(writer.poll() is None for writer in writers):
        seen.add(reading(place / "shared.hpcc"))
    for writer in writers:
        assert writer.communicate()[1] == ""
        assert writer.returncode == 0
    assert reading(place / "shared.hpcc") == "whole"
    assert seen <= {"whole", "HPCC1244", "HPCC1245", "HPCC1249"}, "or not there, or taken away while it was read"
    assert set((place / "shared.hpcc" / "run.json").read_text()) in ({"a"}, {"b"})
    assert {path.name for path in place.iterdir()} == before, "nothing is left over"


def test_a_bundle_that_another_writer_takes_away_is_not_mistaken(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking for the folder and for its manifest another writer puts its own bundle there."""
    shutil.copytree(place / "older.hpcc", place / "theirs.hpcc")
    look, looks = Path.is_file, []

    def late(path: Path) -> bool:
        looks.append(path)
        if len(looks) > 1:
            return look(path)
        os.rename(place / "older.hpcc", place / "taken.hpcc")
        found = look(path)
        os.rename(place / "theirs.hpcc", place / "older.hpcc")
        return found

    monkeypatch.setattr(Path, "is_file", late)
    with Room(place / "older.hpcc"):
        pass
    assert len(looks) == 2
    (place / "older.hpcc" / "manifest.json").unlink()
    with pytest.raises(InputError, match="no bundle"):
        Room(place / "older.hpcc")


def reading(bundle: Path) -> str:
    try:
        load_bundle(bundle)
    except InputError as error:
        return error.code
    return "whole"


def test_an_older_file_of_outputs_stays_until_the_new_one_is_whole(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "out.npz").write_bytes(b"older")

    def full(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with unchanged(place):
        done = call(main_run, "older.hpcc", "--inputs", "good.npz", "-o", "out.npz")
    assert (done.status, done.line) == (1, "out.npz: error: cannot write: No space left on device [HPCC1261]")


@pytest.mark.parametrize("kind", ["l3", "l6", "tokenizer"])
def test_a_cache_that_cannot_be_written(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("precious\n", encoding="utf-8")
    for name in ("HPCC_L3", "HPCC_L6"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HPCC_CACHE", str(tmp_path / "occupied" / "cache"))
    done = call(workloads.main, kind)
    expect(done, "cache below a file", tmp_path)


# ---- host work and verification -------------------------------------------------------------------------------------


def test_check_of_a_model_with_host_work_is_infeasible(place: Path) -> None:
    """A node with MACs that the machine does not execute: --check says so in its table and by the exit status."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "z"], ["y"], name="product")],
        "two activations",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 10]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 10, 8]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 8])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), "product.onnx")
    with unchanged(place.parent):
        done = hpcc("product.onnx", "--target", TARGET, "--check")
    assert (done.status, done.err) == (3, "")
    assert re.search(r"(?m)^product +matmul +100\.0% .* neither a linear layer nor attention$", done.out)


def test_a_failed_verification_keeps_the_bundle(place: Path) -> None:
    done = hpcc(*COMPILE, "--atol", "0", "-q", "-o", "out.hpcc")
    expect(done, "verification", place)
    assert {"manifest.json", "run.json", "report.json"} <= set(digests(place / "out.hpcc"))


def test_an_unwritable_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_writable", lambda folder: False)
    with unchanged(place.parent):
        done = hpcc(*COMPILE, "-o", "a folder/out.hpcc")
    assert done.status == 1
    assert re.fullmatch(r".*/a folder: error: cannot write there \(-o DIR\) \[HPCC1702\]", done.line)


def test_an_exception_of_our_own_is_one_line_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(session, "import_onnx", broken)
    with unchanged(place.parent):
        done = hpcc(*COMPILE)
    assert done.status == 1
    assert done.line.startswith("error: internal error: ZeroDivisionError: two (")
    assert done.line.endswith("[HPCC1900]")
