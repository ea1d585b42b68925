@triton.jit
def ones_below(word, position):
    """How many of the bits below a position are set, word by word."""
    bits = word & ((1 << position) - 1)
    bits = bits - ((bits >> 1) & 0x55555555)
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    return (bits + (bits >> 8) + (bits >> 16) + (bits >> 24)) & 0x3F


@triton.jit
def marked_linear(
    x,
    values,
    marks,
    begins,
    tiles,
    bias,
    row_scales,
    token_scales,
    residual,
    out,
    ins,
    columns,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    IN_BYTES: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """As `linear`, by 32 inputs: a row of a chunk is a word whose bits mark its kept inputs, and where their values begin."""
    tile = tl.program_id(0)
    tokens = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = tokens < columns
    row, step = tl.arange(0, ROWS), tl.arange(0, 32)
    first, end = tl.load(tiles + 4 * tile), tl.load(tiles + 4 * tile + 1)
    sums = tl.full((ROWS, TOKENS), 0, tl.int32 if IN_BYTES else tl.float32)
    for chunk in range(first, end):
        word = tl.load(marks + chunk * ROWS + row)[:, None]
        begin = tl.load(begins + chunk * ROWS + row)[:, None]
        there = ((word >> step[None, :]) & 1) != 0
        w = tl.load(values + begin + ones_below(word, step[None, :]), mask=there, other=0)
        inputs = (chunk - first) * 32 + step
        a = tl.load(x + inputs[:, None] * columns + tokens[None, :], mask=(inputs < ins)[:, None] & inside[None, :], other=0)
        if INTERPRETED and w.dtype == tl.bfloat16:
            w, a = w.to(tl.float32), a.to(tl.float32)
        sums = tl.dot(w, a, sums, input_precision="ieee", out_dtype=sums.dtype)
    finish(
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
        ROWS,
        IN_BYTES,
        RESIDUAL,
        ACTIVATION,
    )
