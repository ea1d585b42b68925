"""The same weights in every form a file can hold them: the same masks, and the same bytes on the accelerator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.context import Context

from compiler.dialects import nn
from compiler.dialects.sparsity import pattern_of
from compiler.frontend.host import host_parts
from compiler.frontend.importer import Imported, import_onnx
from compiler.interpreters.evaluate import evaluate
from compiler.module import main_function
from compiler.passes.fuse import FusePass
from compiler.passes.partition import PartitionPass
from compiler.passes.quantize import QuantizePass
from compiler.passes.sparsify import SparsifyPass, pruning_summary
from compiler.passes.verify_stage import VerifyStagePass
from compiler.tools.reference import Reference
from compiler.weights import attach_store
from hw_targets import numerics
from tests.graphs import Encoder, feeds, rounded, write

BATCH, TOKENS = 2, 8
BASE = Encoder(hidden=36, heads=3, intermediate=72, head="pooler", weights="rounded")
PATTERNS = ["nm:2:4", "hp:rows=8,window=16,keep=8,fine=2:4"]
FORMS = ["matmul", "bias_first", "gemm", "transposed", "constant", "conv"]
DEQUANTISED = ["int8", "int8_tensor", "qdq", "uint8"]


class Compiled:
    """A model through fuse, sparsify (with a spec) and quantize."""

    def __init__(self, spec: Encoder, folder: Path, pattern: str = "") -> None:
        self.spec = spec
        path = write(spec, folder / f"{len(list(folder.iterdir()))}.onnx", BATCH, TOKENS)  # the others are mapped
        self.imported: Imported = import_onnx(path, {})
        self.module, self.store = self.imported.module, self.imported.store
        self.ctx = Context()
        attach_store(self.ctx, self.store)
        for stage, apply in (("fuse", self._fuse), ("sparsify", lambda: self._sparsify(pattern))):
            apply()
            VerifyStagePass(stage=stage).apply(self.ctx, self.module)

    def _fuse(self) -> None:
        FusePass().apply(self.ctx, self.module)
        PartitionPass().apply(self.ctx, self.module)

    def _sparsify(self, pattern: str) -> None:
        self.before = self.keys()
        if pattern:
            SparsifyPass(pattern).apply(self.ctx, self.module)

    def quantize(self) -> Compiled:
        QuantizePass().apply(self.ctx, self.module)
        VerifyStagePass(stage="quantize").apply(self.ctx, self.module)
        return self

    @property
    def linears(self) -> list[nn.LinearOp]:
        return [op for op in self.module.walk() if isinstance(op, nn.LinearOp)]

    def keys(self) -> dict[str, str]:
        weights = {op.role.data: nn.stored_weight(op.weight) for op in self.linears}
        return {role: weight.key.data for role, weight in weights.items() if weight is not None}

    def masks(self) -> dict[str, np.ndarray]:
        """Which entries are not zero, out x in."""
        found = {}
        for op in self.linears:
            weight = nn.stored_weight(op.weight)
            assert weight is not None
            array = self.store.get(weight.key.data)
            found[op.role.data] = (array.T if weight.transposed else array) != 0
        return found

    def coded(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Codes and scales that the accelerator gets."""
        found = {}
        for op in self.module.walk():
            if isinstance(op, nn.QLinearOp):
                assert isinstance(op.weight.owner, nn.WeightOp)
                assert isinstance(op.weight_scale.owner, nn.WeightOp)
                keys = op.weight.owner.key.data, op.weight_scale.owner.key.data
                found[op.role.data] = (self.store.get(keys[0]), self.store.get(keys[1]))
        return found

    def error(self) -> float:
        """Against ONNX Runtime with the same weights, over the rms."""
        after = self.keys()
        replaced = {old: after[role] for role, old in self.before.items() if after[role] != old}
        inputs = feeds(self.spec, BATCH, TOKENS)
        wanted = Reference(self.imported.model, self.store, replaced).run(inputs)
        got = evaluate(self.module, self.store, inputs)
        return max(
            float(np.abs(got[name].reshape(value.shape) - value).max() / np.sqrt(np.mean(np.square(value))))
            for name, value in wanted.items()
        )


def compiled(folder: Path, pattern: str = "", **spelling: str) -> Compiled:
    return Compiled(replace(BASE, **spelling), folder, pattern)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_form_of_a_matrix_gives_the_same_mask_and_the_same_codes(form: str, pattern: str, tmp_path: Path) -> None:
    plain = compiled(tmp_path, pattern)
    other = compiled(tmp_path, pattern, linear=form)
    assert other.error() <= 1e-4
    assert host_parts(other.module) == ()
    masks = plain.masks()
    assert {role for role, mask in masks.items() if not mask.all()} >= {"layer.0.attn.q", "layer.0.ffn.down"}
    for role, mask in other.masks().items():
        np.testing.assert_array_equal(mask, masks[role], err_msg=role)
    wanted = plain.quantize().coded()
    for role, (codes, scale) in other.quantize().coded().items():
        np.testing.assert_array_equal(codes, wanted[role][0], err_msg=role)
        np.testing.assert_array_equal(scale, wanted[role][1], err_msg=role)


@pytest.mark.parametrize("form", ["matmul", "gemm", "transposed"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_int8_codes_get_the_mask_of_the_floats_they_stand_for(form: str, pattern: str, tmp_path: Path) -> None:
    floats = compiled(tmp_path, pattern, linear=form)
    codes = compiled(tmp_path, pattern, linear=form, weights="int8")
    assert codes.error() <= 1e-4
    wanted = floats.masks()
    for role, mask in codes.masks().items():
        np.testing.assert_array_equal(mask, wanted[role], err_msg=role)
    patterns = [pattern_of(op.weight.type) for op in codes.linears]
    assert patterns == [pattern_of(op.weight.type) for op in floats.linears]
    assert pruning_summary(codes.module).encoder_zeros == pruning_summary(floats.module).encoder_zeros > 0


@pytest.mark.parametrize("form", ["matmul", "gemm"])
@pytest.mark.parametrize("pattern", ["", *PATTERNS])
def test_imported_codes_and_scales_are_used_as_they_are(form: str, pattern: str, tmp_path: Path) -> None:
    model = compiled(tmp_path, pattern, linear=form, weights="int8")
    masks = model.masks()
    is_oi = form == "gemm"
    file = {str(name): value.const_value for name, value in model.imported.model.graph.initializers.items()}
    names = {role: key for role, key in model.before.items()}
    coded = model.quantize().coded()
    assert len(coded) == 7
    for role, (codes, scale) in coded.items():
        stored = file[names[role]]
        assert stored is not None
        original = stored.numpy() if is_oi else stored.numpy().T
        np.testing.assert_array_equal(codes, np.where(masks[role], original, 0), err_msg=role)
        assert codes.dtype == np.int8
        assert scale.shape == codes.shape[:1]


def test_a_scale_per_tensor_holds_for_every_row(tmp_path: Path) -> None:
    coded = compiled(tmp_path, weights="int8_tensor").quantize().coded()
    for _, scale in coded.values():
        assert np.unique(scale).size == 1


@pytest.mark.parametrize("weights", DEQUANTISED)
@pytest.mark.parametrize("pattern", ["", "nm:2:4"])
def test_weights_in_integers_stay_on_the_accelerator(weights: str, pattern: str, tmp_path: Path) -> None:
    model = compiled(tmp_path, pattern, weights=weights)
    assert host_parts(model.module) == ()
    assert model.error() <= 1e-4
    kinds = {type(op.weight.owner) for op in model.linears}
    assert kinds == {nn.WeightOp if weights == "uint8" else nn.DequantizeOp}
    model.quantize()


def test_an_embedding_of_codes_is_a_table_in_bf16(tmp_path: Path) -> None:
    tables = {}
    for weights in ("rounded", "int8"):
        model = compiled(tmp_path, weights=weights).quantize()
        embedding = next(op for op in main_function(model.module).body.block.ops if isinstance(op, nn.EmbeddingOp))
        owner = embedding.tables[0].owner
        assert isinstance(owner, nn.WeightOp)
        tables[weights] = model.store.get(owner.key.data).view(np.uint16)
    np.testing.assert_array_equal(tables["int8"], tables["rounded"])


def test_codes_of_minus_128_are_made_anew(tmp_path: Path) -> None:
    """MATRIX takes codes from -127 on: such a matrix is dequantised and coded again, not clipped."""
    import onnx
    from onnx import numpy_helper

    spec = replace(BASE, weights="int8")
    path = write(spec, tmp_path / "model.onnx", BATCH, TOKENS)
    model = onnx.load(str(path))
    initializer = next(t for t in model.graph.initializer if t.name == "layer.0.attention.query.weight_q")
    codes = numpy_helper.to_array(initializer).copy()
    codes[0, 0] = -128
    initializer.CopyFrom(numpy_helper.from_array(codes, initializer.name))
    onnx.save(model, str(path))
    imported = import_onnx(path, {})
    ctx = Context()
    attach_store(ctx, imported.store)
    FusePass().apply(ctx, imported.module)
    PartitionPass().apply(ctx, imported.module)
    q = next(op for op in imported.module.walk() if isinstance(op, nn.LinearOp) and op.role.data == "layer.0.attn.q")
    dequantize = q.weight.owner
    assert isinstance(dequantize, nn.DequantizeOp)
    assert isinstance(dequantize.scale.owner, nn.WeightOp)
    floats = codes.T.astype(np.float32) * imported.store.get(dequantize.scale.owner.key.data)
    QuantizePass().apply(ctx, imported.module)
    made = next(op for op in imported.module.walk() if isinstance(op, nn.QLinearOp) and op.role.data == "layer.0.attn.q")
    assert isinstance(made.weight.owner, nn.WeightOp)
    np.testing.assert_array_equal(imported.store.get(made.weight.owner.key.data), numerics.quantize_weights(floats)[0])


def test_a_convolution_over_several_positions_is_a_product_over_patches(tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    path = write(replace(BASE, linear="conv"), tmp_path / "model.onnx", BATCH, TOKENS)
    model = onnx.load(str(path))
    initializer = next(t for t in model.graph.initializer if t.name == "layer.0.up.weight")
    wide = np.repeat(numpy_helper.to_array(initializer), 3, axis=2)
    initializer.CopyFrom(numpy_helper.from_array(wide, initializer.name))
    node = next(node for node in model.graph.node if initializer.name in node.input)
    node.attribute.append(onnx.helper.make_attribute("pads", [1, 1]))
    onnx.save(model, str(path))
    imported = import_onnx(path, {})
    assert not [op for op in imported.module.walk() if isinstance(op, nn.OpaqueOp)]
    inputs = feeds(replace(BASE, linear="conv"), BATCH, TOKENS)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = evaluate(imported.module, imported.store, inputs)
    for wanted, got in zip(session.run(None, inputs), found.values(), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@given(st.integers(1, 9), st.integers(1, 40), st.booleans(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_dequantised_codes_are_the_products(outs: int, ins: int, per_row: bool, turned: bool) -> None:
    from compiler.interpreters.nn_float import dequantized

    matrix = np.random.default_rng(outs * ins).standard_normal((outs, ins)).astype(np.float32)
    codes, scale = rounded(matrix, per_row=per_row)
    value = dequantized(codes.T, scale.T).T if turned else dequantized(codes, scale)
    assert np.abs(value - matrix).max() <= np.float32(0.51) * scale.max()
    assert value.dtype == np.float32


def test_onnxruntime_agrees_that_the_int8_and_the_rounded_graph_are_one(tmp_path: Path) -> None:
    """The graphs of this file are what they claim to be."""
    results = []
    for weights in ("rounded", "int8", "qdq"):
        spec = replace(BASE, weights=weights)  # pyright: ignore[reportArgumentType]
        path = write(spec, tmp_path / f"{weights}.onnx", BATCH, TOKENS)
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        results.append(session.run(None, feeds(BASE, BATCH, TOKENS))[0])
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)
