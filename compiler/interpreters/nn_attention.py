"""Meaning of attention, in fp32 and in integers, and of what decoder blocks do to heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from compiler.dialects import nn
from compiler.interpreters.evaluate import Array, meaning_of
from compiler.interpreters.nn_float import softmax
from compiler.weights import WeightStore
from hw_targets import decoder_numerics, numerics, streaming_softmax


@dataclass(frozen=True)
class Heads:
    """How attention is split: heads of q, heads of k and v, the scale of the scores, whether it is causal."""

    heads: int
    groups: int
    scale: float
    causal: bool = False

    @classmethod
    def of(cls, op: nn.AttentionOp | nn.QAttentionOp) -> Heads:
        return cls(op.heads.value.data, op.groups, op.scale.value.data, op.causal is not None)


SCORES_AT_ONCE = 1 << 24
"""Scores of one head or more that are computed together; longer sequences go by blocks of their queries."""


def blocks(queries: int, scores_of_a_query: int) -> Iterator[slice]:
    """Slices of the queries with at most SCORES_AT_ONCE scores each, at least one query."""
    step = max(SCORES_AT_ONCE // max(scores_of_a_query, 1), 1)
    return (slice(start, min(start + step, queries)) for start in range(0, queries, step))


def by_head(x: Array, heads: int) -> Array:
    """[heads, s, size] of [s, heads * size]."""
    return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


def attend(q: Array, k: Array, v: Array, mask: Array | None, bias: Array | None, heads: Heads) -> Array:
    """Multi-head attention on [b, s, d] arrays in fp32, the bias of rank 4. A row without a key that mask and causality
    leave gives 0."""
    result = np.empty(q.shape, np.float32)
    for rows in blocks(q.shape[1], q.shape[0] * heads.heads * k.shape[1]):
        part = bias if bias is None or bias.shape[2] == 1 else bias[:, :, rows]
        result[:, rows] = _attend(q[:, rows], k, v, mask, part, heads, rows.start)
    return result


def _attend(q: Array, k: Array, v: Array, mask: Array | None, bias: Array | None, heads: Heads, first: int) -> Array:
    """The queries from number `first` on."""

    def split(x: Array, count: int) -> Array:
        return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)

    def shared(x: Array) -> Array:
        return np.repeat(split(x, heads.groups), heads.heads // heads.groups, axis=1)

    scores = np.matmul(split(q, heads.heads), shared(k).transpose(0, 1, 3, 2)) * np.float32(heads.scale)
    seen = np.tri(q.shape[1], k.shape[1], first, dtype=np.bool_) if heads.causal else np.ones((1, 1), np.bool_)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        seen = seen & (mask != 0)[:, None, None, :]
    if not seen.all() or mask is not None:
        scores = np.where(seen, scores, np.float32(-np.inf))
        top = np.maximum(scores.max(axis=-1, keepdims=True), np.float32(np.finfo(np.float32).min))
        e = np.exp(scores - top)
        p = e / np.maximum(e.sum(axis=-1, keepdims=True), np.float32(np.finfo(np.float32).tiny))
    else:
        p = softmax(scores, -1)
    return np.matmul(p, shared(v)).transpose(0, 2, 1, 3).reshape(q.shape)


@meaning_of(nn.AttentionOp)
def _attention(op: nn.AttentionOp, args: list[Array], store: WeightStore) -> list[Array]:
    q, k, v, *others = args
    mask, bias = mask_and_bias(op, others)
    return [attend(q, k, v, mask, bias, Heads.of(op)).astype(np.float32, copy=False)]


def mask_and_bias(op: nn.AttentionOp | nn.QAttentionOp, arguments: list[Array]) -> tuple[Array | None, Array | None]:
    """The arguments behind q, k and v by what they are; the bias as [sequences, heads, queries, keys], 1 where the same."""
    others = list(arguments)
    mask = None if op.mask is None else others.pop(0)
    return mask, None if op.bias is None else others.pop(0).reshape(op.bias_extents)


@meaning_of(nn.RmsNormOp)
def _rms_norm(op: nn.RmsNormOp, args: list[Array], store: WeightStore) -> list[Array]:
    x, gamma = args
    groups = x.reshape(*x.shape[:-1], -1, op.group)
    root = np.sqrt(np.square(groups).mean(axis=-1, keepdims=True) + np.float32(op.eps.value.data))
    return [(groups / root * gamma).reshape(x.shape)]


@meaning_of(nn.RotaryOp)
def _rotary(op: nn.RotaryOp, args: list[Array], store: WeightStore) -> list[Array]:
    x, table = args
    half, interleaved = op.turned // 2, op.interleaved is not None
    cosine, sine = table[:, None, :half], table[:, None, half:]
    result = x.reshape(*x.shape[:2], -1, op.head_size.value.data).copy()
    first, second = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if interleaved else (slice(half), slice(half, 2 * half))
    a, b = result[..., first].copy(), result[..., second].copy()
    result[..., first] = a * cosine - b * sine
    result[..., second] = b * cosine + a * sine
    return [result.reshape(x.shape)]


# ---- in integers ----------------------------------------------------------------------------------------------------


@meaning_of(nn.RmsNormOp, bf16=True)
def _rms_norm_bf16(op: nn.RmsNormOp, args: list[Array], store: WeightStore) -> list[Array]:
    x, gamma = args
    return [decoder_numerics.rms_norm(x.reshape(-1, x.shape[-1]), gamma, op.eps.value.data).reshape(x.shape)]


@meaning_of(nn.RotaryOp, bf16=True)
def _rotary_bf16(op: nn.RotaryOp, args: list[Array], store: WeightStore) -> list[Array]:
    """Every sequence of the batch begins at the table's first row."""
    x, table = args
    size, interleaved = op.head_size.value.data, op.interleaved is not None
    turned = [decoder_numerics.rotate(sequence, table, size, interleaved=interleaved) for sequence in x]
    return [np.stack(turned)]


@meaning_of(nn.QAttentionOp)
def _qattention(op: nn.QAttentionOp, args: list[Array], store: WeightStore) -> list[Array]:
    """Per sequence, all heads together. The contexts are bf16 values already: the cast keeps them."""
    q, q_scale, k, k_scale, v, v_scale, *others = args
    split = Heads.of(op)
    mask, bias = mask_and_bias(op, others)
    queries, keys = q.shape[1], k.shape[1]
    additive = None
    if bias is not None:
        additive = np.broadcast_to(bias, (q.shape[0], split.heads, queries, keys))
    integer_softmax = numerics.softmax
    if op.streaming is not None:
        integer_softmax = partial(streaming_softmax.softmax, shift=op.streaming.value.data)
    group = np.arange(split.heads) * split.groups // split.heads
    result = np.empty(q.shape, np.float32)
    for b in range(q.shape[0]):
        shared, values = by_head(k[b], split.groups)[group], by_head(v[b], split.groups)[group]
        for rows in blocks(queries, split.heads * keys):
            p, total = integer_softmax(
                numerics.matmul_i32(by_head(q[b, rows], split.heads), shared),
                q_scale[b, rows].T,
                k_scale[b].T[group],
                split.scale,
                None if mask is None else mask[b],
                None if additive is None else additive[b, :, rows],
                causal=split.causal,
                later=queries - rows.stop,
            )
            acc = numerics.matmul_i32(p, values.transpose(0, 2, 1))
            found = numerics.context(acc, total, v_scale[b, 0, group])
            result[b, rows] = found.transpose(1, 0, 2).reshape(-1, q.shape[2])
    return [result]
