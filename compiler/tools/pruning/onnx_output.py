"""The pruned file: the ONNX model that was read, node for node, with other numbers in some of its tensors.

Nothing of our own graph goes into it. Tensors that lay in files beside the model lie in files beside the new one, at the
same offsets; tensors in the model stay there. All files are complete before one of them gets its name.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compiler.tools.model_files import external_tensors, is_external, location, publish, stored_tensors
from hw_targets.errors import InputError, UsageError

Array = NDArray[Any]


def check_output(output: Path, model: Path) -> None:
    """Before anything slow: raises UsageError for the model's own name, InputError for a place that takes no file."""
    if output.resolve() == model.resolve():
        raise UsageError("HPCC2240", f"-o {output} is the model itself", hint="name another file")
    folder = output.resolve().parent
    if output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        what = "is a folder" if output.is_dir() else "cannot be written to" if folder.is_dir() else "has no folder"
        raise InputError("HPCC1865", f"the output {what}", where=str(output), hint="-o OUT.onnx")


class ModelFile:
    """An ONNX file whose tensors can be read and replaced by name (of an initializer, or of a Constant node's result)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = onnx.load(str(path), load_external_data=False)
        self._tensors = stored_tensors(self.model)
        for tensor in self._tensors.values():
            if not is_external(tensor):
                tensor.ClearField("data_location")
        self._changed: dict[str, Array] = {}

    def numbers(self, name: str) -> Array:
        """The tensor's numbers in row-major order, [size], in its own dtype; the array may be written to."""
        if name not in self._changed:
            tensor = self._tensors[name]
            array = self._external(tensor) if is_external(tensor) else np.array(numpy_helper.to_array(tensor))
            self._changed[name] = array.reshape(-1)
        return self._changed[name]

    def _external(self, tensor: TensorProto) -> Array:
        """The numbers from the file beside the model, where the importer has found them: as many as the shape says, with or
        without an entry for the length."""
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        offset = int(_entries(tensor).get("offset", 0))
        return np.fromfile(self.path.parent / location(tensor), dtype, math.prod(tensor.dims), offset=offset)

    @property
    def metadata(self) -> dict[str, str]:
        return {entry.key: entry.value for entry in self.model.metadata_props}

    def save(self, output: Path, metadata: Mapping[str, str]) -> None:
        """Write the model, and the files of its external data. Raises InputError where that cannot be done."""
        check_output(output, self.path)
        try:
            with tempfile.TemporaryDirectory(dir=output.resolve().parent, prefix=f".{output.name}.") as staging:
                publish(self._written(Path(staging), metadata), Path(staging), output)
        except OSError as error:
            raise InputError("HPCC1861", f"cannot write the model: {error.strerror}", where=str(output)) from error

    def _written(self, folder: Path, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """The model with its changes; the files of its external data, changed too, lie in `folder`, numbered."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        tensors = stored_tensors(model)
        files: dict[str, str] = {}
        for tensor in external_tensors(model):
            if location(tensor) not in files:
                files[location(tensor)] = f"{len(files)}.data"
                shutil.copyfile(self.path.parent / location(tensor), folder / files[location(tensor)])
        for key, tensor in tensors.items():
            data = self._changed.get(key)
            if is_external(tensor):
                entries = _entries(tensor)
                if data is not None:
                    with (folder / files[entries["location"]]).open("r+b") as stream:
                        stream.seek(int(entries.get("offset", 0)))
                        stream.write(data.tobytes())
                _rename(tensor, files[entries["location"]])
            elif data is not None:
                _fill(tensor, data)
        kept = [entry for entry in model.metadata_props if entry.key not in metadata]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        for key, value in metadata.items():
            if value:  # an empty one takes out what the model said
                model.metadata_props.add(key=key, value=value)
        return model


def write_tensors(source: Path, tensors: Mapping[str, Array], out: Path, metadata: Mapping[str, str]) -> None:
    """`source` with new numbers in the tensors named, in their own dtypes. Raises InputError where it cannot be written."""
    file = ModelFile(source)
    for name, array in tensors.items():
        file.numbers(name)[:] = array.reshape(-1)
    file.save(out, metadata)


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _rename(tensor: TensorProto, location: str) -> None:
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = location


def _fill(tensor: TensorProto, data: Array) -> None:
    """Other numbers of the same count and dtype; they go where the tensor has raw data, whatever field it used."""
    for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(field)  # pyright: ignore[reportArgumentType]
    tensor.raw_data = data.tobytes()
