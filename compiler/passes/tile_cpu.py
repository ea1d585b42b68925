"""`hpcc-tile-cpu{target="cpu-host"}`: whole-tensor ops to fused steps over buffers, sized for a CPU's caches and registers.

Before: `hpcc_nn` after `sparsify`. After: `hpcc_cpu` ops, one parallel loop each; weights stay references. With
precision int8 the linears on tokens read codes that a `hpcc_cpu.quantize` makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from compiler.backends.cpu.lowering import Lowering
from compiler.module import main_function
from compiler.weights import store_of
from hw_targets.cpu import CpuTarget
from hw_targets.errors import UsageError
from hw_targets.load import load_any_target


@dataclass(frozen=True)
class TileCpuPass(ModulePass):
    """Lower @main for a CPU. Raises UsageError for a target of another kind, InfeasibleError for what has no step."""

    name = "hpcc-tile-cpu"
    target: str = "cpu-host"  # pyright: ignore[reportIncompatibleMethodOverride]
    precision: Literal["fp32", "int8"] = "fp32"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = load_any_target(self.target)
        if not isinstance(target, CpuTarget):
            raise UsageError("HPCC2104", f"target {target.name!r} is a {target.kind}; a cpu is needed here")
        function = main_function(op)
        Rewriter.replace_op(function, Lowering(function, store_of(ctx, op), target, self.precision == "int8").run(), [])
