"""The activations of `vector.finish`, to the bit: parabolas on 128 segments, told by docs/NUMERICS.md, which is normative.

Every function has a *specified form* (`*_piecewise`) and a table of it over all bf16 numbers, which is what is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import cache

import numpy as np

from hw_targets.numerics import F32, AnyArray, bf16, bf16_from_bits, ftz

SEGMENTS = 128
GELU_LIMIT = 8
SIGMOID_LIMIT = 16
TANH_LIMIT = 4
_DIGITS = 60
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")


def round_to_f32(value: Fraction) -> np.float32:
    """The fp32 number nearest to an exact rational, ties to even, flushed."""
    if abs(value) < Fraction(2) ** -126:
        return np.float32(0)
    exponent = abs(value).numerator.bit_length() - abs(value).denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (exponent - 23)
    return np.float32(float(round(value / unit) * unit))


def _normal_tail_product(a: Decimal) -> Decimal:
    """h(a) = a * (1 - Phi(a)) for a >= 0, Phi the normal distribution, from erf's power series."""
    z = a / Decimal(2).sqrt()
    term, total, n = z, z, 0
    while abs(term) > Decimal(10) ** -50:
        n += 1
        term = -term * z * z / n
        total += term / (2 * n + 1)
    return a * (1 - 2 * total / _PI.sqrt()) / 2


def _gelu_tanh_tail(a: Decimal) -> Decimal:
    """a (1 - (1 + tanh u) / 2) = a / (1 + e^(2 u)) with u = sqrt(2 / pi) (a + 0.044715 a^3)."""
    u = (2 / _PI).sqrt() * (a + Decimal("0.044715") * a**3)
    return a / (1 + (2 * u).exp())


def _quick_gelu_tail(a: Decimal) -> Decimal:
    return a / (1 + (Decimal("1.702") * a).exp())


def _silu_tail(a: Decimal) -> Decimal:
    return a / (1 + a.exp())


def _tanh_exact(a: Decimal) -> Decimal:
    grown = (2 * a).exp()
    return (grown - 1) / (grown + 1)


def _quadratics(function: Callable[[Decimal], Decimal], limit: int) -> F32:
    """Coefficients [SEGMENTS, 3] (c0, c1, c2) of the parabola through both ends and the middle of each segment."""
    with localcontext(Context(prec=_DIGITS)):
        half = Decimal(limit) / (2 * SEGMENTS)
        points = [Fraction(function(half * i)) for i in range(2 * SEGMENTS + 1)]
    width = Fraction(limit, SEGMENTS)
    table = np.zeros((SEGMENTS, 3), np.float32)
    for i in range(SEGMENTS):
        left, middle, right = points[2 * i : 2 * i + 3]
        table[i, 0] = round_to_f32(left)
        table[i, 1] = round_to_f32((4 * middle - 3 * left - right) / width)
        table[i, 2] = round_to_f32((2 * left + 2 * right - 4 * middle) / (width * width))
    table.flags.writeable = False
    return table


@cache
def gelu_coefficients() -> F32:
    """[128, 3] for h(a) = a * (1 - Phi(a)) on [0, 8): gelu(x) = relu(x) - h(|x|)."""
    return _quadratics(_normal_tail_product, GELU_LIMIT)


@cache
def gelu_tanh_coefficients() -> F32:
    """[128, 3] for h(a) = a - gelu_tanh(a) on [0, 8)."""
    return _quadratics(_gelu_tanh_tail, GELU_LIMIT)


@cache
def quick_gelu_coefficients() -> F32:
    """[128, 3] for h(a) = a (1 - sigmoid(1.702 a)) on [0, 16)."""
    return _quadratics(_quick_gelu_tail, SIGMOID_LIMIT)


@cache
def silu_coefficients() -> F32:
    """[128, 3] for h(a) = a (1 - sigmoid(a)) on [0, 16)."""
    return _quadratics(_silu_tail, SIGMOID_LIMIT)


@cache
def tanh_coefficients() -> F32:
    """[128, 3] for tanh on [0, 4)."""
    return _quadratics(_tanh_exact, TANH_LIMIT)


def _piecewise(a: F32, coefficients: F32, limit: int) -> F32:
    """((c2 * t) + c1) * t + c0 for 0 <= a < limit, t = a - the left end of a's segment."""
    per_unit = np.float32(SEGMENTS // limit)
    segment = np.floor(a * per_unit)
    t = a - segment / per_unit
    c0, c1, c2 = coefficients[segment.astype(np.intp)].T
    slope = ftz(ftz(c2 * t) + c1)
    return ftz(ftz(slope * t) + c0)


def _gated(x: AnyArray, coefficients: F32, limit: int) -> F32:
    """relu(x) - h(|x|): every x g(x) with g(-x) = 1 - g(x), from the tail h(a) = a (1 - g(a)), +0 from `limit` on."""
    value = np.asarray(x, np.float32)
    magnitude = np.abs(value)
    inside = magnitude < limit
    tail = np.where(inside, _piecewise(np.where(inside, magnitude, 0), coefficients, limit), 0)
    return bf16(relu(value) - tail)


def gelu_piecewise(x: AnyArray) -> F32:
    """The specified form of gelu on bf16 values, bf16 result: what the tables hold."""
    return _gated(x, gelu_coefficients(), GELU_LIMIT)


def gelu_tanh_piecewise(x: AnyArray) -> F32:
    """The specified form of gelu by tanh on bf16 values, bf16 result."""
    return _gated(x, gelu_tanh_coefficients(), GELU_LIMIT)


def quick_gelu_piecewise(x: AnyArray) -> F32:
    """The specified form of x sigmoid(1.702 x) on bf16 values, bf16 result."""
    return _gated(x, quick_gelu_coefficients(), SIGMOID_LIMIT)


def silu_piecewise(x: AnyArray) -> F32:
    """The specified form of x sigmoid(x) on bf16 values, bf16 result."""
    return _gated(x, silu_coefficients(), SIGMOID_LIMIT)


def tanh_piecewise(x: AnyArray) -> F32:
    """The specified form of tanh on bf16 values, bf16 result: what the tables hold."""
    value = np.asarray(x, np.float32)
    magnitude = np.abs(value)
    inside = magnitude < TANH_LIMIT
    size = np.where(inside, _piecewise(np.where(inside, magnitude, 0), tanh_coefficients(), TANH_LIMIT), 1)
    return bf16(np.where(np.isnan(value), value, np.copysign(size, value)))


def relu(x: AnyArray) -> F32:
    """max(x, +0); NaN stays NaN."""
    value = np.asarray(x, np.float32)
    return np.where(value <= 0, np.float32(0), value)


def _all_bf16() -> F32:
    return bf16_from_bits(np.arange(65536, dtype=np.uint32).astype(np.uint16))


@cache
def _table(piecewise: Callable[[AnyArray], F32]) -> F32:
    """An activation of every bf16 argument, indexed by its encoding."""
    return piecewise(bf16(_all_bf16()))


def _look_up(table: F32, x: AnyArray) -> F32:
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32) >> np.uint32(16)
    return table[bits].reshape(np.shape(x))


def gelu(x: AnyArray) -> F32:
    """GELU (by erf) of bf16 values, bf16 result."""
    return _look_up(_table(gelu_piecewise), x)


def tanh(x: AnyArray) -> F32:
    """tanh of bf16 values, bf16 result."""
    return _look_up(_table(tanh_piecewise), x)


def gelu_tanh(x: AnyArray) -> F32:
    """GELU by tanh of bf16 values, bf16 result."""
    return _look_up(_table(gelu_tanh_piecewise), x)


def quick_gelu(x: AnyArray) -> F32:
    """x sigmoid(1.702 x) of bf16 values, bf16 result."""
    return _look_up(_table(quick_gelu_piecewise), x)


def silu(x: AnyArray) -> F32:
    """x sigmoid(x) of bf16 values, bf16 result."""
    return _look_up(_table(silu_piecewise), x)


ACTIVATIONS: Mapping[str, Callable[[AnyArray], F32]] = {
    "gelu": gelu,
    "tanh": tanh,
    "relu": relu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "silu": silu,
}
"""The activations of `vector.finish` by their names in the instruction set."""
