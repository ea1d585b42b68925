"""Static checks: what each rule rejects, that overlap is exact, and that 20,000 instructions are checked in seconds."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_targets import check
from hw_targets.asm import assemble
from hw_targets.check import Semaphore, check_program
from hw_targets.codec import build, expand
from hw_targets.errors import InputError
from hw_targets.extents import Extent, extent, floor_sum, operand_extents, overlap
from hw_targets.isa import FUNCTIONS, Address, Function, Instruction, MatrixMode, Memory, Queue
from hw_targets.layout import Layout
from runtime import decoders
from tests.unit.hand_programs import LINEAR_SEMAPHORES, SIZES, linear


def edit(program: list[Instruction], position: int, **changes: object) -> list[Instruction]:
    return [replace(i, **changes) if p == position else i for p, i in enumerate(program)]  # type: ignore[arg-type]


def move(program: list[Instruction], position: int, operand: str, address: Address) -> list[Instruction]:
    operands = tuple((name, address if name == operand else a) for name, a in program[position].operands)
    return edit(program, position, operands=operands)


def fails(program: list[Instruction], semaphores: tuple[Semaphore, ...] = LINEAR_SEMAPHORES) -> InputError:
    with pytest.raises(InputError) as caught:
        check_program(program, semaphores, SIZES)
    return caught.value


def test_a_right_program_passes() -> None:
    assert len(check_program(linear(), LINEAR_SEMAPHORES, SIZES)) == 8


@pytest.mark.parametrize("position", [3, 4, 5, 6])
def test_every_wait_of_the_linear_is_needed(position: int) -> None:
    """Dropping any wait leaves bytes that two queues touch unordered."""
    program = linear()
    for gone in program[position].waits:
        kept = tuple(w for w in program[position].waits if w != gone)
        assert fails(edit(program, position, waits=kept)).code == "HPCC1227"


def test_a_missing_signal_is_a_deadlock() -> None:
    error = fails(edit(linear(), 4, signals=()))
    assert error.code == "HPCC1223"
    assert "instruction 5 (vector.finish)" in str(error)
    assert "'acc'" in str(error)


def test_an_initial_value_stands_for_a_signal() -> None:
    semaphores = (*LINEAR_SEMAPHORES, Semaphore("free", 1, Queue.VECTOR, Queue.MATRIX))
    check_program(edit(linear(), 4, waits=(1, 2, 5)), semaphores, SIZES)
    assert fails(edit(linear(), 4, waits=(1, 5, 5)), semaphores).code == "HPCC1223"


def test_semaphores_have_one_producer_and_one_consumer() -> None:
    assert "whose producer is" in str(fails(edit(linear(), 0, signals=(2,))))
    assert "whose consumer is" in str(fails(edit(linear(), 4, waits=(0, 2))))
    assert fails(edit(linear(), 0, signals=(9,))).code == "HPCC1221"
    assert fails(linear(), (*LINEAR_SEMAPHORES, Semaphore("x", 16, Queue.LOAD, Queue.LOAD))).code == "HPCC1220"
    assert fails(linear(), LINEAR_SEMAPHORES * 7).code == "HPCC1220"


PING = """
control.loop count={count}
  load.copy src=0x0 dst=0x0 rows=1 row_bytes=4 {wait} signal=0
  vector.quantize x=0x0 codes=0x100 scale=0x200 rows=1 cols=2 group=2 wait=0 {back}
control.end
control.halt
"""


def test_a_semaphore_must_not_pass_its_maximum() -> None:
    """LOAD may run ahead of VECTOR: without credits it does so without limit, with two credits by two."""
    forward = Semaphore("full", 0, Queue.LOAD, Queue.VECTOR)
    moving = PING.replace("dst=0x0", "dst=0x0(+0x10)").replace("x=0x0", "x=0x0(+0x10)")
    check_program(assemble(moving.format(count=15, wait="", back="")), [forward], SIZES)
    longer = assemble(moving.format(count=17, wait="", back=""))
    with pytest.raises(InputError, match="'full' can reach 16") as caught:
        check_program(longer, [forward], SIZES)
    assert caught.value.code == "HPCC1224"
    assert "iteration 15" in caught.value.where
    credit = Semaphore("free", 1, Queue.VECTOR, Queue.LOAD)
    check_program(assemble(PING.format(count=500, wait="wait=1", back="signal=1")), [forward, credit], SIZES)


def test_one_credit_too_many_is_a_race() -> None:
    """One buffer, two credits: LOAD overwrites what VECTOR still reads."""
    forward, credit = Semaphore("full", 0, Queue.LOAD, Queue.VECTOR), Semaphore("free", 2, Queue.VECTOR, Queue.LOAD)
    with pytest.raises(InputError, match="nothing orders vector before load") as caught:
        check_program(assemble(PING.format(count=3, wait="wait=1", back="signal=1")), [forward, credit], SIZES)
    assert caught.value.code == "HPCC1227"


def test_order_is_transitive() -> None:
    """LOAD -> VECTOR -> MATRIX orders what LOAD wrote before the codes with MATRIX."""
    program = linear()
    loads_first = [program[1], program[0], *program[2:]]
    check_program(edit(loads_first, 4, waits=(2,)), LINEAR_SEMAPHORES, SIZES)
    assert fails(edit(program, 4, waits=(2,))).code == "HPCC1227"


def test_control_orders_what_it_dispatches_later() -> None:
    program = linear()
    barrier = assemble("control.loop count=1 wait=5\ncontrol.end\n")
    waiting = [*edit(program, 3, signals=(2, 5))[:4], *barrier, *edit(program, 4, waits=(1,))[4:]]
    semaphores = (*LINEAR_SEMAPHORES, Semaphore("barrier", 0, Queue.VECTOR, Queue.CONTROL))
    check_program(waiting, semaphores, SIZES)


@pytest.mark.parametrize(
    ("position", "operand", "address"),
    [
        (0, "src", Address((1 << 16) - 191, 48)),
        (0, "dst", Address((1 << 14) - 48, 48)),
        (1, "dst", Address((1 << 13) - 383)),
        (4, "acc", Address((1 << 13) - 3 * 64 - 63, 64)),
        (0, "dst", Address(0, 47)),
    ],
)
def test_addresses_are_in_bounds(position: int, operand: str, address: Address) -> None:
    error = fails(move(linear(), position, operand, address))
    assert error.code == "HPCC1226"
    assert f"instruction {position}" in str(error)


@pytest.mark.parametrize(
    ("position", "field", "value"),
    [(0, "rows", 0), (3, "group", 0), (3, "group", 5), (4, "ins", 0), (5, "activation", 1)],
)
def test_fields_that_mean_nothing(position: int, field: str, value: int) -> None:
    program = linear()
    immediates = tuple((k, value if k == field else v) for k, v in program[position].immediates)
    assert fails(edit(program, position, immediates=immediates)).code == "HPCC1225"


HEADS = """
vector.finish acc=0x0 row_scale=0x800 columns=0x0 codes=0x0:64 scale=0x900:16 rows=8 cols=16 group=16 signal=0
vector.finish acc=0x0 row_scale=0x800 columns=0x0 codes=0x10:64 scale=0x904:16 rows=8 cols=16 group=16
matrix.multiply x=0x0:64 w=0x0 acc=0x1000 rows=8 outs=8 ins=16 n=1 m=1 wait=0
control.halt
"""


def test_heads_side_by_side_are_disjoint() -> None:
    """The second head's codes are written while the first head's are read: same rows, other columns."""
    semaphore = Semaphore("codes", 0, Queue.VECTOR, Queue.MATRIX)
    check_program(assemble(HEADS), [semaphore], SIZES)
    with pytest.raises(InputError, match="HPCC1227"):
        check_program(assemble(HEADS.replace("codes=0x10:64", "codes=0xf:64")), [semaphore], SIZES)


def touched(e: Extent) -> set[int]:
    return {e.start + row * e.pitch + byte for row in range(e.rows) for byte in range(e.row_bytes)}


EXTENTS = st.builds(
    lambda start, rows, width, gap: extent(Memory.ACT, start, rows, width, width + gap),
    st.integers(0, 60),
    st.integers(1, 6),
    st.integers(1, 9),
    st.sampled_from([0, 1, 4, 7, 20]),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(EXTENTS, EXTENTS), min_size=30, max_size=30))
def test_overlap_is_exact(pairs: list[tuple[Extent, Extent]]) -> None:
    for a, b in pairs:
        assert overlap(a, b) == bool(touched(a) & touched(b)), (a, b)
        if a.rows == b.rows and a.rows > 1:
            c = b._replace(pitch=max(a.pitch, b.row_bytes))
            assert overlap(a, c) == bool(touched(a) & touched(c)), (a, c)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_every_operand_has_an_extent(function: Function) -> None:
    """The shape texts of the table are all understood, and grow with the sizes they name."""
    special = {"norm": 1, "mode": 0, "format": 0, "activation": 0, "n": 1, "m": 1, "tables": 2, "group": 4}
    values = {i.name: special.get(i.name, 8) for i in function.immediates if i.bits > 1 or i.name == "norm"}
    operands = {o.name: Address(0x100, 0) for o in function.operands}
    resolved = expand([build(function.name, operands, values), build("control.halt")])[0] if operands else None
    for operand in function.operands:
        assert resolved is not None
        regions = operand_extents(resolved, operand.name)
        assert len(regions) == (2 if operand.name == "rows_in" else 1)
        assert regions[0].memory is operand.memory
        assert regions[0].start == 0x100
        assert regions[0].end > 0x100


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 70), st.integers(1, 300), st.sampled_from([(1, 1), (2, 4), (1, 4), (4, 16), (3, 5)]), st.data())
def test_layout_sizes_agree_with_the_decoders(outs: int, ins: int, fine: tuple[int, int], data: st.DataObject) -> None:
    n, m = fine
    window = data.draw(st.integers(1, 300))
    keep = data.draw(st.integers(1, window))
    rows = data.draw(st.integers(1, 80))
    values = data.draw(st.integers(1, outs * ins))
    for number, mode in enumerate(MatrixMode):
        kept = values if mode is MatrixMode.UNSTRUCTURED else 0
        layout = Layout(mode, outs, ins, n, m, rows, window, keep, kept)
        assert layout.problem() == ""
        assert layout.bytes == decoders.compute_bytes(number, outs, ins, n, m, rows, window, keep, kept), mode


def test_layouts_that_make_no_sense() -> None:
    assert "0 values in a matrix of 4 x 8" in Layout(MatrixMode.UNSTRUCTURED, 4, 8).problem()
    assert "33 values in a matrix of 4 x 8" in Layout(MatrixMode.UNSTRUCTURED, 4, 8, kept=33).problem()
    assert "counts its values itself" in Layout(MatrixMode.NM, 4, 8, 2, 4, kept=16).problem()


def test_time_grows_with_the_instructions() -> None:
    """Double-buffered tiles over many addresses: the checker must not compare all pairs, which would take 36 times as
    long for six times as many."""
    body = """
control.loop count=COUNT
control.loop count=80
  load.copy src=0x0(+0x40) dst=0x0:16(+0x0,+0x80) rows=4 row_bytes=8 wait=1 signal=0
  vector.quantize x=0x0:16(+0x0,+0x80) codes=0x3000(+0x0,+0x20) scale=0x3c00(+0x0,+0x8) \
rows=2 cols=4 group=4 wait=0 signal=1
  load.copy src=0x0(+0x40) dst=0x8:16(+0x0,+0x80) rows=4 row_bytes=8 wait=1 signal=0
  vector.quantize x=0x8:16(+0x0,+0x80) codes=0x3008(+0x0,+0x20) scale=0x3e80(+0x0,+0x4) \
rows=1 cols=4 group=4 wait=0 signal=1
control.end
control.end
control.halt
"""
    semaphores = [Semaphore("full", 0, Queue.LOAD, Queue.VECTOR), Semaphore("free", 2, Queue.VECTOR, Queue.LOAD)]

    def seconds(count: int) -> float:
        start = time.process_time()
        assert len(check_program(assemble(body.replace("COUNT", str(count))), semaphores, SIZES)) > 400 * count
        return time.process_time() - start

    assert seconds(60) < 20 * seconds(10)


# ---- work -----------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 60), st.integers(0, 90), st.integers(0, 90), st.integers(1, 40))
def test_floor_sums(count: int, step: int, first: int, divisor: int) -> None:
    assert floor_sum(count, step, first, divisor) == sum((first + i * step) // divisor for i in range(count))


def test_rows_by_the_million_cost_nothing() -> None:
    """16 M rows against 16 M rows of another pitch, which meet in the last row only, and not at all."""
    rows = (1 << 24) - 1
    few, many = Extent(Memory.ACT, 0, rows, 1, 4), Extent(Memory.ACT, 2, rows, 1, 8)
    began = time.perf_counter()
    assert not overlap(few, many)
    assert overlap(few, many._replace(start=4 * (rows - 1)))
    assert not overlap(few, many._replace(start=4 * (rows - 1) + 1))
    assert time.perf_counter() - began < 1


def test_a_program_that_is_too_long_is_refused_before_it_is_unrolled() -> None:
    text = "control.loop count=4294967295\ncontrol.loop count=4294967295\ncontrol.end\ncontrol.end\ncontrol.halt"
    assert fails(assemble(text)).code == "HPCC1213"


@pytest.mark.parametrize("count", [100_000, 4294967295])
def test_the_check_of_a_small_file_ends_soon(count: int) -> None:
    """A few instructions in a loop: refused before it is unrolled, or checked in seconds."""
    body = "store.copy src=0x0 dst=0x0 rows=1 row_bytes=64\n"
    text = f"control.loop count={count}\n{body}{body}control.end\ncontrol.halt"
    began = time.process_time()
    with pytest.raises(InputError):
        check_program(assemble(text), (), SIZES)
    assert time.process_time() - began < 10


def test_a_check_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions that all overlap and are all different: every access is compared with every one before it."""
    text = """
    control.loop count=300
      store.copy src=0x0(+1) dst=0x0(+1) rows=1 row_bytes=4096
    control.end
    control.halt
    """
    assert len(check_program(assemble(text), (), SIZES)) == 602
    monkeypatch.setattr(check, "PAIRS_LIMIT", 10_000)
    monkeypatch.setattr(check, "PAIRS_PER_INSTRUCTION", 1)
    assert fails(assemble(text), ()).code == "HPCC1228"
