"""Faults in what the graph means: biases, heads, scales, masks, the axis of a pattern."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from xdsl.dialects.builtin import AffineMapAttr, FloatAttr, ModuleOp, f32
from xdsl.ir.affine import AffineMap

from compiler.backends.fpga import context, emission
from compiler.dialects import nn
from compiler.dialects.tile import RunOp, ViewOp
from compiler.frontend import importer
from compiler.passes import quantize as quantize_pass
from compiler.passes import sparsify
from compiler.passes.fuse import FusePass
from compiler.passes.quantize import QuantizePass
from compiler.passes.tile import TilePass
from compiler.sparsity.patterns import NM
from hw_targets import numerics
from runtime.simulator import functional
from tests.e2e.mutations import (
    BITS,
    GRAPH,
    MODEL,
    ONNX_RUNTIME,
    PARAMETERS,
    PATTERN,
    TILED,
    Array,
    Mutation,
    Patch,
    after,
    altered,
    ops,
    swap_out,
)

# ---- a bias is dropped ----------------------------------------------------------------------------------------------


def drop_a_bias(module: ModuleOp, role: str = "layer.0.attn.v") -> None:
    op = next(op for op in ops(module, nn.LinearOp) if op.role.data == role)
    assert op.bias is not None
    swap_out(op, nn.LinearOp(role, op.x, op.weight, None, op.result.type))


def drop_an_integer_bias(module: ModuleOp) -> None:
    op = next(op for op in ops(module, nn.QLinearOp) if op.role.data == "layer.0.attn.v")
    assert op.bias is not None
    scaled = (op.x, op.x_scale, op.weight, op.weight_scale)
    swap_out(op, nn.QLinearOp(op.role.data, *scaled, None, op.residual, op.result.type))


def lower_without_bias(patch: Patch) -> None:
    columns = context.Context.columns

    def broken(self: Any, layer: str, width: int, keys: list[str], *place: int) -> Any:
        return columns(self, layer, width, [keys[0], "", *keys[2:]] if layer == "layer.0.attn.v" else keys, *place)

    patch.setattr(context.Context, "columns", broken)


# ---- heads are swapped ----------------------------------------------------------------------------------------------


def swap_heads_of_the_context(module: ModuleOp) -> None:
    """The first head's context is written to the last head's place, and so on."""
    for run in ops(module, RunOp):
        if run.function.data == "vector.context":
            view = run.named["out"].owner
            assert isinstance(view, ViewOp)
            row, column = view.origin.data.results
            count, last = view.origin.data.num_dims, MODEL.hidden - MODEL.width
            view.properties["origin"] = AffineMapAttr(AffineMap(count, 0, (row, column * -1 + last)))


def swap_heads_of_a_weight(patch: Patch) -> None:
    """Import takes the columns of two heads of V for each other."""
    array = importer.ModelImport.array
    width = MODEL.width

    def broken(self: Any, name: str, values: Array, dtype: Any = None) -> Any:
        if name == "layer.0.attention.value.weight":
            values = np.concatenate([values[:, width : 2 * width], values[:, :width], values[:, 2 * width :]], axis=1)
        return array(self, name, values, dtype)

    patch.setattr(importer.ModelImport, "array", broken)


# ---- a scale is shifted ---------------------------------------------------------------------------------------------


def shift_the_scales_of_codes(patch: Patch) -> None:
    """Every row gets the scale of the row before it."""
    quantise = numerics.quantize_weights

    def broken(weights: Array, *tied: int) -> tuple[Array, Array]:
        codes, scale = quantise(weights, *tied)
        return codes, np.roll(scale, 1)

    patch.setattr(quantize_pass, "numerics", altered(numerics, quantize_weights=broken))


def shift_the_stored_scales(patch: Patch) -> None:
    content = emission._content

    def broken(op: Any, store: Any) -> Array:
        data = content(op, store)
        if op.kind.data == "columns" and op.label.data == "layer.0.ffn.up.columns":
            return np.concatenate([np.roll(data[: 4 * MODEL.intermediate], 4), data[4 * MODEL.intermediate :]])
        return data

    patch.setattr(emission, "_content", broken)


def halve_the_score_scale(module: ModuleOp) -> None:
    op = ops(module, nn.QAttentionOp)[0]
    op.properties["scale"] = FloatAttr(op.scale.value.data / 2, f32)


# ---- a mask is ignored ----------------------------------------------------------------------------------------------


def ignore_the_mask(module: ModuleOp) -> None:
    op = ops(module, nn.AttentionOp)[0]
    assert op.mask is not None
    fields: dict[str, Any] = {"heads": op.heads.value.data, "scale": op.scale.value.data}
    swap_out(op, nn.AttentionOp(op.role.data, op.q, op.k, op.v, None, **fields, type=op.result.type))


def ignore_the_integer_mask(module: ModuleOp) -> None:
    op = ops(module, nn.QAttentionOp)[0]
    assert op.mask is not None
    fields: dict[str, Any] = {"heads": op.heads.value.data, "scale": op.scale.value.data}
    q, k, v = (op.q, op.q_scale), (op.k, op.k_scale), (op.v, op.v_scale)
    swap_out(op, nn.QAttentionOp(op.role.data, q, k, v, None, **fields, type=op.result.type))


def softmax_without_mask(patch: Patch) -> None:
    prepare = functional.PREPARE["vector.softmax"]

    def broken(simulator: Any, instruction: Any) -> Any:
        operands = {name: place for name, place in instruction.operands.items() if name != "mask"}
        assert len(operands) < len(instruction.operands)
        return prepare(simulator, replace(instruction, operands=operands))

    patch.setitem(functional.PREPARE, "vector.softmax", broken)  # type: ignore[arg-type]


# ---- groups along the wrong axis ------------------------------------------------------------------------------------


def prune_along_the_wrong_axis(patch: Patch) -> None:
    mask = NM.mask
    patch.setattr(NM, "mask", lambda self, w, saliency=None: mask(NM(self.n, self.m, "out"), w, saliency))


def take_a_stored_matrix_for_the_logical_one(patch: Patch) -> None:
    """A MatMul's weight is stored in x out: pruned as it lies, its groups run along the outputs."""
    patch.setattr(sparsify, "logical", lambda array, weight: array)


MUTATIONS: dict[str, Mutation] = {
    "drop a bias: fuse": Mutation(
        lambda patch: after(patch, FusePass, drop_a_bias),
        GRAPH + r"hpcc_nn.linear of node '/layer.0.attention.value/",
        each=r"stage 'fuse': output",
    ),
    "drop a bias: quantize": Mutation(
        lambda patch: after(patch, QuantizePass, drop_an_integer_bias), PARAMETERS + r"the bias of layer\.0\.attn\.v"
    ),
    "drop a bias: tile": Mutation(lower_without_bias, BITS, each=TILED),
    "swap two heads: import": Mutation(swap_heads_of_a_weight, rf"{GRAPH}|{ONNX_RUNTIME}", each=r"stage 'import': output"),
    "swap two heads: tile": Mutation(lambda patch: after(patch, TilePass, swap_heads_of_the_context), BITS, each=TILED),
    "shift a scale: codes": Mutation(shift_the_scales_of_codes, ONNX_RUNTIME, each=PARAMETERS + r"the weight of layer\.0"),
    "shift a scale: scores": Mutation(
        lambda patch: after(patch, QuantizePass, halve_the_score_scale),
        rf"{PARAMETERS}|{ONNX_RUNTIME}",
        each=PARAMETERS + r"scale of layer\.0\.attn",
    ),
    "shift a scale: stored": Mutation(shift_the_stored_scales, BITS),
    "ignore a mask: fuse": Mutation(
        lambda patch: after(patch, FusePass, ignore_the_mask),
        ONNX_RUNTIME,
        each=r"stage 'fuse': output .* hpcc_nn.attention",
    ),
    "ignore a mask: quantize": Mutation(
        lambda patch: after(patch, QuantizePass, ignore_the_integer_mask),
        ONNX_RUNTIME,
        each=PARAMETERS + r"the mask of layer\.0\.attn",
    ),
    "ignore a mask: simulator": Mutation(softmax_without_mask, BITS),
    "wrong N:M axis: mask": Mutation(prune_along_the_wrong_axis, PATTERN, 1, "nm:2:4"),
    "wrong N:M axis: storage": Mutation(take_a_stored_matrix_for_the_logical_one, PATTERN, 1, "nm:2:4"),
}
