# ---- attention -------------------------------------------------------------------------------------------------------


@triton.jit
def attention(
    q,
    k,
    v,
    mask,
    out,
    scale,
    tokens,
    columns,
    SHARED: tl.constexpr,
    SIZE: tl.constexpr,
    SPAN: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    MASKED: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    """softmax(scale q k^T) v for one head of one sample: keys go by in tiles, and what was summed is scaled to the largest
    score so far, so that no matrix of scores is ever stored. SHARED neighbours of q read one head of k and v. A query all of
    whose keys are masked gets 0."""
    head, sample = tl.program_id(1), tl.program_id(2)
    start = tl.program_id(0) * QUERIES
    query, feature = start + tl.arange(0, QUERIES), tl.arange(0, SPAN)
    real = feature < SIZE
    mine = (head * SIZE + feature).to(tl.int64) * columns + sample * tokens
    theirs = (head // SHARED * SIZE + feature).to(tl.int64) * columns + sample * tokens
    asked = real[:, None] & (query < tokens)[None, :]
    wanted = tl.trans(tl.load(q + mine[:, None] + query[None, :], mask=asked, other=0.0))
    if INTERPRETED and wanted.dtype == tl.bfloat16:
        wanted = wanted.to(tl.float32)
    most = tl.full((QUERIES,), -1e30, tl.float32)
    total = tl.full((QUERIES,), 0.0, tl.float32)
    sums = tl.full((QUERIES, SPAN), 0.0, tl.float32)
    end = tokens
    if CAUSAL:
        end = tl.minimum(tokens, start + QUERIES)
    for first in range(0, end, KEYS):
        key = first + tl.arange(0, KEYS)
        there = key < tokens
        both = real[:, None] & there[None, :]
        keys = tl.load(k + theirs[:, None] + key[None, :], mask=both, other=0.0)
        if INTERPRETED and keys.dtype == tl.bfloat16:
            keys = keys.to(tl.float32)
        scores = tl.dot(wanted, keys, input_precision="ieee") * scale
        if MASKED:
            there = there & (tl.load(mask + sample * tokens + key, mask=there, other=0) != 0)
        seen = there[None, :]
        if CAUSAL:
            seen = seen & (key[None, :] <= query[:, None])
        scores = tl.where(seen, scores, -1e30)
        larger = tl.maximum(most, tl.max(scores, axis=1))
        shares = tl.where(seen, tl.exp(scores - larger[:, None]), 0.0)
        before = tl.exp(most - larger)
        total = total * before + tl.sum(shares, axis=1)
        values = tl.trans(tl.load(v + theirs[:, None] + key[None, :], mask=both, other=0.0))
        shares = shares.to(values.dtype)
        if INTERPRETED and values.dtype == tl.bfloat16:
            shares, values = shares.to(tl.float32), values.to(tl.float32)
        sums = tl.dot(shares, values, sums * before[:, None], input_precision="ieee")
        most = larger
    sums = sums / tl.where(total > 0.0, total, 1.0)[:, None]
    tl.store(out + mine[:, None] + query[None, :], tl.trans(sums).to(out.dtype.element_ty), mask=asked)
