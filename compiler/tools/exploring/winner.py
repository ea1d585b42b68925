"""The winner as files: the pruned model, its bundle, and the commands that make the same ones again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compiler.explore.space import DENSE, Candidate
from compiler.explore.statistics import Score, z_of
from compiler.passes.sparsify import AUTO
from compiler.tools.exploring.bench import Bench, dense_reference, load_split, opened, reduced
from compiler.tools.exploring.models import Shapes, lower, prune_options, pruned_file
from compiler.tools.options import Options
from compiler.tools.session import open_session
from hw_targets.errors import VerificationError
from runtime.program import Program

SIMULATED = 8
"""Test samples that run on the simulator too."""
MODEL, BUNDLE = "winner.onnx", "winner.hpcc"


@dataclass(frozen=True)
class Winner:
    """The bundle, its manifest's digest, the commands, the milliseconds of the program itself, and the test score."""

    bundle: Path
    digest: str
    commands: tuple[str, ...]
    latency_ms: float
    test: Score


def commands(bench: Bench, candidate: Candidate) -> tuple[str, ...]:
    """What makes the bundle again. Sums depend on how many threads share them, so pruning has one."""
    algorithm, folder = candidate.algorithm, bench.folder
    made: list[str] = []
    model = bench.model
    if not algorithm.is_dense:
        options = prune_options(bench.model, algorithm, bench.data, bench.method, bench.compiled_shapes)
        words = ["hpcc-prune", str(bench.model)]
        words += ["--pattern", options.pattern] if options.pattern is not None else ["--recipe", str(options.recipe)]
        words += ["--method", bench.method] if bench.method is not None else []
        words += ["--calibrate", str(options.calibrate)] if options.calibrate is not None else []
        words += _shape_words(options.shapes)
        model = folder / MODEL
        made.append("OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 " + shlex.join([*words, "-o", str(model)]))
    words = ["hpcc", str(model), "--target", candidate.device]
    words += _shape_words(bench.compiled_shapes)
    words += ["--sparsity", DENSE] if algorithm.is_dense else []
    made.append(shlex.join([*words, "--timing-only", "-o", str(folder / BUNDLE)]))
    return tuple(made)


def _shape_words(shapes: Shapes) -> list[str]:
    return [word for name, shape in shapes.items() for word in ("--shape", f"{name}:{'x'.join(map(str, shape))}")]


def build(bench: Bench, candidate: Candidate, host_ms: float) -> tuple[Path, str, float]:
    """(bundle, digest, milliseconds): what the commands do, done here."""
    algorithm = candidate.algorithm
    model = pruned_file(bench.model, algorithm, bench.data, bench.method, bench.compiled_shapes, bench.folder / MODEL)
    bundle = bench.folder / BUNDLE
    options = Options(
        model=str(model),
        target=candidate.device,
        shapes=bench.compiled_shapes,
        sparsity=DENSE if algorithm.is_dense else None,
        output=str(bundle),
        timing_only=True,
        quiet=True,
    )
    open_session(options).compile()
    program = Program.load(bundle, threads=1)
    return bundle, program.manifest.digest, program.accelerator_ms + program.transfer_ms + host_ms


def measure_on_test(bench: Bench, candidate: Candidate, bundle: Path) -> Score:
    """The score on the test split, read for the first time: the integers of the bundle's own model, of which the bundle on
    the simulator must give the first ones bit for bit. Raises VerificationError where it does not."""
    known, dense = opened(bench), candidate.algorithm.is_dense
    test = load_split(bench.data / "test.npz")
    model = bench.model if dense else bench.folder / MODEL
    lowered = lower(model, bench.compiled_shapes, DENSE if dense else AUTO)
    size, rows = lowered.facts.inputs[0].shape[0], np.arange(test.count)
    found = reduced(known.meter, lowered.run, test, rows, size)
    program = Program.load(bundle, threads=1)
    few = rows[:SIMULATED]
    simulated = reduced(known.meter, lambda inputs: program.run(inputs).outputs, test, few, size)
    if not np.array_equal(simulated, found[: len(few)]):
        raise VerificationError("HPCC4011", "the winner's bundle does not compute what was judged", where=str(bundle))
    shapes = known.dense_shapes
    reference = dense_reference(bench.model, shapes)
    wanted = reduced(known.meter, reference.run, test, rows, next(iter(shapes.values()))[0])
    return known.meter.score(found, test, wanted, z_of(known.task.confidence))
