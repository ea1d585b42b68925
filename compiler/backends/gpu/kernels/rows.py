# ---- embeddings, norms, what is elementwise --------------------------------------------------------------------------


@triton.jit
def normalized(y, there, gamma, beta, feature, FEATURES: tl.constexpr, eps):
    """Layer normalisation of [features, tokens] in fp32, in two passes over values that stay in registers."""
    mean = tl.sum(y, axis=0) / FEATURES
    centred = tl.where(there, y - mean[None, :], 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, axis=0) / FEATURES + eps)
    real = feature < FEATURES
    scale, shift = tl.load(gamma + feature, mask=real, other=0.0), tl.load(beta + feature, mask=real, other=0.0)
    return centred / deviation[None, :] * scale[:, None] + shift[:, None]
