"""Open an ONNX file without reading its weights: the protobuf skeleton is parsed, large tensors stay in the memory map.

A model file is a handful of kilobytes of graph and hundreds of megabytes of `raw_data`. The walker below copies
everything but those payloads into a small ModelProto and notes where each payload lies, so that a tensor is a read-only
numpy view of the file. Field numbers are those of onnx.proto: ModelProto.graph = 7, GraphProto.node = 1 and
.initializer = 5, NodeProto.attribute = 5, AttributeProto.t = 5, TensorProto.raw_data = 9, .external_data = 13 and
.data_location = 14.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message

from compiler.frontend.rules import as_the_standard_says
from hw_targets.errors import InputError

INLINE_LIMIT = 1024
"""Payloads of at most this many bytes stay in the skeleton."""

_MAPPED = "hpcc:mapped"
_TENSOR = {9: None}
_MODEL: Mapping[int, object] = {7: {1: {5: {5: _TENSOR}}, 5: _TENSOR}}
_KNOWN_MODEL_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}


class _Truncated(Exception):
    """A length points beyond the end of the file."""


class _Malformed(Exception):
    """The bytes are no protobuf message."""


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise _Truncated
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise _Malformed


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _length_delimited(number: int, payload: bytes) -> bytes:
    return _encode_varint(number << 3 | 2) + _encode_varint(len(payload)) + payload


def _skip(data: memoryview, at: int, wire: int) -> int:
    """The offset behind a field that is not length-delimited."""
    if wire == 0:
        return _varint(data, at)[1]
    if wire in (1, 5):
        end = at + (8 if wire == 1 else 4)
        if end > len(data):
            raise _Truncated
        return end
    raise _Malformed


def _mapped_tensor_fields(offset: int, length: int) -> bytes:
    """external_data entries and data_location of a payload that stays in the file."""
    entries = {"location": _MAPPED, "offset": str(offset), "length": str(length)}
    pairs = b"".join(
        _length_delimited(13, _length_delimited(1, key.encode()) + _length_delimited(2, value.encode()))
        for key, value in entries.items()
    )
    return pairs + _encode_varint(14 << 3) + _encode_varint(1)


def _skeleton(data: memoryview, start: int, end: int, fields: Mapping[int, object]) -> bytes:
    """Copy the message data[start:end], descending into `fields`; TensorProto payloads become references."""
    out: list[bytes] = []
    references: list[bytes] = []  # behind all else: some files say where the data lies, and the last word counts
    at = kept = start
    while at < end:
        field_start = at
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise _Malformed
        if fields is _MODEL and number not in _KNOWN_MODEL_FIELDS:
            raise _Malformed
        if wire != 2:
            at = _skip(data, at, wire)
            continue
        length, at = _varint(data, at)
        if at + length > end:
            raise _Truncated if end == len(data) else _Malformed
        payload, at = at, at + length
        if number not in fields or (fields is _TENSOR and length <= INLINE_LIMIT):
            continue
        out.append(bytes(data[kept:field_start]))
        kept = at
        inner = fields[number]
        if inner is None:
            references.append(_mapped_tensor_fields(payload, length))
        else:
            assert isinstance(inner, Mapping)
            out.append(_length_delimited(number, _skeleton(data, payload, at, inner)))
    out.append(bytes(data[kept:end]))
    return b"".join(out + references)


@dataclass(frozen=True)
class OnnxFile:
    """A model whose large tensors are views of the mapped file. `sha256` is the file's."""

    path: Path
    model: ir.Model
    sha256: str
    mapping: memoryview = field(repr=False)


def open_onnx(path: Path) -> OnnxFile:
    """Open `path`. Raises InputError: HPCC1001 no such file, 1002 no ONNX file, 1003 truncated, 1006 external data out of
    reach, 1014 a tensor of another size, 1015 a malformed graph."""
    data = _map(path)
    digest = hashlib.sha256(data).hexdigest()
    try:
        proto = onnx.ModelProto.FromString(_skeleton(data, 0, len(data), _MODEL))
    except _Truncated as error:
        raise InputError("HPCC1003", "the file is truncated", where=str(path), hint="copy or download it again") from error
    except (_Malformed, DecodeError) as error:
        raise _not_onnx(path) from error
    if not proto.HasField("graph") or not proto.opset_import:
        raise _not_onnx(path)
    _check_text(proto, path)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # what is wrong with the graph is said as an error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys that nobody asks for
            model = ir.from_proto(proto)
    except Exception as error:  # onnx_ir reports broken protos by many exception types
        raise InputError("HPCC1015", f"the ONNX graph is malformed: {error}", where=str(path)) from error
    with as_the_standard_says(str(path)):
        _attach(model, data, path)
    return OnnxFile(path, model, digest, data)


def _check_text(message: Message, path: Path) -> None:
    """Every string of a message is UTF-8: protobuf reads others too, and only fails to write them."""
    for described, value in message.ListFields():
        if described.type not in (described.TYPE_MESSAGE, described.TYPE_STRING):
            continue
        for item in [value] if isinstance(value, Message | str | bytes) else value:
            if isinstance(item, Message):
                _check_text(item, path)
            elif isinstance(item, bytes):
                text = f"the ONNX graph is malformed: {item!r} is no UTF-8 text"
                raise InputError("HPCC1015", text, where=str(path), hint="copy or download it again")


def _not_onnx(path: Path) -> InputError:
    return InputError("HPCC1002", "this is not an ONNX file", where=str(path), hint="expected a serialised ONNX ModelProto")


def _map(path: Path) -> memoryview:
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("*.onnx"))[:3] if path.parent.is_dir() else []
        hint = f"the folder holds {', '.join(near)}" if near else "check the path"
        raise InputError("HPCC1001", "no such file", where=str(path), hint=hint)
    if path.is_dir():
        raise InputError("HPCC1002", "this is a folder, not an ONNX file", where=str(path), hint="name the .onnx file in it")
    try:
        with path.open("rb") as stream:
            if path.stat().st_size == 0:
                raise InputError("HPCC1003", "the file is empty", where=str(path), hint="copy or download it again")
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise InputError("HPCC1001", f"cannot read the file: {error.strerror}", where=str(path)) from error


def _attach(model: ir.Model, data: memoryview, path: Path) -> None:
    """Give every tensor that lies in a file, this one or one beside it, its view of that file."""
    files = {_MAPPED: data}
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = _resolve(value.const_value, path, files)
        else:
            _check_inline(value.const_value, path)
    for node in model.graph.all_nodes():
        for attribute in list(node.attributes.values()):
            if attribute.type == ir.AttributeType.UNDEFINED:
                message = f"the ONNX graph is malformed: attribute {attribute.name!r} of node {node.name!r} has no type"
                raise InputError("HPCC1015", message, where=str(path))
            if attribute.type != ir.AttributeType.TENSOR:
                continue
            if isinstance(attribute.value, ir.ExternalTensor):
                node.attributes[attribute.name] = ir.AttrTensor(attribute.name, _resolve(attribute.value, path, files))
            else:
                _check_inline(attribute.value, path)


def _check_inline(tensor: object, path: Path) -> None:
    """A tensor whose data the graph holds has as much of it as its type and shape say."""
    if isinstance(tensor, ir.TensorProtoTensor | ir.StringTensor):
        try:
            tensor.numpy()
        except Exception as error:  # numpy's for what does not divide, onnx's for types that it does not know
            message = f"tensor {tensor.name!r} does not hold what its type and shape need: {error}"
            raise InputError("HPCC1014", message, where=str(path)) from error


def _is_beside(location: str) -> bool:
    """Whether an external file lies below the model's folder: a model must not read what it did not come with."""
    place = PurePath(location)
    return not place.is_absolute() and ".." not in place.parts


def _external(tensor: ir.ExternalTensor, path: Path, files: dict[str, memoryview]) -> memoryview:
    """The mapped file of external data, which lies below the model's folder."""
    location = str(tensor.location)
    if location in files:
        return files[location]
    source = path.parent / location
    if not _is_beside(location):
        message = f"the external data {location!r} does not lie below the model's folder"
        raise InputError("HPCC1006", message, where=str(path))
    if not source.is_file():
        message = f"the external data file {location!r} is missing"
        raise InputError("HPCC1006", message, where=str(path), hint="keep it beside the model")
    return files.setdefault(location, _map(source))


def _resolve(tensor: ir.ExternalTensor, path: Path, files: dict[str, memoryview]) -> ir.TensorProtocol:
    """A view of the file that holds the tensor: the model's own, or another one below its folder."""
    data = _external(tensor, path, files)
    offset, length = tensor.offset or 0, tensor.nbytes if tensor.length is None else tensor.length
    if length != tensor.nbytes:
        message = f"tensor {tensor.name!r} holds {length} bytes, its type and shape need {tensor.nbytes}"
        raise InputError("HPCC1014", message, where=str(path))
    if not 0 <= offset <= len(data) - length:
        where = "" if tensor.location == _MAPPED else f" {str(tensor.location)!r}"
        message = f"the external data file{where} is truncated: tensor {tensor.name!r} lies behind its end"
        raise InputError("HPCC1003", message, where=str(path))
    shape = tuple(int(size) for size in tensor.shape.numpy())
    if tensor.dtype.bitwidth < 8:
        raw = ir.TensorProtoTensor(
            onnx.TensorProto(
                name=tensor.name,
                dims=shape,
                data_type=int(tensor.dtype),
                raw_data=bytes(data[offset : offset + tensor.nbytes]),
            )
        )
        return ir.Tensor(raw.numpy(), dtype=tensor.dtype, name=tensor.name)
    array = np.frombuffer(data[offset : offset + length], dtype=tensor.dtype.numpy())
    return ir.Tensor(array.reshape(shape), dtype=tensor.dtype, name=tensor.name)
