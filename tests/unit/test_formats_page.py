"""The worked examples of docs/FORMATS.md: encoders write these bytes, decoders read them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from compiler.sparsity.patterns import parse_pattern
from compiler.storage.formats import FORMATS
from hw_targets.isa import MatrixMode
from runtime.decoders import decode, expand

PAGE = Path(__file__).parents[2] / "docs" / "FORMATS.md"
HEAD = re.compile(r"(\w+) of (\S+), (\d+) bits a code: value_bits = (\d+), metadata_bits = (\d+)")


@dataclass(frozen=True)
class Example:
    format: str
    spec: str
    bits: int
    value_bits: int
    metadata_bits: int
    matrix: np.ndarray
    sections: dict[str, bytes]

    def __str__(self) -> str:
        return f"{self.format}-{self.spec}-{self.bits}"


def examples() -> list[Example]:
    found: list[Example] = []
    for block in re.findall(r"```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        head, *lines = block.splitlines()
        match = HEAD.fullmatch(head)
        assert match, head
        name, spec, *numbers = match.groups()
        rows = [line.split() for line in lines if "|" not in line]
        sections: dict[str, bytes] = {}
        last = ""
        for line in (line for line in lines if "|" in line):
            section, _, data = line.partition("|")
            last = section.strip() or last
            sections[last] = sections.get(last, b"") + bytes.fromhex(data)
        bits = int(numbers[0])
        matrix = np.array(rows, np.int16 if bits == 16 else np.int8)
        found.append(Example(name, spec, bits, int(numbers[1]), int(numbers[2]), matrix, sections))
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_a_worked_example(example: Example) -> None:
    pattern, storage = parse_pattern(example.spec), FORMATS[example.format]
    assert example.matrix.shape == (8, 8)
    pattern.check(example.matrix)
    data = b"".join(example.sections.values())
    assert storage.encode(example.matrix, pattern, example.bits).tobytes() == data
    size = storage.size_bits(8, 8, pattern, example.bits)
    assert (size.value_bits, size.metadata_bits) == (example.value_bits, example.metadata_bits)
    assert 8 * len(data) == example.value_bits + example.metadata_bits
    p = storage.layout(8, 8, pattern)
    shape = (8, 8, p.n, p.m, p.block_rows, p.window, p.keep, p.kept, example.bits)
    layout = decode(storage.code, np.frombuffer(data, np.uint8), *shape)
    assert np.array_equal(expand(layout, list(MatrixMode).index(p.mode), *shape), example.matrix)


def test_every_format_has_an_example_and_every_section_its_name() -> None:
    assert {example.format for example in EXAMPLES} == set(FORMATS)
    text = PAGE.read_text(encoding="utf-8")
    for example in EXAMPLES:
        assert f" {example.format} ({FORMATS[example.format].code})" in text
        assert all(f"| {section} | " in text for section in example.sections)
    assert {example.bits for example in EXAMPLES} == {4, 8, 16}
