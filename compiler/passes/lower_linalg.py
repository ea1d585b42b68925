"""`hpcc-lower-linalg{weights="arguments" sparse=false}`: write @main in func, linalg, tensor, arith and math.

Before: `hpcc_nn` ops in fp32, as any stage up to `sparsify` leaves them. After: only upstream dialects. Weights are the last
arguments of @main, named by the attribute `hpcc.weights` in order, or with weights="parameters" IREE's `util.global`s; their
values are store entries in the logical layout. With sparse=true, weights whose pattern MLIR's `sparse_tensor` can say
carry its encoding; they are arguments then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from xdsl.builder import Builder
from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, NoneAttr, StringAttr, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from compiler.backends.linalg.lowerings import lower
from compiler.backends.linalg.scalars import signless
from compiler.backends.linalg.sparse import encoding_of
from compiler.backends.linalg.tensors import Tensors
from compiler.backends.linalg.weights import ARGUMENTS, AsArguments, AsParameters
from compiler.dialects import nn
from compiler.dialects.sparsity import pattern_of
from compiler.module import main_function, names_of
from compiler.weights import WeightStore, store_of

WEIGHTS = "hpcc.weights"
"""Attribute of @main: the keys of the weights among its arguments, in order."""
LOGICAL = "{key}.oi"
"""The key of a weight that its file holds transposed, in the logical layout."""


@dataclass(frozen=True)
class LowerLinalgPass(ModulePass):
    """Lower @main; see the module's docstring. Raises InputError HPCC1951 for an operation without a form in linalg."""

    name = "hpcc-lower-linalg"
    weights: Literal["arguments", "parameters"] = "arguments"
    sparse: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        lower_module(op, store_of(ctx, op), parameters=self.weights != ARGUMENTS and not self.sparse, sparse=self.sparse)


def lower_module(module: ModuleOp, store: WeightStore, *, parameters: bool = False, sparse: bool = False) -> None:
    """Replace @main by its form in upstream dialects; transposed weights become new entries of the store."""
    main = main_function(module)
    block = Block(arg_types=[plain(type) for type in main.body.block.arg_types])
    for name, argument in zip(names_of(main, "input_names"), block.args, strict=True):
        argument.name_hint = hint(name)
    builder = Builder(InsertPoint.at_end(block))
    access = AsParameters(module, builder) if parameters else AsArguments(block)
    values: dict[SSAValue, SSAValue] = dict(zip(main.body.block.args, block.args, strict=True))
    tensors = Tensors(builder)
    weights: dict[str, SSAValue] = {}
    for op in main.body.block.ops:
        before = block.last_op
        if isinstance(op, ReturnOp):
            builder.insert(ReturnOp(*(values[value] for value in op.operands)))
        elif isinstance(op, nn.WeightOp):
            key = logical_key(op, store)
            if key not in weights:
                weights[key] = access.value(key, _weight_type(op, sparse=sparse))
                weights[key].name_hint = hint(key)
            values[op.result] = weights[key]
        else:
            values[op.results[0]] = lower(tensors, op, [values[operand] for operand in op.operands])
        _locate(block, before, op)
    last = block.last_op
    assert isinstance(last, ReturnOp)
    function = FuncOp(main.sym_name.data, ([arg.type for arg in block.args], [v.type for v in last.operands]), Region(block))
    for name in ("input_names", "output_names"):
        function.attributes[f"hpcc.{name}"] = ArrayAttr(StringAttr(text) for text in names_of(main, name))
    if isinstance(access, AsArguments):
        function.attributes[WEIGHTS] = ArrayAttr(StringAttr(key) for key in access.keys)
    Rewriter.replace_op(main, function)
    for name in [name for name in module.attributes if name.startswith("hpcc.")]:
        del module.attributes[name]


def hint(name: str) -> str:
    """A name as SSA values may have it."""
    return "v_" + re.sub(r"\W", "_", name)


def plain(type: Attribute) -> TensorType:
    """The tensor type without an encoding, its integers signless."""
    assert isinstance(type, TensorType)
    return TensorType(signless(type.element_type), type.get_shape())


def _weight_type(op: nn.WeightOp, *, sparse: bool) -> TensorType:
    type = plain(op.result.type)
    shape = type.get_shape()
    encoding = encoding_of(pattern_of(op.result.type), (shape[0], shape[1])) if sparse and len(shape) == 2 else None
    return TensorType(type.element_type, shape, NoneAttr() if encoding is None else encoding)


def logical_key(op: nn.WeightOp, store: WeightStore) -> str:
    """The key of the entry that holds a weight as its type says, made where the file holds the transpose."""
    key = op.key.data
    return store.add(LOGICAL.format(key=key), store.get(key).T) if op.transposed else key


def _locate(block: Block, before: Operation | None, source: Operation) -> None:
    """What was added since `before` comes from the ONNX node of `source`."""
    op = block.last_op
    while op is not None and op is not before:
        for inner in op.walk():
            inner.location = source.location
        op = op.prev_op
