"""Execute an `hpcc_nn` module on numpy arrays: the meaning of every stage up to `quantize`.

The files beside this one register a function per operation. A tensor value is a numpy array; bf16 values are float32
arrays that hold bf16-representable values, codes are int8, ids int64, masks any integer or bool array (nonzero means
attend).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import BFloat16Type, ModuleOp, NameLoc, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation, SSAValue

from compiler.dialects.nn import OpaqueOp
from compiler.module import main_function, names_of
from compiler.weights import WeightStore
from hw_targets.errors import InputError

Array = NDArray[Any]
Meaning = Callable[[Any, list[Array], WeightStore], list[Array]]
Host = Callable[[OpaqueOp, list[Array]], list[Array]]
"""Runs an operation without a meaning here on the results of its operands."""

_MEANINGS: dict[tuple[type[Operation], bool], Meaning] = {}


def meaning_of(op_class: type[Operation], *, bf16: bool = False) -> Callable[[Meaning], Meaning]:
    """Register `function(op, args, store) -> results` as the meaning of `op_class`.

    With `bf16`, it is the meaning of those operations that read or write a bf16 tensor; a class that has only one of
    the two meanings uses it for both.
    """

    def register(function: Meaning) -> Meaning:
        if (op_class, bf16) in _MEANINGS:
            raise ValueError(f"{op_class.name} has two meanings (bf16={bf16})")
        _MEANINGS[op_class, bf16] = function
        return function

    return register


def _touches_bf16(op: Operation) -> bool:
    values = (*op.operands, *op.results)
    return any(isinstance(v.type, TensorType) and isinstance(v.type.element_type, BFloat16Type) for v in values)


def node_name(op: Operation) -> str:
    """The ONNX node an operation comes from, or the operation's own name."""
    return op.location.desc.data if isinstance(op.location, NameLoc) else op.name


def run_op(op: Operation, args: list[Array], store: WeightStore) -> list[Array]:
    """The results of one operation. Raises InputError HPCC1421 for an operation that only the host can run."""
    bf16 = _touches_bf16(op)
    meaning = _MEANINGS.get((type(op), bf16)) or _MEANINGS.get((type(op), not bf16))
    if meaning is None:
        raise InputError("HPCC1421", f"{op.name} cannot be interpreted", where=f"node {node_name(op)!r}")
    try:
        return meaning(op, args, store)
    except (ArithmeticError, LookupError, ValueError) as error:  # an id beyond its table, shapes that a value decides
        message = f"{op.name} cannot be computed: {error}"
        raise InputError("HPCC1424", message, where=f"node {node_name(op)!r}") from error


def _bind(func: FuncOp, inputs: Mapping[str, Array]) -> dict[SSAValue, Array]:
    arguments = func.body.block.args
    values: dict[SSAValue, Array] = {}
    for name, argument in zip(names_of(func, "input_names"), arguments, strict=True):
        if name not in inputs:
            raise InputError("HPCC1422", f"input {name!r} is missing", hint=f"given are {', '.join(sorted(inputs))}")
        assert isinstance(argument.type, TensorType)
        array = np.asarray(inputs[name])
        if array.shape != argument.type.get_shape():
            raise InputError("HPCC1423", f"input {name!r} has shape {array.shape}, not {argument.type.get_shape()}")
        values[argument] = array
    return values


def walk(
    module: ModuleOp, store: WeightStore, inputs: Mapping[str, Array], host: Host | None = None
) -> Iterator[tuple[Operation, list[Array]]]:
    """Run @main and yield every operation with its results (the arguments of the final return with it).

    A value is dropped after its last use, so that peak memory is that of the live values. `host` runs what has no meaning
    here.
    """
    from compiler.interpreters import load_meanings

    load_meanings()
    func = main_function(module)
    values = _bind(func, inputs)
    left = {value: len(list(value.uses)) for value in values}
    for op in func.body.block.ops:
        args = [values[operand] for operand in op.operands]
        if isinstance(op, ReturnOp):
            yield op, args
            return
        with np.errstate(all="ignore"):
            results = host(op, args) if host is not None and isinstance(op, OpaqueOp) else run_op(op, args, store)
        yield op, results
        for result, array in zip(op.results, results, strict=True):
            values[result] = array
            left[result] = len(list(result.uses))
        for operand in op.operands:
            left[operand] -= 1
            if left[operand] == 0:
                del values[operand]


def evaluate(
    module: ModuleOp, store: WeightStore, inputs: Mapping[str, Array], host: Host | None = None
) -> dict[str, Array]:
    """Run @main on arrays named as in `input_names` (extra names are ignored); returns outputs by `output_names`.

    Raises InputError for missing or misshapen inputs and, without a `host` that runs them, for opaque operations.
    """
    results: list[Array] = []
    for op, arrays in walk(module, store, inputs, host):
        if isinstance(op, ReturnOp):
            results = arrays
    return dict(zip(names_of(main_function(module), "output_names"), results, strict=True))
