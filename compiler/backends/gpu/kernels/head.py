import os
import sys
from pathlib import Path

import numpy as np
import torch
import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
# The interpreter has no bf16 arithmetic: there, products of bf16 are products of the same values in fp32.


# ---- what kernels share ----------------------------------------------------------------------------------------------


@triton.jit
def activated(y, ACTIVATION: tl.constexpr):
    """An activation of fp32 values."""
    if ACTIVATION == "gelu":
        y = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    elif ACTIVATION == "tanh":
        y = 2.0 * tl.sigmoid(2.0 * y) - 1.0
    elif ACTIVATION == "relu":
        y = tl.maximum(y, 0.0)
    elif ACTIVATION == "gelu_tanh":
        y = y * tl.sigmoid(1.5957691216057308 * (y + 0.044715 * y * y * y))
    elif ACTIVATION == "quick_gelu":
        y = y * tl.sigmoid(1.702 * y)
    elif ACTIVATION == "silu":
        y = y * tl.sigmoid(y)
    return y


@triton.jit
def finish(
    sums,
    row_scales,
    token_scales,
    bias,
    residual,
    out,
    tiles,
    tile,
    tokens,
    inside,
    columns,
    ROWS: tl.constexpr,
    IN_BYTES: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Scale, bias, residual and activation of a tile of sums, stored where `tiles` says; its last rows may be padding."""
    row = tl.arange(0, ROWS)
    y = sums.to(tl.float32)
    if IN_BYTES:
        scale = tl.load(token_scales + tokens, mask=inside, other=0.0)
        y = y * (tl.load(row_scales + tile * ROWS + row)[:, None] * scale[None, :])
    y += tl.load(bias + tile * ROWS + row)[:, None]
    place = tl.load(tiles + 4 * tile + 2).to(tl.int64) + row
    kept = (row < tl.load(tiles + 4 * tile + 3))[:, None] & inside[None, :]
    at = place[:, None] * columns + tokens[None, :]
    if RESIDUAL:
        own = (tile * ROWS + row).to(tl.int64)[:, None] * columns + tokens[None, :]
        y += tl.load(residual + own, mask=kept, other=0.0).to(tl.float32)
    if ACTIVATION != "none":
        y = activated(y, ACTIVATION)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=kept)
