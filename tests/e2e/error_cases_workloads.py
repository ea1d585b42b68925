"""What triggers the errors of the benchmarks' models: fetching, checking, exporting."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import workloads
from tests.e2e.harness import call

Case = Callable[[Path, pytest.MonkeyPatch], object]


def workload(**variables: str) -> Case:
    def case(_: Path, patch: pytest.MonkeyPatch) -> object:
        for name, value in variables.items():
            patch.setenv(name, value)
        return workloads.l3_model()

    return case


def cache(change: Callable[[Path], object]) -> Case:
    """L3's folder in the cache, as `change` leaves it."""

    def case(folder: Path, patch: pytest.MonkeyPatch) -> object:
        patch.delenv("HPCC_L3", raising=False)
        patch.setenv("HPCC_CACHE", str(folder))
        change(folder)
        return workloads.l3_model()

    return case


def no_network(folder: Path, patch: pytest.MonkeyPatch) -> object:
    patch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    patch.setenv("PIP_NO_INDEX", "1")
    return cache(lambda _: None)(folder, patch)


def no_torch(folder: Path, patch: pytest.MonkeyPatch) -> object:
    patch.setenv("HPCC_TORCH_PYTHON", "nowhere/python")
    patch.setenv("HPCC_CACHE", str(folder))
    return workloads.generated_model("bertbase")


def failing_export(folder: Path, patch: pytest.MonkeyPatch) -> object:
    """By a Python without torch, whatever this one has."""
    (folder / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")\n", encoding="utf-8")
    patch.setattr(workloads, "torch_python", lambda: sys.executable)
    patch.setenv("PYTHONPATH", str(folder))
    patch.setenv("HPCC_CACHE", str(folder))
    return workloads.generated_model("bertbase", "nonsense")


def wheel(folder: Path, patch: pytest.MonkeyPatch) -> object:
    (folder / "l3.whl").write_bytes(b"nonsense")
    patch.setenv("HPCC_L3", str(folder / "l3.whl"))
    patch.setenv("HPCC_CACHE", str(folder))
    return workloads.l3_model()


def damaged_cache(folder: Path) -> None:
    place = folder / f"{workloads.L3.package}-{workloads.L3.version}"
    place.mkdir()
    for name in workloads.L3.files:
        (place / name).write_text("nonsense", encoding="utf-8")


CASES: dict[str, Case] = {
    "workload that is no model": lambda folder, patch: workload(HPCC_L3=str(folder))(folder, patch),
    "damaged workload": cache(damaged_cache),
    "workload in a broken package": wheel,
    "workload that is not there": workload(HPCC_L3="nowhere.onnx"),
    "unknown workload": lambda *_: call(workloads.main, "l99"),
    "workload without a network": no_network,
    "export without torch": no_torch,
    "export that fails": failing_export,
}
