"""`hpcc-tile`: whole-tensor integer ops to instructions on tiles of the target's memories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, FunctionType, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region, SSAValue
from xdsl.passes import ModulePass

from compiler.backends.fpga.builder import TileBuilder
from compiler.backends.fpga.lowering import Lowering, TileSizes
from compiler.dialects import nn
from compiler.module import main_function, names_of
from hw_targets.load import load_target


@dataclass(frozen=True)
class TilePass(ModulePass):
    """Select instructions for the device function; the result takes no arguments, its DRAM regions are its borders."""

    name: ClassVar[str] = "hpcc-tile"
    target: str = "fpga-u280"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        accelerator = load_target(self.target).accelerator
        function = main_function(op)
        inputs: dict[SSAValue, str] = dict(zip(function.body.block.args, names_of(function, "input_names"), strict=True))
        block = Block()
        widths = [nn.shape_of(o.result)[-1] for o in function.walk() if isinstance(o, nn.QLinearOp)]
        keys = [nn.shape_of(o.k)[1] for o in function.walk() if isinstance(o, nn.QAttentionOp)]
        sizes = TileSizes.for_accumulators(
            accelerator.acc_bytes, accelerator.tokens, max(widths, default=1), max(keys, default=1)
        )
        lowering = Lowering(TileBuilder(block), inputs, sizes)
        for inner in function.body.block.ops:
            if isinstance(inner, ReturnOp):
                lowering.store_outputs(inner, names_of(function, "output_names"))
            else:
                lowering.lower(inner)
        block.add_op(ReturnOp())
        tiled = FuncOp(function.sym_name.data, FunctionType.from_lists([], []), Region(block))
        tiled.attributes.update(function.attributes)
        tiled.attributes["target"] = StringAttr(self.target)
        tiled.attributes["borders"] = ArrayAttr(
            [*(arg.type for arg in function.body.block.args), *function.function_type.outputs]
        )
        assert function.parent is not None
        function.parent.insert_op_before(tiled, function)
        function.detach()
        function.erase()
