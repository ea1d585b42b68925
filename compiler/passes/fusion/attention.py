"""Multi-head attention around a softmax, whatever transpositions, scales, masks and guards the exporter wrote.

How heads are split and merged is not matched but run: the movement between a [b, s, d] tensor and the operand of the
product is executed on an index array and compared with the split it must be.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from xdsl.dialects.builtin import TensorType, f32
from xdsl.ir import Operation, SSAValue
from xdsl.irdl import IRDLOperation

from compiler.dialects import nn
from compiler.passes.fusion.linear import UNNAMED
from compiler.passes.fusion.masks import FILL_LIMIT, MaskProver, Proof
from compiler.passes.fusion.match import (
    Array,
    Scope,
    binary,
    is_f32,
    is_stored,
    made_by,
    orders,
    scalar,
    scaled,
    sole_user,
    unary,
    users,
)

_LARGEST_SCALE = float(np.finfo(np.float32).max)
"""What scales the scores beyond it, or to no number, stays in parts."""

_MOVEMENT = (nn.ReshapeOp, nn.TransposeOp, nn.ExpandOp, nn.GatherOp)


@dataclass(frozen=True)
class Heads:
    """A [b, s, d] tensor, or with other axes before d, behind the per-head operand of a product, times a constant."""

    root: SSAValue
    heads: int
    factor: float

    def value(self, batch: int) -> tuple[list[IRDLOperation], SSAValue]:
        """The tensor as [b, s, d], with the reshape it may need."""
        shape = nn.shape_of(self.root)
        if len(shape) == 3:
            return [], self.root
        reshape = nn.ReshapeOp(self.root, TensorType(f32, [batch, prod(shape[:-1]) // batch, shape[-1]]))
        return [reshape], reshape.result


@dataclass(frozen=True)
class Masking:
    """What is done to the scores before the softmax: a boolean mask [b, keys], an addition, causality, or nothing."""

    mask: SSAValue | None = None
    bias: SSAValue | None = None
    causal: bool = False

    def and_then(self, inner: Masking) -> Masking | None:
        """Both maskings; None where both name another mask, or a bias."""
        if self.mask is not None and inner.mask is not None and self.mask is not inner.mask:
            return None
        if self.bias is not None and inner.bias is not None:
            return None
        return Masking(self.mask or inner.mask, self.bias or inner.bias, self.causal or inner.causal)


def fuse_attentions(scope: Scope, prover: MaskProver) -> None:
    for softmax in scope.each(nn.SoftmaxOp):
        _fuse(scope, prover, softmax)
    scope.sweep()


def _fuse(scope: Scope, prover: MaskProver, softmax: nn.SoftmaxOp) -> None:
    shape = nn.shape_of(softmax.result)
    if not is_f32(softmax.x) or len(shape) not in (3, 4) or softmax.axis.value.data != len(shape) - 1:
        return
    probabilities = _after_guard(softmax)
    context = sole_user(probabilities)
    while isinstance(context, nn.ReshapeOp) and nn.shape_of(context.result)[-2:] == shape[-2:]:
        probabilities = context.result  # heads and sequences in one axis, or apart
        context = sole_user(probabilities)
    if not isinstance(context, nn.MatMulOp) or context.lhs is not probabilities:
        return
    found = _scores(prover, softmax.x)
    if found is None:
        return
    product, scale, masking = found
    q = _heads(scope, product.lhs, transposed=False)
    k = _heads(scope, product.rhs, transposed=True)
    v = _heads(scope, context.rhs, transposed=False)
    if q is None or k is None or v is None or k.heads != v.heads or q.heads % k.heads:
        return
    if masking.causal and nn.shape_of(product.result)[-2] != shape[-1]:
        return
    _emit(scope, context, q, k, v, scale, masking)


def _after_guard(softmax: nn.SoftmaxOp) -> SSAValue:
    """The probabilities behind Where(IsNaN(p), 0, p), which guards rows that are masked throughout: they give 0 anyway."""
    for user in users(softmax.result):
        if (
            isinstance(user, nn.WhereOp)
            and unary(user.condition, nn.UnaryKind.ISNAN) is softmax.result
            and user.rhs is softmax.result
            and scalar(user.lhs) == 0
        ):
            return user.result
    return softmax.result


def _scores(prover: MaskProver, value: SSAValue) -> tuple[nn.MatMulOp, float, Masking] | None:
    """q k^T, its scale and its mask, from the argument of the softmax."""
    scale, masking = 1.0, Masking()
    while (product := made_by(value, nn.MatMulOp)) is None:
        step = scaled(value)
        if step is not None:
            value, scale = step[0], scale * step[1]
            continue
        reshape = made_by(value, nn.ReshapeOp)
        if reshape is not None and nn.shape_of(reshape.x)[-2:] == nn.shape_of(value)[-2:]:
            value = reshape.x  # heads and sequences apart, or in one axis
            continue
        clamped = _unclamped(value)
        if clamped is not None:
            value = clamped
            continue
        masked = _unmasked(prover, value)
        if masked is None or (masked[1].bias is not None and scale != 1.0):
            return None  # the bias would be scaled with the scores
        both = masking.and_then(masked[1])
        if both is None:
            return None
        value, masking = masked[0], both
    return product, scale, masking


def _unmasked(prover: MaskProver, value: SSAValue) -> tuple[SSAValue, Masking] | None:
    """The scores under one masking operation."""
    shape = nn.shape_of(value)
    add = binary(value, nn.BinaryKind.ADD)
    if add is not None:
        candidates: list[tuple[SSAValue, Masking]] = []
        for scores, added in orders(add):
            if nn.shape_of(scores) != shape or not _leads_to_product(scores):
                continue
            proof = prover.additive_mask(added, shape[0], shape[-1])
            if proof.proved and (len(shape) == 4 or (proof.mask is None and not proof.causal)):
                candidates.append((scores, _masking(prover, added, proof)))
            elif _is_bias(added, shape[-1]):
                candidates.append((scores, Masking(bias=added)))
        return min(candidates, key=lambda c: c[1].bias is not None, default=None)
    where = made_by(value, nn.WhereOp)
    if where is None or len(shape) != 4:
        return None
    for scores, other in ((where.lhs, where.rhs), (where.rhs, where.lhs)):
        fill = scalar(other)
        if fill is not None and fill <= FILL_LIMIT and nn.shape_of(scores) == shape:
            proof = prover.keep_mask(where.condition, shape[0], shape[-1], fill, drops=scores is where.rhs)
            return (scores, _masking(prover, where.condition, proof)) if proof.proved else None
    return None


def _unclamped(value: SSAValue) -> SSAValue | None:
    """The scores under max(scores, fill), which only keeps sums with a mask from overflowing."""
    clamp = binary(value, nn.BinaryKind.MAX)
    if clamp is None:
        return None
    return next((scores for scores, least in orders(clamp) if (scalar(least) or 0) <= FILL_LIMIT), None)


def _masking(prover: MaskProver, value: SSAValue, proof: Proof) -> Masking:
    alike = proof.bias is None or proof.bias.shape[-1:] in ((), (1,))  # what all keys of a query get changes nothing
    bias = None if alike or proof.bias is None else prover.bias_of(value, proof.bias)
    return Masking(proof.mask, bias, proof.causal)


def _is_bias(value: SSAValue, keys: int) -> bool:
    """Whether fp32 scores of so many keys can be added to key by key."""
    return is_f32(value) and nn.shape_of(value)[-1:] == (keys,)


def _leads_to_product(value: SSAValue) -> bool:
    """Whether `value` is a product, possibly scaled and masked: the scores, not the mask, of an addition."""
    owner = value.owner
    if isinstance(owner, nn.MatMulOp):
        return True
    if isinstance(owner, nn.BinaryOp):
        return _leads_to_product(owner.lhs) or _leads_to_product(owner.rhs)
    if isinstance(owner, nn.ReshapeOp):
        return _leads_to_product(owner.x)
    return isinstance(owner, nn.WhereOp) and (_leads_to_product(owner.lhs) or _leads_to_product(owner.rhs))


def _split(batch: int, tokens: int, heads: int, width: int) -> Array:
    """Flat indices of [b, s, h * d] seen as [b, h, s, d]."""
    return np.arange(batch * tokens * heads * width).reshape(batch, tokens, heads, width).transpose(0, 2, 1, 3)


def _heads(scope: Scope, value: SSAValue, *, transposed: bool) -> Heads | None:
    """Find the tensor whose heads `value` holds: [b, h, s, d] or [b * h, s, d], its last axes swapped if `transposed`.
    Of k and v every head may be there several times in a row, for as many neighbouring heads of q.

    [b * h, s, d] is itself a tensor of one head, so of all candidates the nearest with the most heads is taken, or what
    lies behind its factor.
    """
    shape = nn.shape_of(value)
    tokens, width = (shape[-1], shape[-2]) if transposed else (shape[-2], shape[-1])
    chain: list[Operation] = []
    factor, root = 1.0, value
    best: Heads | None = None
    while True:
        match = _split_matches(scope, root, list(reversed(chain)), shape, tokens, width, transposed=transposed)
        if match is not None and (best is None or match > best.heads or (match == best.heads and factor != best.factor)):
            best = Heads(root, match, factor)
        step = scaled(root)
        if step is not None:
            root, factor = step[0], factor * step[1]
        elif isinstance(root.owner, _MOVEMENT) and all(is_stored(extra) for extra in root.owner.operands[1:]):
            chain.append(root.owner)
            root = root.owner.x
        else:
            return best


def _split_matches(
    scope: Scope,
    root: SSAValue,
    chain: list[Operation],
    shape: tuple[int, ...],
    tokens: int,
    width: int,
    *,
    transposed: bool,
) -> int | None:
    """The number of heads if running `chain` on `root` splits it as attention does."""
    source = nn.shape_of(root)
    size, features = int(np.prod(shape)), source[-1]
    held = int(np.prod(source))
    if len(source) < 2 or features % width or size % held or held % (tokens * features):
        return None
    heads, copies = features // width, size // held
    batch = held // (tokens * features)
    if len(source) == 3 and source[:2] != (batch, tokens):
        return None
    if shape[:-2] not in ((batch, heads * copies), (batch * heads * copies,)):
        return None
    expected = np.repeat(_split(batch, tokens, heads, width), copies, axis=1)
    expected = expected.swapaxes(-1, -2) if transposed else expected
    moved = np.arange(held).reshape(source)
    for op in chain:
        extra = [scope.array(operand) for operand in op.operands[1:]]
        moved = scope.run(op, [moved, *(array for array in extra if array is not None)])
    return heads if np.array_equal(moved, expected.reshape(shape)) else None


def _merged(scope: Scope, context: nn.MatMulOp, batch: int, heads: int) -> Operation | None:
    """The operation after which the heads of the context lie side by side, as [b, s, d] or with other axes before d; if
    nothing puts them into one axis, that after which they are [b, s, h, d]."""
    shape = nn.shape_of(context.result)
    tokens, width = shape[-2:]
    indices = _split(batch, tokens, heads, width).reshape(shape)
    plain = np.arange(indices.size)
    op: Operation | None = context
    apart: Operation | None = None
    while True:
        value = op.results[0]
        if np.array_equal(indices.reshape(-1), plain):
            if nn.shape_of(value)[-1] == heads * width:
                return op
            if nn.shape_of(value) == (batch, tokens, heads, width):
                apart = op
        op = sole_user(value)
        if not isinstance(op, _MOVEMENT):
            return apart
        indices = scope.run(op, [indices])


def _emit(scope: Scope, context: nn.MatMulOp, q: Heads, k: Heads, v: Heads, scale: float, masking: Masking) -> None:
    shape = nn.shape_of(context.result)
    batch = shape[0] if len(shape) == 4 else shape[0] // q.heads
    last, whole = _merged(scope, context, batch, q.heads), scale * q.factor * k.factor
    if last is None or v.factor != 1.0 or not abs(whole) <= _LARGEST_SCALE:
        return
    if masking.bias is not None:
        scores = (batch, q.heads, shape[-2], nn.shape_of(context.lhs)[-1])
        if nn.bias_extents(nn.shape_of(masking.bias), scores) is None:
            return
    ops: list[IRDLOperation] = []
    values: list[SSAValue] = []
    for part in (q, k, v):
        extra, value = part.value(batch)
        ops += extra
        values.append(value)
    attention = nn.AttentionOp(
        UNNAMED,
        values[0],
        values[1],
        values[2],
        masking.mask,
        heads=q.heads,
        scale=whole,
        kv_heads=k.heads,
        causal=masking.causal,
        bias=masking.bias,
        type=TensorType(f32, list(nn.shape_of(values[0]))),
    )
    ops.append(attention)
    if attention.result.type != last.results[0].type:
        ops.append(nn.ReshapeOp(attention.result, TensorType(f32, list(nn.shape_of(last.results[0])))))
    scope.replace(last, ops, location=context)
