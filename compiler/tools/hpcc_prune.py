"""`hpcc-prune MODEL.onnx --pattern SPEC [--train X.npz] -o OUT.onnx`: the command line, parsing and printing alone."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from compiler.tools.arguments import parse_shapes
from compiler.tools.pruning.options import ALLOCATIONS, METHODS, PruneOptions
from compiler.tools.training.options import TrainOptions, refuse_mixtures
from hw_targets.command_line import Parser, guarded
from hw_targets.errors import UsageError

if TYPE_CHECKING:
    from compiler.tools.pruning.session import Pruned
    from compiler.tools.training.session import Trained


def build_parser() -> Parser:
    """What to prune, how, on which data, and where to."""
    parser = Parser(
        prog="hpcc-prune",
        description="Prune an ONNX transformer, in one shot or with training: the same graph, node for node, with zeros in"
        " its weights. The file runs anywhere; hpcc takes the pattern from it.",
        epilog="Exit status: 0 ok, 1 a file's content is at fault, 2 the command line is, 5 a tool or package is missing,"
        " 130 interrupted.",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL.onnx", help="the model to prune; it stays as it is")
    parser.add_argument("-o", "--output", metavar="OUT.onnx", help="the pruned model")
    what = parser.add_argument_group("what becomes zero")
    what.add_argument(
        "--pattern",
        metavar="SPEC",
        help="nm:2:4, hp:0.75, hp:rows=64,window=32,keep=24,fine=2:4, block:4x1:0.75, unstructured:0.9; numbers are zeros",
    )
    what.add_argument("--recipe", metavar="FILE", help="patterns layer by layer: TOML, or SparseML's YAML (docs/RECIPES.md)")
    what.add_argument("--target", metavar="NAME|FILE.toml", help="resolves hp:S for this target (default: FPGAs)")
    what.add_argument(
        "--scope",
        action="append",
        default=[],
        metavar="GLOB",
        help="roles, nodes or initializers to prune, as 'layer.*.ffn.*' (default: the linears inside the blocks)",
    )
    what.add_argument(
        "--allocate",
        default="uniform",
        metavar="A",
        help=f"{' or '.join(ALLOCATIONS)}: each tensor alike, or by measured sensitivity with at least as many zeros",
    )
    how = parser.add_argument_group("how it is chosen, without training")
    how.add_argument(
        "--method",
        metavar="M",
        help=f"{', '.join(METHODS)} (default: second-order with calibration data, else magnitude); random is a control",
    )
    how.add_argument("--calibrate", metavar="FILE.npz", help="arrays by input name, the first axis counting samples")
    how.add_argument("--text", metavar="FILE", help="one sentence per line, tokenised with --tokenizer")
    how.add_argument("--tokenizer", metavar="tokenizer.json", help="a tokenizer file for --text")
    how.add_argument("--max-length", type=int, metavar="N", help="cut texts after N tokens")
    how.add_argument("--seed", type=int, default=0, metavar="S", help="of --method random, and of the samples' order")
    how.add_argument(
        "--shape", action="append", default=[], metavar="NAME:AxB", help="bind an input's shape where no data does"
    )
    _add_training(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--list-layers", action="store_true", help="list the layers with roles, nodes, tensors and stop")
    output.add_argument("--json", action="store_true", help="print the result as JSON")
    output.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    output.add_argument("--debug", action="store_true", help="show a traceback with an error")
    output.add_argument("--version", action="store_true", help="print the version and stop")
    return parser


def _add_training(parser: Parser) -> None:
    train = parser.add_argument_group("training (needs torch: pip install 'hpcc[train]'; docs/TRAINING.md)")
    train.add_argument("--train", metavar="X.npz", help="samples by input name, and `labels`: train under the pattern")
    train.add_argument("--dev", metavar="Y.npz", help="samples that choose among the states of the last fifth of the steps")
    train.add_argument("--loss", metavar="L", help="labels, or distill: the distance to a dense teacher (default)")
    train.add_argument("--logits", metavar="NAME", help="the output with a row of scores for each sample")
    train.add_argument("--teacher", metavar="MODEL.onnx", help="the dense teacher (default: the model as it is)")
    train.add_argument("--steps", type=int, metavar="N", help="batches to train on; a ladder's rungs share them")
    train.add_argument("--ladder", metavar="A,B,C", help="patterns one after another, as 4:8,2:8,1:8, in place of --pattern")
    train.add_argument("--batch", type=int, metavar="N", help="samples in a step (default: 32)")
    train.add_argument("--rate", type=float, metavar="R", help="peak learning rate (default: 1e-4)")
    train.add_argument("--gradual", type=float, metavar="G", help="share of the steps in which weights go (default: 0.5)")
    train.add_argument("--regulariser", type=float, metavar="R", help="pull of masked weights to zero (default: 2)")
    train.add_argument("--threads", type=int, metavar="N", help="threads of torch (default: all)")
    train.add_argument("--resume", metavar="DIR", help="keep checkpoints there, and go on from the last one")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return guarded(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.version:
        from compiler.tools.hpcc import installed_version

        print(f"hpcc {installed_version()}")
        return 0
    if arguments.model is None:
        raise UsageError("HPCC2268", "no model given", hint="hpcc-prune MODEL.onnx --pattern nm:2:4 -o OUT.onnx")
    refuse_mixtures(vars(arguments))
    if arguments.train is not None and not arguments.list_layers:
        return _train(TrainOptions(**_named(arguments, TrainOptions)), as_json=arguments.json)
    options = PruneOptions(**_named(arguments, PruneOptions), shapes=parse_shapes(arguments.shape))
    from compiler.tools.pruning.session import PruneSession

    session = PruneSession(options)
    try:
        pruned = session.run()
        if options.output is not None and not options.list_layers:
            session.progress.start("write")
            pruned.save(options.output)
    finally:
        session.progress.stop()
    if options.json:
        print(json.dumps(pruned.as_dict()))
    elif options.list_layers:
        _print_layers(pruned)
    elif not options.quiet:
        _print_summary(pruned, options)
    return 0


def _named(arguments: argparse.Namespace, options: type[PruneOptions | TrainOptions]) -> dict[str, Any]:
    """What the command line says, by the names of the options' fields."""
    known = {field.name for field in fields(options)}
    values = {name: value for name, value in vars(arguments).items() if name in known}
    return values | {"scope": tuple(arguments.scope)}


def _train(options: TrainOptions, *, as_json: bool) -> int:
    from compiler.tools.training.session import train

    trained = train(options)
    if as_json:
        print(json.dumps(trained.as_dict()))
    elif not options.quiet:
        _print_trained(trained, options)
    return 0


def _print_trained(trained: Trained, options: TrainOptions) -> None:
    settings = options.settings()
    for rung in trained.written:
        done = rung.done
        print(f"  pattern    {done.pattern.describe()} in {len(done.roles)} matrices")
        print(f"  zeros      {done.zeros:,}")
        if done.score is not None:
            what = "accuracy" if done.by_accuracy else "minus the loss"
            print(f"  dev        {what} {done.score:.4f}, after step {done.chosen + 1}")
        print(f"  written    {rung.path}")
    steps = f"{settings.steps} steps of {settings.batch} samples"
    print(f"  method     SR-STE, {steps}, loss {settings.loss}, seed {settings.seed}")
    for role, reason in trained.left_dense.items():
        print(f"  dense      {role}: {reason}")
    for note in trained.notes:
        print(f"  note       {note}")


def _print_layers(pruned: Pruned) -> None:
    rows = [(layer.role, f"{layer.outs}x{layer.ins}", layer.node, ", ".join(layer.tensors)) for layer in pruned.layers]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for role, size, node, tensors in rows:
        print(f"{role:<{widths[0]}}  {size:>{widths[1]}}  {node:<{widths[2]}}  {tensors}")


def _print_summary(pruned: Pruned, options: PruneOptions) -> None:
    layers = [layer for layer in pruned.pruned if not layer.tied_to]
    by_pattern: dict[str, list[str]] = {}
    for layer in layers:
        by_pattern.setdefault(layer.pattern.describe(), []).append(layer.role)
    for words, roles in by_pattern.items():
        where = f"{len(roles)} matrices" if len(roles) > 3 else ", ".join(roles)
        print(f"  pattern    {words} in {where}")
    count = sum(layer.outs * layer.ins for layer in layers)
    zeros = sum(layer.zeros for layer in layers)
    print(f"  zeros      {zeros:,} of {count:,} weights, {pruned.sparsity:.2%}")
    extra = sum(layer.zero_numbers - layer.zeros for layer in layers)
    if extra:
        print(f"             {extra:,} of the weights that stay are 0 too")
    methods = sorted({layer.method for layer in layers})
    data = f", {pruned.data}: {pruned.tokens:,} tokens" if pruned.tokens else ""
    print(f"  method     {', '.join(methods)}, {options.allocate} allocation{data}; no training")
    if any(layer.pattern.sharing for layer in layers):
        print("  note       shared weights are a projection only: their accuracy needs training")
    for layer in pruned.layers:
        if layer.left_dense:
            print(f"  dense      {layer.role}: {layer.left_dense}")
    for note in pruned.notes:
        print(f"  note       {note}")
    print(f"  written    {options.output}")


if __name__ == "__main__":
    sys.exit(main())
