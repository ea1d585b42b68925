"""Calibration data for a model: arrays or texts, the shapes they bind, and which of their tokens are real."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compiler.frontend.importer import Imported
from compiler.frontend.onnx_file import open_onnx
from compiler.interpreters.probe import id_limits
from compiler.tools import inputs as run_inputs
from compiler.tools.inputs import InputSpec, role_of
from compiler.tools.model_facts import NUMPY_DTYPES
from compiler.tools.pruning.calibration import Batch
from compiler.tools.pruning.options import PruneOptions

Array = NDArray[Any]
Arrays = Mapping[str, Array]

LENGTH = 128
"""Texts are cut after this many tokens where neither the model nor --max-length says another number."""
TOKENS = 24
"""The tokens that a dynamic model is bound to where there is no data: masks do not depend on it."""
BATCH = 16
"""Samples in one step of a model with a dynamic batch."""


class Inputs:
    """The model's inputs as the file declares them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        model = open_onnx(path).model
        self.values = [value for value in model.graph.inputs if not value.is_initializer()]

    def specs(self, tokens: int) -> list[InputSpec]:
        """With dynamic axes set: the first to 1, others to `tokens`."""
        return [InputSpec(str(v.name), _dtype(v), tuple(_sizes(v, 1, tokens))) for v in self.values]

    def shapes_without_data(self, given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Shapes for masks alone: token inputs of dynamic shape get some; others are left to the importer to complain of."""
        shapes = dict(given)
        for value in self.values:
            dims = value.shape
            if str(value.name) not in given and dims is not None and not dims.is_static() and dims.rank() <= 2:
                shapes[str(value.name)] = tuple(_sizes(value, 1, TOKENS))
        return shapes if not given else dict(given)

    def shapes_for(self, arrays: Arrays, given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Shapes that hold the data: its own, with a batch of its own size or the model's."""
        shapes: dict[str, tuple[int, ...]] = dict(given)
        for value in self.values:
            array = arrays.get(str(value.name))
            if array is None or str(value.name) in given or value.shape is None or value.shape.is_static():
                continue
            if array.ndim == value.shape.rank() and array.ndim:
                shapes[str(value.name)] = tuple(
                    dim if isinstance(dim, int) else min(size, BATCH) if axis == 0 else size
                    for axis, (dim, size) in enumerate(zip(value.shape, array.shape, strict=True))
                )
        return shapes


def _dtype(value: ir.Value) -> str:
    dtype = value.dtype
    if dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE):
        return "float32"  # widened by the importer
    return "float32" if dtype is None else np.dtype(dtype.numpy()).name


def _sizes(value: ir.Value, batch: int, tokens: int) -> list[int]:
    if value.shape is None:
        return [batch, tokens]
    return [dim if isinstance(dim, int) else batch if axis == 0 else tokens for axis, dim in enumerate(value.shape)]


def read_data(options: PruneOptions, inputs: Inputs) -> tuple[Arrays, str] | None:
    """The arrays before they are checked against the bound model, and where they come from; None without data."""
    if options.text is not None and options.tokenizer is not None:
        bound = [s for s in options.shapes.values() if len(s) == 2]
        length = options.max_length or (bound[0][1] if bound else LENGTH)
        specs = [InputSpec(s.name, s.dtype, options.shapes.get(s.name, s.shape)) for s in inputs.specs(length)]
        texts = run_inputs.from_text(Path(options.text), Path(options.tokenizer), specs, options.max_length)
        return _cropped(texts.arrays, inputs), f"{texts.count} texts of {Path(options.text).name}"
    if isinstance(options.calibrate, str):
        return run_inputs.read_npz(Path(options.calibrate)), Path(options.calibrate).name
    if options.calibrate is not None:
        return {name: np.asarray(array) for name, array in options.calibrate.items() if name != "labels"}, "arrays"
    return None


def _cropped(arrays: Arrays, inputs: Inputs) -> Arrays:
    """Dynamic models run no longer than the longest text."""
    mask = next((array for name, array in arrays.items() if role_of(name) == "mask"), None)
    dynamic = all(value.shape is None or not isinstance(value.shape[-1], int) for value in inputs.values)
    if mask is None or not dynamic:
        return arrays
    longest = max(int((mask != 0).any(axis=0).nonzero()[0].max(initial=0)) + 1, 1)
    return {name: array[:, :longest] for name, array in arrays.items()}


def batches_of(arrays: Arrays, imported: Imported, where: str) -> list[Batch]:
    """The data in batches of the bound model, checked as inputs of a run are. Raises InputError."""
    from compiler.module import main_function, names_of

    function = main_function(imported.module)
    limits = id_limits(imported.module)
    specs: list[InputSpec] = []
    for name, type in zip(names_of(function, "input_names"), function.function_type.inputs, strict=True):
        element, shape = NUMPY_DTYPES[str(type.element_type)], type.get_shape()  # pyright: ignore
        specs.append(InputSpec(name, element, shape, limits.get(name)))
    floats = {spec.name for spec in specs if spec.dtype == "float32"}
    arrays = {name: a.astype(np.float32) if name in floats and a.dtype.kind == "f" else a for name, a in arrays.items()}
    samples = run_inputs.fitted("npz", where, arrays, specs, where)
    size = specs[0].shape[0] if specs else 1
    result: list[Batch] = []
    for number, batch in enumerate(samples.batches(size)):
        real = np.arange(size) < samples.count - number * size
        mask = next((a for name, a in batch.items() if role_of(name) == "mask" and a.ndim == 2), None)
        result.append(Batch(batch, real if mask is None else (mask != 0) & real[:, None]))
    return result
