"""The code of the pages as text: every block says what it is, every command is one that the tools take.

tests/e2e/test_page_code.py runs it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Callable, Iterator

import pytest

from compiler.tools import hpcc, hpcc_explore, hpcc_export, hpcc_opt, hpcc_prune
from hw_targets.errors import UsageError
from runtime import cli
from tests.e2e.harness import call
from tests.pages import CODE, ROOT, Block, Page, pages, printed_as_shown, read_page

PAGES = list(pages())
BLOCKS = [block for page in PAGES for block in page.blocks]
TOOLS: dict[str, argparse.ArgumentParser] = {
    "hpcc": hpcc.build_parser(),
    "hpcc-prune": hpcc_prune.build_parser(),
    "hpcc-explore": hpcc_explore.build_parser(),
    "hpcc-export": hpcc_export.build_parser(),
    "hpcc-run": cli.run_parser(),
    "hpcc-objdump": cli.objdump_parser(),
}
FOREIGN = ("pip", "iree-compile", "iree-run-module", "mlir-opt")
"""Their options are their own."""
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
SPAN = re.compile(r"`([^`\n]+)`")
PLAIN = ("make", "cp", "test", "cc", "python", "xdsl-opt")


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {name for action in parser._actions for name in action.option_strings}


OPTIONS = {name: options_of(parser) for name, parser in TOOLS.items()}
OPTIONS["hpcc-opt"] = set(OPTION.findall(call(hpcc_opt.main, "--help").out))  # xDSL makes its parser as it runs
BENCHMARKS = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").rglob("*.py"))
KNOWN = set[str](re.findall(r'"(--[a-z-]+)"', BENCHMARKS)).union(*OPTIONS.values())
"""What the prose may name without saying of which command."""


def words_of(command: str) -> list[str]:
    """Of the first command of a line, without variables set before it and without its redirections."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        del words[0]
    end = next((at for at, word in enumerate(words) if word in ("|", ">", "&&", "||", ";", "2>")), len(words))
    return words[:end]


def fault(command: str) -> str:
    """Why a command of a page cannot be meant, empty if it can."""
    words = words_of(command)
    name = words[0].rsplit("/", 1)[-1]
    if name in TOOLS:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                TOOLS[name].parse_args(words[1:])
        except UsageError as error:
            return str(error)
    if name in OPTIONS:  # argparse takes abbreviations, pages do not
        return ", ".join(option for option in OPTION.findall(" ".join(words)) if option not in OPTIONS[name])
    if name == "python" and words[1:2] == ["-m"]:
        module = ROOT / words[2].replace(".", "/")
        files = [module.with_suffix(".py"), *module.glob("*.py")]
        source = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
        return ", ".join(option for option in OPTION.findall(command) if f'"{option}"' not in source) if source else words[2]
    if name not in (*FOREIGN, *PLAIN):
        return f"{name} is no command that a page may use"
    return ""


def faults(page: Page) -> Iterator[str]:
    """What is wrong with the code of a page, line by line."""
    for block in page.blocks:
        yield from (f"{block.where}: {text}" for text in block_faults(block) if text)
    for span in SPAN.findall(page.prose):
        first = span.split()[0]
        if first == "python" and " -m " in span:
            yield from (f"{page.name}: `{span}`: {text}" for text in [fault(span)] if text)
        elif first in OPTIONS or first.startswith("--"):
            known = OPTIONS.get(first, KNOWN)
            yield from (f"{page.name}: `{span}`: {option}" for option in OPTION.findall(span) if option not in known)


def block_faults(block: Block) -> Iterator[str]:
    if not block.is_code:
        lines = [line.removeprefix("$ ").split() for line in block.text.splitlines()]
        if block.language == "" and any(words and words[0] in (*OPTIONS, *FOREIGN, "python") for words in lines):
            yield f"a block with commands is marked as one of {', '.join(CODE)}"
        return
    if "not run" in block.notes and len(block.notes["not run"].split()) < 3:
        yield "what is not run has a reason"
    if block.language == "toml" and not {"file", "not run"} & block.notes.keys():
        yield "a file's content says which file it is"
    if block.language in ("sh", "console"):
        yield from (fault(command) for command, _ in block.commands())
        output = "".join(line for _, lines in block.commands() for line in lines)
        for passage in re.findall(r'"([^"]+)"', block.notes.get("figures vary", "")):
            if passage not in output:
                yield f"the output has no {passage!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one_that_the_tools_take(page: Page) -> None:
    assert list(faults(page)) == []


def test_the_pages_have_code() -> None:
    """Guards the reader of the pages: it has found the blocks that a plain count finds."""
    for page in PAGES:
        path = ROOT / page.name if page.name == "README.md" else ROOT / "docs" / page.name
        fences = re.findall(r"^```([a-z]+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert [block.language for block in page.blocks if block.is_code] == [name for name in fences if name in CODE]
    assert sum(block.is_code for block in BLOCKS) > 50


def test_every_tool_is_shown() -> None:
    shown = {
        words_of(command)[0] for block in BLOCKS if block.language in ("sh", "console") for command, _ in block.commands()
    }
    assert shown >= OPTIONS.keys()


WRONG: dict[str, Callable[[str], str]] = {
    "an option that there is not": lambda text: text.replace("--sparsity hp:0.75", "--sparsness hp:0.75", 1),
    "an option that is cut short": lambda text: text.replace("--list-layers", "--list-layer", 1),
    "an option of another tool": lambda text: text.replace("hpcc-run ", "hpcc-run --sparsity nm:2:4 ", 1),
    "an option in the prose": lambda text: text.replace("`--json` ", "`--jason` ", 1),
    "a value that an option does not take": lambda text: text.replace("--steps 1000", "--steps many", 1),
    "a tool that there is not": lambda text: text.replace("\nhpcc-opt model", "\nhpcc-optimise model", 1),
    "a block that is not marked": lambda text: text.replace("```sh\nhpcc model", "```\nhpcc model", 1),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_page_is_found(name: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    wrong = WRONG[name](text)
    assert wrong != text
    assert list(faults(read_page(wrong, "README.md"))) != []


SHOWN = ["a model, 17 layers", "...", "  latency 0.17 ms (3,000 cycles) + 1.5 ms host", "  names a, ... and z"]
PRINTED = ["a model, 17 layers", "one", "two", "  latency 0.17 ms (3,000 cycles) + 12.25 ms host", "  names a, b, c and z"]


def test_output_is_compared() -> None:
    def same(change: Callable[[list[str]], list[str]] = list, varies: str = '"1.5 ms host"') -> bool:
        return printed_as_shown(SHOWN, change(PRINTED), varies)

    assert same()
    assert not same(varies="")
    assert not same(lambda lines: [line.replace("17 layers", "18 layers") for line in lines])
    assert not same(lambda lines: [line.replace("3,000", "3,001") for line in lines])
    assert not same(lambda lines: [line.replace("and z", "and y") for line in lines])
    assert not same(lambda lines: [*lines, "one more"])
    assert not same(lambda lines: lines[:-1])
