"""hpcc-run and hpcc-objdump for GPU bundles. Times are printed only where a GPU took them."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import numpy as np

from hw_targets.errors import UsageError
from runtime.cli import PERCENTILE, made_up, read_npz, write_npz
from runtime.gpu.program import GpuProgram
from runtime.memory import peak_rss_mb


def run(options: argparse.Namespace) -> None:
    """Run a program. Raises MissingToolError where neither a GPU nor the interpreter is there."""
    if options.timing_only:
        message = "--timing-only counts cycles of an accelerator"
        raise UsageError("HPCC2609", message, hint="--repeat N measures a GPU program")
    start = time.perf_counter()
    program = GpuProgram.load(options.bundle, threads=options.threads)
    _ = program.model
    report: dict[str, Any] = {
        "bundle": str(options.bundle),
        "model": program.manifest.model.name,
        "target": program.target.name,
        "device": program.device,
        "load_seconds": time.perf_counter() - start,
        "inputs": "made up" if options.inputs is None else str(options.inputs),
    }
    if options.inputs is None:
        random = np.random.default_rng(0)
        limits = program.id_limits
        inputs = {e.name: made_up(e, limits.get(e.name, 2), random) for e in program.manifest.model_inputs}
        print(f"note: no --inputs: made up {', '.join(inputs)} from names and types", file=sys.stderr)
    else:
        inputs = read_npz(options.inputs)
    results = [program.run(inputs) for _ in range(options.repeat)]
    report["outputs"] = {name: list(array.shape) for name, array in results[0].outputs.items()}
    report["batches"] = len(results[0].batch_ms)
    if not program.interpreted:
        times = sorted(ms for result in results for ms in result.batch_ms)
        report["median_ms"] = statistics.median(times)
        report["p90_ms"] = times[min(int(PERCENTILE * len(times)), len(times) - 1)]
        report["host_ms"] = statistics.median(ms for result in results for ms in result.host_ms)
    report["by_marks"] = program.by_marks
    report["peak_rss_mb"] = peak_rss_mb()
    if options.output is not None:
        write_npz(options.output, results[0].outputs)
        report["written"] = str(options.output)
    print(json.dumps(report, indent=1) if options.json else _summary(report))


def _summary(report: dict[str, Any]) -> str:
    lines = [f"{report['model']} for {report['target']} on {report['device']}"]
    if "median_ms" in report:
        lines.append(
            f"  median {report['median_ms']:.3f} ms, p90 {report['p90_ms']:.3f} ms per batch (measured, with copies of"
            f" inputs and outputs; host {report['host_ms']:.3f})"
        )
    else:
        lines.append("  interpreted: values only, no time of a GPU")
    if report["by_marks"]:
        lines.append(f"  2:4 layers not on sparse tensor cores but by marks: {report['by_marks']}")
    lines += [f"  output {name}: {'x'.join(map(str, shape))}" for name, shape in report["outputs"].items()]
    if "written" in report:
        lines.append(f"  outputs written to {report['written']}")
    return "\n".join(lines)
