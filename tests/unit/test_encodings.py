"""Sparsity and storage attributes: text in, text out, verification, wrapping of patterns."""

import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, TensorType, f32
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError, VerifyException

from compiler.dialects.sparsity import SPARSITY, attribute_of, pattern_of
from compiler.dialects.storage import STORAGE, storage_attribute_of
from compiler.sparsity.patterns import NM, Dense, parse_pattern
from compiler.storage.formats import FORMATS, candidates


def parse(text: str):
    ctx = Context()
    for dialect in (Builtin, SPARSITY, STORAGE):
        ctx.load_dialect(dialect)
    return Parser(ctx, text).parse_attribute()


SPECS = ["nm:2:4", "nm:1:8,along=out", "hp:0.75", "hp:0.6", "hp:rows=4,window=in,keep=1/4,fine=dense", "block:4x1:0.75"]
SPECS += ["block:16x32:0.9", "unstructured:0.75", "unstructured:1/3", "unstructured:0.9999"]


@pytest.mark.parametrize("spec", SPECS)
def test_sparsity_encodings_wrap_patterns(spec: str) -> None:
    pattern = parse_pattern(spec)
    type = TensorType(f32, [64, 96], attribute_of(pattern))
    assert parse(str(type)) == type
    assert pattern_of(type) == pattern_of(parse(str(type))) == pattern
    for storage in candidates(pattern):
        encoded = TensorType(f32, [64, 96], storage_attribute_of(storage, pattern))
        assert parse(str(encoded)) == encoded
        assert pattern_of(encoded) == pattern
        assert parse(str(encoded)).encoding.format is storage


def test_spelling() -> None:
    assert str(attribute_of(NM(2, 4))) == "#hpcc_sparsity.nm<2:4>"
    full = "#hpcc_sparsity.hp<rows = 64, window = 32, keep = 16, fine = 2:4>"
    assert str(attribute_of(parse_pattern("hp:0.75"))) == full
    stored = storage_attribute_of(FORMATS["hp_mark"], parse_pattern("hp:0.75"))
    assert str(stored) == f"#hpcc_storage.hp_mark<of = {full}>"
    assert str(storage_attribute_of(FORMATS["dense"], Dense())) == "#hpcc_storage.dense"
    assert pattern_of(TensorType(f32, [4, 4])) == Dense()
    assert str(attribute_of(parse_pattern("block:4x1:0.75"))) == "#hpcc_sparsity.block<4x1, keep = 1/4>"
    assert str(attribute_of(parse_pattern("unstructured:0.75"))) == "#hpcc_sparsity.unstructured<density = 0.25>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#hpcc_sparsity.nm<4:2>", "did you mean 2:4"),
        ("#hpcc_sparsity.hp<rows = 64, window = 32>", "hp needs keep, fine too"),
        ("#hpcc_sparsity.hp<rows = 64, windw = 32, keep = 16, fine = 2:4>", "did you mean 'window'"),
    ],
)
def test_bad_text_is_an_error_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        parse(text)


def test_a_format_takes_only_patterns_it_stores() -> None:
    with pytest.raises(VerifyException, match="'hp_mark' does not store #hpcc_sparsity.nm<2:4>"):
        parse("#hpcc_storage.hp_mark<of = #hpcc_sparsity.nm<2:4>>")
