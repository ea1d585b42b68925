"""From `hpcc_nn` after `sparsify` to steps over buffers, each with its place in the activation memory of its kind.

What CPUs and GPUs share; how a linear is multiplied is the business of compiler/backends/cpu and gpu.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import FunctionType, StringAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, BlockArgument, Operation, Region, SSAValue
from xdsl.rewriter import Rewriter

from compiler.dialects import nn, steps
from compiler.interpreters.evaluate import node_name
from compiler.interpreters.nn_float import dequantized
from compiler.weights import WeightStore, row_major
from hw_targets.errors import InfeasibleError

_ACTIVATIONS = {
    nn.ActivationKind.GELU: steps.Activation.GELU,
    nn.ActivationKind.TANH: steps.Activation.TANH,
    nn.ActivationKind.RELU: steps.Activation.RELU,
    nn.ActivationKind.GELU_TANH: steps.Activation.GELU_TANH,
    nn.ActivationKind.QUICK_GELU: steps.Activation.QUICK_GELU,
    nn.ActivationKind.SILU: steps.Activation.SILU,
}


def stored_array(value: SSAValue, store: WeightStore) -> NDArray[Any]:
    """A stored value's array; a matrix as out x in, codes as the fp32 they stand for."""
    owner = value.owner
    if isinstance(owner, nn.DequantizeOp):
        return dequantized(stored_array(owner.codes, store), stored_array(owner.scale, store))
    assert isinstance(owner, nn.WeightOp)
    array = store.get(owner.key.data)
    return array.T if owner.transposed else array


def matrix_of(value: SSAValue, store: WeightStore) -> NDArray[np.float32]:
    """A linear's weight, out x in, row-major fp32."""
    return row_major(stored_array(value, store)).astype(np.float32, copy=False)


@dataclass
class StepLowering(ABC):
    """Lowers @main op by op. Raises InfeasibleError, with the ONNX node, for what the machine has no step for."""

    dialect: ClassVar[Any]
    """The module of the step dialect."""
    what: ClassVar[str]
    """What runs the steps, as errors call it."""

    function: FuncOp
    store: WeightStore
    block: Block = field(default_factory=Block, kw_only=True)
    values: dict[SSAValue, SSAValue] = field(default_factory=dict, kw_only=True)
    done: set[Operation] = field(default_factory=set, kw_only=True)
    codes: dict[tuple[SSAValue, str], SSAValue] = field(default_factory=dict, kw_only=True)

    def run(self) -> FuncOp:
        old = self.function.body.block
        for argument in old.args:
            self.values[argument] = self.block.insert_arg(argument.type, len(self.block.args))
        for op in old.ops:
            if op not in self.done:
                self._lower(op)
        assign_places(self.block, self._rows_of)
        last = self.block.last_op
        assert isinstance(last, ReturnOp)
        types = [value.type for value in last.operands]
        function = FuncOp("main", FunctionType.from_lists(list(self.block.arg_types), types), Region(self.block))
        function.attributes = dict(self.function.attributes)
        return function

    @abstractmethod
    def _rows_of(self, type: steps.Buffer) -> int:
        """Rows that a buffer takes in its memory."""

    # ---- one operation ----------------------------------------------------------------------------------------------

    def _lower(self, op: Operation) -> None:
        table: dict[type[Operation], Callable[..., None]] = {
            nn.WeightOp: self._keep,
            nn.DequantizeOp: self._keep,
            nn.ConstantOp: self._keep,
            nn.EmbeddingOp: self._embedding,
            nn.LinearOp: self._linear,
            nn.AttentionOp: self._attention,
            nn.LayerNormOp: self._layer_norm,
            nn.RmsNormOp: self._rms_norm,
            nn.RotaryOp: self._rotary,
            nn.ActivationOp: self._activation,
            nn.BinaryOp: self._add,
            nn.MeanPoolOp: self._mean_pool,
            nn.TakeTokenOp: self._take_token,
            nn.ReshapeOp: self._alias,
            nn.CastOp: self._alias,
            ReturnOp: self._return,
        }
        rule = table.get(type(op))
        if rule is None:
            raise infeasible(op, f"the {self.what} has no step for {op.name}")
        rule(op)

    def _add_step(self, op: Operation, step: Operation, result: SSAValue) -> None:
        step.location = op.location
        self.block.add_op(step)
        self.values[result] = step.results[0]

    def _keep(self, op: Operation) -> None:
        copy = op.clone(self.values)
        self.block.add_op(copy)
        self.values[op.results[0]] = copy.results[0]

    def _alias(self, op: nn.ReshapeOp | nn.CastOp) -> None:
        """The same values in the same order; where the features change, what reads them finds out."""
        if isinstance(op, nn.CastOp) and isinstance(self._new(op.x).type, steps.Buffer) and op.x.type != op.result.type:
            raise infeasible(op, f"the {self.what} does not change the type of activations")
        self.values[op.result] = self._new(op.x)

    def _new(self, value: SSAValue) -> SSAValue:
        return self.values[value]

    def _buffer(self, op: Operation, value: SSAValue) -> SSAValue:
        """The buffer of activations behind a value."""
        found = self._new(value)
        if not isinstance(found.type, steps.Buffer):
            raise infeasible(op, "it reads activations that are an input of the model")
        return found

    def _type(self, op: Operation, value: SSAValue) -> steps.Buffer:
        """A buffer for a value of batch x tokens x features or of batch x features."""
        shape = nn.shape_of(value)
        if len(shape) not in (2, 3):
            raise infeasible(op, f"activations are batch x tokens x features or batch x features, not {shape}")
        return self.dialect.BufferType.of(shape[-1], steps.TOKENS if len(shape) == 3 else steps.SAMPLES, 0)

    def _mask(self, op: Operation, value: SSAValue) -> SSAValue:
        found = self._new(value)
        if not isinstance(found, BlockArgument) or len(nn.shape_of(found)) != 2:
            raise infeasible(op, "a mask has to be an input of batch x tokens")
        return found

    def _embedding(self, op: nn.EmbeddingOp) -> None:
        ids, tables = ([self._new(value) for value in values] for values in (op.ids, op.tables))
        for value in ids:
            if not isinstance(value, BlockArgument) and nn.stored_weight(value) is None:
                raise infeasible(op, "ids have to be an input or stored")
        self._add_step(op, self.dialect.EmbeddingOp(ids, tables, self._type(op, op.result)), op.result)

    def _linear(self, op: nn.LinearOp) -> None:
        """With the sum and the activation that follow it, where nothing else reads what lies between."""
        if nn.stored_weight(op.weight) is None:
            raise infeasible(op, "the weight of a linear is computed, not stored")
        x, result = self._buffer(op, op.x), op.result
        type = self._type(op, op.result)
        residual: SSAValue | None = None
        activation = steps.Activation.NONE
        user = result.get_user_of_unique_use()
        if isinstance(user, nn.BinaryOp) and user.kind.data is nn.BinaryKind.ADD and user.lhs.type == user.rhs.type:
            other = user.rhs if user.lhs is result else user.lhs
            if other in self.values and isinstance(self.values[other].type, steps.Buffer):
                residual, result = self.values[other], user.result
                self.done.add(user)
        user = result.get_user_of_unique_use()
        if isinstance(user, nn.ActivationOp):
            activation, result = _ACTIVATIONS[user.kind.data], user.result
            self.done.add(user)
        self._add_step(op, self._multiplied(op, x, residual, type, activation), result)

    @abstractmethod
    def _multiplied(
        self, op: nn.LinearOp, x: SSAValue, residual: SSAValue | None, type: steps.Buffer, activation: steps.Activation
    ) -> Operation:
        """The step of a linear with what was fused into it."""

    def _codes_of(self, op: Operation, x: SSAValue, order: str) -> SSAValue:
        """The codes of a buffer, made once for all that read them in the same order."""
        if (x, order) not in self.codes:
            step = self.dialect.QuantizeOp(x, self.dialect.BufferType.of(steps.features_of(x), order, 0))
            step.location = op.location
            self.block.add_op(step)
            self.codes[x, order] = step.result
        return self.codes[x, order]

    def _attention(self, op: nn.AttentionOp) -> None:
        if op.bias is not None:
            raise infeasible(op, "a bias is added to the scores of an attention")
        if not op.scale.value.data > 0:
            raise infeasible(op, "the scale of an attention is not positive")
        if nn.shape_of(op.q)[:2] != nn.shape_of(op.k)[:2]:
            raise infeasible(op, "queries and keys are of different sequences")
        step = self.dialect.AttentionOp(
            op.role.data,
            self._buffer(op, op.q),
            self._buffer(op, op.k),
            self._buffer(op, op.v),
            None if op.mask is None else self._mask(op, op.mask),
            self._type(op, op.result),
            heads=op.heads.value.data,
            scale=op.scale.value.data,
            groups=op.groups,
            causal=op.causal is not None,
        )
        self._add_step(op, step, op.result)

    def _layer_norm(self, op: nn.LayerNormOp) -> None:
        x, gamma, beta = self._buffer(op, op.x), self._new(op.gamma), self._new(op.beta)
        self._add_step(op, self.dialect.LayerNormOp(x, gamma, beta, op.eps.value.data, self._type(op, op.result)), op.result)

    def _rms_norm(self, op: nn.RmsNormOp) -> None:
        x, gamma = self._buffer(op, op.x), self._new(op.gamma)
        self._add_step(op, self.dialect.RmsNormOp(x, gamma, op.eps.value.data, self._type(op, op.result)), op.result)

    def _rotary(self, op: nn.RotaryOp) -> None:
        x, table, size = self._buffer(op, op.x), self._new(op.table), op.head_size.value.data
        interleaved = op.interleaved is not None
        step = self.dialect.RotaryOp(x, table, size, self._type(op, op.result), interleaved=interleaved)
        self._add_step(op, step, op.result)

    def _activation(self, op: nn.ActivationOp) -> None:
        step = self.dialect.PointwiseOp(self._buffer(op, op.x), None, _ACTIVATIONS[op.kind.data], self._type(op, op.result))
        self._add_step(op, step, op.result)

    def _add(self, op: nn.BinaryOp) -> None:
        left, right = self._buffer(op, op.lhs), self._buffer(op, op.rhs)
        times = op.kind.data is nn.BinaryKind.MUL
        if not times and op.kind.data is not nn.BinaryKind.ADD:
            raise infeasible(op, f"the {self.what} has no step for {op.kind.data.value}")
        step = self.dialect.PointwiseOp(left, right, steps.Activation.NONE, self._type(op, op.result), times=times)
        self._add_step(op, step, op.result)

    def _mean_pool(self, op: nn.MeanPoolOp) -> None:
        minimum = op.minimum.value.data
        step = self.dialect.PoolOp(
            self._buffer(op, op.x), self._mask(op, op.mask), self._type(op, op.result), minimum=minimum
        )
        self._add_step(op, step, op.result)

    def _take_token(self, op: nn.TakeTokenOp) -> None:
        step = self.dialect.PoolOp(self._buffer(op, op.x), None, self._type(op, op.result), token=op.index.value.data)
        self._add_step(op, step, op.result)

    def _return(self, op: ReturnOp) -> None:
        for value in op.operands:
            new = self._new(value)
            if not isinstance(new.type, steps.Buffer) or self._type(op, value) != new.type:
                raise infeasible(op, f"an output of shape {nn.shape_of(value)} is not laid out as it is computed")
        self.block.add_op(ReturnOp(*(self._new(value) for value in op.operands)))


def infeasible(op: Operation, message: str) -> InfeasibleError:
    return InfeasibleError("HPCC3302", message, where=f"node {node_name(op)!r}", hint="hpcc --check lists what runs where")


# ---- places -----------------------------------------------------------------------------------------------------------


def assign_places(block: Block, rows_of: Callable[[steps.Buffer], int]) -> None:
    """Give every buffer a place that no other live one has, the first that is free: a linear scan."""
    ops = list(block.ops)
    number = {op: index for index, op in enumerate(ops)}
    live: dict[str, list[tuple[int, int, int]]] = {memory: [] for memory in MEMORIES}
    for index, op in enumerate(ops):
        for result in op.results:
            if not isinstance(result.type, steps.Buffer):
                continue
            type = result.type
            last = max((number[use.operation] for use in result.uses), default=index)
            taken = [entry for entry in live[memory_of(type)] if entry[2] >= index]
            size, place = rows_of(type), 0
            for begin, end, _ in sorted(taken):
                if place + size <= begin:
                    break
                place = max(place, end)
            live[memory_of(type)] = [*taken, (place, place + size, last)]
            Rewriter.replace_value_with_new_type(result, type.of(type.features.data, type.per.data, place))


def memory_sizes(block: Block, rows_of: Callable[[steps.Buffer], int]) -> dict[str, int]:
    """Rows of the activation memories: features of tokens and of samples, rows of codes."""
    sizes: dict[str, int] = dict.fromkeys(MEMORIES, 0)
    for op in block.ops:
        for result in op.results:
            if isinstance(result.type, steps.Buffer):
                memory = memory_of(result.type)
                sizes[memory] = max(sizes[memory], result.type.place.data + rows_of(result.type))
    return sizes


MEMORIES: tuple[str, ...] = (steps.TOKENS, steps.SAMPLES, steps.CODES)


def memory_of(type: steps.Buffer) -> str:
    """The memory that holds a buffer: codes of either order share one."""
    return steps.CODES if type.per.data == steps.WINDOWS else type.per.data


def role_of(op: Operation) -> str:
    """The layer a step belongs to, by name."""
    role = op.properties.get("role")
    return role.data if isinstance(role, StringAttr) else ""
