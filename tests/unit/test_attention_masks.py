"""Batches, lengths and attention masks of every pattern: small graphs against ONNX Runtime, and what a mask must mean."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from compiler.dialects import nn
from compiler.frontend.host import host_parts
from compiler.frontend.importer import Imported, import_onnx
from compiler.interpreters.evaluate import evaluate
from compiler.passes.fuse import FusePass
from compiler.passes.partition import PartitionPass
from compiler.passes.quantize import QuantizePass
from compiler.tools.reference import cosines
from compiler.weights import attach_store
from tests.graphs import Encoder, write

Array = NDArray[Any]

SPELLINGS = {
    "finfo": Encoder(head="mean", token_types="none"),
    "1e4": Encoder(mask="1e4", token_types="none", linear="transposed"),
    "where": Encoder(mask="where", token_types="none"),
    "gathered": Encoder(mask="gathered", attention="sdpa", token_types="none"),
    "masked_fill": Encoder(mask="masked_fill", token_types="none", linear="gemm"),
}
SHAPES = [(1, 1), (3, 1), (2, 7), (3, 8), (1, 13)]
KINDS = ["full", "right", "left", "holes", "last", "first", "none"]


@dataclass(frozen=True)
class Model:
    """One spelling at one shape: ONNX Runtime's session, the fused and the integer module."""

    imported: Imported
    session: Any
    integer: ModuleOp

    def reference(self, inputs: dict[str, Array]) -> dict[str, Array]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, inputs), strict=True))

    def fused(self, inputs: dict[str, Array]) -> dict[str, Array]:
        return evaluate(self.imported.module, self.imported.store, inputs)

    def quantized(self, inputs: dict[str, Array]) -> dict[str, Array]:
        return evaluate(self.integer, self.imported.store, inputs)


@functools.cache
def model(spelling: str, batch: int, tokens: int) -> Model:
    folder = Path(tempfile.mkdtemp())
    path = write(SPELLINGS[spelling], folder / "model.onnx", batch, tokens, symbolic=True)
    imported = import_onnx(path, {"input_ids": (batch, tokens)})
    ctx = Context()
    attach_store(ctx, imported.store)
    FusePass().apply(ctx, imported.module)
    PartitionPass().apply(ctx, imported.module)
    assert host_parts(imported.module) == ()
    integer = imported.module.clone()
    QuantizePass().apply(ctx, integer)
    return Model(imported, ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]), integer)


def row_of(kind: str, tokens: int, random: np.random.Generator) -> Array:
    """One sequence's mask."""
    position, length = np.arange(tokens), int(random.integers(1, tokens + 1))
    match kind:
        case "full":
            return np.ones(tokens, np.int64)
        case "right":
            return (position < length).astype(np.int64)
        case "left":
            return (position >= tokens - length).astype(np.int64)
        case "first" | "last":
            return (position == (0 if kind == "first" else tokens - 1)).astype(np.int64)
        case "none":
            return np.zeros(tokens, np.int64)
        case _:
            holes = random.integers(0, 2, tokens)
            holes[random.integers(tokens)] = 1  # at least one token stays
            return holes


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, dict[str, Array]]:
    spelling = draw(st.sampled_from(sorted(SPELLINGS)))
    batch, tokens = draw(st.sampled_from(SHAPES))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=batch, max_size=batch))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    mask = np.stack([row_of(kind, tokens, random) for kind in kinds])
    return spelling, {"input_ids": random.integers(0, 50, (batch, tokens)), "attention_mask": mask}


def of(case: tuple[str, dict[str, Array]]) -> tuple[Model, dict[str, Array], Array]:
    spelling, inputs = case
    return model(spelling, *inputs["input_ids"].shape), inputs, inputs["attention_mask"]


def attended(value: Array, mask: Array) -> Array:
    """Rows that count: attended tokens of [b, s, d], samples with any of [b, d]."""
    return value[mask != 0] if value.ndim == 3 else value[mask.any(axis=1)]


@given(cases())
@settings(max_examples=30, deadline=None)
def test_fuse_agrees_with_onnxruntime_at_attended_tokens(case: tuple[str, dict[str, Array]]) -> None:
    compiled, inputs, mask = of(case)
    wanted = compiled.reference(inputs)
    for name, value in compiled.fused(inputs).items():
        got, expected = attended(value, mask), attended(wanted[name], mask)
        assert np.isfinite(value).all()
        np.testing.assert_allclose(got, expected, atol=1e-4)


@given(cases())
@settings(max_examples=30, deadline=None)
def test_the_integers_stay_close_at_attended_tokens(case: tuple[str, dict[str, Array]]) -> None:
    compiled, inputs, mask = of(case)
    wanted = compiled.reference(inputs)
    for name, value in compiled.quantized(inputs).items():
        got, expected = attended(value, mask), attended(wanted[name], mask)
        assert np.isfinite(value).all()
        if len(expected):
            assert np.linalg.norm(got - expected) <= 0.1 * np.linalg.norm(expected)
            assert cosines(got, expected).min() >= 0.985


@given(cases(), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_what_stands_at_a_masked_position_changes_no_bit(case: tuple[str, dict[str, Array]], seed: int) -> None:
    compiled, inputs, mask = of(case)
    other = np.random.default_rng(seed).integers(0, 50, mask.shape)
    changed = {**inputs, "input_ids": np.where(mask != 0, inputs["input_ids"], other)}
    first, second = compiled.quantized(inputs), compiled.quantized(changed)
    for name, value in first.items():
        np.testing.assert_array_equal(attended(value, mask), attended(second[name], mask))


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_sequences_of_a_batch_do_not_see_each_other(case: tuple[str, dict[str, Array]], random: Any) -> None:
    compiled, inputs, mask = of(case)
    order = list(range(len(mask)))
    random.shuffle(order)
    first = compiled.quantized(inputs)
    second = compiled.quantized({name: array[order] for name, array in inputs.items()})
    for name, value in first.items():
        np.testing.assert_array_equal(value[order], second[name])


@pytest.mark.parametrize("number", [2, -1, 255])
def test_any_nonzero_mask_entry_attends_where_the_model_says_so(number: int) -> None:
    """`where` compares with 0: every other number attends, as in ONNX Runtime."""
    compiled = model("where", 2, 7)
    mask = np.array([[1, 1, 1, 0, 0, 0, 0], [0, 1, 0, 1, 1, 1, 1]])
    inputs = {"input_ids": np.arange(14).reshape(2, 7), "attention_mask": mask}
    one = compiled.quantized(inputs)
    other = compiled.quantized({**inputs, "attention_mask": mask * number})
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])


@pytest.mark.parametrize("spelling", sorted(SPELLINGS))
def test_a_fully_masked_sequence_attends_to_nothing(spelling: str) -> None:
    """Its context is 0 (docs/NUMERICS.md), where exporters' fills give a mean over all tokens or NaN."""
    compiled = model(spelling, 2, 7)
    mask = np.array([[0] * 7, [1] * 7])
    inputs = {"input_ids": np.arange(14).reshape(2, 7), "attention_mask": mask}
    from compiler.interpreters.evaluate import walk

    contexts = [
        arrays[0]
        for op, arrays in walk(compiled.integer, compiled.imported.store, inputs)
        if isinstance(op, nn.QAttentionOp)
    ]
    assert contexts
    for context in contexts:
        assert not context[0].any()
        assert context[1].any()
