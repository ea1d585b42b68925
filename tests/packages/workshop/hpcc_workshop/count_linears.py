"""`workshop-count-linears`: writes how many linear layers a module has into its attribute `workshop.linears`."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass

from compiler.dialects import nn


@dataclass(frozen=True)
class CountLinearsPass(ModulePass):
    """Counts; with a `role`, only layers whose role contains it."""

    name = "workshop-count-linears"
    role: str = ""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        found = [inner for inner in op.walk() if isinstance(inner, nn.LinearOp) and self.role in inner.role.data]
        op.attributes["workshop.linears"] = IntegerAttr(len(found), i64)
