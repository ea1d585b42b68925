"""`hpcc-tile`: whole-tensor integer ops to instructions on tiles of the target's memories."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, FunctionType, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region, SSAValue
from xdsl.passes import ModulePass

from compiler.backends.fpga.allocation import OutOfMemoryError, aligned, allocate, capacities
from compiler.backends.fpga.borders import store_outputs
from compiler.backends.fpga.builder import TileBuilder
from compiler.backends.fpga.context import Context as Selection
from compiler.backends.fpga.lowering import lower
from compiler.backends.fpga.machine import machine_of, note_machine
from compiler.backends.fpga.planning import Extent, TilePlan, plans
from compiler.backends.fpga.tasks import Task, flatten
from compiler.dialects import nn
from compiler.module import main_function, names_of
from compiler.weights import WeightStore, store_of
from hw_targets.isa import Memory
from hw_targets.target import Target


def _extent(function: FuncOp) -> Extent:
    linears = [op for op in function.walk() if isinstance(op, nn.QLinearOp)]
    attentions = [op for op in function.walk() if isinstance(op, nn.QAttentionOp)]
    return Extent(
        keys=max((nn.shape_of(op.k)[1] for op in attentions), default=1),
        # A linear's codes go in and, if another one reads them, come out: one byte each at least.
        act_bytes=max((prod(nn.shape_of(op.x)) + _kept_bytes(op) for op in linears), default=0),
        attention_bytes=max((2 * aligned(prod(nn.shape_of(op.k))) for op in attentions), default=0),
        head_bytes=max((2 * aligned(_head_bytes(op)) for op in attentions), default=0),
    )


def _kept_bytes(op: nn.QLinearOp) -> int:
    is_output = all(isinstance(use.operation, ReturnOp | nn.HandOverOp | nn.ReshapeOp) for use in op.result.uses)
    return 0 if is_output else prod(nn.shape_of(op.result))


def _head_bytes(op: nn.QAttentionOp) -> int:
    _, keys, width = nn.shape_of(op.k)
    return keys * width // op.groups


def _first_that_fits(function: FuncOp, target: Target, store: WeightStore) -> tuple[Block, list[Task]]:
    """Lower with the first plan whose buffers fit, and unroll. Raises the last OutOfMemoryError if none does."""
    failure: OutOfMemoryError | None = None
    for variants in plans(target.accelerator, _extent(function)):
        for plan in variants:
            block = _lower(function, plan, target, store)
            tasks = flatten(block)
            try:
                allocate(tasks, capacities(target))
            except OutOfMemoryError as error:
                failure = error
                if error.memory is not Memory.WEIGHTS:
                    break  # smaller loads would not help
                continue
            return block, tasks
    assert failure is not None
    raise failure


def _lower(function: FuncOp, plan: TilePlan, target: Target, store: WeightStore) -> Block:
    inputs: dict[SSAValue, str] = dict(zip(function.body.block.args, names_of(function, "input_names"), strict=True))
    block = Block()
    selection = Selection(TileBuilder(block), inputs, plan, target, store)
    returned = function.body.block.last_op
    if isinstance(returned, ReturnOp):
        selection.output_names = dict(zip(returned.arguments, names_of(function, "output_names"), strict=True))
    for handed in function.body.block.ops:
        if isinstance(handed, nn.HandOverOp):
            selection.output_names.update(zip(handed.values, handed.tensors, strict=True))
    for inner in function.body.block.ops:
        if isinstance(inner, ReturnOp):
            store_outputs(selection, inner.arguments, names_of(function, "output_names"))
        else:
            lower(selection, inner)
    return block


@dataclass(frozen=True)
class TilePass(ModulePass):
    """Select instructions for the device function; the result takes no arguments, its DRAM regions are its borders."""

    name: ClassVar[str] = "hpcc-tile"
    target: str = "fpga-u280"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        tile_module(op, machine_of(op, self.target), store_of(ctx, op), self.target)


def tile_module(module: ModuleOp, target: Target, store: WeightStore, name: str = "") -> list[Task]:
    """The pass for a target that need not be a file; `name` is what later stages find it by. Returns the tiled program
    unrolled, as `flatten` does."""
    function = main_function(module)
    block, tasks = _first_that_fits(function, target, store)
    note_machine(module, target)
    block.add_op(ReturnOp())
    tiled = FuncOp(function.sym_name.data, FunctionType.from_lists([], []), Region(block))
    tiled.attributes.update(function.attributes)
    tiled.attributes["target"] = StringAttr(name or target.name)
    tiled.attributes["borders"] = ArrayAttr(
        [*(arg.type for arg in function.body.block.args), *function.function_type.outputs]
    )
    assert function.parent is not None
    function.parent.insert_op_before(tiled, function)
    function.detach()
    function.erase()
    return tasks
