"""hpcc from Python: compile a model, load a bundle, run either. `import hpcc` is cheap; heavy imports wait for a call.

import hpcc

compiled = hpcc.compile("model.onnx", "fpga-u280", shapes={"input_ids": (1, 128)}, sparsity="hp:0.75")
print(compiled.report.cycles, compiled.report.cycles_if_dense)
result = compiled.run({"input_ids": ids, "attention_mask": mask})

program = hpcc.load("model.fpga-u280.hp-0.75.hpcc")
outputs = program.run({"input_ids": ids, "attention_mask": mask}).outputs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from hw_targets.errors import HpccError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.nn import Module  # pyright: ignore[reportMissingImports]

    from compiler.tools.compiled import Compiled
    from compiler.tools.cpu_session import CpuCompiled
    from compiler.tools.exploring.run import Explored
    from compiler.tools.gpu_session import GpuCompiled
    from compiler.tools.pruning.session import Pruned
    from runtime.buckets import BucketProgram
    from runtime.cpu.program import CpuProgram
    from runtime.gpu.program import GpuProgram
    from runtime.inference_session import InferenceSession
    from runtime.program import Program
    from runtime.simulated import Simulated

__all__ = ["HpccError", "InferenceSession", "compile", "explore", "load", "prune", "simulate"]

AnyPath = str | PathLike[str]


def compile(
    model: AnyPath | Module,
    target: AnyPath,
    *,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    sparsity: str | None = None,
    precision: str | None = None,
    storage: str = "auto",
    pass_after: Sequence[str] = (),
    inputs: AnyPath | Mapping[str, NDArray[Any]] | None = None,
    output: AnyPath | None = None,
    verify: bool = True,
) -> Compiled | CpuCompiled | GpuCompiled:
    """Compile an .onnx file or a torch.nn.Module for a target (a shipped name or a .toml file), simulate it (for a CPU or
    a GPU: run it) and verify the results.

    A module goes through torch.export with `example_inputs`, tensors in the order of its arguments or by their names, whose
    shapes the program then has; the extra `export` is needed for it.
    `shapes` binds inputs by name, as `--shape`; `sparsity` is a specification as for `--sparsity`, None changes no
    weight; `precision` is "fp32", "fp16", "bf16" or "int8", as `--precision`; `storage` overrules the choice of storage
    formats, as `--storage`; `pass_after` runs more passes, as `--pass-after`; `inputs` are arrays by name (the first axis
    counts samples) or an .npz file, None makes one batch up. The bundle is written to `output`, nowhere if that is None.
    The result has `program`, `report`, `run_report`, `outputs` (those of `inputs`, by name), `run` and `save`.

    Raises HpccError, as InputError (a file or the compilation is at fault), UsageError (an argument is),
    InfeasibleError (the target is too small), VerificationError or MissingToolError; each has a `code`.
    """
    from os import fspath

    from compiler.tools.options import Options
    from compiler.tools.session import open_session

    if not isinstance(model, str | PathLike):
        from compiler.tools.torch_modules import exported

        with exported(model, example_inputs) as path:
            given = {"shapes": shapes, "sparsity": sparsity, "precision": precision, "storage": storage}
            return compile(path, target, pass_after=pass_after, inputs=inputs, output=output, verify=verify, **given)
    options = Options(
        model=fspath(model),
        target=fspath(target),
        shapes={name: tuple(shape) for name, shape in (shapes or {}).items()},
        sparsity=sparsity,
        precision=precision,
        storage=storage,
        pass_after=tuple(pass_after),
        inputs=inputs if inputs is None or isinstance(inputs, Mapping) else fspath(inputs),
        output=None if output is None else fspath(output),
        verify=verify,
        quiet=True,
    )
    return open_session(options).compile()


def prune(
    model: AnyPath,
    pattern: str | None = None,
    *,
    recipe: AnyPath | None = None,
    target: AnyPath | None = None,
    method: str | None = None,
    calibrate: AnyPath | Mapping[str, NDArray[Any]] | None = None,
    allocate: str = "uniform",
    scope: Sequence[str] = (),
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    output: AnyPath | None = None,
) -> Pruned:
    """Prune an .onnx file without training: the same graph, node for node, with zeros in its weights.

    `pattern` is a specification as for `--pattern`, or `recipe` names a file; `method` is "magnitude", "activation",
    "second-order" or "random" (None: second-order with data, else magnitude); `calibrate` are arrays by input name (the
    first axis counts samples) or an .npz file; `allocate` is "uniform" or "global"; `scope` are globs of roles, nodes or
    initializers. The file is written to `output`, or later by the result's `save`; its `layers` say what was done.

    Raises HpccError, as InputError (a file is at fault) or UsageError (an argument is).
    """
    from compiler.tools.pruning.options import PruneOptions
    from compiler.tools.pruning.session import PruneSession

    options = PruneOptions(
        str(model),
        output=None if output is None else str(output),
        pattern=pattern,
        recipe=None if recipe is None else str(recipe),
        target=None if target is None else str(target),
        method=method,
        calibrate=calibrate if calibrate is None or isinstance(calibrate, Mapping) else str(calibrate),
        allocate=allocate,
        scope=tuple(scope),
        seed=seed,
        shapes={name: tuple(shape) for name, shape in (shapes or {}).items()},
        quiet=True,
        in_memory=True,
    )
    pruned = PruneSession(options).run()
    if output is not None:
        pruned.save(output)
    return pruned


def explore(
    model: AnyPath,
    task: AnyPath,
    max_latency_ms: float,
    min_accuracy: float,
    *,
    output: AnyPath = "explore",
    targets: Sequence[str] = ("fpga-*",),
    patterns: Sequence[str] = ("hp", "nm"),
    mixed: bool = False,
    objective: str = "cheapest",
    budget: int = 200,
    costs: Mapping[str, float] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    method: str | None = None,
    workers: int = 1,
) -> Explored:
    """The device, and the sparsity, that meet a latency and an accuracy limit; the options are those of `hpcc-explore`.

    The result's `exploration` is explore.json, `found` says if there is a winner; `output` holds the journal, the answer
    and the winner's bundle, and is taken up again by a second call. Raises HpccError.
    """
    from os import fspath

    from compiler.tools.exploring.options import ExploreOptions
    from compiler.tools.exploring.run import explore as search

    options = ExploreOptions(
        fspath(model),
        fspath(task),
        max_latency_ms,
        min_accuracy,
        output=fspath(output),
        targets=tuple(targets),
        patterns=tuple(patterns),
        mixed=mixed,
        objective=objective,
        budget=budget,
        costs=dict(costs or {}),
        shapes={name: tuple(shape) for name, shape in (shapes or {}).items()},
        method=method,
        workers=workers,
        quiet=True,
    )
    return search(options)


def load(bundle: AnyPath) -> Program | CpuProgram | GpuProgram | BucketProgram:
    """The program of a bundle folder, checked, ready to `run`. Needs no compiler. Raises InputError if it is damaged.

    A bundle of several shapes gives a program whose `run` also returns which of them it took.
    """
    from pathlib import Path

    from runtime.inference_session import open_program

    return open_program(Path(bundle))


def simulate(
    program: AnyPath | Program | CpuProgram | GpuProgram | BucketProgram, inputs: Mapping[str, NDArray[Any]] | None = None
) -> Simulated:
    """The cycles of a program for an accelerator, and with `inputs` (arrays by name, the first axis counts samples) its
    outputs; without, nothing is computed. `program` is a bundle folder or what `load` gives.

    Raises UsageError for a program of another kind, InputError for a damaged bundle or inputs that do not fit.
    """
    from runtime.simulated import simulate_program

    return simulate_program(program, inputs)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from compiler.tools.hpcc import installed_version

        return installed_version()
    if name == "InferenceSession":
        from runtime.inference_session import InferenceSession

        return InferenceSession
    raise AttributeError(f"module 'hpcc' has no attribute {name!r}")
