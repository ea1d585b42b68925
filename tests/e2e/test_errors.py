"""Bad input is one line, the documented exit status, a stable code, and nothing written.

The golden lines stand in tests/golden/errors.txt, see golden_errors.py; what triggers them in error_cases_*.py.
"""

import os
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from compiler.tools import session
from compiler.tools.hpcc_opt import main as hpcc_opt
from runtime.cli import main_objdump, main_run
from tests.e2e import test_error_codes, test_explore_errors, test_prune_errors, test_train_errors
from tests.e2e.error_cases_bundles import EDITED, HOSTILE
from tests.e2e.error_cases_commands import DUMP, HPCC, OPT, RUN
from tests.e2e.error_shelf import COMPILE, expect
from tests.e2e.golden_errors import GOLDEN
from tests.e2e.harness import TARGET, call, digests, hpcc, resign, unchanged


def skip_without_proc(arguments: tuple[str, ...]) -> None:
    if any(argument.startswith("/proc/") for argument in arguments) and not Path("/proc").is_dir():
        pytest.skip("this system has no /proc")


OTHERS = ("verification", "cache below a file")


def test_every_golden_line_has_its_case() -> None:
    cases = (
        HPCC,
        RUN,
        DUMP,
        OPT,
        EDITED,
        HOSTILE,
        test_error_codes.CASES,
        test_prune_errors.CASES,
        test_prune_errors.HPCC,
        test_train_errors.CASES,
        ("train: no torch",),
        (f"explore: {name}" for name in test_explore_errors.CASES),
        OTHERS,
    )
    assert set(GOLDEN) == {name for group in cases for name in group}


@pytest.mark.parametrize("name", HPCC)
def test_hpcc(place: Path, name: str) -> None:
    skip_without_proc(HPCC[name])
    with unchanged(place.parent):
        expect(hpcc(*HPCC[name]), name, place)


@pytest.mark.parametrize("name", ["activations do not fit", "token beyond the vocabulary", "nm:5:4", "truncated model"])
def test_an_older_bundle_stays_as_it_was(place: Path, name: str) -> None:
    with unchanged(place.parent):
        expect(hpcc(*HPCC[name], "-o", "older.hpcc"), name, place)


@pytest.mark.parametrize("name", RUN)
def test_hpcc_run(place: Path, name: str) -> None:
    skip_without_proc(RUN[name])
    with unchanged(place.parent):
        expect(call(main_run, *RUN[name]), name, place)


@pytest.mark.parametrize("name", DUMP)
def test_hpcc_objdump(place: Path, name: str) -> None:
    with unchanged(place.parent):
        expect(call(main_objdump, *DUMP[name]), name, place)


@pytest.mark.parametrize("name", OPT)
def test_hpcc_opt(place: Path, name: str) -> None:
    with unchanged(place.parent):
        expect(call(hpcc_opt, *OPT[name]), name, place)


def test_debug_shows_the_traceback(place: Path) -> None:
    with pytest.raises(Exception, match="truncated"):
        hpcc(*HPCC["truncated model"], "--debug")


@pytest.mark.parametrize("name", EDITED)
def test_a_changed_bundle_does_not_load(place: Path, name: str) -> None:
    file, change = EDITED[name]
    change(place / "older.hpcc" / file)
    with unchanged(place.parent):
        expect(call(main_run, "older.hpcc", "-o", "out.npz"), name, place)
        expect(call(main_objdump, "older.hpcc"), name, place)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_bundle_is_refused(place: Path, name: str) -> None:
    HOSTILE[name](place / "older.hpcc")
    resign(place / "older.hpcc")
    os.chdir(place)
    expect(call(main_run, "older.hpcc", "--inputs", "good.npz", "-o", "out.npz"), name, place)
    assert not (place / "out.npz").exists()


# ---- host work and verification -------------------------------------------------------------------------------------


def test_check_of_a_model_with_host_work_is_infeasible(place: Path) -> None:
    """A node with MACs that the machine does not execute: --check says so in its table and by the exit status."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "z"], ["y"], name="product")],
        "two activations",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 10]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 10, 8]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 8])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), "product.onnx")
    with unchanged(place.parent):
        done = hpcc("product.onnx", "--target", TARGET, "--check")
    assert (done.status, done.err) == (3, "")
    assert re.search(r"(?m)^product +matmul +100\.0% .* neither a linear layer nor attention$", done.out)


def test_a_failed_verification_keeps_the_bundle(place: Path) -> None:
    done = hpcc(*COMPILE, "--atol", "0", "-q", "-o", "out.hpcc")
    expect(done, "verification", place)
    assert {"manifest.json", "run.json", "report.json"} <= set(digests(place / "out.hpcc"))


def test_an_exception_of_our_own_is_one_line_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(session, "import_onnx", broken)
    with unchanged(place.parent):
        done = hpcc(*COMPILE)
    assert done.status == 1
    assert done.line.startswith("error: internal error: ZeroDivisionError: two (")
    assert done.line.endswith("[HPCC1900]")
