"""What triggers the errors of bundles of several shapes: one function a golden line of tests/golden/errors.txt."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle import BUCKETS, MANIFEST
from runtime.cli import main_run
from tests.e2e.harness import call, hpcc
from tests.graphs import Encoder, write

Case = Callable[[Path, pytest.MonkeyPatch], object]
SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50, position="sliced")
MASKLESS = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50, mask="none", position="sliced")


def model(folder: Path, spec: Encoder = SMALL) -> Path:
    return write(spec, folder / "model.onnx", 1, 7, symbolic=True)


def compiling(*arguments: str) -> Case:
    """The command line for a model of any shape."""

    def run(folder: Path, _: pytest.MonkeyPatch) -> object:
        (folder / "text.txt").write_text("no lengths here\n")
        (folder / "none.csv").write_text("length,count\n8,0\n")
        return hpcc(model(folder).name, "--target", "fpga-zcu104", *arguments)

    return run


@cache
def shelf(spec: Encoder) -> Path:
    """A bundle of two shapes, made once."""
    folder = Path(tempfile.mkdtemp(prefix="hpcc-buckets-"))
    options = ("--target", "fpga-zcu104", "--shape", "input_ids:1x{4,8}", "--timing-only", "-q")
    done = hpcc(model(folder, spec), *options, "-o", folder / "b.hpcc")
    assert (done.status, done.err) == (0, "")
    return folder / "b.hpcc"


def running(tokens: int, spec: Encoder = SMALL, spoil: Callable[[Path], object] = lambda _: None) -> Case:
    """hpcc-run of one sample of so many tokens, after something has happened to the bundle."""

    def run(folder: Path, _: pytest.MonkeyPatch) -> object:
        shutil.copytree(shelf(spec), folder / "b.hpcc")
        spoil(folder / "b.hpcc")
        ids = np.ones((1, tokens), np.int64)
        names = ("input_ids", "attention_mask", "token_type_ids")[: 3 if spec is SMALL else 1]
        extra = () if spec is SMALL else ("token_type_ids",)
        arrays = {name: ids if name != "token_type_ids" else ids * 0 for name in (*names, *extra)}
        np.savez(folder / "in.npz", **arrays)
        return call(main_run, "b.hpcc", "--inputs", "in.npz")

    return run


def edited(bundle: Path) -> None:
    document = json.loads((bundle / MANIFEST).read_text())
    document["buckets"] = document["buckets"][:1]
    (bundle / MANIFEST).write_text(json.dumps(document))


def mixed(bundle: Path) -> None:
    """The program of the larger shape in the place of the smaller one's."""
    shutil.rmtree(bundle / BUCKETS / "1x4")
    shutil.copytree(bundle / BUCKETS / "1x8", bundle / BUCKETS / "1x4")


def wrong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """A reference that finds every integer different."""
    from compiler.tools.fpga_session import FpgaSession

    monkeypatch.setattr(FpgaSession, "_bit_exact", lambda *_: False)
    shapes = ("--shape", "input_ids:1x{4,8}", "-q", "-o", "out.hpcc")
    return hpcc(model(folder).name, "--target", "fpga-zcu104", *shapes)


LISTED = ("--shape", "input_ids:1x{4,8}")
CASES: dict[str, Case] = {
    "buckets: braces of different lengths": compiling(*LISTED, "--shape", "attention_mask:1x{4,8,12}"),
    "buckets: too many": compiling("--shape", f"input_ids:1x{{{','.join(map(str, range(1, 66)))}}}"),
    "buckets: for a CPU": compiling(*LISTED, "--target", "cpu-avx2"),
    "buckets: and a stage": compiling(*LISTED, "--emit", "tile"),
    "buckets: one twice": compiling("--shape", "input_ids:1x{8,8}"),
    "buckets: lengths without them": compiling("--shape", "input_ids:1x8", "--length-histogram", "none.csv"),
    "buckets: no file of lengths": compiling(*LISTED, "--length-histogram", "nowhere.csv"),
    "buckets: lengths of another kind": compiling(*LISTED, "--length-histogram", "text.txt"),
    "buckets: lengths that count nothing": compiling(*LISTED, "--length-histogram", "none.csv"),
    "buckets: verification": wrong,
    "buckets: edited": running(4, spoil=edited),
    "buckets: one of another bundle": running(4, spoil=mixed),
    "buckets: input longer than all": running(9),
    "buckets: shorter input without a mask": running(3, MASKLESS),
}
