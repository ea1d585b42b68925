"""docs/SUPPORTED_OPS.md, from the tables that import ONNX operators: which operator of which opset runs where."""

from __future__ import annotations

from compiler.frontend.contrib import RULES
from compiler.frontend.operators import CONVERTERS, MICROSOFT
from compiler.frontend.quantised import REWRITES

CASES_OPSET = 28
"""The opset of the onnx package whose node cases tests/golden/node_cases.txt lists."""

_PLACES = {
    "MatMul": "linear layer, or a product of attention",
    "Gemm": "linear layer (alpha and beta 1, A not transposed)",
    "Einsum": "linear layer, or a product of attention (two operands)",
    "Conv": "linear layer: kernels of one position, and windows, which the host cuts into patches (not depthwise)",
    "Softmax": "attention",
    "Attention": "attention (no cache, no soft cap)",
    "LayerNormalization": "norm over the last axis",
    "RMSNormalization": "norm over the last axis, or of every head",
    "RotaryEmbedding": "rotary embedding of q and k, its angles constant",
    "Cos": "angles of rotary embeddings (constant positions)",
    "Sin": "angles of rotary embeddings (constant positions)",
    "Neg": "part of a rotary embedding",
    "ReduceMean": "part of a norm",
    "ReduceSum": "part of mean pooling",
    "Gelu": "activation behind a linear layer",
    "Swish": "activation behind a linear layer",
    "Erf": "part of GELU",
    "Tanh": "activation behind a linear layer, part of GELU",
    "Sigmoid": "part of SiLU and quick GELU",
    "Relu": "activation behind a linear layer",
    "Gather": "embedding, one token, a choice of q, k or v",
    "Concat": "tokens put before others, part of a rotary embedding",
    "Add": "bias, residual, embedding sum, positions, mask, bias of scores",
    "Mul": "gate of a feed-forward layer, LayerScale, scale of scores, part of an activation, norm, mask or pooling",
    "Div": "scale of scores, part of an activation, norm or pooling",
    "Sub": "part of a norm or of a mask",
    "Pow": "part of a norm or an activation",
    "Sqrt": "part of a norm",
    "Reciprocal": "part of a norm",
    "Where": "mask (causal too), guard of masked rows",
    "IsNaN": "guard of masked rows",
    "Equal": "part of a mask",
    "Not": "part of a mask",
    "Max": "part of a mask (a least sum)",
    "And": "part of a mask",
    "Or": "part of a mask",
    "Cast": "part of a mask; between integer types of ids",
    "Expand": "part of a mask; a token for every sample",
    "GatherND": "part of a mask",
    "Transpose": "heads, layout of a weight",
    "Reshape": "heads, rows",
    "Flatten": "rows",
    "Squeeze": "rows",
    "Unsqueeze": "rows, part of a mask",
    "Slice": "one token, q, k or v, part of a rotary embedding",
    "Split": "q, k and v",
    "Clip": "part of mean pooling",
    "DequantizeLinear": "integer weights, kept as codes where the accelerator can use them",
    "Identity": "nothing to do",
    "Dropout": "nothing to do",
}
"""What of the accelerator's work an operator may be part of. Elsewhere, and where it is not listed, the host runs it."""

_HEAD = """# Supported operators

Generated from the compiler's tables by `make docs`; do not edit.

Opset 11 to {newest}. An operator runs on the accelerator where `hpcc-fuse` recognises what it is part of;
everything else runs on the host through ONNX Runtime, and `hpcc MODEL.onnx --target T --check` says which node,
why and with what share of the MACs. An operator that is not on this page always runs on the host.

*meaning*: `import` has a meaning of its own in the interpreters, checked against the backend node tests of the
onnx package; `spelled out` is rewritten into plain operators before import. Shapes, axes, bounds and scales must
be constants once the inputs' shapes are bound. float16, bfloat16 and float64 are computed in fp32. Node cases that
stay on the host are listed, each with its reason, in
[tests/golden/node_cases.txt](../tests/golden/node_cases.txt).
"""


def imported_operators() -> frozenset[str]:
    """The operators of the default domain with a meaning or a spelling."""
    return frozenset({*CONVERTERS, *(name for domain, name in RULES if not domain)})


def _versions(name: str) -> str:
    """The opsets that define or change an operator, up to CASES_OPSET."""
    import onnx

    schemas = onnx.defs.get_all_schemas_with_history()
    found = {s.since_version for s in schemas if s.name == name and s.domain == "" and not s.deprecated}
    return ", ".join(str(version) for version in sorted(found) if version <= CASES_OPSET) or "ONNX Runtime's"


def page() -> str:
    """The text of docs/SUPPORTED_OPS.md."""
    rows = [
        f"| {name} | {_versions(name)} | {'import' if name in CONVERTERS else 'spelled out'} | {_PLACES.get(name, 'host')} |"
        for name in sorted(imported_operators())
    ]
    table = ["## ONNX", "", "| operator | versions | meaning | on the accelerator as |", "|---|---|---|---|", *rows]
    fused = sorted({*(name for domain, name in RULES if domain), *MICROSOFT})
    taken = sorted(name for domain, name in REWRITES if name not in CONVERTERS or name == "DequantizeLinear")
    lists = [
        "## com.microsoft",
        "",
        f"Spelled out: {', '.join(fused)}.",
        "",
        "## Quantised models",
        "",
        "Become float operators on the file's integer weights; the accelerator quantises activations itself (the report",
        f"says so): {', '.join(dict.fromkeys(taken))}.",
    ]
    return "\n".join([_HEAD.format(newest=CASES_OPSET), *table, "", *lists]) + "\n"
