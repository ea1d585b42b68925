"""Decoder-only language models as ONNX files, built without torch in the ways that exporters spell them.

    python -m benchmarks.decoder llama-1b OUT.onnx

writes a random model of the size of a 1 B-parameter Llama with its weights beside it (OUT.onnx.data, fp32 or bfloat16).
Tests build small ones with the same code: one `Decoder` is a model and its spelling, and every spelling with the same seed
computes the same function.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
MICROSOFT = "com.microsoft"
LOWEST = float(np.finfo(np.float32).min)
EXTERNAL = 1024
"""Elements from which a tensor lies in the file beside the model, if there is one."""


@dataclass(frozen=True)
class Decoder:
    """Sizes of a decoder and how its parts are spelled."""

    layers: int = 2
    hidden: int = 32
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 8
    intermediate: int = 48
    vocabulary: int = 60
    positions: int = 32
    seed: int = 0
    opset: int = 18
    norm: Literal["reciprocal", "divided", "power", "op", "skip", "layer"] = "reciprocal"
    rotary: Literal["none", "half", "interleaved", "op", "op_neighbours", "contrib"] = "half"
    turned: int = 0
    """Features of a head that turn; 0: all of them."""
    scale: Literal["scores", "queries"] = "scores"
    """What is multiplied by the root of the size of a head: scores, or queries before they turn."""
    mask: Literal["computed", "added", "chosen", "operator", "none"] = "computed"
    padding: bool = False
    repeat: Literal["expand", "gather"] = "expand"
    gate: Literal["none", "silu", "gelu_tanh"] = "silu"
    projections: Literal["separate", "split", "gemm"] = "separate"
    heads_norm: bool = False
    tied: bool = True
    base: float = 10000.0

    @property
    def rotated(self) -> int:
        return self.turned or self.head_size


LLAMA_1B = Decoder(
    layers=16,
    hidden=2048,
    heads=32,
    kv_heads=8,
    head_size=64,
    intermediate=8192,
    vocabulary=128256,
    positions=4096,
    base=500000.0,
)
"""The sizes of Llama-3.2-1B: 1.24 B parameters, the head tied to the embeddings."""


@dataclass
class Builder:
    """The nodes and weights of a graph; large weights go to `data` as they come, in `dtype`."""

    spec: Decoder
    data: BinaryIO | None = None
    location: str = ""
    dtype: Literal["float32", "bfloat16"] = "float32"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    known: dict[bytes, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.spec.seed)

    def add(self, op: str, inputs: Sequence[str], outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        """A node; returns its first output, which is named like it."""
        name = f"{op}_{len(self.nodes)}"
        names = [name, *(f"{name}.{index}" for index in range(1, outputs))]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, domain=domain, **attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        array = np.asarray(value, dtype)
        key = array.tobytes() + str((array.dtype, array.shape)).encode()
        if key not in self.known:
            self.known[key] = f"constant_{len(self.known)}"
            self.initializers.append(numpy_helper.from_array(array, self.known[key]))
        return self.known[key]

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def weight(self, name: str, array: Array) -> str:
        """An initializer; a large one is written out at once and not kept."""
        if self.data is None or array.size < EXTERNAL:
            tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
        else:
            kept = array.astype(ml_dtypes.bfloat16) if self.dtype == "bfloat16" else array
            self.data.seek(-(-self.data.tell() // 4096) * 4096)
            kind = TensorProto.BFLOAT16 if self.dtype == "bfloat16" else TensorProto.FLOAT
            tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
            for key, value in (("location", self.location), ("offset", self.data.tell()), ("length", kept.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            np.ascontiguousarray(kept).view(np.uint8).tofile(self.data)
        self.initializers.append(tensor)
        if self.data is not None and array.size >= EXTERNAL and self.dtype == "bfloat16":
            return self.add("Cast", [name], to=TensorProto.FLOAT)
        return name

    def matrix(self, name: str, ins: int, outs: int, scale: float = 1.0) -> str:
        """[ins, outs] of a deviation that keeps the size of what it multiplies."""
        return self.weight(name, self.random.standard_normal((ins, outs), np.float32) * np.float32(scale * ins**-0.5))

    def vector(self, name: str, size: int, mean: float) -> str:
        return self.weight(name, (mean + 0.1 * self.random.standard_normal(size)).astype(np.float32))

    # ---- layers -----------------------------------------------------------------------------------------------------

    def linear(self, x: str, name: str, ins: int, outs: int) -> str:
        weight = self.matrix(name, ins, outs)
        if self.spec.projections != "gemm":
            return self.add("MatMul", [x, weight])
        rows = self.add("Reshape", [x, self.ints(-1, ins)])
        y = self.add("Gemm", [rows, weight, self.vector(f"{name}.bias", outs, 0.0)])
        shape = self.add("Concat", [self.shape, self.ints(outs)], axis=0)
        return self.add("Reshape", [y, shape])

    def norm(self, x: str, name: str, size: int, skip: str = "") -> tuple[str, str]:
        """The norm of x (+ skip) and that sum."""
        gamma, kind = self.vector(name, size, 1.0), self.spec.norm
        if kind == "skip" and skip:
            op = "SkipSimplifiedLayerNormalization"
            normal = self.add(op, [x, skip, gamma], 4, MICROSOFT, epsilon=1e-5)
            return normal, f"{normal}.3"
        total = self.add("Add", [x, skip]) if skip else x
        if kind == "layer":
            beta = self.vector(f"{name}.beta", size, 0.0)
            return self.add("LayerNormalization", [total, gamma, beta], axis=-1, epsilon=1e-5), total
        return self.rms(total, gamma), total

    def rms(self, x: str, gamma: str) -> str:
        kind = self.spec.norm
        if kind == "op":
            return self.add("RMSNormalization", [x, gamma], axis=-1, epsilon=1e-5)
        if kind == "skip":
            return self.add("SimplifiedLayerNormalization", [x, gamma], axis=-1, epsilon=1e-5)
        square = self.add("Pow", [x, self.constant(2.0)])
        mean = self.add("ReduceMean", [square, self.ints(-1)], keepdims=1)
        shifted = self.add("Add", [mean, self.constant(1e-5)])
        if kind == "power":
            return self.add("Mul", [self.add("Mul", [x, self.add("Pow", [shifted, self.constant(-0.5)])]), gamma])
        root = self.add("Sqrt", [shifted])
        if kind == "divided":
            return self.add("Mul", [self.add("Div", [x, root]), gamma])
        return self.add("Mul", [gamma, self.add("Mul", [x, self.add("Reciprocal", [root])])])

    def split(self, x: str, heads: int) -> str:
        """[b, s, heads * d] -> [b, s, heads, d]."""
        return self.add("Reshape", [x, self.ints(0, 0, heads, self.spec.head_size)])

    def heads_first(self, x: str) -> str:
        return self.add("Transpose", [x], perm=[0, 2, 1, 3])

    # ---- what all layers share ----------------------------------------------------------------------------------------

    def begin(self, ids: str, mask: str) -> None:
        """Shapes, positions, angles and the mask, computed from the inputs as exporters do."""
        spec = self.spec
        self.shape = self.add("Shape", [ids])
        self.tokens = self.add("Gather", [self.shape, self.constant(1, np.int64)], axis=0)
        self.range = self.add("Range", [self.constant(0, np.int64), self.tokens, self.constant(1, np.int64)])
        if spec.rotary in ("half", "interleaved"):
            self._computed_angles()
        elif spec.rotary != "none":
            angle = np.arange(spec.positions)[:, None] * self._frequencies()
            self.cosines = self.weight("cosines", np.cos(angle).astype(np.float32))
            self.sines = self.weight("sines", np.sin(angle).astype(np.float32))
            self.places = self.add("Expand", [self.add("Unsqueeze", [self.range, self.ints(0)]), self.shape])
        if spec.mask != "operator":
            rows = self.add("Unsqueeze", [self.range, self.ints(1)])
            self.allowed = self.add("LessOrEqual", [self.range, rows])
            self.added = self.add("Where", [self.allowed, self.constant(0.0), self.constant(LOWEST)])
        self.keys = ""
        if spec.padding:
            wide = self.add("Cast", [self.add("Unsqueeze", [mask, self.ints(1, 2)])], to=TensorProto.FLOAT)
            missing = self.add("Sub", [self.constant(1.0), wide])
            self.keys = self.add("Mul", [missing, self.constant(LOWEST)])

    def _frequencies(self) -> Array:
        half = self.spec.rotated // 2
        return self.spec.base ** -(np.arange(half) / half)

    def _computed_angles(self) -> None:
        place = self.add("Cast", [self.add("Unsqueeze", [self.range, self.ints(0, 1)])], to=TensorProto.FLOAT)
        frequencies = self.constant(self._frequencies().reshape(1, -1, 1))
        angles = self.add("Transpose", [self.add("MatMul", [frequencies, place])], perm=[0, 2, 1])
        if self.spec.rotary == "half":
            angles = self.add("Concat", [angles, angles], axis=-1)
        wide = self.add("Unsqueeze", [angles, self.ints(1)])
        self.cosines, self.sines = self.add("Cos", [wide]), self.add("Sin", [wide])

    def rotated(self, x: str) -> str:
        """Heads [b, h, s, d] turned by the positions of their tokens."""
        spec = self.spec
        if spec.rotary == "none":
            return x
        if spec.rotary in ("op", "op_neighbours"):
            caches = [self.cosines, self.sines, self.places]
            pairs = int(spec.rotary == "op_neighbours")
            return self.add("RotaryEmbedding", [x, *caches], interleaved=pairs, rotary_embedding_dim=spec.turned)
        if spec.rotary == "contrib":
            inputs = [x, self.places, self.cosines, self.sines]
            return self.add("RotaryEmbedding", inputs, 1, MICROSOFT)
        turning = x
        if spec.turned:
            turning = self.slice(x, 0, spec.turned)
        turned = self._half(turning) if spec.rotary == "half" else self._neighbours(turning)
        if not spec.turned:
            return turned
        return self.add("Concat", [turned, self.slice(x, spec.turned, spec.head_size)], axis=-1)

    def slice(self, x: str, start: int, stop: int, step: int = 1) -> str:
        return self.add("Slice", [x, self.ints(start), self.ints(stop), self.ints(-1), self.ints(step)])

    def _half(self, x: str) -> str:
        size = self.spec.rotated
        other = self.add("Neg", [self.slice(x, size // 2, size)])
        swapped = self.add("Concat", [other, self.slice(x, 0, size // 2)], axis=-1)
        return self.add("Add", [self.add("Mul", [x, self.cosines]), self.add("Mul", [swapped, self.sines])])

    def _neighbours(self, x: str) -> str:
        size = self.spec.rotated
        even, odd = self.slice(x, 0, size, 2), self.slice(x, 1, size, 2)
        first = self.add("Sub", [self.add("Mul", [even, self.cosines]), self.add("Mul", [odd, self.sines])])
        second = self.add("Add", [self.add("Mul", [odd, self.cosines]), self.add("Mul", [even, self.sines])])
        pairs = [self.add("Unsqueeze", [part, self.ints(-1)]) for part in (first, second)]
        joined = self.add("Concat", pairs, axis=-1)
        return self.add("Reshape", [joined, self.ints(0, 0, 0, size)])

    # ---- blocks -----------------------------------------------------------------------------------------------------

    def attention(self, x: str, layer: str) -> str:
        spec = self.spec
        size, groups = spec.head_size, spec.kv_heads
        widths = [spec.heads * size, groups * size, groups * size]
        if spec.projections == "split":
            fused = self.add("MatMul", [x, self.matrix(f"{layer}.qkv", spec.hidden, sum(widths))])
            first = self.add("Split", [fused, self.ints(*widths)], 3, axis=-1)
            parts = [first, f"{first}.1", f"{first}.2"]
        else:
            parts = [self.linear(x, f"{layer}.{n}", spec.hidden, w) for n, w in zip("qkv", widths, strict=True)]
        q, k, v = (self.split(part, heads) for part, heads in zip(parts, (spec.heads, groups, groups), strict=True))
        if spec.heads_norm:
            q, k = (self.rms(part, self.vector(f"{layer}.{n}_norm", size, 1.0)) for part, n in ((q, "q"), (k, "k")))
        if spec.scale == "queries":
            q = self.add("Mul", [q, self.constant(size**-0.5)])
        q, k, v = self.rotated(self.heads_first(q)), self.rotated(self.heads_first(k)), self.heads_first(v)
        if spec.mask == "operator":
            context = self.add("Attention", [q, k, v, *([self.keys] if self.keys else [])], is_causal=1)
        else:
            context = self.products(q, k, v)
        merged = self.add("Reshape", [self.heads_first(context), self.ints(0, 0, spec.heads * size)])
        return self.linear(merged, f"{layer}.o", spec.heads * size, spec.hidden)

    def products(self, q: str, k: str, v: str) -> str:
        spec = self.spec
        k, v = self.repeated(k), self.repeated(v)
        scores = self.add("MatMul", [q, self.add("Transpose", [k], perm=[0, 1, 3, 2])])
        if spec.scale == "scores":
            scores = self.add("Mul", [scores, self.constant(spec.head_size**-0.5)])
        if spec.mask == "chosen":
            scores = self.add("Where", [self.allowed, scores, self.constant(LOWEST)])
        if self.keys:
            scores = self.add("Add", [scores, self.keys])
        if spec.mask in ("computed", "added"):
            scores = self.add("Add", [scores, self.added])
        return self.add("MatMul", [self.add("Softmax", [scores], axis=-1), v])

    def repeated(self, x: str) -> str:
        """Every head of k or v as often as heads of q share it."""
        spec = self.spec
        copies = spec.heads // spec.kv_heads
        if copies == 1:
            return x
        if spec.repeat == "gather":
            return self.add("Gather", [x, self.constant(np.repeat(np.arange(spec.kv_heads), copies), np.int64)], axis=1)
        wide = self.add("Expand", [self.add("Unsqueeze", [x, self.ints(2)]), self.ints(1, 1, copies, 1, 1)])
        size = self.add("Unsqueeze", [self.tokens, self.ints(0)])
        shape = self.add("Concat", [self.ints(0, spec.heads), size, self.ints(spec.head_size)], axis=0)
        return self.add("Reshape", [wide, shape])

    def feed_forward(self, x: str, layer: str) -> str:
        spec = self.spec
        gate = self.linear(x, f"{layer}.gate", spec.hidden, spec.intermediate)
        active = self.activation(gate)
        if spec.gate != "none":
            active = self.add("Mul", [active, self.linear(x, f"{layer}.up", spec.hidden, spec.intermediate)])
        return self.linear(active, f"{layer}.down", spec.intermediate, spec.hidden)

    def activation(self, x: str) -> str:
        if self.spec.gate == "silu":
            return self.add("Mul", [x, self.add("Sigmoid", [x])])
        cube = self.add("Mul", [self.add("Pow", [x, self.constant(3.0)]), self.constant(0.044715)])
        inner = self.add("Mul", [self.add("Add", [x, cube]), self.constant((2 / np.pi) ** 0.5)])
        one = self.add("Add", [self.add("Tanh", [inner]), self.constant(1.0)])
        return self.add("Mul", [self.add("Mul", [x, self.constant(0.5)]), one])

    def model(self) -> onnx.ModelProto:
        spec = self.spec
        inputs = ["input_ids", *(["attention_mask"] if spec.padding else [])]
        self.begin("input_ids", "attention_mask")
        table = self.random.standard_normal((spec.vocabulary, spec.hidden), np.float32)
        embeddings = self.weight("embed_tokens", table)
        x = self.add("Gather", [embeddings, "input_ids"])
        if spec.rotary == "none":
            places = self.weight("embed_positions", self.random.standard_normal((spec.positions, spec.hidden), np.float32))
            x = self.add("Add", [x, self.add("Gather", [places, self.add("Unsqueeze", [self.range, self.ints(0)])])])
        skip = ""
        for index in range(spec.layers):
            normal, x = self.norm(x, f"layers.{index}.norm", spec.hidden, skip)
            skip = self.attention(normal, f"layers.{index}.attn")
            normal, x = self.norm(x, f"layers.{index}.ffn_norm", spec.hidden, skip)
            skip = self.feed_forward(normal, f"layers.{index}.ffn")
        normal, _ = self.norm(x, "norm", spec.hidden, skip)
        if spec.tied:
            head = self.add("Transpose", [embeddings], perm=[1, 0])
        else:
            head = self.matrix("lm_head", spec.hidden, spec.vocabulary)
        self.nodes.append(helper.make_node("MatMul", [normal, head], ["logits"], name="lm_head"))
        shape = ["batch", "sequence"]
        graph = helper.make_graph(
            self.nodes,
            "decoder",
            [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in inputs],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*shape, spec.vocabulary])],
            self.initializers,
        )
        imports = [helper.make_opsetid("", spec.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def build(spec: Decoder) -> onnx.ModelProto:
    """The model with its weights inside."""
    return Builder(spec).model()


def write(spec: Decoder, path: Path, dtype: Literal["float32", "bfloat16"] = "float32") -> Path:
    """The model at `path`, its large weights in PATH.data; no more than one of them is in memory at a time."""
    beside = path.with_name(f"{path.name}.data")
    with beside.open("wb") as data:
        onnx.save(Builder(spec, data, beside.name, dtype).model(), path)
    return path


SIZES = {"llama-1b": LLAMA_1B, "llama-4-layers": replace(LLAMA_1B, layers=4), "tiny": Decoder()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("size", choices=list(SIZES))
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    print(write(SIZES[options.size], options.out, options.dtype))


if __name__ == "__main__":
    main()
