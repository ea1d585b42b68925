@triton.jit
def quantize(x, codes, scales, columns, FEATURES: tl.constexpr, SPAN: tl.constexpr, TOKENS: tl.constexpr):
    """Codes in [-127, 127] and a scale for each token, from the largest of its values."""
    tokens = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    feature = tl.arange(0, SPAN)
    there = (feature < FEATURES)[:, None] & (tokens < columns)[None, :]
    at = feature[:, None] * columns + tokens[None, :]
    values = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    most = tl.max(tl.abs(values), axis=0)
    scale = tl.where(most > 0.0, most / 127.0, 1.0)
    nearest = values / scale[None, :]
    nearest = tl.floor(tl.abs(nearest) + 0.5) * tl.where(nearest < 0.0, -1.0, 1.0)
    tl.store(codes + at, tl.minimum(tl.maximum(nearest, -127.0), 127.0).to(tl.int8), mask=there)
    tl.store(scales + tokens, scale, mask=tokens < columns)
