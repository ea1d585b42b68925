"""ONNX Runtime as the reference: the model with the weights that were compiled, and the distances between results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from compiler.frontend.rules import as_the_standard_says
from compiler.weights import WeightStore
from hw_targets.errors import InputError, MissingToolError
from runtime.host import import_onnxruntime

Array = NDArray[Any]

RELATIVE_L2 = 0.10
TOKEN_COSINE = 0.985
"""Limits of the integer result against fp32 (DESIGN, end of section 5)."""


def open_session(model: onnx.ModelProto, threads: int = 0) -> Any:
    """A session of ONNX Runtime. Raises MissingToolError without the package, InputError for a model that it refuses."""
    try:
        runtime = import_onnxruntime()
    except ImportError as error:
        raise MissingToolError(
            "HPCC5102", "verification needs onnxruntime", hint="pip install onnxruntime, or --no-verify"
        ) from error
    options: Any = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong comes as an exception
    # Or else products of dequantised weights become integer ones, with activations that ONNX Runtime quantises.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError("HPCC1601", f"ONNX Runtime cannot load the model: {error}", hint="--no-verify") from error


class Reference:
    """A folded model in ONNX Runtime, some of its initializers replaced by entries of the store."""

    def __init__(
        self,
        model: ir.Model,
        store: WeightStore,
        replaced: Mapping[str, str],
        *,
        threads: int = 0,
        extra_outputs: Sequence[str] = (),
    ) -> None:
        self._session: Any = open_session(_with_outputs(with_weights(model, store, replaced), extra_outputs), threads)
        self.outputs: list[str] = [output.name for output in self._session.get_outputs()]
        self._inputs = {entry.name for entry in self._session.get_inputs()}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for one batch."""
        feed = {name: array for name, array in inputs.items() if name in self._inputs}
        return run_session(self._session, self.outputs, feed)


def run_session(session: Any, outputs: Sequence[str], feed: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name. Raises InputError for what ONNX Runtime cannot compute."""
    try:
        return dict(zip(outputs, session.run(list(outputs), dict(feed)), strict=True))
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError("HPCC1602", f"ONNX Runtime cannot run the model: {error}", hint="--no-verify") from error


def with_weights(model: ir.Model, store: WeightStore, replaced: Mapping[str, str]) -> onnx.ModelProto:
    """The ONNX model with some of its initializers replaced by entries of the store; `model` itself stays as it is."""
    stored = model.graph.initializers
    saved = {name: stored[name].const_value for name in replaced if name in stored}
    try:
        for name, value in saved.items():
            assert value is not None
            array = store.get(replaced[name]).reshape(value.shape.numpy())  # a kernel [o, i, 1] is a matrix to us
            stored[name].const_value = ir.tensor(np.ascontiguousarray(array), name=name)
        computed = {name: store.get(key) for name, key in replaced.items() if name not in saved}
        with as_the_standard_says("the model for ONNX Runtime"):
            return _with_constants(ir.to_proto(model), computed)
    finally:
        for name, value in saved.items():
            stored[name].const_value = value


def _with_constants(model: onnx.ModelProto, arrays: Mapping[str, Array]) -> onnx.ModelProto:
    """The model with constants in the place of tensors that its nodes compute."""
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name in arrays:
                node.output[index] = f"{name}:replaced"
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()
    )
    return model


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The model with further tensors as outputs, where it computes them."""
    known = {output.name for output in model.graph.output}
    computed = {name for node in model.graph.node for name in node.output}
    for name in dict.fromkeys(names):
        if name in computed and name not in known:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    return model


@dataclass(frozen=True)
class Distance:
    """How far a result is from its reference, over the tokens that count (unmasked ones; all without a mask)."""

    name: str
    relative_l2: float
    min_token_cosine: float
    mean_token_cosine: float
    max_abs_error: float
    passed: bool


def token_rows(value: Array, mask: Array | None) -> Array:
    """Rows [tokens, features] of a result; of [batch, tokens, features] only those with a nonzero mask."""
    if value.ndim >= 3 and mask is not None and mask.shape == value.shape[:2]:
        return value[mask != 0].reshape(int((mask != 0).sum()), prod(value.shape[2:]))
    return value.reshape(-1, value.shape[-1]) if value.ndim >= 2 else value.reshape(1, -1)


def cosines(a: Array, b: Array) -> NDArray[np.float64]:
    """Row by row; two zero rows are alike, a zero row and another are not."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    dots = (x * y).sum(-1)
    same = (x == y).all(-1)
    with np.errstate(invalid="ignore"):  # infinities: the cosine is NaN, and the row fails
        return np.where(norms > 0, dots / np.where(norms > 0, norms, 1.0), same.astype(np.float64))


def distance(
    name: str,
    got: Array,
    wanted: Array,
    mask: Array | None,
    *,
    rtol: float = 0.0,
    atol: float | None = None,
    relative_l2: float = RELATIVE_L2,
    made_up: bool = False,
) -> Distance:
    """Distance of a float result from its reference; integers must be equal. `relative_l2` is the limit that DESIGN has for
    integer arithmetic, other arithmetic has others.

    With `atol` the criterion is |got - wanted| <= atol + rtol |wanted| everywhere instead of DESIGN's limits. Of made-up
    inputs the tokens' mean cosine is judged, not the worst: about one in 150 random tokens of a trained model lies where
    int8 arithmetic of any kind turns it further (docs/NUMERICS.md, section 8).
    """
    if wanted.dtype.kind != "f":
        equal = bool((got == wanted).all())
        return Distance(name, 0.0 if equal else 1.0, float(equal), float(equal), float(not equal), equal)
    x, y = token_rows(got, mask).astype(np.float64), token_rows(wanted, mask).astype(np.float64)
    if not len(y):
        return Distance(name, 0.0, 1.0, 1.0, 0.0, True)
    norm = float(np.linalg.norm(y))
    relative = float(np.linalg.norm(x - y)) / norm if norm else float(np.linalg.norm(x))
    angles = cosines(x, y)
    worst = float(np.abs(x - y).max())
    if atol is None:
        passed = relative <= relative_l2 and float(angles.mean() if made_up else angles.min()) >= TOKEN_COSINE
    else:
        passed = bool((np.abs(x - y) <= atol + rtol * np.abs(y)).all())
    return Distance(name, relative, float(angles.min()), float(angles.mean()), worst, passed and bool(np.isfinite(x).all()))


@dataclass(frozen=True)
class Damage:
    """What pruning did to the results: against the ORIGINAL weights, sample by sample."""

    mean_sample_cosine: float
    top1_agreement: float | None


def damage(got: Sequence[Array], original: Sequence[Array], masks: Sequence[Array | None]) -> Damage:
    """Mean over samples of the cosine of their (unmasked) results; top-1 agreement where rows look like logits."""
    values: list[float] = []
    agreements: list[float] = []
    for a, b, mask in zip(got, original, masks, strict=True):
        for index in range(len(b)):
            own = mask[index : index + 1] if mask is not None else None
            if own is not None and not own.any():
                continue
            x = token_rows(a[index : index + 1], own).reshape(1, -1)
            y = token_rows(b[index : index + 1], own).reshape(1, -1)
            values.append(float(cosines(x, y)[0]))
            if b.ndim == 2 and 1 < b.shape[1] <= 32:
                agreements.append(float(a[index].argmax() == b[index].argmax()))
    mean = float(np.mean(values)) if values else 1.0
    return Damage(mean, float(np.mean(agreements)) if agreements else None)
