"""What a bundle's manifest says of its model; kept in a module attribute, so that a dumped stage has it too."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp, StringAttr, TensorType
from xdsl.ir import Attribute

from compiler.frontend.importer import Imported
from compiler.module import main_function, names_of
from hw_targets.errors import InputError
from runtime.manifest import DType, ModelEntry, TensorEntry

ATTRIBUTE = "hpcc.model"
NUMPY_DTYPES: dict[str, DType] = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "bf16": "bfloat16",
    "i1": "bool",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "ui8": "uint8",
    "ui16": "uint16",
    "ui32": "uint32",
    "ui64": "uint64",
}


@dataclass(frozen=True)
class ModelFacts:
    """The model's name, digest and counts; `inputs` and `outputs` are the ONNX file's, with bound shapes."""

    entry: ModelEntry
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]


def record_facts(module: ModuleOp, imported: Imported) -> None:
    function = main_function(module)
    facts = {
        "name": imported.model_name,
        "sha256": imported.sha256,
        "parameters": imported.parameters,
        "macs": 0,
        "notes": list(imported.notes),
        "inputs": _tensors(names_of(function, "input_names"), function.function_type.inputs),
        "outputs": _tensors(names_of(function, "output_names"), function.function_type.outputs),
    }
    module.attributes[ATTRIBUTE] = StringAttr(json.dumps(facts))


def record_macs(module: ModuleOp, macs: int) -> None:
    """The multiply-accumulates of the whole model, known once it is fused."""
    known = module.attributes.get(ATTRIBUTE)
    if isinstance(known, StringAttr):
        module.attributes[ATTRIBUTE] = StringAttr(json.dumps({**json.loads(known.data), "macs": macs}))


def read_facts(module: ModuleOp, pattern: str, where: str) -> ModelFacts:
    """The facts of a module. Raises InputError for one that was not made from an ONNX file."""
    known = module.attributes.get(ATTRIBUTE)
    if not isinstance(known, StringAttr):
        raise InputError(
            "HPCC1433", "the module does not say which model it is", where=where, hint="use a file of --dump-stages"
        )
    try:
        facts = json.loads(known.data)
        entry = ModelEntry(
            name=facts["name"],
            sha256=facts["sha256"],
            parameters=facts["parameters"],
            macs=facts["macs"],
            pattern=pattern,
            notes=tuple(facts.get("notes", ())),
        )
        return ModelFacts(entry, *(tuple(_entry(row) for row in facts[key]) for key in ("inputs", "outputs")))
    except (KeyError, TypeError, ValueError) as error:  # pydantic's is a ValueError
        raise InputError(
            "HPCC1434", "what the module says of its model is damaged", where=where, hint="use a file of --dump-stages"
        ) from error


def _entry(row: dict[str, object]) -> TensorEntry:
    return TensorEntry.model_validate({**row, "shape": tuple(row["shape"])})  # pyright: ignore


def _tensors(names: Iterable[str], types: Iterable[Attribute]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, type in zip(names, types, strict=True):
        assert isinstance(type, TensorType)
        rows.append({"name": name, "dtype": NUMPY_DTYPES[str(type.element_type)], "shape": list(type.get_shape())})
    return rows
