"""`hpcc-partition`: keep in @main what the accelerator runs; the rest is described in `hpcc.host` and runs on the host.

The result is host work before, one device part, host work after. @main's arguments and results become the borders of
the device part, named by ONNX tensors in `input_names` and `output_names`; compiler/frontend/host.py cuts the host
parts out of the ONNX graph by those names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, IntegerAttr, ModuleOp, StringAttr, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, BlockArgument, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from compiler.dialects import nn
from compiler.interpreters.evaluate import node_name
from compiler.module import main_function, names_of
from compiler.passes.fusion.match import TENSORS, is_f32
from compiler.passes.fusion.sequences import is_token_concat
from compiler.passes.macs import macs_of

HOST = "hpcc.host"
"""Module attribute: an array of {when, inputs, outputs, nodes = [{node, op, reason, macs}]}."""

FOLLOWS = "it follows a node that runs on the host"


CPU_BIAS = "the CPU kernels add no bias to the scores of an attention"


class Place(StrEnum):
    BEFORE = "before"
    DEVICE = "device"
    AFTER = "after"


def host_reason(op: Operation, kind: str = "fpga") -> str | None:
    """Why a target of a kind does not run an operation, None if it does. Judges the operation alone, not its place."""
    match op:
        case nn.EmbeddingOp() | nn.LayerNormOp() | nn.TakeTokenOp() | nn.MeanPoolOp() | nn.RotaryOp() | nn.RmsNormOp():
            return None
        case nn.LinearOp():
            return None if is_f32(op.x) else "its activations are not fp32"
        case nn.ActivationOp():
            follows = isinstance(op.x.owner, nn.LinearOp) and op.x.has_one_use()
            return None if follows else "an activation runs on the accelerator only right behind its linear layer"
        case nn.ConcatOp():
            return None if is_token_concat(op) else "only tokens of one width are concatenated on the accelerator"
        case nn.AttentionOp():
            return CPU_BIAS if op.bias is not None and kind == "cpu" else None
        case nn.ReshapeOp():
            return None if is_f32(op.x) else "only fp32 tensors are reshaped on the accelerator"
        case nn.BinaryOp():
            return None if completes_linear(op) else f"no accelerator operation computes {op.kind.data.value} here"
        case nn.OpaqueOp():
            return op.reason.data
        case nn.MatMulOp() | nn.GemmOp():
            return "a matrix product that is neither a linear layer nor attention"
        case _:
            return f"no accelerator operation computes {_kind(op)}"


def completes_linear(op: nn.BinaryOp) -> bool:
    """An fp32 sum or product without broadcast, one operand a linear's result that nothing else reads."""
    if op.kind.data not in (nn.BinaryKind.ADD, nn.BinaryKind.MUL) or not is_f32(op.result) or op.lhs.type != op.rhs.type:
        return False
    return any(isinstance(value.owner, nn.LinearOp) and value.has_one_use() for value in (op.lhs, op.rhs))


def _kind(op: Operation) -> str:
    match op:
        case nn.OpaqueOp():
            return op.op_type.data
        case nn.UnaryOp() | nn.BinaryOp() | nn.ReduceOp():
            return op.kind.data.value
        case _:
            return op.name.removeprefix("hpcc_nn.")


@dataclass
class Plan:
    """Where every operation runs, and what crosses the borders."""

    func: FuncOp
    kind: str = "fpga"
    places: dict[Operation, Place] = field(default_factory=dict)
    reasons: dict[Operation, str] = field(default_factory=dict)

    @property
    def ops(self) -> list[Operation]:
        return [op for op in self.func.body.block.ops if not isinstance(op, (*nn.STORED, ReturnOp))]

    def place_of(self, value: SSAValue) -> Place | None:
        """Where a value is made; None for arguments, weights and constants."""
        return self.places.get(value.owner) if isinstance(value.owner, Operation) else None

    def assign(self) -> None:
        """One device region that needs nothing from `after`; `before` holds only what the device needs."""
        for op in self.ops:
            reason = host_reason(op, self.kind)
            sources = {self.place_of(operand) for operand in op.operands}
            if Place.AFTER in sources:
                self._put(op, Place.AFTER, reason or FOLLOWS)
            elif reason is not None:
                self._put(op, Place.AFTER if Place.DEVICE in sources else Place.BEFORE, reason)
            elif isinstance(op, nn.ReshapeOp) and Place.DEVICE not in sources:
                self._put(op, Place.BEFORE, "it prepares an input")
            else:
                self.places[op] = Place.DEVICE
        self._postpone()

    def _put(self, op: Operation, place: Place, reason: str) -> None:
        self.places[op], self.reasons[op] = place, reason

    def _postpone(self) -> None:
        """Host work that the device does not wait for is done afterwards."""
        needed: set[Operation] = set()
        for op in reversed(self.ops):
            if self.places[op] is Place.DEVICE or op in needed:
                needed |= {value.owner for value in op.operands if isinstance(value.owner, Operation)}
        for op in self.ops:
            if self.places[op] is Place.BEFORE and op not in needed:
                self.places[op] = Place.AFTER

    # ---- borders ------------------------------------------------------------------------------------------------

    def name(self, value: SSAValue) -> str:
        """The ONNX tensor a value is, made up where the text does not say."""
        block = self.func.body.block
        if isinstance(value, BlockArgument):
            return names_of(self.func, "input_names")[value.index]
        assert isinstance(value.owner, Operation)
        known = value.owner.attributes.get(TENSORS)
        if isinstance(known, ArrayAttr):
            name = known.data[[result is value for result in value.owner.results].index(True)]
            if isinstance(name, StringAttr) and name.data:
                return name.data
        return f"value{list(block.ops).index(value.owner)}"

    def returned(self) -> list[tuple[str, SSAValue]]:
        last = self.func.body.block.last_op
        assert isinstance(last, ReturnOp)
        return list(zip(names_of(self.func, "output_names"), last.operands, strict=True))

    def inputs_of(self, place: Place) -> dict[str, SSAValue]:
        """What a part reads from elsewhere, by name, in order of first use."""
        found: dict[str, SSAValue] = {}
        for op in self.ops:
            if self.places[op] is place:
                found.update(self._foreign(op.operands, place))
        if place is Place.AFTER:
            passed = [v for name, v in self.returned() if isinstance(v, BlockArgument) and self.name(v) != name]
            found.update({self.name(value): value for value in passed})
        return found

    def _foreign(self, values: Iterable[SSAValue], place: Place) -> dict[str, SSAValue]:
        return {
            self.name(value): value
            for value in values
            if not isinstance(value.owner, nn.STORED) and self.place_of(value) is not place
        }

    def outputs_of(self, place: Place) -> dict[str, SSAValue]:
        """What a part makes for the outside: model outputs under their names, then what other parts read."""
        found = {name: value for name, value in self.returned() if self._makes(place, name, value)}
        for other in Place:
            if other is not place:
                reads = self.inputs_of(other)
                found.update({name: value for name, value in reads.items() if self.place_of(value) is place})
        return found

    def _makes(self, place: Place, name: str, value: SSAValue) -> bool:
        if self.place_of(value) is not None:
            return self.place_of(value) is place
        is_itself = isinstance(value, BlockArgument) and self.name(value) == name
        return place is Place.AFTER and not is_itself

    # ---- results ------------------------------------------------------------------------------------------------

    def host_attribute(self) -> ArrayAttr[Attribute]:
        segments: list[Attribute] = []
        for place in (Place.BEFORE, Place.AFTER):
            inputs, outputs = self.inputs_of(place), self.outputs_of(place)
            nodes = [self._node(op) for op in self.ops if self.places[op] is place]
            if place is Place.AFTER:
                nodes += [_passed(name) for name, v in outputs.items() if self.place_of(v) is None]
            if nodes:
                segments.append(
                    DictionaryAttr(
                        {
                            "when": StringAttr(place.value),
                            "inputs": _strings(inputs),
                            "outputs": _strings(outputs),
                            "nodes": ArrayAttr(nodes),
                        }
                    )
                )
        return ArrayAttr(segments)

    def _node(self, op: Operation) -> DictionaryAttr:
        return _node(node_name(op), _kind(op), self.reasons[op], macs_of(op))

    def device_function(self) -> FuncOp:
        inputs, outputs = self.inputs_of(Place.DEVICE), self.outputs_of(Place.DEVICE)
        block = Block(arg_types=[value.type for value in inputs.values()])
        mapping: dict[SSAValue, SSAValue] = dict(zip(inputs.values(), block.args, strict=True))
        for op in self._device_ops():
            block.add_op(op.clone(mapping))
        block.add_op(ReturnOp(*(mapping[value] for value in outputs.values())))
        types = [value.type for value in outputs.values()]
        func = FuncOp("main", (list(block.arg_types), types), Region(block))
        func.attributes = {**self.func.attributes, "input_names": _strings(inputs), "output_names": _strings(outputs)}
        return func

    def _device_ops(self) -> list[Operation]:
        """The device's operations and the weights they read, in order."""
        device = [op for op in self.ops if self.places[op] is Place.DEVICE]
        read = {value.owner for op in device for value in op.operands}
        read |= {value.owner for op in read if isinstance(op, nn.DequantizeOp) for value in op.operands}
        return [
            op
            for op in self.func.body.block.ops
            if self.places.get(op) is Place.DEVICE or (isinstance(op, nn.STORED) and op in read)
        ]


def _strings(items: Iterable[str]) -> ArrayAttr[StringAttr]:
    return ArrayAttr([StringAttr(item) for item in items])


def _node(node: str, op: str, reason: str, macs: int) -> DictionaryAttr:
    return DictionaryAttr(
        {"node": StringAttr(node), "op": StringAttr(op), "reason": StringAttr(reason), "macs": IntegerAttr(macs, 64)}
    )


def _passed(name: str) -> DictionaryAttr:
    return _node(name, "Identity", "it passes an input or a constant through", 0)


@dataclass(frozen=True)
class PartitionPass(ModulePass):
    """Split @main into host work before, the device part that stays, and host work after."""

    name = "hpcc-partition"
    kind: str = "fpga"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        plan = Plan(main_function(op), self.kind)
        plan.assign()
        _check_types(plan)
        op.attributes[HOST] = plan.host_attribute()
        Rewriter.replace_op(plan.func, plan.device_function(), [])


def _check_types(plan: Plan) -> None:
    for value in (*plan.inputs_of(Place.DEVICE).values(), *plan.outputs_of(Place.DEVICE).values()):
        assert isinstance(value.type, TensorType), "a border of the device part is a tensor"
