"""The catalogue of errors, the source that raises them and the golden lines that show them are held together."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from compiler.tools.hpcc import main
from hw_targets import errors
from hw_targets.error_catalogue import STATUSES, entries, explain
from hw_targets.errors import HpccError, UsageError

ROOT = Path(__file__).parents[2]
ROOMS = ("benchmarks", "compiler", "hpcc", "hw_targets", "runtime")
CODE = re.compile(r"HPCC\d{4}")
KINDS = {kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HpccError)}
CATALOGUE = entries()


def raised() -> dict[str, set[tuple[str, str]]]:
    """By code: the files that raise it, each with the name of what is called with the code, such as InputError."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and node.args):
                    continue
                for argument in node.args[:2]:
                    if isinstance(argument, ast.Constant) and CODE.fullmatch(str(argument.value)):
                        called = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
                        found[str(argument.value)].add((str(path.relative_to(ROOT)), called))
    return found


RAISED = raised()


def golden() -> dict[str, list[str]]:
    """By code: the golden lines, and those that tests/lit checks."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in (ROOT / "tests" / "golden" / "errors.txt").read_text(encoding="utf-8").splitlines():
        code = re.search(r" \[(HPCC\d{4})\]$", line)
        if code and not line.startswith("#"):
            found[code[1]].append(line.split(" | ", 2)[2])
    for path in (ROOT / "tests" / "lit").rglob("*.mlir"):
        for line, code in re.findall(r"^// [A-Z]+: *(.*\[(HPCC\d{4})\])", path.read_text(encoding="utf-8"), re.MULTILINE):
            found[code].append(re.sub(r"\{\{.*?\}\}", "...", line.removeprefix("{{^}}")))
    return found


GOLDEN = golden()


def test_the_catalogue_has_exactly_what_the_source_raises() -> None:
    assert set(RAISED) == set(CATALOGUE)
    assert len(CATALOGUE) > 200


def test_no_code_stands_in_the_source_in_another_way() -> None:
    """Whatever looks like a code is one of the catalogue: comments and docstrings cannot name one that is gone."""
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            assert set(CODE.findall(path.read_text(encoding="utf-8"))) <= {*CATALOGUE, "HPCC1234"}, path


def test_a_code_has_one_meaning() -> None:
    """It belongs to one file and one kind of error, and no two codes mean the same."""
    assert {code: where for code, where in RAISED.items() if len({file for file, _ in where}) > 1} == {}
    assert {code: where for code, where in RAISED.items() if len({called for _, called in where} & set(KINDS)) > 1} == {}
    meanings = [entry.meaning for entry in CATALOGUE.values()]
    assert sorted(meanings) == sorted(set(meanings))


@pytest.mark.parametrize("code", RAISED)
def test_the_first_digit_of_a_code_is_the_exit_status(code: str) -> None:
    for _, called in RAISED[code]:
        if called in KINDS:
            assert KINDS[called].exit_status == CATALOGUE[code].exit_status
    assert CATALOGUE[code].exit_status in STATUSES


@pytest.mark.parametrize("code", CATALOGUE)
def test_an_entry_says_what_and_what_to_do(code: str) -> None:
    entry = CATALOGUE[code]
    assert entry.meaning.endswith(".")
    assert entry.meaning[0].isupper() or entry.meaning.startswith(("`", "hpcc", "xDSL"))
    assert entry.remedy
    assert entry.area


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_code_has_a_golden_line_and_its_example_is_one(code: str) -> None:
    patterns = [
        re.escape(line).replace(re.escape("..."), ".*").replace("LINE", r"\d+").replace("TMP/", "").replace("TMP", "folder")
        for line in GOLDEN[code]
    ]
    example = f"{CATALOGUE[code].example} [{code}]"
    assert any(re.fullmatch(pattern, example) for pattern in patterns), f"\n{example}\nis none of\n" + "\n".join(
        GOLDEN[code]
    )


@pytest.mark.parametrize("text", ["HPCC1004", "1004", "hpcc1004"])
def test_explain(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--explain", text]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("HPCC1004: An input has a dimension that the model leaves open")
    assert "exit status  1:" in shown
    assert "--shape input_ids:1x128" in shown


@pytest.mark.parametrize("text", ["HPCC9999", "", "1", "shape"])
def test_explain_of_no_code(text: str) -> None:
    with pytest.raises(UsageError, match="there is no error"):
        explain(text)
