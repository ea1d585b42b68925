"""`hpcc_gpu` to Triton: a visitor that prints one Python function for each step, and the image of the weights.

The kernels are plain Triton text (kernels/*.py); this file prints what differs from model to model: constants, the steps
with their ONNX nodes, and the table of outputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import ReturnOp
from xdsl.ir import BlockArgument, Operation, SSAValue

from compiler.backends.gpu.lowering import rows_of
from compiler.backends.gpu.packing import Packed, pack
from compiler.backends.image import ALIGNMENT, Image, LinearFacts, StepFacts, StepsModel, distinct_parts, maker_of
from compiler.backends.lowering import matrix_of, memory_sizes, stored_array
from compiler.dialects import gpu, nn
from compiler.dialects.sparsity import pattern_of
from compiler.dialects.steps import CODES, SAMPLES, TOKENS, buffer_of, features_of
from compiler.interpreters.evaluate import node_name
from compiler.module import main_function, names_of
from compiler.weights import WeightStore
from hw_targets.errors import InfeasibleError, InputError
from hw_targets.gpu import GpuTarget

KERNELS = Path(__file__).parent / "kernels"
MAGIC = b"HPCC GPU weights 1\n"
_ELEMENTS = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
_TORCH = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "float16"}
_NUMPY = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16", "int8": "int8", "int32": "int32"}


@dataclass(frozen=True, kw_only=True)
class TritonModel(StepsModel[Packed]):
    """The Triton of a model. `moved_bytes` are what each step reads and writes at the compiled shape: every input, weight
    and output once."""

    moved_bytes: tuple[int, ...]


@dataclass
class TritonPrinter:
    """Visits the steps of a tiled module. Raises InfeasibleError for inputs that are not batch x tokens."""

    module: ModuleOp
    store: WeightStore
    target: GpuTarget
    precision: str
    image: Image = field(default_factory=lambda: Image(MAGIC))
    functions: list[str] = field(default_factory=list)
    steps: list[StepFacts] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)
    linears: list[LinearFacts[Packed]] = field(default_factory=list)
    rows_of_ids: dict[str, int] = field(default_factory=dict)
    masks: dict[str, None] = field(default_factory=dict)
    kernels: dict[str, None] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    results: list[tuple[bool, int, int]] = field(default_factory=list)

    def run(self) -> TritonModel:
        block = main_function(self.module).body.block
        self.inputs = names_of(main_function(self.module), "input_names")
        self.outputs = names_of(main_function(self.module), "output_names")
        self.batch, self.tokens = _batch_and_tokens(block.args, self.inputs)
        self.element = _ELEMENTS.get(self.precision, np.dtype(np.float16))
        steps = [op for op in block.ops if not isinstance(op, nn.STORED)]
        for group in _groups(_with_norms(steps)):
            self._step(group)
        sizes = memory_sizes(block, rows_of)
        batch, tokens = self.batch, self.tokens
        return TritonModel(
            source=self._source(sizes),
            weights=self.image.bytes,
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            output_shapes=tuple(
                (batch, tokens, features) if per else (batch, features) for per, _, features in self.results
            ),
            batch=batch,
            tokens=tokens,
            steps=tuple(self.steps),
            linears=tuple(self.linears),
            moved_bytes=tuple(self.moved),
            id_limits=tuple(self.rows_of_ids.items()),
            activation_bytes=(sizes[TOKENS] * self.element.itemsize + sizes[CODES]) * batch * tokens,
        )

    # ---- steps ------------------------------------------------------------------------------------------------------

    def _step(self, ops: Sequence[Operation]) -> None:
        if isinstance(ops[0], gpu.LinearOp):
            self._linears([op for op in ops if isinstance(op, gpu.LinearOp)])
        elif isinstance(ops[0], gpu.EmbeddingOp):
            norm = ops[1] if len(ops) > 1 else None
            assert norm is None or isinstance(norm, gpu.LayerNormOp)
            self._embedding(ops[0], norm)
        else:
            self._print(ops[0])

    def _function(self, name: str, op: str, notes: Sequence[str], call: str, moved: int, macs: int = 0) -> None:
        """A step's function, under a name of its own."""
        known = re.sub(r"\W+", "_", name).strip("_") or "step"
        unique = known
        while unique in self.names:
            unique = f"{known}_{sum(other.startswith(known) for other in self.names) + 1}"
        self.names.add(unique)
        comment = "\n".join(f"    # {_comment(note)}" for note in notes)
        self.functions.append(f"def step_{unique}(m):\n{comment}\n    {call}\n\n\n")
        node = notes[0].rsplit(": ", 1)[-1] if notes else ""
        self.steps.append(StepFacts(name, f"step_{unique}", op, node, macs))
        self.moved.append(moved)

    def _linears(self, ops: list[gpu.LinearOp]) -> None:
        """One launch for the linears of a group: their tiles one after the other."""
        first = ops[0]
        rows, inputs = first.rows.value.data, first.inputs.value.data
        in_bytes = buffer_of(first.x).per.data == CODES
        packs = [self._packed(op, rows, inputs, in_bytes) for op in ops]
        notes = [self._note(op, packed) for op, packed in zip(ops, packs, strict=True)]
        tiles, chunks, values = [], 0, 0
        begins: list[NDArray[np.int32]] = []
        for op, packed in zip(ops, packs, strict=True):
            outs = nn.shape_of(op.weight)[0]
            place, start = buffer_of(op.result).place.data, np.arange(len(packed.bounds)) * rows
            tiles.append(np.stack([*(packed.bounds + chunks).T, place + start, np.minimum(outs - start, rows)], axis=1))
            begins.append(packed.begins + values)
            chunks += int(packed.bounds[-1, 1])
            values += packed.values.size
        arguments = {
            "bias": self._put(np.concatenate([self._bias(op, rows) for op in ops])),
            "tiles": self._put(np.concatenate(tiles).astype(np.int32)),
        }
        if in_bytes:
            arguments["row_scales"] = self._put(np.concatenate([packed.row_scales for packed in packs]))
        if first.residual is not None:
            arguments["residual"] = _buffer(first.residual)
        arguments |= {
            "activation": repr(first.activation.data.value),
            "rows": str(rows),
            "tokens": str(first.tokens.value.data),
            "inputs": str(inputs),
            "stages": str(first.stages.value.data),
        }
        data = self._put(np.concatenate([packed.values for packed in packs]))
        memory = "m.token_memory" if buffer_of(first.result).per.data == TOKENS else "m.sample_memory"
        kernel, halved = first.kernel.data, ""
        if kernel is gpu.Kernel.SPARSE:
            halved = f" {_buffer(first.result)},"
        elif kernel is not gpu.Kernel.DENSE:
            arguments["layout"] = repr(kernel.value)
        if kernel is gpu.Kernel.GATHER:
            arguments["index"] = self._put(np.concatenate([packed.kept for packed in packs]))
        elif kernel is not gpu.Kernel.DENSE:
            arguments["index"] = self._put(np.concatenate([packed.marks for packed in packs]))
            arguments["begins"] = self._put(np.concatenate(begins))
        call = f"{'run_sparse' if halved else 'run_linear'}(m, {_buffer(first.x)},{halved} {memory}, {data},"
        told = ",\n        ".join(f"{name}={value}" for name, value in arguments.items())
        moved = sum(packed.value_bytes + packed.index_bytes for packed in packs) + self._bytes(first.x)
        moved += sum(self._bytes(op.result) for op in ops) + (0 if first.residual is None else self._bytes(first.residual))
        roles = [op.role.data for op in ops]
        self._function("_".join(distinct_parts(roles)), "linear", notes, f"{call}\n        {told})", moved)

    def _packed(self, op: gpu.LinearOp, rows: int, inputs: int, in_bytes: bool) -> Packed:
        w = matrix_of(op.weight, self.store)
        packed = pack(w if in_bytes else _rounded(w, self.element), op.kernel.data, rows, inputs, in_bytes=in_bytes)
        outs, ins = nn.shape_of(op.weight)
        per_token = buffer_of(op.result).per.data == TOKENS
        pattern = pattern_of(op.weight.type).spec()
        self.linears.append(LinearFacts(op.role.data, node_name(op), outs, ins, packed, pattern, len(self.steps), per_token))
        return packed

    def _note(self, op: gpu.LinearOp, packed: Packed) -> str:
        outs, ins = nn.shape_of(op.weight)
        share = packed.multiplied / (outs * ins)
        pattern = pattern_of(op.weight.type).spec()
        return f"{op.role.data}: {outs} x {ins}, {pattern}, {packed.kernel.value} ({share:.1%}): {node_name(op)}"

    def _bias(self, op: gpu.LinearOp, rows: int) -> NDArray[np.float32]:
        """The bias, or zeros, filled up to whole tiles."""
        outs = nn.shape_of(op.weight)[0]
        bias = np.zeros(-(-outs // rows) * rows, np.float32)
        if op.bias is not None:
            bias[:outs] = stored_array(op.bias, self.store)
        return bias

    def _put(self, array: NDArray[Any], key: object = None) -> str:
        """A stored array as the module names it."""
        flat = np.ascontiguousarray(array).reshape(-1)
        return f"m.at({self.image.place(flat, key)}, {flat.size}, torch.{_NUMPY[flat.dtype.name]})"

    def _stored(self, value: SSAValue, *, as_element: bool = False) -> str:
        dtype = self.element if as_element else np.dtype(np.float32)
        return self._put(_rounded(stored_array(value, self.store), dtype), (value, dtype))

    def _bytes(self, value: SSAValue) -> int:
        """Bytes of a buffer's values at the compiled shape."""
        type = buffer_of(value)
        columns = self.batch if type.per.data == SAMPLES else self.batch * self.tokens
        return type.features.data * columns * (1 if type.per.data == CODES else self.element.itemsize)

    def _embedding(self, op: gpu.EmbeddingOp, norm: gpu.LayerNormOp | None) -> None:
        """Table rows summed, and normalised where a norm is all that reads the sum."""
        self.kernels |= dict.fromkeys(("rows", "embedding"))
        out = op.result if norm is None else norm.result
        lookups = [self._lookup(ids, table) for ids, table in zip(op.ids, op.tables, strict=True)]
        then = "" if norm is None else f", norm=({self._stored(norm.gamma)}, {self._stored(norm.beta)}, {_eps(norm)})"
        call = f"run_embedding(m, {_buffer(out)}, [{', '.join(lookups)}]{then})"
        name, kind = ("embeddings", "embedding") if norm is None else ("embeddings.norm", "embedding, layer_norm")
        moved = self._bytes(out) * (1 + len(lookups)) + 4 * len(lookups) * self.batch * self.tokens
        self._function(name, kind, [node_name(op)], call, moved)

    def _lookup(self, ids: SSAValue, table: SSAValue) -> str:
        rows = nn.shape_of(table)[0]
        if isinstance(ids, BlockArgument):
            name = self.inputs[ids.index]
            self.rows_of_ids[name] = min(rows, self.rows_of_ids.get(name, rows))
            return f"((m.ids[{name!r}], m.count), {self._stored(table, as_element=True)})"
        stored = np.atleast_2d(stored_array(ids, self.store))
        if stored.size and (stored.min() < 0 or stored.max() >= rows):
            raise InputError("HPCC1438", f"a stored id lies outside its table of {rows} rows")
        kept = stored if len(stored) > 1 and not (stored == stored[0]).all() else stored[:1]
        place = self.image.place(np.ascontiguousarray(kept, np.int32).reshape(-1))
        return f"(m.stored_ids({place}, {len(kept)}), {self._stored(table, as_element=True)})"

    @singledispatchmethod
    def _print(self, op: Operation) -> None:
        raise TypeError(f"{op.name} has no Triton form")

    @_print.register
    def _(self, op: gpu.QuantizeOp) -> None:
        self.kernels["bytes"] = None
        moved = self._bytes(op.x) + self._bytes(op.result) + 4 * self.batch * self.tokens
        call = f"run_quantize(m, {_buffer(op.x)}, {_buffer(op.result)})"
        self._function(f"{maker_of(op.x)}.codes", "quantize", [node_name(op)], call, moved)

    @_print.register
    def _(self, op: gpu.AttentionOp) -> None:
        self.kernels["attention"] = None
        buffers = ", ".join(_buffer(value) for value in (op.q, op.k, op.v, op.result))
        heads, groups, causal = op.heads.value.data, op.groups.value.data, op.causal is not None
        call = (
            f"run_attention(m, {buffers}, {self._mask(op.mask)},\n        heads={heads}, groups={groups},"
            f" scale={op.scale.value.data!r}, causal={causal})"
        )
        moved = sum(self._bytes(value) for value in (op.q, op.k, op.v, op.result))
        macs = 2 * self.batch * self.tokens * self.tokens * features_of(op.q)
        self._function(op.role.data, "attention", [f"{op.role.data}: {node_name(op)}"], call, moved, macs)

    def _mask(self, mask: SSAValue | None) -> str:
        if mask is None:
            return "None"
        assert isinstance(mask, BlockArgument)
        self.masks[self.inputs[mask.index]] = None
        return f"m.masks[{self.inputs[mask.index]!r}]"

    @_print.register
    def _(self, op: gpu.LayerNormOp) -> None:
        self.kernels |= dict.fromkeys(("rows", "elementwise"))
        parameters = f"{self._stored(op.gamma)}, {self._stored(op.beta)}"
        call = f"run_layer_norm(m, {_buffer(op.x)}, {parameters}, {_buffer(op.result)}, {_eps(op)})"
        self._function(f"{maker_of(op.x)}.norm", "layer_norm", [node_name(op)], call, 2 * self._bytes(op.x))

    @_print.register
    def _(self, op: gpu.RmsNormOp) -> None:
        self.kernels |= dict.fromkeys(("rows", "elementwise"))
        call = f"run_rms_norm(m, {_buffer(op.x)}, {self._stored(op.gamma)}, {_buffer(op.result)}, {_eps(op)})"
        self._function(f"{maker_of(op.x)}.norm", "rms_norm", [node_name(op)], call, 2 * self._bytes(op.x))

    @_print.register
    def _(self, op: gpu.RotaryOp) -> None:
        self.kernels |= dict.fromkeys(("rows", "elementwise"))
        size, turned, interleaved = op.head_size.value.data, nn.shape_of(op.table)[1], op.interleaved is not None
        call = (
            f"run_rotary(m, {_buffer(op.x)}, {self._stored(op.table)}, {_buffer(op.result)},"
            f" size={size}, turned={turned}, interleaved={interleaved})"
        )
        self._function(f"{maker_of(op.x)}.rotary", "rotary", [node_name(op)], call, 2 * self._bytes(op.x))

    @_print.register
    def _(self, op: gpu.PointwiseOp) -> None:
        self.kernels |= dict.fromkeys(("rows", "elementwise"))
        other = "None" if op.other is None else _buffer(op.other)
        how = "times" if op.times is not None else "plus"
        call = (
            f"run_pointwise(m, {_buffer(op.x)}, {_buffer(op.result)}, {other}, {how!r},"
            f" activation={op.activation.data.value!r})"
        )
        moved = self._bytes(op.x) * (2 if op.other is None else 3)
        self._function("pointwise", "pointwise", [node_name(op)], call, moved)

    @_print.register
    def _(self, op: gpu.PoolOp) -> None:
        self.kernels |= dict.fromkeys(("rows", "elementwise"))
        if op.token is not None:
            how, moved = f"token={op.token.value.data}", 2 * self._bytes(op.result)
        else:
            assert op.minimum is not None
            how = f"mask={self._mask(op.mask)}, minimum={op.minimum.value.data!r}"
            moved = self._bytes(op.x) + self._bytes(op.result)
        self._function("pool", "pool", [node_name(op)], f"run_pool(m, {_buffer(op.x)}, {_buffer(op.result)}, {how})", moved)

    @_print.register
    def _(self, op: ReturnOp) -> None:
        for value in op.operands:
            type = buffer_of(value)
            self.results.append((type.per.data == TOKENS, type.place.data, type.features.data))

    # ---- the module -------------------------------------------------------------------------------------------------

    def _source(self, sizes: dict[str, int]) -> str:
        outputs = dict(zip(self.outputs, self.results, strict=True))
        constants = {
            "MAX_BATCH": self.batch,
            "MAX_TOKENS": self.tokens,
            "TOKEN_ROWS": max(sizes[TOKENS], 1),
            "SAMPLE_ROWS": max(sizes[SAMPLES], 1),
            "CODE_ROWS": max(sizes[CODES], 1),
            "ACTIVATIONS": f"torch.{_TORCH[self.precision]}",
            "WEIGHTS_BYTES": self.image.end,
            "WEIGHTS_HEADER": repr(bytes(self.image.bytes[:ALIGNMENT]).rstrip(b"\0")),
        }
        lines = "".join(f"{name} = {value}\n" for name, value in constants.items())
        lines += _table("INPUTS", "(", [f"{name!r}" for name in self.inputs], ")")
        lines += _table("IDS", "{", [f"{name!r}: {rows}" for name, rows in self.rows_of_ids.items()], "}")
        lines += _table("MASKS", "(", [f"{name!r}" for name in self.masks], ")")
        lines += "# Outputs by name: whether they are per token, their first row in the activation memory, their features.\n"
        lines += _table("OUTPUTS", "{", [f"{name!r}: {place}" for name, place in outputs.items()], "}")
        steps = _table("STEPS", "(", [step.function for step in self.steps], ")")
        order = ("linear", "bytes", "attention", "rows", "embedding", "elementwise")
        kernels = {**dict.fromkeys(("linear", "rows", "elementwise")), **self.kernels}
        return "".join(
            [
                f'"""A model compiled by hpcc for {self.target.name}, products in {self.precision}.\n\n{_USAGE}"""\n\n',
                _part("head"),
                *(_part(name) for name in order if name in kernels),
                _part("runner"),
                "# ---- the steps of this model " + "-" * 90 + "\n\n",
                lines,
                "\n\n",
                *self.functions,
                steps,
                "\n\n",
                _part("main"),
            ]
        )


_USAGE = """\
Needs torch, triton and numpy. `python model.py INPUTS.npz OUTPUTS.npz` runs it on a GPU, with TRITON_INTERPRET=1 in
Triton's interpreter on the CPU (slow; for checks). Kernels come first, then the runner, then one function for each step
with its ONNX nodes. weights.bin stands beside this file.
"""


def print_triton(module: ModuleOp, store: WeightStore, target: GpuTarget, precision: str) -> TritonModel:
    """The Triton module of a module after `tile`, and its weights."""
    return TritonPrinter(module, store, target, precision).run()


def _part(name: str) -> str:
    return (KERNELS / f"{name}.py").read_text(encoding="utf-8")


def _table(name: str, begin: str, rows: Sequence[str], end: str) -> str:
    if not rows:
        return f"{name} = {begin}{end}\n"
    return f"{name} = {begin}\n" + "".join(f"    {row},\n" for row in rows) + f"{end}\n"


def _with_norms(ops: Sequence[Operation]) -> Iterator[list[Operation]]:
    """Each operation alone, an embedding with the norm that is all that reads it."""
    done: set[Operation] = set()
    for op in ops:
        if op in done:
            continue
        user = op.result.get_user_of_unique_use() if isinstance(op, gpu.EmbeddingOp) else None
        together = [op, user] if isinstance(user, gpu.LayerNormOp) else [op]
        done.update(together)
        yield together


def _groups(steps: Iterator[list[Operation]]) -> Iterator[list[Operation]]:
    """Launches: linears in a row that read the same buffer in the same way are one, the rest stand alone."""
    group: list[Operation] = []
    for step in steps:
        if group and not (len(step) == 1 and _alike(group[-1], step[0])):
            yield group
            group = []
        group.extend(step)
    if group:
        yield group


def _alike(one: Operation, other: Operation) -> bool:
    if not isinstance(one, gpu.LinearOp) or not isinstance(other, gpu.LinearOp) or one.x is not other.x:
        return False
    if one.residual is not None or other.residual is not None or one.kernel.data is gpu.Kernel.SPARSE:
        return False
    names = ("kernel", "rows", "tokens", "inputs", "stages", "activation")
    return all(one.properties[name] == other.properties[name] for name in names)


def _batch_and_tokens(arguments: Sequence[BlockArgument], names: Sequence[str]) -> tuple[int, int]:
    shapes = {name: nn.shape_of(argument) for name, argument in zip(names, arguments, strict=True)}
    if len(set(shapes.values())) != 1 or any(len(shape) != 2 for shape in shapes.values()):
        told = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()) or "none"
        raise InfeasibleError("HPCC3501", f"the Triton module takes inputs of one shape, batch x tokens; these are {told}")
    batch, tokens = next(iter(shapes.values()))
    return batch, tokens


def _buffer(value: SSAValue) -> str:
    type = buffer_of(value)
    kind = {TOKENS: "token_rows", SAMPLES: "sample_rows", CODES: "code_rows"}[type.per.data]
    return f"m.{kind}({type.place.data}, {type.features.data})"


def _rounded(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values in an element type; what is too large for fp16 becomes its largest number."""
    if dtype == np.float16:
        array = np.clip(array, -65504, 65504)
    return array.astype(dtype)


def _eps(op: gpu.LayerNormOp | gpu.RmsNormOp) -> str:
    return repr(op.eps.value.data)


def _comment(text: str) -> str:
    return text.replace("\n", " ").encode("ascii", "backslashreplace").decode()
