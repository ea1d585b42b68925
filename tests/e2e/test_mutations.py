"""Faults made on purpose in every part of hpcc, and the check of an ordinary run that turns red for each.

A mutation breaks one thing in the way a programmer might: a bias dropped, two heads swapped, a scale shifted, a mask
ignored, groups along the wrong axis, a tail left out, a wrong semaphore, a wrong index, a lost cycle, a wrong product.
The command is the same with and without it, on inputs that hpcc makes up: it succeeds without, and fails with it, by the
check that is named. What is left to hpcc's own tests, since the fault is in the arithmetic that golden and simulator
share, stands at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from xdsl.dialects.builtin import AffineMapAttr, FloatAttr, ModuleOp, f32
from xdsl.ir.affine import AffineMap
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from compiler.backends.fpga import context, emission
from compiler.backends.fpga.builder import TileBuilder
from compiler.backends.fpga.semaphores import SemaphorePair
from compiler.backends.fpga.tasks import Task
from compiler.dialects import nn
from compiler.dialects.tile import RunOp, ViewOp
from compiler.frontend import importer
from compiler.interpreters.evaluate import evaluate
from compiler.passes import quantize as quantize_pass
from compiler.passes import schedule, sparsify
from compiler.passes.fuse import FusePass
from compiler.passes.quantize import QuantizePass
from compiler.passes.tile import TilePass
from compiler.sparsity.patterns import NM
from compiler.storage.formats import HPMarkFormat, NMFormat
from compiler.tools import parameters
from compiler.tools.options import Options
from compiler.tools.session import Session
from compiler.tools.stepwise import FLOAT_LIMIT, StepwiseCheck, relative_error
from hw_targets import numerics
from hw_targets import timing as costs
from hw_targets.errors import VerificationError
from hw_targets.isa import Queue
from hw_targets.timing import Cost
from runtime import decoders
from runtime import ledger as runtime_ledger
from runtime import program as runtime_program
from runtime.decoding import formats
from runtime.simulator import functional, timing
from tests.e2e.harness import Done, hpcc
from tests.e2e.test_random_models import board_file
from tests.graphs import Encoder, write
from tests.unit import test_decoders, test_numerics, test_timing

Array = NDArray[Any]
Patch = pytest.MonkeyPatch

MODEL = Encoder(hidden=72, heads=4, intermediate=84, layers=1, vocabulary=50, positions=11)
"""84 inputs are two windows of 32 and a tail; 9 rows of tokens are two tiles of 4 and a tail."""
BIASED = replace(MODEL, mask="relative", gelu="softplus")
"""With numbers added to its scores, and in two parts: the host computes the activation between them."""
BATCH, TOKENS = 1, 9
BOARD = {
    "cores": 1,
    "tokens": 4,
    "outputs": 8,
    "multipliers": 4,
    "window": 32,
    "selector": 8,
    "lanes": 32,
    "acc_bytes": 4096,
}

ONNX_RUNTIME = r"output '.*' is off: relative L2"
GRAPH = r"stage 'sparsify': output '.*' is off by .* of its rms; the first op that diverges is "
PARAMETERS = r"stage 'quantize': "
BITS = r"the simulator's values differ from the integer reference"
PATTERN = r"weights that are not zero; nm:2:4 keeps \d"
LEDGER = r"the layers' cycles add up to"


@dataclass(frozen=True)
class Mutation:
    """A fault: `make` installs it, an ordinary run answers with `says` (a regular expression) and `status`."""

    make: Callable[[Patch], None]
    says: str
    status: int = 4
    pattern: str = "dense"
    each: str = ""
    """What --verify-each says of it, where it says something else: it names the stage."""
    biased: bool = False
    """Whether it is a fault in what only the biased model in two parts has."""


# ---- how to break things --------------------------------------------------------------------------------------------


def after(patch: Patch, which: type[ModulePass], edit: Callable[[ModuleOp], None]) -> None:
    """Let `edit` spoil what a pass has made."""
    apply: Any = which.apply

    def broken(self: Any, ctx: Any, op: ModuleOp) -> None:
        apply(self, ctx, op)
        edit(op)

    patch.setattr(which, "apply", broken)


def ops(module: ModuleOp, kind: type[Any]) -> list[Any]:
    return [op for op in module.walk() if isinstance(op, kind)]


def swap_out(old: Any, new: Any) -> None:
    new.attributes.update(old.attributes)
    new.location = old.location
    Rewriter.replace_op(old, new)


def wrapped(patch: Patch, module: Any, name: str, spoil: Callable[[Any], Any]) -> None:
    """Let `spoil` change what a function returns."""
    true = getattr(module, name)
    patch.setattr(module, name, lambda *arguments, **options: spoil(true(*arguments, **options)))


def decoded(patch: Patch, name: str, spoil: Callable[[Any], Any]) -> None:
    """Let `spoil` change what the decoder of a format returns."""
    true = formats.DECODERS[name]
    patch.setitem(formats.DECODERS, name, lambda stored: spoil(true(stored)))


def altered(module: ModuleType, **changes: Any) -> SimpleNamespace:
    """A module with some names replaced, for one of those who import it."""
    return SimpleNamespace(**{**vars(module), **changes})


# ---- a bias is dropped ----------------------------------------------------------------------------------------------


def drop_a_bias(module: ModuleOp, role: str = "layer.0.attn.v") -> None:
    op = next(op for op in ops(module, nn.LinearOp) if op.role.data == role)
    assert op.bias is not None
    swap_out(op, nn.LinearOp(role, op.x, op.weight, None, op.result.type))


def drop_an_integer_bias(module: ModuleOp) -> None:
    op = next(op for op in ops(module, nn.QLinearOp) if op.role.data == "layer.0.attn.v")
    assert op.bias is not None
    scaled = (op.x, op.x_scale, op.weight, op.weight_scale)
    swap_out(op, nn.QLinearOp(op.role.data, *scaled, None, op.residual, op.result.type))


def lower_without_bias(patch: Patch) -> None:
    columns = context.Context.columns

    def broken(self: Any, layer: str, width: int, keys: list[str], *place: int) -> Any:
        return columns(self, layer, width, [keys[0], "", *keys[2:]] if layer == "layer.0.attn.v" else keys, *place)

    patch.setattr(context.Context, "columns", broken)


# ---- heads are swapped ----------------------------------------------------------------------------------------------


def swap_heads_of_the_context(module: ModuleOp) -> None:
    """The first head's context is written to the last head's place, and so on."""
    for run in ops(module, RunOp):
        if run.function.data == "vector.context":
            view = run.named["out"].owner
            assert isinstance(view, ViewOp)
            row, column = view.origin.data.results
            count, last = view.origin.data.num_dims, MODEL.hidden - MODEL.width
            view.properties["origin"] = AffineMapAttr(AffineMap(count, 0, (row, column * -1 + last)))


def swap_heads_of_a_weight(patch: Patch) -> None:
    """Import takes the columns of two heads of V for each other."""
    array = importer.ModelImport.array
    width = MODEL.width

    def broken(self: Any, name: str, values: Array, dtype: Any = None) -> Any:
        if name == "layer.0.attention.value.weight":
            values = np.concatenate([values[:, width : 2 * width], values[:, :width], values[:, 2 * width :]], axis=1)
        return array(self, name, values, dtype)

    patch.setattr(importer.ModelImport, "array", broken)


# ---- a scale is shifted ---------------------------------------------------------------------------------------------


def shift_the_scales_of_codes(patch: Patch) -> None:
    """Every row gets the scale of the row before it."""
    quantise = numerics.quantize_weights

    def broken(weights: Array, *tied: int) -> tuple[Array, Array]:
        codes, scale = quantise(weights, *tied)
        return codes, np.roll(scale, 1)

    patch.setattr(quantize_pass, "numerics", altered(numerics, quantize_weights=broken))


def shift_the_stored_scales(patch: Patch) -> None:
    content = emission._content

    def broken(op: Any, store: Any) -> Array:
        data = content(op, store)
        if op.kind.data == "columns" and op.label.data == "layer.0.ffn.up.columns":
            return np.concatenate([np.roll(data[: 4 * MODEL.intermediate], 4), data[4 * MODEL.intermediate :]])
        return data

    patch.setattr(emission, "_content", broken)


def halve_the_score_scale(module: ModuleOp) -> None:
    op = ops(module, nn.QAttentionOp)[0]
    op.properties["scale"] = FloatAttr(op.scale.value.data / 2, f32)


# ---- a mask is ignored ----------------------------------------------------------------------------------------------


def ignore_the_mask(module: ModuleOp) -> None:
    op = ops(module, nn.AttentionOp)[0]
    assert op.mask is not None
    fields: dict[str, Any] = {"heads": op.heads.value.data, "scale": op.scale.value.data}
    swap_out(op, nn.AttentionOp(op.role.data, op.q, op.k, op.v, None, **fields, type=op.result.type))


def ignore_the_integer_mask(module: ModuleOp) -> None:
    op = ops(module, nn.QAttentionOp)[0]
    assert op.mask is not None
    fields: dict[str, Any] = {"heads": op.heads.value.data, "scale": op.scale.value.data}
    q, k, v = (op.q, op.q_scale), (op.k, op.k_scale), (op.v, op.v_scale)
    swap_out(op, nn.QAttentionOp(op.role.data, q, k, v, None, **fields, type=op.result.type))


def softmax_without_mask(patch: Patch) -> None:
    prepare = functional.PREPARE["vector.softmax"]

    def broken(simulator: Any, instruction: Any) -> Any:
        operands = {name: place for name, place in instruction.operands.items() if name != "mask"}
        assert len(operands) < len(instruction.operands)
        return prepare(simulator, replace(instruction, operands=operands))

    patch.setitem(functional.PREPARE, "vector.softmax", broken)  # type: ignore[arg-type]


# ---- numbers added to scores are lost, parts of a program mixed up ---------------------------------------------------


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


# ---- groups along the wrong axis ------------------------------------------------------------------------------------


def prune_along_the_wrong_axis(patch: Patch) -> None:
    mask = NM.mask
    patch.setattr(NM, "mask", lambda self, w, saliency=None: mask(NM(self.n, self.m, "out"), w, saliency))


def take_a_stored_matrix_for_the_logical_one(patch: Patch) -> None:
    """A MatMul's weight is stored in x out: pruned as it lies, its groups run along the outputs."""
    patch.setattr(sparsify, "logical", lambda array, weight: array)


# ---- a tail is left out ---------------------------------------------------------------------------------------------


def no_tail_of_tokens(patch: Patch) -> None:
    """Tiles cover the full ones only."""
    tiles = TileBuilder.tiles

    def broken(self: Any, total: int, size: int, hint: str) -> Any:
        return tiles(self, total - total % size or total, size, hint)

    patch.setattr(TileBuilder, "tiles", broken)


def no_tail_of_windows(patch: Patch) -> None:
    """The encoder forgets what the last, shorter window of inputs holds."""
    encode = HPMarkFormat.encode

    def broken(self: Any, codes: Array, pattern: Any) -> Array:
        codes = codes.copy()
        codes[:, codes.shape[1] // 32 * 32 :] = 0
        return encode(self, codes, pattern)

    patch.setattr(HPMarkFormat, "encode", broken)


def no_tail_of_row_blocks(patch: Patch) -> None:
    """The array leaves out the rows behind the last whole block of 64."""

    def spoil(codes: Array) -> Array:
        codes = codes.copy()
        codes[len(codes) // 64 * 64 :] = 0
        return codes

    wrapped(patch, functional, "expand_layout", spoil)


def no_tail_of_groups(patch: Patch) -> None:
    """The decoder counts whole groups of 4 only: 70 inputs are 17 groups and a tail of 2."""
    true = decoders.geometry
    for module in (decoders, formats):
        patch.setattr(module, "geometry", lambda outs, ins, n, m, *rest: true(outs, ins - ins % m, n, m, *rest))


def no_tail_of_the_reduction(patch: Patch) -> None:
    """The product stops at the last whole step of the array: inputs 68 to 71 are not multiplied."""
    product = numerics.matmul_i32

    def broken(x: Array, w: Array) -> Array:
        return product(x[:, :-4], w[:, :-4]) if w.shape[1] == MODEL.hidden else product(x, w)

    patch.setattr(numerics, "matmul_i32", broken)


# ---- the wrong semaphore --------------------------------------------------------------------------------------------


def semaphores(patch: Patch, spoil: Callable[[Sequence[Task], list[SemaphorePair]], None]) -> None:
    assign = schedule.assign_semaphores

    def broken(tasks: Sequence[Task]) -> list[SemaphorePair]:
        pairs = assign(tasks)
        spoil(tasks, pairs)
        return pairs

    patch.setattr(schedule, "assign_semaphores", broken)


def signal_another_queues_semaphore(tasks: Sequence[Task], pairs: list[SemaphorePair]) -> None:
    task = next(task for task in tasks if task.signals)
    task.signals = [next(pair.number for pair in pairs if pair.producer is not task.queue)]


def signal_another_consumer(tasks: Sequence[Task], pairs: list[SemaphorePair]) -> None:
    """The first signal of a queue that serves two others goes to the wrong one."""
    for task in tasks:
        others = [p.number for p in pairs if p.producer is task.queue and p.number not in task.signals]
        if task.signals and others:
            task.signals = [others[0]]
            return
    raise AssertionError("no queue serves two others")


def signal_nothing(tasks: Sequence[Task], pairs: list[SemaphorePair]) -> None:
    next(task for task in tasks if task.signals).signals = []


def need_no_token(tasks: Sequence[Task], pairs: list[SemaphorePair]) -> None:
    """The last token of a semaphore is left out on both sides: nothing deadlocks, but nothing orders the two either."""
    number = next(pair.number for pair in pairs if pair.producer is Queue.MATRIX)
    for side in ("signals", "waits"):
        task = [task for task in tasks if number in getattr(task, side)][-1]
        getattr(task, side).remove(number)


# ---- an index is decoded wrong --------------------------------------------------------------------------------------


def wrong_select(layout: Array) -> Array:
    """The first kept value of a 2:4 matrix moves to a place of its group that is free."""
    layout = layout.copy()
    first = len(layout) * 2 // 3  # one byte of selects follows for every two values
    low, high = layout[first] & 15, layout[first] >> 4
    free = min(set(range(4)) - {int(low), int(high)})
    layout[first] = high << 4 | free
    return layout


def wrong_kept_input(layout: Array) -> Array:
    """The first kept input of the first window is another one, which the window does not keep."""
    layout = layout.copy()
    lists = layout[-(16 + 16 + 8) * 2 :]
    lists[0] = min(set(range(32)) - {int(entry) for entry in lists[:16]})
    return layout


def wrong_column(layout: Array) -> Array:
    """The last value of an unstructured matrix lies one input further, or nearer where that is the window's end."""
    layout = layout.copy()
    layout[-1] = layout[-1] + 1 if layout[-1] < 7 else layout[-1] - 1
    return layout


def encode_an_index_wrong(patch: Patch) -> None:
    """The encoder writes the second index of a group in the first one's place, too."""
    encode = NMFormat.encode

    def broken(self: Any, codes: Array, pattern: Any) -> Array:
        data = encode(self, codes, pattern)
        first = codes.size // 2  # behind the values, two bits an index
        data[first] = data[first] & 0xFC | data[first] >> 2 & 3
        return data

    patch.setattr(NMFormat, "encode", broken)


# ---- cycles and products --------------------------------------------------------------------------------------------


def lose_a_cycle(patch: Patch) -> None:
    """The last layer is charged one cycle too few."""

    def spoil(parts: list[Any]) -> list[Any]:
        event, cause, cycles = parts[-1]
        return [*parts[:-1], (event, cause, cycles - 1)]

    wrapped(patch, runtime_ledger, "_drain", spoil)


def lose_a_layer(patch: Patch) -> None:
    wrapped(patch, runtime_program, "attribute", lambda layers: layers[1:])


def count_too_few_cycles(patch: Patch) -> None:
    """The counter takes MATRIX for a hundred times as fast as it is."""

    def spoil(cost: Cost) -> Cost:
        return Cost(max(cost.busy // 100, 1), cost.latency)

    wrapped(patch, timing, "cost", spoil)


def one_product_wrong(patch: Patch) -> None:
    """The simulator's array alone: one accumulator is one too large."""

    def broken(x: Array, w: Array) -> Array:
        acc = numerics.matmul_i32(x, w).copy()
        acc[-1, -1] += 1 << 12
        return acc

    patch.setattr(functional, "numerics", altered(numerics, matmul_i32=broken))


ENCODED = r"stage 'encode': layer\.0\.\S+ does not decode to its codes"
TILED = r"stage 'tile': [\d,]+ values of '.*' differ from stage 'quantize'"
LOADED = r"instruction \d+ \(load\.weights\)"

MUTATIONS: dict[str, Mutation] = {
    "drop a bias: fuse": Mutation(
        lambda patch: after(patch, FusePass, drop_a_bias),
        GRAPH + r"hpcc_nn.linear of node '/layer.0.attention.value/",
        each=r"stage 'fuse': output",
    ),
    "drop a bias: quantize": Mutation(
        lambda patch: after(patch, QuantizePass, drop_an_integer_bias), PARAMETERS + r"the bias of layer\.0\.attn\.v"
    ),
    "drop a bias: tile": Mutation(lower_without_bias, BITS, each=TILED),
    "swap two heads: import": Mutation(swap_heads_of_a_weight, rf"{GRAPH}|{ONNX_RUNTIME}", each=r"stage 'import': output"),
    "swap two heads: tile": Mutation(lambda patch: after(patch, TilePass, swap_heads_of_the_context), BITS, each=TILED),
    "shift a scale: codes": Mutation(shift_the_scales_of_codes, ONNX_RUNTIME, each=PARAMETERS + r"the weight of layer\.0"),
    "shift a scale: scores": Mutation(
        lambda patch: after(patch, QuantizePass, halve_the_score_scale),
        rf"{PARAMETERS}|{ONNX_RUNTIME}",
        each=PARAMETERS + r"scale of layer\.0\.attn",
    ),
    "shift a scale: stored": Mutation(shift_the_stored_scales, BITS),
    "ignore a mask: fuse": Mutation(
        lambda patch: after(patch, FusePass, ignore_the_mask),
        ONNX_RUNTIME,
        each=r"stage 'fuse': output .* hpcc_nn.attention",
    ),
    "ignore a mask: quantize": Mutation(
        lambda patch: after(patch, QuantizePass, ignore_the_integer_mask),
        ONNX_RUNTIME,
        each=PARAMETERS + r"the mask of layer\.0\.attn",
    ),
    "ignore a mask: simulator": Mutation(softmax_without_mask, BITS),
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
    "wrong N:M axis: mask": Mutation(prune_along_the_wrong_axis, PATTERN, 1, "nm:2:4"),
    "wrong N:M axis: storage": Mutation(take_a_stored_matrix_for_the_logical_one, PATTERN, 1, "nm:2:4"),
    "drop a tail: tokens": Mutation(no_tail_of_tokens, BITS, each=TILED),
    "drop a tail: window": Mutation(no_tail_of_windows, BITS, 4, "hp:0.75", ENCODED),
    "drop a tail: row block": Mutation(no_tail_of_row_blocks, BITS, 4, "hp:0.75"),
    "drop a tail: group": Mutation(no_tail_of_groups, LOADED + ".* bytes expected", 1, "nm:2:5"),
    "drop a tail: reduction": Mutation(no_tail_of_the_reduction, ONNX_RUNTIME),
    "wrong semaphore: of another queue": Mutation(
        lambda patch: semaphores(patch, signal_another_queues_semaphore),
        r"signals semaphore .* whose producer is .*HPCC1222",
        1,
    ),
    "wrong semaphore: for another consumer": Mutation(
        lambda patch: semaphores(patch, signal_another_consumer), r"deadlock: wait \d+ for semaphore .*HPCC1223", 1
    ),
    "wrong semaphore: none": Mutation(
        lambda patch: semaphores(patch, signal_nothing), r"deadlock: wait \d+ for semaphore .*HPCC1223", 1
    ),
    "wrong semaphore: not needed": Mutation(
        lambda patch: semaphores(patch, need_no_token), r"and nothing orders matrix before .*HPCC1227", 1
    ),
    "wrong index: nm": Mutation(lambda patch: decoded(patch, "nm", wrong_select), BITS, 4, "nm:2:4", ENCODED),
    "wrong index: hp_mark": Mutation(lambda patch: decoded(patch, "hp_mark", wrong_kept_input), BITS, 4, "hp:0.75", ENCODED),
    "wrong index: unstructured": Mutation(
        lambda patch: wrapped(patch, formats, "unstructured_layout", wrong_column), BITS, 4, "unstructured:0.9", ENCODED
    ),
    "wrong index: encoder": Mutation(encode_an_index_wrong, LOADED + ".* nm indices do not ascend", 1, "nm:2:4"),
    "lose a cycle": Mutation(lose_a_cycle, LEDGER),
    "lose a layer's cycles": Mutation(lose_a_layer, LEDGER),
    "count too few cycles": Mutation(count_too_few_cycles, r"cycles are fewer than the busiest unit needs"),
    "a wrong product": Mutation(one_product_wrong, BITS),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model and the board."""
    folder = tmp_path_factory.mktemp("mutations")
    write(MODEL, folder / "model.onnx", BATCH, TOKENS)
    write(BIASED, folder / "biased.onnx", BATCH, TOKENS)
    board_file(folder, BOARD)
    return folder


def run(place: Path, pattern: str, *more: str, biased: bool = False) -> Done:
    """The ordinary command: nothing but a model, a board and a pattern."""
    model = place / ("biased.onnx" if biased else "model.onnx")
    command = (model, "--target", place / "board.toml", "--sparsity", pattern, "-q", "-o", place / "out.hpcc")
    return hpcc(*command, *more)


@pytest.mark.parametrize("pattern", sorted({mutation.pattern for mutation in MUTATIONS.values()}))
@pytest.mark.parametrize("more", [(), ("--verify-each",)], ids=["", "each"])
def test_without_a_mutation_the_run_succeeds(place: Path, pattern: str, more: tuple[str, ...]) -> None:
    done = run(place, pattern, *more)
    assert (done.status, done.err) == (0, "")


@pytest.mark.slow
def test_without_a_mutation_the_biased_model_succeeds(place: Path) -> None:
    done = run(place, "dense", "--verify-each", biased=True)
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if m.biased else ()) for name, m in MUTATIONS.items()]
)
def test_a_mutation_turns_its_check_red(place: Path, monkeypatch: Patch, name: str) -> None:
    mutation = MUTATIONS[name]
    mutation.make(monkeypatch)
    done = run(place, mutation.pattern, biased=mutation.biased)
    assert done.status == mutation.status, done
    assert re.search(mutation.says, done.line), done.line
    if mutation.each:
        done = run(place, mutation.pattern, "--verify-each", biased=mutation.biased)
        assert re.search(mutation.each, done.line), done.line


def test_every_kind_of_fault_is_made() -> None:
    kinds = {name.split(": ")[0] for name in MUTATIONS}
    assert kinds >= {
        "drop a bias",
        "swap two heads",
        "shift a scale",
        "ignore a mask",
        "wrong N:M axis",
        "drop a tail",
        "mix parts up",
        "wrong semaphore",
        "wrong index",
        "lose a cycle",
        "a wrong product",
    }


# ---- a real model ---------------------------------------------------------------------------------------------------


def test_every_bias_of_l3_is_missed(l3_model: Path) -> None:
    """One bias after the other is dropped, before `quantize` and by it; the limits of the result would let most of them go.

    A bias of the keys adds the same to all scores of a row, which softmax does not see: no output can tell, and only
    the comparison of parameters does.
    """
    session = Session(Options(model=str(l3_model), target="fpga-u280", shapes={"input_ids": (1, 24)}, quiet=True))
    session._load()
    session._stages("import", "quantize")
    assert session.imported is not None
    assert session.floats is not None
    assert session.golden is not None
    check = StepwiseCheck(session.imported, session.store, session.batches[0])
    check.float_stage("sparsify", session.floats, {})
    parameters.check_parameters(session.floats, session.golden, session.store)
    wanted = check._reference_tensors(session.floats, {})
    roles = [op.role.data for op in ops(session.floats, nn.LinearOp) if op.bias is not None]
    assert len(roles) == 18
    for role in roles:
        broken = session.floats.clone()
        drop_a_bias(broken, role)
        given = {name: wanted[name] for name in ("input_ids", "attention_mask") if name in wanted}
        got = evaluate(broken, session.store, {**check.inputs, **given})
        worst = max(relative_error(value, wanted[name].reshape(value.shape)) for name, value in got.items())
        if role.endswith("attn.k"):
            assert worst < FLOAT_LIMIT, "softmax does not see it"
        else:
            assert worst > 10 * FLOAT_LIMIT, role
        with pytest.raises(VerificationError, match=f"the bias of {re.escape(role)} is not that"):
            parameters.check_parameters(broken, session.golden, session.store)


# ---- arithmetic that golden and simulator share ---------------------------------------------------------------------


def product_off_by_one(patch: Patch) -> None:
    """So little that no limit of a result sees it."""
    wrapped(patch, numerics, "matmul_i32", lambda acc: acc + 1)


def softmax_of_all_keys(patch: Patch) -> None:
    softmax = numerics.softmax
    patch.setattr(
        numerics, "softmax", lambda acc, q, k, scale, mask=None, added=None: softmax(acc, q, k, scale, None, added)
    )


def norm_without_beta(patch: Patch) -> None:
    norm = numerics.layer_norm
    patch.setattr(numerics, "layer_norm", lambda x, gamma, beta, eps: norm(x, gamma, beta * 0, eps))


def finish_without_bias(patch: Patch) -> None:
    finish = numerics.finish
    patch.setattr(numerics, "finish", lambda acc, rows, columns, bias, residual: finish(acc, rows, columns, None, residual))


def scale_of_the_row_above(patch: Patch) -> None:
    wrapped(patch, numerics, "quantize_rows", lambda made: (made[0], np.roll(made[1], 1, axis=0)))


def one_step_too_few(patch: Patch) -> None:
    wrapped(patch, costs, "matrix_steps", lambda steps: max(steps - 1, 1))


def decode_unsorted(patch: Patch) -> None:
    patch.setattr(formats, "check_ascending", lambda *arguments: None)


SHARED: dict[str, tuple[Callable[[Patch], None], Callable[[], None]]] = {
    "product": (product_off_by_one, test_numerics.test_matmul_against_the_scalar_reference_and_batched),
    "softmax": (softmax_of_all_keys, test_numerics.test_softmax),
    "norm": (norm_without_beta, test_numerics.test_layer_norm),
    "finish": (finish_without_bias, test_numerics.test_finish),
    "scales": (scale_of_the_row_above, test_numerics.test_quantize_rows),
    "cycles": (one_step_too_few, test_timing.test_passes_of_the_array),
    "order of indices": (decode_unsorted, test_decoders.test_nm_padding_and_order),
}


DRAWN = ("softmax", "norm", "finish", "scales")
"""Tests that draw their examples, and take their time to find the smallest one that fails."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in DRAWN else n for n in SHARED])
def test_a_fault_in_shared_arithmetic_turns_its_unit_test_red(monkeypatch: Patch, name: str) -> None:
    """Golden and simulator agree on it, so that a test against the scalar reference, or by hand, has to see it."""
    make, test = SHARED[name]
    test()
    make(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test()
