"""What `--precision int8` of a CPU computes, in numpy: the same codes, layer by layer, in the interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp, TensorType, f32
from xdsl.ir import Operation

from compiler.backends.cpu.lowering import matrix_of
from compiler.backends.cpu.packing import quantized
from compiler.dialects import nn
from compiler.frontend.importer import import_onnx
from compiler.interpreters import evaluate as evaluation
from compiler.interpreters.nn_attention import Heads
from compiler.pipelines import stages_between
from compiler.tools.stages import StageRunner, new_context
from compiler.weights import WeightStore

Array = NDArray[Any]
IN_BYTES = ("layer.", "lm_head")
"""How the roles of linears begin that are computed in int8: those that work on tokens."""


def rounded(w: Array) -> Array:
    codes, scales = quantized(w)
    return codes.astype(np.float32) * scales[:, None]


def with_rounded_weights(
    model: Path, shapes: Mapping[str, tuple[int, ...]], spec: str, family: str
) -> tuple[ModuleOp, WeightStore]:
    """The pruned module whose layers multiply by what the codes of their weights stand for; `family` names the shapes of
    `hp:S`."""
    imported = import_onnx(model, dict(shapes))
    module, store = imported.module, imported.store
    runner = StageRunner(new_context(store), "cpu-avx2", spec, kind="cpu", shapes=family)
    runner.run(module, stages_between("cpu", "import", "sparsify"))
    for op in list(module.walk()):
        if isinstance(op, nn.LinearOp) and op.role.data.startswith(IN_BYTES):
            key = store.add(f"{op.role.data}.codes", rounded(matrix_of(op.weight, store)))
            weight = nn.WeightOp(key, store.digest(key), TensorType(f32, nn.shape_of(op.weight)))
            op.parent.insert_op_before(weight, op)  # pyright: ignore[reportOptionalMemberAccess]
            op.operands[1] = weight.result
    return module, store


def attend_in_bytes(q: Array, k: Array, v: Array, mask: Array | None, heads: Heads) -> Array:
    """Attention with codes of q and k by token of a head, of v by feature of a head, and probabilities of 0 to 255."""

    def split(x: Array, count: int) -> Array:
        by_head = x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)
        return np.repeat(by_head, heads.heads // count, axis=1)

    def coded(x: Array) -> tuple[Array, Array]:
        codes, scales = quantized(x.reshape(-1, x.shape[-1]))
        return codes.reshape(x.shape).astype(np.float32), scales.reshape(*x.shape[:-1], 1)

    seen = np.ones((1, 1, 1, k.shape[1]), np.bool_) if mask is None else (mask != 0)[:, None, None, :]
    values, value_scales = coded(np.where(seen, split(v, heads.groups).transpose(0, 1, 3, 2), 0))
    (queries, query_scales), (keys, key_scales) = coded(split(q, heads.heads)), coded(split(k, heads.groups))
    scores = queries @ keys.transpose(0, 1, 3, 2) * key_scales.transpose(0, 1, 3, 2)
    if heads.causal:
        seen = seen & np.tri(q.shape[1], k.shape[1], dtype=np.bool_)
    top = np.where(seen, scores, -np.inf).max(axis=-1, keepdims=True)
    codes = np.where(seen, np.rint(255 * short_exp((scores - top) * (query_scales * np.float32(heads.scale)))), 0)
    found = codes @ values.transpose(0, 1, 3, 2) / np.maximum(codes.sum(axis=-1, keepdims=True), 1)
    found = found * value_scales.transpose(0, 1, 3, 2)
    return found.transpose(0, 2, 1, 3).reshape(q.shape).astype(np.float32)


def short_exp(x: Array) -> Array:
    """The kernel's e^x for a byte: 2^n times a polynomial of degree 3 on [-0.5, 0.5]."""
    x = np.clip(x * np.float32(1.44269504), -30, 0).astype(np.float32)
    n = np.rint(x)
    r = x - n
    found = ((np.float32(0.05517166) * r + np.float32(0.24261112)) * r + np.float32(0.69326098)) * r + np.float32(0.99992807)
    assert np.abs(255 * (np.ldexp(found, n.astype(np.int32)) - np.exp2(x.astype(np.float64)))).max() < 0.03
    return np.ldexp(found, n.astype(np.int32))


def evaluate_quantized(
    module: ModuleOp, store: WeightStore, inputs: Mapping[str, Array], attention: bool
) -> dict[str, Array]:
    """`evaluate` with the inputs of the layers' linears rounded to codes, one scale for each token; `attention` too."""
    patch = pytest.MonkeyPatch()
    plain = evaluation.run_op

    def run(op: Operation, arguments: list[Array], store: WeightStore) -> list[Array]:
        if isinstance(op, nn.LinearOp) and op.role.data.startswith(IN_BYTES):
            x = arguments[0]
            arguments = [rounded(x.reshape(-1, x.shape[-1])).reshape(x.shape), *arguments[1:]]
        if isinstance(op, nn.AttentionOp) and attention:
            mask = None if op.mask is None else arguments[3]
            return [attend_in_bytes(*arguments[:3], mask, Heads.of(op))]
        return plain(op, arguments, store)

    with patch.context() as context:
        context.setattr(evaluation, "run_op", run)
        return evaluation.evaluate(module, store, inputs)
