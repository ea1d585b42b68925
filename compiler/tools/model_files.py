"""An ONNX file and the files of its external data, put in their places so that they are one model at any moment."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto

from hw_targets.interrupts import uninterrupted

DIGITS = 16
"""Of a data file's digest that stand in its name."""


def external_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """The initializers, and the values of Constant nodes, whose numbers lie in a file beside the model."""
    return (tensor for tensor in stored_tensors(model).values() if is_external(tensor))


def stored_tensors(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """Initializers by name, and values of Constant nodes by that of the result."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = attribute.t
    return found


def is_external(tensor: TensorProto) -> bool:
    """Whether its numbers lie in a file: one that says so and names none has them in the model, as the importer reads it."""
    return tensor.data_location == TensorProto.EXTERNAL and any(entry.key == "location" for entry in tensor.external_data)


def location(tensor: TensorProto) -> str:
    """The file of an external tensor, relative to its model's folder."""
    return next(entry.value for entry in tensor.external_data if entry.key == "location")


def publish(model: onnx.ModelProto, staging: Path, output: Path) -> None:
    """Write `model` to `output`, and beside it the files of external data that lie in the folder `staging`.

    A data file is named after its content, so it never takes the place of one that an older `output` reads: that model is
    whole until the new one has its name, and the new one from then on. Data files that only the older one read are
    removed. Raises OSError; what had been put there by then is removed.
    """
    folder = output.resolve().parent
    names: dict[str, str] = {}
    for tensor in external_tensors(model):
        source = location(tensor)
        if source not in names:
            names[source] = f"{output.name}.{_digest(staging / source)}.data"
        next(entry for entry in tensor.external_data if entry.key == "location").value = names[source]
    onnx.save(model, str(staging / output.name))
    fresh = [folder / name for name in set(names.values()) if not (folder / name).exists()]
    with uninterrupted():
        try:
            for source, name in names.items():
                os.replace(staging / source, folder / name)
            os.replace(staging / output.name, folder / output.name)
        except OSError:
            for path in fresh:
                path.unlink(missing_ok=True)
            raise
    ours = re.compile(re.escape(output.name) + rf"\.[0-9a-f]{{{DIGITS}}}\.data")
    for path in folder.iterdir():
        if ours.fullmatch(path.name) and path.name not in names.values():
            path.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]
