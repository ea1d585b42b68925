"""The sparsity ledger: for every layer what the zeros bought, and one reason from a closed list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from xdsl.dialects.builtin import ModuleOp, StringAttr

from compiler.backends.fpga.weights import WeightPlan, plan_weight
from compiler.dialects.nn import QLinearOp, shape_of
from compiler.dialects.storage import StorageAttr
from compiler.passes.factor import dense_size
from compiler.passes.sparsify import FACTOR_OF, PRUNABLE, pruning_summary
from compiler.sparsity.base import Dense, Pattern
from compiler.storage.choose import rank
from compiler.tools.helps import MATRIX_SHARE, help_of, vector_is_full
from compiler.tools.report import EXPLANATIONS, LayerPart, Reason
from hw_targets.extents import layout_of
from hw_targets.isa import MatrixMode
from hw_targets.storage import BASIS
from hw_targets.target import Accelerator, Target
from hw_targets.timing import cost, matrix_macs, transfer
from runtime.ledger import Cause, LayerCycles
from runtime.program import Program

IMBALANCED = 1.1
"""From this ratio to its balanced minimum on, a layer's steps are what its busiest rows make them."""


@dataclass(frozen=True)
class Weight:
    """A linear's weight as it was encoded; `candidates` are the bytes of the formats to choose from, best first."""

    plan: WeightPlan
    pattern: Pattern
    value_bytes: int
    metadata_bytes: int
    candidates: Mapping[str, int]
    left_dense: bool
    in_scope: bool
    factor_of: str = ""
    """The pattern of the matrix that this one is a factor of."""
    dense_bytes: int = 0
    """What its matrix has as it came, of which the first of two factors counts nothing."""


@dataclass
class _Work:
    """What one layer's instructions do, summed over the expanded program."""

    onnx_node: str = ""
    ops: set[str] = field(default_factory=set)
    macs_dense: int = 0
    macs_executed: int = 0
    steps: int = 0
    balanced_steps: int = 0
    loads: int = 0
    weight_bytes_loaded: int = 0
    memory_cycles: int = 0
    decoding_cycles: int = 0

    @property
    def decoding(self) -> bool:
        """Whether the decoder of its weights is slower than the memory that they come from."""
        return self.decoding_cycles > self.memory_cycles

    @property
    def weights(self) -> Literal["", "resident", "streamed"]:
        """Whether the weights stay on chip for all tokens, or pass in parts or once for every tile of tokens."""
        if not self.loads:
            return ""
        return "resident" if self.loads == 1 else "streamed"

    @property
    def imbalance(self) -> float:
        """Cycles of the unstructured multiplications over what they would be if all rows had equally many weights."""
        return self.steps / self.balanced_steps if self.balanced_steps else 1.0


def weights_by_layer(encoded: ModuleOp | None, target: Target) -> dict[str, Weight]:
    """The encoded weights of a module after `encode`, by role."""
    if encoded is None:  # a run that began behind `encode` has no patterns to tell of
        return {}
    left = {layer.role for layer in pruning_summary(encoded).layers if layer.left_dense}
    result: dict[str, Weight] = {}
    inputs = {op.role.data: shape_of(op.weight)[1] for op in encoded.walk() if isinstance(op, QLinearOp)}
    for op in encoded.walk():
        if isinstance(op, QLinearOp):
            plan = plan_weight(op.weight)
            encoding = plan.encoding
            assert isinstance(encoding, StorageAttr)
            size = encoding.format.size_bits(plan.outs, plan.ins, encoding.pattern)
            ranked = rank(
                encoding.pattern, plan.outs, plan.ins, dict[str, float](target.decode), target.dram_bytes_per_cycle
            )
            sizes = {candidate.format.name: candidate.size.total_bytes for candidate in ranked}
            values = size.value_bits // 8
            role, product = op.role.data, op.attributes.get(FACTOR_OF)
            result[role] = Weight(
                plan,
                encoding.pattern,
                values,
                size.total_bytes - values,
                sizes,
                role in left,
                PRUNABLE.fullmatch(role.removesuffix(BASIS)) is not None,
                product.data if isinstance(product, StringAttr) else "",
                dense_size(role, (plan.outs, plan.ins), inputs),
            )
    return result


def _work(program: Program) -> dict[str, _Work]:
    nodes = program.manifest.nodes
    result: dict[str, _Work] = {}
    for instruction, event in zip(program.bundle.expanded, program.timing().events, strict=True):
        if instruction.name.startswith("control."):
            continue
        node = nodes[instruction.node]
        work = result.setdefault(node.layer, _Work(node.onnx_node))
        work.ops.add(instruction.name)
        if instruction.name == "load.weights":
            work.loads += 1
            work.weight_bytes_loaded += instruction.integer("stored_bytes")
            moved = transfer(instruction, program.target)
            work.memory_cycles += moved.memory
            work.decoding_cycles += moved.busy
        elif instruction.name == "matrix.multiply":
            dense, executed = matrix_macs(instruction)
            work.macs_dense += dense
            work.macs_executed += executed
            if layout_of(instruction).mode is MatrixMode.UNSTRUCTURED:
                work.steps += event.end - event.start
                work.balanced_steps += cost(instruction, program.target.accelerator).busy
            if not work.onnx_node:
                work.onnx_node = node.onnx_node
    return result


def layer_rows(
    program: Program, encoded: ModuleOp | None, dense: Sequence[LayerCycles] | None, asked: Pattern | None
) -> tuple[LayerPart, ...]:
    """The ledger in program order; its cycles add up to the program's."""
    array = program.target.accelerator
    weights = weights_by_layer(encoded, program.target)
    work = _work(program)
    dense_cycles = _shared_by_factors({entry.layer: entry.total for entry in dense or ()}, program.layers())
    rows: list[LayerPart] = []
    vector_full = vector_is_full(program.layers())
    order = {layer: number for number, layer in enumerate(dict.fromkeys(program.manifest.layers))}
    for entry in sorted(program.layers(), key=lambda entry: order.get(entry.layer, len(order))):
        done = work.get(entry.layer, _Work())
        weight = weights.get(entry.layer)
        if_dense = dense_cycles.get(entry.layer, 0) if dense is not None else None
        reason = reason_of(entry, weight, asked, array, done.imbalance)
        rows.append(
            LayerPart(
                name=entry.layer,
                onnx_node=done.onnx_node,
                op=_kind(entry.layer, weight),
                pattern=weight.factor_of or weight.pattern.spec() if weight else "",
                format=weight.plan.format if weight else "",
                candidates=dict(weight.candidates) if weight else {},
                density=done.macs_executed / done.macs_dense if done.macs_dense else 1.0,
                macs_dense=done.macs_dense,
                macs_executed=done.macs_executed,
                dense_bytes=weight.dense_bytes if weight else 0,
                value_bytes=weight.value_bytes if weight else 0,
                metadata_bytes=weight.metadata_bytes if weight else 0,
                weights=done.weights,
                weight_bytes_loaded=done.weight_bytes_loaded,
                cycles=entry.total,
                cycles_by_cause={cause.value: count for cause, count in entry.cycles.items()},
                cycles_if_dense=if_dense,
                speedup=_ratio(if_dense, entry.total),
                bound=entry.bound.value,
                reason=reason,
                explanation=EXPLANATIONS[reason],
                help=help_of(
                    entry,
                    reason,
                    vector_full=vector_full,
                    decoding=done.decoding,
                    full_windows=weight is not None and _kept_per_window(weight, array) > array.multipliers,
                ),
            )
        )
    return tuple(rows)


def _shared_by_factors(dense: Mapping[str, int], layers: Sequence[LayerCycles]) -> dict[str, int]:
    """Cycles if dense by role; two factors share those of the matrix that they stand for as they share its time."""
    cycles, shared = {entry.layer: entry.total for entry in layers}, dict(dense)
    for role in [layer for layer in cycles if layer.endswith(BASIS)]:
        whole = role.removesuffix(BASIS)
        both = cycles[role] + cycles.get(whole, 0)
        if whole in dense and both:
            shared[role] = dense[whole] * cycles[role] // both
            shared[whole] = dense[whole] - shared[role]
    return shared


def _ratio(if_dense: int | None, cycles: int) -> float | None:
    if if_dense is None:
        return None
    return if_dense / cycles if cycles and if_dense else 1.0


def _kind(layer: str, weight: Weight | None) -> str:
    if weight is not None:
        return "linear"
    if layer.endswith(".attn"):
        return "attention"
    return {"embeddings": "embedding", "pool": "mean_pool"}.get(layer, "transfer")


def reason_of(
    entry: LayerCycles, weight: Weight | None, asked: Pattern | None, accelerator: Accelerator, imbalance: float = 1.0
) -> Reason:
    """Why this layer got the speed-up it got, or why not more. `asked` is None where patterns were looked for."""
    if weight is None:
        return Reason.NO_WEIGHTS
    if isinstance(weight.pattern, Dense):
        if weight.factor_of:
            return Reason.FACTOR
        if asked is None or isinstance(asked, Dense):
            return Reason.DENSE
        return Reason.LEFT_DENSE if weight.left_dense else Reason.OUT_OF_SCOPE
    if weight.plan.mode == MatrixMode.DENSE.value:
        return Reason.STORED_DENSE
    if entry.cycles[Cause.MATRIX] < MATRIX_SHARE * entry.total:
        waits = {cause: count for cause, count in entry.cycles.items() if cause is not Cause.MATRIX}
        worst = max(waits, key=lambda cause: waits[cause])
        return {Cause.LOAD: Reason.LOAD, Cause.TOKEN: Reason.TOKEN}.get(worst, Reason.VECTOR)
    if imbalance > IMBALANCED:
        return Reason.IMBALANCE
    return _matrix_reason(weight, accelerator)


def _matrix_reason(weight: Weight, accelerator: Accelerator) -> Reason:
    plan, fields = weight.plan, weight.plan.pattern_fields
    if plan.outs < accelerator.outputs * accelerator.cores:
        return Reason.SHORT_ROWS
    unit = fields["window"] or fields["m"]
    if plan.ins % unit:
        return Reason.UNEVEN_K
    return Reason.WINDOW if _kept_per_window(weight, accelerator) < accelerator.multipliers else Reason.FULL


def _kept_per_window(weight: Weight, accelerator: Accelerator) -> float:
    """Weights that a row keeps of one window, on average."""
    fields = weight.plan.pattern_fields
    if fields.get("kept"):
        return accelerator.window * fields["kept"] / (weight.plan.outs * weight.plan.ins)
    return (fields["keep"] or accelerator.window) * fields["n"] / fields["m"]
