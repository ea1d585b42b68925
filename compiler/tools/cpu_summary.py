"""What a person sees of a CPU run: the ledger with measured times, then a summary."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from compiler.tools.cpu_report import CPU_EXPLANATIONS, CpuReason, CpuReport, CpuRunReport
from compiler.tools.summary import escape, inputs_text, say_damage, say_outputs, say_zeros
from runtime.figures import size_text


def print_cpu_summary(report: CpuReport, run: CpuRunReport, output: Path, *, verbose: bool) -> None:
    """The ledger layer by layer (`verbose`: rows without MACs too), then a summary that a newcomer understands."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 132)
    say = console.print
    say()
    say(f"[bold]{report.model.name}[/] for [bold]{report.target.name}[/] ({report.target.isa}, {report.precision})")
    say_zeros(console, report.pruning)
    say()
    _say_layers(console, report, run, verbose=verbose)
    _say_latency(console, report, run)
    if run.verify is not None:
        say_outputs(console, run.verify)
    say_damage(console, run.damage, report.pruning.pattern, run.paths.get("model", ""))
    say(f"  inputs     {inputs_text(report.inputs)}")
    say(f"  written    {output}/  (model.c, model.h, libmodel.so, weights.bin, report.html, report.json, run.json)")


def _say_latency(console: Console, report: CpuReport, run: CpuRunReport) -> None:
    say = console.print
    total = run.latency["total_ms"]
    if total.source == "measured":
        shape = f"batch {report.batch}, {report.tokens} tokens"
        say(f"  latency    {total.ms:.3f} ms on {run.threads} thread(s), {shape} (measured)")
    else:
        say("  latency    not run")
    memory = report.memory
    say(
        f"  weights    {size_text(memory.weights_dense_bytes)} dense fp32 -> {size_text(memory.weights_packed_bytes)} packed"
        f" ({size_text(memory.value_bytes)} values + {size_text(memory.index_bytes)} indices);"
        f" weights.bin {size_text(memory.image_bytes)}, activations {size_text(memory.activation_bytes)}"
    )
    if run.build:
        say(f"  built by   {escape(run.build['compiler'])}")
    if report.host_ops:
        names = ", ".join(dict.fromkeys(f"{op.op} {op.onnx_node}" for op in report.host_ops))
        share = sum(op.macs_share for op in report.host_ops)
        say(f"  host       {len(report.host_ops)} nodes, {share:.2%} of the MACs: {escape(names)}")


def _say_layers(console: Console, report: CpuReport, run: CpuRunReport, *, verbose: bool) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for title, right in (
        ("layer", False),
        ("pattern", False),
        ("kernel", False),
        ("bytes", True),
        ("ms", True),
        ("GFLOP/s" if report.precision == "fp32" else "GOP/s", True),
        ("as if dense", True),
        ("why", False),
    ):
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    times = {row.name: row for row in run.layers}
    total = sum(row.ms for row in run.layers)
    reasons: dict[CpuReason, None] = {}
    for layer in report.layers:
        time = times.get(layer.name)
        if not layer.macs_dense and not verbose and (time is None or time.ms < total / 100):
            continue
        reasons[layer.reason] = None
        stored = layer.value_bytes + layer.index_bytes
        table.add_row(
            layer.name,
            layer.pattern,
            layer.kernel,
            size_text(stored) if stored else "",
            f"{time.ms:.3f}" if time else "",
            f"{time.gflops:.1f}" if time and layer.macs_dense else "",
            f"{time.dense_equivalent_gflops:.1f}" if time and layer.macs_dense else "",
            layer.reason.value,
        )
    table.add_row("[bold]total[/]", "", "", size_text(report.memory.weights_packed_bytes), f"{total:.3f}" if total else "")
    console.print(table)
    for reason in reasons:
        console.print(f"  [dim]{reason.value}: {CPU_EXPLANATIONS[reason]}[/]")
    console.print()
