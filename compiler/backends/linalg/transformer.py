"""Lowerings of the transformer operations that `fuse` makes."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt

import numpy as np
from xdsl.dialects import arith, math
from xdsl.ir import SSAValue

from compiler.backends.linalg.lowerings import lowering_of, result_element, unsigned
from compiler.backends.linalg.scalars import Scalars, least_finite, lowest
from compiler.backends.linalg.tensors import Tensors
from compiler.dialects import nn

Args = Sequence[SSAValue]


@lowering_of(nn.EmbeddingOp)
def _embedding(t: Tensors, op: nn.EmbeddingOp, args: Args) -> SSAValue:
    """Sum of table rows in operand order."""
    count = len(op.ids)
    rows = [
        t.gather(table, ids, 0, unsigned=unsigned(given))
        for given, ids, table in zip(op.ids, args[:count], args[count:], strict=True)
    ]

    def code(s: Scalars, *parts: SSAValue) -> SSAValue:
        total = parts[0]
        for part in parts[1:]:
            total = s.add(total, part)
        return total

    return t.elementwise(rows, result_element(op), code, nn.shape_of(op.result))


@lowering_of(nn.LinearOp)
def _linear(t: Tensors, op: nn.LinearOp, args: Args) -> SSAValue:
    """x W^T + b, W out x in: one contraction, its sums beginning with 0, then the bias."""
    leading = "abcd"[: len(nn.shape_of(args[0])) - 1]
    y = t.contract(f"{leading}k,ok->{leading}o", args[0], args[1])
    return y if len(args) == 2 else t.elementwise([y, args[2]], result_element(op), lambda s, a, b: s.add(a, b))


def _mean(t: Tensors, x: SSAValue) -> SSAValue:
    last = len(nn.shape_of(x)) - 1
    size = nn.shape_of(x)[-1]
    total = t.reduce(x, [last], 0, lambda s, a, b: s.add(a, b), keep=True)
    return t.elementwise([total], nn.element_type_of(x), lambda s, a: s.div(a, s.like(size, a)))


@lowering_of(nn.LayerNormOp)
def _layer_norm(t: Tensors, op: nn.LayerNormOp, args: Args) -> SSAValue:
    x, gamma, beta = args
    element, eps = result_element(op), op.eps.value.data
    centred = t.elementwise([x, _mean(t, x)], element, lambda s, a, m: s.sub(a, m))
    variance = _mean(t, t.elementwise([centred], element, lambda s, a: s.mul(a, a)))

    def code(s: Scalars, a: SSAValue, v: SSAValue, g: SSAValue, b: SSAValue) -> SSAValue:
        return s.add(s.mul(s.div(a, s.sqrt(s.add(v, s.like(eps, v)))), g), b)

    return t.elementwise([centred, variance, gamma, beta], element, code)


@lowering_of(nn.RmsNormOp)
def _rms_norm(t: Tensors, op: nn.RmsNormOp, args: Args) -> SSAValue:
    x, gamma = args
    element, eps, shape = result_element(op), op.eps.value.data, nn.shape_of(x)
    groups = t.reshape(x, (*shape[:-1], shape[-1] // op.group, op.group))
    square = _mean(t, t.elementwise([groups], element, lambda s, a: s.mul(a, a)))

    def code(s: Scalars, a: SSAValue, v: SSAValue, g: SSAValue) -> SSAValue:
        return s.mul(s.div(a, s.sqrt(s.add(v, s.like(eps, v)))), g)

    return t.reshape(t.elementwise([groups, square, gamma], element, code), shape)


@lowering_of(nn.ActivationOp)
def _activation(t: Tensors, op: nn.ActivationOp, args: Args) -> SSAValue:
    def code(s: Scalars, x: SSAValue) -> SSAValue:
        match op.kind.data:
            case nn.ActivationKind.GELU:
                erf = s.unary(math.ErfOp, s.mul(x, s.like(sqrt(0.5), x)))
                return s.mul(s.mul(x, s.like(0.5, x)), s.add(s.like(1, x), erf))
            case nn.ActivationKind.TANH:
                return s.tanh(x)
            case nn.ActivationKind.RELU:
                return s.maximum(x, s.like(0, x))
            case nn.ActivationKind.GELU_TANH:
                cube = s.mul(s.mul(s.mul(s.like(0.044715, x), x), x), x)
                inner = s.mul(s.like(sqrt(2 / pi), x), s.add(x, cube))
                return s.mul(s.mul(s.like(0.5, x), x), s.add(s.like(1, x), s.tanh(inner)))
            case nn.ActivationKind.QUICK_GELU:
                return s.div(x, s.add(s.like(1, x), s.exp(s.mul(s.like(-1.702, x), x))))
            case nn.ActivationKind.SILU:
                return s.div(x, s.add(s.like(1, x), s.exp(s.negative(x))))

    return t.elementwise(args, result_element(op), code)


@lowering_of(nn.MeanPoolOp)
def _mean_pool(t: Tensors, op: nn.MeanPoolOp, args: Args) -> SSAValue:
    x, mask = args
    element, minimum = result_element(op), op.minimum.value.data
    attended = t.elementwise([mask], element, lambda s, m: s.cast(s.truth(m), element, unsigned=True))
    count = t.reduce(attended, [1], 0, lambda s, a, b: s.add(a, b), keep=True)
    total = t.contract("bsd,bs->bd", x, attended)
    return t.elementwise([total, count], element, lambda s, a, n: s.div(a, s.maximum(n, s.like(minimum, n))))


@lowering_of(nn.TakeTokenOp)
def _take_token(t: Tensors, op: nn.TakeTokenOp, args: Args) -> SSAValue:
    b, _, d = nn.shape_of(args[0])
    row = t.slice(args[0], (0, op.index.value.data, 0), (b, 1, d), (1, 1, 1))
    return t.reshape(row, (b, d))


@lowering_of(nn.RotaryOp)
def _rotary(t: Tensors, op: nn.RotaryOp, args: Args) -> SSAValue:
    """(a, b) -> (a c - b s, b c + a s) on the first features of every head; the others stay."""
    x, table = args
    element = result_element(op)
    b, tokens, features = nn.shape_of(x)
    size, turned = op.head_size.value.data, op.turned
    half, heads = turned // 2, features // size
    split = t.reshape(x, (b, tokens, heads, size))

    def part(value: SSAValue, first: int, count: int) -> SSAValue:
        shape = nn.shape_of(value)
        return t.slice(value, [0] * (len(shape) - 1) + [first], [*shape[:-1], count], [1] * len(shape))

    angles = [t.reshape(part(table, first, half), (tokens, 1, half)) for first in (0, half)]
    if op.interleaved is not None:
        pairs = t.reshape(part(split, 0, turned), (b, tokens, heads, half, 2))
        left, right = (t.reshape(part(pairs, i, 1), (b, tokens, heads, half)) for i in (0, 1))
    else:
        left, right = part(split, 0, half), part(split, half, half)
    ends = [
        t.elementwise([left, right, *angles], element, lambda s, p, q, c, z: s.sub(s.mul(p, c), s.mul(q, z))),
        t.elementwise([left, right, *angles], element, lambda s, p, q, c, z: s.add(s.mul(q, c), s.mul(p, z))),
    ]
    if op.interleaved is not None:
        pairs = t.concat([t.reshape(end, (b, tokens, heads, half, 1)) for end in ends], 4)
        ends = [t.reshape(pairs, (b, tokens, heads, turned))]
    if turned < size:
        ends.append(part(split, turned, size - turned))
    return t.reshape(t.concat(ends, 3) if len(ends) > 1 else ends[0], (b, tokens, features))


@lowering_of(nn.AttentionOp)
def _attention(t: Tensors, op: nn.AttentionOp, args: Args) -> SSAValue:
    """softmax(scale q k^T, masked) v. Heads of q are groups x neighbours that share a head of k and v."""
    q, k, v, *others = args
    element, scale = result_element(op), float(np.float32(op.scale.value.data))
    b, queries, features = nn.shape_of(q)
    keys, groups, heads = nn.shape_of(k)[1], op.groups, op.heads.value.data
    shared, size = heads // groups, features // heads
    q5 = t.reshape(q, (b, queries, groups, shared, size))
    k4, v4 = (t.reshape(x, (b, keys, groups, size)) for x in (k, v))
    scores = t.contract("bigrd,bjgd->bgrij", q5, k4)
    rest = iter(others)
    mask = None if op.mask is None else t.reshape(next(rest), (b, 1, 1, 1, keys))
    bias = None if op.bias is None else _by_group(t, next(rest), groups, shared)

    def masked(s: Scalars, score: SSAValue, *given: SSAValue) -> SSAValue:
        values = iter(given)
        score = s.mul(score, s.like(scale, score))
        if bias is not None:
            score = s.add(score, next(values))
        seen: SSAValue | None = None if mask is None else s.truth(next(values))
        if op.causal is not None:
            past = s.compare("ge", s.index(3), s.index(4))
            seen = past if seen is None else s.logic(arith.AndIOp, seen, past)
        return score if seen is None else s.select(seen, score, s.like(lowest(element), score))

    added = [value for value in (bias, mask) if value is not None]
    scores = t.elementwise([scores, *added], element, masked)
    guarded = mask is not None or op.causal is not None
    floor = least_finite(element) if guarded else lowest(element)  # a row without keys stays finite
    top = t.reduce(scores, [4], floor, lambda s, a, m: s.maximum(a, m), keep=True)
    e = t.elementwise([scores, top], element, lambda s, a, m: s.exp(s.sub(a, m)))
    total = t.reduce(e, [4], 0, lambda s, a, c: s.add(a, c), keep=True)
    tiny = float(np.finfo(np.float32).tiny)

    def divided(s: Scalars, a: SSAValue, n: SSAValue) -> SSAValue:
        return s.div(a, s.maximum(n, s.like(tiny, n)) if guarded else n)

    context = t.contract("bgrij,bjgd->bigrd", t.elementwise([e, total], element, divided), v4)
    return t.reshape(context, (b, queries, features))


def _by_group(t: Tensors, bias: SSAValue, groups: int, shared: int) -> SSAValue:
    """A bias, which broadcasts to batch x heads x queries x keys, with its heads as groups x neighbours."""
    shape = (1,) * (4 - len(nn.shape_of(bias))) + nn.shape_of(bias)
    split = (groups, shared) if shape[1] != 1 else (1, 1)
    return t.reshape(bias, (shape[0], *split, *shape[2:]))
