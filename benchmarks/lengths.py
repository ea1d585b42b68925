"""`python -m benchmarks.lengths`: instructions, bytes and cycles over sequence lengths and batches, one line each.

The model is one encoder layer of MiniLM's width (384, 12 heads, 1,536) with made-up weights: cycles depend on shapes and
pattern only. Every figure is counted by the simulator's timing, which depends on no machine.
`stored` instructions are the program's, `executed` those after its loops are unrolled. `--write` puts the table into
docs/BOARDS.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.boards import INTRODUCTION, PAGE
from benchmarks.pages import heading_of, page_of, sections_of
from compiler.tools.variants import prepare
from hw_targets.errors import InfeasibleError
from tests.graphs import Encoder, write

LENGTHS = (8, 32, 128, 512, 1024, 2048, 4096)
BATCHES = (1, 2, 8, 32)
AT_BATCHES = 128
"""Tokens of a sequence where batches are compared."""
BOARDS = ("fpga-u280", "fpga-pynq-z2")
HEAD = ("board", "batch", "length", "stored", "executed", "bytes moved", "cycles", "cycles/token", "attained")


SECTION = """## Lengths and batches

Made by `python -m benchmarks.lengths --write`: one encoder layer of MiniLM's width (384, 12 heads, 1,536), {pattern}.
*Stored* instructions are the program's, *executed* those after its loops are unrolled. Linears grow with the tokens,
attention with their square: cycles per token grow by a line. Beyond 512 keys a probability takes two bytes, and its
product twice the cycles.
"""


def line(folder: Path, board: str, pattern: str, batch: int, length: int) -> tuple[str, ...]:
    """What one shape takes on a board; the cells of HEAD."""
    layer = Encoder(hidden=384, heads=12, intermediate=1536, layers=1, positions=max(LENGTHS))
    prepared = prepare(write(layer, folder / "layer.onnx", batch, length), {}, pattern)
    try:
        variant = prepared.on(prepared.machine(board))
    except InfeasibleError as error:
        return (board, str(batch), str(length), f"does not fit: {error.message}")
    timing, counts = variant.timing, (len(variant.parts.instructions), len(variant.expanded))
    moved = timing.bytes_loaded + timing.bytes_stored
    figures = (*counts, moved, timing.total, timing.total // (batch * length))
    return (board, str(batch), str(length), *(f"{n:,}" for n in figures), f"{variant.roofline.attained:.2f}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lengths", description="One layer over lengths and batches.")
    parser.add_argument("--boards", nargs="+", default=BOARDS, help=f"default: {' '.join(BOARDS)}")
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS, help="at batch 1 (default 8 to 4096)")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, help=f"at length {AT_BATCHES} (default 1 to 32)")
    parser.add_argument("--pattern", default="hp:0.75", help="default hp:0.75")
    parser.add_argument("--write", action="store_true", help="also into docs/BOARDS.md")
    options = parser.parse_args(arguments)
    shapes = [(1, length) for length in options.lengths] + [(batch, AT_BATCHES) for batch in options.batches]
    widths = (14, 5, 6, 7, 9, 12, 12, 12, 8)
    print(f"one layer, 384 wide, {options.pattern}, simulated")
    print(" ".join(f"{head:>{width}}" for head, width in zip(HEAD, widths, strict=True)))
    rows = [HEAD, ("---",) * len(HEAD)]
    with tempfile.TemporaryDirectory(prefix="hpcc-bench-") as name:
        for board in options.boards:
            for batch, length in dict.fromkeys(shapes):
                cells = line(Path(name), board, options.pattern, batch, length)
                print(" ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=False)), flush=True)
                rows.append(cells)
    if options.write:
        page = sections_of(PAGE.read_text(encoding="utf-8"))
        section = SECTION.format(pattern=options.pattern)
        page[heading_of(section)] = "\n".join([section, *(f"| {' | '.join(cells)} |" for cells in rows)])
        PAGE.write_text(page_of(INTRODUCTION, page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
