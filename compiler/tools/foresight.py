"""What a run will need, from static shapes and before anything slow: memory of its steps, and room on the disk.

The figures are lower bounds of what the largest tensors take: they are there to refuse what cannot end well, not to plan.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue

from compiler.dialects import nn
from compiler.interpreters.nn_attention import SCORES_AT_ONCE
from compiler.module import main_function
from compiler.tools.model_facts import NUMPY_DTYPES
from compiler.tools.options import Options
from hw_targets.errors import InputError
from hw_targets.host_memory import SHORTER, require_memory
from runtime.figures import size_text

SCORE_COPIES = 4
"""Arrays of fp32 scores that the interpreter's attention holds together."""


@dataclass(frozen=True)
class Step:
    """A part of the run: what it is called, the bytes it takes, and what does without it or makes it smaller."""

    name: str
    bytes: int
    help: str = SHORTER


def check_memory(steps: Sequence[Step]) -> None:
    """Raises InputError for the first step that takes more memory than there is."""
    for step in steps:
        require_memory(step.name, step.bytes, step.help)


def check_disk(folder: Path, needed: int) -> None:
    """Raises InputError where the disk below `folder`, or below its nearest parent that exists, has no room."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    disk = shutil.disk_usage(folder)
    if not disk.total:  # no disk, as /proc: writing there says what is wrong
        return
    free = disk.free
    if needed > free:
        message = f"the output takes about {size_text(needed)}, {size_text(free)} are free there"
        raise InputError("HPCC1904", message, where=str(folder), hint="-o a folder on another disk, or free some room")


def steps(options: Options, kind: str, stage: str, module: ModuleOp) -> list[Step]:
    """What a run takes from the end of this stage on, as far as its module tells: the imported one what ONNX Runtime holds
    of it, a later one what the compiler and its interpreter hold."""
    weights, activations = weight_bytes(module), peak_bytes(module)
    whole = not options.timing_only and options.emit is None
    verified = (whole and options.verify) or options.verify_each
    without = "--timing-only" if options.verify_each else "--no-verify"
    if stage == "import":
        return [Step("ONNX Runtime's verification", 2 * weights + activations, f"{without}, {SHORTER}")] if verified else []
    if kind == "fpga":
        return [Step("compiling", weights // 4 + activations)]
    return [Step("compiling", weights // 4)]


def output_bytes(options: Options, kind: str, module: ModuleOp) -> int:
    """What the bundle and the dumped stages take at least. How far a pattern shrinks the weights is not known yet."""
    weights = weight_bytes(module)
    dumped = 2 * weights if options.dump_stages is not None else 0
    whole = options.sparsity == "dense"
    return dumped + (weights // (4 if kind == "fpga" else 1) // (1 if whole else 16) if options.makes_program else 0)


def weight_bytes(module: ModuleOp) -> int:
    """Bytes of the stored weights, each counted once, as fp32 has them."""
    sizes = {op.key.data: prod(nn.shape_of(op.result)) for op in module.walk() if isinstance(op, nn.WeightOp)}
    return 4 * sum(sizes.values())


def peak_bytes(module: ModuleOp) -> int:
    """The most bytes of live values while @main is executed op by op, without weights, constants and views."""
    block = main_function(module).body.block
    left: dict[SSAValue, int] = {argument: len(list(argument.uses)) for argument in block.args}
    viewed: dict[SSAValue, SSAValue] = {}
    live = peak = sum(_bytes(argument) for argument in block.args)
    for op in block.ops:
        if isinstance(op, ReturnOp):
            break
        if isinstance(op, nn.WeightOp | nn.ConstantOp):
            continue
        operands = [viewed.get(operand, operand) for operand in op.operands]
        if isinstance(op, nn.ReshapeOp):
            viewed[op.result] = operands[0]
            left[operands[0]] = left.get(operands[0], 0) + len(list(op.result.uses))
        else:
            live += sum(_bytes(result) for result in op.results)
            peak = max(peak, live + _scratch(op))
            left.update((result, len(list(result.uses))) for result in op.results)
        for operand in operands:
            if operand in left:
                left[operand] -= 1
                if left[operand] == 0:
                    live -= _bytes(operand)
    return peak


def _bytes(value: SSAValue) -> int:
    if not isinstance(value.type, TensorType):
        return 0
    dtype = NUMPY_DTYPES.get(str(value.type.element_type), "float32")
    width = {"bool": 1, "bfloat16": 4}.get(dtype) or int("".join(c for c in dtype if c.isdigit())) // 8
    return prod(value.type.get_shape()) * width


def _scratch(op: Operation) -> int:
    """Scores and probabilities, which are no values of the module."""
    if not isinstance(op, nn.AttentionOp):
        return 0
    batch, queries, _ = nn.shape_of(op.q)
    of_a_query = batch * op.heads.value.data * nn.shape_of(op.k)[1]
    return 4 * SCORE_COPIES * min(queries * of_a_query, max(SCORES_AT_ONCE, of_a_query))
