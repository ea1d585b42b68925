@triton.jit
def layer_norm(x, gamma, beta, out, eps, columns, FEATURES: tl.constexpr, SPAN: tl.constexpr, TOKENS: tl.constexpr):
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    feature = tl.arange(0, SPAN)
    there = (feature < FEATURES)[:, None] & (token < columns)[None, :]
    at = feature[:, None] * columns + token[None, :]
    y = normalized(tl.load(x + at, mask=there, other=0.0).to(tl.float32), there, gamma, beta, feature, FEATURES, eps)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=there)


@triton.jit
def rms_norm(x, gamma, out, eps, columns, FEATURES: tl.constexpr, SPAN: tl.constexpr, TOKENS: tl.constexpr):
    """RMS normalisation of one group of features (program 1 counts groups)."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    feature = tl.arange(0, SPAN)
    real = feature < FEATURES
    there = real[:, None] & (token < columns)[None, :]
    at = (tl.program_id(1) * FEATURES + feature)[:, None] * columns + token[None, :]
    y = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    size = tl.sqrt(tl.sum(y * y, axis=0) / FEATURES + eps)
    y = y / size[None, :] * tl.load(gamma + feature, mask=real, other=0.0)[:, None]
    tl.store(out + at, y.to(out.dtype.element_ty), mask=there)


@triton.jit
def rotary(
    x,
    table,
    out,
    tokens,
    columns,
    SIZE: tl.constexpr,
    TURNED: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    SPAN: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Turn pairs of the first TURNED features of a head (program 1) by the angles of each position: `table` is
    [positions, TURNED], cosines and then sines; pairs are neighbours, or lie half of TURNED apart."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    pair = tl.arange(0, SPAN)
    first = tl.where(pair < TURNED // 2, 2 * pair if INTERLEAVED else pair, TURNED + 2 * (pair - TURNED // 2))
    second = first + tl.where(pair < TURNED // 2, 1 if INTERLEAVED else TURNED // 2, 1)
    turns, inside = (pair < TURNED // 2)[:, None], (token < columns)[None, :]
    start = tl.program_id(1) * SIZE
    one = (start + first)[:, None] * columns + token[None, :]
    two = (start + second)[:, None] * columns + token[None, :]
    a = tl.load(x + one, mask=(first < SIZE)[:, None] & inside, other=0.0).to(tl.float32)
    b = tl.load(x + two, mask=(second < SIZE)[:, None] & inside, other=0.0).to(tl.float32)
    angle = (token % tokens)[None, :] * TURNED + pair[:, None]
    cosine = tl.load(table + angle, mask=turns & inside, other=1.0)
    sine = tl.load(table + angle + TURNED // 2, mask=turns & inside, other=0.0)
    tl.store(out + one, (a * cosine - b * sine).to(out.dtype.element_ty), mask=(first < SIZE)[:, None] & inside)
    tl.store(out + two, (b * cosine + a * sine).to(out.dtype.element_ty), mask=(second < SIZE)[:, None] & inside)


@triton.jit
def pointwise(
    x,
    other,
    bias,
    out,
    columns,
    features,
    OTHER: tl.constexpr,
    BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """activation(x + bias + other), or x * other: what no linear before it could take over."""
    feature = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    real = feature < features
    there = real[:, None] & (token < columns)[None, :]
    at = feature[:, None].to(tl.int64) * columns + token[None, :]
    y = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    if BIAS:
        y += tl.load(bias + feature, mask=real, other=0.0)[:, None]
    if OTHER == "plus":
        y += tl.load(other + at, mask=there, other=0.0).to(tl.float32)
    elif OTHER == "times":
        y *= tl.load(other + at, mask=there, other=0.0).to(tl.float32)
    tl.store(out + at, activated(y, ACTIVATION).to(out.dtype.element_ty), mask=there)


@triton.jit
def pool(
    x,
    mask,
    out,
    tokens,
    columns,
    samples,
    features,
    minimum,
    token,
    MEAN: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """One column per sample: features' means over the tokens that the mask attends to, or their values at one token."""
    feature, sample = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    real = feature < features
    at = feature.to(tl.int64) * columns + sample * tokens
    if MEAN:
        total, count = tl.full((ROWS,), 0.0, tl.float32), 0.0
        for first in range(0, tokens, TOKENS):
            place = first + tl.arange(0, TOKENS)
            weight = tl.load(mask + sample * tokens + place, mask=place < tokens, other=0).to(tl.float32)
            there = real[:, None] & (place < tokens)[None, :]
            values = tl.load(x + at[:, None] + place[None, :], mask=there, other=0.0).to(tl.float32)
            total += tl.sum(values * weight[None, :], axis=1)
            count += tl.sum(weight, axis=0)
        y = total / tl.maximum(count, minimum)
    else:
        y = tl.load(x + at + token, mask=real, other=0.0).to(tl.float32)
    tl.store(out + feature * samples + sample, y.to(out.dtype.element_ty), mask=real)


