# ---- linear layers ---------------------------------------------------------------------------------------------------
# A weight is cut into tiles of ROWS outputs; a tile is a list of chunks, each ROWS x INPUTS values in one run. `tiles` has
# four numbers for each: its first chunk, its end, the row of the activation memory that its first output goes to, and how
# many outputs it has. Activations are [features, columns]: an input is a run of tokens, whichever input it is.


@triton.jit
def linear(
    x,
    weights,
    kept,
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
    INPUTS: tl.constexpr,
    GATHERED: tl.constexpr,
    IN_BYTES: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """A tile of outputs by a tile of tokens; with GATHERED only the inputs that `kept` lists for each chunk are read."""
    tile = tl.program_id(0)
    tokens = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = tokens < columns
    row, step = tl.arange(0, ROWS), tl.arange(0, INPUTS)
    first, end = tl.load(tiles + 4 * tile), tl.load(tiles + 4 * tile + 1)
    sums = tl.full((ROWS, TOKENS), 0, tl.int32 if IN_BYTES else tl.float32)
    for chunk in range(first, end):
        if GATHERED:
            inputs = tl.load(kept + chunk * INPUTS + step)
        else:
            inputs = (chunk - first) * INPUTS + step
        w = tl.load(weights + chunk * (ROWS * INPUTS) + row[:, None] * INPUTS + step[None, :])
        there = (inputs < ins)[:, None] & inside[None, :]
        a = tl.load(x + inputs[:, None] * columns + tokens[None, :], mask=there, other=0)
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
