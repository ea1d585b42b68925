"""What triggers the errors of the bridges to other tools: forms in upstream dialects, sessions, torch, other packages."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp, StringAttr

import hpcc
from compiler import pipelines
from compiler.backends.fpga.machine import machine_of
from compiler.tools import torch_modules
from hw_targets import catalogue
from tests.e2e.error_cases_compiler import SHAPE, SMALL, model, node, small
from tests.e2e.harness import TARGET
from tests.e2e.harness import hpcc as hpcc_command
from tests.graphs import write

Case = Callable[[Path, pytest.MonkeyPatch], object]


def emitting(form: str, *arguments: str) -> Case:
    """hpcc for a small encoder that ends with a form in upstream dialects."""

    def case(folder: Path, _: pytest.MonkeyPatch) -> object:
        write(SMALL, folder / "model.onnx", 2, 7)
        return hpcc_command("model.onnx", "--emit", form, *SHAPE, *arguments)

    return case


def opaque(folder: Path, _: pytest.MonkeyPatch) -> object:
    return hpcc_command(model(folder, [node("Det", "x")], shape=[4, 4], out=(1, [])), "--emit", "linalg")


def session(action: Callable[[Any], object], argument: Any = None) -> Case:
    """A session of a small bundle, and what is asked of it."""

    def case(folder: Path, _: pytest.MonkeyPatch) -> object:
        if argument is not None:
            return hpcc.InferenceSession(argument)
        hpcc.compile(write(SMALL, folder / "model.onnx", 2, 7), TARGET, output=folder / "out.hpcc", verify=False)
        return action(hpcc.InferenceSession(folder / "out.hpcc"))

    return case


def cpu_program(folder: Path, _: pytest.MonkeyPatch) -> object:
    bundle = folder / "out.hpcc"
    hpcc.compile(write(SMALL, folder / "model.onnx", 2, 7), "cpu-host", output=bundle, verify=False)
    return hpcc.simulate(bundle)


def without_torch(folder: Path, patch: pytest.MonkeyPatch) -> object:
    patch.setitem(sys.modules, "torch", None)
    patch.setitem(sys.modules, "onnxscript", SimpleNamespace())
    return torch_modules._torch()  # pyright: ignore[reportPrivateUsage]


def package(module: Any, found: object, name: str = "fpga-u280") -> None:
    point = SimpleNamespace(name=name, value="package:thing", load=lambda: found)
    module.setattr("importlib.metadata.entry_points", lambda group: [point])


def foreign_target(found: object, name: str) -> Case:
    def case(_: Path, patch: pytest.MonkeyPatch) -> object:
        package(patch, found, name)
        return catalogue.plugin_files()

    return case


def damaged_note(_: Path, __: pytest.MonkeyPatch) -> object:
    return machine_of(ModuleOp([], {"hpcc.sized_for": StringAttr('{"pattern": 3}')}), TARGET)


def unexportable(folder: Path, patch: pytest.MonkeyPatch) -> object:
    """As torch says it, whose exporters raise whatever a model's code meets."""

    def export(*_: object, **__: object) -> None:
        raise ValueError("it branches on a value")

    torch = SimpleNamespace(no_grad=contextlib.nullcontext, export=SimpleNamespace(export=export))
    patch.setattr(torch_modules, "_torch", lambda: torch)
    return torch_modules.export_module(SimpleNamespace(eval=lambda: None), (), folder / "model.onnx")


def foreign_pass(_: Path, patch: pytest.MonkeyPatch) -> object:
    point = SimpleNamespace(name="hpcc-fuse", value="package:Fuse", load=lambda: None)
    patch.setattr(pipelines, "entry_points", lambda group: [point])
    return pipelines.all_passes()


class NoModule:
    """What looks like a model to nobody."""


MODULE = type("Module", (), {"__module__": "torch.nn.modules.module"})
"""As is_module sees a torch module, where torch is not installed."""

CASES: dict[str, Case] = {
    "a pass after no stage": small("--target", "cpu-avx2", "--pass-after", "fuse"),
    "a pass that nobody brings": small("--target", "cpu-avx2", "--pass-after", "fuse:my-pass"),
    "linalg of an unknown operator": opaque,
    "linalg with an option of programs": emitting("linalg", "--timing-only"),
    "linalg into no .mlir file": emitting("iree", "-o", "out.txt"),
    "linalg where nothing can be written": emitting("linalg", "-q", "-o", "/proc/m.mlir"),
    "session of a model": session(lambda _: None, "model.onnx"),
    "session: unknown output": session(lambda s: s.run(["nothing"], {})),
    "session: unknown input": session(lambda s: s.run(None, {"nothing": 1})),
    "session: bindings": session(lambda s: s.io_binding()),
    "simulating no accelerator": cpu_program,
    "torch backend: unknown option": lambda *_: torch_modules.hpcc_backend(None, [], options={"sparsty": "hp:0.75"}),
    "compiling no model": lambda *_: hpcc.compile(NoModule(), TARGET),  # type: ignore[arg-type]
    "a module without example inputs": lambda *_: hpcc.compile(MODULE(), TARGET),
    "a module without torch": without_torch,
    "a module that torch cannot export": unexportable,
    "a damaged note of the accelerator": damaged_note,
    "a target of another package that is no path": foreign_target(3, "fpga-mine"),
    "a target of another package with a name of ours": foreign_target("x.toml", "fpga-u280"),
    "a pass of another package with a name of ours": foreign_pass,
}
