"""The headers of the instruction set: a C program that knows only the header reads what the encoder wrote."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from hashlib import blake2b
from pathlib import Path

import pytest

from hw_targets.codec import encode
from hw_targets.isa import FUNCTIONS, ISA_VERSION
from hw_targets.isa_header import c_header, groups, sv_header
from runtime.cli import main_objdump
from tests.unit.hand_programs import linear

VERSIONS = {3: "9ade60e0323397ab"}
"""By version of the instruction set: the digest of its numbers."""

READER = """
#include <stdio.h>
#include "isa.h"
int main(int argc, char **argv)
{
    static uint32_t words[4 + 64 * HPCC_WORDS];
    FILE *file = fopen(argv[argc - 1], "rb");
    size_t read = fread(words, 4, sizeof words / 4, file);
    if (words[0] != HPCC_MAGIC || words[1] != HPCC_ISA_VERSION || read != 4 + words[2] * HPCC_WORDS)
        return 1;
    for (uint32_t n = 0; n < words[2]; n++) {
        const uint32_t *i = words + 4 + n * HPCC_WORDS;
        printf("%u", i[0] & 255);
        if ((i[0] & 255) == HPCC_OP_MATRIX_MULTIPLY) {
#define SHOW(name) printf(" %u", hpcc_immediate(i, HPCC_MATRIX_MULTIPLY_##name##_LSB, HPCC_MATRIX_MULTIPLY_##name##_BITS))
            SHOW(ROWS); SHOW(OUTS); SHOW(INS); SHOW(N); SHOW(WINDOW); SHOW(KEEP); SHOW(KEPT); SHOW(ACCUMULATE);
            printf(" acc %u", i[HPCC_SLOT_WORD + 4 * HPCC_MATRIX_MULTIPLY_SLOT_ACC + 1]);
            printf(" wait %u", i[1] & ((1u << HPCC_SEMAPHORE_BITS) - 1));
        }
        printf("\\n");
    }
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_c_program_reads_the_program_file(tmp_path: Path) -> None:
    program = linear(mode="mode=hp n=3 m=4 block_rows=16 window=24 keep=12")
    (tmp_path / "isa.h").write_text(c_header(), encoding="utf-8")
    (tmp_path / "reader.c").write_text(READER, encoding="utf-8")
    (tmp_path / "program.bin").write_bytes(encode(program))
    strict = ["-Wall", "-Wextra", "-Werror", "-std=c99"]
    subprocess.run(["cc", *strict, "-o", str(tmp_path / "reader"), str(tmp_path / "reader.c")], check=True)
    command = [str(tmp_path / "reader"), str(tmp_path / "program.bin")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [int(line.split()[0]) for line in lines] == [i.function.opcode for i in program]
    assert lines[4] == "16 4 16 24 3 24 12 0 0 acc 64 wait 2"


def structures() -> dict[str, list[tuple[str, int]]]:
    """(field, bits) of the packed structures of the SystemVerilog header, the lowest bits first."""
    found: dict[str, list[tuple[str, int]]] = {}
    for body, name in re.findall(r"typedef struct packed \{\n(.*?)\n  \} (\w+)_t;", sv_header(), re.DOTALL):
        fields = re.findall(r"^    logic (?:signed )?(?:\[(\d+):0\] )?(\w+);", body, re.MULTILINE)
        found[name] = [(field, int(high or 0) + 1) for high, field in reversed(fields)]
    return found


def test_the_structures_are_the_table() -> None:
    found = structures()
    assert [width for _, width in found["slot"]] == [32] * 4
    for function in FUNCTIONS:
        name = function.name.replace(".", "_")
        if function.immediates:
            fields = found[name]
            assert sum(width for _, width in fields) == 160, name
            assert [f for f in fields if f[0] != "unused"] == [(i.name, i.bits) for i in function.immediates]
        else:
            assert name not in found


def test_an_instruction_structure_has_the_words_of_the_file() -> None:
    body = re.search(r"slot_t \[.*?\} instruction_t;", sv_header(), re.DOTALL)
    assert body is not None
    widths = [int(high) + 1 for high in re.findall(r"logic \[(\d+):0\]", body[0])]
    assert sum(widths) + 160 + 3 * 6 + 8 + 3 * 6 == 8 * 32  # with those that are written in names
    word = struct.unpack_from("<I", encode(linear()), 16)[0]
    assert (word & 255, word >> 8) == (linear()[0].function.opcode, linear()[0].node)


def test_names_are_unique_and_both_headers_have_all() -> None:
    constants = [constant for _, group in groups() for constant in group]
    assert len({constant.name for constant in constants}) == len(constants)
    for constant in constants:
        assert f"#define HPCC_{constant.name} {constant.value}" in c_header()
        assert f" {constant.name} = {constant.value};" in sv_header()


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main_objdump(["--header", "sv"]) == 0
    assert capsys.readouterr().out == sv_header()


def test_other_numbers_are_another_version() -> None:
    """Who changes an opcode, a field or a slot gives the instruction set a new version: programs of the older one are
    refused, and not misread. Within a version that no release has, pin the new digest."""
    numbers = "\n".join(f"{c.name} {c.value}" for _, constants in groups() for c in constants)
    assert VERSIONS.get(ISA_VERSION) == blake2b(numbers.encode(), digest_size=8).hexdigest()
