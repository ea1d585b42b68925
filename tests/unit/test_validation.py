"""docs/VALIDATION.md's closed forms hold on small models, and its ablations change what they say they change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.boards import INTRODUCTION
from benchmarks.boards import PAGE as BOARDS
from benchmarks.pages import page_of, sections_of
from benchmarks.validation import ablations, closed_forms
from benchmarks.validation.__main__ import PAGE as VALIDATION
from benchmarks.validation.__main__ import page
from compiler.tools.variants import prepare
from hw_targets.isa import Queue
from hw_targets.load import load_target
from tests.graphs import Encoder, write

BOARD = load_target("fpga-kv260")
TOKENS = 2 * BOARD.accelerator.tokens


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = Encoder(hidden=96, heads=3, intermediate=136, positions=TOKENS)
    return write(spec, tmp_path_factory.mktemp("model") / "m.onnx", 1, TOKENS)


@pytest.mark.parametrize("pattern", ["dense", "nm:2:8", "hp:0.75"])
def test_the_closed_forms_are_the_simulators(model: Path, pattern: str) -> None:
    prepared = prepare(model, {}, pattern)
    forms = closed_forms.forms(prepared, BOARD)
    assert len(forms) == 6 + 2
    assert {form.what.split()[0] for form in forms} == {"linear", "attention,"}
    for form in forms:
        assert form.closed == form.simulated > 0, form
    least, most = closed_forms.bounds(prepared.on(BOARD))
    assert least <= prepared.on(BOARD).timing.total <= most


def test_the_ablations_cost_cycles(model: Path) -> None:
    made = ablations.variants(
        prepare(model, {}, "hp:0.75"), prepare(model, {}, "dense"), prepare(model, {}, "hp:0.75", 5), BOARD
    )
    cycles = {name: variant.timing.total for name, variant in made.items()}
    whole = made["everything"].timing
    assert made["streaming softmax"].timing.busy[Queue.VECTOR] < whole.busy[Queue.VECTOR]
    assert cycles.pop("streaming softmax") <= whole.total
    assert cycles.pop("one memory channel") >= cycles.pop("everything")  # the board has one
    assert all(more > whole.total for more in cycles.values()), cycles
    assert made["unfused vector operations"].timing.busy != whole.busy
    probabilities = made["probabilities through DRAM"].timing
    heads, moved = 3, 3 * TOKENS * TOKENS
    assert probabilities.bytes_stored - whole.bytes_stored == moved, heads
    assert probabilities.bytes_loaded - whole.bytes_loaded == moved
    assert made["weights stored as CSR, decoded to unstructured"].timing.macs_executed == whole.macs_executed


def test_a_poorer_machine_is_still_right(model: Path) -> None:
    """Timing options change no layout: the programs of a machine without chains are the same."""
    prepared = prepare(model, {}, "hp:0.75")
    plain = prepared.on(BOARD, listed=False)
    design = replace(BOARD.accelerator.design, chained=False)
    unchained = prepared.on(replace(BOARD, accelerator=replace(BOARD.accelerator, design=design)), listed=False)
    assert [e.name for e in plain.timing.events] == [e.name for e in unchained.timing.events]
    assert plain.timing.macs_executed == unchained.timing.macs_executed


def test_pages_made_a_section_at_a_time_keep_the_others() -> None:
    before = VALIDATION.read_text(encoding="utf-8")
    assert page({}, before) == before
    sections = sections_of(BOARDS.read_text(encoding="utf-8"))
    assert len(sections) > 5
    assert page_of(INTRODUCTION, sections) == BOARDS.read_text(encoding="utf-8")
    assert "## Not made: speeds" in page({}, "")
