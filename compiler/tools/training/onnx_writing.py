"""The ORIGINAL file with new numbers in some of its tensors: nodes, names and everything else stay as they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from hw_targets.errors import InputError

Array = NDArray[Any]


def write_tensors(source: Path, tensors: Mapping[str, Array], out: Path, metadata: Mapping[str, str]) -> None:
    """Write `out`, whole or not at all. Raises InputError where it cannot be written."""
    model = onnx.load(str(source))
    found = [tensor for tensor in model.graph.initializer if tensor.name in tensors]
    for tensor in found:
        _replace(tensor, tensors[tensor.name])
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in tensors:
            for attribute in node.attribute:
                if attribute.name == "value":
                    _replace(attribute.t, tensors[node.output[0]])
    known = {entry.key: entry for entry in model.metadata_props}
    for key, value in metadata.items():
        entry = known.get(key) or model.metadata_props.add()
        entry.key, entry.value = key, value
    unfinished = out.with_name(f"{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, str(unfinished))
        unfinished.replace(out)
    except OSError as error:
        raise InputError("HPCC1560", f"cannot write the model: {error.strerror}", where=str(out)) from error


def _replace(tensor: onnx.TensorProto, array: Array) -> None:
    new = numpy_helper.from_array(np.ascontiguousarray(array, np.float32), tensor.name)
    assert list(new.dims) == list(tensor.dims)
    tensor.CopyFrom(new)
