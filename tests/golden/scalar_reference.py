"""docs/NUMERICS.md, one number at a time, in Python integers and fractions.

Written from that page alone, without numpy and without the code it checks. A number is a Fraction, or a Python float
for an infinity or NaN only; a matrix is a list of rows. Section numbers are those of the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from math import inf, isinf, isnan, isqrt, nan

Number = Fraction | float
Row = list[Number]
Matrix = list[Row]
ZERO = Fraction(0)
BF16_MAX = Fraction(255 * 2**120)


# ---- 1: numbers -----------------------------------------------------------------------------------------------------


def power(exponent: int) -> Fraction:
    return Fraction(2**exponent) if exponent >= 0 else Fraction(1, 2**-exponent)


def nearest_even(v: Fraction) -> int:
    """The integer nearest to v, ties to even."""
    floor, rest = divmod(v.numerator, v.denominator)
    twice = 2 * rest
    return floor + (twice > v.denominator or (twice == v.denominator and floor % 2 == 1))


def round_binary(v: Fraction, digits: int) -> Number:
    """Round to `digits` significant bits with the exponents of f32, without flush."""
    if v == 0:
        return ZERO
    magnitude = abs(v)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    while power(exponent) > magnitude:
        exponent -= 1
    while power(exponent + 1) <= magnitude:
        exponent += 1
    unit = power(max(exponent, -126) - digits + 1)
    rounded = nearest_even(v / unit) * unit
    if abs(rounded) >= power(128):
        return inf if v > 0 else -inf
    return rounded


def flush(v: Number) -> Number:
    return ZERO if abs(v) < power(-126) else v


def operation(v: Number) -> Number:
    """Finish one operation whose exact result is v."""
    return flush(round_binary(v, 24)) if isinstance(v, Fraction) else v


def bf16(v: Number) -> Number:
    v = flush(v)
    return flush(round_binary(v, 8)) if isinstance(v, Fraction) else v


def add(a: Number, b: Number) -> Number:
    return operation(a + b)


def sub(a: Number, b: Number) -> Number:
    return operation(a - b)


def mul(a: Number, b: Number) -> Number:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return operation(a * b)
    if a == 0 or b == 0:
        return nan
    return float(sign(a) * sign(b)) * inf


def div(a: Number, b: Number) -> Number:
    if isnan(a) or isnan(b) or (isinf(a) and isinf(b)) or (a == 0 and b == 0):
        return nan
    if isinf(b):
        return ZERO
    if isinf(a) or b == 0:
        return inf * sign(a) * (sign(b) if b else 1)
    return operation(Fraction(a) / Fraction(b))


def sign(v: Number) -> float:
    return nan if isnan(v) else float(v > 0) - float(v < 0)


def root(v: Number) -> Number:
    """Square root, rounded once: 26 exact bits and a sticky one decide the rounding to 24."""
    if not isinstance(v, Fraction):
        return v if v > 0 else nan
    if v < 0:
        return nan
    if v == 0:
        return ZERO
    shift = 0
    while v * power(2 * shift) < power(60):
        shift += 1
    while v * power(2 * shift) >= power(62):
        shift -= 1
    scaled = v * power(2 * shift)
    whole = isqrt(scaled.numerator // scaled.denominator)
    sticky = Fraction(1, 2) if whole * whole != scaled else ZERO
    return operation((whole + sticky) * power(-shift))


def from_int(i: int) -> Number:
    return operation(Fraction(i))


# ---- 2: the tree ----------------------------------------------------------------------------------------------------


def tree(xs: Sequence[Number]) -> Number:
    if not xs:
        return ZERO
    size = 1
    while size < len(xs):
        size *= 2
    level = [*xs, *[ZERO] * (size - len(xs))]
    while len(level) > 1:
        level = [add(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


# ---- 3, 5.1, 5.2: quantisers ----------------------------------------------------------------------------------------


def saturate(v: Number) -> Number:
    if isinstance(v, Fraction):
        return v
    return ZERO if isnan(v) else (BF16_MAX if v > 0 else -BF16_MAX)


def code(x: Number, inverse: Number) -> int:
    product = mul(x, inverse)
    if not isinstance(product, Fraction):
        return 127 if product > 0 else -127
    return max(-127, min(127, nearest_even(product)))


def quantize_group(xs: Sequence[Number], seen: Sequence[Number] | None = None) -> tuple[list[int], Number]:
    """Codes of xs and their scale; the absmax is taken over `seen` (default: all of xs)."""
    values = [saturate(x) for x in xs]
    a = max((abs(saturate(x)) for x in (xs if seen is None else seen)), default=ZERO)
    if a < power(-100):
        return [0] * len(values), Fraction(1)
    inverse = div(Fraction(127), a)
    return [code(x, inverse) for x in values], div(a, Fraction(127))


def quantize_rows(x: Matrix, group: int, smooth: Sequence[Number] | None = None) -> tuple[list[list[int]], Matrix]:
    codes: list[list[int]] = []
    scales: Matrix = []
    for given in x:
        row = given if smooth is None else [mul(saturate(v), s) for v, s in zip(given, smooth, strict=True)]
        parts = [quantize_group(row[i : i + group]) for i in range(0, len(row), group)]
        codes.append([c for part, _ in parts for c in part])
        scales.append([scale for _, scale in parts])
    return codes, scales


def quantize_columns(x: Matrix, mask: Sequence[int] | None) -> tuple[list[list[int]], Number]:
    flat = [v for row in x for v in row]
    seen = [v for r, row in enumerate(x) if mask is None or mask[r] for v in row]
    codes, scale = quantize_group(flat, seen)
    width = len(x[0])
    return [codes[i : i + width] for i in range(0, len(codes), width)], scale


# ---- 4: MATRIX ------------------------------------------------------------------------------------------------------


def matmul(x: list[list[int]], w: list[list[int]]) -> list[list[int]]:
    return [[sum(a * b for a, b in zip(row, out, strict=True)) for out in w] for row in x]


# ---- 5: VECTOR ------------------------------------------------------------------------------------------------------


def finish(acc: list[list[int]], row_scale: Row, col_scale: Row, bias: Row | None, residual: Matrix | None) -> Matrix:
    result: Matrix = []
    for r, sums in enumerate(acc):
        row: Row = []
        for c, total in enumerate(sums):
            y = mul(from_int(total), mul(row_scale[r], col_scale[c]))
            if bias is not None:
                y = add(y, bias[c])
            if residual is not None:
                y = add(y, residual[r][c])
            row.append(y)
        result.append(row)
    return result


def layer_norm(y: Matrix, gamma: Row, beta: Row, eps: Number) -> Matrix:
    result: Matrix = []
    for row in y:
        count = Fraction(len(row))
        mean = div(tree(row), count)
        d = [sub(v, mean) for v in row]
        variance = div(tree([mul(v, v) for v in d]), count)
        r = div(Fraction(1), root(add(variance, eps)))
        result.append([bf16(add(mul(mul(v, r), g), b)) for v, g, b in zip(d, gamma, beta, strict=True)])
    return result


def rms_norm(y: Matrix, gamma: Row, eps: Number) -> Matrix:
    size = len(gamma)
    result: Matrix = []
    for row in y:
        normal: Row = []
        for start in range(0, len(row), size):
            group = row[start : start + size]
            mean_square = div(tree([mul(v, v) for v in group]), Fraction(size))
            r = div(Fraction(1), root(add(mean_square, eps)))
            normal += [bf16(mul(mul(v, r), g)) for v, g in zip(group, gamma, strict=True)]
        result.append(normal)
    return result


def rotate(x: Matrix, angles: Matrix, size: int, interleaved: bool) -> Matrix:
    result: Matrix = []
    for values, row_angles in zip(x, angles, strict=True):
        row, half = list(values), len(row_angles) // 2
        for head in range(0, len(row), size):
            for i in range(half):
                first, second = (head + 2 * i, head + 2 * i + 1) if interleaved else (head + i, head + i + half)
                a, b, c, s = values[first], values[second], row_angles[i], row_angles[i + half]
                row[first], row[second] = bf16(sub(mul(a, c), mul(b, s))), bf16(add(mul(b, c), mul(a, s)))
        result.append(row)
    return result


def gated(y: Matrix, gate: Matrix) -> Matrix:
    return [[mul(a, b) for a, b in zip(x, g, strict=True)] for x, g in zip(y, gate, strict=True)]


LOG2E_256 = Fraction(0xB8AA3B, 2**15)
"""0x43B8AA3B: exponent field 0x87 is 2^8, and the significand 0xB8AA3B has 23 fraction bits."""


def scores(acc: list[list[int]], q_scale: Row, k_scale: Row, score_scale: Number, additive: Matrix | None) -> Matrix:
    result: Matrix = []
    for r, sums in enumerate(acc):
        s: Row = []
        for c, total in enumerate(sums):
            value = mul(mul(from_int(total), q_scale[r]), mul(k_scale[c], score_scale))
            s.append(value if additive is None else add(value, additive[r][c]))
        result.append(s)
    return result


def softmax(
    acc: list[list[int]],
    q_scale: Row,
    k_scale: Row,
    score_scale: Number,
    mask: Sequence[int] | None,
    additive: Matrix | None,
    causal: bool = False,
) -> tuple[list[list[int]], list[int]]:
    rows = scores(acc, q_scale, k_scale, score_scale, additive)
    probabilities = [_probability_row(s, _live(r, len(acc), len(s), mask, causal), 4095, 8) for r, s in enumerate(rows)]
    return probabilities, [sum(row) for row in probabilities]


def wide_softmax(
    acc: list[list[int]],
    q_scale: Row,
    k_scale: Row,
    score_scale: Number,
    mask: Sequence[int] | None,
    additive: Matrix | None,
    causal: bool = False,
) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """High bytes, low bytes and sums."""
    rows = scores(acc, q_scale, k_scale, score_scale, additive)
    probabilities = [_probability_row(s, _live(r, len(acc), len(s), mask, causal), 4352, 0) for r, s in enumerate(rows)]
    high = [[p // 256 for p in row] for row in probabilities]
    low = [[p % 256 for p in row] for row in probabilities]
    return high, low, [sum(row) for row in probabilities]


def _live(r: int, rows: int, columns: int, mask: Sequence[int] | None, causal: bool) -> list[bool]:
    """Which columns row r attends to."""
    return [(not causal or c <= r + columns - rows) and (mask is None or bool(mask[c])) for c in range(columns)]


def _probability_row(s: Row, live: Sequence[bool], most: int, dropped: int) -> list[int]:
    """E[f] >> (i + dropped), rounded half up, for T up to `most`."""
    seen = [v for v, alive in zip(s, live, strict=True) if alive]
    if not seen or any(isnan(v) for v in seen) or isinf(max(seen)):
        return [0] * len(s)
    m = max(seen)
    row: list[int] = []
    for v, alive in zip(s, live, strict=True):
        u = mul(sub(m, v), LOG2E_256)
        t = min(max(nearest_even(u), 0), most) if isinstance(u, Fraction) else most
        i, f = divmod(t, 256)
        unit = 2 ** (i + dropped)
        row.append((2 * exp2_entry(f) + unit) // (2 * unit) if alive else 0)
    return row


@cache
def exp2_entry(f: int) -> int:
    """round(65280 * 2^(-f/256)), decided in integers: v is rounded down to e while e - 1/2 <= v."""
    low, high = 0, 65281
    while high - low > 1:
        e = (low + high) // 2
        if (2 * e - 1) ** 256 * 2**f <= 130560**256:
            low = e
        else:
            high = e
    return low


def context(acc: list[list[int]], sums: Sequence[int], v_scale: Number) -> Matrix:
    return _context([[from_int(value) for value in row] for row in acc], sums, v_scale)


def wide_context(high: list[list[int]], low: list[list[int]], sums: Sequence[int], v_scale: Number) -> Matrix:
    totals = [
        [add(mul(from_int(h), Fraction(256)), from_int(w)) for h, w in zip(upper, lower, strict=True)]
        for upper, lower in zip(high, low, strict=True)
    ]
    return _context(totals, sums, v_scale)


def _context(totals: Matrix, sums: Sequence[int], v_scale: Number) -> Matrix:
    result: Matrix = []
    for row, total in zip(totals, sums, strict=True):
        factor = ZERO if total == 0 else div(v_scale, from_int(total))
        result.append([bf16(mul(value, factor)) for value in row])
    return result


def embed(tables: Sequence[Matrix]) -> Matrix:
    total = [[flush(v) for v in row] for row in tables[0]]
    for table in tables[1:]:
        total = [[add(a, b) for a, b in zip(x, y, strict=True)] for x, y in zip(total, table, strict=True)]
    return total


def mean_pool(x: Matrix, mask: Sequence[int], minimum: Number) -> Row:
    count = max(from_int(sum(1 for m in mask if m)), minimum)
    columns = range(len(x[0]))
    return [div(tree([row[c] if m else ZERO for row, m in zip(x, mask, strict=True)]), count) for c in columns]


# ---- 6: activations -------------------------------------------------------------------------------------------------

BITS = 400
"""Fraction bits of the fixed-point numbers that the coefficients are made from."""
ONE = 1 << BITS


def _exp(a: Fraction) -> int:
    """e^a in fixed point for 0 <= a <= 64."""
    term = total = ONE
    n = 0
    while term:
        n += 1
        term = term * a.numerator // (a.denominator * n)
        total += term
    return total


@cache
def _pi() -> int:
    """Machin: 16 atan(1/5) - 4 atan(1/239)."""

    def atan_inverse(k: int) -> int:
        term, total, n = ONE // k, 0, 0
        while term:
            total += (term if n % 2 == 0 else -term) // (2 * n + 1)
            term //= k * k
            n += 1
        return total

    return 16 * atan_inverse(5) - 4 * atan_inverse(239)


def exact_tail(a: Fraction) -> Fraction:
    """a (1 - Phi(a)) by Phi(a) = 1/2 + phi(a) (a + a^3/3 + a^5/(3 5) + ...)."""
    term = total = ONE * a.numerator // a.denominator
    n = 1
    while term:
        n += 2
        term = term * a.numerator**2 // (a.denominator**2 * n)
        total += term
    density = ONE * ONE // _exp(a * a / 2) * ONE // isqrt(2 * _pi() * ONE)
    return a * (Fraction(1, 2) - Fraction(density * total, ONE * ONE))


def exact_tanh(a: Fraction) -> Fraction:
    grown = _exp(2 * a)
    return Fraction(grown - ONE, grown + ONE)


def _sigmoid_tail(a: Fraction, exponent: Fraction) -> Fraction:
    """a / (1 + e^exponent)."""
    return a * Fraction(ONE, ONE + _exp(exponent))


def exact_gelu_tanh_tail(a: Fraction) -> Fraction:
    root = Fraction(isqrt(2 * ONE * ONE * ONE // _pi()), ONE)
    return _sigmoid_tail(a, 2 * root * (a + Fraction(44715, 1000000) * a**3))


EXACT: dict[str, tuple[Callable[[Fraction], Fraction], Fraction]] = {
    "gelu": (exact_tail, Fraction(1, 16)),
    "tanh": (exact_tanh, Fraction(1, 32)),
    "gelu_tanh": (exact_gelu_tanh_tail, Fraction(1, 16)),
    "quick_gelu": (lambda a: _sigmoid_tail(a, Fraction(1702, 1000) * a), Fraction(1, 8)),
    "silu": (lambda a: _sigmoid_tail(a, a), Fraction(1, 8)),
}
"""The function of each piecewise form, and the width of a segment."""


@cache
def coefficients(kind: str) -> tuple[tuple[Number, Number, Number], ...]:
    function, width = EXACT[kind]
    rows: list[tuple[Number, Number, Number]] = []
    for i in range(128):
        f0, f1, f2 = (function(width * i + width * k / 2) for k in range(3))
        rows.append(
            (
                operation(f0),
                operation((4 * f1 - 3 * f0 - f2) / width),
                operation((2 * f0 + 2 * f2 - 4 * f1) / width**2),
            )
        )
    return tuple(rows)


def _parabola(kind: str, a: Fraction) -> Number:
    width = EXACT[kind][1]
    i = a // width
    t = a - i * width
    c0, c1, c2 = coefficients(kind)[i]
    return add(mul(add(mul(c2, t), c1), t), c0)


def relu(x: Number) -> Number:
    return x if isnan(x) or x > 0 else ZERO


def _gated(kind: str, limit: int, x: Number) -> Number:
    if isnan(x):
        return nan
    a = abs(x)
    return bf16(sub(relu(x), _parabola(kind, a) if isinstance(a, Fraction) and a < limit else ZERO))


def gelu(x: Number) -> Number:
    return _gated("gelu", 8, x)


def gelu_tanh(x: Number) -> Number:
    return _gated("gelu_tanh", 8, x)


def quick_gelu(x: Number) -> Number:
    return _gated("quick_gelu", 16, x)


def silu(x: Number) -> Number:
    return _gated("silu", 16, x)


def tanh(x: Number) -> Number:
    if isnan(x):
        return nan
    a = abs(x)
    size = _parabola("tanh", a) if isinstance(a, Fraction) and a < 4 else Fraction(1)
    return bf16(size if x > 0 else -size)


# ---- 5.11: the streaming softmax ------------------------------------------------------------------------------------

LOG2E = Fraction(0xB8AA3B, 2**23)
"""0x3FB8AA3B: exponent field 0x7F is 2^0."""


def _shift(distance: int, parameter: int) -> int:
    return (distance + 2**parameter // 2) // 2**parameter


def _logit(s: Number, parameter: int) -> int:
    product = mul(s, LOG2E * 2**parameter)
    if isinstance(product, Fraction):
        return max(-128, min(127, nearest_even(product)))
    return 127 if product == inf else -128


def streaming_row(x: Sequence[int], live: Sequence[bool], parameter: int) -> list[int]:
    """Probabilities of one row of logits."""
    m, t = -128, 0
    for first in range(0, len(x), 16):
        group = [v for v, alive in zip(x[first : first + 16], live[first : first + 16], strict=True) if alive]
        larger = max([m, *group])
        t >>= _shift(larger - m, parameter)
        t += sum(256 >> _shift(larger - v, parameter) for v in group)
        m = larger
    if not any(live):
        return [0] * len(x)
    inverse = 65280 // t
    return [inverse >> _shift(m - v, parameter) if alive else 0 for v, alive in zip(x, live, strict=True)]


def streaming_softmax(
    acc: list[list[int]],
    q_scale: Row,
    k_scale: Row,
    score_scale: Number,
    mask: Sequence[int] | None,
    additive: Matrix | None,
    causal: bool,
    parameter: int,
) -> tuple[list[list[int]], list[int]]:
    rows = scores(acc, q_scale, k_scale, score_scale, additive)
    alive = [_live(r, len(acc), len(s), mask, causal) for r, s in enumerate(rows)]
    p = [streaming_row([_logit(v, parameter) for v in s], live, parameter) for s, live in zip(rows, alive, strict=True)]
    return p, [255 if any(live) else 0 for live in alive]
