"""Foreign compilers as functions: a module in upstream dialects and arrays in, arrays out."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open

Array = NDArray[Any]
SPARSIFIER = "builtin.module(sparse-assembler,func.func(llvm-request-c-wrappers),sparsifier{enable-runtime-library=false})"


def listed(text: str, attribute: str) -> list[str]:
    """A list of strings among the attributes of @main."""
    found = re.search(rf"{attribute} = \[([^\]]*)\]", text)
    assert found, attribute
    return re.findall(r'"([^"]*)"', found.group(1))


def arguments(file: Path, inputs: Mapping[str, Array]) -> list[Array]:
    """What @main of a written module takes: inputs, then every weight, a sparse one as its buffers."""
    text = file.read_text(encoding="utf-8")
    weights: Any = safe_open(str(file.with_suffix(".safetensors")), "numpy")
    names = set(weights.keys())
    result = [inputs[name] for name in listed(text, "hpcc.input_names")]
    for key in listed(text, "hpcc.weights"):
        parts = [key] if key in names else [f"{key}.{part}" for part in ("positions", "coordinates", "values")]
        result += [weights.get_tensor(part) for part in parts if part in names]
    return result


def iree(file: Path, inputs: Mapping[str, Array]) -> list[Array]:
    """Compiled by IREE for this CPU and run: a module with parameters, or one whose weights are arguments."""
    pytest.importorskip("iree.compiler", reason="needs iree-base-compiler")
    compiler, runtime = importlib.import_module("iree.compiler"), importlib.import_module("iree.runtime")
    flags = ("--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu")
    program = compiler.compile_file(str(file), extra_args=[*flags, "--iree-llvmcpu-target-cpu=host"])
    config = runtime.Config("local-task")
    modules = [runtime.create_hal_module(config.vm_instance, config.device)]
    text = file.read_text(encoding="utf-8")
    if "flow.parameter.named" in text:
        index = runtime.ParameterIndex()
        index.load(str(file.with_suffix(".safetensors")))
        modules.append(runtime.create_io_parameters_module(config.vm_instance, index.create_provider(scope="model")))
        given = [inputs[name] for name in listed(text, "hpcc.input_names")]
    else:
        given = arguments(file, inputs)
    modules.append(runtime.VmModule.copy_buffer(config.vm_instance, program))
    context = runtime.SystemContext(vm_modules=modules, config=config)
    results = context.modules.module.main(*given)
    return [result.to_host() for result in (results if isinstance(results, tuple | list) else (results,))]


def torch_mlir() -> Path:
    """Where the package torch_mlir is; it needs no torch for what is done here. Skips where it is not."""
    place = os.environ.get("HPCC_TORCH_MLIR")
    found = importlib.util.find_spec("torch_mlir")
    if place is None and (found is None or found.origin is None):
        pytest.skip("no torch-mlir: pip install --no-deps torch-mlir, or set HPCC_TORCH_MLIR to where it was installed")
    return Path(place) if place is not None else Path(str(found and found.origin)).parent.parent


def sparsified(file: Path, inputs: Mapping[str, Array], results: Sequence[tuple[int, str]]) -> list[Array]:
    """Sparsified by upstream MLIR, compiled in process and run; `results` are rank and dtype of every output."""
    sys.path.insert(0, str(torch_mlir()))
    try:
        ir = importlib.import_module("torch_mlir.ir")
        passes = importlib.import_module("torch_mlir.passmanager")
        engines = importlib.import_module("torch_mlir.execution_engine")
        memrefs = importlib.import_module("torch_mlir.runtime")
    finally:
        sys.path.pop(0)
    fields = [
        (f"r{i}", memrefs.make_nd_memref_descriptor(rank, memrefs.as_ctype(np.dtype(dtype))))
        for i, (rank, dtype) in enumerate(results)
    ]
    structure = type("Results", (ctypes.Structure,), {"_fields_": fields})()
    arrays = [np.ascontiguousarray(array) for array in arguments(file, inputs)]
    descriptors = [memrefs.get_ranked_memref_descriptor(array) for array in arrays]
    pointers = [ctypes.pointer(ctypes.pointer(value)) for value in (structure, *descriptors)]
    with ir.Context():
        module = ir.Module.parse(file.read_text(encoding="utf-8"))
        passes.PassManager.parse(SPARSIFIER).run(module.operation)
        engine = engines.ExecutionEngine(module, 2, [])
        engine.invoke("main", *pointers)
        views = [memrefs.ranked_memref_to_numpy(ctypes.pointer(getattr(structure, name))) for name, _ in fields]
        return [np.array(view) for view in views]
