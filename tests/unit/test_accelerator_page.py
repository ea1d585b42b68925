"""docs/ACCELERATOR.md against the code: every formula of the page is read from it, evaluated, and compared on a grid."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw_targets import numerics, resources
from hw_targets.asm import assemble
from hw_targets.codec import Resolved, expand
from hw_targets.isa import FUNCTIONS, MatrixMode, Queue
from hw_targets.layout import Layout
from hw_targets.load import load_target
from hw_targets.steps import sub_windows, unstructured_steps
from hw_targets.target import Accelerator
from hw_targets.timing import cost, matrix_steps, transfer

PAGE = (Path(__file__).parents[2] / "docs" / "ACCELERATOR.md").read_text(encoding="utf-8")
FOUND: list[tuple[str, str]] = re.findall(r"^```formula (\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FORMULAS = {name: compile(text, f"formula {name}", "exec") for name, text in FOUND}
U280 = load_target("fpga-u280")
ARRAYS = [
    replace(U280.accelerator, cores=c, tokens=t, outputs=o, multipliers=m, window=w, selector=s, lanes=lanes)
    for c, t, o, m, w, s, lanes in (
        (3, 16, 32, 8, 32, 8, 128),
        (1, 5, 16, 4, 16, 8, 32),
        (2, 24, 64, 16, 64, 16, 1),
        (1, 1, 1, 1, 32, 32, 8),
        (1, 7, 128, 8, 16, 2, 256),
        (3, 16, 64, 3, 32, 4, 256),
    )
]
SIZES = (1, 7, 31, 32, 33, 64, 312, 770)


def page(formula: str, **given: Any) -> dict[str, Any]:
    """The names that a formula of the page gives."""
    names: dict[str, Any] = {"__builtins__": {}, "ceil": math.ceil, "log2": math.log2, "min": min, "max": max, **given}
    exec(FORMULAS[formula], names)
    return names


def symbols(a: Accelerator) -> dict[str, int]:
    return {
        "C": a.cores,
        "T": a.tokens,
        "O": a.outputs,
        "L": a.multipliers,
        "W": a.window,
        "S": a.selector,
        "lanes": a.lanes,
    }


def one(text: str) -> Resolved:
    return expand(assemble(text + "\ncontrol.halt"))[0]


@pytest.mark.parametrize("array", ARRAYS)
def test_matrix(array: Accelerator) -> None:
    for rows, outs, ins in product((1, 16, 17, 100), (1, 96, 97, 768), (8, 770)):
        steps = page("dense", ins=ins, **symbols(array))["steps"]
        expected = page("matrix", rows=rows, outs=outs, steps=steps, **symbols(array))
        found = cost(one(f"matrix.multiply x=0 w=0 acc=0 rows={rows} outs={outs} ins={ins} n=1 m=1"), array)
        assert found == (expected["busy"], expected["latency"])


@pytest.mark.parametrize("array", ARRAYS)
def test_steps_of_fine_patterns(array: Accelerator) -> None:
    for ins, (n, m) in product(SIZES, ((1, 1), (2, 4), (1, 4), (1, 16), (12, 16), (3, 4), (16, 16))):
        expected = page("nm", ins=ins, n=n, m=m, **symbols(array))["steps"]
        assert matrix_steps(Layout(MatrixMode.NM, 64, ins, n, m), array) == expected, (ins, n, m)


@pytest.mark.parametrize("array", ARRAYS)
def test_steps_of_hierarchical_patterns(array: Accelerator) -> None:
    for ins, (n, m), window, keep in product(SIZES, ((1, 1), (2, 4), (1, 4), (3, 8)), (16, 32, 770), (1, 12, 16)):
        windows = [min(window, ins - first) for first in range(0, ins, window)]
        given = {"n": n, "m": m, "keep": keep, "window": window, **symbols(array)}
        expected = sum(page("hp", t=t, **given)["steps"] for t in windows)
        assert matrix_steps(Layout(MatrixMode.HP, 64, ins, n, m, 64, window, keep), array) == expected, (ins, n, m)


@pytest.mark.parametrize("array", ARRAYS)
def test_steps_of_unstructured_matrices(array: Accelerator) -> None:
    """Counted here from a dense 0/1 matrix; the code counts from the bytes of the compute layout."""
    for outs, ins, density in ((1, 32, 1.0), (70, 96, 0.25), (200, 130, 0.1), (130, 70, 0.6)):
        kept = np.random.default_rng(outs).random((outs, ins)) < density
        kept[0, 0] = True
        sub = page("sub_windows", **symbols(array))
        assert (sub["reach"], sub["share"]) == sub_windows(array)
        together, expected = array.cores * array.outputs, 0
        for top, left in product(range(0, outs, together), range(0, ins, array.window)):
            window = kept[top : top + together, left : left + array.window]
            cut = [window[:, at : at + sub["reach"]] for at in range(0, window.shape[1], sub["reach"])]
            counts = [int(count) for part in cut for count in part.sum(axis=1)]
            expected += page("unstructured", counts=counts, share=sub["share"])["steps"]
        layout = Layout(MatrixMode.UNSTRUCTURED, outs, ins, kept=int(kept.sum()))
        assert unstructured_steps(_layout_bytes(kept), layout, array) == expected


def _layout_bytes(kept: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The unstructured compute layout of docs/FORMATS.md: counts by window of 32, values, local inputs."""
    counts, inputs = [], []
    for row in kept:
        for left in range(0, len(row), 32):
            found = np.flatnonzero(row[left : left + 32])
            counts.append(len(found))
            inputs += found.tolist()
    return np.array(counts + [1] * len(inputs) + inputs, np.uint8)


CHAINS = (  # text, passes beyond the table's, divisions, sums, maxima, norms
    ("vector.finish acc=0 row_scale=0 columns=0 out=0", 0, "0", 0, 0, 0),
    ("vector.finish acc=0 row_scale=0 columns=0 out=0 gate=0", 1, "0", 0, 0, 0),
    ("vector.finish acc=0 row_scale=0 columns=0 out=0 norm=1", 2, "2 * rows", 2, 0, 1),
    ("vector.finish acc=0 row_scale=0 columns=0 out=0 norm=2", 1, "2 * rows", 1, 0, 1),
    ("vector.finish acc=0 row_scale=0 columns=0 codes=0 scale=0 group={g}", 1, "2 * rows * cols // g", 0, 1, 0),
    ("vector.finish acc=0 row_scale=0 columns=0 codes=0 scale=0 group={c} norm=1", 3, "4 * rows", 2, 1, 1),
    ("vector.softmax acc=0 row_scale=0 col_scale=0 p=0 l=0", 0, "0", 0, 1, 0),
    ("vector.softmax acc=0 row_scale=0 col_scale=0 p=0 l=0 maximum=0", -1, "0", 0, 1, 0),
    ("vector.maximum acc=0 row_scale=0 col_scale=0 maximum=0", 0, "0", 0, 1, 0),
    ("vector.context acc=0 l=0 v_scale=0 out=0", 0, "rows", 0, 0, 0),
    ("vector.context acc=0 l=0 v_scale=0 out=0 wide=1", 1, "rows", 0, 0, 0),
    ("vector.quantize x=0 codes=0 scale=0 group={g}", 0, "2 * rows * cols // g", 0, 1, 0),
    ("vector.quantize_columns x=0 codes=0 scale=0", 0, "2", 0, 1, 0),
    ("vector.quantize_columns x=0 codes=0 scale=0 absmax=0", -1, "2", 0, 1, 0),
    ("vector.absmax x=0 absmax=0", 0, "0", 0, 1, 0),
    ("vector.embed rows_in=0 out=0 tables=3", 3, "0", 0, 0, 0),
    ("vector.embed rows_in=0 columns=0 out=0 codes=0 scale=0 group={c} tables=2 norm=1", 5, "4 * rows", 2, 1, 1),
    ("vector.pool x=0 mask=0 out=0", 0, "cols", 1, 0, 0),
    ("vector.heads x=0 out=0 table=0 turned=4 group={g}", 1, "0", 0, 0, 0),
    ("vector.heads x=0 columns=0 codes=0 scale=0 group={g}", 2, "4 * rows * cols // g", 1, 1, 1),
)


@pytest.mark.parametrize("array", ARRAYS)
def test_vector(array: Accelerator) -> None:
    table = {name: int(number) for name, number in re.findall(r"^\| `(vector\.\w+)` \| (\d) \|", PAGE, re.MULTILINE)}
    assert set(table) == {f.name for f in FUNCTIONS if f.queue is Queue.VECTOR}
    assert set(table) == {text.split()[0] for text, *_ in CHAINS}
    for (text, extra, scalars, sums, maxima, norms), (rows, cols, g) in product(
        CHAINS, ((1, 64, 8), (33, 96, 32), (16, 768, 64))
    ):
        instruction = one(f"{text.format(g=g, c=cols)} rows={rows} cols={cols}")
        given = {
            "passes": table[instruction.name] + extra,
            "scalars": eval(scalars, {"rows": rows, "cols": cols, "g": g}),
            "sums": sums,
            "maxima": maxima,
            "norms": norms,
        }
        expected = page("vector", rows=rows, cols=cols, **given, **symbols(array))
        assert cost(instruction, array) == (expected["busy"], expected["latency"]), text


@pytest.mark.parametrize("array", ARRAYS)
def test_choices_of_design(array: Accelerator) -> None:
    unchained = replace(array, design=replace(array.design, chained=False))
    softmax = "vector.softmax acc=0 row_scale=0 col_scale=0 p=0 l=0 "
    finish = "vector.finish acc=0 row_scale=0 columns=0 out=0 "
    codes = "codes=0 scale=0 group={c} "
    cases = (
        (softmax, 4, 0),
        (softmax + "bias=0 bias_rows=1 ", 5, 0),
        (softmax + "maximum=0 ", 3, 0),
        (finish, 2, 0),
        (finish + "residual=0 gate=0 ", 4, 0),
        (finish + "activation=1 " + codes, 5, 2),
        (finish + "norm=1 ", 6, 2),
        (finish + "norm=2 residual=0 " + codes, 8, 4),
    )
    for rows, cols in ((1, 64), (33, 96), (16, 768)):
        streaming = one(f"{softmax} rows={rows} cols={cols} streaming=1 shift=5")
        expected = page("streaming", rows=rows, cols=cols, **symbols(array))["busy"]
        assert cost(streaming, array).busy == cost(streaming, unchained).busy == expected
        for text, operations, scalars in cases:
            given = {"rows": rows, "cols": cols, "operations": operations}
            busy = page("unchained", **given, **symbols(array))["busy"]
            found = cost(one(f"{text.format(c=cols)} rows={rows} cols={cols}"), unchained).busy
            assert found == max(busy, -(-scalars * rows // max(array.lanes // 16, 1))), text


@pytest.mark.parametrize("array", ARRAYS)
def test_resources(array: Accelerator) -> None:
    widths = page("widths", **symbols(array))
    for memory, size, (kind, words) in product(
        ("act", "weights", "acc", "param"), (1 << 12, 1 << 20, 14155776), (("bram", 512), ("uram", 4096))
    ):
        width = resources.memory_width(memory, array)
        assert width == widths[memory]
        taken = resources.memory_takes(width, size, kind).as_dict()[kind]
        assert taken == page("blocks", width=width, size=size, words=words)["blocks"]
    for kind in ("dsp48e1", "dsp48e2"):
        expected = page("dsps", dsp48e2=kind == "dsp48e2", **symbols(array))["dsps"]
        assert resources.matrix_takes(array, kind).dsp == expected
    cells = array.cores * array.tokens * array.outputs * resources.LUT_PER_CELL
    luts = page("crossbar_luts", **symbols(array))["luts"] + page("selector_luts", **symbols(array))["luts"]
    assert resources.matrix_takes(array, "dsp48e2").lut == luts + cells


@pytest.mark.parametrize("name", ["fpga-u280", "fpga-zcu104", "fpga-pynq-z2"])
def test_transfers(name: str) -> None:
    target = load_target(name)
    memory = target.memory
    given = {
        "gbytes_per_s": memory.gbytes_per_s,
        "efficiency": memory.efficiency,
        "mhz": target.clock.mhz,
        "channels": memory.channels,
        "burst_bytes": memory.burst_bytes,
        "latency_ns": memory.latency_ns,
    }
    for stored, values in ((1, 64), (640, 4096), (100_000, 200_000), (600_000, 64)):
        text = f"load.weights src=0 dst=0 outs=64 ins={values // 64} stored_bytes={stored} n=1 m=1 format=dense"
        expected = page("transfer", bursts=math.ceil(stored / memory.burst_bytes), **given)
        rate = target.decode["dense"]
        busy = page("decoder", memory=expected["memory"], values=values, values_per_cycle=rate)["busy"]
        found = transfer(one(text), target)
        assert (found.memory, found.busy, found.latency) == (expected["memory"], busy, expected["latency"])


def test_the_sums_do_not_overflow() -> None:
    """The page's proofs, with the limits that the code has."""
    cascade, accumulator = page("cascade"), page("accumulator")
    assert (cascade["signed"], cascade["unsigned"]) == (8, 4)
    ins = next(f for f in FUNCTIONS if f.name == "matrix.multiply").immediates[2]
    assert ins.name == "ins"
    assert 2**ins.bits - 1 <= min(accumulator["signed_terms"], accumulator["unsigned_terms"])
    assert f"{accumulator['signed_terms']:,} and {accumulator['unsigned_terms']:,} terms" in PAGE
    assert numerics.MAX_KEYS * 65280 < 2**31
    assert accumulator["unsigned_terms"] >= numerics.MAX_KEYS
    # The packed product, with the worst operands, split again as the array does it.
    for x1, x0, w, count in ((127, -127, 127, 8), (-127, -127, -127, 8), (255, 255, -127, 4), (255, 255, 127, 4)):
        total = count * ((x1 << 18) + x0) * w
        low = ((total + (1 << 17)) & ((1 << 18) - 1)) - (1 << 17)
        assert (low, (total - low) >> 18) == (count * x0 * w, count * x1 * w)
        assert abs((x1 << 18) + x0) < 1 << 26


def test_every_formula_of_the_page_is_checked() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert len(FORMULAS) == PAGE.count("```formula ")
    assert {name for name in FORMULAS if f'page("{name}"' not in source} == set()
