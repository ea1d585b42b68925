"""Convolutions as products over patches, in the ONNX graph: windows that do not overlap and such that do, padded, strided,
dilated, in groups.

The patches are cut by Gather, Reshape and Transpose nodes, which move data and run on the host; the product is a linear
layer for the accelerator. What is done element by element behind it is done before the channels are put in front again, so
that an activation stands right behind its linear layer. The rewrite stands before import because host segments are cut out
of the ONNX graph by tensor names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from compiler.frontend.rewrite import REASON

LEAST_CHANNELS = 4
"""Channels of a group below which its products are too narrow for the array (depthwise convolutions)."""
MOST_ELEMENTS = 1 << 26
"""Elements of all patches together: windows that overlap repeat their input, here up to 256 MiB of it."""

MOST_MERGED = 4
"""Groups of a convolution over single positions that are computed as one product, with zeros between the groups."""

ELEMENTWISE = frozenset(
    ("Add", "Sub", "Mul", "Div", "Pow", "Erf", "Tanh", "Sigmoid", "Relu", "Gelu", "Neg", "Sqrt", "Softplus", "Clip")
)
"""Operators that may change places with a movement of data, where their other operands are single numbers."""


def cut_patches(model: ir.Model) -> None:
    """Rewrite, in place, every convolution with a constant kernel and static shapes that pays as a product."""
    spread: dict[ir.Value, Spread] = {}
    for node in list(model.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Conv":
            geometry = Geometry.of(node)
            if geometry is None or geometry.is_pointwise:
                continue
            if geometry.merges:
                _merge_groups(model, node, geometry)
                continue
            if reason := geometry.refusal:
                node.meta[REASON] = reason
                continue
            rewriting = _Rewriting(model, node, geometry)
            rewriting.run()
            spread[rewriting.result] = Spread(rewriting.flat, geometry)
        elif node.op_type in ELEMENTWISE and any(value in spread for value in node.inputs if value is not None):
            _move_before(model, node, spread)
    if spread:
        RemoveUnusedNodesPass()(model)


def _static(value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(size) for size in value.shape.numpy())


@dataclass(frozen=True)
class Geometry:
    """A convolution of x [b, c, *space] by a kernel [o, c / groups, *window]: (before, after) of zeros, step and distance of
    the window's places for every axis of space."""

    source: tuple[int, ...]
    kernel: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, node: ir.Node) -> Geometry | None:
        """None where shapes or kernel are not known."""
        source, kernel = _static(node.inputs[0]), node.inputs[1]
        window = None if kernel is None or kernel.const_value is None else _static(kernel)
        if source is None or window is None or len(window) < 3 or len(source) != len(window):
            return None
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        rank = len(window) - 2
        strides = tuple(int(step) for step in attributes.get("strides") or (1,) * rank)
        dilations = tuple(int(step) for step in attributes.get("dilations") or (1,) * rank)
        spans = [step * (size - 1) + 1 for step, size in zip(dilations, window[2:], strict=True)]
        auto = attributes.get("auto_pad", "NOTSET")
        auto = auto.decode() if isinstance(auto, bytes) else str(auto)
        if auto.startswith("SAME"):
            pads = tuple(_same(*sizes, auto == "SAME_UPPER") for sizes in zip(source[2:], spans, strides, strict=True))
        else:
            listed = (
                [int(size) for size in attributes.get("pads") or (0,) * (2 * rank)] if auto == "NOTSET" else [0] * 2 * rank
            )
            pads = tuple(zip(listed[:rank], listed[rank:], strict=True))
        found = cls(source, window, pads, strides, dilations, int(attributes.get("group") or 1))
        return found if min(found.counts) > 0 and min(listed for pair in pads for listed in pair) >= 0 else None

    @property
    def window(self) -> tuple[int, ...]:
        return self.kernel[2:]

    @property
    def counts(self) -> tuple[int, ...]:
        """Places of the window along every axis."""
        return tuple(
            (size + sum(pads) - step * (width - 1) - 1) // stride + 1
            for size, pads, step, width, stride in zip(
                self.source[2:], self.pads, self.dilations, self.window, self.strides, strict=True
            )
        )

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a product over the channels already (compiler/frontend/operators.py)."""
        return math.prod(self.window) == 1 == self.groups and set(self.strides) == {1} and not self.is_padded

    @property
    def merges(self) -> bool:
        """Whether few groups of products over the channels become one: zeros cost less than a trip to the host for each."""
        return 1 < self.groups <= MOST_MERGED and math.prod(self.window) == 1 == max(self.strides) and not self.is_padded

    @property
    def is_padded(self) -> bool:
        return any(size for pair in self.pads for size in pair)

    @property
    def is_cut(self) -> bool:
        """Whether the windows tile the input: then they are cut out by reshapes alone."""
        exact = all(size % step == 0 for size, step in zip(self.source[2:], self.strides, strict=True))
        return self.strides == self.window and set(self.dilations) == {1} and not self.is_padded and exact

    @property
    def refusal(self) -> str:
        """Why it does not pay as a product, empty if it does."""
        if self.groups > 1 and self.kernel[1] < LEAST_CHANNELS:
            return f"a convolution of {self.kernel[1]} channels a group"
        elements = self.source[0] * math.prod(self.counts) * self.source[1] * math.prod(self.window)
        if elements > MOST_ELEMENTS and not self.is_cut:
            return f"a convolution whose patches overlap to {elements * 4 / 2**20:,.0f} MiB"
        return ""


def _same(size: int, span: int, stride: int, upper: bool) -> tuple[int, int]:
    """Zeros before and after that give ceil(size / stride) places (auto_pad SAME_UPPER, SAME_LOWER)."""
    total = max((-(-size // stride) - 1) * stride + span - size, 0)
    less, more = total // 2, total - total // 2
    return (less, more) if upper else (more, less)


@dataclass(frozen=True)
class Spread:
    """What a tensor [b, o, *counts] was before its channels were put in front: [b, places, o]."""

    flat: ir.Value
    geometry: Geometry


@dataclass
class _Nodes:
    """New nodes for the place of an old one, with shapes, so that whatever comes later knows them."""

    model: ir.Model
    node: ir.Node
    new: list[ir.Node] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.node.name or str(self.node.outputs[0].name)

    def op(
        self, op_type: str, inputs: list[ir.Value | None], label: str, shape: list[int], **attributes: object
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes, name=f"{self.name}.{label}")  # pyright: ignore[reportArgumentType]
        value = node.outputs[0]
        value.name, value.type, value.shape = f"{self.name}.{label}", ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
        self.new.append(node)
        return value

    def transpose(self, x: ir.Value, perm: list[int], label: str) -> ir.Value:
        shape = _static(x)
        assert shape is not None
        return self.op("Transpose", [x], label, [shape[axis] for axis in perm], perm=perm)

    def reshape(self, x: ir.Value, shape: list[int], label: str) -> ir.Value:
        sizes = self.constant(np.array(shape, np.int64), f"{self.name}.{label}.shape")
        return self.op("Reshape", [x, sizes], label, shape)

    def gather(self, x: ir.Value, indices: np.ndarray, axis: int, label: str) -> ir.Value:
        shape = _static(x)
        assert shape is not None
        places = self.constant(indices.astype(np.int64), f"{self.name}.{label}.places")
        return self.op("Gather", [x, places], label, [*shape[:axis], *indices.shape, *shape[axis + 1 :]], axis=axis)

    def constant(self, array: np.ndarray, name: str) -> ir.Value:
        name = name if name not in self.model.graph.initializers else f"{name}.rows"
        tensor = ir.tensor(np.ascontiguousarray(array), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self.model.graph.register_initializer(value)
        return value

    def channels_first(self, flat: ir.Value, geometry: Geometry) -> ir.Value:
        """[b, places, o] -> [b, o, *counts]."""
        y = self.transpose(flat, [0, 2, 1], "channels")
        if len(geometry.counts) == 1:
            return y
        return self.reshape(y, [geometry.source[0], geometry.kernel[0], *geometry.counts], "place")

    def replace(self, result: ir.Value) -> None:
        output = self.node.outputs[0]
        result.type, result.shape, result.name = output.type, output.shape or result.shape, output.name
        self.model.graph.insert_before(self.node, self.new)
        ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
        self.model.graph.remove(self.node, safe=True)


def _merge_groups(model: ir.Model, node: ir.Node, geometry: Geometry) -> None:
    """A kernel [o, c / groups, 1...] of groups -> one of all channels, zero where a group does not reach."""
    kernel = node.inputs[1]
    assert kernel is not None
    assert kernel.const_value is not None
    rows = kernel.const_value.numpy()
    outs, ins = len(rows) // geometry.groups, geometry.kernel[1]
    whole = np.zeros((len(rows), geometry.groups * ins, *geometry.window), rows.dtype)
    for group in range(geometry.groups):
        part = slice(group * outs, (group + 1) * outs)
        whole[part, group * ins : (group + 1) * ins] = rows[part]
    node.replace_input_with(1, _Nodes(model, node).constant(whole, f"{kernel.name}.whole"))
    node.attributes["group"] = ir.AttrInt64("group", 1)


class _Rewriting(_Nodes):
    """x [b, c, *space] -> patches [b, places, c * window] -> times W^T, plus the bias -> [b, o, *counts], group by group."""

    def __init__(self, model: ir.Model, node: ir.Node, geometry: Geometry) -> None:
        super().__init__(model, node)
        self.geometry = geometry

    def run(self) -> None:
        x, kernel = self.node.inputs[0], self.node.inputs[1]
        bias = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        assert x is not None
        assert kernel is not None
        assert kernel.const_value is not None
        g, groups = self.geometry, self.geometry.groups
        rows = kernel.const_value.numpy().reshape(g.kernel[0], -1)
        cut = self._cut(x)
        results: list[ir.Value] = []
        for group in range(groups):
            label = "" if groups == 1 else f".{group}"
            own = cut
            if groups > 1:
                own = self.gather(cut, np.arange(g.kernel[1]) + group * g.kernel[1], 1, f"group{label}")
            outs = g.kernel[0] // groups
            part = slice(group * outs, (group + 1) * outs)
            results.append(self._product(self._patches(own, label), rows[part], f"{kernel.name}{label}", label))
        shape = [g.source[0], math.prod(g.counts), g.kernel[0]]
        y = results[0] if groups == 1 else self.op("Concat", list(results), "groups", shape, axis=2)
        self.flat = y if bias is None else self.op("Add", [y, bias], "bias", shape)
        self.result = self.channels_first(self.flat, g)
        self.replace(self.result)

    def _product(self, patches: ir.Value, rows: np.ndarray, name: str, label: str) -> ir.Value:
        shape = _static(patches)
        assert shape is not None
        turned = self.transpose(self.constant(rows, name), [1, 0], f"turn{label}")
        return self.op("MatMul", [patches, turned], f"product{label}", [*shape[:2], len(rows)])

    def _cut(self, x: ir.Value) -> ir.Value:
        """[b, c, *space] -> [b, c, places, window, places, window ...]."""
        g, shape = self.geometry, _static(x)
        assert shape is not None
        if g.is_cut:
            split = [*shape[:2], *(n for pair in zip(g.counts, g.window, strict=True) for n in pair)]
            return self.reshape(x, split, "cut")
        cut = self._padded(x)
        for axis in range(len(g.window)):
            starts = np.arange(g.counts[axis])[:, None] * g.strides[axis]
            steps = np.arange(g.window[axis])[None] * g.dilations[axis]
            cut = self.gather(cut, starts + steps, 2 + 2 * axis, f"cut.{axis}")
        return cut

    def _patches(self, cut: ir.Value, label: str) -> ir.Value:
        """[b, places, c * window]."""
        g, shape = self.geometry, _static(cut)
        assert shape is not None
        rank = len(g.window)
        positions, inside = range(2, 2 + 2 * rank, 2), range(3, 3 + 2 * rank, 2)
        moved = self.transpose(cut, [0, *positions, 1, *inside], f"move{label}")
        return self.reshape(moved, [shape[0], math.prod(g.counts), shape[1] * math.prod(g.window)], f"patches{label}")

    def _padded(self, x: ir.Value) -> ir.Value:
        """Zeros put before and behind along every axis."""
        for axis, pads in enumerate(self.geometry.pads, 2):
            shape = _static(x)
            assert shape is not None
            zeros: list[ir.Value | None] = [None, None]
            for side, size in enumerate(pads):
                if size:
                    array = np.zeros((*shape[:axis], size, *shape[axis + 1 :]), np.float32)
                    zeros[side] = self.constant(array, f"{self.name}.zeros.{axis}.{side}")
            parts = [part for part in (zeros[0], x, zeros[1]) if part is not None]
            if len(parts) > 1:
                whole = [*shape[:axis], shape[axis] + sum(pads), *shape[axis + 1 :]]
                x = self.op("Concat", list(parts), f"pad.{axis}", whole, axis=axis)
        return x


def _move_before(model: ir.Model, node: ir.Node, spread: dict[ir.Value, Spread]) -> None:
    """elementwise(channels first(y)) -> channels first(elementwise(y)), if all operands are such or single numbers."""
    found = [spread.get(value) for value in node.inputs if value is not None]
    known = [entry for entry in found if entry is not None]
    singles = all(
        value is None or value in spread or (value.const_value is not None and value.const_value.size == 1)
        for value in node.inputs
    )
    geometry = known[0].geometry
    if not singles or len(node.outputs) != 1 or any(entry.geometry.counts != geometry.counts for entry in known):
        return
    nodes = _Nodes(model, node)
    flat = _static(known[0].flat)
    if flat is None or any(_static(entry.flat) != flat for entry in known):
        return
    inputs = [spread[value].flat if value in spread else value for value in node.inputs]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    y = nodes.op(node.op_type, inputs, "flat", list(flat), **attributes)
    result = nodes.channels_first(y, geometry)
    nodes.replace(result)
    spread[result] = Spread(y, geometry)
