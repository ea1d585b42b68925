"""Errors of GPU targets and bundles; see test_error_codes.py. None needs torch, triton or a GPU."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import benchmarks.gpu
from runtime.cli import main_run
from runtime.gpu import program as programs
from runtime.gpu.manifest import GpuManifest
from runtime.gpu.program import INTERPRETER, GpuProgram
from runtime.steps.manifest import parse_manifest
from tests.e2e.error_cases_compiler import BEFORE_TILING, Case, folded_ids, opt, small, two_shapes
from tests.e2e.harness import TARGET, call

MISSING = ("torch", "triton")
IDS = np.ones((2, 7), np.int64)
FEEDS = {"input_ids": IDS, "attention_mask": IDS, "token_type_ids": IDS}


def run(folder: Path) -> None:
    GpuProgram.load(folder / "gpu.hpcc").run(FEEDS)


def damaged(name: str, data: bytes | None) -> Case:
    """The bundle with a file replaced or, for None, taken away."""

    def case(folder: Path, _: pytest.MonkeyPatch) -> None:
        file = folder / "gpu.hpcc" / name
        file.write_bytes(data) if data is not None else file.unlink()
        run(folder)

    return case


def resigned(change: Callable[[dict[str, Any]], object]) -> Case:
    """The manifest changed by somebody who can make digests."""

    def case(folder: Path, patch: pytest.MonkeyPatch) -> None:
        file = folder / "gpu.hpcc" / "manifest.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        change(document)
        document["digest"] = parse_manifest(json.dumps(document), "", GpuManifest).own_digest()
        file.write_text(json.dumps(document), encoding="utf-8")
        patch.setattr(programs, "missing_part", lambda: "")
        run(folder)

    return case


def nothing_of(patch: pytest.MonkeyPatch, *packages: str) -> None:
    find = importlib.util.find_spec
    patch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in packages else find(name, *more))


def nothing_to_run_it_on(folder: Path, patch: pytest.MonkeyPatch) -> None:
    nothing_of(patch, *MISSING)
    run(folder)


def an_older_device(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delenv(INTERPRETER, raising=False)
    cuda = SimpleNamespace(get_device_capability=lambda: (8, 0))
    patch.setattr(programs, "missing_part", lambda: "")
    patch.setattr(programs.importlib, "import_module", lambda _: SimpleNamespace(cuda=cuda))
    run(folder)


def benchmark_without_torch(_: Path, patch: pytest.MonkeyPatch) -> None:
    nothing_of(patch, *MISSING)
    benchmarks.gpu.cuda()


def benchmark_without_a_gpu(_: Path, patch: pytest.MonkeyPatch) -> None:
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    patch.setattr(
        benchmarks.gpu, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=bool), import_module=lambda _: torch)
    )
    benchmarks.gpu.cuda()


GPU = ("--target", "gpu-sm80")

CASES: dict[str, Case] = {
    "gpu: edited module": damaged("model.py", b"print('mine')\n"),
    "gpu: missing weights": damaged("weights.bin", None),
    "gpu: manifest without a digest": resigned(lambda m: m["digests"].pop("model.py")),
    "gpu: target of another release": resigned(lambda m: m["target"].pop("l2_bytes")),
    "gpu: cycles of a program": lambda folder, _: call(main_run, "gpu.hpcc", "--timing-only"),
    "gpu: nothing to run it on": nothing_to_run_it_on,
    "gpu benchmark: no torch": benchmark_without_torch,
    "gpu benchmark: no device": benchmark_without_a_gpu,
    "gpu: an older device": an_older_device,
    "form of a CPU for a GPU": small(*GPU, "--emit", "c"),
    "cycles of a GPU": small(*GPU, "--timing-only"),
    "half precision on a CPU": small("--target", "cpu-avx2", "--precision", "fp16"),
    "opt: accelerator for a GPU's pass": opt(f'{BEFORE_TILING},hpcc-tile-gpu{{target="{TARGET}"}}'),
    "inputs of two shapes for a GPU": partial(two_shapes, target="gpu-sm80", form="triton"),
    "stored id beyond its table, for a GPU": partial(folded_ids, target="gpu-sm80", form="triton"),
}
