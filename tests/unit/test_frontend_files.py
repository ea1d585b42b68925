"""What import says about files and shapes that are wrong, and how shapes are bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compiler.dialects import nn
from compiler.frontend.importer import import_onnx
from compiler.frontend.onnx_file import open_onnx
from compiler.module import main_function
from compiler.tools.arguments import parse_shapes
from compiler.tools.reference import Reference
from hw_targets.errors import HpccError, InputError, UsageError
from tests.graphs import Encoder, build, feeds, write


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(Encoder(), tmp_path_factory.mktemp("model") / "encoder.onnx", symbolic=True)


def fails(kind: type[HpccError], code: str, path: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> str:
    with pytest.raises(kind) as caught:
        import_onnx(path, shapes or {})
    assert caught.value.code == code
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: error: ")
    return text


# ---- files ----------------------------------------------------------------------------------------------------------


def test_a_missing_file_names_its_neighbours(model: Path) -> None:
    text = fails(InputError, "HPCC1001", model.with_name("encodr.onnx"))
    assert "no such file" in text
    assert "encoder.onnx" in text


@pytest.mark.parametrize("content", [b"not a model at all", b"\x89PNG\r\n\x1a\n" + bytes(64), b"PK\x03\x04" + bytes(99)])
def test_another_format_is_no_onnx_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        import_onnx(path, {})
    assert caught.value.code in ("HPCC1002", "HPCC1003")


def test_a_folder_is_no_onnx_file(tmp_path: Path) -> None:
    fails(InputError, "HPCC1002", tmp_path)


def test_an_empty_file_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "empty.onnx"
    path.touch()
    fails(InputError, "HPCC1003", path)


@given(share=st.floats(0.05, 0.999))
@settings(max_examples=25, deadline=None)
def test_a_truncated_file_is_one_clear_error(share: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = build(Encoder(), 2, 8).SerializeToString()
    path = tmp_path_factory.mktemp("cut") / "cut.onnx"
    path.write_bytes(whole[: int(len(whole) * share)])
    fails(InputError, "HPCC1003", path)


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(build(Encoder(), 2, 8), str(path), save_as_external_data=True, location="weights.bin", size_threshold=100)
    import_onnx(path, {})
    (tmp_path / "weights.bin").unlink()
    assert "weights.bin" in fails(InputError, "HPCC1006", path)


def test_external_data_is_the_same_model(tmp_path: Path) -> None:
    """Every tensor in another file, constants too: the same weights, and a model that ONNX Runtime can load."""
    proto = build(Encoder(), 2, 8)
    onnx.save(proto, str(tmp_path / "one.onnx"))
    onnx.save(proto, str(tmp_path / "two.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=0)
    one, two = (import_onnx(tmp_path / name, {}) for name in ("one.onnx", "two.onnx"))
    assert str(one.module) == str(two.module)
    inputs = feeds(Encoder(), 2, 8)
    results = [Reference(imported.model, imported.store, {}).run(inputs) for imported in (one, two)]
    for name, value in results[0].items():
        assert np.array_equal(value, results[1][name])


@pytest.mark.parametrize(
    "name",
    [
        "past_key_values.0.key",
        "past_key_values.0.decoder.value",
        "past_key_values_0_key",
        "past.0.key",
        "key_cache.0",
        "kv_cache",
    ],
)
def test_a_cache_of_keys_and_values_is_refused(name: str, tmp_path: Path) -> None:
    """Before anything else about the file is judged, its dynamic shapes among it."""
    model = build(Encoder(), 2, 8)
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, "past", 8]))
    onnx.save(model, tmp_path / "m.onnx")
    assert name in fails(InputError, "HPCC1012", tmp_path / "m.onnx")


def test_a_merged_decoder_is_refused(tmp_path: Path) -> None:
    """As optimum merges a decoder with and without past into the branches of an If: the choice is an input."""
    flag = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    branches = [helper.make_graph([helper.make_node(op, ["x"], [op])], op, [], [_unshaped(op)]) for op in ("Abs", "Neg")]
    node = helper.make_node("If", ["use_cache_branch"], ["y"], then_branch=branches[0], else_branch=branches[1])
    graph = helper.make_graph([node], "merged", [x, flag], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    assert "use_cache_branch" in fails(InputError, "HPCC1012", tmp_path / "m.onnx")


def _unshaped(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def test_tensors_that_say_that_they_lie_in_the_file(tmp_path: Path) -> None:
    """Some writers put data_location = DEFAULT behind the data: it is there all the same."""
    proto = build(Encoder(), 2, 8)
    for tensor in proto.graph.initializer:
        tensor.data_location = TensorProto.DEFAULT
    onnx.save(proto, tmp_path / "m.onnx")
    opened = open_onnx(tmp_path / "m.onnx").model.graph.initializers
    for tensor in proto.graph.initializer:
        assert np.array_equal(opened[tensor.name].const_value.numpy(), numpy_helper.to_array(tensor))


def test_weights_behind_two_gigabytes(tmp_path: Path) -> None:
    """External data of more than 2 GiB, of which the file system stores what is not zero: the same model, by offset."""
    proto = build(Encoder(), 2, 8)
    onnx.save(proto, tmp_path / "near.onnx")
    onnx.save(proto, tmp_path / "far.onnx", save_as_external_data=True, location="far.bin", size_threshold=100)
    shift = (1 << 31) + 4096
    data = (tmp_path / "far.bin").read_bytes()
    with (tmp_path / "far.bin").open("wb") as file:
        file.seek(shift)
        file.write(data)
    model = onnx.load(tmp_path / "far.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "offset":
                entry.value = str(int(entry.value) + shift)
    onnx.save(model, tmp_path / "far.onnx")
    near, far = (import_onnx(tmp_path / f"{name}.onnx", {}) for name in ("near", "far"))
    assert str(near.module) == str(far.module)
    assert (tmp_path / "far.bin").stat().st_size > 1 << 31
    assert all(np.array_equal(near.store.get(key), far.store.get(key)) for key in near.store.keys())  # noqa: SIM118


def test_weights_are_views_of_the_mapped_file(model: Path) -> None:
    opened = open_onnx(model)
    array = opened.model.graph.initializers["embeddings.word"].const_value.numpy()
    assert not array.flags.owndata
    assert not array.flags.writeable
    stored = next(w for w in onnx.load(str(model)).graph.initializer if w.name == "embeddings.word")
    assert np.array_equal(array, numpy_helper.to_array(stored))


def test_every_element_type_survives_the_mapping(tmp_path: Path) -> None:
    arrays = {
        str(np.dtype(t)): np.arange(2048).astype(t).reshape(2, -1) for t in ("f4", "f2", "f8", "i1", "u1", "i4", "i8", "?")
    }
    outputs = [
        helper.make_tensor_value_info(f"o_{n}", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in arrays.items()
    ]
    nodes = [helper.make_node("Identity", [n], [f"o_{n}"]) for n in arrays]
    graph = helper.make_graph(nodes, "types", [], outputs, [numpy_helper.from_array(a, n) for n, a in arrays.items()])
    path = tmp_path / "types.onnx"
    onnx.save(helper.make_model(graph), str(path))
    opened = open_onnx(path)
    for name, array in arrays.items():
        assert np.array_equal(opened.model.graph.initializers[name].const_value.numpy(), array)


# ---- shapes ---------------------------------------------------------------------------------------------------------


def test_an_unbound_shape_says_which_flag_to_give(model: Path) -> None:
    text = fails(InputError, "HPCC1004", model)
    assert "'input_ids'" in text
    assert "[batch, sequence]" in text
    assert "--shape input_ids:1x128" in text


def test_binding_one_input_binds_what_shares_its_symbols(model: Path) -> None:
    imported = import_onnx(model, {"input_ids": (2, 8)})
    assert [nn.shape_of(argument) for argument in main_function(imported.module).body.block.args] == [(2, 8)] * 3


def test_an_unknown_input_is_a_usage_error_with_near_names(model: Path) -> None:
    assert "attention_mask" in fails(UsageError, "HPCC2022", model, {"atention_mask": (2, 8)})


def test_a_wrong_rank_is_a_usage_error(model: Path) -> None:
    assert "2x8x1" in fails(UsageError, "HPCC2023", model, {"input_ids": (2, 8, 1)})


def test_a_fixed_dimension_is_not_overruled(tmp_path: Path) -> None:
    path = write(Encoder(), tmp_path / "fixed.onnx", 2, 8)
    fails(UsageError, "HPCC2024", path, {"input_ids": (4, 8)})


def test_two_sizes_for_one_symbol_are_a_usage_error(model: Path) -> None:
    text = fails(UsageError, "HPCC2024", model, {"input_ids": (2, 8), "attention_mask": (2, 16)})
    assert "sequence" in text


@given(name=st.text(min_size=1), sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5))
@settings(max_examples=50)
def test_shape_flags_round_trip(name: str, sizes: list[int]) -> None:
    assert parse_shapes([f"{name}:{'x'.join(map(str, sizes))}"]) == {name: tuple(sizes)}


@pytest.mark.parametrize("text", ["input_ids", "input_ids:", ":1x2", "a:1x", "a:0x2", "a:1xn", "a:-1x2"])
def test_unreadable_shape_flags(text: str) -> None:
    with pytest.raises(UsageError):
        parse_shapes([text])


# ---- what has no meaning here ---------------------------------------------------------------------------------------


def test_unsupported_operators_become_opaque_with_a_reason(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("TopK", ["x", "k"], ["v", "i"], name="top"),
        helper.make_node("Relu", ["v"], ["y"], name="r"),
    ]
    k = numpy_helper.from_array(np.array([2], np.int64), "k")
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, [3, 5])], [info("y", TensorProto.FLOAT, [3, 2])], [k]
    )
    path = tmp_path / "top.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    ops = list(main_function(import_onnx(path, {}).module).body.block.ops)
    (opaque,) = (op for op in ops if isinstance(op, nn.OpaqueOp))
    assert opaque.op_type.data == "TopK"
    assert "TopK is not supported" in opaque.reason.data
    assert any(isinstance(op, nn.UnaryOp) for op in ops)


def test_parameters_count_aliased_weights_once(tmp_path: Path) -> None:
    w = np.arange(64, dtype=np.float32).reshape(8, 8)
    nodes = [helper.make_node("MatMul", ["x", "a"], ["y"]), helper.make_node("MatMul", ["y", "b"], ["z"])]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tied",
        [info("x", TensorProto.FLOAT, [2, 8])],
        [info("z", TensorProto.FLOAT, [2, 8])],
        [numpy_helper.from_array(w, "a"), numpy_helper.from_array(w, "b")],
    )
    path = tmp_path / "tied.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    assert import_onnx(path, {}).parameters == 64
