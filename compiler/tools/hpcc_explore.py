"""`hpcc-explore MODEL.onnx --max-latency 5ms --min-accuracy 0.82 --task TASK.toml`: only parsing and printing stand here."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from compiler.explore.selection import Objective
from compiler.tools.arguments import parse_shapes
from compiler.tools.exploring.options import (
    FAMILIES,
    METHODS,
    SAMPLERS,
    ExploreOptions,
    parse_costs,
    parse_latency,
    parse_list,
)
from hw_targets.command_line import Parser, guarded
from hw_targets.errors import UsageError

if TYPE_CHECKING:
    from compiler.tools.exploring.report import Exploration, RejectedPart, TrialPart


def build_parser() -> Parser:
    """The limits, what may be tried, how it is searched, where to."""
    parser = Parser(
        prog="hpcc-explore",
        description="Find the device, and the sparsity, that meet a latency and an accuracy limit. An interrupted search is"
        " taken up again by the same command.",
        epilog="Exit status: 0 ok, 1 a file's content is at fault, 2 the command line is, 3 no device meets both limits,"
        " 4 the winner's bundle is wrong, 5 a tool or package is missing, 130 interrupted.",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL.onnx", help="the dense model; it stays as it is")
    limits = parser.add_argument_group("what must hold")
    limits.add_argument("--task", metavar="TASK.toml", help="data and metric (docs/EXPLORE.md)")
    limits.add_argument("--max-latency", metavar="T", help="of a batch, transfer and host included: 5ms, 800us")
    limits.add_argument(
        "--min-accuracy", type=float, metavar="A", help="by the task's metric; its lower bound on dev must reach it"
    )
    limits.add_argument(
        "--objective", default=Objective.CHEAPEST.value, metavar="O", help=f"{', '.join(Objective)} (default: cheapest)"
    )
    what = parser.add_argument_group("what may be tried")
    what.add_argument(
        "--targets", default="fpga-*", metavar="LIST", help="names, globs, .toml files, or all (default: fpga-*)"
    )
    what.add_argument(
        "--patterns", default="hp,nm", metavar="LIST", help=f"families ({', '.join(FAMILIES)}) or patterns (default: hp,nm)"
    )
    what.add_argument(
        "--mixed", action="store_true", help="attention and feed-forward matrices may take different patterns of a family"
    )
    what.add_argument("--cost", action="append", default=[], metavar="NAME=CLASS", help="overrule a device's cost class")
    what.add_argument("--method", metavar="M", help=f"{', '.join(METHODS)} (default: second-order with a train split)")
    what.add_argument(
        "--train-steps", type=int, metavar="N", help="fine-tune what may win, N steps a rung (default: the task's; else 0)"
    )
    what.add_argument("--controls", action="store_true", help="try random zeros too; they are reported, never chosen")
    what.add_argument(
        "--shape", action="append", default=[], metavar="NAME:AxB", help="bind an input (default: one text of the task)"
    )
    how = parser.add_argument_group("how it is searched")
    how.add_argument("--budget", type=int, default=200, metavar="N", help="candidates; a space that is larger is sampled")
    how.add_argument("--sampler", default="tpe", metavar="S", help=f"{' or '.join(SAMPLERS)}, of larger spaces")
    how.add_argument("--seed", type=int, default=0, metavar="S", help="of the sampler")
    how.add_argument("--workers", type=int, default=1, metavar="N", help="local worker processes (default: none, in turn)")
    how.add_argument("--dask", metavar="ADDRESS", help="run on a Dask cluster that shares this file system")
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o", "--output", default="explore", metavar="DIR", help="journal, answer, bundle (default: explore)"
    )
    output.add_argument("--json", action="store_true", help="print explore.json")
    output.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    output.add_argument("--debug", action="store_true", help="show a traceback with an error")
    output.add_argument("--version", action="store_true", help="print the version and stop")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return guarded(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.version:
        from compiler.tools.hpcc import installed_version

        print(f"hpcc {installed_version()}")
        return 0
    for name in ("model", "task", "max_latency", "min_accuracy"):
        if getattr(arguments, name) is None:
            what = "no model" if name == "model" else f"no --{name.replace('_', '-')}"
            hint = "hpcc-explore MODEL.onnx --task TASK.toml --max-latency 5ms --min-accuracy 0.82"
            raise UsageError("HPCC2280", f"{what} given", hint=hint)
    known = {field.name for field in fields(ExploreOptions)}
    values = {name: value for name, value in vars(arguments).items() if name in known}
    values |= {
        "max_latency": parse_latency(arguments.max_latency),
        "targets": parse_list(arguments.targets),
        "patterns": parse_list(arguments.patterns),
        "costs": parse_costs(arguments.cost),
        "shapes": parse_shapes(arguments.shape),
    }
    options = ExploreOptions(**values)
    from compiler.tools.exploring.run import explore

    explored = explore(options)
    if options.json:
        print(json.dumps(explored.exploration.model_dump(mode="json")))
    elif not options.quiet:
        _print_summary(explored.exploration, str(explored.folder))
    explored.raise_if_infeasible()
    return 0


def _print_summary(answer: Exploration, folder: str) -> None:
    counts, winner = answer.counts, answer.winner
    print(f"{answer.model.name}, {answer.task.name}: {answer.task.metric} on {answer.task.dev} dev samples")
    looked = f"{counts.dev} prunings on dev, {counts.subset} ruled out on a subset, {counts.estimate} by the estimate"
    looked += f", {counts.trained} trained" if answer.training is not None else ""
    print(f"  tried      {counts.timed} candidates on {len(answer.space.devices)} devices; {looked}")
    for problem in answer.problems:
        print(f"  failed     {problem}")
    if winner is not None and winner.trial.accuracy is not None:
        trial, score, test = winner.trial, winner.trial.accuracy, winner.test
        print(f"  chosen     {_short(trial.device)} with {trial.pattern}: the {answer.objective}, cost class {trial.cost:g}")
        print(f"  latency    {trial.latency_ms:.3f} ms ({_parts(trial)}), {winner.latency_margin_ms:.3f} ms below the limit")
        how = f", trained; {trial.one_shot.value:.4f} before" if trial.one_shot is not None else ""
        print(f"  dev        {score.value:.4f}, at least {score.low:.4f}: {winner.accuracy_margin:.4f} above the limit{how}")
        print(f"  test       {test.value:.4f}, at least {test.low:.4f}; read once ({test.count} samples)")
    print("\n  front (latency, accuracy, cost class, bytes)")
    for trial in answer.front:
        value = trial.accuracy.value if trial.accuracy is not None else float("nan")
        figures = (
            f"{trial.latency_ms:9.3f} ms {trial.latency_is}  {value:.4f}  {trial.cost:g}  {(trial.bytes or 0) / 1e6:7.2f} MB"
        )
        print(f"    {figures}  {_short(trial.device)} {trial.pattern}")
    if answer.rejected:
        print("\n  other devices")
        width = max(len(_short(entry.device)) for entry in answer.rejected)
        for entry in answer.rejected:
            print(f"    {_short(entry.device):<{width}}  {_why(entry)}")
    if winner is not None:
        print("\n  to build it again")
        for command in winner.commands:
            print(f"    {command}")
    print(f"\n  written    {folder}: explore.html, explore.json" + (", winner.hpcc" if winner is not None else ""))


def _parts(trial: TrialPart) -> str:
    """Where a latency comes from."""
    if trial.latency_is == "measured":
        return f"measured on this machine, its quartiles {trial.spread_ms:.3f} apart"
    parts = f"accelerator {trial.accelerator_ms:.3f} simulated, transfer {trial.transfer_ms:.3f}"
    return f"{parts}, host {trial.host_ms:.3f}" + (" measured" if trial.host_ms else "")


def _short(device: str) -> str:
    return device.rsplit("/", 1)[-1]


def _why(entry: RejectedPart) -> str:
    nearest = f" ({entry.nearest})"
    if entry.failed == "objective":
        return f"meets both limits, another is better{nearest}"
    if entry.by is None or entry.needs is None:
        return f"{entry.failed}: {entry.reason}"
    if entry.failed == "latency":
        return f"latency: {entry.needs:.3f} ms, {entry.by:.3f} ms too slow{nearest}"
    return f"accuracy: at least {entry.needs:.4f}, {entry.by:.4f} too low{nearest}"


if __name__ == "__main__":
    sys.exit(main())
