@triton.jit
def embedding(
    out,
    ids0,
    table0,
    period0,
    ids1,
    table1,
    period1,
    ids2,
    table2,
    period2,
    gamma,
    beta,
    eps,
    columns,
    count,
    TABLES: tl.constexpr,
    FEATURES: tl.constexpr,
    SPAN: tl.constexpr,
    TOKENS: tl.constexpr,
    NORM: tl.constexpr,
):
    """The sum of up to three table rows for each token, normalised at once where NORM says so. Ids are those of all tokens,
    or of `period` tokens and the same for every sample."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    feature = tl.arange(0, SPAN)
    there = (feature < FEATURES)[:, None] & (token < columns)[None, :]
    y = rows_of(ids0, table0, period0, token, feature, there, count, FEATURES)
    if TABLES > 1:
        y += rows_of(ids1, table1, period1, token, feature, there, count, FEATURES)
    if TABLES > 2:
        y += rows_of(ids2, table2, period2, token, feature, there, count, FEATURES)
    if NORM:
        y = normalized(y, there, gamma, beta, feature, FEATURES, eps)
    tl.store(out + feature[:, None] * columns + token[None, :], y.to(out.dtype.element_ty), mask=there)


@triton.jit
def rows_of(ids, table, period, token, feature, there, count, FEATURES: tl.constexpr):
    row = tl.load(ids + token % period, mask=token < count, other=0).to(tl.int64)
    return tl.load(table + row[None, :] * FEATURES + feature[:, None], mask=there, other=0.0).to(tl.float32)
