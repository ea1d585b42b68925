"""Fused operators of ONNX Runtime's optimiser and of opset 23 in terms of plain ones, in the ONNX graph.

The fusions of `hpcc-fuse` then see one spelling. An operator with a key-value cache, a soft cap or another part that has no
meaning here stays as it is and is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from compiler.frontend.rewrite import REASON, NodeRewrite, NotRewritten, Tensor

MICROSOFT = "com.microsoft"
MASK_FILTER = -10000.0


def spell_out(model: ir.Model) -> list[str]:
    """Rewrite `model` in place; returns what to say about each node that was rewritten, mostly nothing."""
    notes: list[str] = []
    for node in reversed(list(model.graph)):  # an attention looks at what makes its mask before that is rewritten
        rule = RULES.get((node.domain if node.domain != "ai.onnx" else "", node.op_type))
        if rule is None:
            continue
        rewrite = NodeRewrite(model, node)
        try:
            note = rule(rewrite)
        except NotRewritten as reason:
            node.meta[REASON] = f"{node.op_type}: {reason}"
            continue
        notes.append(note or "")
    return notes


# ---- activations ----------------------------------------------------------------------------------------------------


def _biased(r: NodeRewrite) -> ir.Value:
    x, bias = r.required(0), r.input(1)
    return x if bias is None else r.emit("Add", [x, bias])


def _gelu(r: NodeRewrite) -> None:
    x = _biased(r)
    erf = r.emit("Erf", [r.emit("Mul", [x, r.constant(math.sqrt(0.5))])])
    r.finish(r.emit("Mul", [r.emit("Mul", [x, r.constant(0.5)]), r.emit("Add", [erf, r.constant(1.0)])]))


def _fast_gelu(r: NodeRewrite) -> None:
    x = _biased(r)
    cube = r.emit("Mul", [r.emit("Mul", [x, x]), x])
    inner = r.emit("Add", [x, r.emit("Mul", [cube, r.constant(0.044715)])])
    tanh = r.emit("Tanh", [r.emit("Mul", [inner, r.constant(math.sqrt(2 / math.pi))])])
    r.finish(r.emit("Mul", [r.emit("Mul", [x, r.constant(0.5)]), r.emit("Add", [tanh, r.constant(1.0)])]))


def _quick_gelu(r: NodeRewrite) -> None:
    x = r.required(0)
    gate = r.emit("Sigmoid", [r.emit("Mul", [x, r.constant(r.number("alpha", 1.702))])])
    r.finish(r.emit("Mul", [x, gate]))


def _swish(r: NodeRewrite) -> None:
    x = r.required(0)
    alpha = r.number("alpha", 1.0)
    inner = x if alpha == 1.0 else r.emit("Mul", [x, r.constant(alpha)])
    r.finish(r.emit("Mul", [x, r.emit("Sigmoid", [inner])]))


# ---- norms ----------------------------------------------------------------------------------------------------------


def _sum_of(r: NodeRewrite, bias: int) -> ir.Value:
    """Input, skip and bias; the bias goes to the product that it was fused away from."""
    x, skip, addend = r.required(0), r.required(1), r.input(bias)
    if addend is not None:
        maker = skip.producer()
        if maker is not None and maker.op_type == "MatMul":
            x, skip = skip, x
        x = r.emit("Add", [x, addend])
    return r.emit("Add", [x, skip])


def _skip_layer_norm(r: NodeRewrite) -> None:
    r.refuse_used(1, 2)
    total = _sum_of(r, 4)
    beta = r.input(3) or r.constant(np.zeros(r.data(2).shape))
    attributes = {"axis": -1, "epsilon": r.number("epsilon", 1e-12)}
    normal = r.emit("LayerNormalization", [total, r.required(2), beta], attributes)
    r.finish(normal, None, None, total if r.is_used(3) else None)


def _rms(r: NodeRewrite, x: ir.Value, gamma: ir.Value, epsilon: float) -> ir.Value:
    """x / sqrt(mean(x^2) + epsilon) * gamma, over the last axis."""
    square = r.emit("Mul", [x, x])
    if r.opset >= 18:
        mean = r.emit("ReduceMean", [square, r.constant([-1], np.int64)], {"keepdims": 1})
    else:
        mean = r.emit("ReduceMean", [square], {"axes": [-1], "keepdims": 1})
    root = r.emit("Sqrt", [r.emit("Add", [mean, r.constant(epsilon)])])
    return r.emit("Mul", [r.emit("Div", [x, root]), gamma])


def _rms_norm(r: NodeRewrite) -> None:
    r.refuse_used(1)
    x = r.required(0)
    axis = r.integer("axis", -1)
    if axis != -1 and (x.shape is None or axis != x.shape.rank() - 1):
        raise NotRewritten("normalisation over several axes")
    r.finish(_rms(r, x, r.required(1), r.number("epsilon", 1e-5)))


def _skip_rms_norm(r: NodeRewrite) -> None:
    r.refuse_used(1, 2)
    total = _sum_of(r, 3)
    r.finish(_rms(r, total, r.required(2), r.number("epsilon", 1e-12)), None, None, total if r.is_used(3) else None)


def _embed_layer_norm(r: NodeRewrite) -> None:
    """Rows of the word, position and segment tables, summed and normalised. The mask index is left to its users."""
    if r.is_used(1):
        raise NotRewritten("its mask index is used")
    ids = r.required(0)
    shape = _static_shape(ids)
    if shape is None:
        raise NotRewritten("its input shapes are known only at run time")
    positions = r.input(8) or r.constant(np.arange(shape[1])[None], np.int64)
    total = r.emit("Gather", [r.required(2), ids])
    total = r.emit("Add", [total, r.emit("Gather", [r.required(3), positions])])
    segments, table = r.input(1), r.input(4)
    if table is not None:
        segments = segments or r.constant(np.zeros(shape), np.int64)
        total = r.emit("Add", [total, r.emit("Gather", [table, segments])])
    attributes = {"axis": -1, "epsilon": r.number("epsilon", 1e-12)}
    normal = r.emit("LayerNormalization", [total, r.required(5), r.required(6)], attributes)
    r.finish(normal, None, total if r.is_used(2) else None)


def _static_shape(value: ir.Value) -> tuple[int, ...] | None:
    while (maker := value.producer()) is not None and maker.op_type == "Cast" and maker.inputs[0] is not None:
        value = maker.inputs[0]
    if value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(size) for size in value.shape.numpy())


# ---- products -------------------------------------------------------------------------------------------------------


def _fused_matmul(r: NodeRewrite) -> None:
    """alpha * op(a) op(b); where a rank that a transposition needs is unknown here, import does it."""
    if r.integer("transBatchA") or r.integer("transBatchB"):
        raise NotRewritten("transposed batch axes")
    a = _swapped(r, r.required(0)) if r.integer("transA") else r.required(0)
    b = _swapped(r, r.required(1)) if r.integer("transB") else r.required(1)
    product, alpha = r.emit("MatMul", [a, b]), r.number("alpha", 1.0)
    r.finish(product if alpha == 1 else r.emit("Mul", [product, r.constant(alpha)]))


def _swapped(r: NodeRewrite, x: ir.Value) -> ir.Value:
    if x.shape is None:
        raise NotRewritten("a matrix of unknown rank")
    rank = x.shape.rank()
    return r.emit("Transpose", [x], {"perm": [*range(rank - 2), rank - 1, rank - 2]})


# ---- attention ------------------------------------------------------------------------------------------------------


def _heads(r: NodeRewrite, x: ir.Value, heads: int) -> ir.Value:
    """[b, s, h d] -> [b, h, s, d]."""
    return r.emit("Transpose", [r.reshape(x, 0, 0, heads, -1)], {"perm": [0, 2, 1, 3]})


def _attend(
    r: NodeRewrite,
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    scale: ir.Value,
    additions: list[Tensor],
    *,
    guarded: bool = False,
) -> ir.Value:
    """softmax(q k^T scale + additions) v on [b, h, s, d]; `guarded`: a row that is masked throughout gives 0."""
    turned = r.emit("Transpose", [k], {"perm": [0, 1, 3, 2]})
    scores = r.emit("Mul", [r.emit("MatMul", [q, turned]), scale])
    for addend in additions:
        if addend is not None:
            scores = r.emit("Add", [scores, addend])
    p = r.emit("Softmax", [scores], {"axis": -1})
    if guarded:
        p = r.emit("Where", [r.emit("IsNaN", [p]), r.constant(0.0), p])
    return r.emit("MatMul", [p, v])


def _merged(r: NodeRewrite, x: ir.Value) -> ir.Value:
    return r.reshape(r.emit("Transpose", [x], {"perm": [0, 2, 1, 3]}), 0, 0, -1)


def _padding(r: NodeRewrite, index: int) -> tuple[Tensor, str]:
    """What a key padding mask, [b, keys] or the lengths that it sums up to, adds to the scores; and a note."""
    mask, note = r.input(index), ""
    if mask is None:
        return None, note
    counted = _mask_of_lengths(mask)
    if counted is not None:
        mask, note = counted, "attention masks given as lengths are read as the 0/1 masks that they are sums of"
    elif mask.shape is None or mask.shape.rank() != 2:
        raise NotRewritten("its mask is neither [batch, keys] nor the sum of such a mask")
    wide = r.emit("Cast", [r.reshape(mask, 0, 1, 1, -1)], {"to": int(ir.DataType.FLOAT)})
    fill = min(r.number("mask_filter_value", MASK_FILTER), MASK_FILTER)
    return r.emit("Mul", [r.emit("Sub", [r.constant(1.0), wide]), r.constant(fill)]), note


def _mask_of_lengths(value: ir.Value) -> Tensor:
    """The 0/1 mask [b, keys] whose rows `value` counts."""
    maker = value.producer()
    while maker is not None and maker.op_type == "Cast":
        value = maker.inputs[0] or value
        maker = value.producer()
    if maker is None:
        return None
    if maker.op_type == "EmbedLayerNormalization" and value is maker.outputs[1] and len(maker.inputs) > 7:
        return maker.inputs[7]
    return maker.inputs[0] if maker.op_type == "ReduceSum" else None


def _causal(r: NodeRewrite, queries: int | None, keys: int | None) -> ir.Value:
    if queries is None or keys is None:
        raise NotRewritten("a causal mask over sizes known only at run time")
    return r.constant(np.triu(np.full((queries, keys), -np.inf), 1))


def _size(value: ir.Value, axis: int) -> int | None:
    size = None if value.shape is None else value.shape[axis]
    return size if isinstance(size, int) else None


def _refuse(r: NodeRewrite, *inputs: int) -> None:
    if any(r.input(index) is not None for index in inputs):
        raise NotRewritten("a key-value cache is not supported; export the model without past keys and values")


def _microsoft_attention(r: NodeRewrite) -> str:
    """Packed projections: x [b, s, d] by weights [d, q + k + v] plus a bias, then attention."""
    _refuse(r, 4, 6)
    r.refuse_used(1)
    if r.integer("do_rotary"):
        raise NotRewritten("rotary embeddings")
    x, weight, heads = r.required(0), r.data(1), r.integer("num_heads", 1)
    sizes = r.node.attributes.get_ints("qkv_hidden_sizes") or [weight.shape[1] // 3] * 3
    bias = None if r.input(2) is None else r.data(2)
    parts: list[ir.Value] = []
    for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        part = r.emit("MatMul", [x, r.constant(weight[:, start : start + size])])
        part = part if bias is None else r.emit("Add", [part, r.constant(bias[start : start + size])])
        parts.append(_heads(r, part, heads))
    padding, note = _padding(r, 3)
    causal = _causal(r, _size(x, 1), _size(x, 1)) if r.integer("unidirectional") else None
    scale = r.constant(r.number("scale", 0.0) or (sizes[0] // heads) ** -0.5)
    r.finish(_merged(r, _attend(r, parts[0], parts[1], parts[2], scale, [padding, r.input(5), causal])))
    return note


def _multi_head_attention(r: NodeRewrite) -> str:
    _refuse(r, 6, 7, 8)
    r.refuse_used(1, 2, 3)
    heads = r.integer("num_heads", 1)
    parts = [r.required(index) for index in range(3)]
    bias = None if r.input(3) is None else r.data(3)
    if any(part.shape is not None and part.shape.rank() != 3 for part in parts):
        raise NotRewritten("packed or already split operands")
    if bias is not None:
        thirds = np.split(bias, 3)
        parts = [r.emit("Add", [part, r.constant(third)]) for part, third in zip(parts, thirds, strict=True)]
    width = len(bias) // 3 if bias is not None else _size(parts[0], 2)
    if not width:
        raise NotRewritten("its input shapes are known only at run time")
    padding, note = _padding(r, 4)
    causal = _causal(r, _size(parts[0], 1), _size(parts[1], 1)) if r.integer("unidirectional") else None
    q, k, v = (_heads(r, part, heads) for part in parts)
    scale = r.constant(r.number("scale", 0.0) or (width // heads) ** -0.5)
    r.finish(_merged(r, _attend(r, q, k, v, scale, [padding, r.input(5), causal])))
    return note


_ATTENTION_ATTRIBUTES = {
    *("is_causal", "kv_num_heads", "q_num_heads", "scale", "softcap", "softmax_precision", "qk_matmul_output_mode")
}


def _onnx_attention(r: NodeRewrite) -> None:
    """Attention of opset 23: [b, h, s, d], or [b, s, h d] with the numbers of heads."""
    _refuse(r, 4, 5, 6)
    r.refuse_used(1, 2, 3)
    if r.number("softcap", 0.0):
        raise NotRewritten("a soft cap")
    unknown = sorted(set(r.node.attributes) - _ATTENTION_ATTRIBUTES)
    if unknown:
        raise NotRewritten(f"attribute {unknown[0]}")
    q, k, v = (r.required(index) for index in range(3))
    heads, groups = r.integer("q_num_heads"), r.integer("kv_num_heads")
    is_flat = bool(heads)
    sizes = [_size(part, -2) for part in (q, k)]
    width = _size(q, -1)
    if is_flat:
        q, k, v = _heads(r, q, heads), _heads(r, k, groups), _heads(r, v, groups)
        width = None if width is None else width // heads
    else:
        heads, groups = _size(q, 1) or 0, _size(k, 1) or 0
    if not heads or not groups or (not width and not r.number("scale", 0.0)):
        raise NotRewritten("its input shapes are known only at run time")
    if heads != groups:
        k, v = (_repeated(r, part, heads // groups, heads) for part in (k, v))
    mask = r.input(3)
    is_boolean = mask is not None and mask.dtype == ir.DataType.BOOL
    if is_boolean:
        mask = r.emit("Where", [mask, r.constant(0.0), r.constant(-np.inf)])
    causal = _causal(r, *sizes) if r.integer("is_causal") else None
    scale = r.constant(r.number("scale", 0.0) or (width or 1) ** -0.5)
    context = _attend(r, q, k, v, scale, [mask, causal], guarded=is_boolean)
    r.finish(_merged(r, context) if is_flat else context)


def _repeated(r: NodeRewrite, x: ir.Value, times: int, heads: int) -> ir.Value:
    """Every head of [b, groups, s, d] `times` times in a row."""
    groups = heads // times
    order = np.repeat(np.arange(groups), times)
    return r.emit("Gather", [x, r.constant(order, np.int64)], {"axis": 1})


# ---- rotary embeddings ----------------------------------------------------------------------------------------------


def _rotary(r: NodeRewrite) -> None:
    """Of opset 23: x, caches of cosines and sines [b, s, n / 2], or [positions, n / 2] with the tokens' positions."""
    _rotate(r, r.required(1), r.required(2), r.input(3))


def _microsoft_rotary(r: NodeRewrite) -> None:
    if r.integer("is_packed_batching"):
        raise NotRewritten("packed sequences")
    if r.number("scale", 1.0) != 1.0:
        raise NotRewritten("a scale")
    places = r.required(1)
    if places.shape is None or places.shape.rank() != 2:
        raise NotRewritten("positions given by their first one alone")
    _rotate(r, r.required(2), r.required(3), places)


def _rotate(r: NodeRewrite, cosines: ir.Value, sines: ir.Value, places: Tensor) -> None:
    """The first n features of every head [b, h, s, d], or [b, s, h d] with the number of heads, turned pair by pair."""
    x = r.required(0)
    rank = None if x.shape is None else x.shape.rank()
    heads, turned = r.integer("num_heads"), r.integer("rotary_embedding_dim")
    half = _size(cosines, -1)
    turned = turned or (2 * half if half is not None else (_size(x, -1) if rank == 4 else 0) or 0)
    if rank not in (3, 4) or not turned or (rank == 3 and not heads and r.integer("rotary_embedding_dim")):
        raise NotRewritten("its input shapes are known only at run time")
    if rank == 3:
        width = _size(x, -1)
        if not heads and not width:
            raise NotRewritten("its input shapes are known only at run time")
        x = r.reshape(x, 0, 0, heads or (width or 0) // turned, -1)
    if places is not None:
        cosines, sines = (r.emit("Gather", [cache, places]) for cache in (cosines, sines))
    axis = r.constant([2 if rank == 3 else 1], np.int64)
    cosines, sines = (r.emit("Unsqueeze", [angle, axis]) for angle in (cosines, sines))
    if r.integer("interleaved"):
        a, b = _features(r, x, 0, turned, 2), _features(r, x, 1, turned, 2)
    else:
        a, b = _features(r, x, 0, turned // 2), _features(r, x, turned // 2, turned)
    parts = [
        r.emit("Sub", [r.emit("Mul", [a, cosines]), r.emit("Mul", [b, sines])]),
        r.emit("Add", [r.emit("Mul", [b, cosines]), r.emit("Mul", [a, sines])]),
    ]
    if r.integer("interleaved"):
        last = r.constant([-1], np.int64)
        pairs = r.emit("Concat", [r.emit("Unsqueeze", [part, last]) for part in parts], {"axis": -1})
        parts = [r.reshape(pairs, 0, 0, 0, turned)]
    is_partial = r.integer("rotary_embedding_dim") and _size(r.required(0) if rank == 4 else x, -1) != turned
    rest = _features(r, x, turned, np.iinfo(np.int64).max) if is_partial else None
    parts += [] if rest is None else [rest]
    whole = parts[0] if len(parts) == 1 else r.emit("Concat", parts, {"axis": -1})
    r.finish(r.reshape(whole, 0, 0, -1) if rank == 3 else whole)


def _features(r: NodeRewrite, x: ir.Value, start: int, stop: int, step: int = 1) -> ir.Value:
    bounds = [r.constant([number], np.int64) for number in (start, stop, -1, step)]
    return r.emit("Slice", [x, *bounds])


Rule = Callable[[NodeRewrite], str | None]
RULES: Mapping[tuple[str, str], Rule] = {
    (MICROSOFT, "Gelu"): _gelu,
    (MICROSOFT, "BiasGelu"): _gelu,
    (MICROSOFT, "FastGelu"): _fast_gelu,
    (MICROSOFT, "QuickGelu"): _quick_gelu,
    (MICROSOFT, "SkipLayerNormalization"): _skip_layer_norm,
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): _skip_rms_norm,
    (MICROSOFT, "EmbedLayerNormalization"): _embed_layer_norm,
    (MICROSOFT, "FusedMatMul"): _fused_matmul,
    (MICROSOFT, "RotaryEmbedding"): _microsoft_rotary,
    (MICROSOFT, "SimplifiedLayerNormalization"): _rms_norm,
    ("", "RotaryEmbedding"): _rotary,
    (MICROSOFT, "Attention"): _microsoft_attention,
    (MICROSOFT, "MultiHeadAttention"): _multi_head_attention,
    ("", "SimplifiedLayerNormalization"): _rms_norm,
    ("", "RMSNormalization"): _rms_norm,
    ("", "Attention"): _onnx_attention,
    ("", "Swish"): _swish,
}
"""By domain and operator: rewrites a node in place, or raises NotRewritten; returns a note or nothing."""
