"""The inputs of a run: from an .npz file, from sentences and a tokenizer, or made up from names, types and ranges."""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_targets.errors import InputError, MissingToolError, UsageError

Array = NDArray[Any]
SEED = 0


@dataclass(frozen=True)
class InputSpec:
    """One model input: numpy dtype name and compiled shape, the first axis being the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    limit: int | None = None
    """Exclusive upper bound of ids that index a table, if known."""


@dataclass(frozen=True)
class InputSet:
    """`arrays` hold `count` samples on their first axis; `kind` is "npz", "arrays", "text" or "made up"."""

    kind: str
    source: str
    seed: int | None
    count: int
    arrays: Mapping[str, Array]

    def batches(self, size: int) -> list[dict[str, Array]]:
        """The samples in batches of `size`, the last one filled up with zeros (no token attends there)."""
        result: list[dict[str, Array]] = []
        for start in range(0, self.count, size):
            result.append({name: _filled(array[start : start + size], size) for name, array in self.arrays.items()})
        return result


def _filled(array: Array, size: int) -> Array:
    missing = size - len(array)
    return np.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)]) if missing else array


def given(inputs: str | Mapping[str, Array], specs: Sequence[InputSpec]) -> InputSet:
    """Inputs as the user gave them: the path of an .npz file, or arrays by name."""
    if isinstance(inputs, str):
        return from_npz(Path(inputs), specs)
    return fitted("arrays", "arrays", {name: np.asarray(array) for name, array in inputs.items()}, specs, "inputs")


def from_npz(path: Path, specs: Sequence[InputSpec]) -> InputSet:
    """Read arrays by input name. Raises InputError naming the array that does not fit and how."""
    return fitted("npz", path.name, read_npz(path), specs, str(path))


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file but `labels`, as they are. Raises InputError."""
    where = str(path)
    if path.is_file() and not zipfile.is_zipfile(path):
        raise InputError("HPCC1502", "not an .npz file (a zip of arrays by name)", where=where, hint="numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: np.asarray(data[name]) for name in data.files if name != "labels"}
    except FileNotFoundError as error:
        raise InputError("HPCC1501", "there is no such file", where=where) from error
    except ValueError as error:  # what a pickled object raises
        raise InputError("HPCC1502", "not an .npz file of plain arrays", where=where, hint="numpy.savez") from error
    except Exception as error:  # zipfile and zlib have errors of their own for damaged archives
        raise InputError("HPCC1502", f"cannot read the arrays: {error}", where=where, hint="numpy.savez") from error


def fitted(kind: str, source: str, arrays: Mapping[str, Array], specs: Sequence[InputSpec], where: str) -> InputSet:
    """The arrays checked against the model's inputs; InputError for a wrong name, dtype, shape, count or id."""
    known = {spec.name: spec for spec in specs}
    for name in arrays:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"inputs: {', '.join(known)}"
            raise InputError("HPCC1503", f"the model has no input {name!r}", where=where, hint=hint)
    missing = [name for name in known if name not in arrays]
    if missing:
        raise InputError("HPCC1504", f"input {missing[0]!r} is missing", where=where, hint=f"inputs: {', '.join(known)}")
    fitted = {name: _fit(arrays[name], spec, where) for name, spec in known.items()}
    counts = {name: len(array) for name, array in fitted.items()}
    if len(set(counts.values())) != 1:
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError("HPCC1505", f"the inputs differ in their number of samples: {said}", where=where)
    return InputSet(kind, source, None, next(iter(counts.values())), fitted)


def _fit(array: Array, spec: InputSpec, where: str) -> Array:
    """The array in the input's dtype. Integers and bools convert to integers where no value changes."""
    wanted = np.dtype(spec.dtype)
    if array.dtype != wanted:
        integral = array.dtype.kind in "iub" and wanted.kind in "iub"
        if not integral or (array.astype(wanted) != array).any():
            raise InputError(
                "HPCC1506", f"input {spec.name!r} has dtype {array.dtype}, the model takes {wanted}", where=where
            )
        array = array.astype(wanted)
    if array.ndim != len(spec.shape) or array.shape[1:] != spec.shape[1:] or not len(array):
        expected = "x".join(["N", *map(str, spec.shape[1:])])
        found = "x".join(map(str, array.shape)) or "a scalar"
        raise InputError(
            "HPCC1507",
            f"input {spec.name!r} has shape {found}, compiled is {expected}",
            where=where,
            hint=f"--shape {spec.name}:{'x'.join(map(str, (spec.shape[0], *array.shape[1:])))}"
            if array.ndim == len(spec.shape)
            else "the first axis counts samples",
        )
    if spec.limit is not None and wanted.kind in "iu":
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= spec.limit:
            bad = low if low < 0 else high
            raise InputError("HPCC1508", f"input {spec.name!r} holds id {bad}, its table has {spec.limit} rows", where=where)
    return np.ascontiguousarray(array)


def from_text(path: Path, tokenizer: Path, specs: Sequence[InputSpec], max_length: int | None) -> InputSet:
    """Tokenise one sentence a line into ids, mask and (if the model has them) token types, padded to the shape."""
    import_tokenizers()
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError("HPCC1513", f"cannot read the text: {reason}", where=str(path)) from error
    if not lines:
        raise InputError("HPCC1509", "the file holds no sentence", where=str(path))
    return texts_as_arrays(lines, tokenizer, specs, max_length, str(path))


def import_tokenizers() -> Any:
    """The class Tokenizer. Raises MissingToolError."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingToolError("HPCC5101", "--text needs the package tokenizers", hint="pip install tokenizers") from error
    return Tokenizer


def texts_as_arrays(
    lines: Sequence[str], tokenizer: Path, specs: Sequence[InputSpec], max_length: int | None, where: str
) -> InputSet:
    """Texts as the model's inputs; `where` names their file in errors and is the set's source by its last part."""
    Tokenizer = import_tokenizers()
    try:
        encoder = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # the library raises plain Exception for every fault
        raise InputError("HPCC1510", f"not a tokenizer file: {error}", where=str(tokenizer)) from error
    roles = _text_roles(specs)
    length = roles["ids"].shape[1]
    if max_length is not None and max_length > length:
        raise UsageError(
            "HPCC2007",
            f"--max-length {max_length} is longer than the compiled {length} tokens",
            hint=f"--shape {roles['ids'].name}:{roles['ids'].shape[0]}x{max_length}",
        )
    if "mask" not in roles:
        raise InputError("HPCC1511", "the model takes no attention mask, so texts cannot be padded", where=where)
    encoder.no_padding()
    encoder.enable_truncation(min(length, max_length or length))
    arrays = {spec.name: np.zeros((len(lines), length), spec.dtype) for spec in specs}
    try:
        encodings = encoder.encode_batch(list(lines))
    except Exception as error:  # the library raises plain Exception for every fault
        raise InputError("HPCC1514", f"the tokenizer fails: {error}", where=str(tokenizer)) from error
    for row, encoding in enumerate(encodings):
        count = len(encoding.ids)
        arrays[roles["ids"].name][row, :count] = encoding.ids
        arrays[roles["mask"].name][row, :count] = 1
        if "types" in roles:
            arrays[roles["types"].name][row, :count] = encoding.type_ids
    for spec in specs:
        if spec.limit is not None:
            _fit(arrays[spec.name], spec, str(tokenizer))
    return InputSet("text", Path(where).name, None, len(lines), arrays)


def _text_roles(specs: Sequence[InputSpec]) -> dict[str, InputSpec]:
    roles: dict[str, InputSpec] = {}
    for spec in specs:
        role = role_of(spec.name)
        if role is None or len(spec.shape) != 2:
            raise InputError("HPCC1512", f"input {spec.name!r} cannot be made from text", hint="use --inputs FILE.npz")
        roles[role] = spec
    if "ids" not in roles:
        raise InputError("HPCC1512", "the model has no input that looks like token ids", hint="use --inputs FILE.npz")
    return roles


def role_of(name: str) -> str | None:
    """What an input's name says it holds: "mask", "types", "positions", "ids" or nothing we know."""
    lowered = name.lower()
    for role, words in (
        ("mask", ("mask",)),
        ("types", ("type", "segment")),
        ("positions", ("position",)),
        ("ids", ("ids", "tokens", "input")),
    ):
        if any(word in lowered for word in words):
            return role
    return None


DRAWN = 1 << 20
"""Numbers made up at a time."""


def made_up(specs: Sequence[InputSpec], seed: int = SEED) -> InputSet:
    """One batch of inputs invented from names, types and ranges; the same for the same seed."""
    random = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for spec in specs:
        kind = np.dtype(spec.dtype).kind
        role = role_of(spec.name)
        if kind == "f":
            arrays[spec.name] = _made_up_numbers(spec, random)
        elif role == "mask":
            arrays[spec.name] = _made_up_mask(spec)
        elif kind == "b":
            arrays[spec.name] = np.ones(spec.shape, spec.dtype)
        elif role == "positions":
            arrays[spec.name] = np.broadcast_to(np.arange(spec.shape[-1]), spec.shape).astype(spec.dtype)
        elif role == "types":
            arrays[spec.name] = _made_up_types(spec)
        else:
            arrays[spec.name] = random.integers(0, spec.limit or 1000, spec.shape).astype(spec.dtype)
    return InputSet("made up", "names, types and ranges", seed, specs[0].shape[0] if specs else 1, arrays)


def _made_up_numbers(spec: InputSpec, random: np.random.Generator) -> Array:
    """Normal numbers, drawn a few at a time: they come with eight bytes each."""
    numbers = np.empty(spec.shape, spec.dtype)
    flat = numbers.reshape(-1)
    for start in range(0, flat.size, DRAWN):
        part = flat[start : start + DRAWN]
        part[:] = random.standard_normal(part.size)
    return numbers


def _made_up_mask(spec: InputSpec) -> Array:
    """Ones, and padding in the last quarter to three quarters of every sample: a mask that is ignored must show."""
    mask = np.ones(spec.shape, spec.dtype)
    if mask.ndim > 1:
        tokens = mask.shape[-1]
        for sample in range(len(mask)):
            mask[sample, ..., tokens - (1 + sample % 3) * tokens // 4 :] = 0
    return mask


def _made_up_types(spec: InputSpec) -> Array:
    """Two sentences, the second one being the second half: one row of a table alone would be a constant."""
    types = np.zeros(spec.shape, spec.dtype)
    if types.ndim > 1 and (spec.limit or 0) > 1:
        types[..., types.shape[-1] // 2 :] = 1
    return types
