"""Which parameters of a fused module can be trained, and where their numbers stand in the ONNX file.

A parameter is trained only if it can be written back: if an initializer or a Constant of the file holds the same numbers,
as they are, reshaped or transposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from xdsl.dialects.builtin import Float32Type, ModuleOp
from xdsl.ir import Operation, SSAValue

from compiler.dialects import nn
from compiler.module import main_function, names_of
from compiler.passes.sparsify import PRUNABLE, linear_names, reasons_to_stay_dense
from compiler.sparsity.base import Dense, Pattern
from compiler.sparsity.recipes import Recipe, scope_of
from compiler.tools.pruning.tensors import file_tensors
from compiler.weights import WeightStore, content_digest

Array = NDArray[Any]
_BESIDE = (nn.ReshapeOp, nn.CastOp, nn.ExpandOp)


@dataclass(frozen=True)
class Place:
    """A tensor of the file, and whether the stored parameter is its transpose."""

    tensor: str
    shape: tuple[int, ...]
    turned: bool = False

    def written(self, array: Array) -> Array:
        """The tensor's new value, of a parameter in the layout of its store entry."""
        return np.ascontiguousarray(array.T if self.turned else array).reshape(self.shape)


@dataclass(frozen=True)
class Trainable:
    """Keys of the store: `places` says where each is written, `pruned` maps a linear's weight to its roles, `turned` says
    whether the store holds the transpose of what linears use. `roles` are those of all linears, `left_dense` says why some
    that were meant are not pruned."""

    places: Mapping[str, Place]
    pruned: Mapping[str, tuple[str, ...]]
    head: frozenset[str]
    turned: Mapping[str, bool]
    roles: tuple[str, ...] = ()
    left_dense: Mapping[str, str] = field(default_factory=dict[str, str])


def _operands(op: Operation) -> list[SSAValue]:
    """What an operation has of parameters, embedding tables apart."""
    match op:
        case nn.LinearOp():
            return [op.weight] if op.bias is None else [op.weight, op.bias]
        case nn.LayerNormOp():
            return [op.gamma, op.beta]
        case nn.RmsNormOp():
            return [op.gamma]
        case _:
            return []


def _frozen(module: ModuleOp) -> set[str]:
    """Keys used as something that is not trained: tied to an embedding, added as a constant."""
    found: set[str] = set()
    for op in module.walk():
        trained = _operands(op)
        for operand in op.operands:
            if isinstance(operand.owner, nn.WeightOp) and not any(operand is value for value in trained):
                found.add(operand.owner.key.data)
    return found


def trainable(
    module: ModuleOp,
    store: WeightStore,
    model: ir.Model,
    logits: str | None,
    patterns: Sequence[Pattern] = (),
    scope: Sequence[str] = (),
) -> Trainable:
    """The parameters of linears and normalisations that the file holds. Embeddings stay as they are.

    Pruned are the matrices that can hold all of `patterns`, of the linears that `scope` names, else of those inside the
    blocks. Raises InputError for a scope that matches nothing.
    """
    finder = _Finder(model)
    frozen = _frozen(module)
    linears = {op.role.data: op for op in module.walk() if isinstance(op, nn.LinearOp)}
    left = _reasons(module, store, linears, patterns, scope)
    places: dict[str, Place] = {}
    pruned: dict[str, tuple[str, ...]] = {}
    head: set[str] = set()
    turned: dict[str, bool] = {}
    last = _last_linear(module, logits)
    for op in module.walk():
        for operand in _operands(op):
            weight = operand.owner
            if not isinstance(weight, nn.WeightOp) or not isinstance(nn.element_type_of(operand), Float32Type):
                continue
            key = weight.key.data
            place = None if key in frozen else finder.place(key, store.get(key))
            if place is None:
                continue
            places[key] = place
            turned[key] = weight.transposed
            if op is last:
                head.add(key)
            if isinstance(op, nn.LinearOp) and operand is op.weight and not left.get(op.role.data, NOT_MEANT):
                pruned[key] = (*pruned.get(key, ()), op.role.data)
    found = {role for roles in pruned.values() for role in roles}
    why = {role: reason or NOT_WRITTEN for role, reason in left.items() if role not in found}
    return Trainable(places, pruned, frozenset(head), turned, tuple(linears), why)


NOT_MEANT = "not meant"
NOT_WRITTEN = "its weight is no fp32 tensor of the file"


def _reasons(
    module: ModuleOp,
    store: WeightStore,
    linears: Mapping[str, nn.LinearOp],
    patterns: Sequence[Pattern],
    scope: Sequence[str],
) -> dict[str, str]:
    """By role of the linears that are meant: why each cannot hold one of the patterns, empty where it can hold all."""
    found: dict[str, str] = {}
    for pattern in patterns or (Dense(),):
        recipe = scope_of(scope, pattern, None) if scope else Recipe("--pattern", pattern)
        inside = {role: PRUNABLE.fullmatch(role) is not None for role in linears}
        choices = recipe.choose([linear_names(op) for op in linears.values()], inside)
        chosen = {linears[role]: choice.pattern for role, choice in choices.items()}
        if not patterns:
            chosen = {linears[role]: pattern for role, meant in inside.items() if meant}
        for op, reason in reasons_to_stay_dense(module, store, chosen).items():
            found[op.role.data] = found.get(op.role.data, "") or reason
    return found


def _last_linear(module: ModuleOp, logits: str | None) -> Operation | None:
    """The linear that makes the logits."""
    function = main_function(module)
    names = names_of(function, "output_names")
    if logits not in names:
        return None
    terminator = function.body.block.last_op
    assert terminator is not None
    value = terminator.operands[names.index(logits)]
    while isinstance(value.owner, _BESIDE):
        value = value.owner.x
    return value.owner if isinstance(value.owner, nn.LinearOp) else None


class _Finder:
    """Finds a tensor of the file by name, else by content if only one has it."""

    def __init__(self, model: ir.Model) -> None:
        self._tensors = {
            name: tensor.numpy() for name, tensor, _ in file_tensors(model) if tensor.dtype == ir.DataType.FLOAT
        }
        self._by_content: dict[str, list[str]] | None = None

    def place(self, key: str, array: Array) -> Place | None:
        tensor = self._tensors.get(key)
        if tensor is not None and tensor.size == array.size and np.array_equal(tensor.reshape(-1), array.reshape(-1)):
            return Place(key, tensor.shape)
        if self._by_content is None:
            self._by_content = {}
            for name, data in self._tensors.items():
                self._by_content.setdefault(content_digest(data.reshape(-1)), []).append(name)
        for turned in (False, True) if array.ndim == 2 else (False,):
            data = np.ascontiguousarray(array.T if turned else array)
            names = self._by_content.get(content_digest(data.reshape(-1)), [])
            if len(names) == 1:
                return Place(names[0], self._tensors[names[0]].shape, turned)
        return None
