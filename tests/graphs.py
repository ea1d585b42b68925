"""Small BERT encoders as ONNX graphs, built by hand in the ways that exporters write them. No torch, no files.

One `Encoder` describes a model and its spelling; every spelling with the same seed computes the same function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]


@dataclass(frozen=True)
class Encoder:
    """Sizes of an encoder and how its parts are spelled."""

    hidden: int = 32
    heads: int = 4
    intermediate: int = 64
    layers: int = 1
    vocabulary: int = 50
    positions: int = 16
    seed: int = 0
    opset: int = 18
    token_types: Literal["input", "constant", "none"] = "input"
    position: Literal["lookup", "folded", "sliced"] = "lookup"
    """Sliced by the input's own length, as in a model that takes any: its reshapes then copy batch and tokens."""
    head: Literal["none", "mean", "pooler", "classifier"] = "none"
    layer_norm: Literal["op", "decomposed", "reciprocal"] = "op"
    gelu: Literal[
        "torchscript", "dynamo", "half_first", "op", "relu", "tanh", "tanh_cubed", "op_tanh", "quick", "silu", "softplus"
    ] = "torchscript"
    """Softplus has no instruction: the device pauses in the middle of every layer."""
    linear: Literal["matmul", "bias_first", "gemm", "transposed", "constant", "conv", "einsum"] = "matmul"
    weights: Literal["float", "rounded", "int8", "int8_tensor", "qdq", "uint8"] = "float"
    attention: Literal["scores", "sdpa", "batched"] = "scores"
    projections: Literal["separate", "split", "chosen", "interleaved"] = "separate"
    mask: Literal[
        "none",
        "1e4",
        "finfo",
        "where",
        "gathered",
        "masked_fill",
        "dropped",
        "clamped",
        "weak",
        "causal",
        "relative",
        "counted",
    ] = "finfo"
    """Dropped: a boolean that is true where a fill is put. Clamped: finfo, and no sum below it. Weak: too small to exclude
    anything. Relative: a stored number for every pair of places and head, and 1e4. Counted:
    finfo, and a slope of every head times how many words stand before a key (with attention "batched" only)."""
    names: Literal["paths", "numbers"] = "paths"

    @property
    def width(self) -> int:
        return self.hidden // self.heads


def rounded(matrix: Array, *, per_row: bool) -> tuple[Array, Array]:
    """int8 codes and scales, [rows, 1] or [1, 1], of a matrix."""
    absmax = np.abs(matrix).max(axis=1 if per_row else None, keepdims=True)
    scale = (absmax / 127).astype(np.float32)
    return np.clip(np.rint(matrix / scale), -127, 127).astype(np.int8), scale


@dataclass
class GraphBuilder:
    """Nodes and initializers under construction; every method returns a tensor name."""

    spec: Encoder
    batch: int
    tokens: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.spec.seed)

    def new(self, op: str, path: str) -> str:
        self.count += 1
        return f"/{path}/{op}_{self.count}" if self.spec.names == "paths" else f"val_{self.count}"

    def op(self, op: str, inputs: Sequence[str], path: str = "model", **attributes: Any) -> str:
        name = self.new(op, path)
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}_output"], name=name, **attributes))
        return f"{name}_output"

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = self.new("constant", "constants")
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def parameter(self, name: str, *shape: int, scale: float = 1.0, offset: float = 0.0) -> str:
        values = (self.random.standard_normal(shape) * scale + offset).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def stored(self, name: str) -> Array:
        return numpy_helper.to_array(next(weight for weight in self.weights if weight.name == name))

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", [x, self.constant(shape, np.int64)])

    # ---- layers -----------------------------------------------------------------------------------------------

    def linear(self, x: str, name: str, outs: int, ins: int) -> str:
        """y = x W^T + b; the random numbers drawn do not depend on the spelling."""
        matrix = (self.random.standard_normal((outs, ins)) / np.sqrt(ins)).astype(np.float32)
        bias = self.parameter(f"{name}.bias", outs, scale=0.1)
        is_oi = self.spec.linear in ("gemm", "transposed", "conv", "einsum")
        weight = self.matrix(matrix, f"{name}.weight", is_oi)
        if self.spec.linear == "gemm":
            flat = self.reshape(x, -1, ins)
            y = self.op("Gemm", [flat, weight, bias], name, transB=1)
            return self.reshape(y, self.batch, -1, outs) if "head" not in name else y
        if self.spec.linear == "conv" and "head" not in name:
            y = self.op("Conv", [self.op("Transpose", [x], name, perm=[0, 2, 1]), weight, bias], name)
            return self.op("Transpose", [y], name, perm=[0, 2, 1])
        if self.spec.linear == "einsum" and "head" not in name:
            return self.op("Add", [self.op("Einsum", [x, weight], name, equation="bsi,oi->bso"), bias], name)
        right = self.op("Transpose", [weight], name, perm=[1, 0]) if is_oi else weight
        y = self.op("MatMul", [x, right], name)
        return self.op("Add", [bias, y] if self.spec.linear == "bias_first" else [y, bias], name)

    def matrix(self, matrix: Array, name: str, is_oi: bool) -> str:
        """A weight out x in as the spelling stores it: how it is laid out, and what kind of numbers it is made of."""
        spec = self.spec
        if spec.weights != "float":
            codes, scale = rounded(matrix, per_row=spec.weights not in ("int8_tensor", "uint8"))
            if spec.weights != "rounded":
                turn = codes if is_oi else codes.T
                return self.dequantized(np.ascontiguousarray(turn), scale if is_oi else scale.T, name)
            matrix = codes.astype(np.float32) * scale
        array = np.ascontiguousarray(matrix if is_oi else matrix.T)
        if spec.linear == "conv" and "head" not in name:
            array = array[..., None]
        proto = numpy_helper.from_array(array, name)
        if spec.linear == "constant":
            self.nodes.append(helper.make_node("Constant", [], [name], name=f"{name}.node", value=proto))
        else:
            self.weights.append(proto)
        return name

    def dequantized(self, codes: Array, scale: Array, name: str) -> str:
        """Integer codes and what makes floats of them."""
        factor = self.constant(scale)
        if self.spec.weights == "uint8":
            shifted = numpy_helper.from_array((codes.astype(np.int16) + 128).astype(np.uint8), f"{name}_q")
            self.weights.append(shifted)
            cast = self.op("Cast", [f"{name}_q"], name, to=TensorProto.FLOAT)
            return self.op("Mul", [self.op("Sub", [cast, self.constant(128.0)], name), factor], name)
        self.weights.append(numpy_helper.from_array(codes, f"{name}_q"))
        if self.spec.weights == "qdq":
            flat = self.constant(scale.reshape(-1))
            return self.op("DequantizeLinear", [f"{name}_q", flat], name, axis=int(scale.shape[1] > 1))
        cast = self.op("Cast", [f"{name}_q"], name, to=TensorProto.FLOAT)
        return self.op("Mul", [cast, factor] if "query" in name else [factor, cast], name)

    def layer_norm(self, x: str, name: str) -> str:
        gamma = self.parameter(f"{name}.gamma", self.spec.hidden, scale=0.1, offset=1.0)
        beta = self.parameter(f"{name}.beta", self.spec.hidden, scale=0.1)
        if self.spec.layer_norm == "op":
            return self.op("LayerNormalization", [x, gamma, beta], name, axis=-1, epsilon=1e-12)
        axes = self.constant([-1], np.int64)
        centred = self.op("Sub", [x, self.op("ReduceMean", [x, axes], name)], name)
        squared = self.op("Pow", [centred, self.constant(2.0)], name)
        variance = self.op("ReduceMean", [squared, axes], name)
        deviation = self.op("Sqrt", [self.op("Add", [variance, self.constant(1e-12)], name)], name)
        if self.spec.layer_norm == "reciprocal":
            normal = self.op("Mul", [self.op("Reciprocal", [deviation], name), centred], name)
        else:
            normal = self.op("Div", [centred, deviation], name)
        return self.op("Add", [self.op("Mul", [gamma, normal], name), beta], name)

    def activation(self, x: str, name: str) -> str:
        if self.spec.gelu == "relu":
            return self.op("Relu", [x], name)
        if self.spec.gelu == "softplus":
            return self.op("Softplus", [x], name)
        if self.spec.gelu == "op":
            return self.op("Gelu", [x], name)
        if self.spec.gelu == "op_tanh":
            return self.op("Gelu", [x], name, approximate="tanh")
        if self.spec.gelu in ("quick", "silu"):
            scaled = self.op("Mul", [x, self.constant(1.702)], name) if self.spec.gelu == "quick" else x
            return self.op("Mul", [x, self.op("Sigmoid", [scaled], name)], name)
        if self.spec.gelu in ("tanh", "tanh_cubed"):
            return self.gelu_by_tanh(x, name)
        erf = self.op("Erf", [self.op("Div", [x, self.constant(np.sqrt(2.0))], name)], name)
        shifted = self.op("Add", [erf, self.constant(1.0)], name)
        half = self.constant(0.5)
        if self.spec.gelu == "torchscript":
            return self.op("Mul", [self.op("Mul", [x, shifted], name), half], name)
        if self.spec.gelu == "dynamo":
            return self.op("Mul", [x, self.op("Mul", [half, shifted], name)], name)
        return self.op("Mul", [self.op("Mul", [x, half], name), shifted], name)

    def gelu_by_tanh(self, x: str, name: str) -> str:
        """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), the cube as a power or as a product."""
        if self.spec.gelu == "tanh":
            cube = self.op("Pow", [x, self.constant(3.0)], name)
        else:
            cube = self.op("Mul", [self.op("Mul", [x, x], name), x], name)
        inner = self.op("Add", [x, self.op("Mul", [self.constant(0.044715), cube], name)], name)
        tanh = self.op("Tanh", [self.op("Mul", [inner, self.constant(np.sqrt(2 / np.pi))], name)], name)
        half = self.op("Mul", [self.constant(0.5), x], name)
        return self.op("Mul", [half, self.op("Add", [self.constant(1.0), tanh], name)], name)

    # ---- attention --------------------------------------------------------------------------------------------

    def mask(self) -> str | None:
        """The tensor that is added to scores, or the boolean that keeps them, made once."""
        spec, b, s = self.spec, self.batch, self.tokens
        if spec.mask == "none":
            return None
        if spec.mask == "gathered":
            index = np.stack(np.meshgrid(np.arange(b), [0], [0], np.arange(s), indexing="ij"), -1)
            flags = self.op("Cast", ["attention_mask"], "mask", to=TensorProto.BOOL)
            gathered = self.op("GatherND", [flags, self.constant(index[..., [0, 3]], np.int64)], "mask")
            keep = self.op("And", [self.constant(np.ones((1, 1, s, 1)), np.bool_), gathered], "mask")
            return self.op("Where", [keep, self.constant(0.0), self.constant(-np.inf)], "mask")
        wide = self.op("Unsqueeze", ["attention_mask", self.constant([1, 2], np.int64)], "mask")
        if spec.mask == "masked_fill":
            return self.op(
                "Expand", [self.op("Cast", [wide], "mask", to=TensorProto.BOOL), self.constant([b, 1, s, s], np.int64)]
            )
        if spec.mask in ("where", "dropped"):
            flags = self.op("Equal", [wide, self.constant(0, np.int64)], "mask")
            if spec.mask == "dropped":
                return self.op("Expand", [flags, self.constant([b, 1, s, s], np.int64)], "mask")
            return self.op("Where", [flags, self.constant([-np.inf]), self.constant([0.0])], "mask")
        cleared = self.op("Sub", [self.constant(1.0), self.op("Cast", [wide], "mask", to=TensorProto.FLOAT)], "mask")
        fill = {"1e4": -1e4, "relative": -1e4, "weak": -3.0}.get(spec.mask, np.finfo(np.float32).min)
        added = self.op("Mul", [cleared, self.constant(fill)], "mask")
        if spec.mask == "relative":
            return self.op("Add", [added, self.parameter("relative.bias", 1, spec.heads, s, s)], "mask")
        if spec.mask != "causal":
            return added
        above = np.triu(np.full((1, 1, s, s), -1e9), 1)
        return self.op("Add", [added, self.constant(above)], "mask")

    def slopes(self) -> str:
        """ALiBi as it is added to scores [b * h, s, s]: what a head makes of the number of words before a key."""
        ones = self.op("CumSum", ["attention_mask", self.constant(1, np.int64)], "alibi")
        before = self.op("Cast", [self.op("Mul", [ones, "attention_mask"], "alibi")], "alibi", to=TensorProto.FLOAT)
        heads = self.constant(0.5 ** np.arange(self.spec.heads)[:, None])
        wide = self.op("Mul", [heads, self.op("Unsqueeze", [before, self.constant([1], np.int64)], "alibi")], "alibi")
        return self.reshape(wide, self.batch * self.spec.heads, 1, self.tokens)

    def split(self, x: str, perm: Sequence[int]) -> str:
        b, s, spec = self.batch, self.tokens, self.spec
        lead = (0, 0) if spec.position == "sliced" else (b, s)
        return self.op("Transpose", [self.reshape(x, *lead, spec.heads, spec.width)], perm=list(perm))

    def fused_projections(self, x: str, name: str) -> tuple[str, str, str]:
        """One linear for q, k and v of the separate ones' numbers; [b, h, s, d] each."""
        spec = self.spec
        b, s, h, d = self.batch, self.tokens, spec.heads, spec.width
        names = [f"{name}.{part}" for part in ("query", "key", "value")]
        weights = [self.stored(f"{part}.weight") for part in names]
        biases = [self.stored(f"{part}.bias") for part in names]
        axis = 1 if spec.projections == "interleaved" else 0  # [3, h, d] or [h, 3, d]
        self.weights = [w for w in self.weights if not any(w.name.startswith(part) for part in names)]
        self.nodes = [n for n in self.nodes if not any(i.startswith(part) for i in n.input for part in names)]
        weight = np.stack([w.reshape(-1, h, d) for w in weights], axis + 1).reshape(spec.hidden, -1)
        bias = np.stack([v.reshape(h, d) for v in biases], axis).reshape(-1)
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(weight), f"{name}.qkv.weight"))
        self.weights.append(numpy_helper.from_array(bias, f"{name}.qkv.bias"))
        y = self.op("Add", [self.op("MatMul", [x, f"{name}.qkv.weight"], name), f"{name}.qkv.bias"], name)
        if spec.projections == "split":
            sizes = self.constant([spec.hidden] * 3, np.int64)
            parts = [f"{name}.{part}" for part in "qkv"]
            self.nodes.append(helper.make_node("Split", [y, sizes], parts, name=f"{name}.split", axis=-1))
            q, k, v = (self.split(part, (0, 2, 1, 3)) for part in parts)
            return q, k, v
        shape = [b, s, 3, h, d] if spec.projections == "chosen" else [b, s, h, 3, d]
        order = [2, 0, 3, 1, 4] if spec.projections == "chosen" else [3, 0, 2, 1, 4]
        turned = self.op("Transpose", [self.reshape(y, *shape)], name, perm=order)
        q, k, v = (self.op("Gather", [turned, self.constant(index, np.int64)], name, axis=0) for index in range(3))
        return q, k, v

    def attention(self, x: str, name: str, mask: str | None) -> str:
        spec = self.spec
        b, s, h, d = self.batch, self.tokens, spec.heads, spec.width
        q, k, v = (self.linear(x, f"{name}.{part}", spec.hidden, spec.hidden) for part in ("query", "key", "value"))
        if spec.projections == "separate":
            q4, k4, v4 = self.split(q, (0, 2, 1, 3)), self.split(k, (0, 2, 3, 1)), self.split(v, (0, 2, 1, 3))
        else:
            q4, k4, v4 = self.fused_projections(x, name)
            k4 = self.op("Transpose", [k4], name, perm=[0, 1, 3, 2])
        if spec.attention == "sdpa":
            root = self.constant(d**-0.25)
            k4 = self.split(k, (0, 2, 1, 3))
            k4 = self.op("Transpose", [self.reshape(k4, b * h, s, d)], perm=[0, 2, 1])
            k4 = self.op("Mul", [self.reshape(k4, b, h, d, s), root], name)
            scores = self.op("MatMul", [self.op("Mul", [q4, root], name), k4], name)
        elif spec.attention == "batched":
            product = self.op("MatMul", [self.reshape(q4, b * h, s, d), self.reshape(k4, b * h, d, s)], name)
            scores = self.op("Mul", [product, self.constant([d**-0.5])], name)
            if spec.mask == "counted":
                scores = self.reshape(self.op("Add", [self.slopes(), scores], name), b, h, s, s)
        else:
            scores = self.op("Div", [self.op("MatMul", [q4, k4], name), self.constant(np.sqrt(d))], name)
        if mask is not None and spec.mask == "masked_fill":
            scores = self.op("Where", [mask, scores, self.constant(-1e30)], name)
        elif mask is not None and spec.mask == "dropped":
            scores = self.op("Where", [mask, self.constant(-1e30), scores], name)
        elif mask is not None:
            scores = self.op("Add", [scores, mask], name)
        if spec.mask == "clamped":
            scores = self.op("Max", [scores, self.constant(np.finfo(np.float32).min)], name)
        p = self.op("Softmax", [scores], name, axis=-1)
        if spec.attention == "sdpa":
            p = self.op("Where", [self.op("IsNaN", [p], name), self.constant(0.0), p], name)
        if spec.attention == "batched":
            p = self.reshape(p, b * h, s, s) if spec.mask == "counted" else p
            context = self.reshape(self.op("MatMul", [p, self.reshape(v4, b * h, s, d)], name), b, h, s, d)
        else:
            context = self.op("MatMul", [p, v4], name)
        lead = (0, 0) if spec.position == "sliced" else (b, s)
        merged = self.reshape(self.op("Transpose", [context], name, perm=[0, 2, 1, 3]), *lead, spec.hidden)
        return self.linear(merged, f"{name}.output", spec.hidden, spec.hidden)

    # ---- the model ----------------------------------------------------------------------------------------------

    def embedding(self) -> str:
        spec, s = self.spec, self.tokens
        words = self.parameter("embeddings.word", spec.vocabulary, spec.hidden)
        if spec.weights in ("rounded", "int8"):  # a scale per word, as one int8 export has it
            codes, scale = rounded(self.stored(words), per_row=True)
            self.weights = [weight for weight in self.weights if weight.name != words]
            if spec.weights == "rounded":
                self.weights.append(numpy_helper.from_array(codes.astype(np.float32) * scale, words))
            else:
                words = self.dequantized(codes, scale, words)
        positions = self.parameter("embeddings.position", spec.positions, spec.hidden)
        types = self.parameter("embeddings.type", 2, spec.hidden)
        total = self.op("Gather", [words, "input_ids"], "embeddings")
        if spec.token_types != "none":
            ids = "token_type_ids" if spec.token_types == "input" else self.constant(np.zeros((self.batch, s)), np.int64)
            total = self.op("Add", [total, self.op("Gather", [types, ids], "embeddings")], "embeddings")
        if spec.position == "sliced":
            shape = self.op("Shape", ["input_ids"], "embeddings")
            length = self.op("Gather", [shape, self.constant([1], np.int64)], "embeddings")
            buffer = self.constant(np.arange(spec.positions)[None], np.int64)
            begin, axis = self.constant([0], np.int64), self.constant([1], np.int64)
            ids = self.op("Slice", [buffer, begin, length, axis], "embeddings")
            return self.op("Add", [total, self.op("Gather", [positions, ids], "embeddings")], "embeddings")
        if spec.position == "folded":
            rows = self.constant(self.stored(positions)[None, :s])
            return self.op("Add", [total, rows], "embeddings")
        rows = self.op("Gather", [positions, self.constant(np.arange(s)[None], np.int64)], "embeddings")
        return self.op("Add", [total, rows], "embeddings")

    def mean_pool(self, x: str) -> str:
        shape = self.constant([self.batch, self.tokens, self.spec.hidden], np.int64)
        mask = self.op("Unsqueeze", ["attention_mask", self.constant([-1], np.int64)], "pool")
        mask = self.op("Cast", [self.op("Expand", [mask, shape], "pool")], "pool", to=TensorProto.FLOAT)
        axes = self.constant([1], np.int64)
        total = self.op("ReduceSum", [self.op("Mul", [x, mask], "pool"), axes], "pool", keepdims=0)
        count = self.op("ReduceSum", [mask, axes], "pool", keepdims=0)
        return self.op("Div", [total, self.op("Clip", [count, self.constant(1e-9)], "pool")], "pool")

    def pooler(self, x: str) -> str:
        first = self.op("Gather", [x, self.constant(0, np.int64)], "pooler", axis=1)
        return self.op("Tanh", [self.linear(first, "head.pooler", self.spec.hidden, self.spec.hidden)], "pooler")

    def encode(self) -> list[tuple[str, list[int]]]:
        """Build the model and return its outputs with their shapes."""
        spec, b, s = self.spec, self.batch, self.tokens
        mask = self.mask()
        x = self.layer_norm(self.embedding(), "embeddings.norm")
        for index in range(spec.layers):
            name = f"layer.{index}"
            attended = self.op("Add", [self.attention(x, f"{name}.attention", mask), x], name)
            x = self.layer_norm(attended, f"{name}.attention.norm")
            up = self.activation(self.linear(x, f"{name}.up", spec.intermediate, spec.hidden), name)
            x = self.layer_norm(
                self.op("Add", [self.linear(up, f"{name}.down", spec.hidden, spec.intermediate), x], name),
                f"{name}.norm",
            )
        outputs = [(x, [b, s, spec.hidden])]
        if spec.head == "mean":
            outputs.append((self.mean_pool(x), [b, spec.hidden]))
        if spec.head in ("pooler", "classifier"):
            outputs.append((self.pooler(x), [b, spec.hidden]))
        if spec.head == "classifier":
            outputs = [(self.linear(outputs[1][0], "head.classifier", 3, spec.hidden), [b, 3])]
        return outputs


def inputs_of(spec: Encoder) -> list[str]:
    """Graph inputs in order; a mask that nothing reads is left out."""
    names = ["input_ids"]
    if spec.mask != "none" or spec.head == "mean":
        names.append("attention_mask")
    if spec.token_types == "input":
        names.append("token_type_ids")
    return names


def build(spec: Encoder, batch: int, tokens: int, *, symbolic: bool = False) -> onnx.ModelProto:
    """The model for one static shape. With `symbolic`, its inputs are declared as [batch, sequence] all the same."""
    graph = GraphBuilder(spec, batch, tokens)
    outputs = graph.encode()
    dims = ["batch", "sequence"] if symbolic else [batch, tokens]
    proto = helper.make_graph(
        graph.nodes,
        "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, dims) for name in inputs_of(spec)],
        [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT, [*dims, *shape[2:]] if spec.position == "sliced" else shape
            )
            for name, shape in outputs
        ],
        graph.weights,
    )
    opset = max(spec.opset, 20) if spec.gelu in ("op", "op_tanh") else spec.opset
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def write(spec: Encoder, path: Path, batch: int = 2, tokens: int = 8, *, symbolic: bool = False) -> Path:
    """Save the model and return its path."""
    onnx.save(build(spec, batch, tokens, symbolic=symbolic), str(path))
    return path


def feeds(spec: Encoder, batch: int = 2, tokens: int = 8, seed: int = 1) -> dict[str, Array]:
    """Random ids, padding at the end of every sample but never a whole one."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, tokens + 1, batch)
    arrays: dict[str, Array] = {
        "input_ids": random.integers(0, spec.vocabulary, (batch, tokens)),
        "attention_mask": (np.arange(tokens)[None] < lengths[:, None]).astype(np.int64),
        "token_type_ids": random.integers(0, 2, (batch, tokens)),
    }
    return {name: arrays[name] for name in inputs_of(spec)}
