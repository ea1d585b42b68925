"""`--verify-each`: execute the module after every stage and compare it with what came before.

Up to `sparsify` the reference is ONNX Runtime on the same weights (largest error at most 1e-4 of the rms); `quantize`
is then the golden, which every later stage equals bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, NameLoc, StringAttr
from xdsl.ir import Operation

from compiler.dialects.nn import OpaqueOp, QLinearOp
from compiler.dialects.storage import StorageAttr
from compiler.frontend.bridging import build_bridges
from compiler.frontend.host import single_node
from compiler.frontend.importer import Imported
from compiler.interpreters.evaluate import evaluate, node_name, run_op
from compiler.interpreters.tile import evaluate_tiles
from compiler.module import main_function, names_of
from compiler.tools.inputs import role_of
from compiler.tools.parameters import check_parameters
from compiler.tools.reference import Reference, open_session, run_session
from compiler.weights import WeightStore
from hw_targets.errors import VerificationError
from hw_targets.isa import MatrixMode
from runtime import decoders

Array = NDArray[Any]
FLOAT_LIMIT = 1e-4
"""Largest error over the rms of the output, for the stages in floating point."""


def relative_error(got: Array, wanted: Array) -> float:
    """max |error| / rms of the reference; integers differ or do not."""
    if wanted.dtype.kind != "f":
        return float(not np.array_equal(got, wanted))
    if not wanted.size:
        return 0.0
    rms = float(np.sqrt(np.mean(np.square(wanted, dtype=np.float64)))) or 1.0
    with np.errstate(invalid="ignore"):  # infinity on both sides: the result is no number, and no agreement
        return float(np.abs(got.astype(np.float64) - wanted).max()) / rms


@dataclass
class StepwiseCheck:
    """Compares stage by stage on one batch of inputs; `lines` says what was found."""

    imported: Imported
    store: WeightStore
    inputs: Mapping[str, Array]
    lines: list[str] = field(default_factory=list)
    golden: dict[str, Array] = field(default_factory=dict)
    borders: dict[str, Array] = field(default_factory=dict)
    floats: ModuleOp | None = None

    def float_stage(self, stage: str, module: ModuleOp, replaced: Mapping[str, str]) -> float:
        """import, fuse, sparsify: against ONNX Runtime with the same weights. Returns the largest error over the rms."""
        wanted = self._reference_tensors(module, replaced)
        values = {name: wanted.get(name, self.inputs.get(name)) for name in _input_names(module)}
        got = evaluate(module, self.store, {k: v for k, v in values.items() if v is not None}, self._on_host)
        worst = 0.0
        for name, value in got.items():
            error = relative_error(self._attended(value), self._attended(wanted[name].reshape(value.shape)))
            worst = max(worst, error)
            if not error <= FLOAT_LIMIT:
                culprit = self._first_divergence(module, replaced, values)
                raise VerificationError(
                    "HPCC4002", f"stage {stage!r}: output {name!r} is off by {error:.2g} of its rms; {culprit}"
                )
        self.lines.append(f"{stage}: equals ONNX Runtime within {worst:.1e} of the rms")
        if stage == "sparsify":
            self.floats = module.clone()
        return worst

    def quantize(self, module: ModuleOp, replaced: Mapping[str, str]) -> None:
        if self.floats is not None:
            check_parameters(self.floats, module, self.store)
        wanted = self._reference_tensors(module, replaced)
        self.borders = {name: wanted[name] for name in _input_names(module)}
        self.golden = evaluate(module, self.store, self.borders)
        self.lines.append("quantize: the integer reference for what follows")

    def encode(self, module: ModuleOp) -> None:
        """Decode what the encoders write, with the machine's own decoders."""
        for op in module.walk():
            if isinstance(op, QLinearOp):
                self._check_encoded(op)
        self.exact("encode", evaluate(module, self.store, self.borders))

    def _check_encoded(self, op: QLinearOp) -> None:
        from compiler.backends.fpga.weights import plan_weight

        plan = plan_weight(op.weight)
        encoding = plan.encoding
        assert isinstance(encoding, StorageAttr)
        codes = self.store.get(plan.key)
        fields = [plan.pattern_fields[key] for key in ("n", "m", "block_rows", "window", "keep", "kept")]
        data = encoding.format.encode(codes, encoding.pattern)
        layout = decoders.decode(encoding.format.code, data, plan.outs, plan.ins, *fields)
        mode = list(MatrixMode).index(MatrixMode(plan.mode))
        if not np.array_equal(decoders.expand(layout, mode, plan.outs, plan.ins, *fields), codes):
            raise VerificationError("HPCC4003", f"stage 'encode': {op.role.data} does not decode to its codes")

    def tiles(self, stage: str, module: ModuleOp) -> None:
        self.exact(stage, evaluate_tiles(module, self.store, self.borders))

    def exact(self, stage: str, got: Mapping[str, Array]) -> None:
        """Every output equals the golden's bit for bit."""
        for name, wanted in self.golden.items():
            value = got[name].reshape(wanted.shape)
            if not np.array_equal(value, wanted):
                count = int((value != wanted).sum())
                where = tuple(int(i) for i in np.argwhere(value != wanted)[0])
                raise VerificationError(
                    "HPCC4003",
                    f"stage {stage!r}: {count:,} values of {name!r} differ from stage 'quantize', first at {where}",
                )
        self.lines.append(f"{stage}: equals the integer reference bit for bit")

    def _attended(self, value: Array) -> Array:
        """A tensor without the samples in which no token attends, where ONNX's softmax makes something of nothing."""
        masks = [a for name, a in self.inputs.items() if role_of(name) == "mask" and a.ndim == 2]
        if not masks or value.ndim < 2 or len(value) != len(masks[0]):
            return value
        return value[(masks[0] != 0).any(axis=1)]

    def _on_host(self, op: OpaqueOp, args: list[Array]) -> list[Array]:
        """What the operator of an opaque operation makes of these arrays, in ONNX Runtime."""
        node = single_node(self.imported.model, node_name(op))
        given = dict(zip(node.operands, args, strict=True))
        session = open_session(node.model)
        feed = {entry.name: given[entry.name] for entry in session.get_inputs()}
        return list(run_session(session, node.outputs, feed).values())

    # ---- which op -----------------------------------------------------------------------------------------------

    def _reference_tensors(self, module: ModuleOp, replaced: Mapping[str, str]) -> dict[str, Array]:
        build_bridges(module, self.imported.model)
        names = [*names_of(main_function(module), "output_names"), *_input_names(module)]
        reference = Reference(self.imported.model, self.store, replaced, extra_outputs=names)
        return {**dict(self.inputs), **reference.run(self.inputs)}

    def _first_divergence(self, module: ModuleOp, replaced: Mapping[str, str], inputs: Mapping[str, Array | None]) -> str:
        """Name the first op whose own result is off, given the results of the ops before it."""
        function = main_function(module)
        named = {op: name for op in function.body.block.ops if (name := _tensor_name(op)) is not None}
        reference = Reference(self.imported.model, self.store, replaced, extra_outputs=list(named.values()))
        wanted = reference.run(self.inputs)
        values: dict[Any, Array] = {}
        for arg, name in zip(function.body.block.args, _input_names(module), strict=True):
            value = inputs[name]
            assert value is not None
            values[arg] = value
        for op in function.body.block.ops:
            if not op.results:
                break
            with np.errstate(all="ignore"):
                operands = [values[o] for o in op.operands]
                is_opaque = isinstance(op, OpaqueOp)
                results = self._on_host(op, operands) if is_opaque else run_op(op, operands, self.store)
            values.update(zip(op.results, results, strict=True))
            name = named.get(op)
            if name not in wanted:
                continue
            own = values[op.results[0]]
            if not relative_error(self._attended(own), self._attended(wanted[name].reshape(own.shape))) <= FLOAT_LIMIT:
                node = op.location.desc.data if isinstance(op.location, NameLoc) else name
                return f"the first op that diverges is {op.name} of node {node!r}"
        return "no single op diverges"


def _input_names(module: ModuleOp) -> list[str]:
    return names_of(main_function(module), "input_names")


def _tensor_name(op: Operation) -> str | None:
    known = op.attributes.get("hpcc_nn.tensors")
    if isinstance(known, ArrayAttr) and known.data and isinstance(known.data[0], StringAttr):
        return known.data[0].data or None
    return None
