"""The truth tables that prove where a mask comes from, against brute force over every 0/1 mask of a small model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import TensorType, f32, i1, i64
from xdsl.ir import Block, SSAValue

from compiler.dialects import nn
from compiler.interpreters import load_meanings
from compiler.interpreters.evaluate import run_op
from compiler.passes.fusion.masks import MaskProver, Proof
from compiler.passes.fusion.match import Scope
from compiler.weights import WeightStore

BATCH, KEYS = 2, 3


class Graph:
    """A block with one mask argument [2, 3] and shorthands that append operations."""

    def __init__(self) -> None:
        load_meanings()
        self.block = Block(arg_types=[TensorType(i64, [BATCH, KEYS]), TensorType(i64, [BATCH, KEYS])])
        self.scope = Scope(self.block, WeightStore())
        self.prover = MaskProver(self.scope)
        self.mask: SSAValue = self.block.args[0]

    def add(self, op: nn.IRDLOperation) -> SSAValue:
        self.block.add_op(op)
        return op.results[0]

    def weight(self, array: np.ndarray) -> SSAValue:
        element = i1 if array.dtype == np.bool_ else None
        return self.add(self.scope.weight("w", array, element))

    def number(self, value: float) -> SSAValue:
        return self.weight(np.array(value, np.float32))

    def reshape(self, x: SSAValue, *shape: int) -> SSAValue:
        return self.add(nn.ReshapeOp(x, TensorType(nn.element_type_of(x), shape)))

    def expand(self, x: SSAValue, *shape: int) -> SSAValue:
        return self.add(nn.ExpandOp(x, TensorType(nn.element_type_of(x), shape)))

    def cast(self, x: SSAValue, element: object = f32) -> SSAValue:
        return self.add(nn.CastOp(x, TensorType(element, nn.shape_of(x))))  # pyright: ignore[reportArgumentType]

    def binary(self, kind: nn.BinaryKind, a: SSAValue, b: SSAValue, element: object = f32) -> SSAValue:
        shape = nn.broadcast_shape(nn.shape_of(a), nn.shape_of(b))
        return self.add(nn.BinaryOp(kind, a, b, TensorType(element, shape)))  # pyright: ignore[reportArgumentType]

    def filled(self, fill: float, source: SSAValue | None = None) -> SSAValue:
        """(1 - m) * fill as [b, 1, 1, k]."""
        wide = self.cast(self.reshape(self.mask if source is None else source, BATCH, 1, 1, KEYS))
        cleared = self.binary(nn.BinaryKind.SUB, self.number(1), wide)
        return self.binary(nn.BinaryKind.MUL, cleared, self.number(fill))

    def run(self, mask: np.ndarray, value: SSAValue) -> np.ndarray:
        values: dict[SSAValue, np.ndarray] = {self.block.args[0]: mask, self.block.args[1]: mask}
        for op in self.block.ops:
            with np.errstate(all="ignore"):
                values[op.results[0]] = run_op(op, [values[v] for v in op.operands], self.scope.store)[0]
        return values[value]


def all_masks() -> list[np.ndarray]:
    return [np.array(bits).reshape(BATCH, KEYS) for bits in itertools.product((0, 1), repeat=BATCH * KEYS)]


def check_against_brute_force(graph: Graph, value: SSAValue) -> None:
    """The table of `value` predicts it for every mask."""
    table = graph.prover.table(value)
    assert table is not None
    for mask in all_masks():
        chosen = np.where(mask.reshape(-1)[table.origin] != 0, table.set, table.cleared)
        predicted = np.where(table.origin == -1, table.set, chosen)
        np.testing.assert_array_equal(predicted, graph.run(mask, value))


@pytest.mark.parametrize("fill", [-1e4, -1e9, float(np.finfo(np.float32).min)])
def test_a_filled_mask_is_boolean(fill: float) -> None:
    graph = Graph()
    value = graph.filled(fill)
    assert graph.prover.additive_mask(value, BATCH, KEYS).mask is graph.mask
    check_against_brute_force(graph, value)


def test_a_small_fill_is_not() -> None:
    graph = Graph()
    assert not graph.prover.additive_mask(graph.filled(-100.0), BATCH, KEYS).proved


def test_the_wrong_polarity_is_not() -> None:
    graph = Graph()
    wide = graph.cast(graph.reshape(graph.mask, BATCH, 1, 1, KEYS))
    value = graph.binary(nn.BinaryKind.MUL, wide, graph.number(-1e4))
    assert not graph.prover.additive_mask(value, BATCH, KEYS).proved
    check_against_brute_force(graph, value)


def test_a_mask_of_queries_is_not_one_of_keys() -> None:
    graph = Graph()
    filled = graph.filled(-1e4)
    assert not graph.prover.additive_mask(graph.reshape(filled, BATCH, 1, KEYS, 1), BATCH, KEYS).proved


def test_permuted_keys_are_found_out() -> None:
    graph = Graph()
    index = graph.weight(np.array([1, 0, 2]))
    shuffled = graph.add(nn.GatherOp(graph.mask, index, 1, TensorType(i64, [BATCH, KEYS])))
    value = graph.filled(-1e4, shuffled)
    assert not graph.prover.additive_mask(value, BATCH, KEYS).proved
    check_against_brute_force(graph, value)


def test_swapped_samples_are_found_out() -> None:
    graph = Graph()
    index = graph.weight(np.array([1, 0]))
    swapped = graph.add(nn.GatherOp(graph.mask, index, 0, TensorType(i64, [BATCH, KEYS])))
    assert not graph.prover.additive_mask(graph.filled(-1e4, swapped), BATCH, KEYS).proved


def test_two_inputs_are_not_one_mask() -> None:
    graph = Graph()
    both = graph.binary(nn.BinaryKind.ADD, graph.filled(-1e4), graph.filled(-1e4, graph.block.args[1]))
    assert graph.prover.table(both) is None


def test_products_of_two_entries_are_not_a_function_of_one() -> None:
    graph = Graph()
    rows, columns = (graph.cast(graph.reshape(graph.mask, *shape)) for shape in ((BATCH, 1, KEYS, 1), (BATCH, 1, 1, KEYS)))
    assert graph.prover.table(graph.binary(nn.BinaryKind.MUL, rows, columns)) is None


@pytest.mark.parametrize("fill", [-1e9, -np.inf, float(np.finfo(np.float32).min)])
def test_a_causal_part_beside_a_mask(fill: float) -> None:
    graph = Graph()
    triangle = graph.weight(np.triu(np.full((1, 1, KEYS, KEYS), fill, np.float32), 1))
    value = graph.binary(nn.BinaryKind.ADD, graph.filled(-1e9), triangle)
    assert graph.prover.additive_mask(value, BATCH, KEYS) == Proof(True, graph.mask, causal=True)
    check_against_brute_force(graph, value)


def test_a_causal_mask_alone() -> None:
    graph = Graph()
    allowed = np.tri(KEYS, dtype=np.bool_)
    assert graph.prover.keep_mask(graph.weight(allowed), BATCH, KEYS) == Proof(True, None, causal=True)
    added = graph.weight(np.where(allowed, 0, -np.inf).astype(np.float32))
    assert graph.prover.additive_mask(added, BATCH, KEYS) == Proof(True, None, causal=True)


@pytest.mark.parametrize("shift", [-1, 1])
def test_another_triangle_is_not_causal(shift: int) -> None:
    """One key less (the query does not see itself), or one that comes after: its fill is added."""
    graph = Graph()
    allowed = np.tri(KEYS, k=shift, dtype=np.bool_)
    found = graph.prover.keep_mask(graph.weight(allowed), BATCH, KEYS, -1e30)
    assert found == Proof(True)
    np.testing.assert_array_equal(found.bias, np.where(allowed, np.float32(0), np.float32(-1e30)))


@pytest.mark.parametrize("causal", [False, True])
def test_what_is_added_beside_a_mask_is_a_bias(causal: bool) -> None:
    """Per head, as relative positions are; the axes along which it is the same are left out."""
    graph = Graph()
    heads = np.random.default_rng(0).standard_normal((BATCH, 4, 1, KEYS)).astype(np.float32)
    heads[:] = heads[:1]
    value = graph.binary(nn.BinaryKind.ADD, graph.filled(-1e9), graph.weight(heads))
    if causal:
        triangle = graph.weight(np.triu(np.full((KEYS, KEYS), -np.inf, np.float32), 1))
        value = graph.binary(nn.BinaryKind.ADD, value, triangle)
    found = graph.prover.additive_mask(value, BATCH, KEYS)
    assert found == Proof(True, graph.mask, causal=causal)
    assert found.bias is not None
    if not causal:
        assert found.bias.shape == (1, 4, 1, KEYS)
    np.testing.assert_array_equal(np.broadcast_to(found.bias, (1, 4, KEYS, KEYS))[:, :, -1], heads[:1, :, 0])


def test_a_bias_that_is_not_a_number_proves_nothing() -> None:
    graph = Graph()
    assert not graph.prover.additive_mask(graph.weight(np.full((1, 1, KEYS, KEYS), np.nan, np.float32)), BATCH, KEYS).proved


def test_a_causal_mask_with_the_padding_of_its_queries_is_not_proved() -> None:
    """The mask of the queries in place of that of the keys."""
    graph = Graph()
    flags = graph.cast(graph.reshape(graph.mask, BATCH, 1, KEYS, 1), i1)
    keep = graph.binary(nn.BinaryKind.AND, graph.weight(np.tri(KEYS, dtype=np.bool_)), flags, i1)
    assert not graph.prover.keep_mask(keep, BATCH, KEYS).proved


def test_a_constant_zero_masks_nothing() -> None:
    graph = Graph()
    assert graph.prover.additive_mask(graph.weight(np.zeros((1, 1, 1, KEYS), np.float32)), BATCH, KEYS) == Proof(True, None)


def test_a_true_constant_does_not_hide_the_mask() -> None:
    graph = Graph()
    flags = graph.cast(graph.reshape(graph.mask, BATCH, 1, 1, KEYS), i1)
    keep = graph.binary(nn.BinaryKind.AND, graph.weight(np.ones((1, 1, KEYS, 1), np.bool_)), flags, i1)
    assert graph.prover.keep_mask(keep, BATCH, KEYS).mask is graph.mask
    check_against_brute_force(graph, keep)


@given(st.lists(st.sampled_from(["neg", "shift", "scale", "max", "expand", "square", "compare"]), max_size=5))
@settings(max_examples=40, deadline=None)
def test_tables_agree_with_brute_force_on_chains(steps: list[str]) -> None:
    graph = Graph()
    value = graph.cast(graph.reshape(graph.mask, BATCH, 1, 1, KEYS))
    for step in steps:
        match step:
            case "neg":
                value = graph.add(nn.UnaryOp(nn.UnaryKind.NEG, value, TensorType(f32, nn.shape_of(value))))
            case "shift":
                value = graph.binary(nn.BinaryKind.ADD, value, graph.number(-1))
            case "scale":
                value = graph.binary(nn.BinaryKind.MUL, value, graph.number(-1e4))
            case "max":
                value = graph.binary(nn.BinaryKind.MAX, value, graph.number(0))
            case "expand":
                value = graph.expand(value, BATCH, 1, KEYS, KEYS)
            case "square":
                value = graph.binary(nn.BinaryKind.MUL, value, value)
            case _:
                value = graph.cast(graph.binary(nn.BinaryKind.LESS, value, graph.number(0.5), i1))
    check_against_brute_force(graph, value)
