"""hpcc.prune on small models: the file that is written, whatever way its weights are spelled."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from xdsl.ir import Operation

import hpcc
from compiler.dialects.nn import DequantizeOp
from compiler.dialects.sparsity import pattern_of
from compiler.passes.sparsify import SparsifyPass, pruning_summary
from compiler.sparsity.base import Dense
from compiler.sparsity.patterns import NM, parse_pattern
from compiler.tools.exploring.models import zeroed_file
from compiler.tools.pruning import calibration, session
from compiler.tools.pruning.provenance import fused, linears_of, matrix_of
from compiler.tools.stages import new_context
from hw_targets.errors import InputError, UsageError
from tests.graphs import Encoder, feeds, write

BASE = Encoder(hidden=36, heads=3, intermediate=72, head="pooler", weights="rounded")
FORMS = ["matmul", "bias_first", "gemm", "transposed", "constant", "conv"]
DEQUANTISED = ["int8", "int8_tensor", "qdq", "uint8"]
METHODS = ["magnitude", "activation", "second-order"]
HP = "hp:rows=8,window=16,keep=8,fine=2:4"


def data(spec: Encoder = BASE, count: int = 24, seed: int = 5) -> dict[str, Any]:
    return feeds(spec, count, 8, seed)


def matrices(path: Path, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The linears' matrices out x in, as hpcc reads them back."""
    imported = fused(path, shapes)
    return {role: np.array(matrix_of(op, imported)) for role, op in linears_of(imported.module).items()}


def pruned(folder: Path, spec: Encoder = BASE, pattern: str = "nm:2:4", method: str = "second-order", **more: Any) -> Path:
    model, output = write(spec, folder / "model.onnx", 2, 8), folder / "pruned.onnx"
    needs = method in ("activation", "second-order") or more.get("allocate") == "global"
    hpcc.prune(model, pattern, method=method, calibrate=data(spec) if needs else None, output=output, **more)
    return output


def skeleton(model: onnx.ModelProto) -> bytes:
    """The model without its tensors' data and without metadata."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.metadata_props[:]
    tensors = [*copy.graph.initializer]
    tensors += [a.t for node in copy.graph.node for a in node.attribute if node.op_type == "Constant" and a.HasField("t")]
    for tensor in tensors:
        for field in ("raw_data", "float_data", "int32_data", "int64_data"):
            tensor.ClearField(field)
    return copy.SerializeToString(deterministic=True)


SPELT = [(method, pattern) for method in METHODS for pattern in ("nm:2:4", HP)]
FAST_SPELT = {("second-order", "nm:2:4"), ("magnitude", HP)}


@pytest.mark.parametrize(
    ("method", "pattern"),
    [pytest.param(*case, marks=() if case in FAST_SPELT else pytest.mark.slow) for case in SPELT],
)
def test_one_matrix_in_six_spellings_gives_one_mask(method: str, pattern: str, tmp_path: Path) -> None:
    found = {}
    for form in FORMS:
        folder = tmp_path / form
        folder.mkdir()
        found[form] = matrices(pruned(folder, replace(BASE, linear=form), pattern, method))
    plain = found["matmul"]
    for form, other in found.items():
        for role, matrix in plain.items():
            assert np.array_equal(matrix != 0, other[role] != 0), (form, role)
            assert np.allclose(matrix, other[role], atol=1e-4), (form, role)
    assert np.count_nonzero(plain["layer.0.ffn.up"]) == parse_pattern(pattern).kept(72, 36)
    assert np.count_nonzero(plain["pooler"]) > 0.9 * plain["pooler"].size


@pytest.mark.parametrize("method", METHODS)
def test_fused_and_split_projections_prune_alike(method: str, tmp_path: Path) -> None:
    found = []
    for projections in ("separate", "split", "chosen", "interleaved"):
        folder = tmp_path / projections
        folder.mkdir()
        found.append(matrices(pruned(folder, replace(BASE, projections=projections), "nm:2:4", method)))
    for other in found[1:]:
        for role, matrix in found[0].items():
            assert np.array_equal(matrix != 0, other[role] != 0), role
            assert np.allclose(matrix, other[role], atol=1e-4), role


@pytest.mark.slow
@pytest.mark.parametrize("method", ["magnitude", "second-order"])
def test_both_exporters_prune_alike(method: str, l6_export: Callable[..., Path], tmp_path: Path) -> None:
    """Two graph styles of the same weights: the same masks, and values as near as float sums are."""
    found = {}
    for exporter in ("torchscript", "dynamo"):
        model = l6_export(exporter, "pool")
        names = [entry.name for entry in onnx.load(str(model)).graph.input]
        random = np.random.default_rng(0)
        ids = random.integers(1000, 20000, (8, 24))
        samples = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        calibrate = {name: samples[name] for name in names} if method == "second-order" else None
        output = tmp_path / f"{exporter}.onnx"
        scope = ["layer.0.*"] if method == "second-order" else []
        hpcc.prune(model, "nm:2:4", method=method, calibrate=calibrate, scope=scope, output=output)
        found[exporter] = matrices(output, input_ids=(8, 24))
    first, second = found.values()
    assert first.keys() == second.keys()
    for role, matrix in first.items():
        other = second[role]
        differ = np.count_nonzero((matrix != 0) != (other != 0))
        if method == "magnitude":
            assert np.array_equal(matrix, other), role
        assert differ <= 1e-3 * matrix.size, (role, differ)
        assert np.linalg.norm(matrix - other) <= 0.02 * np.linalg.norm(matrix), role


@pytest.mark.parametrize("form", DEQUANTISED)
def test_codes_are_pruned_as_the_numbers_they_stand_for(form: str, tmp_path: Path) -> None:
    for method in ("magnitude", "second-order"):
        folder = tmp_path / method
        folder.mkdir()
        spec = replace(BASE, weights=form)
        output = pruned(folder, spec, "nm:2:4", method)
        for role, matrix in matrices(output).items():
            if role != "pooler":
                NM(2, 4).check(matrix)
        before, after = onnx.load(folder / "model.onnx"), onnx.load(output)
        assert skeleton(before) == skeleton(after)
        plain = matrices(write(replace(BASE, weights="rounded"), folder / "plain.onnx", 2, 8))
        if method == "magnitude" and form in ("int8", "qdq"):  # the others hold another, coarser matrix
            for role, matrix in matrices(output).items():
                if role != "pooler":
                    assert not matrix[~NM(2, 4).mask(plain[role])].any()


def test_shared_weights_are_the_nearest_ones(tmp_path: Path) -> None:
    pattern = parse_pattern("circulant:4")
    before = matrices(write(BASE, tmp_path / "before.onnx", 2, 8))
    model = write(BASE, tmp_path / "model.onnx", 2, 8)
    hpcc.prune(model, "circulant:4", output=tmp_path / "out.onnx")
    for role, matrix in matrices(tmp_path / "out.onnx").items():
        if role != "pooler":
            pattern.check(matrix)
            np.testing.assert_array_equal(matrix, pattern.project(before[role]))


@pytest.mark.parametrize("external", [False, True])
def test_only_numbers_and_metadata_change(external: bool, tmp_path: Path) -> None:
    model = write(BASE, tmp_path / "model.onnx", 2, 8)
    if external:
        loaded = onnx.load(model)
        onnx.save(loaded, model, save_as_external_data=True, location="model.data", size_threshold=1024)
    inputs = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    output = tmp_path / "out.onnx"
    result = hpcc.prune(model, "nm:2:4", output=output)
    assert {name: (tmp_path / name).read_bytes() for name in inputs} == inputs
    before, after = (onnx.load(path, load_external_data=False) for path in (model, output))
    assert [n.SerializeToString() for n in before.graph.node] == [n.SerializeToString() for n in after.graph.node]
    onnx.checker.check_model(str(output))
    whole_before, whole_after = onnx.load(model), onnx.load(output)
    names = {name for layer in result.pruned for name in layer.tensors}
    for old, new in zip(whole_before.graph.initializer, whole_after.graph.initializer, strict=True):
        a, b = numpy_helper.to_array(old), numpy_helper.to_array(new)
        assert (old.name, a.dtype, a.shape) == (new.name, b.dtype, b.shape)
        assert np.array_equal(a, b) == (old.name not in names)
    for old, new in zip(before.graph.initializer, after.graph.initializer, strict=True):
        assert old.data_location == new.data_location
        places = [[(e.key, e.value) for e in t.external_data if e.key != "location"] for t in (old, new)]
        assert places[0] == places[1]
    outputs = onnxruntime.InferenceSession(str(output)).run(None, data(count=2))
    assert all(np.isfinite(array).all() for array in outputs)
    metadata = {entry.key: entry.value for entry in after.metadata_props}
    assert metadata["hpcc.sparsity"] == "nm:2:4"
    assert json.loads(metadata["hpcc.pruning.history"])[0]["methods"] == ["magnitude"]


@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.integers(4, 9),
    wide=st.integers(9, 30),
    pattern=st.sampled_from(["nm:2:4", "nm:1:5", HP, "unstructured:0.9"]),
)
def test_the_file_has_the_zeros_of_the_closed_form(width: int, wide: int, pattern: str, tmp_path: Path) -> None:
    assume(4 * width >= 4 * parse_pattern(pattern).group)  # else no layer holds it, which is an error
    spec = Encoder(hidden=4 * width, heads=4, intermediate=2 * wide)
    output = pruned(tmp_path, spec, pattern, "magnitude")
    count = 0
    for role, matrix in matrices(output).items():
        if role.startswith("layer."):
            outs, ins = matrix.shape
            own = parse_pattern(pattern)
            kept = own.kept(outs, ins) if ins >= 4 * own.group else matrix.size
            assert np.count_nonzero(matrix) == kept
            count += kept < matrix.size
    assert count


@pytest.mark.parametrize("method", ["activation", "second-order"])
def test_padding_does_not_matter(method: str, tmp_path: Path) -> None:
    """Not to a bit: other ids, and other lengths, behind the mask."""
    model = write(BASE, tmp_path / "model.onnx", 2, 8)
    clean = data()
    dirty = {name: array.copy() for name, array in clean.items()}
    padding = clean["attention_mask"] == 0
    assert padding.any()
    dirty["input_ids"][padding] = np.random.default_rng(3).integers(0, 50, int(padding.sum()))
    dirty["token_type_ids"][padding] = 1
    files = []
    for number, arrays in enumerate((clean, dirty)):
        hpcc.prune(model, "nm:2:4", method=method, calibrate=arrays, output=tmp_path / f"{number}.onnx")
        files.append((tmp_path / f"{number}.onnx").read_bytes())
    assert files[0] == files[1]


def test_padding_in_the_moments_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "real_rows", lambda value, real: value.reshape(-1, value.shape[-1]))
    with pytest.raises(AssertionError):
        test_padding_does_not_matter("second-order", tmp_path)


def test_second_order_loses_least(tmp_path: Path) -> None:
    spec = replace(BASE, head="none", layers=2)
    inputs = data(spec, 2, seed=9)
    model = write(spec, tmp_path / "model.onnx", 2, 8)
    wanted = onnxruntime.InferenceSession(str(model)).run(None, inputs)[0][inputs["attention_mask"] != 0]
    errors = {}
    for method in ("random", *METHODS):
        hpcc.prune(model, "nm:2:4", method=method, calibrate=data(spec, 64), output=tmp_path / "out.onnx")
        got = onnxruntime.InferenceSession(str(tmp_path / "out.onnx")).run(None, inputs)[0][inputs["attention_mask"] != 0]
        errors[method] = float(np.linalg.norm(got - wanted))
    assert errors["second-order"] < errors["activation"]
    assert errors["second-order"] < errors["magnitude"] < errors["random"]


def test_global_allocation_has_at_least_the_zeros(tmp_path: Path) -> None:
    model = write(replace(BASE, layers=2), tmp_path / "model.onnx", 2, 8)
    for pattern in ("nm:2:4", "unstructured:0.75", "hp:rows=8,window=16,keep=8,fine=2:4"):
        result = hpcc.prune(model, pattern, calibrate=data(), allocate="global", output=tmp_path / "out.onnx")
        asked = sum(
            layer.outs * layer.ins - parse_pattern(pattern).kept(layer.outs, layer.ins)
            for layer in result.layers
            if layer.role.startswith("layer.")
        )
        assert sum(layer.zeros for layer in result.pruned) >= asked
        for layer in result.pruned:
            layer.pattern.check(matrices(tmp_path / "out.onnx")[layer.role])


def found_by_auto(path: Path) -> dict[str, tuple[str, str]]:
    """The pattern and the near miss of each linear, as `hpcc` sees the file."""
    imported = fused(path, {})
    SparsifyPass("auto").apply(new_context(imported.store), imported.module)
    summary = pruning_summary(imported.module)
    assert all(not layer.not_as_named for layer in summary.layers)
    linears = linears_of(imported.module)
    assert all(pattern_of(linears[layer.role].weight.type) == layer.pattern for layer in summary.layers)
    return {layer.role: (layer.pattern.spec(), layer.near_miss) for layer in summary.layers}


def test_global_allocation_widens_codes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of codes is run once for each layer, but its weights are the same each time."""
    calls: dict[Operation, int] = {}
    plain = calibration.run_op

    def counted(op: Operation, *rest: Any) -> Any:
        if isinstance(op, DequantizeOp):
            calls[op] = calls.get(op, 0) + 1
        return plain(op, *rest)

    monkeypatch.setattr(calibration, "run_op", counted)
    spec = replace(BASE, weights="int8")
    output = pruned(tmp_path, spec, "nm:2:4", "magnitude", allocate="global")
    assert len(matrices(output)) == 7
    assert calls
    assert max(calls.values()) == 2  # the moments of the unpruned model, and all that is measured


def test_hpcc_takes_the_patterns_from_the_file(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('pattern = "nm:2:4"\n[[rule]]\nmatch = "layer.*.ffn.*"\npattern = "unstructured:0.6"\n')
    model = write(BASE, tmp_path / "model.onnx", 2, 8)
    result = hpcc.prune(model, recipe=recipe, output=tmp_path / "out.onnx")
    found = found_by_auto(tmp_path / "out.onnx")
    assert found["layer.0.attn.q"] == ("nm:2:4", "")
    assert found["layer.0.ffn.up"] == ("unstructured:0.6", "")
    assert {layer.role: layer.pattern.spec() for layer in result.layers if layer.role in found} == {
        role: spec for role, (spec, _) in found.items()
    }


def test_auto_says_what_is_nearly_there(tmp_path: Path) -> None:
    output = pruned(tmp_path, BASE, "nm:2:4", "magnitude")
    model = onnx.load(output)
    del model.metadata_props[:]
    linear = next(t for t in model.graph.initializer if numpy_helper.to_array(t).shape == (36, 72))
    array = numpy_helper.to_array(linear).copy()  # stored in x out
    array[0:4, :3] = 1.0
    linear.CopyFrom(numpy_helper.from_array(array, linear.name))
    onnx.save(model, tmp_path / "near.onnx")
    found = found_by_auto(tmp_path / "near.onnx")
    assert found["layer.0.ffn.up"][1] == "2:4 except for 3 groups"
    assert found["layer.0.attn.q"] == ("nm:2:4", "")


def test_tied_weights_are_pruned_once(tmp_path: Path) -> None:
    model = onnx.load(write(replace(BASE, layers=2, linear="matmul"), tmp_path / "model.onnx", 2, 8))
    result = hpcc.prune(tmp_path / "model.onnx", "nm:2:4", output=tmp_path / "out.onnx")
    ups = [layer.tensors[0] for layer in result.layers if layer.role.endswith("ffn.up")]
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == ups[1]:
                node.input[index] = ups[0]
    onnx.save(model, tmp_path / "tied.onnx")
    for method in METHODS:
        result = hpcc.prune(tmp_path / "tied.onnx", "nm:2:4", method=method, calibrate=data(), output=tmp_path / "out.onnx")
        assert [layer.tied_to for layer in result.layers if layer.role.endswith("ffn.up")] == ["", "layer.0.ffn.up"]
        NM(2, 4).check(matrices(tmp_path / "out.onnx")["layer.1.ffn.up"])


def test_what_cannot_be_pruned_says_why(tmp_path: Path) -> None:
    model = write(BASE, tmp_path / "model.onnx", 2, 8)
    result = hpcc.prune(model, "nm:2:16", output=tmp_path / "out.onnx")
    left = {layer.role: layer.left_dense for layer in result.layers if layer.left_dense}
    assert "fewer than 4 groups" in left["layer.0.attn.q"]
    assert isinstance(next(layer for layer in result.layers if layer.role == "pooler").pattern, Dense)
    with pytest.raises(UsageError, match="needs calibration data"):
        hpcc.prune(model, "nm:2:4", method="second-order")
    with pytest.raises(InputError, match="padding only"):
        hpcc.prune(model, "nm:2:4", calibrate={name: np.zeros_like(a) for name, a in data().items()})


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write(BASE, tmp_path / "model.onnx", 2, 8)
    (tmp_path / "out.onnx").write_text("older")

    def fails(*arguments: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    result = hpcc.prune(model, "nm:2:4")
    monkeypatch.setattr(session.ModelFile, "_written", fails)
    with pytest.raises(InputError, match="No space left"):
        result.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "out.onnx"]


def test_the_same_command_writes_the_same_bytes(tmp_path: Path) -> None:
    model = write(BASE, tmp_path / "model.onnx", 2, 8)
    files = []
    for number in range(2):
        hpcc.prune(model, "hp:0.75", calibrate=data(), output=tmp_path / f"{number}.onnx", scope=["layer.*.ffn.*"])
        files.append((tmp_path / f"{number}.onnx").read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("form", ["constant", "transposed", "external", "uint8"])
def test_the_control_of_zeros_leaves_no_matrix(form: str, tmp_path: Path) -> None:
    """Whatever holds the weights, and whatever number stands for zero there."""
    spec = replace(BASE, weights="uint8") if form == "uint8" else replace(BASE, linear=form) if form != "external" else BASE
    model = write(spec, tmp_path / "model.onnx", 2, 8)
    if form == "external":
        onnx.save(onnx.load(model), model, save_as_external_data=True, location="model.data", size_threshold=1024)
    zeroed = zeroed_file(model, {}, tmp_path / "zeroed.onnx")
    found = matrices(zeroed)
    assert len(found) > 6
    for role, matrix in found.items():
        assert matrix.any() != role.startswith("layer."), role


def test_external_data_without_a_length(tmp_path: Path) -> None:
    """As much is read as the shape says, whatever else the entries hold."""
    model = write(BASE, tmp_path / "model.onnx", 2, 8)
    onnx.save(onnx.load(model), model, save_as_external_data=True, location="model.data", size_threshold=1024)
    wanted = hpcc.prune(model, "nm:2:4", method="magnitude", output=tmp_path / "wanted.onnx")
    odd = onnx.load(model, load_external_data=False)
    for tensor in odd.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "length":
                entry.key = "nonsense"
    onnx.save(odd, model)
    found = hpcc.prune(model, "nm:2:4", method="magnitude", output=tmp_path / "found.onnx")
    assert found.sparsity == wanted.sparsity
    first, second = (matrices(tmp_path / f"{name}.onnx") for name in ("wanted", "found"))
    assert all(np.array_equal(matrix, second[role]) for role, matrix in first.items())


def test_a_tensor_that_says_external_and_names_no_file(tmp_path: Path) -> None:
    """Its numbers are in the model, as the importer takes them of a Constant node."""
    model = write(replace(BASE, linear="constant"), tmp_path / "model.onnx", 2, 8)
    wanted = hpcc.prune(model, "nm:2:4", method="magnitude", output=tmp_path / "wanted.onnx")
    odd = onnx.load(model)
    for node in odd.graph.node:
        if node.op_type == "Constant" and len(node.attribute[0].t.dims) == 2:
            node.attribute[0].t.data_location = onnx.TensorProto.EXTERNAL
    model.write_bytes(odd.SerializeToString())
    found = hpcc.prune(model, "nm:2:4", method="magnitude", output=tmp_path / "found.onnx")
    assert found.sparsity == wanted.sparsity
    first, second = (matrices(tmp_path / f"{name}.onnx") for name in ("wanted", "found"))
    assert all(np.array_equal(matrix, second[role]) for role, matrix in first.items())
