"""What a person sees of a GPU run: the ledger with estimated bounds and, from a GPU, measured times; then a summary."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from compiler.tools.gpu_report import GPU_EXPLANATIONS, GpuReason, GpuReport, GpuRunReport
from compiler.tools.summary import escape, inputs_text, say_damage, say_outputs, say_zeros
from runtime.figures import size_text


def print_gpu_summary(report: GpuReport, run: GpuRunReport, output: Path, *, verbose: bool) -> None:
    """The ledger layer by layer (`verbose`: rows without MACs too), then a summary that a newcomer understands."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 132)
    say = console.print
    say()
    say(f"[bold]{report.model.name}[/] for [bold]{report.target.name}[/] ({report.precision})")
    say_zeros(console, report.pruning)
    say()
    _say_layers(console, report, run, verbose=verbose)
    _say_times(console, report, run, output)
    if run.verify is not None:
        say_outputs(console, run.verify)
    say_damage(console, run.damage, report.pruning.pattern, run.paths.get("model", ""))
    say(f"  inputs     {inputs_text(report.inputs)}")
    say(f"  written    {output}/  (model.py, weights.bin, report.html, report.json, run.json)")


def _say_times(console: Console, report: GpuReport, run: GpuRunReport, output: Path) -> None:
    say, memory, roofline = console.print, report.memory, report.roofline
    shape = f"batch {report.batch}, {report.tokens} tokens"
    if run.latency["device_ms"].source == "measured":
        say(f"  latency    {run.latency['device_ms'].ms:.3f} ms on {escape(run.device)}, {shape} (measured)")
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
    say(
        f"  weights    {size_text(memory.weights_dense_bytes)} dense {report.precision} ->"
        f" {size_text(memory.weights_packed_bytes)} packed ({size_text(memory.value_bytes)} values +"
        f" {size_text(memory.index_bytes)} indices); weights.bin {size_text(memory.image_bytes)},"
        f" activations {size_text(memory.activation_bytes)}"
    )
    if report.host_ops:
        names = ", ".join(dict.fromkeys(f"{op.op} {op.onnx_node}" for op in report.host_ops))
        share = sum(op.macs_share for op in report.host_ops)
        say(f"  host       {len(report.host_ops)} nodes, {share:.2%} of the MACs: {escape(names)}")


def _say_layers(console: Console, report: GpuReport, run: GpuRunReport, *, verbose: bool) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    measured = bool(run.layers)
    for title, right in (
        ("layer", False),
        ("pattern", False),
        ("kernel", False),
        ("bytes", True),
        ("multiplied", True),
        ("bound us", True),
        *((("us", True),) if measured else ()),
        ("why", False),
    ):
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    times = {row.name: row for row in run.layers}
    reasons: dict[GpuReason, None] = {}
    for layer in report.layers:
        if not layer.macs_dense and not verbose:
            continue
        reasons[layer.reason] = None
        stored = layer.value_bytes + layer.index_bytes
        table.add_row(
            layer.name,
            layer.pattern,
            layer.kernel,
            size_text(stored) if stored else "",
            f"{layer.density:.0%}" if layer.op == "linear" else "",
            f"{1e3 * layer.bound_ms:.2f}",
            *((f"{1e3 * times[layer.name].ms:.2f}",) if measured else ()),
            layer.reason.value,
        )
    console.print(table)
    for reason in reasons:
        console.print(f"  [dim]{reason.value}: {GPU_EXPLANATIONS[reason]}[/]")
    console.print()
