"""`workshop-halve`: halves the weights of the linear layers whose role contains `role`, as a pass that changes values."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.passes import ModulePass

from compiler.dialects import nn
from compiler.weights import store_of


@dataclass(frozen=True)
class HalvePass(ModulePass):
    """Values are never changed in place: a new entry of the store gets them, and the weight refers to it."""

    name = "workshop-halve"
    role: str = "ffn.up"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        store = store_of(ctx, op)
        for linear in op.walk():
            if isinstance(linear, nn.LinearOp) and self.role in linear.role.data:
                weight = nn.stored_weight(linear.weight)
                assert weight is not None
                key = store.add(f"{weight.key.data}.half", store.get(weight.key.data) / 2)
                weight.key, weight.digest = StringAttr(key), StringAttr(store.digest(key))
