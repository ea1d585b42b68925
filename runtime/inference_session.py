"""onnxruntime's `InferenceSession` over a bundle: code that uses ONNX Runtime switches by one line.

    session = onnxruntime.InferenceSession("model.onnx")
    session = hpcc.InferenceSession("model.cpu-host.hp-0.75.hpcc")

The surface is the one that inference code calls: inputs and outputs with names, shapes and types, `run`, and what such code
asks besides. What has no meaning for a compiled program (bindings to other devices, changing providers) says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_targets.errors import InputError, UsageError
from runtime.buckets import BucketProgram, is_bucket_bundle
from runtime.cpu.program import CpuProgram
from runtime.gpu.program import GpuProgram
from runtime.manifest import TensorEntry
from runtime.program import Program
from runtime.steps.manifest import kind_of

AnyArray = NDArray[Any]
PROVIDER = "HpccExecutionProvider"
TYPES: Mapping[str, str] = {
    "bool": "tensor(bool)",
    "int8": "tensor(int8)",
    "int32": "tensor(int32)",
    "int64": "tensor(int64)",
    "uint8": "tensor(uint8)",
    "float16": "tensor(float16)",
    "float32": "tensor(float)",
    "float64": "tensor(double)",
}


AnyProgram = Program | CpuProgram | GpuProgram | BucketProgram


def open_program(path: Path, threads: int = 0) -> AnyProgram:
    """The program of a bundle folder of any kind. Raises InputError for a damaged one."""
    if is_bucket_bundle(path):
        return BucketProgram.load(path, threads)
    match kind_of(path):
        case "cpu":
            return CpuProgram.load(path, threads)
        case "gpu":
            return GpuProgram.load(path, threads)
        case _:
            return Program.load(path, threads=threads)


@dataclass(frozen=True)
class NodeArg:
    """An input or an output as onnxruntime describes it. A name in place of a size is a free axis."""

    name: str
    type: str
    shape: list[int | str]


@dataclass(frozen=True)
class ModelMetadata:
    """What onnxruntime tells of a model, as far as a bundle knows it."""

    producer_name: str = "hpcc"
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0
    custom_metadata_map: Mapping[str, str] = field(default_factory=dict[str, str])


class InferenceSession:
    """A bundle with the surface of `onnxruntime.InferenceSession`.

    `path_or_bytes` is the folder of a bundle; of `sess_options` the number of threads is taken (`intra_op_num_threads`),
    `providers` are ignored: the program was compiled for its target. Raises InputError for what is no bundle.
    """

    def __init__(
        self,
        path_or_bytes: str | PathLike[str],
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Any] | None = None,
        **_: Any,
    ) -> None:
        if isinstance(path_or_bytes, bytes):
            hint = "hpcc MODEL.onnx --target cpu-host -o DIR makes one"
            raise UsageError("HPCC2052", "a session opens the folder of a bundle, not the bytes of a model", hint=hint)
        path = Path(path_or_bytes)
        if path.suffix == ".onnx":
            message = f"{path.name} is a model, a session opens the bundle compiled from it"
            raise UsageError("HPCC2052", message, hint=f"hpcc {path.name} --target cpu-host -o DIR")
        self._path = path
        self._program = open_program(path, int(getattr(sess_options, "intra_op_num_threads", 0) or 0))
        inputs, outputs, self._free = _borders(self._program)
        self._tokens = max((entry.shape[1] for entry in inputs if len(entry.shape) > 1), default=0)
        self._inputs = {entry.name: entry for entry in inputs}
        self._outputs = {entry.name: entry for entry in outputs}

    def get_inputs(self) -> list[NodeArg]:
        """The inputs in the model's order."""
        return [self._described(entry) for entry in self._inputs.values()]

    def get_outputs(self) -> list[NodeArg]:
        """The outputs in the model's order."""
        return [self._described(entry) for entry in self._outputs.values()]

    def _described(self, entry: TensorEntry) -> NodeArg:
        return NodeArg(entry.name, TYPES[entry.dtype], [self._size(axis, size) for axis, size in enumerate(entry.shape)])

    def _size(self, axis: int, size: int) -> int | str:
        if axis not in self._free:
            return size
        return "batch" if axis == 0 else "sequence" if size == self._tokens else size

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[AnyArray]:
        """The outputs of the given names (None or empty: all) in that order, for arrays by input name.

        Raises InputError for inputs of other names, types or shapes than the program takes.
        """
        wanted = list(output_names or self._outputs)
        unknown = [name for name in wanted if name not in self._outputs]
        if unknown:
            hint = f"outputs: {', '.join(self._outputs)}"
            raise UsageError("HPCC2053", f"the model has no output {unknown[0]!r}", hint=hint)
        unknown = [name for name in input_feed if name not in self._inputs]
        if unknown:
            raise InputError("HPCC1960", f"the model has no input {unknown[0]!r}", hint=f"inputs: {', '.join(self._inputs)}")
        arrays = {name: np.asarray(value) for name, value in input_feed.items()}
        result = self._program.run(arrays)
        outputs = (result[1] if isinstance(result, tuple) else result).outputs
        return [outputs[name] for name in wanted]

    def get_providers(self) -> list[str]:
        """One name: that of this package."""
        return [PROVIDER]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        target = (
            self._program.program(self._program.largest.name) if isinstance(self._program, BucketProgram) else self._program
        )
        return {PROVIDER: {"target": target.target.name}}

    def get_modelmeta(self) -> ModelMetadata:
        return ModelMetadata(graph_name=self._path.name)

    def get_session_options(self) -> None:
        """None: a bundle has no session options."""

    def disable_fallback(self) -> None:
        """Nothing to do: there is no other provider to fall back to."""

    def enable_fallback(self) -> None:
        """Nothing to do: there is no other provider to fall back to."""

    def io_binding(self) -> Any:
        raise UsageError("HPCC2054", "a bundle has no bindings to the memory of devices", hint="session.run(None, inputs)")

    def set_providers(self, providers: Sequence[Any] | None = None, provider_options: Any = None) -> None:
        raise UsageError("HPCC2054", "a bundle runs on the target it was compiled for", hint="compile it for another")


def _borders(program: AnyProgram) -> tuple[Sequence[TensorEntry], Sequence[TensorEntry], set[int]]:
    """Inputs, outputs, and the axes whose size is free: all take any batch, those with several lengths those too."""
    if isinstance(program, BucketProgram):
        manifest = program.program(program.largest.name).manifest
        return manifest.model_inputs, manifest.model_outputs, {0, 1}
    free = {0, 1} if isinstance(program, CpuProgram | GpuProgram) else {0}
    return program.manifest.model_inputs, program.manifest.model_outputs, free
