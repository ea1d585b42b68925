"""What triggers the errors of a machine without room, and of hpcc-prune on models and patterns that it cannot judge."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from compiler.tools.hpcc_prune import main as hpcc_prune
from hw_targets import host_memory
from tests.e2e.error_cases_compiler import fpga, model, node
from tests.e2e.harness import Done, call
from tests.graphs import Encoder, feeds, write

Case = Callable[[Path, pytest.MonkeyPatch], object]
SMALL = Encoder(hidden=32, heads=2, intermediate=48, layers=1, vocabulary=50)
Usage = namedtuple("Usage", "total free")  # noqa: PYI024


def little_memory(*arguments: str) -> Case:
    def case(folder: Path, patch: pytest.MonkeyPatch) -> Done:
        patch.setattr(host_memory, "available_bytes", lambda: 1000)
        return fpga(*arguments)(folder, patch)

    return case


def little_disk(folder: Path, patch: pytest.MonkeyPatch) -> Done:
    patch.setattr(shutil, "disk_usage", lambda _: Usage(2000, 1000))
    return fpga("--sparsity", "dense", "-o", "folder/out.hpcc")(folder, patch)


def prune(*arguments: str) -> Done:
    return call(hpcc_prune, "model.onnx", *arguments, "-o", "out.onnx")


def full_disk(folder: Path, patch: pytest.MonkeyPatch) -> Done:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write(SMALL, folder / "model.onnx", 2, 7)
    patch.setattr(os, "replace", full)
    return prune("--pattern", "nm:2:4")


def pattern_without_levels(folder: Path, _: pytest.MonkeyPatch) -> Done:
    write(SMALL, folder / "model.onnx", 2, 7)
    np.savez(folder / "data.npz", **feeds(SMALL, 4, 7))  # pyright: ignore[reportArgumentType]
    return prune("--pattern", "row:0.5", "--allocate", "global", "--calibrate", "data.npz")


def node_of_the_host(folder: Path, _: pytest.MonkeyPatch) -> Done:
    nodes = [node("Mish", "x", out="mish"), node("MatMul", "mish", "w")]
    whole = [2, 16]
    model(
        folder,
        nodes,
        weights={"w": np.random.default_rng(0).standard_normal((16, 24)).astype(np.float32)},
        shape=whole,
        out=(TensorProto.FLOAT, [2, 24]),
    )
    np.savez(folder / "data.npz", x=np.ones((2, 16), np.float32))
    return prune("--pattern", "nm:2:4", "--scope", "*", "--calibrate", "data.npz")


CASES: dict[str, Case] = {
    "too little memory for the verification": little_memory(),
    "too little memory to compile": little_memory("--no-verify"),
    "too little disk": little_disk,
    "prune: full disk": full_disk,
    "prune: pattern without levels": pattern_without_levels,
    "prune: node that calibration cannot run": node_of_the_host,
}
