"""Meaning of the integer module. Every number comes from hw_targets.numerics: the simulator agrees to the bit."""

from __future__ import annotations

import numpy as np

from compiler.dialects import nn
from compiler.interpreters.evaluate import Array, meaning_of
from compiler.interpreters.nn_attention import by_head
from compiler.weights import WeightStore
from hw_targets import activations, decoder_numerics, numerics


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


@meaning_of(nn.WeightOp, bf16=True)
def _weight(op: nn.WeightOp, args: list[Array], store: WeightStore) -> list[Array]:
    """A bf16 table as it is stored: its users gather rows, widening all of it would cost more than a layer."""
    return [store.get(op.key.data)]


@meaning_of(nn.CastOp, bf16=True)
def _cast(op: nn.CastOp, args: list[Array], store: WeightStore) -> list[Array]:
    """fp32 to bf16 rounds (and flushes); bf16 to fp32 changes nothing."""
    return [numerics.bf16(args[0])]


@meaning_of(nn.EmbeddingOp, bf16=True)
def _embedding(op: nn.EmbeddingOp, args: list[Array], store: WeightStore) -> list[Array]:
    count = len(op.ids)
    shape = nn.shape_of(op.result)
    rows = [
        np.broadcast_to(table[np.asarray(ids)].astype(np.float32), shape)
        for ids, table in zip(args[:count], args[count:], strict=True)
    ]
    return [numerics.embed(np.stack(rows).reshape(count, -1, shape[-1])).reshape(shape)]


@meaning_of(nn.LayerNormOp, bf16=True)
def _layer_norm(op: nn.LayerNormOp, args: list[Array], store: WeightStore) -> list[Array]:
    x, gamma, beta = args
    return [numerics.layer_norm(_rows(x), gamma, beta, op.eps.value.data).reshape(x.shape)]


@meaning_of(nn.ActivationOp, bf16=True)
def _activation(op: nn.ActivationOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [activations.ACTIVATIONS[op.kind.data.value](args[0])]


@meaning_of(nn.MeanPoolOp, bf16=True)
def _mean_pool(op: nn.MeanPoolOp, args: list[Array], store: WeightStore) -> list[Array]:
    x, mask = args
    minimum = op.minimum.value.data
    return [np.stack([numerics.mean_pool(rows, attended, minimum) for rows, attended in zip(x, mask, strict=True)])]


@meaning_of(nn.ConcatOp, bf16=True)
def _concat(op: nn.ConcatOp, args: list[Array], store: WeightStore) -> list[Array]:
    return [np.concatenate([part.astype(np.float32, copy=False) for part in args], axis=op.axis.value.data)]


@meaning_of(nn.QuantizeOp)
def _quantize(op: nn.QuantizeOp, args: list[Array], store: WeightStore) -> list[Array]:
    x = args[0]
    if op.granularity.data is nn.Granularity.SEQUENCE_HEAD:
        return _quantize_values(x, args[1] if len(args) > 1 else None, op.groups)
    smooth = args[1] if op.smooth is not None else None
    codes, scale = numerics.quantize_rows(_rows(x), x.shape[-1] // op.groups, smooth)
    return [codes.reshape(x.shape), scale.reshape(*x.shape[:-1], op.groups)]


def _quantize_values(x: Array, mask: Array | None, heads: int) -> list[Array]:
    """V [b, s, d]: one scale per sequence and head, [b, 1, heads]."""
    codes = np.empty(x.shape, np.int8)
    scale = np.empty((x.shape[0], 1, heads), np.float32)
    for b, sequence in enumerate(x):
        found, scale[b, 0] = numerics.quantize_columns(by_head(sequence, heads), None if mask is None else mask[b])
        codes[b] = found.transpose(1, 0, 2).reshape(sequence.shape)
    return [codes, scale]


@meaning_of(nn.QLinearOp)
def _qlinear(op: nn.QLinearOp, args: list[Array], store: WeightStore) -> list[Array]:
    codes, row_scale, weight, weight_scale, *rest = args
    bias = rest.pop(0) if op.bias is not None else None
    residual = _rows(rest.pop(0)) if op.residual is not None else None
    gate = _rows(rest.pop(0)) if op.gate is not None else None
    acc = numerics.matmul_i32(_rows(codes), weight)
    y = numerics.finish(acc, row_scale.reshape(-1), weight_scale, bias, residual)
    if gate is not None:
        y = decoder_numerics.gated(y, gate)
    return [y.reshape(*codes.shape[:-1], -1)]
