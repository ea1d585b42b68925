"""`hpcc MODEL.onnx --target NAME`: the command line. Only parsing stands here; heavy imports wait until needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version

from compiler.tools.arguments import parse_buckets
from compiler.tools.options import EMIT_FORMS, UPSTREAM_FORMS, Options
from hw_targets.command_line import OneMore, Parser, guarded
from hw_targets.errors import UsageError


def installed_version() -> str:
    try:
        return version("hpcc")
    except PackageNotFoundError:
        return "0+unknown"


def build_parser() -> Parser:
    """The command line of DESIGN: what to compile, for what, what to write, what to check."""
    parser = Parser(
        prog="hpcc",
        description="Compile an ONNX transformer for a sparse accelerator, run it on a bit-exact simulator, compare it"
        " with ONNX Runtime, and say layer by layer what the zeros bought.",
        epilog="Exit status: 0 ok, 1 a file's content or the compilation is at fault, 2 the command line is,"
        " 3 infeasible on this target, 4 verification failed, 5 a tool or package is missing, 130 interrupted.",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="an .onnx file, or with --from a dumped .mlir file")
    what = parser.add_argument_group("what to compile")
    what.add_argument("--target", metavar="NAME|FILE.toml", help="the machine; --list-targets lists the shipped ones")
    what.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME:AxB",
        help="bind an input's shape, as input_ids:1x128; 'input_ids:1x{16,64,128}' (quoted) makes a program for each",
    )
    what.add_argument(
        "--length-histogram", metavar="FILE", help="with several shapes: counts by length (.npz, .json, .csv) for the mean"
    )
    what.add_argument(
        "--sparsity",
        default=None,
        metavar="SPEC",
        help="dense, nm:2:4, hp:0.75, hp:rows=64,window=32,keep=16,fine=2:4, block:4x1:0.75, row:0.5, column:0.75,"
        " unstructured:0.9, circulant:8, low_rank:0.75, monarch:4:0.75 (docs/PATTERNS.md); numbers are sparsity."
        " Default: auto, which takes the pattern that the weights already have and changes none",
    )
    what.add_argument("--recipe", metavar="FILE", help="patterns layer by layer, in TOML (docs/RECIPES.md)")
    what.add_argument(
        "--precision",
        default=None,
        metavar="P",
        help="of products: fp32 (default on CPUs), fp16 (on GPUs), bf16, or int8 (all that FPGAs have; on CPUs of x86)",
    )
    what.add_argument(
        "--storage",
        default="auto",
        metavar="FORMAT",
        help="storage format of the weights that it can hold, as csr or hp_mark (docs/FORMATS.md). Default: auto, the best"
        " of each by speed, load time and bytes",
    )
    data = parser.add_argument_group("inputs")
    data.add_argument("--inputs", metavar="FILE.npz", help="arrays by input name, the first axis counting samples")
    data.add_argument("--text", metavar="FILE", help="one sentence per line, tokenised with --tokenizer")
    data.add_argument("--tokenizer", metavar="tokenizer.json", help="a tokenizer file for --text")
    data.add_argument("--max-length", type=int, metavar="N", help="cut texts after N tokens (default: the shape's)")
    checks = parser.add_argument_group("checks")
    checks.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare the simulated result with ONNX Runtime on the same weights (default: yes)",
    )
    checks.add_argument("--rtol", type=float, default=0.0, metavar="R", help="verification: relative tolerance")
    checks.add_argument("--atol", type=float, default=None, metavar="A", help="verification: absolute tolerance")
    checks.add_argument("--verify-each", action="store_true", help="execute and compare after every stage")
    checks.add_argument(
        "--baseline", metavar="dense|BUNDLE", help="compare with the dense model on this target, or with an older bundle"
    )
    checks.add_argument("--check", action="store_true", help="only say what would run on the host, and why")
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", metavar="DIR", help="the bundle (default: MODEL.TARGET.PATTERN.hpcc)")
    output.add_argument("--emit", metavar="FORM", help=f"stop early and print: {', '.join(EMIT_FORMS)}")
    output.add_argument("--from", dest="start", metavar="STAGE", help="go on from a dumped stage")
    output.add_argument(
        "--pass-after", action=OneMore, default=(), metavar="STAGE:PASS", help="run a pass more at the end of a stage"
    )
    output.add_argument("--timing-only", action="store_true", help="count cycles, compute no values")
    output.add_argument("--dump-stages", metavar="DIR", help="write the module after every stage, weights beside it")
    output.add_argument("--time-passes", action="store_true", help="print what each stage took")
    output.add_argument("--print-pipeline", action="store_true", help="print the passes of every stage and stop")
    output.add_argument("--list-targets", action="store_true", help="list the shipped targets and stop")
    output.add_argument("--list-layers", action="store_true", help="list the model's layers by role and stop")
    output.add_argument("--explain", metavar="CODE", help="say what the error of a code means, as HPCC1004, and stop")
    output.add_argument("--json", action="store_true", help="print results as JSON")
    output.add_argument("-v", "--verbose", action="store_true", help="say more")
    output.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    output.add_argument("--debug", action="store_true", help="show a traceback with an error")
    output.add_argument("--version", action="store_true", help="print the version and stop")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return guarded(build_parser(), _run, argv)


def _run(options: argparse.Namespace) -> int:
    if options.version:
        print(f"hpcc {installed_version()}")
        return 0
    if options.list_targets:
        return _list_targets(as_json=options.json)
    if options.explain is not None:
        from hw_targets.error_catalogue import explain

        print(explain(options.explain).text())
        return 0
    if options.print_pipeline:
        return _print_pipeline(options)
    if options.model is None:
        raise UsageError("HPCC2003", "no model given", hint="hpcc MODEL.onnx --target fpga-u280")
    if options.emit in UPSTREAM_FORMS:
        from compiler.tools.upstream import run_upstream

        return run_upstream(_what_to_do(options, parse_buckets(options.shape)[0]), parse_buckets(options.shape))
    if options.target is None:
        raise UsageError("HPCC2008", "no target given", hint="--target fpga-u280; `hpcc --list-targets` lists them")
    buckets = parse_buckets(options.shape)
    what = _what_to_do(options, buckets[0])
    if len(buckets) > 1:
        from compiler.tools.bucket_session import run_buckets

        return run_buckets(what, buckets)
    if what.length_histogram is not None:
        hint = "--shape 'input_ids:1x{16,64,128}'"
        raise UsageError("HPCC2034", "--length-histogram needs several shapes to weigh", hint=hint)
    from compiler.tools.session import run_command

    return run_command(what)


def _what_to_do(arguments: argparse.Namespace, shapes: Mapping[str, tuple[int, ...]]) -> Options:
    """The parsed arguments that a run needs, without those that only this module acts on."""
    known = {field.name for field in fields(Options)}
    values = {name: value for name, value in vars(arguments).items() if name in known}
    return Options(shapes=shapes, **values)


def _list_targets(*, as_json: bool) -> int:
    from hw_targets.catalogue import list_targets

    rows = list_targets()
    if as_json:
        import json

        print(json.dumps([{"name": name, "kind": kind, "summary": summary} for name, kind, summary in rows], indent=2))
        return 0
    width = max(len(name) for name, _, _ in rows)
    for name, kind, summary in rows:
        print(f"{name:<{width}}  {kind:<5} {summary}")
    return 0


def _print_pipeline(options: argparse.Namespace) -> int:
    from compiler.pipelines import PIPELINES
    from compiler.tools.passes_after import passes_after
    from hw_targets.load import load_any_target
    from hw_targets.target import Target

    target, sparsity = options.target or "fpga-u280", options.sparsity or "auto"
    machine = load_any_target(target)
    stages = PIPELINES[machine.kind]
    more = passes_after(options.pass_after, [stage.name for stage in stages if stage.passes])
    for stage in stages:
        text = stage.pipeline(
            target=target,
            sparsity=sparsity,
            precision=options.precision or "fp32",
            storage=options.storage,
            streaming=machine.accelerator.design.streaming_shift if isinstance(machine, Target) else None,
        )
        told = ",".join(filter(None, (text, more.get(stage.name))))
        print(f"{stage.name:<9} {told or '(the ONNX importer)'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
