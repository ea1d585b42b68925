"""Selection for the accelerator: whole-tensor integer ops to tiled instructions (`hpcc_tile.run`).

One function per nn op, in a table. A linear and what follows it (norm or activation, bf16, quantisation) becomes one
MATRIX instruction and one fused VECTOR chain per token tile; attention becomes four instructions per head and row tile.
The functions stand in files by the kind of chain they make.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from xdsl.ir import Operation

from compiler.backends.fpga import attention_chains, borders, head_chains, linear_chains, row_chains
from compiler.backends.fpga.context import (
    Context,
    location_name,
)
from compiler.dialects import nn
from hw_targets.errors import InputError

RULES: Mapping[type[Operation], Callable[[Context, Any], None]] = {
    nn.EmbeddingOp: row_chains.embedding,
    nn.QLinearOp: linear_chains.qlinear,
    nn.QAttentionOp: attention_chains.qattention,
    nn.QuantizeOp: row_chains.quantize,
    nn.TakeTokenOp: row_chains.take_token,
    nn.LayerNormOp: row_chains.norm,
    nn.RmsNormOp: head_chains.rms_norm,
    nn.RotaryOp: head_chains.rotary,
    nn.ConcatOp: row_chains.concat,
    nn.MeanPoolOp: row_chains.mean_pool,
    nn.CastOp: borders.alias,
    nn.ReshapeOp: borders.alias,
    nn.HandOverOp: borders.hand_over,
}


def lower(c: Context, op: Operation) -> None:
    """Lower one op. Raises InputError for an op that has no row in the table."""
    if op in c.done or isinstance(op, nn.ConstantOp | nn.WeightOp):
        return
    rule = RULES.get(type(op))
    if rule is None:
        raise InputError(
            "HPCC1402",
            f"{op.name} has no instruction on this accelerator",
            where=location_name(op),
            hint="run the stages in order; `hpcc --check` lists what stays on the host",
        )
    c.b.location = op.location
    rule(c, op)
