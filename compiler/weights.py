"""The weight store: named arrays beside the IR, which refers to them by key and digest and never holds their values.

An entry is immutable. A pass that changes values adds a new key; a tied weight is one entry with many uses.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr

from hw_targets.errors import InputError

Array = NDArray[Any]

MODULE_ATTRIBUTE = "hpcc.weights"
"""Module attribute naming the safetensors file beside a dumped .mlir file."""


_TURNED_BLOCK = 64
"""Columns of a transposed copy made at a time: both sides of the copy stay in the cache."""


def row_major(array: Array) -> Array:
    """`array` in row-major order, itself if it is; a transposed matrix is copied in blocks, six times as fast."""
    if array.ndim != 2 or array.flags.c_contiguous or not array.T.flags.c_contiguous:
        return np.ascontiguousarray(array)
    result = np.empty(array.shape, array.dtype)
    for start in range(0, array.shape[1], _TURNED_BLOCK):
        result[:, start : start + _TURNED_BLOCK] = array[:, start : start + _TURNED_BLOCK]
    return result


def content_digest(array: Array) -> str:
    """blake2b over dtype, shape and the row-major bytes: 16 bytes as hex."""
    hasher = hashlib.blake2b(digest_size=16)
    hasher.update(f"{array.dtype}{array.shape}".encode())
    # Viewed as bytes first: bfloat16 arrays have no buffer interface of their own.
    hasher.update(row_major(array).reshape(-1).view(np.uint8).data if array.size else b"")
    return hasher.hexdigest()


def save_arrays(arrays: Mapping[str, Array], path: Path) -> None:
    """Write a safetensors file. Raises OSError, also for what the library has an error of its own."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(dict(arrays), str(path))
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error).split(" at path")[0].removeprefix("Error while serializing: ")) from error


class WeightStore:
    """Arrays by key, each with its content digest. Reading never copies; a lazy entry is loaded at its first use."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}
        self._loaders: dict[str, Callable[[], Array]] = {}
        self._digests: dict[str, str] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._arrays or key in self._loaders

    def keys(self) -> list[str]:
        return sorted({*self._arrays, *self._loaders})

    def add(self, key: str, array: Array, digest: str = "") -> str:
        """Add an entry and return its key, which gets a numeric suffix if the name is taken by other content. `digest` is
        the array's content digest, where that is known."""
        digest = digest or content_digest(array)
        unique, suffix = key, 0
        while unique in self:
            if self.digest(unique) == digest:
                return unique
            suffix += 1
            unique = f"{key}.{suffix}"
        view = array.view()
        view.flags.writeable = False
        self._arrays[unique] = view
        self._digests[unique] = digest
        return unique

    def add_lazy(self, key: str, load: Callable[[], Array]) -> str:
        """Add an entry that is loaded when first asked for. The key must be new."""
        if key in self:
            raise ValueError(f"weight {key!r} is already in the store")
        self._loaders[key] = load
        return key

    def get(self, key: str) -> Array:
        """The array of `key`, read-only. Raises InputError for an unknown key."""
        if key not in self._arrays:
            if key not in self._loaders:
                raise InputError(
                    "HPCC1101",
                    f"weight {key!r} is not in the weight store",
                    hint="put the .safetensors file written with the dump beside the .mlir file",
                )
            view = self._loaders.pop(key)().view()
            view.flags.writeable = False
            self._arrays[key] = view
        return self._arrays[key]

    def digest(self, key: str) -> str:
        if key not in self._digests:
            self._digests[key] = content_digest(self.get(key))
        return self._digests[key]

    def release(self, keys: Iterable[str]) -> None:
        """Forget entries that nothing refers to any more."""
        for key in keys:
            self._arrays.pop(key, None)
            self._loaders.pop(key, None)
            self._digests.pop(key, None)

    def save(self, path: Path, keys: Iterable[str]) -> None:
        """Write the named entries to a safetensors file. Raises OSError."""
        save_arrays({key: row_major(self.get(key)) for key in sorted(set(keys))}, path)

    @classmethod
    def open(cls, path: Path) -> WeightStore:
        """A store over a safetensors file, memory-mapped, each tensor read at its first use."""
        from safetensors import SafetensorError, safe_open

        store = cls()
        try:
            handle: Any = safe_open(str(path), framework="numpy")
        except (SafetensorError, OSError) as error:
            raise InputError("HPCC1102", f"cannot read the weights: {error}", where=str(path)) from error
        names: list[str] = list(handle.keys())
        for key in names:
            store.add_lazy(key, lambda key=key: handle.get_tensor(key))
        return store


def attach_store(ctx: Context, store: WeightStore) -> None:
    """Make `store` the one that passes running under `ctx` see."""
    ctx.__dict__["hpcc_store"] = store


def store_of(ctx: Context, module: ModuleOp) -> WeightStore:
    """The store of this context, else the one the module names (attribute `hpcc.weights`), else a new empty one."""
    store = ctx.__dict__.get("hpcc_store")
    if store is None:
        name = module.attributes.get(MODULE_ATTRIBUTE)
        store = WeightStore.open(Path(name.data)) if isinstance(name, StringAttr) else WeightStore()
        attach_store(ctx, store)
    return store
