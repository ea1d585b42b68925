# ---- linear layers ---------------------------------------------------------------------------------------------------
# A weight is cut into tiles of ROWS outputs, a tile into chunks of INPUTS inputs. `tiles` has four numbers for each tile: its
# first chunk, its end, the row of the activation memory that its first output goes to, and how many outputs it has.
# Activations are [features, columns]: an input is a run of tokens, whichever input it is. Chunks come in three LAYOUTs:
#   dense   ROWS x INPUTS values in one run, of all inputs in order
#   gather  the same of some inputs: `index` lists those of each chunk
#   marks   32 inputs in order; `index` is a word for each row, whose bits mark its kept inputs, and `begins` says where the
#           values of these begin


@triton.jit
def ones_below(word, position):
    """How many of the bits below a position are set, word by word."""
    bits = word & ((1 << position) - 1)
    bits = bits - ((bits >> 1) & 0x55555555)
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    return (bits + (bits >> 8) + (bits >> 16) + (bits >> 24)) & 0x3F


@triton.jit
def linear(
    x,
    weights,
    index,
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
    INPUTS: tl.constexpr,
    LAYOUT: tl.constexpr,
    IN_BYTES: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """A tile of outputs by a tile of tokens: products in the element type, sums in fp32 or int32, then what `finish` does."""
    tile = tl.program_id(0)
    tokens = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = tokens < columns
    row, step = tl.arange(0, ROWS), tl.arange(0, INPUTS)
    first, end = tl.load(tiles + 4 * tile), tl.load(tiles + 4 * tile + 1)
    sums = tl.full((ROWS, TOKENS), 0, tl.int32 if IN_BYTES else tl.float32)
    for chunk in range(first, end):
        if LAYOUT == "gather":
            inputs = tl.load(index + chunk * INPUTS + step)
        else:
            inputs = (chunk - first) * INPUTS + step
        if LAYOUT == "marks":
            word = tl.load(index + chunk * ROWS + row)[:, None]
            begin = tl.load(begins + chunk * ROWS + row)[:, None]
            marked = ((word >> step[None, :]) & 1) != 0
            w = tl.load(weights + begin + ones_below(word, step[None, :]), mask=marked, other=0)
        else:
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
