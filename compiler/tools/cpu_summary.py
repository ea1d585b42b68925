"""What a person sees of a CPU run: the ledger with measured times, then a summary."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from compiler.tools.cpu_report import CPU_EXPLANATIONS, CpuLayerPart, CpuReport, CpuRunReport
from compiler.tools.steps_report import LayerTime
from compiler.tools.steps_summary import say_ledger, say_run, say_weights
from compiler.tools.summary import escape
from runtime.figures import size_text


def print_cpu_summary(report: CpuReport, run: CpuRunReport, output: Path, *, verbose: bool) -> None:
    """The ledger layer by layer (`verbose`: rows without MACs too), then a summary that a newcomer understands."""
    say_run(
        report,
        run,
        f"[bold]{report.target.name}[/] ({report.target.isa}, {report.precision})",
        f"{output}/  (model.c, model.h, libmodel.so, weights.bin, report.html, report.json, run.json)",
        lambda console: _say_layers(console, report, run, verbose=verbose),
        lambda console: _say_latency(console, report, run),
    )


def _say_latency(console: Console, report: CpuReport, run: CpuRunReport) -> None:
    say, total = console.print, run.latency["total_ms"]
    if total.source == "measured":
        shape = f"batch {report.batch}, {report.tokens} tokens"
        say(f"  latency    {total.ms:.3f} ms on {run.threads} thread(s), {shape} (measured)")
    else:
        say("  latency    not run")
    say_weights(console, report.memory, "fp32")
    if run.build:
        say(f"  built by   {escape(run.build['compiler'])}")


def _say_layers(console: Console, report: CpuReport, run: CpuRunReport, *, verbose: bool) -> None:
    times = {row.name: row for row in run.layers}
    total = sum(row.ms for row in run.layers)

    def is_told(layer: CpuLayerPart) -> bool:
        time = times.get(layer.name)
        return bool(layer.macs_dense or verbose or (time is not None and time.ms >= total / 100))

    def ms(layer: CpuLayerPart) -> str:
        return f"{times[layer.name].ms:.3f}" if layer.name in times else ""

    def rate(layer: CpuLayerPart, of: str) -> str:
        time: LayerTime | None = times.get(layer.name)
        return f"{getattr(time, of):.1f}" if time and layer.macs_dense else ""

    say_ledger(
        console,
        [layer for layer in report.layers if is_told(layer)],
        [
            ("ms", ms),
            ("GFLOP/s" if report.precision == "fp32" else "GOP/s", lambda layer: rate(layer, "gflops")),
            ("as if dense", lambda layer: rate(layer, "dense_equivalent_gflops")),
        ],
        lambda layer: layer.reason,
        dict(CPU_EXPLANATIONS),
        (size_text(report.memory.weights_packed_bytes), f"{total:.3f}" if total else ""),
    )
