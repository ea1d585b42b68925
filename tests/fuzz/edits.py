"""Ways to damage a file: any bytes, any text, any protobuf, any JSON document, a program. All draw from `random` alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

NUMBERS = [0, 1, 2, 3, 5, 8, 16, 33, 64, 255, 4096, 65535, 1 << 20, (1 << 24) - 1, 1 << 31, (1 << 32) - 1]
INTEGERS = [*NUMBERS, -1, -2, -(1 << 31), 1 << 40, (1 << 62), (1 << 63) - 1, -(1 << 63)]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1.5, 1e-45, 1e-300, 3e38, 1e300, float("nan"), float("inf"), float("-inf")]
TEXTS = [
    "",
    "x",
    "a\nb",
    "a b",
    "../x",
    "/etc/hostname",
    "\u2028",
    "\u00e9" * 3,
    "x" * 3000,
    "%s{}",
    "input_ids",
    "\x00",
    "0x1",
    "-1",
]
VALUES: list[Any] = [*INTEGERS, 10**30, *FLOATS, *TEXTS, "float32", "object", None, True, False, [], [1], {}, {"a": 1}]


def damaged_bytes(random: Random, data: bytes) -> bytes:
    """Some bytes changed, cut, repeated, inserted or taken out."""
    result = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2, 4, 16])):
        size = len(result)
        place = random.randrange(size + 1)
        length = min(random.choice([1, 1, 2, 4, 16, 256]), size - place)
        kind = random.choice(["flip", "flip", "flip", "set", "drop", "insert", "cut", "repeat"])
        if kind == "flip" and place < size:
            result[place] ^= 1 << random.randrange(8)
        elif kind == "set":
            result[place : place + length] = bytes([random.choice([0, 255, 127, 128, random.randrange(256)])]) * length
        elif kind == "drop":
            del result[place : place + length]
        elif kind == "insert":
            result[place:place] = random.randbytes(length or 1)
        elif kind == "cut" and random.random() < 0.3:
            del result[place:]
        elif kind == "repeat":
            result[place:place] = result[place : place + length]
    return bytes(result)


def damaged_text(random: Random, text: str) -> str:
    """Lines dropped, repeated, exchanged; numbers and words replaced; characters put in."""
    lines = text.splitlines(keepends=True)
    for _ in range(random.choice([1, 1, 2, 3])):
        if not lines:
            break
        place = random.randrange(len(lines))
        kind = random.choice(["number", "number", "number", "word", "drop", "repeat", "swap", "insert", "value"])
        line = lines[place]
        if kind in ("number", "word", "value"):
            pattern = {"number": r"-?\d+(\.\d+)?", "word": r"[A-Za-z_]\w*", "value": r"(?<=[=:] ).+"}[kind]
            found = list(re.finditer(pattern, line))
            if found:
                match = random.choice(found)
                others = re.findall(r"[A-Za-z_]\w*", random.choice(lines)) or ["x"]
                new = random.choice([str(random.choice(INTEGERS)), str(random.choice(FLOATS)), random.choice(others)])
                if kind == "value":
                    new = random.choice([repr(random.choice(VALUES)), "[", '"', "{ value = 1 }", new])
                lines[place] = line[: match.start()] + new + line[match.end() :]
        elif kind == "drop":
            del lines[place]
        elif kind == "repeat":
            lines.insert(random.randrange(len(lines)), line)
        elif kind == "swap":
            other = random.randrange(len(lines))
            lines[place], lines[other] = lines[other], line
        else:
            column = random.randrange(len(line) + 1)
            lines[place] = (
                line[:column] + random.choice([*TEXTS, "[", "]", '"', "\\", "=", "{", "}", "#", "//", ":"]) + line[column:]
            )
    return "".join(lines)


# ---- JSON -----------------------------------------------------------------------------------------------------------


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value of a JSON document."""
    entries = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


def damaged_json(random: Random, text: str, kept: frozenset[str] = frozenset()) -> str:
    """Up to three values replaced, removed, repeated or renamed; the top-level keys of `kept` stay."""
    document = json.loads(text)
    for _ in range(random.choice([1, 1, 2, 3])):
        known = [path for path in places(document) if path[0] not in kept]
        if not known:
            break
        path = random.choice(known)
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        kind = random.choice(["replace", "replace", "replace", "near", "remove", "repeat", "rename"])
        old = holder[path[-1]]
        if kind == "remove":
            del holder[path[-1]]
        elif kind == "repeat" and isinstance(holder, list):
            holder.insert(random.randrange(len(holder) + 1), old)
        elif kind == "rename" and isinstance(holder, dict):
            holder[random.choice(TEXTS)] = holder.pop(path[-1])
        elif kind == "near" and isinstance(old, int):
            holder[path[-1]] = old + random.choice([-1, 1, -64, 64])
        else:
            holder[path[-1]] = random.choice(VALUES)
    return json.dumps(document)


# ---- protobuf -------------------------------------------------------------------------------------------------------


def messages(message: Message) -> Iterator[Message]:
    """The message and all those below it, but not the inside of large ones of data."""
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for item in value if _repeated(value) else [value]:
                yield from messages(item)


def _repeated(value: Any) -> bool:
    return not isinstance(value, Message | str | bytes | int | float)


def damaged_model(random: Random, model: onnx.ModelProto) -> bytes:
    """A few fields of the protobuf changed: any field, or what exporters and editors get wrong."""
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        random.choice([_any_field, _any_field, _node, _tensor, _value_info, _structure])(random, model)
    return model.SerializeToString()


def _any_field(random: Random, model: onnx.ModelProto) -> None:
    holder = random.choice(list(messages(model)))
    field = random.choice(holder.DESCRIPTOR.fields)
    value = getattr(holder, field.name)
    if _repeated(value):
        if len(value) and random.random() < 0.4:
            del value[random.randrange(len(value))]
        elif len(value) and random.random() < 0.5:
            place = random.randrange(len(value))
            value.append(value[place]) if field.type != FieldDescriptor.TYPE_MESSAGE else value.add().CopyFrom(value[place])
        elif field.type != FieldDescriptor.TYPE_MESSAGE:
            value.extend([_scalar(random, field)] * random.choice([1, 1, 3]))
        else:
            value.add()
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        holder.ClearField(field.name) if holder.HasField(field.name) else value.SetInParent()
    elif random.random() < 0.3:
        holder.ClearField(field.name)
    else:
        setattr(holder, field.name, _scalar(random, field))


def _scalar(random: Random, field: FieldDescriptor) -> Any:
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        value = random.choice(FLOATS)
        return value if field.type == FieldDescriptor.TYPE_DOUBLE or abs(value) < 3.4e38 else 3e38
    if field.type == FieldDescriptor.TYPE_STRING:
        return random.choice(TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return random.choice([text.encode() for text in TEXTS] + [random.randbytes(8), b"\xff\xfe"])
    if field.type == FieldDescriptor.TYPE_ENUM:
        return random.choice([value.number for value in field.enum_type.values])
    limits = {FieldDescriptor.TYPE_INT32: 1 << 31, FieldDescriptor.TYPE_INT64: 1 << 63}
    limit = limits.get(field.type)
    if limit is None:
        return random.choice(NUMBERS)
    return random.choice([*range(24), *(value for value in INTEGERS if -limit <= value < limit)])


def _names(graph: onnx.GraphProto) -> list[str]:
    made = [name for node in graph.node for name in (*node.input, *node.output)]
    return [*made, *(tensor.name for tensor in graph.initializer), *(value.name for value in graph.input), "", "nothing"]


def _node(random: Random, model: onnx.ModelProto) -> None:
    """A node with other wires, another operator, other attributes."""
    if not model.graph.node:
        return
    node = random.choice(model.graph.node)
    kind = random.choice(["input", "output", "operator", "attribute", "domain", "drop", "twin", "order"])
    if kind in ("input", "output"):
        wires = node.input if kind == "input" else node.output
        change = random.choice(["replace", "drop", "add"])
        name = random.choice(_names(model.graph))
        if change == "replace" and wires:
            wires[random.randrange(len(wires))] = name
        elif change == "drop" and wires:
            del wires[random.randrange(len(wires))]
        else:
            wires.append(name)
    elif kind == "operator":
        node.op_type = random.choice(
            [*(other.op_type for other in model.graph.node), "If", "Loop", "Scan", "NonZero", "Nonsense", ""]
        )
    elif kind == "attribute" and node.attribute:
        attribute = random.choice(node.attribute)
        holder = model.graph.node.add() if random.random() < 0.1 else node
        holder.attribute.add().CopyFrom(attribute) if random.random() < 0.2 else _attribute(random, attribute)
    elif kind == "domain":
        node.domain = random.choice(["", "com.microsoft", "ai.onnx", "ai.onnx.ml", "mine", "\u00e9"])
    elif kind == "drop":
        model.graph.node.remove(node)
    elif kind == "twin":
        model.graph.node.add().CopyFrom(node)
    else:
        other = random.choice(model.graph.node)
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        node.CopyFrom(other)
        other.CopyFrom(copy)


def _attribute(random: Random, attribute: onnx.AttributeProto) -> None:
    kind = random.choice(["i", "f", "s", "ints", "type", "name", "axis"])
    if kind in ("i", "axis"):
        attribute.i = random.choice(INTEGERS) if kind == "i" else random.choice(range(-5, 6))
        attribute.type = onnx.AttributeProto.INT
    elif kind == "f":
        attribute.f = random.choice([0.0, -1.0, 1e-30, 3e38, float("nan"), float("inf")])
        attribute.type = onnx.AttributeProto.FLOAT
    elif kind == "s":
        attribute.s = random.choice(TEXTS).encode()
        attribute.type = onnx.AttributeProto.STRING
    elif kind == "ints":
        attribute.ints.extend(random.choices(range(-4, 9), k=random.randrange(6)))
        attribute.type = onnx.AttributeProto.INTS
    elif kind == "type":
        attribute.type = random.choice(list(onnx.AttributeProto.AttributeType.values()))
    else:
        attribute.name = random.choice(TEXTS)


def _tensor(random: Random, model: onnx.ModelProto) -> None:
    """An initializer of another type, shape, size or place."""
    if not model.graph.initializer:
        return
    tensor = random.choice(model.graph.initializer)
    kind = random.choice(["dtype", "dims", "dims", "data", "external", "name", "drop", "twin"])
    if kind == "dtype":
        tensor.data_type = random.choice([*range(26), 99])
    elif kind == "dims":
        if tensor.dims and random.random() < 0.7:
            place = random.randrange(len(tensor.dims))
            tensor.dims[place] = random.choice([*INTEGERS, tensor.dims[place] + 1])
        else:
            tensor.dims.append(random.choice(INTEGERS))
    elif kind == "data":
        tensor.raw_data = damaged_bytes(random, tensor.raw_data) if tensor.raw_data else b"x"
    elif kind == "external":
        external(random, tensor)
    elif kind == "name":
        tensor.name = random.choice(_names(model.graph))
    elif kind == "drop":
        model.graph.initializer.remove(tensor)
    else:
        model.graph.initializer.add().CopyFrom(tensor)


LOCATIONS = [
    "../outside.bin", "/etc/hostname", "/dev/zero", "/dev/stdin", "link.bin", "folder/../../outside.bin", "folder", "", ".",
    "a\nb", "x" * 3000, "external.bin", "pipe", "model.onnx", "\x00", "file:///etc/hostname", "*",
]  # fmt: skip


def external(random: Random, tensor: onnx.TensorProto) -> None:
    """Say that the tensor lies in a file, often one that it must not read."""
    tensor.data_location = onnx.TensorProto.EXTERNAL
    if random.random() < 0.8:
        tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value=random.choice(LOCATIONS))
    for key in ("offset", "length", "checksum"):
        if random.random() < 0.5:
            tensor.external_data.add(key=key, value=str(random.choice([*INTEGERS, *TEXTS, 4096, 128])))


def _value_info(random: Random, model: onnx.ModelProto) -> None:
    """An input or output of another type or shape."""
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if not values:
        return
    value = random.choice(values)
    kind = random.choice(["dtype", "dim", "dim", "rank", "name", "type", "none"])
    dims = value.type.tensor_type.shape.dim
    if kind == "dtype":
        value.type.tensor_type.elem_type = random.choice([*range(26), 99])
    elif kind == "dim" and dims:
        dim = random.choice(dims)
        if random.random() < 0.3:
            dim.dim_param = random.choice(TEXTS)
        else:
            dim.dim_value = random.choice(INTEGERS)
    elif kind == "rank":
        dims.add().dim_value = random.choice(NUMBERS)
    elif kind == "name":
        value.name = random.choice([*_names(model.graph), *TEXTS])
    elif kind == "type":
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1
    else:
        value.ClearField("type")


def _structure(random: Random, model: onnx.ModelProto) -> None:
    """Outputs added, inputs doubled, subgraphs, functions, opsets, a wire that closes a cycle."""
    graph = model.graph
    kind = random.choice(["output", "input", "cycle", "opset", "function", "subgraph", "rename", "metadata", "empty"])
    if kind == "output":
        graph.output.add(name=random.choice(_names(graph)))
    elif kind == "input" and graph.input:
        graph.input.add().CopyFrom(random.choice(graph.input))
    elif kind == "cycle" and len(graph.node) > 1:
        first, last = sorted(random.sample(range(len(graph.node)), 2))
        if graph.node[first].input and graph.node[last].output:
            graph.node[first].input[0] = graph.node[last].output[0]
    elif kind == "opset":
        model.opset_import.add(
            domain=random.choice(["", "com.microsoft", "x"]), version=random.choice([*INTEGERS, 1, 7, 11, 99])
        )
    elif kind == "function":
        function = model.functions.add(name=random.choice(["MatMul", "Mine"]), domain=random.choice(["", "mine"]))
        function.output.append("y")
        node = function.node.add(op_type=random.choice(["Mine", "Relu"]), domain=random.choice(["", "mine"]))
        node.output.append("y")
        graph.node.add(op_type="Mine", domain="mine").output.append("mine")
    elif kind == "subgraph" and graph.node:
        body = onnx.GraphProto.FromString(graph.SerializeToString()) if random.random() < 0.5 else onnx.GraphProto()
        random.choice(graph.node).attribute.add(name="body", type=onnx.AttributeProto.GRAPH).g.CopyFrom(body)
    elif kind == "rename" and graph.node:
        old, new = random.choice(_names(graph)), random.choice(TEXTS)
        for node in graph.node:
            for wires in (node.input, node.output):
                for place, name in enumerate(wires):
                    if name == old:
                        wires[place] = new
    elif kind == "metadata":
        model.metadata_props.add(key="hpcc.sparsity", value=random.choice([*TEXTS, "nm:2:4", "hp:0.75", "dense", "nm:0:0"]))
    else:
        graph.ClearField(random.choice(["node", "initializer", "input", "output", "name"]))


def write_traps(folder: Path) -> None:
    """What a model may try to read: a link out of the folder, a folder, a pipe, a file one level up."""
    (folder.parent / "outside.bin").write_bytes(b"secret" * 1000)
    (folder / "link.bin").symlink_to("../outside.bin")
    (folder / "folder").mkdir(exist_ok=True)
