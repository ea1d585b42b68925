"""`hpcc_cpu` to C: a visitor that prints one function for each step, and the image of the weights that they refer to.

The kernels are plain C text (kernels/*.c); this file prints what differs from model to model: constants, the steps with
their ONNX nodes, and the call order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import ReturnOp
from xdsl.ir import BlockArgument, Operation, SSAValue

from compiler.backends.cpu.lowering import memory_sizes, padded
from compiler.backends.cpu.packing import TILE_INPUTS, Packed, pack
from compiler.backends.image import ALIGNMENT, Image, LinearFacts, StepFacts, StepsModel, distinct_parts, maker_of
from compiler.backends.lowering import matrix_of, stored_array
from compiler.dialects import cpu, nn
from compiler.dialects.sparsity import pattern_of
from compiler.interpreters.evaluate import node_name
from compiler.module import main_function, names_of
from compiler.weights import WeightStore
from hw_targets.cpu import VNNI, ByteProducts, CpuTarget
from hw_targets.errors import InfeasibleError, InputError
from hw_targets.numerics import NARROW_KEYS

KERNELS = Path(__file__).parent / "kernels"
PARTS = ("vector", "layout", "threads", "linear", "attention", "heads", "elementwise", "interface")
"""The C library in the order in which it stands in model.c; what it needs of the model comes before, the steps behind."""


MAGIC = b"HPCC CPU weights 1\n"
CHUNK = 48
"""Rows of a linear in one item of work; twice that where the inputs come from beyond the second-level cache."""

LISTED_CHUNK = 384
"""The same of lists of inputs, for what they read comes from the second level anew for each item: 90 GFLOP/s where items of
48 rows give 70 (AVX2, 768 and 3,072 features, a quarter or a tenth of the weights)."""

SHARED_CHUNK = 192
"""The same where codes are interleaved once for all of an item's rows: lists that rows share, and tiles."""

_TYPES = {"i64": "q", "i32": "i", "f32": "f", "f64": "d", "i8": "b", "i1": "b", "ui8": "b"}


@dataclass(frozen=True, kw_only=True)
class CModel(StepsModel[Packed]):
    """The C of a model: its source, and the header of its interface."""

    header: str


@dataclass
class CPrinter:
    """Visits the steps of a tiled module. Raises InfeasibleError for inputs that are not batch x tokens."""

    module: ModuleOp
    store: WeightStore
    target: CpuTarget
    image: Image = field(default_factory=lambda: Image(MAGIC))
    functions: list[str] = field(default_factory=list)
    steps: list[StepFacts] = field(default_factory=list)
    linears: list[LinearFacts[Packed]] = field(default_factory=list)
    ids: dict[int, int] = field(default_factory=dict)
    masks: dict[int, int] = field(default_factory=dict)
    rows_of_ids: dict[int, int] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    head_sizes: set[int] = field(default_factory=set)

    def run(self) -> CModel:
        function = main_function(self.module)
        self.inputs = names_of(function, "input_names")
        self.outputs = names_of(function, "output_names")
        self.types = "".join(_TYPES.get(str(nn.element_type_of(argument)), "?") for argument in function.body.block.args)
        self.batch, self.tokens = _batch_and_tokens(function.body.block.args, self.inputs)
        ops = [op for op in function.body.block.ops if not isinstance(op, nn.STORED)]
        for group in _groups(ops):
            self._step(group)
        sizes = memory_sizes(function.body.block)
        return CModel(
            source=self._source(sizes),
            header=self._header(),
            weights=self.image.bytes,
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            output_shapes=tuple(
                (self.batch, self.tokens, features) if per else (self.batch, features) for features, per in self.results
            ),
            batch=self.batch,
            tokens=self.tokens,
            steps=tuple(self.steps),
            linears=tuple(self.linears),
            id_limits=tuple((self.inputs[number], rows) for number, rows in self.rows_of_ids.items()),
            activation_bytes=4 * sizes[cpu.TOKENS] * self.batch * self.tokens + self._code_bytes(sizes[cpu.CODES]),
        )

    def _code_bytes(self, rows: int) -> int:
        isa = self.target.instructions
        return rows * isa.code_row * -(-self.batch * self.tokens // (isa.floats * isa.byte_vectors))

    # ---- steps ------------------------------------------------------------------------------------------------------

    def _step(self, ops: Sequence[Operation]) -> None:
        first = ops[0]
        if isinstance(first, cpu.LinearOp):
            linears = [op for op in ops if isinstance(op, cpu.LinearOp)]
            self._linears(linears)
        else:
            self._print(first)

    def _function(self, name: str, op: str, nodes: Sequence[str], body: str, macs: int = 0) -> None:
        """A step's C function, under a name of its own."""
        known = re.sub(r"\W+", "_", name).strip("_") or "step"
        unique = known
        while unique in self.names:
            unique = f"{known}_{sum(other.startswith(known) for other in self.names) + 1}"
        self.names.add(unique)
        comment = "\n".join(f"/* {_comment(node)} */" for node in nodes)
        self.functions.append(f"{comment}\nstatic void step_{unique}(hpcc_model *m) {{\n{body}}}\n")
        self.steps.append(StepFacts(name, f"step_{unique}", op, nodes[0].rsplit(": ", 1)[-1] if nodes else "", macs))

    def _linears(self, ops: list[cpu.LinearOp]) -> None:
        rows: list[str] = []
        notes: list[str] = []
        chunk = CHUNK
        for op in ops:
            outs, ins = nn.shape_of(op.weight)
            packed = pack(matrix_of(op.weight, self.store), op.kernel.data, self.target)
            pattern = pattern_of(op.weight.type).spec()
            facts = LinearFacts(op.role.data, node_name(op), outs, ins, packed, pattern, len(self.steps), _per_token(op.x))
            self.linears.append(facts)
            share = packed.multiplied / (outs * ins)
            notes.append(f"{facts.role}: {outs} x {ins}, {pattern}, {packed.kernel.value} ({share:.1%}): {facts.onnx_node}")
            rows.append(self._byte_linear(op, packed) if packed.kernel.in_bytes else self._linear(op, packed))
            chunk = 2 * CHUNK if ins > self.target.dense_block else chunk
            chunk = LISTED_CHUNK if packed.kernel in (cpu.Kernel.VECTORS, cpu.Kernel.SINGLES) else chunk
            chunk = SHARED_CHUNK if packed.kernel is cpu.Kernel.TILES or packed.shared else chunk
        kinds = {cpu.Kernel.BYTES: "byte_linear", cpu.Kernel.PICKS: "pick_linear", cpu.Kernel.TILES: "tile_linear"}
        type = kinds.get(ops[0].kernel.data, "linear")
        body = f"  const {type} layers[] = {{\n{''.join(rows)}  }};\n  run_{type}s(m, layers, {len(rows)}, {chunk});\n"
        self._function("_".join(distinct_parts([op.role.data for op in ops])), "linear", notes, body)

    def _bias(self, op: cpu.LinearOp) -> str:
        """The bias, or zeros, filled up to whole groups of rows."""
        outs = nn.shape_of(op.weight)[0]
        bias = np.zeros(padded(outs), np.float32)
        if op.bias is not None:
            bias[:outs] = stored_array(op.bias, self.store)
        return self._float(bias)

    def _byte_linear(self, op: cpu.LinearOp, packed: Packed) -> str:
        activation = op.activation.data
        then = "NO_ACTIVATION" if activation is cpu.Activation.NONE else activation.name
        residual = "NONE" if op.residual is None else _buffer(op.residual)
        begins, values, starts, columns = (
            self.image.place(array) for array in (packed.begins, packed.values, packed.starts, packed.columns)
        )
        outs, ins = nn.shape_of(op.weight)
        element = f"int{8 * packed.values.itemsize}_t"
        sizes, index = (f"{outs}, {ins}", "uint8_t") if packed.kernel is cpu.Kernel.PICKS else (str(outs), "uint16_t")
        if packed.kernel is not cpu.Kernel.PICKS:
            then = f"{then}, {int(packed.shared)}"
        return (
            f"      {{{sizes}, {then}, {self._bias(op)}, {self._float(packed.row_scales)},\n"
            f"       AT(int32_t, {begins}), AT({element}, {values}), AT(uint32_t, {starts}), AT({index}, {columns}),\n"
            f"       {_buffer(op.x)}, {residual}, {_buffer(op.result)}}},\n"
        )

    def _linear(self, op: cpu.LinearOp, packed: Packed) -> str:
        outs, ins = nn.shape_of(op.weight)
        indices = "NULL, NULL"
        values = self._float(packed.values)
        if packed.kernel is not cpu.Kernel.DENSE:
            starts, columns = self.image.place(packed.starts), self.image.place(packed.columns)
            indices = f"AT(uint32_t, {starts}), AT(uint16_t, {columns})"
        activation = op.activation.data
        then = "NO_ACTIVATION" if activation is cpu.Activation.NONE else activation.name
        residual = "NONE" if op.residual is None else _buffer(op.residual)
        return (
            f"      {{{outs}, {packed.kernel.name}, {ins}, {packed.block}, {then},\n"
            f"       {self._bias(op)}, {values}, {indices},\n"
            f"       {_buffer(op.x)}, {residual}, {_buffer(op.result)}}},\n"
        )

    def _float(self, array: NDArray[Any], key: object = None) -> str:
        return f"AT(float, {self.image.place(array.astype(np.float32, copy=False), key)})"

    def _stored(self, value: SSAValue) -> str:
        return self._float(stored_array(value, self.store), value)

    @singledispatchmethod
    def _print(self, op: Operation) -> None:
        raise TypeError(f"{op.name} has no C form")

    @_print.register
    def _(self, op: cpu.EmbeddingOp) -> None:
        lookups = [self._lookup(ids, table) for ids, table in zip(op.ids, op.tables, strict=True)]
        body = "".join(
            [
                "  const lookup lookups[] = {\n",
                *lookups,
                "  };\n",
                f"  const embedding e = {{{cpu.features_of(op.result)}, {len(lookups)}, lookups, {_buffer(op.result)}}};\n",
                "  run_embedding(m, &e);\n",
            ]
        )
        self._function("embeddings", "embedding", [node_name(op)], body)

    def _lookup(self, ids: SSAValue, table: SSAValue) -> str:
        rows = nn.shape_of(table)[0]
        if isinstance(ids, BlockArgument):
            slot = self.ids.setdefault(ids.index, len(self.ids))
            self.rows_of_ids[ids.index] = min(rows, self.rows_of_ids.get(ids.index, rows))
            return f"      {{{self._stored(table)}, IDS_OF({slot}), m->tokens}},\n"
        stored = np.atleast_2d(stored_array(ids, self.store))
        if stored.size and (stored.min() < 0 or stored.max() >= rows):
            raise InputError("HPCC1436", f"a stored id lies outside its table of {rows} rows")
        step = self.tokens if len(stored) > 1 and not (stored == stored[0]).all() else 0
        kept = stored if step else stored[0]
        return f"      {{{self._stored(table)}, AT(int32_t, {self.image.place(kept.astype(np.int32))}), {step}}},\n"

    @_print.register
    def _(self, op: cpu.QuantizeOp) -> None:
        body = (
            f"  const quantization q = {{{cpu.features_of(op.x)}, {_buffer(op.x)}, {_buffer(op.result)}}};\n"
            f"  {'run_windows' if cpu.buffer_of(op.result).per.data == cpu.WINDOWS else 'run_quantization'}(m, &q);\n"
        )
        self._function(f"{maker_of(op.x)}.codes", "quantize", [node_name(op)], body)

    @_print.register
    def _(self, op: cpu.AttentionOp) -> None:
        heads, width = op.heads.value.data, cpu.features_of(op.q)
        sharing = f"{heads}, {op.groups.value.data}, {width // heads}, {int(op.causal is not None)}"
        self.head_sizes.add(width // heads)
        mask = self._mask_number(op.mask)
        buffers = ", ".join(_buffer(value) for value in (op.q, op.k, op.v, op.result))
        body = (
            f"  const attention a = {{{sharing}, {_float(op.scale.value.data)}, {mask}, {buffers}}};\n"
            "  run_attention(m, &a);\n"
        )
        macs = 2 * self.batch * self.tokens * self.tokens * width
        self._function(op.role.data, "attention", [f"{op.role.data}: {node_name(op)}"], body, macs)

    def _mask_number(self, mask: SSAValue | None) -> int:
        if mask is None:
            return 0
        assert isinstance(mask, BlockArgument)
        return self.masks.setdefault(mask.index, len(self.masks) + 1)

    @_print.register
    def _(self, op: cpu.LayerNormOp) -> None:
        gamma, beta = self._stored(op.gamma), self._stored(op.beta)
        body = (
            f"  const layer_norm n = {{{cpu.features_of(op.x)}, {_float(op.eps.value.data)}, {gamma}, {beta},\n"
            f"                        {_buffer(op.x)}, {_buffer(op.result)}}};\n  run_layer_norm(m, &n);\n"
        )
        self._function(f"{maker_of(op.x)}.norm", "layer_norm", [node_name(op)], body)

    @_print.register
    def _(self, op: cpu.RmsNormOp) -> None:
        size = nn.shape_of(op.gamma)[0]
        body = (
            f"  const rms_norm n = {{{cpu.features_of(op.x) // size}, {size}, {_float(op.eps.value.data)},"
            f" {self._stored(op.gamma)},\n"
            f"                      {_buffer(op.x)}, {_buffer(op.result)}}};\n  run_rms_norm(m, &n);\n"
        )
        self._function(f"{maker_of(op.x)}.norm", "rms_norm", [node_name(op)], body)

    @_print.register
    def _(self, op: cpu.RotaryOp) -> None:
        size, turned = op.head_size.value.data, nn.shape_of(op.table)[1]
        heads = cpu.features_of(op.x) // size
        body = (
            f"  const rotary r = {{{heads}, {size}, {turned}, {int(op.interleaved is not None)}, {self._stored(op.table)},\n"
            f"                    {_buffer(op.x)}, {_buffer(op.result)}}};\n  run_rotary(m, &r);\n"
        )
        self._function(f"{maker_of(op.x)}.rotary", "rotary", [node_name(op)], body)

    @_print.register
    def _(self, op: cpu.PointwiseOp) -> None:
        then = "NO_ACTIVATION" if op.activation.data is cpu.Activation.NONE else op.activation.data.name
        other, times = "NONE" if op.other is None else _buffer(op.other), int(op.times is not None)
        body = (
            f"  const pointwise p = {{{cpu.features_of(op.x)}, {then}, {times}, {_buffer(op.x)}, {other},"
            f" {_buffer(op.result)}}};\n"
            "  run_pointwise(m, &p);\n"
        )
        self._function("pointwise", "pointwise", [node_name(op)], body)

    @_print.register
    def _(self, op: cpu.PoolOp) -> None:
        token = -1 if op.token is None else op.token.value.data
        minimum = 0.0 if op.minimum is None else op.minimum.value.data
        body = (
            f"  const pooling p = {{{cpu.features_of(op.x)}, {self._mask_number(op.mask)}, {token}, {_float(minimum)},\n"
            f"                     {_buffer(op.x)}, {_buffer(op.result)}}};\n  run_pooling(m, &p);\n"
        )
        self._function("pool", "pool", [node_name(op)], body)

    @_print.register
    def _(self, op: ReturnOp) -> None:
        rows: list[str] = []
        for number, (name, value) in enumerate(zip(self.outputs, op.operands, strict=True)):
            per_token = int(_per_token(value))
            rows.append(
                f"  const result r{number} = {{{cpu.features_of(value)}, {per_token}, {_buffer(value)},"
                f" m->outputs[{number}].data}}; /* {_comment(name)} */\n  give_result(m, &r{number});\n"
            )
        self.results = [(cpu.features_of(value), int(_per_token(value))) for value in op.operands]
        self._function("outputs", "output", ["row-major results"], "".join(rows))

    # ---- texts ------------------------------------------------------------------------------------------------------

    def _header(self) -> str:
        text = (KERNELS / "model.h").read_text(encoding="utf-8")
        inputs = "".join(
            f" *   inputs[{n}]  {_comment(name)}: batch x tokens, {self._kind(n)}\n" for n, name in enumerate(self.inputs)
        )
        outputs = "".join(
            f" *   outputs[{n}] {_comment(name)}: batch x {'tokens x ' if per else ''}{features}, float\n"
            for n, (name, (features, per)) in enumerate(zip(self.outputs, self.results, strict=True))
        )
        steps = "".join(f" *   {n} {step.name}\n" for n, step in enumerate(self.steps))
        return (
            f"{text}\nenum {{\n  HPCC_MAX_BATCH = {self.batch},\n  HPCC_MAX_TOKENS = {self.tokens},\n"
            f"  HPCC_INPUTS = {len(self.inputs)},\n  HPCC_OUTPUTS = {len(self.outputs)},\n"
            f"  HPCC_STEPS = {len(self.steps)}\n}};\n\n"
            f"#define HPCC_OUTPUT_FEATURES {{{', '.join(str(features) for features, _ in self.results)}}}\n"
            f"#define HPCC_OUTPUT_PER_TOKEN {{{', '.join(str(per) for _, per in self.results)}}}\n\n"
            f"/*\n{inputs}{outputs} * Steps:\n{steps} */\n\n#ifdef __cplusplus\n}}\n#endif\n\n#endif\n"
        )

    def _kind(self, number: int) -> str:
        element = {"q": "int64_t", "i": "int32_t", "f": "float", "d": "double", "b": "one byte"}[self.types[number]]
        if number in self.ids:
            return f"{element}, ids below {self.rows_of_ids[number]}"
        return f"{element}, nonzero = attend" if number in self.masks else f"{element}, not read"

    def _source(self, sizes: dict[str, int]) -> str:
        isa = self.target.instructions
        header = ", ".join(str(byte) for byte in self.image.bytes[:ALIGNMENT])
        constants = {
            "W": isa.floats,
            "TILE_VECTORS": isa.byte_vectors if self._byte_products() else isa.tile_vectors,
            "TILE": "(W * TILE_VECTORS)",
            "PANEL": isa.panel,
            "CODE_ROW": isa.code_row,
            "TOKENS_MEMORY": sizes[cpu.TOKENS],
            "SAMPLES_MEMORY": sizes[cpu.SAMPLES],
            "CODES_MEMORY": sizes[cpu.CODES],
            "BLOCKS_MEMORY": self._blocks_memory(),
            "NEEDS_TILES": int(any(linear.packed.kernel is cpu.Kernel.TILES for linear in self.linears)),
            **self._head_constants(),
            "MASKS": len(self.masks),
            "IDS": len(self.ids),
            "WEIGHTS_BYTES": self.image.end,
            "INPUT_TYPES": f'"{self.types}"',
        }
        return "\n".join(
            [
                f"/* A model compiled by hpcc for {self.target.name}.\n"
                f" * Build: cc -std=gnu11 -O3 {' '.join(isa.flags)} -pthread model.c -lm\n"
                " * The library comes first, then one function for each step with its ONNX node, then hpcc_run. */\n",
                _part("prologue"),
                "\n".join(f"#define {name} {value}" for name, value in constants.items()),
                f"\nstatic const unsigned char weights_header[] = {{{_wrapped(header)}}};\n",
                *(_part(name) for name in self._parts()),
                STEPS_BEGIN,
                *self.functions,
                self._run(),
            ]
        )

    def _parts(self) -> list[str]:
        after, heads = PARTS.index("linear") + 1, PARTS.index("heads")
        kernels = {linear.packed.kernel for linear in self.linears}
        products = self._byte_products()
        in_bytes = [] if products is None else [products.part, "codes"]
        more = [part for kernel, part in ((cpu.Kernel.PICKS, "picks"), (cpu.Kernel.TILES, "tiles")) if kernel in kernels]
        attention = ["byte_attention"] if self._attends_in_bytes() else []
        return [*PARTS[:after], *in_bytes, *more, *PARTS[after:heads], *attention, *PARTS[heads:]]

    def _byte_products(self) -> ByteProducts | None:
        """How int8 products are made, where there are any."""
        some = any(linear.packed.kernel.in_bytes for linear in self.linears)
        return self.target.instructions.int8 if some else None

    def _attends_in_bytes(self) -> bool:
        return bool(self.head_sizes) and self._byte_products() == VNNI

    def _head_constants(self) -> dict[str, int]:
        """The largest head, the keys up to which it is multiplied in bytes, and the bytes that a worker needs for its codes;
        zeros where attention is fp32."""
        if not self._attends_in_bytes():
            return {"HEAD_SIZE": 0, "HEAD_KEYS": 0, "HEAD_MEMORY": 0}
        isa = self.target.instructions
        size, keys = max(self.head_sizes), min(NARROW_KEYS, -(-self.tokens // isa.floats) * isa.floats)
        lists = -(-size // 4)
        words = lists * (isa.tile + keys) + size * (keys // 4) + 2 * keys + size
        return {"HEAD_SIZE": size, "HEAD_KEYS": keys, "HEAD_MEMORY": -(-4 * words // ALIGNMENT) * ALIGNMENT}

    def _blocks_memory(self) -> int:
        """Bytes that a worker needs for codes that are interleaved: those of a group's tiles, or of shared lists."""
        inputs = [
            int(np.diff(packed.starts.astype(np.int64)).max(initial=1)) * TILE_INPUTS
            if packed.kernel is cpu.Kernel.TILES
            else packed.columns.size
            for packed in (linear.packed for linear in self.linears)
            if packed.kernel is cpu.Kernel.TILES or packed.shared
        ]
        return -(-max(inputs, default=0) * self.target.instructions.code_row // ALIGNMENT) * ALIGNMENT

    def _run(self) -> str:
        reads = ["  if (!status) status = read_mask(m, 0, NULL, 'q');"]
        reads += [
            f"  if (!status) status = read_ids(m, {slot}, inputs + {n}, '{self.types[n]}', {self.rows_of_ids[n]});"
            for n, slot in self.ids.items()
        ]
        reads += [
            f"  if (!status) status = read_mask(m, {slot}, inputs + {number}, '{self.types[number]}');"
            for number, slot in self.masks.items()
        ]
        steps = [f"  do_step(m, {number}, {step.function});" for number, step in enumerate(self.steps)]
        return RUN.format(reads="\n".join(reads), steps="\n".join(steps))


STEPS_BEGIN = """/* ---- the steps of this model -------------------------------------------------------------------- */

#define AT(type, offset) ((const type *)(m->weights + (offset)))
#define IDS_OF(slot) (m->ids + (size_t)(slot) * HPCC_MAX_BATCH * HPCC_MAX_TOKENS)
#define PADDED(features) (((features) + 11) / 12 * 12)
#define PER_TOKEN(place, features) {m->tokens_arena + (size_t)(place) * m->columns, PADDED(features), &m->by_token}
#define PER_SAMPLE(place, features) {m->samples_arena + (size_t)(place) * m->rows, PADDED(features), &m->by_sample}
#define CODES_AT(place) (m->codes_arena + (size_t)(place) * CODE_ROW * m->by_token.tiles)
#define CODES(place, features) {CODES_AT(place), PADDED(features + SCALE_ROWS)}
#define WINDOWED(features) (((features) + 63) / 64 * 64 + SCALE_ROWS)
#define WINDOWS(place, features) {CODES_AT(place), WINDOWED(features)}
#define NONE {NULL, 0, 0}
"""

RUN = """int hpcc_run(hpcc_model *m, int batch, int tokens, const hpcc_input *inputs, int input_count,
             const hpcc_output *outputs, int output_count) {{
  int status = begin_run(m, batch, tokens, inputs, input_count, outputs, output_count);
{reads}
  if (status) return status;
{steps}
  return HPCC_OK;
}}
"""


def print_c(module: ModuleOp, store: WeightStore, target: CpuTarget) -> CModel:
    """The C of a module after `tile`, and its weights."""
    return CPrinter(module, store, target).run()


def _part(name: str) -> str:
    return (KERNELS / f"{name}.c").read_text(encoding="utf-8")


def _groups(ops: Sequence[Operation]) -> Iterator[list[Operation]]:
    """Steps: linears in a row that read the same buffer are one, the rest stand alone."""
    group: list[Operation] = []
    for op in ops:
        last = group[-1] if group else None
        together = isinstance(op, cpu.LinearOp) and isinstance(last, cpu.LinearOp) and op.x is last.x
        if group and not together:
            yield group
            group = []
        group.append(op)
    if group:
        yield group


def _batch_and_tokens(arguments: Sequence[BlockArgument], names: Sequence[str]) -> tuple[int, int]:
    shapes = {name: nn.shape_of(argument) for name, argument in zip(names, arguments, strict=True)}
    if len(set(shapes.values())) != 1 or any(len(shape) != 2 for shape in shapes.values()):
        told = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()) or "none"
        raise InfeasibleError("HPCC3303", f"the CPU library takes inputs of one shape, batch x tokens; these are {told}")
    for name, argument in zip(names, arguments, strict=True):
        if str(nn.element_type_of(argument)) not in _TYPES:
            raise InfeasibleError(
                "HPCC3303", f"the CPU library takes no input of type {nn.element_type_of(argument)}: {name!r}"
            )
    batch, tokens = next(iter(shapes.values()))
    return batch, tokens


def _buffer(value: SSAValue) -> str:
    type = cpu.buffer_of(value)
    kind = {cpu.TOKENS: "PER_TOKEN", cpu.SAMPLES: "PER_SAMPLE", cpu.CODES: "CODES", cpu.WINDOWS: "WINDOWS"}[type.per.data]
    return f"{kind}({type.place.data}, {type.features.data})"


def _per_token(value: SSAValue) -> bool:
    return cpu.buffer_of(value).per.data != cpu.SAMPLES


def _float(value: float) -> str:
    """An fp32 constant in C, exact."""
    return f"{float(np.float32(value)).hex()}f"


def _comment(text: str) -> str:
    return text.replace("*/", "* /").replace("/*", "/ *").encode("ascii", "backslashreplace").decode()


def _wrapped(numbers: str) -> str:
    words = numbers.split(" ")
    return "\n    ".join(["", *(" ".join(words[at : at + 24]) for at in range(0, len(words), 24))])
