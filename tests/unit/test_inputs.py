"""The inputs of a run, and one line for each way in which they can be wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.tools import inputs
from compiler.tools.inputs import InputSpec, from_npz, from_text, made_up, role_of
from hw_targets.errors import InputError, UsageError

IDS = InputSpec("input_ids", "int64", (2, 8), 50)
MASK = InputSpec("attention_mask", "int64", (2, 8))
TYPES = InputSpec("token_type_ids", "int64", (2, 8), 2)
PIXELS = InputSpec("pixels", "float32", (2, 3, 4))


def npz(tmp_path: Path, **arrays: Any) -> Path:
    path = tmp_path / "in.npz"
    np.savez(path, **arrays)
    return path


def good(count: int = 3) -> dict[str, np.ndarray]:
    return {"input_ids": np.arange(count * 8).reshape(count, 8), "attention_mask": np.ones((count, 8), np.int64)}


def test_arrays_by_name(tmp_path: Path) -> None:
    """Any number of samples; labels are nobody's input; narrower integers and bools convert."""
    arrays = good()
    arrays["input_ids"] = arrays["input_ids"].astype(np.uint8)
    arrays["attention_mask"] = arrays["attention_mask"].astype(bool)
    path = npz(tmp_path, labels=np.zeros(3), **arrays)
    found = from_npz(path, [IDS, MASK])
    assert (found.kind, found.source, found.seed, found.count) == ("npz", "in.npz", None, 3)
    assert {name: array.dtype for name, array in found.arrays.items()} == dict.fromkeys(found.arrays, np.dtype(np.int64))
    np.testing.assert_array_equal(found.arrays["input_ids"], good()["input_ids"])


def test_the_last_batch_is_filled_up(tmp_path: Path) -> None:
    batches = from_npz(npz(tmp_path, **good(3)), [IDS, MASK]).batches(2)
    assert [batch["input_ids"].shape for batch in batches] == [(2, 8), (2, 8)]
    assert batches[1]["attention_mask"].tolist() == [[1] * 8, [0] * 8]
    assert batches[1]["input_ids"][1].tolist() == [0] * 8


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"input_id": np.zeros((1, 8), np.int64)}, "no input 'input_id' .*did you mean 'input_ids'.*HPCC1503"),
    "stranger": ({"zzz": np.zeros((1, 8), np.int64)}, "no input 'zzz' .*inputs: input_ids, attention_mask.*HPCC1503"),
    "missing": ({"attention_mask": None}, "input 'attention_mask' is missing .*HPCC1504"),
    "samples": (
        {"attention_mask": np.ones((2, 8), np.int64)},
        "samples: input_ids 3, attention_mask 2 .*HPCC1505",
    ),
    "dtype": ({"input_ids": np.zeros((3, 8), np.float32)}, "dtype float32, the model takes int64 .*HPCC1506"),
    "length": (
        {"input_ids": np.zeros((3, 9), np.int64)},
        r"shape 3x9, .* is Nx8 \(--shape input_ids:2x9\) .*HPCC1507",
    ),
    "rank": ({"input_ids": np.zeros(8, np.int64)}, r"shape 8, compiled is Nx8 \(the first axis counts samples\) .*HPCC1507"),
    "scalar": ({"input_ids": np.int64(3)}, "shape a scalar, compiled is Nx8 .*HPCC1507"),
    "none": ({"input_ids": np.zeros((0, 8), np.int64)}, "shape 0x8, compiled is Nx8 .*HPCC1507"),
    "id": ({"input_ids": np.full((3, 8), 50)}, "holds id 50, its table has 50 rows .*HPCC1508"),
    "negative": ({"input_ids": np.full((3, 8), -1)}, "holds id -1, its table has 50 rows .*HPCC1508"),
}


@pytest.mark.parametrize("case", WRONG)
def test_arrays_that_do_not_fit(tmp_path: Path, case: str) -> None:
    changes, message = WRONG[case]
    arrays = {name: array for name, array in {**good(), **changes}.items() if array is not None}
    with pytest.raises(InputError) as error:
        from_npz(npz(tmp_path, **arrays), [IDS, MASK])
    assert re.search("in.npz: error: .*" + message, str(error.value) + " "), str(error.value)
    assert "\n" not in str(error.value)


def test_integers_that_would_change_are_refused(tmp_path: Path) -> None:
    narrow = InputSpec("input_ids", "int8", (2, 8))
    arrays = {"input_ids": np.full((1, 8), 300)}
    with pytest.raises(InputError, match="dtype int64, the model takes int8"):
        from_npz(npz(tmp_path, **arrays), [narrow])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x93NUMPY", b"text"])
def test_files_that_are_no_npz(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"in.npz: error: .*HPCC1502"):
        from_npz(path, [IDS])
    with pytest.raises(InputError, match="HPCC1501"):
        from_npz(tmp_path / "none.npz", [IDS])


def test_an_npy_file_and_a_pickle(tmp_path: Path) -> None:
    """Never a pickle; and one bare array has no names."""
    np.save(tmp_path / "in.npy", np.zeros((1, 8)))
    with pytest.raises(InputError, match="HPCC1502"):
        from_npz(tmp_path / "in.npy", [IDS])
    with pytest.raises(InputError, match="HPCC1502"):
        from_npz(npz(tmp_path, input_ids=np.array([{"a": 1}], dtype=object)), [IDS])


# ---- texts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "[UNK]": 1, **{word: number + 2 for number, word in enumerate(["the", "cat", "sat", "on", "mat"])}}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_one_sentence_a_line(tmp_path: Path, tokenizer: Path) -> None:
    text = write(tmp_path, "the cat sat\n\n  on the mat  \nthe the the the the the the the the the\n")
    found = from_text(text, tokenizer, [IDS, MASK, TYPES], None)
    assert (found.kind, found.source, found.count) == ("text", "texts.txt", 3)
    assert found.arrays["input_ids"].tolist() == [[2, 3, 4, 0, 0, 0, 0, 0], [5, 2, 6, 0, 0, 0, 0, 0], [2] * 8]
    assert found.arrays["attention_mask"].sum(1).tolist() == [3, 3, 8]
    assert not found.arrays["token_type_ids"].any()
    assert from_text(text, tokenizer, [IDS, MASK], 4).arrays["attention_mask"].sum(1).tolist() == [3, 3, 4]


def test_texts_that_cannot_become_inputs(tmp_path: Path, tokenizer: Path) -> None:
    text = write(tmp_path, "the cat")
    with pytest.raises(UsageError, match=r"--max-length 9 is longer than the compiled 8 tokens \(--shape input_ids:2x9\)"):
        from_text(text, tokenizer, [IDS, MASK], 9)
    with pytest.raises(InputError, match="no attention mask.*HPCC1511"):
        from_text(text, tokenizer, [IDS], None)
    with pytest.raises(InputError, match="'pixels' cannot be made from text.*HPCC1512"):
        from_text(text, tokenizer, [IDS, MASK, PIXELS], None)
    with pytest.raises(InputError, match="no input that looks like token ids.*HPCC1512"):
        from_text(text, tokenizer, [MASK], None)
    with pytest.raises(InputError, match="holds id 3, its table has 3 rows.*HPCC1508"):
        from_text(text, tokenizer, [InputSpec("input_ids", "int64", (1, 8), 3), MASK], None)
    with pytest.raises(InputError, match="no sentence.*HPCC1509"):
        from_text(write(tmp_path, " \n\n"), tokenizer, [IDS, MASK], None)
    with pytest.raises(InputError, match="HPCC1513"):
        from_text(tmp_path / "none.txt", tokenizer, [IDS, MASK], None)
    with pytest.raises(InputError, match="not a tokenizer file.*HPCC1510"):
        from_text(write(tmp_path, "the cat"), text, [IDS, MASK], None)


# ---- made up ---------------------------------------------------------------------------------------------------------


def test_made_up_inputs_follow_names_and_ranges() -> None:
    positions = InputSpec("position_ids", "int64", (2, 8), 8)
    specs = [IDS, MASK, TYPES, PIXELS, positions, InputSpec("flag", "bool", (2,))]
    found = made_up(specs)
    assert (found.kind, found.seed, found.count) == ("made up", 0, 2)
    for spec in specs:
        assert found.arrays[spec.name].shape == spec.shape
        assert found.arrays[spec.name].dtype == np.dtype(spec.dtype)
    ids = found.arrays["input_ids"]
    assert ids.min() >= 0
    assert ids.max() < 50
    assert len(np.unique(ids)) > 4
    assert found.arrays["attention_mask"].tolist() == [[1] * 6 + [0] * 2, [1] * 4 + [0] * 4]
    assert found.arrays["token_type_ids"].tolist() == [[0] * 4 + [1] * 4] * 2
    assert found.arrays["position_ids"].tolist() == [list(range(8))] * 2
    assert found.arrays["flag"].all()
    assert abs(float(found.arrays["pixels"].mean())) < 1


def test_made_up_inputs_are_the_seeds() -> None:
    one, same, other = made_up([IDS, PIXELS]), made_up([IDS, PIXELS]), made_up([IDS, PIXELS], seed=1)
    for name in ("input_ids", "pixels"):
        np.testing.assert_array_equal(one.arrays[name], same.arrays[name])
        assert (one.arrays[name] != other.arrays[name]).any()


def test_numbers_drawn_a_few_at_a_time_are_those_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "DRAWN", 5)
    pixels = made_up([PIXELS]).arrays["pixels"]
    expected = np.random.default_rng(0).standard_normal(PIXELS.shape).astype(PIXELS.dtype)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("input_ids", "ids"),
        ("tokens", "ids"),
        ("attention_mask", "mask"),
        ("input_mask", "mask"),
        ("segment_ids", "types"),
        ("token_type_ids", "types"),
        ("position_ids", "positions"),
        ("pixels", None),
    ],
)
def test_roles_of_names(name: str, role: str | None) -> None:
    assert role_of(name) == role
