"""`hpcc-partition`: keep in @main what the accelerator runs; the rest is described in `hpcc.host` and runs on the host.

The result is host work before, device parts with host work between them, host work after. @main holds all device parts,
`hpcc_nn.hand_over` between two; its arguments and results are what crosses the borders, named by ONNX tensors in
`input_names` and `output_names`, with the part in `input_parts` and `output_parts`; what has no name there is a movement of
a tensor that has (compiler/passes/bridges.py). compiler/frontend/host.py cuts the host work out of the ONNX graph by those
names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, IntegerAttr, ModuleOp, StringAttr, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, BlockArgument, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from compiler.dialects import nn
from compiler.interpreters.evaluate import node_name
from compiler.module import main_function, names_of
from compiler.passes.bridges import BRIDGES, Bridge, find_bridge
from compiler.passes.fusion.match import TENSORS, is_f32
from compiler.passes.fusion.sequences import is_token_concat
from compiler.passes.macs import macs_of

HOST = "hpcc.host"
"""Module attribute: an array of {when, inputs, outputs, nodes = [{node, op, reason, macs}]}."""
BEFORE, BETWEEN, AFTER = "before", "between", "after"
"""When host work is done: before the device's first part, between two (one segment each), after the last."""

FOLLOWS = "it follows a node that runs on the host"

NO_BIAS = {kind: f"the {kind.upper()} kernels add no bias to the scores of an attention" for kind in ("cpu", "gpu")}
"""Why a biased attention runs on the host, by the kinds of targets that run steps; those have one device part."""

TOO_FEW = "too few products follow it to go back to the accelerator for"
UNNAMED = "what crosses to the host behind it has no name in the ONNX graph"
LEAST_SHARE = 0.0025
"""Share of the model's MACs below which a further device part does not pay: it costs a request each way."""


def host_reason(op: Operation, kind: str = "fpga") -> str | None:
    """Why a target of a kind does not run an operation, None if it does. Judges it and what it reads, not its place."""
    if kind == "fpga" and not isinstance(op, nn.ReshapeOp) and any(_is_mean(value) for value in op.operands):
        return "it reads a mean over tokens, which the accelerator gives in fp32 and reads no more"
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
            return NO_BIAS.get(kind) if op.bias is not None else None
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


def _is_mean(value: SSAValue) -> bool:
    owner = value.owner
    while isinstance(owner, nn.ReshapeOp):
        owner = owner.x.owner
    return isinstance(owner, nn.MeanPoolOp)


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
    """Where every operation runs, and what crosses the borders.

    The model is cut into levels that run one after another: even ones on the host (0 before the device), odd ones are the
    parts of the device.
    """

    func: FuncOp
    kind: str = "fpga"
    levels: dict[Operation, int] = field(default_factory=dict)
    reasons: dict[Operation, str] = field(default_factory=dict)
    _bridges: dict[tuple[SSAValue, bool], Bridge | None] = field(default_factory=dict)

    @cached_property
    def ops(self) -> list[Operation]:
        return [op for op in self.func.body.block.ops if not isinstance(op, (*nn.STORED, ReturnOp))]

    def level_of(self, value: SSAValue) -> int | None:
        """Where a value is made; None for arguments, weights and constants."""
        return self.levels.get(value.owner) if isinstance(value.owner, Operation) else None

    def is_on_device(self, value: SSAValue) -> bool:
        return (self.level_of(value) or 0) % 2 == 1

    @property
    def parts(self) -> list[int]:
        """The levels of the device, in order."""
        return sorted({level for level in self.levels.values() if level % 2})

    @property
    def last(self) -> int:
        """The level of what the host does at the end."""
        return max(self.parts, default=1) + 1

    def assign(self) -> None:
        """Every operation as early as it can run; device parts that do not pay become host work; host work that the device
        does not wait for is done at the end. Borders lie where the ONNX graph has a name for what crosses them, or a bridge
        leads there; where neither is, the device's operations at the border become host work."""
        refused: dict[Operation, str] = {}
        while True:
            self._assign(refused, 1 if self.kind in NO_BIAS else None)
            found = dict.fromkeys(self._poor_part(), TOO_FEW)
            if not found:
                self._postpone()
                found = dict.fromkeys(self._at_borders_without_names(), UNNAMED)
            if not found:
                break
            refused |= found

    def crossing(self) -> list[SSAValue]:
        """The values that one level makes and another reads."""
        inputs = [value for value, _ in self.device_inputs().values()]
        inputs += [value for level in range(0, self.last + 1, 2) for value in self.host_inputs(level).values()]
        return [value for value in dict.fromkeys(inputs) if not isinstance(value, BlockArgument)]

    def _at_borders_without_names(self) -> set[Operation]:
        """The device's operations that make or read what crosses without a name."""
        nameless = [value for value in self.crossing() if not self.known_name(value) and self.bridge(value) is None]
        around = {value.owner for value in nameless} | {use.operation for value in nameless for use in value.uses}
        found = {op for op in around if isinstance(op, Operation) and self.levels.get(op, 0) % 2}
        if nameless and not found:  # it crosses between two levels of the host
            found = {op for op in self.ops if self.levels[op] == self.parts[-1]}
        return found

    def _assign(self, refused: Mapping[Operation, str], most: int | None) -> None:
        self.levels, self.reasons = {}, {}
        for op in self.ops:
            sources = [level for operand in op.operands if (level := self.level_of(operand)) is not None]
            least = max(sources, default=0)
            reason = host_reason(op, self.kind) or refused.get(op)
            if reason is None and most is not None and least > 2 * most - 1:
                reason = FOLLOWS
            elif reason is None and isinstance(op, nn.ReshapeOp) and least % 2 == 0:
                reason = "it prepares an input"
            if reason is not None:
                self.reasons[op] = reason
            on_device = reason is None
            self.levels[op] = least if least % 2 == on_device else least + 1

    def _poor_part(self) -> set[Operation]:
        """The operations of the first device part behind another one that has too few MACs."""
        total = sum(macs_of(op) for op in self.ops)
        for part in self.parts[1:]:
            own = {op for op in self.ops if self.levels[op] == part}
            if sum(macs_of(op) for op in own) < max(LEAST_SHARE * total, 1):
                return own
        return set()

    def _postpone(self) -> None:
        """Host work that the device does not wait for is done at the end."""
        needed: set[Operation] = set()
        for op in reversed(self.ops):
            if self.levels[op] % 2 or op in needed:
                needed |= {value.owner for value in op.operands if isinstance(value.owner, Operation)}
        last = self.last
        for op in self.ops:
            if self.levels[op] % 2 == 0 and op not in needed:
                self.levels[op] = last

    # ---- borders ------------------------------------------------------------------------------------------------

    def name(self, value: SSAValue) -> str:
        """The ONNX tensor a value is, made up where the text does not say."""
        known = self.known_name(value)
        if known is not None:
            return known
        assert isinstance(value.owner, Operation)
        bridge, place = self.bridge(value), list(self.func.body.block.ops).index(value.owner)
        return f"value:{place}" if bridge is None else f"{bridge.of}:{place}"

    def bridge(self, value: SSAValue) -> Bridge | None:
        """The movement that makes a value without a name of an ONNX tensor."""
        key = value, any(self.levels.get(use.operation, self.last) % 2 == 0 for use in value.uses)
        if key not in self._bridges:
            self._bridges[key] = find_bridge(value, self.known_name, for_host=key[1])
        return self._bridges[key]

    def known_name(self, value: SSAValue) -> str | None:
        """The ONNX tensor that a value is, if there is one: an argument or an output of the model is one at least."""
        if isinstance(value, BlockArgument):
            return names_of(self.func, "input_names")[value.index]
        assert isinstance(value.owner, Operation)
        known = value.owner.attributes.get(TENSORS)
        if isinstance(known, ArrayAttr):
            name = known.data[[result is value for result in value.owner.results].index(True)]
            if isinstance(name, StringAttr) and name.data:
                return name.data
        return next((name for name, returned in self.returned() if returned is value), None)

    def returned(self) -> list[tuple[str, SSAValue]]:
        last = self.func.body.block.last_op
        assert isinstance(last, ReturnOp)
        return list(zip(names_of(self.func, "output_names"), last.operands, strict=True))

    def device_inputs(self) -> dict[str, tuple[SSAValue, int]]:
        """What device parts read from elsewhere, by name, with the first part that does (counted from 0)."""
        found: dict[str, tuple[SSAValue, int]] = {}
        for number, part in enumerate(self.parts):
            for op in self.ops:
                if self.levels[op] == part:
                    for value in op.operands:
                        if not isinstance(value.owner, nn.STORED) and not self.is_on_device(value):
                            found.setdefault(self.name(value), (value, number))
        return found

    def device_outputs(self) -> dict[str, tuple[SSAValue, int]]:
        """What device parts make for the outside, by name, with the part: model outputs first, then what the host reads."""
        made = {name: value for name, value in self.returned() if self.is_on_device(value)}
        for level in range(0, self.last + 1, 2):
            made.update({name: value for name, value in self.host_inputs(level).items() if self.is_on_device(value)})
        parts = self.parts
        return {name: (value, parts.index(self.level_of(value) or 0)) for name, value in made.items()}

    def host_inputs(self, level: int) -> dict[str, SSAValue]:
        """What a level of host work reads from elsewhere, by name, in order of first use."""
        found: dict[str, SSAValue] = {}
        for op in self.ops:
            if self.levels[op] == level:
                foreign = (v for v in op.operands if not isinstance(v.owner, nn.STORED) and self.level_of(v) != level)
                found.update({self.name(value): value for value in foreign})
        if level == self.last:
            passed = [v for name, v in self.returned() if isinstance(v, BlockArgument) and self.name(v) != name]
            found.update({self.name(value): value for value in passed})
        return found

    def host_outputs(self, level: int) -> dict[str, SSAValue]:
        """What a level of host work makes for the outside: model outputs under their names, then what others read."""
        found = {name: value for name, value in self.returned() if self._makes(level, name, value)}
        found.update({name: value for name, (value, _) in self.device_inputs().items() if self.level_of(value) == level})
        for other in range(level + 2, self.last + 1, 2):
            reads = self.host_inputs(other)
            found.update({name: value for name, value in reads.items() if self.level_of(value) == level})
        return found

    def _makes(self, level: int, name: str, value: SSAValue) -> bool:
        if self.level_of(value) is not None:
            return self.level_of(value) == level
        is_itself = isinstance(value, BlockArgument) and self.name(value) == name
        return level == self.last and not is_itself

    # ---- results ------------------------------------------------------------------------------------------------

    def host_attribute(self) -> ArrayAttr[Attribute]:
        segments: list[Attribute] = []
        for level in range(0, self.last + 1, 2):
            inputs, outputs = self.host_inputs(level), self.host_outputs(level)
            nodes = [self._node(op) for op in self.ops if self.levels[op] == level]
            if level == self.last:
                nodes += [_passed(name) for name, v in outputs.items() if self.level_of(v) is None]
            when = BEFORE if level == 0 else AFTER if level == self.last else BETWEEN
            if nodes:
                segments.append(
                    DictionaryAttr(
                        {
                            "when": StringAttr(when),
                            "inputs": _strings(inputs),
                            "outputs": _strings(outputs),
                            "nodes": ArrayAttr(nodes),
                        }
                    )
                )
        return ArrayAttr(segments)

    def bridges(self) -> dict[str, Attribute]:
        """What `hpcc.bridges` says of the values that cross without a name of their own."""
        found = {self.name(value): self.bridge(value) for value in self.crossing() if self.known_name(value) is None}
        return {name: bridge.attribute() for name, bridge in found.items() if bridge is not None}

    def _node(self, op: Operation) -> DictionaryAttr:
        return _node(node_name(op), _kind(op), self.reasons[op], macs_of(op))

    def device_function(self) -> FuncOp:
        inputs, outputs = self.device_inputs(), self.device_outputs()
        block = Block(arg_types=[value.type for value, _ in inputs.values()])
        mapping: dict[SSAValue, SSAValue] = dict(zip((v for v, _ in inputs.values()), block.args, strict=True))
        results: dict[str, SSAValue] = {}
        for number, ops in enumerate(self._device_ops()):
            for op in ops:
                block.add_op(op.clone(mapping))
            own = {name: mapping[value] for name, (value, part) in outputs.items() if part == number}
            if number < len(self.parts) - 1:
                handed = nn.HandOverOp(list(own), list(own.values()))
                block.add_op(handed)
                own = dict(zip(own, handed.results, strict=True))
            results.update(own)
        block.add_op(ReturnOp(*(results[name] for name in outputs)))
        types = [value.type for value, _ in outputs.values()]
        func = FuncOp("main", (list(block.arg_types), types), Region(block))
        func.attributes = {**self.func.attributes, "input_names": _strings(inputs), "output_names": _strings(outputs)}
        if len(self.parts) > 1:
            for name, borders in (("input_parts", inputs), ("output_parts", outputs)):
                func.attributes[name] = ArrayAttr([IntegerAttr(part, 64) for _, part in borders.values()])
        return func

    def _device_ops(self) -> list[list[Operation]]:
        """The device's operations part by part, and the weights they read before the first that does, in order."""
        groups: list[list[Operation]] = []
        seen: set[Operation] = set()
        for part in self.parts or [1]:
            own = {op for op in self.ops if self.levels[op] == part}
            read = {value.owner for op in own for value in op.operands}
            read |= {value.owner for op in read if isinstance(op, nn.DequantizeOp) for value in op.operands}
            stored = {op for op in read if isinstance(op, nn.STORED)} - seen
            seen |= stored
            groups.append([op for op in self.func.body.block.ops if op in own or op in stored])
        return groups


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
    """Split @main into the device's parts, which stay, and host work before, between and after them."""

    name = "hpcc-partition"
    kind: str = "fpga"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        plan = Plan(main_function(op), self.kind)
        plan.assign()
        _check_types(plan)
        op.attributes[HOST] = plan.host_attribute()
        if bridges := plan.bridges():
            op.attributes[BRIDGES] = DictionaryAttr(bridges)
        Rewriter.replace_op(plan.func, plan.device_function(), [])


def _check_types(plan: Plan) -> None:
    for value, _ in (*plan.device_inputs().values(), *plan.device_outputs().values()):
        assert isinstance(value.type, TensorType), "a border of the device is a tensor"
