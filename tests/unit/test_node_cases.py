"""The ONNX backend node tests of every operator that hpcc imports, through import and the interpreters.

A case passes or stays on the host for a reason; tests/golden/node_cases.txt lists the latter. Rewrite that file by

    python -m tests.unit.test_node_cases
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from compiler.dialects import nn
from compiler.frontend.importer import import_onnx
from compiler.interpreters.evaluate import evaluate
from compiler.tools.supported_ops import CASES_OPSET, imported_operators
from hw_targets.errors import HpccError

GOLDEN = Path(__file__).parents[1] / "golden" / "node_cases.txt"
PARAMETERS = 1
"""Inputs from this one on are made constants where the operator asks for that: shapes, axes, bounds, scales."""


@dataclass(frozen=True)
class Case:
    name: str
    operator: str
    model: onnx.ModelProto
    inputs: list[Any]
    outputs: list[Any]
    rtol: float
    atol: float


def cases() -> Iterator[Case]:
    """The node cases of one node whose operator hpcc imports, one data set each."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    for case in found:
        model = case.model
        if model is None or not case.data_sets or len(model.graph.node) != 1:
            continue
        node = model.graph.node[0]
        if node.domain in ("", "ai.onnx") and node.op_type in imported_operators():
            inputs, outputs = case.data_sets[0]
            yield Case(case.name, node.op_type, model, list(inputs), list(outputs), case.rtol, case.atol)


def host_reason(case: Case, folder: Path) -> str:
    """Why the case's node runs on the host; empty if it is imported, and then its outputs are right.

    First with all inputs given at run time, then with all but the first as constants, then with constants only in the
    places that say so (`x, y` products need both operands at run time).
    """
    reason = ""
    for constants in (set(), set(range(PARAMETERS, len(case.inputs)))):
        reason = _attempt(case, constants, folder)
        if not reason:
            return ""
    return reason


def _attempt(case: Case, constants: set[int], folder: Path) -> str:
    arrays = [np.asarray(array) for array in case.inputs]
    inputs = case.model.graph.input
    if len(arrays) != len(inputs) or not all(value.type.HasField("tensor_type") for value in inputs):
        return "an input that is no tensor"
    if any(array.dtype.kind not in "fiub" for array in arrays):
        return "an element type without a numpy form"
    path = folder / "case.onnx"
    onnx.save(_with_constants(case.model, arrays, constants), str(path))
    try:
        imported = import_onnx(path, {})
    except HpccError as error:
        return error.message
    left = [op for op in imported.module.walk() if isinstance(op, nn.OpaqueOp)]
    if left:
        return left[0].reason.data
    names = [value.name for value in case.model.graph.input]
    feeds = {name: array for index, (name, array) in enumerate(zip(names, arrays, strict=True)) if index not in constants}
    found = evaluate(imported.module, imported.store, feeds)
    for value, wanted in zip(case.model.graph.output, case.outputs, strict=True):
        _compare(case, found[value.name], np.asarray(wanted))
    return ""


def _with_constants(model: onnx.ModelProto, arrays: list[NDArray[Any]], constants: set[int]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inputs = list(copy.graph.input)
    copy.graph.initializer.extend(numpy_helper.from_array(arrays[index], inputs[index].name) for index in sorted(constants))
    del copy.graph.input[:]
    copy.graph.input.extend(value for index, value in enumerate(inputs) if index not in constants)
    for value, array in zip(inputs, arrays, strict=True):
        del value.type.tensor_type.shape.dim[:]
        for size in array.shape:
            value.type.tensor_type.shape.dim.add().dim_value = size
    return copy


def _compare(case: Case, found: NDArray[Any], wanted: NDArray[Any]) -> None:
    assert found.shape == wanted.shape, case.name
    if wanted.dtype == np.float16:  # computed in fp32
        np.testing.assert_allclose(found, wanted.astype(np.float32), rtol=2e-3, atol=2e-3, err_msg=case.name)
    elif wanted.dtype.kind == "f":
        rtol = max(case.rtol, 1e-5)
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=max(case.atol, 1e-6), err_msg=case.name)
    else:
        np.testing.assert_array_equal(found, wanted, err_msg=case.name)


def excluded() -> list[str]:
    """The lines of the golden file: cases that stay on the host, with the reason."""
    with tempfile.TemporaryDirectory() as folder:
        found = [(case, host_reason(case, Path(folder))) for case in cases()]
    lines = [f"{case.operator} | {case.name} | {reason}" for case, reason in found if reason]
    return [f"# {len(found) - len(lines)} of {len(found)} cases pass; the others run on the host", *sorted(lines)]


@pytest.mark.slow
def test_every_case_passes_or_is_listed() -> None:
    if onnx.defs.onnx_opset_version() != CASES_OPSET:
        pytest.skip(f"the list was made with the cases of opset {CASES_OPSET}")
    assert "\n".join(excluded()) + "\n" == GOLDEN.read_text(encoding="utf-8")


def test_the_list_says_why() -> None:
    """Every line names an operator of docs/SUPPORTED_OPS.md and a reason; no other operator is listed."""
    head, *lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    passed, total = (int(word) for word in head.split()[1:4:2])
    assert total - passed == len(lines)
    for line in lines:
        operator, _, reason = line.split(" | ")
        assert operator in imported_operators()
        assert reason


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(excluded()) + "\n", encoding="utf-8")
