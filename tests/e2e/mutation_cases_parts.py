"""Faults in what only a model with numbers added to its scores and with several parts of the device has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from compiler.dialects import nn
from compiler.passes.fuse import FusePass
from compiler.passes.quantize import QuantizePass
from runtime import program as runtime_program
from runtime.simulator import functional
from tests.e2e.mutations import BITS, GRAPH, ONNX_RUNTIME, PARAMETERS, Mutation, Patch, after, ops, swap_out

# ---- numbers added to scores are lost -------------------------------------------------------------------------------


def drop_the_bias_of_scores(module: ModuleOp) -> None:
    op = ops(module, nn.AttentionOp)[0]
    assert op.bias is not None
    fields: dict[str, Any] = {"heads": op.heads.value.data, "scale": op.scale.value.data}
    swap_out(op, nn.AttentionOp(op.role.data, op.q, op.k, op.v, op.mask, **fields, type=op.result.type))


def drop_the_integer_bias_of_scores(module: ModuleOp) -> None:
    op = ops(module, nn.QAttentionOp)[0]
    assert op.bias is not None
    fields: dict[str, Any] = {"heads": op.heads.value.data, "scale": op.scale.value.data}
    q, k, v = (op.q, op.q_scale), (op.k, op.k_scale), (op.v, op.v_scale)
    swap_out(op, nn.QAttentionOp(op.role.data, q, k, v, op.mask, **fields, type=op.result.type))


def softmax_with_the_first_row_of_the_bias(patch: Patch) -> None:
    """The simulator alone adds the bias of the first query to all of them."""
    prepare = functional.PREPARE["vector.softmax"]

    def broken(simulator: Any, instruction: Any) -> Any:
        assert "bias" in instruction.operands
        return prepare(simulator, replace(instruction, immediates={**instruction.immediates, "bias_rows": 1}))

    patch.setitem(functional.PREPARE, "vector.softmax", broken)  # type: ignore[arg-type]


# ---- parts are mixed up ---------------------------------------------------------------------------------------------


def forget_what_the_host_made(patch: Patch) -> None:
    """The second part reads what lay at its border before the host had run."""
    true = runtime_program.Program._run_device

    def broken(self: Any, values: Any, part: int, watch: Any = None) -> Any:
        early = {border.name for border in self.manifest.inputs if border.part}
        zeros = {name: np.zeros_like(value) if name in early else value for name, value in values.items()}
        return true(self, zeros, part, watch)

    patch.setattr(runtime_program.Program, "_run_device", broken)


def start_anew_behind_the_pause(patch: Patch) -> None:
    """What the first part keeps on the chip for the second is lost."""
    true = functional.Simulator.run

    def broken(self: Any, watch: Any = None, part: int | None = None) -> None:
        if part:
            self.memories.fill(functional.POISON)
        true(self, watch, part)

    patch.setattr(functional.Simulator, "run", broken)


MUTATIONS: dict[str, Mutation] = {
    "drop a bias: scores, fuse": Mutation(
        lambda patch: after(patch, FusePass, drop_the_bias_of_scores),
        rf"{GRAPH}|{ONNX_RUNTIME}",
        each=r"stage 'fuse': output",
        biased=True,
    ),
    "drop a bias: scores, quantize": Mutation(
        lambda patch: after(patch, QuantizePass, drop_the_integer_bias_of_scores),
        rf"{PARAMETERS}|{ONNX_RUNTIME}",
        biased=True,
    ),
    "drop a bias: scores, simulator": Mutation(softmax_with_the_first_row_of_the_bias, BITS, biased=True),
    "mix parts up: border": Mutation(forget_what_the_host_made, rf"{BITS}|{ONNX_RUNTIME}", biased=True),
    "mix parts up: memory": Mutation(start_anew_behind_the_pause, rf"{BITS}|{ONNX_RUNTIME}", biased=True),
}
