"""`hpcc MODEL.onnx --emit linalg|iree|sparse-tensor -o FILE.mlir`: a model in MLIR's own dialects, its weights beside it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr

from compiler.backends.linalg.sparse import buffers, level_map
from compiler.backends.linalg.weights import GlobalOp
from compiler.dialects import nn
from compiler.dialects.sparsity import pattern_of
from compiler.frontend.importer import import_onnx
from compiler.module import main_function
from compiler.passes.lower_linalg import WEIGHTS, logical_key
from compiler.passes.sparsify import AUTO, RECIPE
from compiler.passes.verify_stage import check_dominance
from compiler.pipelines import upstream
from compiler.sparsity.base import Pattern
from compiler.tools.options import Options
from compiler.tools.stages import StageRunner, mlir_path, module_text, new_context, write_pair
from compiler.weights import WeightStore, row_major, save_arrays
from hw_targets.errors import UsageError
from hw_targets.load import load_any_target

SPARSE = "sparse-tensor"


def run_upstream(options: Options, buckets: Sequence[Mapping[str, tuple[int, ...]]]) -> int:
    """Write the form, or print it where no file is named; returns the exit status."""
    _check(options, buckets)
    path = None if options.output is None else mlir_path(options.output, options.emit)
    module, store, patterns = lowered(options)
    if path is None:
        sys.stdout.write(module_text(module))
        return 0
    save(module, store, patterns, path)
    if not options.quiet:
        weights = path.with_suffix(".safetensors")
        print(f"written    {path} ({path.stat().st_size / 1e3:,.0f} kB)  {weights} ({weights.stat().st_size / 1e6:,.1f} MB)")
    return 0


def lowered(options: Options) -> tuple[ModuleOp, WeightStore, Mapping[str, Pattern]]:
    """The module in upstream dialects, its weights, and the patterns of those whose types say one, by key."""
    imported = import_onnx(Path(options.model), options.shapes)
    module, store = imported.module, imported.store
    kind = load_any_target(options.target).kind if options.target else "fpga"
    sparsity = options.sparsity or AUTO if options.recipe is None else f"{RECIPE}{options.recipe}"
    ctx = new_context(store)
    *stages, last = upstream(str(options.emit))
    StageRunner(ctx, options.target, sparsity, kind=kind).run_passes(module, stages)
    patterns = _patterns(module, store) if options.emit == SPARSE else {}
    StageRunner(ctx, options.target, sparsity, kind=kind).run_passes(module, [last])
    module.verify()
    check_dominance(module)
    return module, store, patterns


def _patterns(module: ModuleOp, store: WeightStore) -> dict[str, Pattern]:
    found: dict[str, Pattern] = {}
    for op in module.walk():
        if isinstance(op, nn.WeightOp) and len(nn.shape_of(op.result)) == 2:
            rows, columns = nn.shape_of(op.result)
            pattern = pattern_of(op.result.type)
            if level_map(pattern, (rows, columns)) is not None:
                found[logical_key(op, store)] = pattern
    return found


def save(module: ModuleOp, store: WeightStore, patterns: Mapping[str, Pattern], path: Path) -> None:
    """Write `path` and, beside it, the safetensors file with every weight in the logical layout, those with a sparse type
    as their buffers KEY.positions, KEY.coordinates, KEY.values. Both or neither appear. Raises InputError."""
    arrays = {}
    for key in weight_keys(module):
        array = store.get(key)
        if key in patterns:
            arrays.update({f"{key}.{name}": part for name, part in buffers(patterns[key], array).items()})
        else:
            arrays[key] = row_major(array)
    write_pair(path, module_text(module), lambda weights: save_arrays(arrays, weights))


def weight_keys(module: ModuleOp) -> list[str]:
    """The keys of the weights that a lowered module takes: those of its arguments in order, or its parameters'."""
    listed = main_function(module).attributes.get(WEIGHTS)
    if isinstance(listed, ArrayAttr):
        return [key.data for key in listed if isinstance(key, StringAttr)]
    return [op.initial_value.key.data for op in module.ops if isinstance(op, GlobalOp)]


def _check(options: Options, buckets: Sequence[Mapping[str, tuple[int, ...]]]) -> None:
    """Raises UsageError for what makes no sense without a program."""
    given = {
        "several shapes": len(buckets) > 1,
        "--from": options.start is not None,
        "--check": options.check,
        "--list-layers": options.list_layers,
        "--baseline": options.baseline is not None,
        "--timing-only": options.timing_only,
        "--pass-after": bool(options.pass_after),
        "--verify-each": options.verify_each,
        "--dump-stages": options.dump_stages is not None,
        "--precision": options.precision not in (None, "fp32"),
        "--inputs": options.inputs is not None,
        "--text": options.text is not None,
    }
    wrong = [name for name, used in given.items() if used]
    if wrong:
        message = f"{wrong[0]} does not go with --emit {options.emit}"
        raise UsageError("HPCC2051", message, hint="that form is a model in fp32 for another compiler; leave it out")
