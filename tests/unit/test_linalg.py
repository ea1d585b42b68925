"""Modules in upstream dialects: spellings lower, IREE computes what the interpreter does, sparse buffers are the weight."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp

from benchmarks import decoder
from compiler.backends.linalg.sparse import buffers, level_map
from compiler.backends.linalg.tensors import _common_groups  # pyright: ignore[reportPrivateUsage]
from compiler.frontend.importer import import_onnx
from compiler.interpreters.evaluate import evaluate
from compiler.passes.fuse import FusePass
from compiler.sparsity.patterns import parse_pattern
from compiler.sparsity.saliency import magnitudes
from compiler.tools.options import Options
from compiler.tools.stages import new_context
from compiler.tools.upstream import lowered, save
from tests.graphs import Encoder, feeds, write
from tests.interop import iree

UPSTREAM = {"builtin", "func", "linalg", "tensor", "arith", "math"}
ENCODERS = {
    "as torch writes it": Encoder(head="pooler"),
    "decomposed, mean": Encoder(layer_norm="decomposed", gelu="tanh", mask="where", head="mean", position="sliced"),
    "chosen heads": Encoder(projections="chosen", mask="1e4", head="classifier", gelu="quick"),
    "int8 weights": Encoder(weights="int8", gelu="silu", attention="sdpa"),
    "convolutions": Encoder(linear="conv", mask="gathered", gelu="relu"),
    "causal": Encoder(mask="causal", gelu="op_tanh", projections="split"),
}
BASE = decoder.Decoder(layers=1, vocabulary=60)
DECODERS = {
    "Llama": replace(BASE, padding=True),
    "neighbours of a part turn": replace(BASE, rotary="interleaved", turned=4, mask="chosen"),
    "norms of heads": replace(BASE, heads_norm=True, head_size=16, gate="gelu_tanh"),
    "GPT-2": replace(BASE, norm="layer", rotary="none", gate="none", kv_heads=4, projections="gemm"),
}
SHAPE = (2, 8)


def model_of(name: str, folder: Path) -> tuple[Path, dict[str, NDArray[np.int64]]]:
    """A small model of the tables above, and inputs whose masks hide something."""
    if name in ENCODERS:
        return write(ENCODERS[name], folder / "model.onnx", *SHAPE), feeds(ENCODERS[name], *SHAPE)
    spec, random = DECODERS[name], np.random.default_rng(0)
    inputs = {"input_ids": random.integers(0, spec.vocabulary, SHAPE)}
    if spec.padding:
        inputs["attention_mask"] = np.ones(SHAPE, np.int64)
        inputs["attention_mask"][1, 5:] = 0
    return decoder.write(spec, folder / "model.onnx"), inputs


def options(path: Path, form: str, **given: str) -> Options:
    names = ("input_ids", "attention_mask") if "padding" in given else ("input_ids",)
    given.pop("padding", None)
    return Options(model=str(path), target="", shapes=dict.fromkeys(names, SHAPE), emit=form, quiet=True, **given)


def written(name: str, form: str, folder: Path) -> tuple[Path, ModuleOp, dict[str, NDArray[np.int64]]]:
    path, inputs = model_of(name, folder)
    padded = {"padding": ""} if name in DECODERS and DECODERS[name].padding else {}
    module, store, patterns = lowered(options(path, form, **padded))
    save(module, store, patterns, folder / "model.mlir")
    return folder / "model.mlir", module, inputs


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_nothing_of_ours_is_left(name: str, tmp_path: Path) -> None:
    _, module, _ = written(name, "linalg", tmp_path)
    module.verify()
    assert {op.name.split(".")[0] for op in module.walk()} <= UPSTREAM
    assert "hpcc_" not in str(module)


def close_to_the_interpreter(name: str, form: str, folder: Path) -> None:
    file, _, inputs = written(name, form, folder)
    path, _ = model_of(name, folder)
    padded = name in DECODERS and DECODERS[name].padding
    imported = import_onnx(path, dict.fromkeys(("input_ids", "attention_mask") if padded else ("input_ids",), SHAPE))
    FusePass().apply(new_context(imported.store), imported.module)
    wanted = evaluate(imported.module, imported.store, inputs)
    found = iree(file, inputs)
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted.values(), strict=True):
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= 1e-4 * np.sqrt(np.mean(np.square(want)))


@pytest.mark.parametrize(
    ("name", "form"), [("Llama", "iree"), pytest.param("as torch writes it", "linalg", marks=pytest.mark.slow)]
)
def test_iree_computes_what_the_interpreter_does(name: str, form: str, tmp_path: Path) -> None:
    close_to_the_interpreter(name, form, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_iree_computes_every_spelling(name: str, tmp_path: Path) -> None:
    close_to_the_interpreter(name, "iree", tmp_path)


@given(st.lists(st.integers(1, 5), max_size=5), st.data())
def test_a_reshape_meets_in_the_middle(before: list[int], data: st.DataObject) -> None:
    """Any factorisation of the same count: groups that cover all axes in order, each with equal products."""
    after: list[int] = []
    left = prod(before)
    while left > 1:
        factor = data.draw(st.sampled_from([d for d in range(2, left + 1) if left % d == 0]))
        after.append(factor)
        left //= factor
    for _ in range(data.draw(st.integers(0, 2))):
        after.insert(data.draw(st.integers(0, len(after))), 1)
    groups = _common_groups(before, after)
    if before and after:
        assert [axis for group, _ in groups for axis in group] == list(range(len(before)))
        assert [axis for _, group in groups for axis in group] == list(range(len(after)))
        assert all(prod(before[i] for i in a) == prod(after[j] for j in b) for a, b in groups)
    else:
        assert not groups


@pytest.mark.parametrize("spec", ["unstructured:0.8", "block:4x2:0.5", "nm:2:4", "nm:1:8"])
def test_sparse_buffers_are_the_weight(spec: str) -> None:
    """Read back by the meaning of the levels, in plain loops."""
    random = np.random.default_rng(0)
    pattern = parse_pattern(spec)
    weight = random.standard_normal((8, 16)).astype(np.float32)
    weight[0, 3] = 0
    weight = np.where(pattern.mask(magnitudes(weight)), weight, np.float32(0))
    assert level_map(pattern, (8, 16)) is not None
    found = buffers(pattern, weight)
    back = np.zeros_like(weight)
    values = iter(found["values"].tolist())
    if spec.startswith("nm"):
        n, m = (int(part) for part in spec.split(":")[1:])
        for place, column in enumerate(found["coordinates"].tolist()):
            row, group = divmod(place // n, 16 // m)
            back[row, group * m + column] = next(values)
    else:
        r, c = (4, 2) if spec.startswith("block") else (1, 1)
        for row in range(8 // r):
            for place in range(found["positions"][row], found["positions"][row + 1]):
                column = found["coordinates"][place]
                for i in range(r):
                    for j in range(c):
                        back[row * r + i, column * c + j] = next(values)
    assert np.array_equal(back, weight)
    assert next(values, None) is None


def test_what_the_dialect_cannot_say_stays_dense(tmp_path: Path) -> None:
    path = write(ENCODERS["as torch writes it"], tmp_path / "model.onnx", *SHAPE)
    for sparsity, said in (("hp:rows=8,window=16,keep=8,fine=2:4", False), ("nm:2:4", True)):
        module, _, patterns = lowered(options(path, "sparse-tensor", sparsity=sparsity))
        assert ("sparse_tensor.encoding" in str(module)) is said
        assert bool(patterns) is said
