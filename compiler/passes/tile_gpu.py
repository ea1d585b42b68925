"""`hpcc-tile-gpu{target="gpu-sm80"}`: whole-tensor ops to kernel launches over buffers, tiled for thread blocks.

Before: `hpcc_nn` after `sparsify`. After: `hpcc_gpu` ops, one launch each; a linear says the tile of results that a block
computes and how many inputs are in shared memory at a time. Weights stay references. With precision int8 the linears on
tokens read codes that a `hpcc_gpu.quantize` makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from compiler.backends.gpu.lowering import Lowering
from compiler.module import main_function
from compiler.weights import store_of
from hw_targets.errors import UsageError
from hw_targets.gpu import GpuTarget
from hw_targets.load import load_any_target


@dataclass(frozen=True)
class TileGpuPass(ModulePass):
    """Lower @main for a GPU. Raises UsageError for a target of another kind, InfeasibleError for what has no step."""

    name = "hpcc-tile-gpu"
    target: str = "gpu-sm80"  # pyright: ignore[reportIncompatibleMethodOverride]
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp16"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = load_any_target(self.target)
        if not isinstance(target, GpuTarget):
            raise UsageError("HPCC2105", f"target {target.name!r} is a {target.kind}; a gpu is needed here")
        function = main_function(op)
        Rewriter.replace_op(function, Lowering(function, store_of(ctx, op), target, self.precision).run(), [])
