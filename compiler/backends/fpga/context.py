"""What all kinds of chains share while a program is selected: where every value lies, how tiles are read and written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TypeVar

from xdsl.dialects.builtin import (
    BFloat16Type,
    Float32Type,
    NameLoc,
    bf16,
    f32,
    i8,
)
from xdsl.ir import Attribute, Operation, SSAValue

from compiler.backends.fpga.builder import Buffer, Index, TileBuilder
from compiler.backends.fpga.planning import SLOTS, TilePlan
from compiler.backends.fpga.weights import WeightPlan
from compiler.dialects import nn
from compiler.dialects.tile import Part, buffer_type, element_bytes, memory_of
from compiler.weights import WeightStore
from hw_targets.errors import InputError
from hw_targets.isa import Activation, MatrixMode, Memory, Norm
from hw_targets.target import Target

Kind = TypeVar("Kind", bound=Operation)

SMALL = 16384
"""Bytes up to which a tensor stays on chip even where large ones do not (scales, masks, pooled vectors)."""


@dataclass(frozen=True)
class Quantised:
    """Codes and scales of a tensor on chip; `codes` may lie in the weight memory (K)."""

    codes: Buffer
    scale: Buffer


def enum_code(kind: type[Activation] | type[MatrixMode] | type[Norm], name: str) -> int:
    """The field value of a StrEnum member: its position."""
    return [member.value for member in kind].index(name)


def norm_code(norm: nn.LayerNormOp | nn.RmsNormOp | None) -> int:
    """The field `norm` of a chain with this normalisation."""
    return enum_code(Norm, (Norm.NONE if norm is None else Norm.RMS if isinstance(norm, nn.RmsNormOp) else Norm.LAYER).value)


def norm_keys(norm: nn.LayerNormOp | nn.RmsNormOp) -> list[str]:
    """The keys of its parameters in the order of the operand `columns`."""
    return [key_of(norm.gamma)] if isinstance(norm, nn.RmsNormOp) else [key_of(norm.gamma), key_of(norm.beta)]


def location_name(op: Operation) -> str:
    """The ONNX node an op comes from."""
    return op.location.desc.data if isinstance(op.location, NameLoc) else ""


class Context:
    """The state of one selection. `buffers` maps bf16/f32 values, `quantised` quantize results, `values` those of V that
    are made head by head, `masks` 0/1 inputs; `done` holds the ops that another one's instruction computes."""

    def __init__(
        self, builder: TileBuilder, input_names: dict[SSAValue, str], plan: TilePlan, target: Target, store: WeightStore
    ) -> None:
        self.b = builder
        self.plan = plan
        self.target = target
        self.store = store
        self.input_names = input_names
        self.buffers: dict[SSAValue, Buffer] = {}
        self.quantised: dict[SSAValue, Quantised] = {}
        self.done: set[Operation] = set()
        self.masks: dict[SSAValue, Buffer] = {}
        self.biases: dict[SSAValue, Buffer] = {}
        self.values: dict[SSAValue, nn.QuantizeOp] = {}
        self.regions: dict[str, tuple[Buffer, list[Part]]] = {}
        self.tables: dict[str, Buffer] = {}
        self.parameters: dict[tuple[str, ...], Buffer] = {}
        self.output_names: dict[SSAValue, str] = {}
        self.written: set[str] = set()
        """Outputs that an instruction has written already."""

    # ---- values -----------------------------------------------------------------------------------------------------

    def buffer_of(self, value: SSAValue) -> Buffer:
        origin = origin_of(value)
        owner = origin.owner
        if origin not in self.buffers and isinstance(owner, nn.WeightOp):
            self._stored(owner)
        if origin not in self.buffers:
            raise InputError(
                "HPCC1406",
                "the device has no place for a tensor that an instruction reads",
                where=location_name(owner) if isinstance(owner, Operation) else "",
                hint="ids, 0/1 masks and fp32 activations can enter the device",
            )
        return self.buffers[origin]

    def _stored(self, op: nn.WeightOp) -> None:
        """A bf16 tensor of the file that an instruction reads as an activation (a class token, positions)."""
        shape, key = nn.shape_of(op.result), op.key.data
        if isinstance(nn.element_type_of(op.result), BFloat16Type) and len(shape) >= 2:
            self.buffers[op.result] = self.b.dram("table", key, prod(shape[:-1]), shape[-1], bf16, [key])

    def mask_of(self, value: SSAValue) -> Buffer:
        """A 0/1 input as bytes on chip, [batch, tokens], loaded at its first use."""
        value = origin_of(value)
        if value not in self.masks:
            batch, tokens = nn.shape_of(value)
            region = self.b.dram("input", self.input_names[value], batch, tokens, i8)
            mask = self.b.alloc("mask", Memory.ACT, batch, tokens, i8)
            self.copy_in(region, mask, "inputs")
            self.masks[value] = mask
        return self.masks[value]

    def bias_of(self, value: SSAValue, extents: tuple[int, int, int, int]) -> Buffer:
        """What is added to scores, fp32 in DRAM: [sequences * heads * queries, keys] of the file or of an input."""
        value = origin_of(value)
        if value not in self.biases:
            rows, cols = prod(extents[:3]), extents[3]
            if isinstance(value.owner, nn.WeightOp):
                key = value.owner.key.data
                self.biases[value] = self.b.dram("table", key, rows, cols, f32, [key])
            elif value in self.input_names:
                self.biases[value] = self.b.dram("input", self.input_names[value], rows, cols, f32)
            else:
                self.buffer_of(value)
        return self.biases[value]

    def copy_in(self, region: Buffer, target: Buffer, layer: str, *, to_param: bool = False) -> None:
        self.b.run(
            "load.copy",
            {"src": region, "dst": target},
            {"rows": region.rows, "row_bytes": row_bytes(region), "to_param": int(to_param)},
            layer,
        )

    def columns(self, layer: str, width: int, keys: list[str], first: int = 0, cols: int | None = None) -> Buffer:
        """Per-column fp32 parameters in the parameter memory, one row per key ("" = zeros): all, or `cols` from `first`."""
        label = f"{layer}.columns"
        if (label, *keys) not in self.parameters:
            self.parameters[label, *keys] = self.b.dram("columns", label, len(keys), width, f32, keys)
        region = self.b.view(self.parameters[label, *keys], 0, first, len(keys), cols or width)
        columns = self.b.alloc(label, Memory.PARAM, len(keys), region.cols, f32)
        self.copy_in(region, columns, layer, to_param=True)
        return columns

    def output_for(self, value: SSAValue, rows: int, cols: int) -> Buffer | None:
        """The output region of a large fp32 value that only the caller reads: it need not pass through the chip twice."""
        while isinstance(user := only_user(value), nn.ReshapeOp):
            value = user.result
        name = self.output_names.get(value)
        if name is None or not value.has_one_use() or rows * cols * 4 <= SMALL:
            return None
        self.written.add(name)
        return self.b.dram("output", name, rows, cols, f32)

    # ---- tensors on chip or in DRAM ---------------------------------------------------------------------------------

    def tensor(self, label: str, rows: int, cols: int, element: Attribute, memory: Memory = Memory.ACT) -> Buffer:
        """A whole tensor: on chip, or in DRAM where the plan says so and it is not small."""
        size = rows * cols * element_bytes(buffer_type(memory, rows, cols, element))
        if self.plan.spill and size > SMALL:
            return self.b.dram("scratch", label, rows, cols, element)
        return self.b.alloc(label, memory, rows, cols, element)

    def read(
        self,
        buffer: Buffer,
        row: Index,
        rows: int,
        layer: str,
        label: str,
        *,
        col: Index | int = 0,
        cols: int | None = None,
        memory: Memory = Memory.ACT,
        slots: int = SLOTS,
        stage: int = 0,
    ) -> Buffer:
        """A rectangle of a tensor on chip; from DRAM it is loaded into a temporary."""
        view = self.b.view(buffer, row, col, rows, cols or buffer.cols)
        if not in_dram(buffer):
            return view
        temporary = self.b.alloc(label, memory, rows, view.cols, buffer.type.element_type, slots)
        if memory is Memory.WEIGHTS:
            fields = {"rows": rows, "row_bytes": row_bytes(view)}
            self.b.run("load.rows", {"src": view, "dst": temporary}, fields, layer, stage=stage)
        else:
            self.copy_in(view, temporary, layer)
        return temporary

    @contextmanager
    def writing(
        self,
        buffer: Buffer | None,
        row: Index,
        rows: int,
        layer: str,
        label: str,
        *,
        col: Index | int = 0,
        cols: int | None = None,
        stage: int = 0,
    ) -> Iterator[Buffer | None]:
        """Where an instruction writes a rectangle of a tensor; to DRAM it goes through a temporary afterwards."""
        if buffer is None:
            yield None
            return
        view = self.b.view(buffer, row, col, rows, cols or buffer.cols)
        if not in_dram(buffer):
            yield view
            return
        temporary = self.b.alloc(label, Memory.ACT, rows, view.cols, buffer.type.element_type, SLOTS)
        yield temporary
        fields = {"rows": rows, "row_bytes": row_bytes(view)}
        self.b.run("store.copy", {"src": temporary, "dst": view}, fields, layer, stage=stage)

    # ---- chains -----------------------------------------------------------------------------------------------------

    def chain_quantize(self, value: SSAValue) -> nn.QuantizeOp | None:
        """The row-wise quantize op that a vector chain ending in `value` can do on its way."""
        for use in value.uses:
            op = use.operation
            if isinstance(op, nn.QuantizeOp) and op.granularity.data is not nn.Granularity.SEQUENCE_HEAD:
                return op
        return None

    def smooth_keys(self, value: SSAValue) -> list[str]:
        """The key of the factors that smooth the codes of a norm's result; empty if they are not smoothed."""
        quantize = self.chain_quantize(value)
        return [] if quantize is None or quantize.smooth is None else [key_of(quantize.smooth)]

    def quantised_target(self, op: nn.QuantizeOp, layer: str) -> Quantised:
        """Buffers for a quantize op's results: K goes to the weight memory, where QK^T reads it."""
        shape = nn.shape_of(op.codes)
        tokens, width = prod(shape[:-1]), shape[-1]
        is_key = any(isinstance(u.operation, nn.QAttentionOp) and u.operation.k is op.codes for u in op.codes.uses)
        memory = Memory.WEIGHTS if is_key else Memory.ACT
        return Quantised(
            self.tensor(f"{layer}.codes", tokens, width, i8, memory),
            self.tensor(f"{layer}.scale", tokens, op.groups, f32),
        )

    def chain_targets(self, value: SSAValue, layer: str) -> tuple[Buffer | None, Quantised | None, int]:
        """Where a chain ending in the bf16 `value` writes: the bf16 tensor if anything else reads it, and the codes of
        its first row-wise quantize op with the group width."""
        shape = nn.shape_of(value)
        tokens, width = prod(shape[:-1]), shape[-1]
        quantize = self.chain_quantize(value)
        quantised = None
        group = width
        if quantize is not None:
            quantised = self.quantised_target(quantize, layer)
            self.quantised[quantize.codes] = quantised
            self.done.add(quantize)
            group = width // quantize.groups
        out = None
        if any(use.operation is not quantize for use in value.uses):
            out = self.tensor(f"{layer}.out", tokens, width, bf16)
            self.buffers[value] = out
        return out, quantised, group

    def rows(self, buffer: Buffer | None, first: Index, rows: int) -> Buffer | None:
        return None if buffer is None else self.b.view(buffer, first, 0, rows, buffer.cols)

    # ---- one function per op ----------------------------------------------------------------------------------------

    def multiply(
        self,
        x: Buffer,
        w: Buffer,
        acc: Buffer,
        weight: WeightPlan,
        layer: str,
        *,
        stage: int = 0,
        accumulate: int = 0,
    ) -> None:
        self.b.run(
            "matrix.multiply",
            {"x": x, "w": w, "acc": acc},
            {
                "rows": x.rows,
                "outs": weight.outs,
                "ins": weight.ins,
                "mode": enum_code(MatrixMode, weight.mode),
                "x_unsigned": int(weight.x_unsigned),
                **weight.pattern_fields,
                "accumulate": accumulate,
            },
            layer,
            stage=stage,
        )

    def quantised_of(self, codes: SSAValue) -> Quantised:
        return self.quantised[origin_of(codes)]


def origin_of(value: SSAValue) -> SSAValue:
    """The value behind reshapes and integer casts, which keep the bytes' order."""
    while isinstance(value.owner, nn.ReshapeOp) or (
        isinstance(value.owner, nn.CastOp) and not isinstance(nn.element_type_of(value), BFloat16Type | Float32Type)
    ):
        value = value.owner.x
    return value


def follower_of(op: Operation, value: SSAValue, *kinds: type[Kind]) -> Kind:
    """The one user of a value that its instruction computes too. Raises InputError where it is another."""
    user = only_user(value)
    if isinstance(user, kinds):
        return user
    names = " or ".join(kind.name for kind in kinds)
    raise InputError(
        "HPCC1407",
        f"{op.name} writes no fp32: one {names} must follow it",
        where=location_name(op),
        hint="an intermediate tensor that is a model output can be left off the ONNX graph",
    )


def key_of(value: SSAValue) -> str:
    owner = value.owner
    assert isinstance(owner, nn.WeightOp)
    return owner.key.data


def in_weights(buffer: Buffer) -> bool:
    return memory_of(buffer.type) is Memory.WEIGHTS


def in_dram(buffer: Buffer) -> bool:
    return memory_of(buffer.type) is Memory.DRAM


def row_bytes(buffer: Buffer) -> int:
    return buffer.cols * element_bytes(buffer.type)


def only_user(value: SSAValue) -> Operation | None:
    users = {use.operation for use in value.uses}
    return users.pop() if len(users) == 1 else None


def layer_of(op: nn.QuantizeOp) -> str:
    """The layer a free-standing quantize op works for: its first consumer's."""
    for use in op.codes.uses:
        if isinstance(use.operation, nn.QAttentionOp | nn.QLinearOp):
            return use.operation.role.data
    return "quantize"
