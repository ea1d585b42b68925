"""What the ledger says would help does: the model is compiled again with exactly that change."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from compiler.tools.helps import with_help
from compiler.tools.options import Options
from compiler.tools.report import Help, LayerPart, Reason
from compiler.tools.session import open_session
from compiler.tools.variants import prepare
from hw_targets.load import load_target
from tests.e2e.test_random_models import TARGET_TEXT
from tests.graphs import Encoder, write

ENCODER = Encoder(hidden=192, heads=4, intermediate=384, layers=1, positions=256)
ARRAY = {"cores": 1, "tokens": 4, "outputs": 16, "multipliers": 8, "lanes": 256}


@dataclass(frozen=True)
class Case:
    """A layer that the change `help` concerns, and the model, pattern and board that bring it about."""

    help: Help
    layer: str
    pattern: str
    board: dict[str, int] = field(default_factory=dict)
    tokens: int = 64
    replaced: tuple[str, str] | None = None
    sparser: str = ""


CASES = (
    Case(Help.PATTERN, "layer.0.ffn.up", "dense", sparser="hp:0.75"),
    Case(Help.SPARSER, "layer.0.ffn.up", "nm:2:4", sparser="nm:1:4"),
    Case(Help.ARRAY, "layer.0.ffn.up", "hp:0.75"),
    Case(Help.ARRAY, "layer.0.attn", "hp:0.75"),
    Case(Help.NARROW, "layer.0.ffn.up", "hp:0.9"),
    Case(Help.SELECTORS, "layer.0.ffn.up", "unstructured:0.75"),
    Case(Help.TOKENS, "layer.0.ffn.down", "nm:2:4", {"outputs": 512, "tokens": 1}),
    Case(Help.LANES, "layer.0.ffn.up", "hp:0.75", {"lanes": 4, "outputs": 64, "tokens": 16}),
    Case(
        Help.BANDWIDTH,
        "layer.0.ffn.up",
        "dense",
        {"outputs": 64, "tokens": 16},
        16,
        (r"(gbytes_per_s = \{ value = )460", r"\g<1>1"),
    ),
    Case(
        Help.DECODER,
        "layer.0.ffn.up",
        "hp:0.75",
        {"outputs": 64, "tokens": 16},
        16,
        (r"(hp_mark = \{ values_per_cycle = )512", r"\g<1>2"),
    ),
    Case(Help.BATCH, "layer.0.ffn.down", "hp:0.75", {"outputs": 64, "tokens": 16}, 4),
)


def rows_of(model: Path, board: Path, pattern: str) -> dict[str, LayerPart]:
    """The ledger by layer, cycles only."""
    options = Options(model=str(model), target=str(board), sparsity=pattern, timing_only=True, verify=False, quiet=True)
    return {row.name: row for row in open_session(options).compile().report.layers}


def board_file(folder: Path, case: Case) -> Path:
    """A device of one region, so that the one core may be as large as the case has it."""
    text = TARGET_TEXT.replace("slrs = { value = 3", "slrs = { value = 1")
    for key, value in {**ARRAY, **case.board}.items():
        text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
    if case.replaced is not None:
        text, count = re.subn(*case.replaced, text)
        assert count == 1
    path = folder / "board.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.help.value}, {case.layer}")
def test_the_change_helps(case: Case, tmp_path: Path) -> None:
    model = write(ENCODER, tmp_path / "model.onnx", 1, case.tokens)
    board = board_file(tmp_path, case)
    row = rows_of(model, board, case.pattern)[case.layer]
    assert row.help is case.help, f"{row.reason.value}: {row.cycles_by_cause}"
    target, batch = with_help(load_target(board), case.help), 1
    if case.help is Help.BATCH:
        batch, model = 4, write(ENCODER, tmp_path / "batch.onnx", 4, case.tokens)
    changed = prepare(model, None, case.sparser or case.pattern).on(target or load_target(board))
    cycles = {layer.layer: layer.total for layer in changed.layers}[case.layer]
    assert cycles < batch * row.cycles


def test_every_help_is_tried() -> None:
    assert {case.help for case in CASES} == set(Help)


def test_imbalance_stands_between_dense_and_balanced(tmp_path: Path) -> None:
    """The same number of zeros: unstructured gains less than hp, because rows wait for the busiest one."""
    model = write(ENCODER, tmp_path / "model.onnx", 1, 64)
    board = board_file(tmp_path, CASES[0])
    cycles = {p: rows_of(model, board, p)["layer.0.ffn.up"] for p in ("dense", "unstructured:0.75", "hp:0.75")}
    assert cycles["hp:0.75"].cycles < cycles["unstructured:0.75"].cycles < cycles["dense"].cycles
    assert cycles["unstructured:0.75"].reason is Reason.IMBALANCE
