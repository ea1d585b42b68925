"""Small vision transformers as ONNX graphs, built by hand: patches, a class token, pre-norm, LayerScale. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.graphs import Encoder, GraphBuilder


@dataclass(frozen=True)
class Vision:
    """Sizes of a model and how its front is spelled; `special` tokens stand before the patches."""

    image: tuple[int, int] = (16, 24)
    patch: tuple[int, int] = (8, 8)
    channels: int = 3
    hidden: int = 48
    heads: int = 4
    layers: int = 2
    special: int = 1
    layer_scale: bool = False
    patch_bias: bool = True
    pre_norm: bool = False
    head: bool = True
    gelu: str = "dynamo"
    resized: bool = False

    @property
    def patches(self) -> int:
        return (self.image[0] // self.patch[0]) * (self.image[1] // self.patch[1])

    @property
    def tokens(self) -> int:
        return self.special + self.patches


class _Graph(GraphBuilder):
    vision: Vision

    def front(self) -> str:
        """Patches by a convolution, special tokens before them, positions added to all."""
        spec, b = self.vision, self.batch
        self.parameter("patch.weight", spec.hidden, spec.channels, *spec.patch, scale=0.1)
        inputs = ["pixels", "patch.weight"]
        if spec.patch_bias:
            inputs.append(self.parameter("patch.bias", spec.hidden, scale=0.1))
        y = self.op("Conv", inputs, "patch", kernel_shape=list(spec.patch), strides=list(spec.patch))
        y = self.op("Transpose", [self.reshape(y, b, spec.hidden, -1)], "patch", perm=[0, 2, 1])
        parts = [y]
        for index in range(spec.special):
            token = self.parameter(f"special.{index}", 1, 1, spec.hidden)
            shape = self.constant([b, 1, spec.hidden], np.int64)
            parts.insert(index, self.op("Expand", [token, shape], "special"))
        x = self.op("Concat", parts, "tokens", axis=1) if spec.special else y
        return self.op("Add", [x, self.positions()], "positions")

    def positions(self) -> str:
        spec = self.vision
        if not spec.resized:
            return self.parameter("positions", 1, spec.tokens, spec.hidden)
        self.parameter("positions", 1, spec.hidden, 3, 3)
        rows, columns = spec.image[0] // spec.patch[0], spec.image[1] // spec.patch[1]
        sizes = self.constant([1, spec.hidden, rows, columns], np.int64)
        grid = self.op("Resize", ["positions", "", "", sizes], "positions", mode="linear")
        return self.op("Transpose", [self.reshape(grid, 1, spec.hidden, -1)], "positions", perm=[0, 2, 1])

    def scaled(self, x: str, name: str) -> str:
        if not self.vision.layer_scale:
            return x
        return self.op("Mul", [x, self.parameter(f"{name}.scale", self.vision.hidden)], name)

    def model(self) -> tuple[str, list[int]]:
        spec = self.vision
        x = self.front()
        if spec.pre_norm:
            x = self.layer_norm(x, "front.norm")
        for index in range(spec.layers):
            name = f"layer.{index}"
            attended = self.attention(self.layer_norm(x, f"{name}.norm1"), f"{name}.attention", None)
            x = self.op("Add", [x, self.scaled(attended, f"{name}.attention")], name)
            up = self.linear(self.layer_norm(x, f"{name}.norm2"), f"{name}.up", 2 * spec.hidden, spec.hidden)
            down = self.linear(self.activation(up, name), f"{name}.down", spec.hidden, 2 * spec.hidden)
            x = self.op("Add", [self.scaled(down, f"{name}.down"), x], name)
        x = self.layer_norm(x, "norm")
        if not spec.head:
            return x, [self.batch, spec.tokens, spec.hidden]
        first = self.op("Gather", [x, self.constant(0, np.int64)], "head", axis=1)
        return self.linear(first, "head.classifier", 5, spec.hidden), [self.batch, 5]


def write(spec: Vision, path: Path, batch: int = 2) -> Path:
    """Save the model and return its path."""
    sizes = Encoder(hidden=spec.hidden, heads=spec.heads, gelu=spec.gelu, mask="none")  # pyright: ignore
    graph = _Graph(sizes, batch, spec.tokens)
    graph.vision = spec
    output, shape = graph.model()
    proto = helper.make_graph(
        graph.nodes,
        "vision",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, spec.channels, *spec.image])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        graph.weights,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def feeds(spec: Vision, batch: int = 2, seed: int = 1) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(seed)
    return {"pixels": random.standard_normal((batch, spec.channels, *spec.image)).astype(np.float32)}
