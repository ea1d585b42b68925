"""`python -m benchmarks.boards [MODEL ...]`: models on every shipped board, dense and pruned: latency and attained.

Only cycles are counted, so the table depends on no machine; every figure is simulated. `--write` makes docs/BOARDS.md.
Models are names of workloads or ONNX files; those that need torch to be made are left out where it is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.pages import page_of, sections_of
from benchmarks.workloads import generated_model, l3_model, l6_model
from compiler.tools.variants import prepare
from hw_targets.catalogue import list_targets
from hw_targets.errors import HpccError, InfeasibleError
from hw_targets.load import load_target

BOARDS = tuple(name for name, kind, _ in list_targets() if kind == "fpga")
MODELS = {"l3": "L3", "tinybert4": "TinyBERT-4L", "l6": "L6", "tinybert6": "TinyBERT-6L", "bertbase": "BERT-base"}
PATTERNS = ("dense", "hp:0.75")
OWN = "†"
"""Marks an array that was sized for the pattern."""
PAGE = Path(__file__).resolve().parents[1] / "docs" / "BOARDS.md"
INTRODUCTION = """# Models on every board

Made by `python -m benchmarks.boards --write`; every figure is **simulated**. Milliseconds are those of the accelerator,
transfers to and from the host apart. *Attained* is the longest of what MATRIX (the multiplications that the pattern
leaves, without padding), VECTOR and the off-chip memory need alone, by the time simulated; *binds* says which of them it
is. MAC/cycle and lanes are those of the array for all patterns; a dagger marks figures of one that the compiler sized for
the pattern instead. L3 is paraphrase-MiniLM-L3-v2, L6 all-MiniLM-L6-v2; TinyBERT and BERT-base have random weights, on which
cycles do not depend. The sizes of the boards are in [TARGETS.md](TARGETS.md).
"""


def model_path(name: str) -> Path:
    """The file of a workload's name, or of a path. Raises HpccError where it cannot be made."""
    if name == "l3":
        return l3_model()
    if name == "l6":
        return l6_model()
    return generated_model(name) if name in MODELS else Path(name)


def rows(model: str, shape: tuple[int, ...], boards: Sequence[str], patterns: Sequence[str]) -> Iterator[str]:
    """A table of Markdown: one line for every board; for every pattern milliseconds, the share attained, what binds."""
    path = model_path(model)
    prepared = [prepare(path, {"input_ids": shape}, pattern) for pattern in patterns]
    heads = "".join(f" {pattern}: ms | attained | binds |" for pattern in patterns)
    yield f"| board | MAC/cycle | lanes | MHz |{heads}"
    yield "|---|---|---|---|" + "---|---|---|" * len(patterns)
    for board in boards:
        common = load_target(board)
        array = common.accelerator
        line = f"| {board} | {array.macs_per_cycle:,} | {array.lanes} | {common.clock.mhz:g} |"
        for one in prepared:
            try:
                variant = one.on(one.machine(board))
            except InfeasibleError:
                line += " does not fit | | |"
                continue
            found = variant.roofline
            bounds = {"matrix": found.matrix_ms, "vector": found.vector_ms, "memory": found.memory_ms}
            binds = max(bounds, key=lambda unit: bounds[unit])
            own = OWN if variant.target.workload is not None else ""
            line += f" {variant.milliseconds:.3f}{own} | {found.attained:.2f} | {binds} |"
        yield line


def heading(model: str, shape: tuple[int, ...]) -> str:
    return f"## {MODELS.get(model, Path(model).name)}, {' x '.join(map(str, shape))} tokens"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boards", description="Models on every board.")
    parser.add_argument("models", nargs="*", default=tuple(MODELS), help=f"names or files (default {' '.join(MODELS)})")
    parser.add_argument("--shape", default="1x128", help="batch x tokens (default 1x128)")
    parser.add_argument("--boards", nargs="+", default=BOARDS, help="default: all")
    parser.add_argument("--patterns", nargs="+", default=PATTERNS, help=f"default: {' '.join(PATTERNS)}")
    parser.add_argument("--write", action="store_true", help="also into docs/BOARDS.md, whose other tables stay")
    options = parser.parse_args()
    shape = tuple(int(extent) for extent in options.shape.split("x"))
    made = sections_of(PAGE.read_text(encoding="utf-8")) if options.write else {}
    for model in options.models:
        lines = [heading(model, shape), ""]
        print("\n".join(("", *lines)), flush=True)
        try:
            for line in rows(model, shape, options.boards, options.patterns):
                lines.append(line)
                print(line, flush=True)
        except HpccError as error:
            print(f"{model}: skipped, {error.message}", file=sys.stderr)
            continue
        made[lines[0]] = "\n".join(lines)
    if options.write:
        PAGE.write_text(page_of(INTRODUCTION, made), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
