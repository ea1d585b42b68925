"""What a case is, and what its maker has at hand."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.corpus import FPGA


@dataclass(frozen=True)
class Case:
    """One command, run inside `folder`. What it may write lies below one of `outputs`, relative to the folder."""

    name: str
    tool: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workshop:
    """What a maker of cases has at hand; `folder` is the case's own, with files of nobody else."""

    random: Random
    corpus: Path
    folder: Path

    def pick(self, pattern: str) -> Path:
        return self.random.choice(sorted(self.corpus.glob(pattern)))

    def take(self, pattern: str, name: str) -> Path:
        """A copy of a file or folder of the corpus."""
        source, copy = self.pick(pattern), self.folder / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy)
        return copy

    def older(self) -> None:
        """Half of the time there is a bundle in the output's place already."""
        if self.random.random() < 0.5:
            self.take("fpga/*.hpcc", "out.hpcc")

    def ways(self, target: str) -> list[str]:
        """Options that decide how far hpcc goes."""
        stage = self.random.choice(["import", "fuse", "sparsify", "quantize", "encode", "tile", "schedule", "emit"])
        fpga = [
            ["--check"], ["--list-layers"], ["--emit", stage], ["--emit", "asm"], ["--timing-only"], ["--emit", "program"],
            [], [], ["--no-verify"], ["--check", "--json"], ["--verify-each", "--timing-only"], ["--json", "--no-verify"],
            ["--emit", "program", "--dump-stages", "stages"],
        ]  # fmt: skip
        cpu = [["--check"], ["--list-layers"], ["--emit", "c"], ["--emit", "c"], ["--emit", "fuse"]]
        return self.random.choice(fpga if target == FPGA else cpu)

    def sparsity(self) -> list[str]:
        specs = ["dense", "nm:2:4", "hp:0.75", "block:4x1:0.75", "unstructured:0.9", "nm:1:16", "hp:0.9", "auto"]
        return ["--sparsity", self.random.choice(specs)] if self.random.random() < 0.6 else []


OUT = ("-o", "out.hpcc")
OUTPUTS = ("out.hpcc", "stages")
