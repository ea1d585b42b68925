"""The torch meaning of attention and of what decoder blocks do to heads: interpreters/nn_attention.py, with gradients."""

# torch is an optional dependency, so a type checker may not find it.
# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch

from compiler.dialects import nn

Tensor = Any


def _seen(op: nn.AttentionOp, queries: int, keys: int, mask: Tensor | None) -> Tensor | None:
    """Which scores count, broadcast to [b, heads, queries, keys]; None for all."""
    seen = torch.ones((queries, keys), dtype=torch.bool).tril() if op.causal is not None else None
    if mask is None:
        return seen
    attended = (mask != 0)[:, None, None, :]
    return attended if seen is None else seen & attended


def attention(op: nn.AttentionOp, args: list[Tensor]) -> Tensor:
    """Multi-head attention on [b, s, d]. A row with no key left gives 0 unless only a bias masks it."""
    q, k, v, *others = args
    mask = others.pop(0) if op.mask is not None else None
    heads, groups = op.heads.value.data, op.groups

    def split(x: Tensor, count: int) -> Tensor:
        return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)

    def shared(x: Tensor) -> Tensor:
        return split(x, groups) if groups == heads else split(x, groups).repeat_interleave(heads // groups, dim=1)

    scores = split(q, heads) @ shared(k).transpose(-1, -2) * op.scale.value.data
    if op.bias is not None:
        scores = scores + others.pop(0).reshape(op.bias_extents)
    seen = _seen(op, q.shape[1], k.shape[1], mask)
    if seen is None:
        p = torch.softmax(scores, -1)
    else:
        p = torch.softmax(scores.masked_fill(~seen, torch.finfo(scores.dtype).min), -1)
        p = torch.where(seen.any(-1, keepdim=True), p, torch.zeros((), dtype=p.dtype))
    return (p @ shared(v)).transpose(1, 2).reshape(q.shape)


def rms_norm(op: nn.RmsNormOp, args: list[Tensor]) -> Tensor:
    x, gamma = args
    groups = x.reshape(*x.shape[:-1], -1, op.group)
    root = torch.sqrt(groups.square().mean(-1, keepdim=True) + op.eps.value.data)
    return (groups / root * gamma).reshape(x.shape)


def rotary(op: nn.RotaryOp, args: list[Tensor]) -> Tensor:
    x, table = args
    half = op.turned // 2
    cosine, sine = table[:, None, :half], table[:, None, half:]
    heads = x.reshape(*x.shape[:2], -1, op.head_size.value.data)
    turned, rest = heads[..., : 2 * half], heads[..., 2 * half :]
    if op.interleaved is not None:
        a, b = turned[..., 0::2], turned[..., 1::2]
        pairs = torch.stack((a * cosine - b * sine, b * cosine + a * sine), -1).flatten(-2)
    else:
        a, b = turned[..., :half], turned[..., half:]
        pairs = torch.cat((a * cosine - b * sine, b * cosine + a * sine), -1)
    return torch.cat((pairs, rest), -1).reshape(x.shape)
