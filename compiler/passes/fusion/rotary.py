"""Rotary embeddings, in any spelling: what a subgraph does to heads is run on a few numbers and compared, not spelled.

Between a projection and the product of scores stands a function that is linear in the projection and otherwise made of
constants. Two probes read off the cosines and sines that a rotation would have; a third one, of random numbers, decides
whether the subgraph is that rotation of every head and mixes nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, TensorType, f32
from xdsl.ir import BlockArgument, Operation, SSAValue
from xdsl.irdl import IRDLOperation

from compiler.dialects import nn
from compiler.passes.fusion.match import Array, Scope, is_f32, is_stored, result_of, scaled

_MOVEMENT = (nn.ReshapeOp, nn.TransposeOp, nn.ExpandOp, nn.SliceOp, nn.GatherOp)
_LINEAR = (*_MOVEMENT, nn.ConcatOp, nn.BinaryOp, nn.UnaryOp, nn.CastOp)
_REACH = 64
"""Operations that a rotation may be made of."""
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Split:
    """How a tensor holds heads: [b, s, h, d] if `tokens_first`, else [b, h, s, d]; the last axis may still be pairs."""

    batch: int
    tokens: int
    heads: int
    size: int
    tokens_first: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        if self.tokens_first:
            return self.batch, self.tokens, self.heads, self.size
        return self.batch, self.heads, self.tokens, self.size

    def tokens_of(self, x: Array) -> Array:
        """The array as [b, s, h, d]."""
        x = x.reshape(self.shape)
        return x if self.tokens_first else x.transpose(0, 2, 1, 3)


@dataclass(frozen=True)
class Rotation:
    """Rotation of the heads of `root` by the angles `table` [s, n]."""

    root: SSAValue
    split: Split
    table: Array
    interleaved: bool


def fuse_rotaries(scope: Scope) -> None:
    """Rotations of the operands of every product of two computed tensors."""
    constants = _Constants(scope, {op: index for index, op in enumerate(scope.block.ops)})
    for product in scope.each(nn.MatMulOp):
        for value in product.operands:
            if not is_stored(value) and is_f32(value) and len(nn.shape_of(value)) >= 3:
                _fuse(scope, constants, _below(value))
    scope.sweep()


def _below(value: SSAValue) -> SSAValue:
    """The value behind scales and movements of whole heads."""
    while True:
        step = scaled(value)
        if step is not None:
            value = step[0]
        elif isinstance(value.owner, nn.ReshapeOp | nn.TransposeOp | nn.ExpandOp | nn.GatherOp):
            value = value.owner.operands[0]
        else:
            return value


@dataclass
class _Constants:
    """Values that no input takes part in, evaluated once each."""

    scope: Scope
    order: Mapping[Operation, int]
    known: dict[SSAValue, Array | None] = field(default_factory=dict)

    def value(self, value: SSAValue) -> Array | None:
        if value not in self.known:
            self.known[value] = self._compute(value)
        return self.known[value]

    def _compute(self, value: SSAValue) -> Array | None:
        if isinstance(value, BlockArgument):
            return None
        if is_stored(value):
            return self.scope.array(value)
        op = value.owner
        if not isinstance(op, Operation) or not isinstance(op, (*_LINEAR, nn.MatMulOp, nn.WhereOp, nn.ReduceOp)):
            return None
        arrays = [self.value(operand) for operand in op.operands]
        known = [array for array in arrays if array is not None]
        return self.scope.run(op, known) if len(known) == len(arrays) else None


def _fuse(scope: Scope, constants: _Constants, value: SSAValue) -> None:
    owner = value.owner
    if not isinstance(owner, nn.BinaryOp | nn.ConcatOp):
        return
    rotation = _rotation(scope, constants, value)
    if rotation is None:
        return
    split = rotation.split
    flat = TensorType(f32, [split.batch, split.tokens, split.heads * split.size])
    first = TensorType(f32, [split.batch, split.tokens, split.heads, split.size])
    ops, x, number = _unscaled(rotation.root)
    if not split.tokens_first:
        ops.append(nn.TransposeOp(x, (0, 2, 1, 3), first))
        x = result_of(ops[-1])
    table = scope.weight("rotary.table", rotation.table)
    ops += [nn.ReshapeOp(x, flat), table]
    x = result_of(ops[-2])
    turn = nn.RotaryOp(x, table.result, split.size, interleaved=rotation.interleaved, type=flat)
    ops += [turn, nn.ReshapeOp(turn.result, first)]
    if not split.tokens_first:
        ops.append(nn.TransposeOp(result_of(ops[-1]), (0, 2, 1, 3), TensorType(f32, split.shape)))
    if nn.shape_of(result_of(ops[-1])) != nn.shape_of(value):
        ops.append(nn.ReshapeOp(result_of(ops[-1]), TensorType(f32, nn.shape_of(value))))
    if number is not None:
        ops += [
            number,
            nn.BinaryOp(nn.BinaryKind.MUL, result_of(ops[-1]), number.result, TensorType(f32, nn.shape_of(value))),
        ]
    scope.replace(owner, ops)


def _unscaled(root: SSAValue) -> tuple[list[IRDLOperation], SSAValue, nn.ConstantOp | None]:
    """The root of a rotation without the number that it is multiplied by, which may as well stand behind the rotation, with
    the scale of scores; what moves it anew; and the number, if there is one."""
    chain: list[nn.ReshapeOp | nn.TransposeOp] = []
    value = root
    while isinstance(value.owner, nn.ReshapeOp | nn.TransposeOp):
        chain.append(value.owner)
        value = value.owner.x
    step = scaled(value)
    if step is None:
        return [], root, None
    ops: list[IRDLOperation] = []
    x = step[0]
    for op in reversed(chain):
        ops.append(op.clone({op.x: x}))
        x = result_of(ops[-1])
    return ops, x, nn.ConstantOp(DenseIntOrFPElementsAttr.from_list(TensorType(f32, []), [step[1]]))


def _rotation(scope: Scope, constants: _Constants, value: SSAValue) -> Rotation | None:
    cone = _cone(constants, value)
    if cone is None:
        return None
    root, ops = cone
    shape, size = nn.shape_of(root), nn.shape_of(root)[-1]
    if len(shape) != 4 or nn.shape_of(value)[:3] != shape[:3] or np.prod(nn.shape_of(value)) != np.prod(shape):
        return None
    random = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    result = _run(scope, constants, value, {root: random})
    for split in (Split(shape[0], shape[2], shape[1], size, False), Split(*shape, True)):
        for turned in _turned(ops, size):
            for interleaved in (False, True):
                ones = np.zeros(shape, np.float32)
                first, second = _pair(turned, interleaved)
                ones[..., first] = 1
                heads = split.tokens_of(_run(scope, constants, value, {root: ones}))[0, :, 0]
                table = np.concatenate([heads[:, first], heads[:, second]], axis=-1).astype(np.float32)
                error = np.abs(_turn(split.tokens_of(random), table, interleaved) - split.tokens_of(result)).max()
                if error <= _TOLERANCE * max(1.0, float(np.abs(table).max())):
                    return Rotation(root, split, table, interleaved)
    return None


def _cone(constants: _Constants, value: SSAValue) -> tuple[SSAValue, list[Operation]] | None:
    """The nearest value that `value` is a linear function of, behind a place where its ways part, and the operations
    between; None if there is none."""
    ops: list[Operation] = []
    front, parted = {value}, False
    while len(front) > 1 or not parted:
        owners = [at.owner for at in front if isinstance(at.owner, Operation) and at.owner in constants.order]
        if len(owners) != len(front) or len(ops) > _REACH:
            return None
        last = max(owners, key=lambda op: constants.order[op])
        if not isinstance(last, _LINEAR) or not _is_linear(constants, last):
            return None
        ops.append(last)
        front -= set(last.results)
        front |= {operand for operand in last.operands if constants.value(operand) is None}
        parted = parted or len(front) > 1
    return front.pop(), ops


def _is_linear(constants: _Constants, op: Operation) -> bool:
    """Whether an operation is linear in its operands that are not constant."""
    variable = [operand for operand in op.operands if constants.value(operand) is None]
    if isinstance(op, nn.BinaryOp):
        if op.kind.data in (nn.BinaryKind.ADD, nn.BinaryKind.SUB):
            return len(variable) == 2
        return op.kind.data is nn.BinaryKind.MUL and len(variable) == 1
    if isinstance(op, nn.UnaryOp):
        return op.kind.data is nn.UnaryKind.NEG
    return isinstance(op, (*_MOVEMENT, nn.ConcatOp)) and is_f32(op.results[0]) and variable[:1] == [op.operands[0]]


def _run(scope: Scope, constants: _Constants, value: SSAValue, known: dict[SSAValue, Array]) -> Array:
    if value not in known:
        constant = constants.value(value)
        if constant is None:
            owner = value.owner
            assert isinstance(owner, Operation)
            arrays = [_run(scope, constants, operand, known) for operand in owner.operands]
            constant = scope.run(owner, arrays)
        known[value] = constant
    return known[value]


def _turned(ops: Sequence[Operation], size: int) -> Iterator[int]:
    """How many features of a head may turn, the fewest first: all, or as many as some slice of the subgraph takes."""
    sizes = {nn.shape_of(op.results[0])[-1] for op in ops if isinstance(op, nn.SliceOp)}
    candidates = {size} | sizes | {2 * found for found in sizes}
    yield from sorted(found for found in candidates if found % 2 == 0 and 0 < found <= size)


def _pair(turned: int, interleaved: bool) -> tuple[slice, slice]:
    half = turned // 2
    return (slice(0, turned, 2), slice(1, turned, 2)) if interleaved else (slice(half), slice(half, turned))


def _turn(x: Array, table: Array, interleaved: bool) -> Array:
    """Heads [b, s, h, d] turned by a table [s, n]."""
    half = table.shape[1] // 2
    cosine, sine = table[:, None, :half], table[:, None, half:]
    first, second = _pair(table.shape[1], interleaved)
    result = x.copy()
    a, b = result[..., first].copy(), result[..., second].copy()
    result[..., first] = a * cosine - b * sine
    result[..., second] = b * cosine + a * sine
    return result
