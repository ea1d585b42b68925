"""A fused `hpcc_nn` module as a torch network: parameters from the WeightStore, masks on some, gradients straight through.

A module has static shapes, so a network holds one graph for each length of its batches; they share parameters by key.
Nothing is dropped out and nothing is random.
"""

# torch is an optional dependency, so a type checker may not find it.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue

from compiler.dialects import nn
from compiler.interpreters.evaluate import node_name
from compiler.interpreters.nn_float import constant_array
from compiler.module import main_function, names_of
from compiler.training.heads import Tensor
from compiler.training.meanings import MEANINGS, fit
from compiler.weights import WeightStore
from hw_targets.errors import InputError

Array = NDArray[Any]


class _Straight(torch.autograd.Function):
    """w * mask, whose gradient reaches all of w: also the weights that are masked out keep learning."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, mask: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return w * mask

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient, None


@dataclass(frozen=True)
class Graph:
    """A fused module and its weights, with the shapes of one kind of batch."""

    module: ModuleOp
    store: WeightStore


@dataclass
class Result:
    """Outputs by name; `hidden` are the results of the normalisations; `mask` is the boolean mask of the attentions."""

    outputs: dict[str, Tensor]
    hidden: list[Tensor] = field(default_factory=list)
    mask: Tensor | None = None


class Network:
    """The parameters `trained` (keys of the store) and everything else as constants.

    A parameter is kept in the orientation in which linears use it, out x in. Raises InputError HPCC1550 for a node that
    has no meaning here.
    """

    def __init__(self, graphs: Mapping[int, Graph], trained: Iterable[str], *, precision: str = "fp32") -> None:
        self._graphs = dict(graphs)
        self._low = precision == "bf16"
        self._constants: dict[tuple[int, Operation], Tensor] = {}
        self.turned: dict[str, bool] = {}
        self.parameters: dict[str, Any] = {}
        self.masks: dict[str, Tensor] = {}
        wanted = set(trained)
        for length, graph in self._graphs.items():
            for op in main_function(graph.module).body.block.ops:
                self._prepare(length, graph, op, wanted)

    def _prepare(self, length: int, graph: Graph, op: Operation, wanted: set[str]) -> None:
        if isinstance(op, nn.WeightOp):
            key = op.key.data
            if key in wanted and key not in self.parameters:
                self.turned[key] = op.transposed
                data = graph.store.get(key)
                data = np.array(data.T if op.transposed else data, np.float32, order="C")
                self.parameters[key] = torch.nn.Parameter(torch.from_numpy(data))
            if key not in wanted:
                data = graph.store.get(key)
                self._constants[length, op] = torch.from_numpy(np.array(data.T if op.transposed else data, order="C"))
        elif isinstance(op, nn.ConstantOp):
            self._constants[length, op] = torch.from_numpy(np.array(constant_array(op)))
        elif type(op) not in MEANINGS and not isinstance(op, ReturnOp):
            reason = f": {op.reason.data}" if isinstance(op, nn.OpaqueOp) else ""
            name = op.op_type.data if isinstance(op, nn.OpaqueOp) else op.name
            message = f"node {node_name(op)!r} ({name}) cannot be trained through{reason}"
            raise InputError("HPCC1550", message, hint="--check lists the nodes that are not supported")

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(sorted(self._graphs))

    def __call__(self, length: int, inputs: Mapping[str, Array]) -> Result:
        """Run one batch, whose arrays have the shapes of the graph of `length`."""
        function = main_function(self._graphs[length].module)
        values: dict[SSAValue, Tensor] = {
            argument: torch.from_numpy(np.ascontiguousarray(inputs[name]))
            for name, argument in zip(names_of(function, "input_names"), function.body.block.args, strict=True)
        }
        masked = {key: self.effective(key) for key in self.parameters}
        result = Result({})
        for op in function.body.block.ops:
            if isinstance(op, ReturnOp):
                names = names_of(function, "output_names")
                outputs = (values[value] for value in op.operands)
                kept = (value.float() if value.dtype == torch.bfloat16 else value for value in outputs)
                result.outputs = dict(zip(names, kept, strict=True))
                break
            values[op.results[0]] = value = self._value(length, op, values, masked)
            if isinstance(op, nn.LayerNormOp) or (isinstance(op, nn.RmsNormOp) and op.is_whole):
                result.hidden.append(value)
            elif isinstance(op, nn.AttentionOp) and op.mask is not None:
                result.mask = values[op.mask]
        return result

    def effective(self, key: str) -> Tensor:
        """A parameter as the network uses it: without its masked weights."""
        parameter = self.parameters[key]
        return _Straight.apply(parameter, self.masks[key]) if key in self.masks else parameter

    def _value(self, length: int, op: Operation, values: Mapping[SSAValue, Tensor], masked: Mapping[str, Tensor]) -> Tensor:
        if isinstance(op, nn.WeightOp) and op.key.data in masked:
            value, turned = masked[op.key.data], op.transposed != self.turned[op.key.data]
            return value.T if turned else value
        if isinstance(op, nn.WeightOp | nn.ConstantOp):
            return self._constants[length, op]
        args = [values[operand] for operand in op.operands]
        return self._rounded(op, args) if self._low else fit(op, MEANINGS[type(op)](op, args))

    def _rounded(self, op: Operation, args: list[Tensor]) -> Tensor:
        """The meaning with activations and products in bf16, sums and what follows a pooling in fp32."""
        match op:
            case nn.EmbeddingOp():
                return MEANINGS[type(op)](op, args).bfloat16()
            case nn.MeanPoolOp():
                return MEANINGS[type(op)](op, [args[0].float(), *args[1:]])
            case nn.LinearOp():
                return functional.linear(args[0], *(arg.to(args[0].dtype) for arg in args[1:]))
            case nn.LayerNormOp() | nn.AttentionOp() | nn.RmsNormOp() | nn.ActivationOp() | nn.TakeTokenOp():
                return MEANINGS[type(op)](op, args)
            case nn.BinaryOp() if {arg.dtype for arg in args} == {torch.bfloat16}:
                return MEANINGS[type(op)](op, args)
            case _:
                exact = [arg.float() if arg.dtype == torch.bfloat16 else arg for arg in args]
                return fit(op, MEANINGS[type(op)](op, exact))

    # ---- what leaves and enters -------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, Array]:
        """The parameters, out x in, dense: copies."""
        return {key: parameter.detach().numpy().copy() for key, parameter in self.parameters.items()}

    def final(self) -> dict[str, Array]:
        """The parameters with hard zeros where the masks have them, out x in."""
        found = self.arrays()
        for key, mask in self.masks.items():
            found[key] = np.where(mask.numpy() != 0, found[key], np.float32(0))
        return found

    def load(self, arrays: Mapping[str, Array]) -> None:
        for key, parameter in self.parameters.items():
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(np.array(arrays[key])))
