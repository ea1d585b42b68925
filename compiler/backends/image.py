"""What the printers of C and of Triton share: the image of the weights, and the facts of steps that reports need."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from xdsl.ir import Operation, SSAValue

from compiler.backends.lowering import role_of
from compiler.dialects.steps import EmbeddingStep, LayerNormStep, RmsNormStep, RotaryStep

ALIGNMENT = 64

P = TypeVar("P")


@dataclass(frozen=True)
class LinearFacts(Generic[P]):
    """What the ledger tells of a linear: multiplications of a dense one and those done, bytes of its packed form."""

    role: str
    onnx_node: str
    outs: int
    ins: int
    packed: P
    pattern: str
    step: int
    per_token: bool


@dataclass(frozen=True)
class StepFacts:
    """One step: the layer it computes, its function, what it does, and multiply-accumulates that are no linear's."""

    name: str
    function: str
    op: str
    onnx_node: str
    macs: int = 0


@dataclass(frozen=True, kw_only=True)
class StepsModel(Generic[P]):
    """The printed source of a model and what its steps are; inputs and outputs in the program's order."""

    source: str
    weights: NDArray[np.uint8]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    batch: int
    tokens: int
    steps: tuple[StepFacts, ...]
    linears: tuple[LinearFacts[P], ...]
    id_limits: tuple[tuple[str, int], ...]
    activation_bytes: int

    def layers_of(self, step: int) -> tuple[str, ...]:
        """The linears that a step computes, by role."""
        return tuple(linear.role for linear in self.linears if linear.step == step)


@dataclass
class Image:
    """weights.bin as it grows: aligned arrays behind a header; an array that is asked for twice stands once."""

    magic: bytes
    parts: list[NDArray[Any]] = field(default_factory=list)
    end: int = ALIGNMENT
    known: dict[object, int] = field(default_factory=dict)

    def place(self, array: NDArray[Any], key: object = None) -> int:
        """The offset of an array in the file."""
        if key is not None and key in self.known:
            return self.known[key]
        at = self.end
        self.parts.append(array)
        self.end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        if key is not None:
            self.known[key] = at
        return at

    @cached_property
    def bytes(self) -> NDArray[np.uint8]:
        """The whole file. Its header is the magic and a digest of the rest, which the program expects."""
        image = np.zeros(self.end, np.uint8)
        at = ALIGNMENT
        for part in self.parts:
            image[at : at + part.nbytes] = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
            at += -(-part.nbytes // ALIGNMENT) * ALIGNMENT
        header = self.magic + hashlib.blake2b(image[ALIGNMENT:].data, digest_size=32).digest()
        image[: len(header)] = np.frombuffer(header, np.uint8)
        return image


def maker_of(value: SSAValue) -> str:
    """The layer whose result a buffer holds."""
    op = value.owner
    assert isinstance(op, Operation)
    if isinstance(op, LayerNormStep | RmsNormStep):
        return f"{maker_of(op.x)}.norm"
    if isinstance(op, RotaryStep):
        return f"{maker_of(op.x)}.rotary"
    return "embeddings" if isinstance(op, EmbeddingStep) else role_of(op)


def distinct_parts(roles: Sequence[str]) -> list[str]:
    """layer.0.attn.q, layer.0.attn.k: layer.0.attn.q and k."""
    first, *rest = roles
    stem = first.rsplit(".", 1)[0]
    return [first, *(role.removeprefix(f"{stem}.") for role in rest)]
