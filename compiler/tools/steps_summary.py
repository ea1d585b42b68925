"""What a person sees of a run on a CPU or GPU: ledger and summary, but what differs by kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from compiler.tools.report import HostOpPart
from compiler.tools.steps_report import StepsLayerPart, StepsMemoryPart, StepsReport, StepsRunReport
from compiler.tools.summary import escape, inputs_text, say_damage, say_outputs, say_zeros
from runtime.figures import size_text

L = TypeVar("L", bound=StepsLayerPart)


def say_run(
    report: StepsReport,
    run: StepsRunReport,
    machine: str,
    written: str,
    say_layers: Callable[[Console], None],
    say_times: Callable[[Console], None],
) -> None:
    """Title, zeros, ledger, times, verification, damage, inputs, and what was `written`."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 132)
    say = console.print
    say()
    say(f"[bold]{report.model.name}[/] for {machine}")
    say_zeros(console, report.pruning)
    say()
    say_layers(console)
    say_times(console)
    say_host(console, report.host_ops)
    if run.verify is not None:
        say_outputs(console, run.verify)
    say_damage(console, run.damage, report.pruning.pattern, run.paths.get("model", ""))
    say(f"  inputs     {inputs_text(report.inputs)}")
    say(f"  written    {written}")


def say_weights(console: Console, memory: StepsMemoryPart, precision: str) -> None:
    console.print(
        f"  weights    {size_text(memory.weights_dense_bytes)} dense {precision} ->"
        f" {size_text(memory.weights_packed_bytes)} packed ({size_text(memory.value_bytes)} values +"
        f" {size_text(memory.index_bytes)} indices); weights.bin {size_text(memory.image_bytes)},"
        f" activations {size_text(memory.activation_bytes)}"
    )


def say_host(console: Console, ops: Sequence[HostOpPart]) -> None:
    if ops:
        names = ", ".join(dict.fromkeys(f"{op.op} {op.onnx_node}" for op in ops))
        share = sum(op.macs_share for op in ops)
        console.print(f"  host       {len(ops)} nodes, {share:.2%} of the MACs: {escape(names)}")


def say_ledger(
    console: Console,
    layers: Iterable[L],
    columns: Sequence[tuple[str, Callable[[L], str]]],
    reason: Callable[[L], Any],
    explanations: dict[Any, str],
    total: Sequence[str] = (),
) -> None:
    """A row for each layer: name, pattern, kernel, bytes, `columns` by title, why; below, the reasons in words."""
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for title in ("layer", "pattern", "kernel", "bytes", *(title for title, _ in columns), "why"):
        table.add_column(title, justify="left" if title in ("layer", "pattern", "kernel", "why") else "right", no_wrap=True)
    reasons: dict[Any, None] = {}
    for layer in layers:
        reasons[reason(layer)] = None
        stored = layer.value_bytes + layer.index_bytes
        told = (cell(layer) for _, cell in columns)
        size = size_text(stored) if stored else ""
        table.add_row(layer.name, layer.pattern, layer.kernel, size, *told, reason(layer).value)
    if total:
        table.add_row("[bold]total[/]", "", "", *total)
    console.print(table)
    for found in reasons:
        console.print(f"  [dim]{found.value}: {explanations[found]}[/]")
    console.print()
