"""Bundles and programs: saving, loading, damage, batches, host segments, errors in inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw_targets import numerics
from hw_targets.asm import assemble
from hw_targets.errors import InputError, MissingToolError
from runtime.bundle import Bundle, add_file, digest, load_bundle, save_bundle
from runtime.manifest import BorderEntry, DeviceEntry, DramEntry, HostEntry, TensorEntry, parse_manifest
from runtime.program import Program
from runtime.simulator.functional import Options
from tests.unit.hand_programs import INS, LinearData, linear, linear_bundle, linear_manifest


@pytest.fixture
def data() -> LinearData:
    return LinearData()


@pytest.fixture
def saved(tmp_path: Path, data: LinearData) -> Path:
    save_bundle(linear_bundle(data), tmp_path / "linear.hpcc", {"report.json": "{}\n"})
    return tmp_path / "linear.hpcc"


def rewrite(path: Path, name: str, content: bytes) -> None:
    """Replace a file and its digest: damage that digests do not catch."""
    (path / name).write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["digests"][name] = digest(content)
    whole = parse_manifest(json.dumps({**manifest, "digest": ""}), "manifest.json")
    (path / "manifest.json").write_text(json.dumps({**manifest, "digest": digest(whole.text().encode())}))


# ---- saving and loading ---------------------------------------------------------------------------------------------


def test_run_equals_the_arithmetic(saved: Path, data: LinearData) -> None:
    program = Program.load(saved, Options(poison=True))
    result = program.run({"x": data.x})
    np.testing.assert_array_equal(result.outputs["y"], data.expected())
    assert result.cycles == program.timing().total > 0
    assert sum(layer.total for layer in program.layers()) == result.cycles
    assert program.accelerator_ms == pytest.approx(result.cycles / (program.target.clock.mhz * 1e3))
    assert program.transfer_ms > 0


def test_saving_twice_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.hpcc"
    manifest = save_bundle(load_bundle(saved), again)
    for file in ("manifest.json", "program.bin", "program.asm", "weights.bin"):
        assert (again / file).read_bytes() == (saved / file).read_bytes(), file
    assert set(manifest.digests) == {"program.bin", "program.asm", "weights.bin"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.hpcc", "linear.hpcc"]


def test_only_a_bundle_is_replaced(saved: Path, tmp_path: Path, data: LinearData) -> None:
    (saved / "run.json").write_text("old")
    save_bundle(linear_bundle(data), saved)
    assert not (saved / "run.json").exists()
    other = tmp_path / "papers"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    for path in (other, other / "thesis.tex"):
        with pytest.raises(InputError, match="no bundle") as caught:
            save_bundle(linear_bundle(data), path)
        assert caught.value.code == "HPCC1257"
    assert (other / "thesis.tex").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["linear.hpcc", "papers"]


def test_a_wrong_program_is_not_written(tmp_path: Path, data: LinearData) -> None:
    bundle = linear_bundle(data)
    broken = replace(bundle, instructions=(*bundle.instructions[:4], *bundle.instructions[5:]))
    with pytest.raises(InputError, match="deadlock"):
        save_bundle(broken, tmp_path / "new.hpcc")
    assert list(tmp_path.iterdir()) == []


def test_add_file(saved: Path) -> None:
    add_file(saved, "run.json", "{}")
    add_file(saved, "run.json", "{1}")
    assert (saved / "run.json").read_text() == "{1}"
    load_bundle(saved)


# ---- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["program.bin", "program.asm", "weights.bin"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_any_damaged_file_is_named(saved: Path, name: str, damage: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        (saved / name).unlink()
    else:
        (saved / name).write_bytes({"flip": bytes(content), "cut": bytes(content[:-5]), "empty": b""}[damage])
    with pytest.raises(InputError) as caught:
        load_bundle(saved)
    assert name in caught.value.where
    assert "\n" not in str(caught.value)


def test_a_cut_program_with_a_right_digest(saved: Path) -> None:
    rewrite(saved, "program.bin", (saved / "program.bin").read_bytes()[:-4])
    with pytest.raises(InputError, match="HPCC1205") as caught:
        load_bundle(saved)
    assert "program.bin" in caught.value.where


def test_cut_weights_with_a_right_digest(saved: Path) -> None:
    rewrite(saved, "weights.bin", (saved / "weights.bin").read_bytes()[:-4])
    with pytest.raises(InputError, match=r"weights\.bin.*needs 4224"):
        load_bundle(saved)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema_version", 2, "schema_version is 2"),
        ("isa_version", 2, r"isa_version is 2, this release reads 3 \(compile the model again"),
        ("surprise", 1, "surprise"),
        ("nodes", [], "node 1 is not in the manifest"),
        ("semaphores", [], "semaphore 0 is not in the manifest"),
        ("target", {}, "snapshot"),
        ("digests", {}, "no digest of program.bin"),
        ("segments", [{"kind": "cloud"}], "segments"),
        ("model_outputs", [{"name": "z", "dtype": "float32", "shape": [1]}], "nothing makes the output 'z'"),
        ("model_inputs", [], "reads 'x', which nothing before it makes"),
        ("dram", [], "lies in no input region"),
        ("sizes", {"dram": 100}, "behind the DRAM of 100 bytes"),
        ("hpcc_version", "9.9", r"manifest\.json: error: the file is not the one that was written"),
    ],
)
def test_a_damaged_manifest(saved: Path, key: str, value: Any, message: str) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest[key] = value
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message):
        Program.load(saved).timing()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"schema_version": 1, "isa_version": 1}'])
def test_a_manifest_that_is_none(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_manifest(text, "m.json")
    assert caught.value.where == "m.json"


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="HPCC1244"):
        load_bundle(tmp_path)


def test_dram_is_protected(data: LinearData) -> None:
    bundle = linear_bundle(data)
    regions = bundle.manifest.dram
    overlapping = (*regions, DramEntry(name="more", kind="scratch", offset=0x2010, bytes=4))
    with pytest.raises(InputError, match="'in' and 'more' overlap"):
        replace(bundle, manifest=linear_manifest(dram=overlapping)).check()
    onto_weights = assemble("store.copy src=0x0 dst=0x0 rows=1 row_bytes=4 ; node 1\ncontrol.halt")
    with pytest.raises(InputError, match="writes into the weights region"):
        replace(bundle, instructions=tuple(onto_weights)).check()
    between = assemble("load.copy src=0x20be dst=0x0 rows=1 row_bytes=4 ; node 1\ncontrol.halt")
    with pytest.raises(InputError, match="lie in no region of DRAM"):
        replace(bundle, instructions=tuple(between)).check()


# ---- inputs and batches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 3, 4, 5, 8, 11])
def test_any_number_of_samples(saved: Path, data: LinearData, samples: int) -> None:
    """The compiled batch is 4 rows, each with its own scale: how samples are cut into batches changes nothing."""
    x = numerics.bf16(np.random.default_rng(1).standard_normal((samples, INS)).astype(np.float32))
    result = Program.load(saved, Options(poison=True)).run({"x": x})
    np.testing.assert_array_equal(result.outputs["y"], data.expected(x))
    assert result.batches == -(-samples // 4)


def test_a_run_leaves_nothing_behind(saved: Path, data: LinearData) -> None:
    program = Program.load(saved)
    first = program.run({"x": data.x}).outputs["y"]
    program.run({"x": -data.x})
    np.testing.assert_array_equal(program.run({"x": data.x}).outputs["y"], first)
    np.testing.assert_array_equal(first, data.expected())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'x' is missing"),
        ({"x": np.zeros((4, 24), np.float32), "z": np.zeros(1)}, "no input 'z'.*it takes x"),
        ({"x": np.zeros((4, 25), np.float32)}, "shape 4x25, expected samplesx24"),
        ({"x": np.zeros(24, np.float32)}, "shape 24, expected"),
        ({"x": np.zeros((0, 24), np.float32)}, "shape 0x24, expected"),
        ({"x": np.zeros((4, 24), np.int32)}, "is int32, expected float32"),
        ({"x": np.full((4, 24), "a")}, "is <U1, expected float32"),
    ],
)
def test_wrong_inputs(saved: Path, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Program.load(saved).run(inputs)


GATHER = """
load.copy src=0x2000 dst=0x0 rows=1 row_bytes=8 signal=0
load.gather table=0x0:8 ids=0x0 dst=0x100:8 rows=2 row_bytes=8 table_rows=5 signal=1
store.copy src=0x100 dst=0x3000 rows=2 row_bytes=8 wait=1
control.halt
"""


def gather_bundle() -> Bundle:
    from hw_targets.isa import Queue
    from runtime.manifest import SemaphoreEntry

    table = np.arange(10, dtype=np.float32)
    manifest = linear_manifest(
        semaphores=(
            SemaphoreEntry(name="unused", initial=0, producer=Queue.LOAD, consumer=Queue.VECTOR),
            SemaphoreEntry(name="rows", initial=0, producer=Queue.LOAD, consumer=Queue.STORE),
        ),
        dram=(
            DramEntry(name="table", kind="weights", offset=0, bytes=40),
            DramEntry(name="ids", kind="input", offset=0x2000, bytes=8),
            DramEntry(name="rows", kind="output", offset=0x3000, bytes=16),
        ),
        inputs=(BorderEntry(name="ids", dtype="int64", shape=(1, 2), device_dtype="i32", offset=0x2000),),
        outputs=(BorderEntry(name="y", dtype="float32", shape=(1, 2, 2), device_dtype="f32", offset=0x3000),),
        model_inputs=(TensorEntry(name="ids", dtype="int64", shape=(1, 2)),),
        model_outputs=(TensorEntry(name="y", dtype="float32", shape=(1, 2, 2)),),
    )
    return Bundle(manifest, tuple(assemble(GATHER)), table.view(np.uint8), {})


def test_token_ids() -> None:
    program = Program(gather_bundle())
    assert program.id_limits == {"ids": 5}
    outputs = program.run({"ids": np.array([[4, 0], [1, 1]])}).outputs
    assert outputs["y"].tolist() == [[[8, 9], [0, 1]], [[2, 3], [2, 3]]]
    assert program.run({"ids": np.array([[4, 0]], np.uint8)}).outputs["y"].tolist() == [[[8, 9], [0, 1]]]
    for wrong in (5, -1, 1 << 40):
        with pytest.raises(InputError, match=f"input 'ids' holds id {wrong}, outside its table of 5 rows"):
            program.run({"ids": np.array([[0, wrong]])})
    with pytest.raises(InputError, match="holds values that int64 does not"):
        program.run({"ids": np.array([[0, 1 << 63]], np.uint64)})


# ---- host segments --------------------------------------------------------------------------------------------------


def scale_model(source: str, result: str, factor: float) -> bytes:
    from onnx import TensorProto, helper

    node = helper.make_node("Mul", [source, "factor"], [result])
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in (source, result)]
    constant = helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])
    graph = helper.make_graph([node], "g", info[:1], info[1:], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def host_bundle(data: LinearData) -> Bundle:
    manifest = linear_manifest(
        model_inputs=(TensorEntry(name="raw", dtype="float32", shape=(4, 24)),),
        model_outputs=(TensorEntry(name="scaled", dtype="float32", shape=(4, 16)),),
        segments=(
            HostEntry(file="host/before.onnx", inputs=("raw",), outputs=("x",)),
            DeviceEntry(),
            HostEntry(file="host/after.onnx", inputs=("y",), outputs=("scaled",)),
        ),
    )
    host = {"host/before.onnx": scale_model("raw", "x", 2.0), "host/after.onnx": scale_model("y", "scaled", -1.0)}
    return Bundle(manifest, tuple(linear()), data.weights_bin(), host)


def test_host_segments_run_and_are_timed(tmp_path: Path, data: LinearData) -> None:
    save_bundle(host_bundle(data), tmp_path / "b.hpcc")
    program = Program.load(tmp_path / "b.hpcc")
    result = program.run({"raw": np.concatenate([data.x, data.x])})
    np.testing.assert_array_equal(result.outputs["scaled"], -np.tile(data.expected(data.x * 2), (2, 1)))
    assert set(result.host_seconds) == {"host/before.onnx", "host/after.onnx"}
    assert all(seconds > 0 for seconds in result.host_seconds.values())
    device = program.run({"x": data.x}, host=False)
    np.testing.assert_array_equal(device.outputs["y"], data.expected())
    assert device.host_seconds == {}


def test_a_damaged_host_model(tmp_path: Path, data: LinearData) -> None:
    save_bundle(host_bundle(data), tmp_path / "b.hpcc")
    rewrite(tmp_path / "b.hpcc", "host/after.onnx", b"no onnx")
    with pytest.raises(InputError, match=r"host/after\.onnx.*onnxruntime cannot load it"):
        Program.load(tmp_path / "b.hpcc").run({"raw": data.x})
    (tmp_path / "b.hpcc" / "host" / "after.onnx").unlink()
    with pytest.raises(InputError, match=r"host/after\.onnx"):
        load_bundle(tmp_path / "b.hpcc")


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch, data: LinearData) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingToolError, match="needs onnxruntime"):
        Program(host_bundle(data)).run({"raw": data.x})
    Program(linear_bundle(data)).run({"x": data.x})
