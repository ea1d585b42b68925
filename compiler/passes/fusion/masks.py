"""Where a mask comes from: a proof, by truth tables, that a tensor is a function of one 0/1 input element by element.

Exporters turn attention_mask [b, s] into fp32 additions by (1 - m) * fill, Where(m, 0, -inf), vmapped Gathers and more.
Instead of knowing the spellings, the tensor is evaluated symbolically: each element carries its value for a cleared and
for a set mask entry, and which entry that is. The calculus is exact for inputs that are 0 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np
from xdsl.dialects.builtin import TensorType
from xdsl.ir import BlockArgument, Operation, SSAValue

from compiler.dialects import nn
from compiler.interpreters.nn_float import numpy_dtype
from compiler.passes.fusion.match import Array, Scope
from hw_targets.host_memory import require_memory

FILL_LIMIT = -9984.0
"""An addition of at most this to a score counts as masked out: -1e4 as bfloat16 holds it."""

ALWAYS_FITS = 1 << 22
BYTES_OF_AN_ELEMENT = 32
"""Of a truth table: origin, both values, and as much again while it is computed."""

_ELEMENTWISE = (nn.UnaryOp, nn.BinaryOp, nn.WhereOp, nn.CastOp)
_MOVEMENT = (nn.ReshapeOp, nn.ExpandOp, nn.TransposeOp, nn.SliceOp, nn.ConcatOp)
_NONE = -1


@dataclass(frozen=True)
class TruthTable:
    """A tensor as a function of the mask input `source`, which is None for a constant.

    `cleared` and `set` are its values for a mask entry of 0 and of 1, `origin` the flat index of that entry, -1 where
    the element depends on none.
    """

    source: SSAValue | None
    cleared: Array
    set: Array
    origin: Array


@dataclass(frozen=True)
class Proof:
    """Whether a value is a mask over the keys, of which input [batch, keys] (None: of none), whether it is causal, and
    what it adds besides to scores [batch, heads, queries, keys] that are attended to (None: nothing)."""

    proved: bool
    mask: SSAValue | None = None
    causal: bool = False
    bias: Array | None = field(default=None, compare=False)


@dataclass
class MaskProver:
    """Truth tables of values, computed once each."""

    scope: Scope
    tables: dict[SSAValue, TruthTable | None] = field(default_factory=dict)
    biases: dict[SSAValue, SSAValue] = field(default_factory=dict)
    """Of values that were proved: the weight that holds what they add to scores."""

    def table(self, value: SSAValue) -> TruthTable | None:
        """The truth table of `value`, None if it is not a function of one mask entry per element."""
        if value not in self.tables:
            self.tables[value] = None
            _require_room(value)
            with np.errstate(all="ignore"):
                self.tables[value] = self._compute(value)
        return self.tables[value]

    def _compute(self, value: SSAValue) -> TruthTable | None:
        if isinstance(value, BlockArgument):
            return _input_table(value)
        array = self.scope.array(value)
        if array is not None:
            return TruthTable(None, array, array, np.broadcast_to(np.int64(_NONE), array.shape))
        op = value.owner
        if isinstance(op, nn.GatherOp):
            return self._gather(op)
        if not isinstance(op, _ELEMENTWISE + _MOVEMENT):
            return None
        found = [self.table(operand) for operand in op.operands]
        tables = [table for table in found if table is not None]
        sources = {table.source for table in tables if table.source is not None}
        if len(tables) != len(found) or len(sources) > 1:
            return None
        source = next(iter(sources), None)
        cleared = self.scope.run(op, [table.cleared for table in tables])
        set_ = self.scope.run(op, [table.set for table in tables])
        if isinstance(op, _MOVEMENT):
            return TruthTable(source, cleared, set_, self.scope.run(op, [table.origin for table in tables]))
        origin = _merge_origins([table.origin for table in tables], cleared.shape)
        return None if origin is None else _settled(source, cleared, set_, origin)

    def _gather(self, op: nn.GatherOp) -> TruthTable | None:
        """Gathering by constant indices is data movement."""
        table, indices = self.table(op.x), self.table(op.indices)
        if table is None or indices is None or indices.source is not None:
            return None
        moved = [self.scope.run(op, [part, indices.set]) for part in (table.cleared, table.set, table.origin)]
        return TruthTable(table.source, *moved)

    # ---- what the tables prove ----------------------------------------------------------------------------------

    def additive_mask(self, value: SSAValue, batch: int, keys: int) -> Proof:
        """Whether adding `value` to scores [batch, heads, queries, keys] adds constants for the set entries of a mask input
        and a fill <= -1e4 for the cleared ones, or constants everywhere; and a fill above the diagonal if it is causal."""
        table = self.table(value)
        if table is None or table.set.dtype.kind != "f" or table.set.ndim > 4 or np.isnan(table.set).any():
            return Proof(False)
        return _proof(table, table.set > FILL_LIMIT, table.cleared > FILL_LIMIT, table.set, batch, keys)

    def keep_mask(self, value: SSAValue, batch: int, keys: int, fill: float = -np.inf, *, drops: bool = False) -> Proof:
        """Whether a boolean that keeps scores where it is true (drops them, with `drops`), and else puts `fill`, keeps those
        of the set entries of a mask input, and none above the diagonal if it is causal, or at other constant places."""
        table = self.table(value)
        if table is None or table.set.ndim > 4:
            return Proof(False)
        kept, kept_cleared = ((side != 0) != drops for side in (table.set, table.cleared))
        added = np.where(kept, np.float32(0), np.float32(fill))
        return _proof(table, kept, kept_cleared, added, batch, keys)

    def bias_of(self, value: SSAValue, added: Array) -> SSAValue:
        """What `value` adds to scores as a weight, one for all that read it."""
        if value not in self.biases:
            owner, first = value.owner, self.scope.block.first_op
            assert first is not None
            name = self.scope.name_of(owner) if isinstance(owner, Operation) else "mask"
            weight = self.scope.weight(f"{name}.bias", added)
            self.scope.block.insert_op_before(weight, first)
            self.biases[value] = weight.result
        return self.biases[value]

    def weights_of_tokens(self, value: SSAValue, batch: int, tokens: int) -> SSAValue | None:
        """The mask input of which `value`, [batch, tokens] or [batch, tokens, n], is 1 for set entries and else 0."""
        table = self.table(value)
        shape = nn.shape_of(value)
        if table is None or table.source is None or shape[:2] != (batch, tokens) or len(shape) > 3:
            return None
        order = np.arange(batch * tokens).reshape(batch, tokens, *(1,) * (len(shape) - 2))
        ok = np.all(table.set == 1) and np.all(table.cleared == 0) and np.all(table.origin == order)
        return table.source if ok and nn.shape_of(table.source) == (batch, tokens) else None


def _require_room(value: SSAValue) -> None:
    """Raises InputError for a mask of tokens x tokens that memory does not hold the tables of."""
    size = prod(nn.shape_of(value)) if isinstance(value.type, TensorType) else 0
    if size > ALWAYS_FITS:
        shape = "x".join(map(str, nn.shape_of(value)))
        require_memory(f"understanding a mask of shape {shape}", BYTES_OF_AN_ELEMENT * size)


def _input_table(value: BlockArgument) -> TruthTable | None:
    if len(nn.shape_of(value)) != 2:
        return None
    shape, dtype = nn.shape_of(value), numpy_dtype(nn.element_type_of(value))
    zero, one = (np.broadcast_to(np.array(number, dtype), shape) for number in (0, 1))
    return TruthTable(value, zero, one, np.arange(zero.size).reshape(shape))


def _merge_origins(origins: list[Array], shape: tuple[int, ...]) -> Array | None:
    """The entry each element depends on; None if some element depends on two."""
    merged = np.broadcast_to(np.int64(_NONE), shape)
    for origin in origins:
        wide = np.broadcast_to(origin, shape)
        if np.any((merged != wide) & (merged != _NONE) & (wide != _NONE)):
            return None
        merged = np.where(merged == _NONE, wide, merged)
    return merged


def _settled(source: SSAValue | None, cleared: Array, set_: Array, origin: Array) -> TruthTable:
    """Elements with one value either way depend on nothing."""
    same = (cleared == set_) | ((cleared != cleared) & (set_ != set_))
    origin = np.where(same, _NONE, origin)
    return TruthTable(None if np.all(same) else source, cleared, set_, origin)


def _proof(table: TruthTable, open_set: Array, open_cleared: Array, added: Array, batch: int, keys: int) -> Proof:
    """What is proved if scores pass where `open_set` or, for cleared entries of the mask, `open_cleared` is true, and get
    `added` for set ones."""
    square = (1,) * (2 - open_set.ndim) + open_set.shape
    causal = not np.all(open_set) and square[-2:] == (keys, keys) and np.all(open_set == np.tri(keys, dtype=np.bool_))
    bias = _smallest(np.where(open_set, added, np.float32(0)) if causal else added)
    if table.source is None:
        return Proof(True, None, bool(causal), bias)
    if np.any(open_cleared) or not _keys_in_order(table, open_set, batch, keys):
        return Proof(False)
    return Proof(True, table.source, bool(causal), bias)


def _smallest(added: Array) -> Array | None:
    """What is added, one entry along axes where all are the same (the keys apart); None for zeros."""
    if not np.any(added):
        return None
    for axis in range(added.ndim - 1):
        first = added.take([0], axis)
        added = first if np.array_equal(np.broadcast_to(first, added.shape), added) else added
    return np.ascontiguousarray(added, dtype=np.float32)


def _keys_in_order(table: TruthTable, seen: Array, batch: int, keys: int) -> bool:
    """Whether element [b, h, q, k] depends on the mask entry [b, k], if it is `seen` at all."""
    if table.source is None or nn.shape_of(table.source) != (batch, keys) or table.origin.ndim > 4:
        return False
    order = np.arange(batch * keys).reshape(batch, 1, 1, keys)
    try:
        shape = np.broadcast_shapes(table.origin.shape, order.shape)
    except ValueError:
        return False
    return shape[-1] == keys and shape[0] == batch and bool(np.all((table.origin == order) | ~seen))
