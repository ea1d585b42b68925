"""The winner as files: the pruned model, its bundle, and the commands that make the same ones again."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.explore.selection import Hardware
from compiler.explore.space import DENSE, Candidate
from compiler.explore.statistics import Score, z_of
from compiler.passes.sparsify import AUTO
from compiler.tools.exploring.accuracy import rows_by
from compiler.tools.exploring.bench import TRAIN, Bench, load_split, opened, reduced, reference_rows, save_rows
from compiler.tools.exploring.finetuning import Course, trained_file
from compiler.tools.exploring.measuring import build as build_for_cpu
from compiler.tools.exploring.measuring import measured
from compiler.tools.exploring.models import Shapes, prune_options, pruned_file
from compiler.tools.exploring.samples import Split
from compiler.tools.exploring.workers import Executor, cut_for, on_one_thread, parts_of, side_by_side
from compiler.tools.options import Options
from compiler.tools.session import open_session
from hw_targets.errors import VerificationError
from runtime.cpu.bundle import load_cpu_bundle
from runtime.cpu.program import CpuProgram
from runtime.program import Program

Array = NDArray[Any]
SIMULATED = 8
"""Test samples that run on the simulator too."""
DENSE_TEST = "dense-test.npy"
MODEL, BUNDLE = "winner.onnx", "winner.hpcc"


@dataclass(frozen=True)
class Winner:
    """The bundle, its manifest's digest, the commands, the milliseconds of the program itself, and the test score."""

    bundle: Path
    digest: str
    commands: tuple[str, ...]
    latency_ms: float
    test: Score


@dataclass(frozen=True)
class Lessons:
    """How the winner was trained: the patterns of its ladder up to its own."""

    course: Course
    rungs: tuple[str, ...]


def commands(bench: Bench, candidate: Candidate, lessons: Lessons | None) -> tuple[str, ...]:
    """What makes the bundle again. Sums depend on how many threads share them, so pruning has one."""
    algorithm, folder = candidate.algorithm, bench.folder
    made: list[str] = []
    model = bench.model
    if not algorithm.is_dense:
        words = ["hpcc-prune", str(bench.model)]
        words += _pruning(bench, candidate) if lessons is None else _training(bench, lessons)
        model = folder / MODEL
        made.append("OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 " + shlex.join([*words, "-o", str(model)]))
    words = ["hpcc", str(model), "--target", candidate.device]
    words += _shape_words(bench.compiled_shapes)
    words += ["--sparsity", DENSE] if algorithm.is_dense else []
    words += [] if _is_cpu(candidate) else ["--timing-only"]
    made.append(shlex.join([*words, "-o", str(folder / BUNDLE)]))
    return tuple(made)


def _pruning(bench: Bench, candidate: Candidate) -> list[str]:
    options = prune_options(bench.model, candidate.algorithm, bench.data, bench.method, bench.compiled_shapes)
    words = ["--pattern", options.pattern] if options.pattern is not None else ["--recipe", str(options.recipe)]
    words += ["--method", bench.method] if bench.method is not None else []
    words += ["--calibrate", str(options.calibrate)] if options.calibrate is not None else []
    return [*words, *_shape_words(options.shapes)]


def _training(bench: Bench, lessons: Lessons) -> list[str]:
    return [*lessons.course.words(lessons.rungs), "--train", str(bench.data / TRAIN)]


def _is_cpu(candidate: Candidate) -> bool:
    return candidate.algorithm.precision == "fp32"


def _shape_words(shapes: Shapes) -> list[str]:
    return [word for name, shape in shapes.items() for word in ("--shape", f"{name}:{'x'.join(map(str, shape))}")]


def build(bench: Bench, candidate: Candidate, lessons: Lessons | None) -> tuple[Path, str]:
    """(bundle, digest): what the commands do, done here."""
    algorithm, bundle = candidate.algorithm, bench.folder / BUNDLE
    model = bench.folder / MODEL
    if lessons is not None:
        shutil.copyfile(trained_file(bench, lessons.course, lessons.rungs), model)
    else:
        model = pruned_file(bench.model, algorithm, bench.data, bench.method, bench.compiled_shapes, model)
    sparsity = DENSE if algorithm.is_dense else None
    if _is_cpu(candidate):
        build_for_cpu(model, bench.compiled_shapes, sparsity, candidate.device, bundle)
        return bundle, load_cpu_bundle(bundle).manifest.digest
    options = Options(
        model=str(model),
        target=candidate.device,
        shapes=bench.compiled_shapes,
        sparsity=sparsity,
        output=str(bundle),
        timing_only=True,
        quiet=True,
    )
    open_session(options).compile()
    return bundle, Program.load(bundle, threads=1).manifest.digest


def time_of(bench: Bench, candidate: Candidate, bundle: Path, host_ms: float) -> Hardware:
    """What the bundle itself says of its time, or what this machine takes for it."""
    if _is_cpu(candidate):
        return measured(bundle, bench.data)
    program = Program.load(bundle, threads=1)
    return Hardware(program.accelerator_ms, program.transfer_ms, host_ms)


def built(bench: Bench, candidate: Candidate, lessons: Lessons | None, executor: Executor) -> tuple[Path, str]:
    """`build`; beside it the dense model runs the test set, which tells nothing of the winner."""
    calls: list[tuple[Any, ...]] = [(build, bench, candidate, lessons), (dense_on_test, bench)]
    return side_by_side(executor, "the winner cannot be built", calls)[0]


def dense_on_test(bench: Bench) -> None:
    """Keep the rows of the test split by the dense model in fp32."""
    path = bench.data / DENSE_TEST
    if not path.is_file():
        save_rows(path, reference_rows(bench, "test", 0, load_split(bench.data / "test.npz").count))


def measure_on_test(bench: Bench, candidate: Candidate, bundle: Path, executor: Executor) -> Score:
    """The score on the test split, read for the first time, of what the bundle computes. A CPU runs all of it; of an
    accelerator it is the integers of the bundle's own model, of which the bundle on the simulator must give the first ones
    bit for bit. Raises VerificationError where it does not."""
    test = load_split(bench.data / "test.npz")
    if _is_cpu(candidate):
        found = on_one_thread(_on_cpu, bench, bundle, test)
    else:
        found = _on_accelerator(bench, candidate, bundle, test, executor)
    known = opened(bench)
    return known.meter.score(found, test, np.load(bench.data / DENSE_TEST), z_of(known.task.confidence))


def _on_cpu(bench: Bench, bundle: Path, test: Split) -> Array:
    program = CpuProgram.load(bundle)
    rows = np.arange(test.count)
    return reduced(opened(bench).meter, lambda inputs: program.run(inputs).outputs, test, rows, program.manifest.batch)


def integer_rows(bench: Bench, dense: bool, precision: str, first: int, last: int) -> Array:
    """The rows of some test samples by the integers of the winner's model."""
    known = opened(bench)
    file, spec = (bench.model, DENSE) if dense else (bench.folder / MODEL, AUTO)
    return rows_by(known, file, spec, precision, load_split(bench.data / "test.npz"), np.arange(first, last))


def simulated_rows(bench: Bench, bundle: Path) -> Array:
    """The first rows by the bundle itself."""
    program, test = Program.load(bundle, threads=1), load_split(bench.data / "test.npz")
    size = program.manifest.model_inputs[0].shape[0]
    few = np.arange(min(SIMULATED, test.count))
    return reduced(opened(bench).meter, lambda inputs: program.run(inputs).outputs, test, few, size)


def _on_accelerator(bench: Bench, candidate: Candidate, bundle: Path, test: Split, executor: Executor) -> Array:
    """By the integers; the first ones also by the bundle, beside them where there are workers."""
    arguments = (bench, candidate.algorithm.is_dense, candidate.algorithm.precision)
    parts = parts_of(test.count, bench.batch, cut_for(executor))
    calls = [(simulated_rows, bench, bundle), *((integer_rows, *arguments, *rows) for rows in parts)]
    simulated, *found = side_by_side(executor, "the test set cannot be measured", calls)
    rows = np.concatenate(found)
    if not np.array_equal(simulated, rows[: len(simulated)]):
        raise VerificationError("HPCC4011", "the winner's bundle does not compute what was judged", where=str(bundle))
    return rows
