"""The weight store: immutable entries, keys that never change their content, files."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr

from compiler.weights import MODULE_ATTRIBUTE, WeightStore, attach_store, content_digest, store_of
from hw_targets.errors import InputError


def test_a_key_stands_for_one_content() -> None:
    """The same content again is the same entry; other content under a taken name gets a suffix."""
    store = WeightStore()
    a, b, c = (np.full((2, 3), value, np.float32) for value in (1, 2, 3))
    assert store.add("w", a) == "w"
    assert store.add("w", a.copy()) == "w"
    assert store.add("w", b) == "w.1"
    assert store.add("w", c) == "w.2"
    assert store.add("w", b) == "w.1"
    assert store.keys() == ["w", "w.1", "w.2"]
    np.testing.assert_array_equal(store.get("w"), a)
    np.testing.assert_array_equal(store.get("w.2"), c)


def test_entries_cannot_be_written() -> None:
    store = WeightStore()
    mine = np.zeros(4, np.float32)
    store.add("w", mine)
    store.add_lazy("l", lambda: np.zeros(4, np.float32))
    for key in ("w", "l"):
        with pytest.raises(ValueError, match="read-only"):
            store.get(key)[0] = 1
    mine[0] = 1  # the caller's array is its own, and stays writeable


def test_reading_does_not_copy() -> None:
    store = WeightStore()
    array = np.zeros(4, np.float32)
    store.add("w", array)
    assert np.shares_memory(store.get("w"), array)


def test_lazy_entries_are_loaded_once_and_late() -> None:
    calls: list[str] = []

    def read() -> np.ndarray:
        calls.append("read")
        return np.arange(3, dtype=np.int64)

    store = WeightStore()
    assert store.add_lazy("w", read) == "w"
    assert "w" in store
    assert store.keys() == ["w"]
    assert calls == []
    assert store.digest("w") == content_digest(np.arange(3, dtype=np.int64))
    assert list(store.get("w")) == [0, 1, 2]
    assert calls == ["read"]
    with pytest.raises(ValueError, match="already in the store"):
        store.add_lazy("w", read)


def test_released_entries_are_gone() -> None:
    store = WeightStore()
    store.add("w", np.zeros(1, np.float32))
    store.add_lazy("l", lambda: np.zeros(1, np.float32))
    store.release(["w", "l", "never there"])
    assert store.keys() == []
    with pytest.raises(InputError, match=r"weight 'w' is not in the weight store .*\[HPCC1101\]"):
        store.get("w")


def test_the_digest_is_the_same_everywhere() -> None:
    """Digests stand in dumped modules: they may not change with the machine or the version."""
    expected = "6faad4e18dbd1740cbfdb563db82a3b1"
    assert content_digest(np.arange(6, dtype=np.float32).reshape(2, 3)) == expected
    assert content_digest(np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))) == expected
    assert content_digest(np.arange(12, dtype=np.float32)[::2].reshape(2, 3) / 2) == expected


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([np.float32, np.int8, np.int64, ml_dtypes.bfloat16, np.bool_]),
    st.lists(st.integers(0, 4), max_size=3),
)
def test_the_digest_tells_content_apart(dtype: type, shape: list[int]) -> None:
    array = np.zeros(shape, dtype)
    digest = content_digest(array)
    assert len(digest) == 32
    assert content_digest(array.copy()) == digest
    if array.size:
        other = array.copy()
        other.reshape(-1)[-1] = 1
        assert content_digest(other) != digest
    assert content_digest(array[None]) != digest
    assert content_digest(array.astype(np.float64)) != digest


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.int32, np.int64, np.bool_, ml_dtypes.bfloat16])
def test_a_saved_store_opens_again(tmp_path: Path, dtype: type) -> None:
    store = WeightStore()
    array = (np.arange(12).reshape(3, 4) % 5).astype(dtype)
    store.add("w", array)
    store.add("t", array.T)
    store.add("unused", array + array)
    path = tmp_path / "w.safetensors"
    store.save(path, ["t", "w", "w"])
    opened = WeightStore.open(path)
    assert opened.keys() == ["t", "w"]
    for key in ("t", "w"):
        assert opened.get(key).dtype == np.dtype(dtype)
        np.testing.assert_array_equal(opened.get(key), store.get(key))
        assert opened.digest(key) == store.digest(key)


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    store = WeightStore()
    for key in "bca":
        store.add(key, np.full(3, ord(key), np.int8))
    store.save(tmp_path / "1", ["a", "b", "c"])
    store.save(tmp_path / "2", ["c", "a", "b"])
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"not safetensors at all", b"\x08\0\0\0\0\0\0\0{broken"])
def test_a_file_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"w.safetensors: error: cannot read the weights: .*\[HPCC1102\]") as error:
        WeightStore.open(path)
    assert "\n" not in str(error.value)


def test_passes_find_the_store(tmp_path: Path) -> None:
    """Attached to the context, else named by the module, else empty; the same one for every pass."""
    ctx, store = Context(), WeightStore()
    attach_store(ctx, store)
    assert store_of(ctx, ModuleOp([])) is store
    other = Context()
    assert store_of(other, ModuleOp([])) is store_of(other, ModuleOp([]))
    saved = WeightStore()
    saved.add("w", np.ones(2, np.float32))
    saved.save(tmp_path / "w.safetensors", ["w"])
    module = ModuleOp([], {MODULE_ATTRIBUTE: StringAttr(str(tmp_path / "w.safetensors"))})
    assert store_of(Context(), module).keys() == ["w"]
