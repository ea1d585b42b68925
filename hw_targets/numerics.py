"""The arithmetic of the accelerator, to the bit, for interpreters and simulator (docs/NUMERICS.md is normative).

It knows numpy and nothing else of this project; the activations stand in activations.py. Floats are float32, every
operation is rounded to nearest even on its own and then flushed: a result of magnitude below 2^-126 (zeros too) becomes
+0. bf16 values travel as float32 arrays holding bf16-representable numbers. Rows come first, and no row depends on another
one except in `quantize_columns` and `mean_pool`, which see a whole sequence: splitting rows changes no bit.
"""

from __future__ import annotations

from decimal import Context, Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
I32 = NDArray[np.int32]
AnyArray = NDArray[Any]

TINY = np.float32(2.0**-126)
"""The smallest normal number: results below it are flushed to +0."""
ABSMAX_FLOOR = np.float32(2.0**-100)
"""A group whose absolute maximum is below this counts as all zero."""
CODE_MAX = 127
NARROW_KEYS = 512
"""Keys of one softmax row up to which a probability is one byte: with more of them too much of the mass rounds away."""
MAX_KEYS = 32768
"""Keys of one softmax row up to which the integer sum of two-byte probabilities fits an int32."""
GRID = np.float32(2.0**-103)
"""Sums of numbers that are each 0 or at least this large are multiples of 2^-126: no sum of them needs a flush."""

_BF16_MAX = np.float32(3.3895313892515355e38)
_LOG2E_256 = np.uint32(0x43B8AA3B).view(np.float32)
_T_MAX = 4095
"""Where the exponential of one byte ends: p = 0."""
_T_MAX_WIDE = 4352
"""Where that of two bytes ends: 2^-17 of the row's largest, p = 0."""


# ---- rounding -------------------------------------------------------------------------------------------------------


def _flush(x: F32) -> F32:
    """Flush in place. Most arrays hold nothing to flush, and the test is a fraction of the operation before it."""
    small = np.abs(x) < TINY
    if small.any():
        np.copyto(x, np.float32(0), where=small)
    return x


def ftz(x: AnyArray) -> F32:
    """float32 array with every magnitude below 2^-126 (zeros of either sign too) replaced by +0."""
    return _flush(np.array(x, dtype=np.float32))


def bf16(x: AnyArray) -> F32:
    """Flush, then round to nearest even to bfloat16; the result stays a float32 array. NaN becomes 0x7FC0."""
    source = np.ascontiguousarray(x, dtype=np.float32)
    bits = source.view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded &= np.uint32(0xFFFF0000)
    small = np.abs(source) < TINY
    if small.any():
        np.copyto(rounded, np.uint32(0), where=small)
    nans = np.isnan(source)
    if nans.any():
        np.copyto(rounded, np.uint32(0x7FC00000), where=nans)
    return rounded.view(np.float32).reshape(np.shape(x))


def bf16_bits(x: AnyArray) -> NDArray[np.uint16]:
    """The bfloat16 encoding of bf16(x)."""
    return (bf16(x).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def bf16_from_bits(bits: AnyArray) -> F32:
    """The float32 values of bfloat16 encodings, unchanged."""
    return (np.asarray(bits, dtype=np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


# ---- the tree -------------------------------------------------------------------------------------------------------


def _on_grid(x: F32) -> bool:
    """Whether every element is 0 or at least GRID in magnitude (NaN counts as not)."""
    magnitude = np.abs(x)
    return bool(((magnitude >= GRID) | (magnitude == 0)).all())


def tree_sum(x: AnyArray, axis: int = -1) -> F32:
    """Sum along `axis` by aligned pairs, (x0+x1)+(x2+x3)..., the length padded with +0 to a power of two."""
    level: F32 = np.moveaxis(np.asarray(x, dtype=np.float32), axis, -1)
    if level.shape[-1] == 0:
        return np.zeros(level.shape[:-1], np.float32)
    exact = _on_grid(level)
    while level.shape[-1] > 1:
        if level.shape[-1] % 2:
            # Padding an odd level pads the leaves: a pair of +0 sums to +0.
            level = np.concatenate([level, np.zeros((*level.shape[:-1], 1), np.float32)], axis=-1)
        level = np.add(level[..., ::2], level[..., 1::2], dtype=np.float32)
        if not exact:
            _flush(level)
    return np.array(level[..., 0], dtype=np.float32)


# ---- quantisers -----------------------------------------------------------------------------------------------------


def _finite(x: F32) -> F32:
    """Saturate: +-inf counts as the largest bf16 number, NaN as 0."""
    return np.nan_to_num(x, nan=0.0, posinf=float(_BF16_MAX), neginf=-float(_BF16_MAX))


def _codes(x: F32, absmax: F32) -> tuple[I8, F32]:
    """Codes of x and the scales; `absmax` broadcasts against x and is finite."""
    live = absmax >= ABSMAX_FLOOR
    safe = np.where(live, absmax, np.float32(1))
    scale = np.where(live, safe / np.float32(CODE_MAX), np.float32(1))
    inverse = np.where(live, np.float32(CODE_MAX) / safe, np.float32(0))
    with np.errstate(over="ignore"):
        steps = x * inverse
    np.rint(steps, out=steps)
    np.clip(steps, -CODE_MAX, CODE_MAX, out=steps)
    return steps.astype(np.int8), scale


def quantize_rows(x: AnyArray, group: int, smooth: AnyArray | None = None) -> tuple[I8, F32]:
    """int8 codes [R, C] and scales [R, C / group] of bf16 values [R, C], one scale per row and group of columns.

    scale = absmax / 127, codes = clip(rne(x * (127 / absmax)), -127, 127). `smooth` [C] multiplies the values first.
    """
    source = np.asarray(x, dtype=np.float32)
    if smooth is not None:
        with np.errstate(over="ignore"):
            source = _flush(_finite(source) * np.asarray(smooth, np.float32))
    rows, cols = source.shape
    grouped = source.reshape(rows, cols // group, group)
    absmax = np.maximum(grouped.max(axis=2), -grouped.min(axis=2))
    if not np.isfinite(absmax).all():
        grouped = _finite(grouped)
        absmax = np.abs(grouped).max(axis=2)
    codes, scale = _codes(grouped, absmax[:, :, None])
    return codes.reshape(rows, cols), scale[:, :, 0]


def _saturated(x: AnyArray) -> F32:
    """`_finite`, at the price of a test where there is nothing to do."""
    source = np.asarray(x, dtype=np.float32)
    return source if np.isfinite(source).all() else _finite(source)


def columns_absmax(x: AnyArray, mask: AnyArray | None = None) -> F32:
    """The largest magnitude [...] of bf16 values [..., R, C] in the unmasked rows; 0 if there is none."""
    source = _saturated(x)
    seen = source if mask is None else source[..., np.asarray(mask) != 0, :]
    zero = np.float32(0)
    return np.maximum(seen.max(axis=(-2, -1), initial=zero), -seen.min(axis=(-2, -1), initial=zero))


def quantize_columns(
    x: AnyArray, mask: AnyArray | None = None, absmax: AnyArray | np.float32 | None = None
) -> tuple[I8, F32]:
    """int8 codes [..., R, C] and one scale [...] for each matrix of bf16 values [..., R, C]; the absmax [...] is taken over
    the unmasked rows, unless it is given because there are more rows than these.

    Masked rows get codes as well (clipped: they may exceed the absmax); if all rows are masked, 0 and scale 1.
    """
    largest = np.asarray(columns_absmax(x, mask) if absmax is None else absmax, np.float32)
    codes, scale = _codes(_saturated(x), largest[..., None, None])
    return codes, scale[..., 0, 0]


def quantize_weights(w: AnyArray, tied_rows: int = 1) -> tuple[I8, F32]:
    """int8 codes [O, I] and scales [O] of finite fp32 weights [O, I]: the formula of `quantize_rows` on fp32 values.

    `tied_rows` consecutive rows (a tail of fewer) have one scale, that of the largest value of them all.
    """
    source = np.asarray(w, dtype=np.float32)
    absmax = np.maximum(source.max(axis=1), -source.min(axis=1))
    if tied_rows > 1:
        runs = np.maximum.reduceat(absmax, range(0, len(absmax), tied_rows))
        absmax = np.repeat(runs, tied_rows)[: len(absmax)]
    codes, scale = _codes(source, absmax[:, None])
    return codes, scale[:, 0]


# ---- MATRIX ---------------------------------------------------------------------------------------------------------


def matmul_i32(x: AnyArray, w: AnyArray) -> I32:
    """acc[..., r, o] = sum over k of x[..., r, k] * w[..., o, k], exact; x is int8 or uint8, w int8 (or its codes as
    float32, which saves their conversion).

    fp32 BLAS is exact while every partial sum stays below 2^24: 1,024 products of s8 x s8, 512 of u8 x s8.
    """
    chunk = 512 if x.dtype == np.uint8 else 1024
    size = x.shape[-1]
    total: I32 | None = None
    for start in range(0, max(size, 1), chunk):
        left = x[..., start : start + chunk].astype(np.float32)
        right = w[..., start : start + chunk].astype(np.float32, copy=False)
        part = np.matmul(left, np.swapaxes(right, -1, -2)).astype(np.int32)
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    return total


# ---- VECTOR ---------------------------------------------------------------------------------------------------------


def finish(acc: AnyArray, row_scale: AnyArray, col_scale: AnyArray, bias: AnyArray | None, residual: AnyArray | None) -> F32:
    """f32(acc) * (row_scale * col_scale) + bias + residual: acc i32 [R, C], scales f32 [R] and [C], to fp32 [R, C]."""
    scale = ftz(np.asarray(row_scale, np.float32)[:, None] * np.asarray(col_scale, np.float32))
    y = np.asarray(acc, np.int32).astype(np.float32)
    with np.errstate(over="ignore"):
        y *= scale
        # |acc| >= 1, so a product is 0 or at least its scale.
        exact = not scale.size or bool(scale.min() >= GRID)
        if not exact:
            _flush(y)
        for addend in (bias, residual):
            if addend is None:
                continue
            term = np.asarray(addend, np.float32)
            exact = exact and _on_grid(term)
            y += term
            if not exact:
                _flush(y)
    return y


def layer_norm(y: AnyArray, gamma: AnyArray, beta: AnyArray, eps: float) -> F32:
    """Layer normalisation of fp32 rows [R, C] in two passes over tree sums, rounded to bf16."""
    source = np.asarray(y, np.float32)
    count = np.float32(source.shape[1])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        mean = _flush(tree_sum(source) / count)
        centred = _flush(np.subtract(source, mean[:, None], dtype=np.float32))
        variance = _flush(tree_sum(_flush(centred * centred)) / count)
        root = np.sqrt(_flush(variance + np.float32(eps)))
        inverse = _flush(np.divide(np.float32(1), root, dtype=np.float32))
        centred *= inverse[:, None]
        _flush(centred)
        centred *= np.asarray(gamma, np.float32)
        _flush(centred)
        centred += np.asarray(beta, np.float32)
        return bf16(centred)


def attended_columns(
    shape: tuple[int, ...], mask: AnyArray | None, *, causal: bool, later: int = 0
) -> NDArray[np.bool_] | None:
    """Which columns each row attends to: [C], [R, C] if `causal`, None if all do. Column c of row r is causally masked
    where c > r + C - R - later, so that the last row sees all columns but those of `later` rows that follow these."""
    attended = None if mask is None else np.asarray(mask) != 0
    if not causal:
        return attended
    rows, cols = shape
    reach = np.tri(rows, cols, cols - rows - later, dtype=np.bool_)
    return reach if attended is None else reach & attended


def scores(acc: AnyArray, q_scale: AnyArray, k_scale: AnyArray, score_scale: float, additive: AnyArray | None = None) -> F32:
    """s = (f32(acc) * q_scale) * (k_scale * score_scale) (+ additive), fp32 [..., R, C] of score sums acc i32 [..., R, C].

    The scales are [..., R] and [..., C], `additive` broadcasts to acc. Nothing is flushed: it could only move a difference
    that rounds to T = 0 anyway.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        s = np.asarray(acc, np.int32).astype(np.float32)
        s *= np.asarray(q_scale, np.float32)[..., None]
        s *= np.asarray(k_scale, np.float32)[..., None, :] * np.float32(score_scale)
        if additive is not None:
            s += np.asarray(additive, np.float32)
    return s


def row_maximum(s: F32, attended: NDArray[np.bool_] | None = None, start: AnyArray | None = None) -> F32:
    """The maximum [..., R] of scores [..., R, C] over the attended columns and of `start`; -inf where there is nothing."""
    with np.errstate(invalid="ignore"):
        if attended is not None and attended.ndim == 2:
            maximum = s.max(axis=-1, initial=-np.inf, where=attended)
        else:
            maximum = (s if attended is None else s[..., attended]).max(axis=-1, initial=-np.inf)
        return maximum if start is None else np.maximum(maximum, start)


def _steps(s: F32, maximum: F32, most: int) -> NDArray[np.intp]:
    """T = min(max(rne((m - s) * 256 log2 e), 0), most); `s` is overwritten."""
    with np.errstate(over="ignore", invalid="ignore"):
        distance = np.subtract(maximum[..., None], s, out=s)
        distance *= _LOG2E_256
        np.rint(distance, out=distance)
        np.fmin(distance, np.float32(most), out=distance)
        # A masked score above the maximum gives a negative distance; its p is zeroed afterwards. Where the maximum is
        # not finite every distance is infinite or NaN, and fmin has made it `most`, whose p is 0.
        np.maximum(distance, np.float32(0), out=distance)
    return distance.astype(np.intp)


def probabilities(s: F32, maximum: F32, attended: NDArray[np.bool_] | None = None) -> U8:
    """p = round(255 * 2^(-T/256)) of scores [..., R, C], which are overwritten, and their row maxima; 0 where masked."""
    p = _narrow_table()[_steps(s, maximum, _T_MAX)]
    if attended is not None:
        p *= attended
    return p


def wide_probabilities(s: F32, maximum: F32, attended: NDArray[np.bool_] | None = None) -> U16:
    """p = round(65280 * 2^(-T/256)) of scores [..., R, C], which are overwritten, and their row maxima; 0 where masked."""
    p = _wide_table()[_steps(s, maximum, _T_MAX_WIDE)]
    if attended is not None:
        p *= attended
    return p


def high_and_low(p: U16) -> U8:
    """Both bytes of two-byte probabilities [..., R, C]: all high bytes, then all low ones, u8 [..., 2 R, C]."""
    return np.concatenate([p >> np.uint16(8), p & np.uint16(255)], axis=-2).astype(np.uint8)


def softmax(
    acc: AnyArray,
    q_scale: AnyArray,
    k_scale: AnyArray,
    score_scale: float,
    mask: AnyArray | None = None,
    additive: AnyArray | None = None,
    *,
    causal: bool = False,
    later: int = 0,
) -> tuple[U8, I32]:
    """Probabilities of score sums acc i32 [..., R, C] and their integer row sums l [..., R].

    Up to NARROW_KEYS columns p is u8 [..., R, C]; above it has two bytes, and `high_and_low` of them is returned. Masked
    columns (mask [C] = 0, and the future if `causal`) have p = 0 and do not enter the row maximum. A row whose maximum is
    not finite has p = 0 everywhere. `later` rows of the same sequence follow these, which `causal` counts. Raises
    ValueError for more than MAX_KEYS columns.
    """
    keys = acc.shape[-1]
    if keys > MAX_KEYS:
        raise ValueError(f"a softmax row of {keys} keys exceeds {MAX_KEYS}")
    s = scores(acc, q_scale, k_scale, score_scale, additive)
    attended = attended_columns(acc.shape[-2:], mask, causal=causal, later=later)
    maximum = row_maximum(s, attended)
    if keys <= NARROW_KEYS:
        p = probabilities(s, maximum, attended)
        return p, p.sum(axis=-1, dtype=np.int32)
    wide = wide_probabilities(s, maximum, attended)
    return high_and_low(wide), wide.sum(axis=-1, dtype=np.int32)


def context(acc: AnyArray, row_sum: AnyArray, v_scale: AnyArray | np.float32 | float) -> F32:
    """bf16 [..., R, C] = total * (v_scale / f32(row_sum)); a row with sum 0 gives +0. v_scale is [...], row_sum [..., R].

    acc is i32 [..., R, C], and total f32 of it; or [..., 2 R, C], the sums of the high and of the low bytes of
    probabilities, and total = f32(high) * 256 + f32(low).
    """
    sums = np.asarray(row_sum, np.int32)
    rows, live = sums.shape[-1], sums > 0
    numerator = np.asarray(v_scale, np.float32)[..., None]
    factor = np.where(live, numerator / np.where(live, sums, 1).astype(np.float32), np.float32(0))
    total = np.asarray(acc, np.int32).astype(np.float32)
    if total.shape[-2] != rows:
        total = total[..., :rows, :] * np.float32(256) + total[..., rows:, :]
    return bf16(total * ftz(factor)[..., None])


def embed(rows: AnyArray) -> F32:
    """fp32 sum of gathered bf16 table rows [T, R, C], in table order."""
    source = np.asarray(rows, np.float32)
    total = ftz(source[0])
    with np.errstate(over="ignore", invalid="ignore"):
        for i in range(1, len(source)):
            total += source[i]
            _flush(total)
    return total


def mean_pool(x: AnyArray, mask: AnyArray, minimum: float) -> F32:
    """fp32 [C]: tree sum over the unmasked rows of bf16 values [R, C], divided by max(their count, minimum)."""
    attended = np.asarray(mask) != 0
    kept = np.where(attended[:, None], np.asarray(x, np.float32), np.float32(0))
    count = max(np.float32(np.count_nonzero(attended)), np.float32(minimum))
    with np.errstate(over="ignore", invalid="ignore"):
        return _flush(tree_sum(kept, axis=0) / count)


# ---- the exponential ------------------------------------------------------------------------------------------------

_DIGITS = 60


@cache
def exp2_table() -> NDArray[np.uint16]:
    """[256]: round(255 * 256 * 2^(-f / 256)), the fraction part of the exponential."""
    with localcontext(Context(prec=_DIGITS)):
        step = Decimal(2)
        for _ in range(8):
            step = step.sqrt()
        entries = [int((65280 / step**f).to_integral_value()) for f in range(256)]
    return np.array(entries, np.uint16)


@cache
def _narrow_table() -> U8:
    """p for every T in 0..4095: (E[T mod 256] + 2^(i + 7)) >> (i + 8), i = T div 256."""
    t = np.arange(_T_MAX + 1)
    shift = t >> 8
    entry = exp2_table()[t & 255].astype(np.int64)
    return ((entry + (1 << (shift + 7))) >> (shift + 8)).astype(np.uint8)


@cache
def _wide_table() -> U16:
    """p for every T in 0..4352: (2 E[T mod 256] + 2^i) >> (i + 1), i = T div 256."""
    t = np.arange(_T_MAX_WIDE + 1)
    shift = t >> 8
    entry = exp2_table()[t & 255].astype(np.int64)
    return ((2 * entry + (1 << shift)) >> (shift + 1)).astype(np.uint16)
