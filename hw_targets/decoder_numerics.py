"""The arithmetic that decoder blocks add: RMS norms, rotary embeddings and gates.

To the bit, for interpreters and simulator alike; docs/NUMERICS.md is normative and hw_targets/numerics.py says what a
number is. No row depends on another one.
"""

from __future__ import annotations

import numpy as np

from hw_targets.numerics import F32, AnyArray, bf16, ftz, tree_sum


def rms_norm(y: AnyArray, gamma: AnyArray, eps: float) -> F32:
    """RMS normalisation of fp32 rows [R, C] in groups of len(gamma) columns, rounded to bf16.

    Per row and group: out = bf16((y * (1 / sqrt(tree(y * y) / f32(G) + eps))) * gamma).
    """
    scale = np.asarray(gamma, np.float32)
    rows = np.asarray(y, np.float32)
    source = rows.reshape(-1, len(scale))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        mean = ftz(tree_sum(ftz(source * source)) / np.float32(len(scale)))
        inverse = ftz(np.float32(1) / np.sqrt(ftz(mean + np.float32(eps))))
        return bf16(ftz(source * inverse[:, None]) * scale).reshape(rows.shape)


def rotate(x: AnyArray, table: AnyArray, group: int, *, interleaved: bool) -> F32:
    """Rotary embedding of bf16 values [R, C], rounded to bf16: the first n columns of every group of `group` turn.

    `table` [R, n] holds n / 2 cosines, then n / 2 sines (f32). Pair i is the columns i and i + n / 2 of a group, or 2 i and
    2 i + 1 if `interleaved`: (a, b) becomes (a c - b s, b c + a s), each operation rounded on its own.
    """
    rows, cols = np.shape(x)
    angles = np.asarray(table, np.float32)
    half = angles.shape[1] // 2
    cosine, sine = angles[:, None, :half], angles[:, None, half:]
    result = np.array(x, np.float32).reshape(rows, cols // group, group)
    first, second = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if interleaved else (slice(half), slice(half, 2 * half))
    with np.errstate(over="ignore", invalid="ignore"):
        a, b = result[..., first].copy(), result[..., second].copy()
        result[..., first] = bf16(ftz(a * cosine) - ftz(b * sine))
        result[..., second] = bf16(ftz(b * cosine) + ftz(a * sine))
    return result.reshape(rows, cols)


def gated(y: AnyArray, gate: AnyArray) -> F32:
    """fp32 [R, C] times a bf16 gate [R, C], one operation."""
    with np.errstate(over="ignore", invalid="ignore"):
        return ftz(np.asarray(y, np.float32) * np.asarray(gate, np.float32))
