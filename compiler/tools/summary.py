"""What a person sees: progress on stderr while it is a terminal, the summary and the ledger on stdout at the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from compiler.sparsity.patterns import patterns
from compiler.tools.report import (
    EXPLANATIONS,
    HELPS,
    DamagePart,
    Help,
    InputsPart,
    PruningPart,
    Reason,
    Report,
    RunReport,
    VerifyPart,
)
from runtime.figures import size_text

HELPS_TOLD = 2
"""Changes that the summary names; report.json has one for every layer."""

STEPS = ("import", "fuse", "sparsify", "quantize", "encode", "tile", "schedule", "emit", "simulate", "verify")
STEPS_OF = {
    "cpu": ("import", "fuse", "sparsify", "tile", "print", "build", "run", "verify"),
    "gpu": ("import", "fuse", "sparsify", "tile", "print", "run", "verify"),
}


class Progress:
    """`[3/10] encode ...` on stderr, overwritten in place; silent where stderr is no terminal."""

    def __init__(self, *, quiet: bool, steps: Sequence[str] = STEPS) -> None:
        self._steps = steps
        self._on = not quiet and sys.stderr.isatty()

    def start(self, step: str) -> None:
        if self._on:
            number = self._steps.index(step) + 1 if step in self._steps else 0
            print(f"\r\033[K[{number}/{len(self._steps)}] {step} ...", end="", file=sys.stderr, flush=True)

    def stop(self) -> None:
        if self._on:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def print_summary(report: Report, run: RunReport, output: Path, *, verbose: bool) -> None:
    """The ledger layer by layer (`verbose`: rows without MACs too), then a summary that a newcomer understands."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 132)
    say = console.print
    say()
    say(f"[bold]{report.model.name}[/] for [bold]{report.target.name}[/] at {report.target.clock_mhz:g} MHz")
    say_zeros(console, report.pruning)
    say()
    _say_layers(console, report, verbose=verbose)
    _say_latency(console, report, run)
    _say_checks(console, report, run)
    say(f"  written    {output}/  (program, weights, report.html, report.json, run.json, trace.json)")


def say_zeros(console: Console, pruning: PruningPart) -> None:
    """The pattern, and the shares of zeros that it made."""
    console.print(f"  pattern    {escape(pruning.words)}")
    if pruning.scope:
        console.print(
            f"             {pruning.achieved:.1%} zeros in the {len(pruning.scope)} pruned matrices,"
            f" {pruning.encoder:.1%} of the encoder, {pruning.file:.1%} of the file"
        )


def escape(text: str) -> str:
    return text.replace("[", r"\[")


def _say_latency(console: Console, report: Report, run: RunReport) -> None:
    say = console.print
    total = report.latency.accelerator_ms
    line = f"  latency    {total:.3f} ms on the accelerator ({report.cycles:,} cycles, simulated)"
    if report.cycles_if_dense and report.cycles_if_dense != report.cycles:
        line += f"; dense would take {report.cycles_if_dense:,}: [bold]{report.cycles_if_dense / report.cycles:.2f}x[/]"
    say(line)
    host = run.latency["host_ms"]
    say(
        f"             + {report.latency.transfer_ms:.3f} ms transfer (estimated) + {host.ms:.3f} ms host"
        f" ({host.source}) = {run.latency['total_ms'].ms:.3f} ms"
    )
    roof = report.roofline
    say(
        f"  bound      matrix {roof.matrix_ms:.3f}, vector {roof.vector_ms:.3f}, memory {roof.memory_ms:.3f} ms:"
        f" {roof.attained:.0%} of the best possible attained"
    )
    shares = ", ".join(
        f"{unit} {part.busy / max(report.cycles, 1):.0%} busy ({part.semaphore / max(report.cycles, 1):.0%} waiting)"
        for unit, part in report.units.items()
        if unit in ("matrix", "vector")
    )
    say(f"  units      {shares}, load {report.units['load'].busy / max(report.cycles, 1):.0%} busy")
    memory = report.memory
    say(
        f"  weights    {size_text(memory.weights_dense_bytes)} dense int8 -> {size_text(memory.weights_stored_bytes)} stored"
        f" ({size_text(memory.value_bytes)} values + {size_text(memory.metadata_bytes)} indices);"
        f" program {size_text(memory.program_bytes)}, {report.instructions:,} instructions"
    )
    used = ", ".join(f"{name} {part.used / max(part.usable, 1):.0%}" for name, part in report.resources.items())
    say(f"  board      {used} of what is usable")
    if report.target.sized_for is not None:
        a = report.target.array
        shape = f"{a.cores} x {a.tokens} x {a.outputs} x {a.multipliers} multipliers, {a.lanes} lanes"
        say(f"  array      {shape}: sized for this pattern alone; report.html says why")
    for note in report.model.notes:
        say(f"  note       {escape(note)}")
    hosts = report.host_ops
    if hosts:
        names = ", ".join(dict.fromkeys(f"{op.op} {op.onnx_node}" for op in hosts))
        share = sum(op.macs_share for op in hosts)
        say(f"  host       {len(hosts)} nodes, {share:.2%} of the MACs: {escape(names)}")


def _say_checks(console: Console, report: Report, run: RunReport) -> None:
    say = console.print
    if run.verify is not None:
        if run.verify.bit_exact is not None:
            word = "equal bit for bit" if run.verify.bit_exact else "[red]DIFFERENT[/]"
            say(f"  simulator  {word} to the integer reference")
        say_outputs(console, run.verify)
    say_damage(console, run.damage, report.pruning.pattern, run.paths.get("model", ""))
    source = inputs_text(report.inputs)
    if run.simulate_seconds:
        say(f"  inputs     {source}; simulated in {run.simulate_seconds:.2f} s")
    else:
        say(f"  inputs     {source}")


def say_outputs(console: Console, verify: VerifyPart) -> None:
    for check in verify.outputs:
        verdict = "[green]ok[/]" if check.passed else "[red]FAILED[/]"
        console.print(
            f"  verify     {escape(check.name)}: relative L2 {check.relative_l2:.4f}, worst token cosine"
            f" {check.min_token_cosine:.4f}, against {verify.reference}: {verdict}"
        )


def say_damage(console: Console, damage: DamagePart | None, pattern: str = "", model: str = "") -> None:
    """What one-shot pruning did to the results, and the command that does better."""
    if damage is None:
        return
    kind = patterns().get(pattern.partition(":")[0])
    shared = kind is not None and kind.sharing
    how = "projection only: it needs training" if shared else "one-shot magnitude pruning, no training"
    console.print(f"  damage     mean sample cosine {damage.mean_sample_cosine:.3f} to the unpruned model ({how})")
    if model and not shared:
        name = Path(model).name
        what = f"--recipe {pattern.removeprefix('recipe:')}" if pattern.startswith("recipe:") else f"--pattern {pattern}"
        command = f"hpcc-prune {name} {what} --calibrate SAMPLES.npz -o {Path(name).stem}.pruned.onnx"
        console.print(f"             less of it: {escape(command)}", soft_wrap=True)


def inputs_text(inputs: InputsPart) -> str:
    """Where the inputs came from, in words."""
    return {
        "made up": "made-up inputs: they say nothing about accuracy",
        "text": f"{inputs.count} texts of {inputs.source}",
        "npz": f"{inputs.count} samples of {inputs.source}",
        "arrays": f"{inputs.count} samples given as arrays",
    }[inputs.kind]


def _say_layers(console: Console, report: Report, *, verbose: bool) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for title, right in (
        ("layer", False),
        ("pattern", False),
        ("format", False),
        ("bytes", True),
        ("cycles", True),
        ("if dense", True),
        ("gain", True),
        ("why", False),
    ):
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    reasons: dict[Reason, None] = {}
    helps: dict[Help, int] = {}
    for layer in report.layers:
        helps[layer.help] = helps.get(layer.help, 0) + layer.cycles
        if not layer.macs_dense and not verbose and layer.cycles < report.cycles // 100:
            continue
        reasons[layer.reason] = None
        table.add_row(
            layer.name,
            layer.pattern if layer.op == "linear" else "",
            layer.format,
            size_text(layer.value_bytes + layer.metadata_bytes) if layer.op == "linear" else "",
            f"{layer.cycles:,}",
            f"{layer.cycles_if_dense:,}" if layer.cycles_if_dense is not None else "does not fit",
            f"{layer.speedup:.2f}x" if layer.speedup is not None and layer.op == "linear" else "",
            layer.reason.value,
        )
    if_dense = report.cycles_if_dense
    table.add_row(
        "[bold]total[/]",
        "",
        "",
        size_text(report.memory.weights_stored_bytes),
        f"{report.cycles:,}",
        f"{if_dense:,}" if if_dense is not None else "",
        f"{if_dense / report.cycles:.2f}x" if if_dense is not None else "",
        "",
    )
    console.print(table)
    for reason in reasons:
        console.print(f"  [dim]{reason.value}: {EXPLANATIONS[reason]}[/]")
    for help, cycles in sorted(helps.items(), key=lambda item: -item[1])[:HELPS_TOLD]:
        share = cycles / max(report.cycles, 1)
        console.print(f"  [dim]{help.value} would help where {share:.0%} of the cycles go: {HELPS[help]}[/]", soft_wrap=True)
    console.print()
