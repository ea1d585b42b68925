"""Meaning of attention, in fp32 and in integers, and of what decoder blocks do to heads."""

from __future__ import annotations

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


def attend(q: Array, k: Array, v: Array, mask: Array | None, heads: Heads, kind: str | None) -> Array:
    """Multi-head attention on [b, s, d] arrays in fp32. A row with no key left gives 0 if only booleans mask it."""

    def split(x: Array, count: int) -> Array:
        return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)

    def shared(x: Array) -> Array:
        return np.repeat(split(x, heads.groups), heads.heads // heads.groups, axis=1)

    scores = np.matmul(split(q, heads.heads), shared(k).transpose(0, 1, 3, 2)) * np.float32(heads.scale)
    seen = np.tri(q.shape[1], k.shape[1], dtype=np.bool_) if heads.causal else np.ones((1, 1), np.bool_)
    if mask is not None and kind == "boolean":
        seen = seen & (mask != 0)[:, None, None, :]
    elif mask is not None:
        scores = scores + mask
    if not seen.all() or kind == "boolean":
        scores = np.where(seen, scores, np.float32(-np.inf))
        top = np.maximum(scores.max(axis=-1, keepdims=True), np.float32(np.finfo(np.float32).min))
        e = np.exp(scores - top)
        p = e / np.maximum(e.sum(axis=-1, keepdims=True), np.float32(np.finfo(np.float32).tiny))
    else:
        p = softmax(scores, -1)
    return np.matmul(p, shared(v)).transpose(0, 2, 1, 3).reshape(q.shape)


@meaning_of(nn.AttentionOp)
def _attention(op: nn.AttentionOp, args: list[Array], store: WeightStore) -> list[Array]:
    q, k, v, *mask = args
    kind = None if op.mask_kind is None else op.mask_kind.data
    return [attend(q, k, v, mask[0] if mask else None, Heads.of(op), kind).astype(np.float32, copy=False)]


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
    """Per sequence and head, on [s, d / heads] slices. The contexts are bf16 values already: the cast keeps them."""
    q, q_scale, k, k_scale, v, v_scale, *masks = args
    split = Heads.of(op)
    boolean = op.mask_kind is not None and op.mask_kind.data == "boolean"
    additive = None
    if masks and not boolean:
        additive = np.broadcast_to(masks[0], (q.shape[0], split.heads, q.shape[1], k.shape[1]))
    integer_softmax = (
        numerics.softmax if op.streaming is None else partial(streaming_softmax.softmax, shift=op.streaming.value.data)
    )
    size = q.shape[2] // split.heads
    result = np.empty(q.shape, np.float32)
    for b in range(q.shape[0]):
        for h in range(split.heads):
            group = h * split.groups // split.heads
            part, shared = slice(h * size, (h + 1) * size), slice(group * size, (group + 1) * size)
            p, total = integer_softmax(
                numerics.matmul_i32(q[b, :, part], k[b, :, shared]),
                q_scale[b, :, h],
                k_scale[b, :, group],
                split.scale,
                masks[0][b] if masks and boolean else None,
                None if additive is None else additive[b, h],
                causal=split.causal,
            )
            acc = numerics.matmul_i32(p, v[b, :, shared].T)
            result[b, :, part] = numerics.context(acc, total, v_scale[b, 0, group])
    return [result]
