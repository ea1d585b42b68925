"""What a person sees of a GPU run: the ledger with estimated bounds and, from a GPU, measured times; then a summary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from compiler.tools.gpu_report import GPU_EXPLANATIONS, GpuLayerPart, GpuReport, GpuRunReport
from compiler.tools.steps_summary import say_ledger, say_run, say_weights
from compiler.tools.summary import escape


def print_gpu_summary(report: GpuReport, run: GpuRunReport, output: Path, *, verbose: bool) -> None:
    """The ledger layer by layer (`verbose`: rows without MACs too), then a summary that a newcomer understands."""
    say_run(
        report,
        run,
        f"[bold]{report.target.name}[/] ({report.precision})",
        f"{output}/  (model.py, weights.bin, report.html, report.json, run.json)",
        lambda console: _say_layers(console, report, run, verbose=verbose),
        lambda console: _say_times(console, report, run, output),
    )


def _say_times(console: Console, report: GpuReport, run: GpuRunReport, output: Path) -> None:
    say, roofline, total = console.print, report.roofline, run.latency["total_ms"]
    shape = f"batch {report.batch}, {report.tokens} tokens"
    if total.source == "measured":
        say(f"  latency    {total.ms:.3f} ms on {escape(run.device)}, {shape} (measured)")
    elif run.device:
        say(f"  ran        in {run.device}, {shape}: values only, no time of a GPU")
    else:
        say(f"  not run    {escape(run.not_run)}: nothing was run or verified")
        say(f"             on a machine with a GPU: hpcc-run {output}; here, slowly: TRITON_INTERPRET=1 hpcc ...")
    if run.by_marks:
        say(f"  2:4        not on sparse tensor cores but by marks: {escape(run.by_marks)}")
    say(
        f"  bound      {roofline.bound_ms:.4f} ms: products {roofline.products_ms:.4f}, memory {roofline.memory_ms:.4f}"
        " (estimated from the target's rates)"
    )
    say_weights(console, report.memory, report.precision)


def _say_layers(console: Console, report: GpuReport, run: GpuRunReport, *, verbose: bool) -> None:
    times = {row.name: row for row in run.layers}
    columns: list[tuple[str, Callable[[GpuLayerPart], str]]] = [
        ("multiplied", lambda layer: f"{layer.density:.0%}" if layer.op == "linear" else ""),
        ("bound us", lambda layer: f"{1e3 * layer.bound_ms:.2f}"),
    ]
    if run.layers:
        columns.append(("us", lambda layer: f"{1e3 * times[layer.name].ms:.2f}"))
    told = [layer for layer in report.layers if layer.macs_dense or verbose]
    say_ledger(console, told, columns, lambda layer: layer.reason, dict(GPU_EXPLANATIONS))
