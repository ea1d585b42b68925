"""Role paths: what each linear is for, found from structure and thus the same for every exporter.

layer.<i>.attn.q|k|v|o, layer.<i>.ffn.gate|up|down, pooler, classifier, lm_head, else head.<n>.
"""

from __future__ import annotations

from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue

from compiler.dialects import nn
from compiler.passes.fusion.linear import name_role
from compiler.passes.fusion.match import Scope, made_by, users


def assign_roles(scope: Scope) -> None:
    roles = _Roles()
    order = {op: index for index, op in enumerate(scope.block.ops)}
    attentions = list(scope.each(nn.AttentionOp))
    for index, attention in enumerate(attentions):
        name_role(attention, f"layer.{index}.attn")
        for part, value in (("q", attention.q), ("k", attention.k), ("v", attention.v)):
            roles.give(_linear_behind(value), f"layer.{index}.attn.{part}")
        for user in _through_reshapes(attention.result):
            roles.give(user if isinstance(user, nn.LinearOp) else None, f"layer.{index}.attn.o")
    for linear in scope.each(nn.LinearOp):
        before = [index for index, attention in enumerate(attentions) if order[attention] < order[linear]]
        if linear not in roles.given and before and not _is_pooled(linear.x):
            _ffn(roles, linear, f"layer.{before[-1]}.ffn")
    vocabularies = {nn.shape_of(table)[0] for op in scope.each(nn.EmbeddingOp) for table in op.tables}
    _tail(roles, [linear for linear in scope.each(nn.LinearOp) if linear not in roles.given], vocabularies)
    for linear, role in roles.given.items():
        name_role(linear, role)


class _Roles:
    """Roles by linear; each role and each linear once."""

    def __init__(self) -> None:
        self.given: dict[nn.LinearOp, str] = {}

    def give(self, linear: nn.LinearOp | None, role: str) -> None:
        if linear is not None and linear not in self.given and role not in self.given.values():
            self.given[linear] = role


def _through_reshapes(value: SSAValue) -> list[Operation]:
    """The users of a value, seen through reshapes."""
    found: list[Operation] = []
    for user in users(value):
        found += _through_reshapes(user.result) if isinstance(user, nn.ReshapeOp) else [user]
    return found


def _linear_behind(value: SSAValue) -> nn.LinearOp | None:
    """The linear that makes a value, be its heads normed or rotated."""
    while isinstance(value.owner, nn.ReshapeOp | nn.RotaryOp | nn.RmsNormOp):
        value = value.owner.x
    return made_by(value, nn.LinearOp)


def _is_pooled(value: SSAValue) -> bool:
    """Whether a value is one row per sample: a pooler's or a classifier's input."""
    owner = value.owner
    if isinstance(owner, nn.ReshapeOp | nn.ActivationOp):
        return _is_pooled(owner.x)
    if isinstance(owner, nn.LinearOp):
        return _is_pooled(owner.x)
    return isinstance(owner, nn.TakeTokenOp | nn.MeanPoolOp)


def _ffn(roles: _Roles, up: nn.LinearOp, layer: str) -> None:
    for activation in _through_reshapes(up.result):
        if not isinstance(activation, nn.ActivationOp):
            continue
        for user in _through_reshapes(activation.result):
            if isinstance(user, nn.LinearOp) and _returns(up, user):
                roles.give(up, f"{layer}.up")
                roles.give(user, f"{layer}.down")
            elif isinstance(user, nn.BinaryOp) and user.kind.data is nn.BinaryKind.MUL:
                _gated_ffn(roles, up, user, layer)


def _gated_ffn(roles: _Roles, gate: nn.LinearOp, product: nn.BinaryOp, layer: str) -> None:
    """activation(gate) * up: the other operand's linear is `up`."""
    ups = [found for value in product.operands if (found := _linear_behind(value)) is not None and found is not gate]
    for down in _through_reshapes(product.result):
        if ups and isinstance(down, nn.LinearOp) and _returns(gate, down):
            roles.give(gate, f"{layer}.gate")
            roles.give(ups[0], f"{layer}.up")
            roles.give(down, f"{layer}.down")


def _returns(up: nn.LinearOp, down: nn.LinearOp) -> bool:
    """Whether `down` leads back to the features that `up` began with."""
    return nn.shape_of(down.result)[-1] == nn.shape_of(up.x)[-1]


def _tail(roles: _Roles, rest: list[nn.LinearOp], vocabularies: set[int]) -> None:
    """The pooler is a pooled linear with an activation, the classifier the last linear, returned as it is; a language
    model's head is one with an output for every row of an embedding table."""
    heads = 0
    for linear in rest:
        next_ops = _through_reshapes(linear.result)
        if _is_pooled(linear.x) and any(isinstance(op, nn.ActivationOp) for op in next_ops):
            role = "pooler"
        elif linear is rest[-1] and any(isinstance(op, ReturnOp) for op in next_ops):
            role = "lm_head" if nn.shape_of(linear.weight)[0] in vocabularies and not _is_pooled(linear.x) else "classifier"
        else:
            role = ""
        if not role or role in roles.given.values():
            role, heads = f"head.{heads}", heads + 1
        roles.give(linear, role)
