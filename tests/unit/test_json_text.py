"""JSON of files: numbers that can be counted with, and nothing else."""

import json

import pytest

from hw_targets.json_text import parse_json


def test_documents_are_read() -> None:
    document = {"a": [1, -2.5, 1 << 62, 1e300, None, True], "b": {"c": "Infinity"}}
    assert parse_json(json.dumps(document)) == document


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 19, "-" + "9" * 5000])
def test_a_number_that_counts_nothing_is_refused(number: str) -> None:
    with pytest.raises(ValueError, match="is no number to count with"):
        parse_json(f'{{"a": [{number}]}}')


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match="line 1"):
        parse_json("{")
