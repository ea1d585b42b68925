"""`--shape input_ids:1x{16,32,64}`: one compilation for each shape, linked to one bundle, with a table of all shapes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute

from compiler.backends.fpga.emission import program_parts
from compiler.passes.smoothing import factors_of, give_factors
from compiler.pipelines import Stage
from compiler.tools.compiled import Compiled
from compiler.tools.fpga_session import FpgaSession
from compiler.tools.histogram import Histogram, read_histogram
from compiler.tools.linking import Unlinked, link
from compiler.tools.options import Options
from compiler.tools.session import check_output, default_output
from hw_targets.errors import UsageError, VerificationError
from hw_targets.load import load_any_target
from hw_targets.target import Target
from runtime.buckets import Bucket, save_buckets
from runtime.figures import ms_text, share_text, size_text
from runtime.program import Program

Shapes = Mapping[str, tuple[int, ...]]
SUMMARY = "buckets.json"


@dataclass(frozen=True)
class Line:
    """One shape in the table: simulated milliseconds of a batch, and how many of the histogram's inputs run in it."""

    name: str
    length: int
    cycles: int
    accelerator_ms: float
    transfer_ms: float
    attained: float
    instructions: int
    inputs: int | None

    @property
    def ms(self) -> float:
        return self.accelerator_ms + self.transfer_ms


class BucketSession(FpgaSession):
    """One shape. The factors that smooth its activations are those of the first session, so that weights are the same."""

    shared: Attribute | None = None

    def _after_stage(self, stage: Stage, module: ModuleOp) -> None:
        super()._after_stage(stage, module)
        if stage.name == "sparsify":
            if self.shared is None:
                self.shared = factors_of(module, self.store)
            give_factors(module, self.shared)


def run_buckets(options: Options, buckets: Sequence[Shapes]) -> int:
    """Compile, simulate and verify every shape, write one bundle, print the table; returns the exit status."""
    target = _accelerator(options)
    _check(options, buckets)
    histogram = read_histogram(Path(options.length_histogram)) if options.length_histogram is not None else None
    output = Path(options.output or default_output(options, target))
    check_output(output)
    names = [_name(shapes, buckets) for shapes in buckets]
    results: list[Compiled] = []
    programs: list[Unlinked] = []
    failed, factors = "", None
    for name, shapes in reversed(list(zip(names, buckets, strict=True))):  # the largest has most to say on factors
        session = BucketSession(replace(options, shapes=shapes, output=None), target)
        session.shared = factors
        try:
            compiled = session.compiled()
        finally:
            session.progress.stop()
        factors = session.shared
        failed = failed or (f"bucket {name}: {compiled.failure}" if compiled.failure else "")
        results.insert(0, compiled)
        programs.insert(0, Unlinked(compiled.program.bundle, program_parts(session.module).regions))
    linked = [Program(bundle) for bundle in link(programs)]
    for name, program, compiled in zip(names, linked, results, strict=True):
        if program.timing().total != compiled.report.cycles:
            failed = failed or f"bucket {name} takes {program.timing().total} cycles where it lies"
    lines = _lines(names, buckets, results, histogram)
    document = summary(lines, histogram, int(linked[0].bundle.weights.size))
    stored = [
        Bucket(name, program.bundle, compiled.files(program))
        for name, program, compiled in zip(names, linked, results, strict=True)
    ]
    save_buckets(stored, output, {SUMMARY: json.dumps(document, indent=1) + "\n"})
    if options.json:
        reports = {
            name: {part: form.model_dump(mode="json") for part, form in (("report", c.report), ("run", c.run_report))}
            for name, c in zip(names, results, strict=True)
        }
        print(json.dumps({**document, "reports": reports}))
    elif not options.quiet:
        _print(lines, document, results[0], output)
    if failed:
        raise VerificationError("HPCC4010", failed, where=str(output), hint="the bundle is kept for a look")
    return 0


def _accelerator(options: Options) -> Target:
    """The target. Raises UsageError for one of another kind, whose programs take several shapes as they are."""
    target = load_any_target(options.target)
    if not isinstance(target, Target):
        hint = "--shape input_ids:1x128: its program takes every length up to that"
        raise UsageError("HPCC2031", "a CPU program needs no buckets", hint=hint)
    return target


def _check(options: Options, buckets: Sequence[Shapes]) -> None:
    """Raises UsageError for what does not go with several shapes."""
    given = {
        "--emit": options.emit not in (None, "program"),
        "--check": options.check,
        "--list-layers": options.list_layers,
        "--from": options.start is not None,
        "--dump-stages": options.dump_stages is not None,
        "--inputs": options.inputs is not None,
        "--baseline": options.baseline is not None,
    }
    wrong = [name for name, used in given.items() if used]
    if wrong:
        hint = "give one shape, or --text in place of --inputs"
        raise UsageError("HPCC2035", f"{wrong[0]} does not go with several shapes", hint=hint)
    if len({tuple(sorted(shapes.items())) for shapes in buckets}) < len(buckets):
        raise UsageError("HPCC2033", "--shape names a bucket twice", hint="give every length once")


def _name(shapes: Shapes, buckets: Sequence[Shapes]) -> str:
    """What tells this shape from the others: `1x16`, of the first input whose shape differs."""
    first = next(name for name in shapes if len({tuple(other[name]) for other in buckets}) == len(buckets))
    return "x".join(map(str, shapes[first]))


def _lines(
    names: Sequence[str], buckets: Sequence[Shapes], results: Sequence[Compiled], histogram: Histogram | None
) -> list[Line]:
    lines: list[Line] = []
    low = 0
    for name, shapes, compiled in zip(names, buckets, results, strict=True):
        length = max(shape[-1] for shape in shapes.values())
        report = compiled.report
        lines.append(
            Line(
                name,
                length,
                report.cycles,
                report.latency.accelerator_ms,
                report.latency.transfer_ms,
                report.roofline.attained,
                report.instructions,
                histogram.between(low, length) if histogram is not None else None,
            )
        )
        low = length
    return lines


def summary(lines: Sequence[Line], histogram: Histogram | None, weight_bytes: int) -> dict[str, Any]:
    """buckets.json: every shape, and the mean over the histogram, beside that of the largest shape alone."""
    document: dict[str, Any] = {
        "schema_version": 1,
        "weight_bytes": weight_bytes,
        "buckets": [{**vars(line), "ms": line.ms} for line in lines],
        "histogram": None,
    }
    if histogram is not None:
        inside = sum(line.inputs or 0 for line in lines)
        mean = sum((line.inputs or 0) * line.ms for line in lines) / inside if inside else None
        document["histogram"] = {
            "source": histogram.source,
            "inputs": histogram.total,
            "too_long": histogram.total - inside,
            "mean_ms": mean,
            "largest_only_ms": lines[-1].ms,
        }
    return document


def _print(lines: Sequence[Line], document: Mapping[str, Any], first: Compiled, output: Path) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 132)
    report = first.report
    console.print(f"\n[bold]{report.model.name}[/] for [bold]{report.target.name}[/], {len(lines)} shapes\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    heads = ("bucket", "cycles", "accelerator ms", "with transfer", "attained", "instructions")
    counted = document["histogram"]
    for head in (*heads, *(("inputs", "share") if counted else ())):
        table.add_column(head, justify="left" if head == "bucket" else "right")
    inside = sum(line.inputs or 0 for line in lines) or 1
    for line in lines:
        cells = [
            line.name,
            f"{line.cycles:,}",
            ms_text(line.accelerator_ms),
            ms_text(line.ms),
            f"{line.attained:.0%}",
            f"{line.instructions:,}",
        ]
        if counted:
            cells += [f"{line.inputs:,}", share_text((line.inputs or 0) / inside)]
        table.add_row(*cells)
    console.print(table)
    if counted:
        mean = counted["mean_ms"]
        if mean is not None:
            largest = f"{ms_text(counted['largest_only_ms'])} ms if all ran in {lines[-1].name}"
            said = f"over {inside:,} inputs of {counted['source']} (simulated, without the host); {largest}"
            console.print(f"\n  mean       {ms_text(mean)} ms {said}")
        if counted["too_long"]:
            console.print(f"  too long   {counted['too_long']:,} inputs of more than {lines[-1].length} fit no bucket")
    console.print(f"\n  weights    {size_text(document['weight_bytes'])}, once for all shapes")
    console.print(f"  written    {output}/  (weights, {SUMMARY}, and for each shape its program and reports in buckets/)")
