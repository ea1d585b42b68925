"""Small programs for the backend's tests: fused modules from text, and tasks made by hand on placed buffers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from xdsl.context import Context
from xdsl.dialects import get_all_dialects
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute, SSAValue
from xdsl.parser import Parser

from compiler.backends.fpga.semaphores import SemaphorePair, assign_semaphores, dependencies_by_part
from compiler.backends.fpga.tasks import Instance, Rectangle, Task
from compiler.dialects.tile import AllocOp, DramOp, RunOp, buffer_type, element_bytes, row_stride
from compiler.pipelines import load_pass
from compiler.universe import all_dialects
from compiler.weights import WeightStore, attach_store
from hw_targets.check import Semaphore, check_program
from hw_targets.isa import BY_NAME, Address, Instruction, Memory


def semaphores_of(tasks: Sequence[Task]) -> list[SemaphorePair]:
    """Give placed tasks their waits and signals; the semaphores used."""
    return assign_semaphores(tasks, dependencies_by_part(tasks))


def context(store: WeightStore | None = None) -> Context:
    """A context that knows every dialect, with a store attached."""
    ctx = Context()
    for name, load in {**get_all_dialects(), **all_dialects()}.items():
        ctx.register_dialect(name, load)
    attach_store(ctx, store or WeightStore())
    return ctx


def parse(text: str, ctx: Context | None = None) -> ModuleOp:
    return Parser(ctx or context(), text).parse_module()


def apply(ctx: Context, module: ModuleOp, *passes: str, **options: str) -> ModuleOp:
    """Run passes by name (without the prefix); `options` go to all that have them."""
    for name in passes:
        cls = load_pass(f"hpcc-{name}")
        cls(**{key: value for key, value in options.items() if key in cls.__dataclass_fields__}).apply(ctx, module)
    return module


# ---- one block of a transformer, in fp32 -----------------------------------------------------------------------------


def block_text(
    batch: int, tokens: int, width: int, heads: int, *, causal: bool = False, bias: tuple[int, ...] = (), stored: bool = True
) -> str:
    """Embedding, q, k, v, attention, output with residual, norm: inputs `ids` and `mask`. `bias` is the shape of what is
    added to scores: a weight, or else the input `bias`."""
    x, m, w = f"tensor<{batch}x{tokens}x{width}xf32>", f"tensor<{batch}x{tokens}xi64>", f"tensor<{width}x{width}xf32>"
    v = f"tensor<{width}xf32>"
    linear = f"{x}, {w} -> {x}"
    reach = "bias %p " * bool(bias) + "causal " * causal
    p = f"tensor<{'x'.join(map(str, bias))}xf32>"
    weight = f'%p = hpcc_nn.weight "p" digest "0" : {p}' if bias and stored else ""
    argument, name = (f", %p : {p}", ', "bias"') if bias and not stored else ("", "")
    return f"""
    func.func @main(%ids: {m}, %mask: {m}{argument}) -> {x} attributes {{input_names = ["ids", "mask"{name}],
      output_names = ["y"]}} {{
      {weight}
      %t = hpcc_nn.weight "t" digest "0" : tensor<50x{width}xf32>
      %w = hpcc_nn.weight "w" digest "0" : {w}
      %g = hpcc_nn.weight "g" digest "0" : {v}
      %x = hpcc_nn.embedding %ids of %t : {m} of tensor<50x{width}xf32> -> {x}
      %q = hpcc_nn.linear "layer.0.attn.q" %x, %w : {linear}
      %k = hpcc_nn.linear "layer.0.attn.k" %x, %w : {linear}
      %v = hpcc_nn.linear "layer.0.attn.v" %x, %w : {linear}
      %a = hpcc_nn.attention "layer.0.attn" %q, %k, %v mask %mask {reach}heads {heads} : i64 scale 0.25 : f32
        : {x}, {x}, {x}, {m}{f" plus {p}" * bool(bias)} -> {x}
      %o = hpcc_nn.linear "layer.0.attn.o" %a, %w : {linear}
      %s = hpcc_nn.binary add %x, %o : {x}, {x} -> {x}
      %n = hpcc_nn.layer_norm %s, %g, %g eps 1.0e-5 : f32 : {x}, {v}, {v} -> {x}
      func.return %n : {x}
    }}"""


def cross_text(batch: int, queries: int, keys: int, width: int, heads: int) -> str:
    """Attention whose keys come from a sequence of another length: inputs `own` and `ids`, `mask` over the keys."""
    x, m, w = f"tensor<{batch}x{queries}x{width}xf32>", f"tensor<{batch}x{queries}xi64>", f"tensor<{width}x{width}xf32>"
    other, mask = f"tensor<{batch}x{keys}x{width}xf32>", f"tensor<{batch}x{keys}xi64>"
    table = f"tensor<50x{width}xf32>"
    names = 'input_names = ["own", "ids", "mask"], output_names = ["y"]'
    return f"""
    func.func @main(%own: {m}, %ids: {mask}, %mask: {mask}) -> {x} attributes {{{names}}} {{
      %t = hpcc_nn.weight "t" digest "0" : {table}
      %w = hpcc_nn.weight "w" digest "0" : {w}
      %x = hpcc_nn.embedding %own of %t : {m} of {table} -> {x}
      %e = hpcc_nn.embedding %ids of %t : {mask} of {table} -> {other}
      %q = hpcc_nn.linear "layer.0.cross.q" %x, %w : {x}, {w} -> {x}
      %k = hpcc_nn.linear "layer.0.cross.k" %e, %w : {other}, {w} -> {other}
      %v = hpcc_nn.linear "layer.0.cross.v" %e, %w : {other}, {w} -> {other}
      %a = hpcc_nn.attention "layer.0.cross" %q, %k, %v mask %mask heads {heads} : i64 scale 0.25 : f32
        : {x}, {other}, {other}, {mask} -> {x}
      %o = hpcc_nn.linear "layer.0.cross.o" %a, %w : {x}, {w} -> {x}
      func.return %o : {x}
    }}"""


def block_store(width: int, seed: int = 0, bias: tuple[int, ...] = ()) -> WeightStore:
    random = np.random.default_rng(seed)
    store = WeightStore()
    for key, shape in (("t", (50, width)), ("w", (width, width)), ("g", (width,)), *([("p", bias)] if bias else ())):
        store.add(key, random.standard_normal(shape).astype(np.float32))
    return store


def block_inputs(batch: int, tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    lengths = random.integers(max(tokens // 2, 1), tokens + 1, (batch, 1))
    return {
        "ids": random.integers(0, 50, (batch, tokens)),
        "mask": (np.arange(tokens)[None] < lengths).astype(np.int64),
    }


# ---- tasks by hand ---------------------------------------------------------------------------------------------------


def buffer(memory: Memory, rows: int, cols: int, element: Attribute, address: int, *, slots: int | None = None) -> Instance:
    """A placed buffer."""
    type = buffer_type(memory, rows, cols, element)
    dram = memory is Memory.DRAM
    op = DramOp("input", "b", type) if dram else AllocOp("b", type, slots=slots)
    return Instance(op, memory, type, rows * cols * element_bytes(type), slots or 1, address)


def part(instance: Instance, row: int, rows: int, col: int = 0, cols: int | None = None) -> Rectangle:
    """Rows (and columns) of a buffer."""
    whole = instance.type.get_shape()[1]
    cols = whole if cols is None else cols
    element = instance.type.element_type
    type = buffer_type(instance.memory, rows, cols, element, row_stride(instance.type))
    size = element_bytes(type)
    return Rectangle(instance, row, col, rows, cols * size, row_stride(type) * size, type)


def task(function: str, operands: dict[str, Rectangle], **immediates: int | float) -> Task:
    """An instruction; immediates that are not given are 0 (a dense matrix has n = m = 1)."""
    fields = BY_NAME[function].immediates
    values = {field.name: immediates.get(field.name, 1 if field.name in ("n", "m") else 0) for field in fields}
    values = {field.name: float(values[field.name]) if field.is_float else values[field.name] for field in fields}
    sources: dict[str, SSAValue] = {name: rect.instance.op.result for name, rect in operands.items()}
    return Task(RunOp(function, sources, values, "layer"), operands)


def load(src: Rectangle, dst: Rectangle) -> Task:
    return task("load.copy", {"src": src, "dst": dst}, rows=src.rows, row_bytes=src.row_bytes)


def store(src: Rectangle, dst: Rectangle) -> Task:
    return task("store.copy", {"src": src, "dst": dst}, rows=src.rows, row_bytes=src.row_bytes)


def multiply(x: Rectangle, w: Rectangle, acc: Rectangle) -> Task:
    return task("matrix.multiply", {"x": x, "w": w, "acc": acc}, rows=x.rows, outs=w.rows, ins=x.row_bytes)


def quantize(x: Rectangle, codes: Rectangle, scale: Rectangle) -> Task:
    weights = int(codes.instance.memory is Memory.WEIGHTS)
    operands = {"x": x, "codes": codes, "scale": scale}
    cols = codes.row_bytes
    return task("vector.quantize", operands, rows=x.rows, cols=cols, group=cols, codes_in_weights=weights)


def context_of(acc: Rectangle, total: Rectangle, v_scale: Rectangle, out: Rectangle) -> Task:
    operands = {"acc": acc, "l": total, "v_scale": v_scale, "out": out}
    return task("vector.context", operands, rows=acc.rows, cols=acc.row_bytes // 4)


def instructions(tasks: Sequence[Task]) -> list[Instruction]:
    """The tasks as a program, without loops."""
    result = [
        Instruction(
            task.op.function.data,
            tuple((name, Address(rect.address, rect.pitch)) for name, rect in task.operands.items()),
            tuple(task.op.values.items()),
            tuple(task.waits),
            tuple(task.signals),
        )
        for task in tasks
    ]
    return [*result, Instruction("control.halt")]


def check(tasks: Sequence[Task], pairs: Sequence[SemaphorePair], size: int = 1 << 20) -> None:
    """hw_targets' static check of the tasks; raises InputError."""
    semaphores = [Semaphore(f"{pair.producer}-{pair.consumer}", 0, pair.producer, pair.consumer) for pair in pairs]
    check_program(instructions(tasks), semaphores, dict.fromkeys(Memory, size))
