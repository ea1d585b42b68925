"""The ledger's reasons: each is reached by the layer it describes, and docs/LEDGER.md says what the code says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.backends.fpga.weights import WeightPlan
from compiler.sparsity.patterns import Pattern, parse_pattern
from compiler.tools import summary
from compiler.tools.helps import help_of, vector_is_full
from compiler.tools.ledger import Weight, reason_of
from compiler.tools.report import EXPLANATIONS, HELPS, Help, LayerPart, Reason
from hw_targets.isa import MatrixMode, Queue
from hw_targets.load import load_target
from runtime.ledger import CAUSE_OF, Cause, LayerCycles

ACCELERATOR = replace(load_target("fpga-u280").accelerator, cores=3, outputs=32, multipliers=8, window=32)
DENSE = parse_pattern("dense")
NM = parse_pattern("nm:2:4")
HP = parse_pattern("hp:0.75")
LOW_RANK = parse_pattern("low_rank:rank=8")
ANYWHERE = parse_pattern("unstructured:0.75")
PAGE = (Path(__file__).parents[2] / "docs" / "LEDGER.md").read_text(encoding="utf-8")


def weight(
    pattern: Pattern, outs: int = 384, ins: int = 384, mode: MatrixMode | None = None, *, left: bool = False
) -> Weight:
    """A weight as `encode` leaves it: plain numbers, no module."""
    fields = pattern.parameters(ins)
    mode = mode or {"dense": MatrixMode.DENSE, "nm": MatrixMode.NM, "hp": MatrixMode.HP}.get(
        pattern.name, MatrixMode.UNSTRUCTURED
    )
    plan = WeightPlan(
        "w",
        outs,
        ins,
        mode=mode.value,
        pattern_fields={
            "n": fields.n,
            "m": fields.m,
            "block_rows": fields.block_rows,
            "window": fields.window,
            "keep": fields.keep,
        },
    )
    return Weight(plan, pattern, 1, 1, {}, left_dense=left, in_scope=True)


def cycles(**counts: int) -> LayerCycles:
    return LayerCycles("layer", {cause: counts.get(cause.value, 0) for cause in Cause})


BUSY = cycles(matrix=90, vector=10)
REACHED: dict[Reason, tuple[LayerCycles, Weight | None, Pattern | None]] = {
    Reason.NO_WEIGHTS: (BUSY, None, NM),
    Reason.DENSE: (BUSY, weight(DENSE), DENSE),
    Reason.OUT_OF_SCOPE: (BUSY, weight(DENSE), NM),
    Reason.LEFT_DENSE: (BUSY, weight(DENSE, left=True), NM),
    Reason.FACTOR: (BUSY, replace(weight(DENSE), factor_of="low_rank:rank=8"), LOW_RANK),
    Reason.STORED_DENSE: (BUSY, weight(parse_pattern("nm:2:4,along=out"), mode=MatrixMode.DENSE), NM),
    Reason.FULL: (BUSY, weight(NM), NM),
    Reason.VECTOR: (cycles(matrix=40, vector=50, load=10), weight(NM), NM),
    Reason.LOAD: (cycles(matrix=40, load=50, vector=10), weight(HP), HP),
    Reason.TOKEN: (cycles(matrix=40, token=60), weight(NM), NM),
    Reason.SHORT_ROWS: (BUSY, weight(NM, outs=95), NM),
    Reason.UNEVEN_K: (BUSY, weight(NM, ins=382), NM),
    Reason.WINDOW: (BUSY, weight(parse_pattern("nm:1:8")), NM),
    Reason.IMBALANCE: (BUSY, weight(ANYWHERE), ANYWHERE),
}


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.value)
def test_every_reason_is_reached(reason: Reason) -> None:
    assert reason in REACHED, "a new reason needs a layer that has it"
    assert reason_of(*REACHED[reason], ACCELERATOR, 2.5 if reason is Reason.IMBALANCE else 1.0) is reason


def test_imbalance_is_what_costs_more_than_a_tenth() -> None:
    assert reason_of(BUSY, weight(ANYWHERE), ANYWHERE, ACCELERATOR, 1.11) is Reason.IMBALANCE
    assert reason_of(BUSY, weight(ANYWHERE), ANYWHERE, ACCELERATOR, 1.1) is Reason.FULL
    waiting = cycles(matrix=40, vector=60)
    assert reason_of(waiting, weight(ANYWHERE), ANYWHERE, ACCELERATOR, 2.0) is Reason.VECTOR
    assert reason_of(BUSY, weight(DENSE), None, ACCELERATOR) is Reason.DENSE, "auto found no pattern"


def test_matrix_binds_from_half_of_the_cycles_on() -> None:
    assert reason_of(cycles(matrix=50, vector=50), weight(NM), NM, ACCELERATOR) is Reason.FULL
    assert reason_of(cycles(matrix=49, vector=51), weight(NM), NM, ACCELERATOR) is Reason.VECTOR


def test_windows() -> None:
    """keep inputs of a window, n of m of these: a step is full from `multipliers` of them on."""
    assert reason_of(BUSY, weight(HP), HP, ACCELERATOR) is Reason.FULL  # 16 of 32, 2:4: 8 a window
    deep = parse_pattern("hp:0.9")  # 12 of 32, 1:4: 3 a window
    assert reason_of(BUSY, weight(deep), deep, ACCELERATOR) is Reason.WINDOW
    assert reason_of(BUSY, weight(HP, ins=400), HP, ACCELERATOR) is Reason.UNEVEN_K  # 12.5 windows


def test_a_layer_without_cycles_has_a_reason() -> None:
    assert reason_of(cycles(), weight(NM), NM, ACCELERATOR) is Reason.FULL


def test_totals_and_bounds() -> None:
    entry = cycles(matrix=3, vector=4, drain=2)
    assert entry.total == 9
    assert entry.bound is Cause.VECTOR
    assert set(CAUSE_OF) == set(Queue)


# ---- the page --------------------------------------------------------------------------------------------------------


def table(heading: str) -> dict[str, list[str]]:
    """The first table below a heading: its first column, and the rest of each row."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows[2:]}


def test_the_page_lists_the_reasons() -> None:
    documented = {reason: cells[0] for reason, cells in table("Reasons").items()}
    assert documented == {reason.value: text for reason, text in EXPLANATIONS.items()}
    assert set(EXPLANATIONS) == set(Reason)


def test_the_page_lists_what_helps() -> None:
    documented = {help: cells[0] for help, cells in table("What would help").items()}
    assert documented == {help.value: text for help, text in HELPS.items()}
    assert set(HELPS) == set(Help)


def test_the_page_lists_the_causes() -> None:
    assert list(table("Where a cycle belongs")) == [f"`{cause.value}`" for cause in Cause]


def test_the_page_lists_the_columns() -> None:
    """The headings of the terminal's table, and every field of a layer in report.json."""
    source = Path(summary.__file__).read_text(encoding="utf-8")
    headings = re.findall(r'^        \("([a-z ]+)", (?:True|False)\),$', source, re.MULTILINE)
    assert list(table("Columns")) == headings
    assert set(LayerPart.model_fields) <= set(re.findall(r"`(\w+)`", PAGE))


def test_the_page_tells_the_checks_apart() -> None:
    from compiler.tools.reference import RELATIVE_L2, TOKEN_COSINE

    checks = PAGE.split("## Three checks that are not one", 1)[1]
    for word in ("**simulator**", "**verify**", "**damage**", "made-up inputs", f"{RELATIVE_L2:.2f}", f"{TOKEN_COSINE}"):
        assert word in checks


def test_a_full_vector_unit_is_what_binds_every_layer() -> None:
    """L3 on the u280: a larger array saves half a percent of its cycles, twice the lanes 45."""
    entry = LayerCycles(
        "layer.0.ffn.up", dict.fromkeys(Cause, 0) | {Cause.MATRIX: 100}, dict.fromkeys(Queue, 0) | {Queue.VECTOR: 96}
    )
    idle = replace(entry, busy=dict.fromkeys(Queue, 0) | {Queue.VECTOR: 90})
    assert vector_is_full([entry])
    assert not vector_is_full([entry, idle])
    assert help_of(entry, Reason.NO_WEIGHTS) is Help.ARRAY
    assert help_of(entry, Reason.NO_WEIGHTS, vector_full=True) is Help.LANES
