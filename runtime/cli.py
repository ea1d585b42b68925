"""hpcc-run and hpcc-objdump: run and read programs on a machine that has no compiler.

Results go to stdout, notes and errors to stderr. Heavy imports wait until the command line has been understood.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw_targets.command_line import Parser, guarded
from hw_targets.errors import HpccError, InputError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from runtime.manifest import TensorEntry
    from runtime.program import Program, RunResult

    Arrays = dict[str, NDArray[Any]]

PERCENTILE = 0.9


def main_run(arguments: Sequence[str] | None = None) -> int:
    """`hpcc-run`: exit status."""
    return guarded(run_parser(), _run, arguments)


def run_parser() -> Parser:
    """The command line of `hpcc-run`."""
    parser = Parser(prog="hpcc-run", description="Run a compiled program, on the simulator, on this CPU or on a GPU.")
    parser.add_argument("bundle", type=Path, help="folder written by hpcc")
    parser.add_argument("--inputs", type=Path, metavar="FILE.npz", help="arrays by input name, first axis samples")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.npz", help="where the outputs go")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run N times (default 1)")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="T", help="threads of a CPU program and of host segments (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--timing-only", action="store_true", help="count cycles without values")
    parser.add_argument(
        "--dump-vectors", type=Path, metavar="DIR", help="write test vectors for RTL: images and steps of every instruction"
    )
    parser.add_argument("--layer", metavar="NAME", help="with --dump-vectors: the instructions of one layer")
    parser.add_argument("--instructions", metavar="A:B", help="with --dump-vectors: executed instructions A to B - 1")
    parser.add_argument("--group", metavar="C,P,O", help="with --dump-vectors: core, token pair, output (default 0,0,0)")
    parser.add_argument("--debug", action="store_true", help="print a traceback with an error")
    return parser


def main_objdump(arguments: Sequence[str] | None = None) -> int:
    """`hpcc-objdump`: exit status."""
    return guarded(objdump_parser(), _objdump, arguments)


def objdump_parser() -> Parser:
    """The command line of `hpcc-objdump`."""
    parser = Parser(prog="hpcc-objdump", description="Show what a compiled program consists of.")
    parser.add_argument("bundle", type=Path, nargs="?", help="folder written by hpcc")
    parser.add_argument("--sections", action="store_true", help="files, segments and memory map, no instructions")
    parser.add_argument(
        "--diff", type=Path, nargs=2, metavar=("A", "B"), help="two bundles of one model, layer by layer, from their reports"
    )
    parser.add_argument("--header", metavar="sv|c", help="the instruction set as a SystemVerilog package or a C header")
    parser.add_argument("--json", action="store_true", help="with --diff: print one JSON object")
    parser.add_argument("--html", type=Path, metavar="FILE", help="with --diff: write a page, too")
    parser.add_argument("--debug", action="store_true", help="print a traceback with an error")
    return parser


# ---- hpcc-run -------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> None:
    from runtime.buckets import is_bucket_bundle
    from runtime.steps.manifest import kind_of

    if options.repeat < 1:
        raise UsageError("HPCC2601", f"--repeat {options.repeat} is not at least 1")
    if options.threads < 0:
        raise UsageError("HPCC2601", f"--threads {options.threads} is negative")
    if options.dump_vectors is not None:
        _dump_vectors(options)
        return
    for name in ("layer", "instructions", "group"):
        if getattr(options, name) is not None:
            message = f"--{name} says which vectors are dumped"
            raise UsageError("HPCC2608", message, hint=f"--dump-vectors DIR --{name} {getattr(options, name)}")
    kind = kind_of(options.bundle)
    if kind == "cpu":
        _run_cpu(options)
    elif kind == "gpu":
        from runtime.gpu.commands import run

        run(options)
    elif is_bucket_bundle(options.bundle):
        _run_buckets(options)
    else:
        _run_simulated(options)


def _run_simulated(options: argparse.Namespace) -> None:
    from runtime.program import Program

    start = time.perf_counter()
    program = Program.load(options.bundle, threads=options.threads)
    report: dict[str, Any] = {
        "bundle": str(options.bundle),
        "model": program.manifest.model.name,
        "target": program.target.name,
        "load_seconds": time.perf_counter() - start,
        "cycles": program.timing().total,
        "accelerator_ms": program.accelerator_ms,
        "transfer_ms": program.transfer_ms,
    }
    if not options.timing_only:
        _run_values(program, options, report)
    print(json.dumps(report, indent=1) if options.json else _summary(report))


def _dump_vectors(options: argparse.Namespace) -> None:
    """Run once, and write what the instructions read and wrote."""
    from runtime.buckets import is_bucket_bundle
    from runtime.program import Program
    from runtime.steps.manifest import kind_of
    from runtime.vectors import Group, Selection, dump, parse_group, parse_range

    if options.timing_only or options.output is not None or options.repeat != 1:
        message = "--dump-vectors runs once and writes vectors alone"
        raise UsageError("HPCC2608", message, hint="leave --timing-only, --repeat and -o out")
    if kind_of(options.bundle) in ("cpu", "gpu") or is_bucket_bundle(options.bundle):
        message = "vectors are dumped of one program of an accelerator"
        raise UsageError("HPCC2608", message, where=str(options.bundle), hint="of several shapes take one below buckets/")
    first, last = parse_range(options.instructions or ":")
    group = parse_group(options.group) if options.group is not None else Group(0, 0, 0)
    program = Program.load(options.bundle, threads=options.threads)
    inputs = made_up_inputs(program) if options.inputs is None else read_npz(options.inputs)
    if options.inputs is None:
        print(f"note: no --inputs: made up {', '.join(inputs)} from names and types", file=sys.stderr)
    index = dump(program, inputs, options.dump_vectors, Selection(first, last, options.layer or "", group))
    count = len(index["instructions"])
    if options.json:
        print(json.dumps({"written": str(options.dump_vectors), "instructions": count}))
    else:
        print(f"{options.dump_vectors}: vectors of {count} of {index['executed']} executed instructions (docs/RTL.md)")


def _run_values(program: Program, options: argparse.Namespace, report: dict[str, Any]) -> None:
    if options.inputs is None:
        inputs = made_up_inputs(program)
        report["inputs"] = "made up"
        print(f"note: no --inputs: made up {', '.join(inputs)} from names and types", file=sys.stderr)
    else:
        inputs = read_npz(options.inputs)
        report["inputs"] = str(options.inputs)
    _tell(program, [program.run(inputs) for _ in range(options.repeat)], options, report)


def _tell(program: Program, results: Sequence[RunResult], options: argparse.Namespace, report: dict[str, Any]) -> None:
    """Fill in what the runs gave, and write the outputs of the first."""
    report["outputs"] = {name: list(array.shape) for name, array in results[0].outputs.items()}
    report["batches"] = results[0].batches
    report["simulate_seconds"] = statistics.median(result.simulate_seconds for result in results)
    report |= _latency(program, results)
    if options.output is not None:
        write_npz(options.output, results[0].outputs)
        report["written"] = str(options.output)


def _run_buckets(options: argparse.Namespace) -> None:
    """Run in the smallest shape that holds the inputs; without any, in the largest."""
    from runtime.buckets import BucketProgram

    start = time.perf_counter()
    program = BucketProgram.load(options.bundle, threads=options.threads)
    if options.inputs is None:
        entry, inputs = program.largest, None
    else:
        inputs = read_npz(options.inputs)
        entry = program.choose(inputs)
    chosen = program.program(entry.name)
    report: dict[str, Any] = {
        "bundle": str(options.bundle),
        "model": program.manifest.model,
        "target": program.manifest.target,
        "bucket": entry.name,
        "buckets": [bucket.name for bucket in program.manifest.buckets],
        "load_seconds": time.perf_counter() - start,
        "cycles": chosen.timing().total,
        "accelerator_ms": chosen.accelerator_ms,
        "transfer_ms": chosen.transfer_ms,
    }
    if not options.timing_only:
        if inputs is None:
            inputs = made_up_inputs(chosen)
            print(f"note: no --inputs: made up {', '.join(inputs)} from names and types", file=sys.stderr)
        report["inputs"] = "made up" if options.inputs is None else str(options.inputs)
        _tell(chosen, [program.run(inputs)[1] for _ in range(options.repeat)], options, report)
    print(json.dumps(report, indent=1) if options.json else _summary(report))


def _run_cpu(options: argparse.Namespace) -> None:
    """Run on this machine's processor; all times are measured."""
    from runtime.cpu.program import CpuProgram
    from runtime.memory import peak_rss_mb

    if options.timing_only:
        raise UsageError(
            "HPCC2602", "--timing-only counts cycles of an accelerator", hint="--repeat N measures a CPU program"
        )
    start = time.perf_counter()
    program = CpuProgram.load(options.bundle, threads=options.threads)
    _ = program.library
    load_seconds = time.perf_counter() - start
    if options.inputs is None:
        import numpy as np

        random = np.random.default_rng(0)
        inputs = {e.name: made_up(e, program.id_limits.get(e.name, 2), random) for e in program.manifest.model_inputs}
        print(f"note: no --inputs: made up {', '.join(inputs)} from names and types", file=sys.stderr)
    else:
        inputs = read_npz(options.inputs)
    results = [program.run(inputs) for _ in range(options.repeat)]
    times = sorted(ms for result in results for ms in result.batch_ms)
    report: dict[str, Any] = {
        "bundle": str(options.bundle),
        "model": program.manifest.model.name,
        "target": program.target.name,
        "load_seconds": load_seconds,
        "threads": program.threads,
        "inputs": "made up" if options.inputs is None else str(options.inputs),
        "outputs": {name: list(array.shape) for name, array in results[0].outputs.items()},
        "batches": len(results[0].batch_ms),
        "device_ms": statistics.median(ms for result in results for ms in result.device_ms),
        "host_ms": statistics.median(ms for result in results for ms in result.host_ms),
        "median_ms": statistics.median(times),
        "p90_ms": times[min(int(PERCENTILE * len(times)), len(times) - 1)],
        "peak_rss_mb": peak_rss_mb(),
    }
    if options.output is not None:
        write_npz(options.output, results[0].outputs)
        report["written"] = str(options.output)
    print(json.dumps(report, indent=1) if options.json else _cpu_summary(report))


def _cpu_summary(report: dict[str, Any]) -> str:
    lines = [
        f"{report['model']} on {report['target']}, {report['threads']} thread(s)",
        f"  median {report['median_ms']:.3f} ms, p90 {report['p90_ms']:.3f} ms per batch (measured;"
        f" library {report['device_ms']:.3f}, host {report['host_ms']:.3f})",
        f"  loaded in {report['load_seconds']:.3f} s, peak memory {report['peak_rss_mb']:.0f} MB",
        *(f"  output {name}: {'x'.join(map(str, shape))}" for name, shape in report["outputs"].items()),
    ]
    if "written" in report:
        lines.append(f"  outputs written to {report['written']}")
    return "\n".join(lines)


def _latency(program: Program, results: Sequence[RunResult]) -> dict[str, float]:
    """Median and 90th percentile of one batch: simulated accelerator and transfer, measured host segments."""
    host = sorted(1e3 * sum(result.host_seconds.values()) / result.batches for result in results)
    fixed = program.accelerator_ms + program.transfer_ms
    last = host[min(int(PERCENTILE * len(host)), len(host) - 1)]
    middle = statistics.median(host)
    return {"host_ms": middle, "median_ms": fixed + middle, "p90_ms": fixed + last}


def _summary(report: dict[str, Any]) -> str:
    bucket = f", bucket {report['bucket']} of {', '.join(report['buckets'])}" if "bucket" in report else ""
    lines = [
        f"{report['model']} on {report['target']}{bucket}",
        f"  accelerator {report['accelerator_ms']:.4f} ms ({report['cycles']:,} cycles, simulated)",
        f"  transfer    {report['transfer_ms']:.4f} ms (from the link's bandwidth)",
    ]
    if "median_ms" in report:
        lines.append(f"  host        {report['host_ms']:.4f} ms (measured)")
        lines.append(f"  total       {report['median_ms']:.4f} ms median, {report['p90_ms']:.4f} ms p90")
        lines.append(f"  simulated {report['batches']} batch(es) in {report['simulate_seconds']:.3f} s")
        lines += [f"  output {name}: {'x'.join(map(str, shape))}" for name, shape in report["outputs"].items()]
    if "written" in report:
        lines.append(f"  outputs written to {report['written']}")
    return "\n".join(lines)


def read_npz(path: Path) -> Arrays:
    """Arrays by name, without the optional `labels`. Raises InputError; pickled objects are refused."""
    import zipfile

    import numpy as np

    try:
        if path.is_file() and not zipfile.is_zipfile(path):
            raise InputError("HPCC1260", "this is no .npz file (a zip of arrays by name)", where=str(path))
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files if name != "labels"}
    except HpccError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's parser of headers have errors of their own for damaged archives
        text = getattr(error, "strerror", None) or str(error)
        raise InputError("HPCC1260", f"cannot read the arrays: {text}", where=str(path)) from error


def write_npz(path: Path, arrays: Arrays) -> None:
    """Write the arrays; an older file stays as it is until the new one is whole. Raises InputError."""
    import numpy as np

    plain = path.is_file() or not path.exists()
    try:
        # Something else than a file, as a pipe, is written to and stays what it is.
        target = path.with_name(f".{path.name}.{os.getpid()}") if plain else path
        try:
            with target.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            if plain:
                os.replace(target, path)
        finally:
            if plain:
                target.unlink(missing_ok=True)
    except OSError as error:
        raise InputError("HPCC1261", f"cannot write: {error.strerror}", where=str(path)) from error


def made_up_inputs(program: Program, seed: int = 0) -> Arrays:
    """One batch made up from names, types and table sizes: they say nothing about accuracy."""
    import numpy as np

    random = np.random.default_rng(seed)
    limits = program.id_limits
    return {entry.name: made_up(entry, limits.get(entry.name, 2), random) for entry in program.manifest.model_inputs}


def made_up(entry: TensorEntry, limit: int, random: np.random.Generator) -> NDArray[Any]:
    import numpy as np

    if "mask" in entry.name:
        return np.ones(entry.shape, entry.dtype)
    if "type" in entry.name:
        return np.zeros(entry.shape, entry.dtype)
    if np.dtype(entry.dtype).kind == "f":
        return random.standard_normal(entry.shape).astype(entry.dtype)
    return random.integers(0, limit, entry.shape).astype(entry.dtype)


# ---- hpcc-objdump ---------------------------------------------------------------------------------------------------


def _header(options: argparse.Namespace) -> None:
    from hw_targets.isa_header import HEADERS

    if options.header not in HEADERS:
        message = f"--header {options.header!r} is none of {', '.join(HEADERS)}"
        raise UsageError("HPCC2606", message, hint="hpcc-objdump --header sv")
    if (
        options.bundle is not None
        or options.diff is not None
        or options.sections
        or options.json
        or options.html is not None
    ):
        message = "--header stands alone: it is that of the instruction set, whatever the bundle"
        raise UsageError("HPCC2606", message, hint=f"hpcc-objdump --header {options.header}")
    sys.stdout.write(HEADERS[options.header]())


def _diff(options: argparse.Namespace) -> None:
    from runtime.compare import compare, read_reports, text

    first, second = options.diff
    comparison = compare((first.name, *read_reports(first)), (second.name, *read_reports(second)))
    if options.html is not None:
        from runtime.html.diff_views import diff_page

        version = str(read_reports(second)[0].get("hpcc_version", ""))
        _write_page(options.html, diff_page(comparison, f"hpcc {version}"))
    if options.json:
        print(json.dumps(comparison.document(), indent=1))
    else:
        print(text(comparison))


def _write_page(path: Path, page: str) -> None:
    """Write a page; an older file stays as it is until the new one is whole. Raises InputError."""
    if not path.name:
        raise InputError("HPCC1283", "cannot write the page: it has no name", where=str(path))
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            draft.write_text(page, encoding="utf-8")
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise InputError("HPCC1283", f"cannot write the page: {error.strerror}", where=str(path)) from error


def _objdump(options: argparse.Namespace) -> None:
    if options.header is not None:
        _header(options)
        return
    if (options.bundle is None) == (options.diff is None):
        hint = "hpcc-objdump BUNDLE, or hpcc-objdump --diff A B"
        raise UsageError("HPCC2605", "one bundle is dumped, or two are compared with --diff", hint=hint)
    if options.diff is None and (options.json or options.html is not None):
        option = "--json" if options.json else "--html"
        raise UsageError("HPCC2605", f"{option} belongs to --diff", hint="hpcc-objdump --diff A B")
    if options.diff is not None:
        _diff(options)
        return
    _dump(options)


def _dump(options: argparse.Namespace) -> None:
    from hw_targets.asm import disassemble
    from runtime.buckets import is_bucket_bundle
    from runtime.bundle import load_bundle
    from runtime.sections import bucket_sections, cpu_sections, gpu_sections, sections
    from runtime.steps.manifest import kind_of

    kind = kind_of(options.bundle)
    if kind == "cpu":
        print(cpu_sections(options.bundle))
        return
    if kind == "gpu":
        print(gpu_sections(options.bundle))
        return
    if is_bucket_bundle(options.bundle):
        print(bucket_sections(options.bundle))
        return
    bundle = load_bundle(options.bundle)
    if options.sections:
        print(sections(bundle))
    else:
        nodes = [f"{node.onnx_node} ({node.layer})" if node.layer else node.onnx_node for node in bundle.manifest.nodes]
        sys.stdout.write(disassemble(bundle.instructions, nodes))
