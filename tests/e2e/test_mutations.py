"""Faults made on purpose in every part of hpcc, and the check of an ordinary run that turns red for each.

A mutation breaks one thing in the way a programmer might: a bias dropped, two heads swapped, a scale shifted, a mask
ignored, groups along the wrong axis, a tail left out, a wrong semaphore, a wrong index, a lost cycle, a wrong product.
The command is the same with and without it, on inputs that hpcc makes up: it succeeds without, and fails with it, by the
check that is named. What is left to hpcc's own tests, since the fault is in the arithmetic that golden and simulator
share, stands at the end. The faults are in mutation_cases_*.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compiler.dialects import nn
from compiler.interpreters.evaluate import evaluate
from compiler.tools import parameters
from compiler.tools.fpga_session import FpgaSession
from compiler.tools.options import Options
from compiler.tools.session import open_session
from compiler.tools.stepwise import FLOAT_LIMIT, StepwiseCheck, relative_error
from hw_targets.errors import VerificationError
from tests.e2e import mutation_cases_graph, mutation_cases_machine, mutation_cases_parts, mutation_cases_program
from tests.e2e.harness import Done, hpcc
from tests.e2e.mutation_cases_graph import drop_a_bias
from tests.e2e.mutation_cases_machine import SHARED
from tests.e2e.mutations import BATCH, BIASED, BOARD, MODEL, TOKENS, Patch, ops
from tests.e2e.test_random_models import board_file
from tests.graphs import write

PARTS = (mutation_cases_graph, mutation_cases_program, mutation_cases_machine, mutation_cases_parts)
MUTATIONS = {name: mutation for part in PARTS for name, mutation in part.MUTATIONS.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model and the board."""
    folder = tmp_path_factory.mktemp("mutations")
    write(MODEL, folder / "model.onnx", BATCH, TOKENS)
    write(BIASED, folder / "biased.onnx", BATCH, TOKENS)
    board_file(folder, BOARD)
    return folder


def run(place: Path, pattern: str, *more: str, biased: bool = False) -> Done:
    """The ordinary command: nothing but a model, a board and a pattern."""
    model = place / ("biased.onnx" if biased else "model.onnx")
    command = (model, "--target", place / "board.toml", "--sparsity", pattern, "-q", "-o", place / "out.hpcc")
    return hpcc(*command, *more)


@pytest.mark.parametrize("pattern", sorted({mutation.pattern for mutation in MUTATIONS.values()}))
@pytest.mark.parametrize("more", [(), ("--verify-each",)], ids=["", "each"])
def test_without_a_mutation_the_run_succeeds(place: Path, pattern: str, more: tuple[str, ...]) -> None:
    done = run(place, pattern, *more)
    assert (done.status, done.err) == (0, "")


@pytest.mark.slow
def test_without_a_mutation_the_biased_model_succeeds(place: Path) -> None:
    done = run(place, "dense", "--verify-each", biased=True)
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if m.biased else ()) for name, m in MUTATIONS.items()]
)
def test_a_mutation_turns_its_check_red(place: Path, monkeypatch: Patch, name: str) -> None:
    mutation = MUTATIONS[name]
    mutation.make(monkeypatch)
    done = run(place, mutation.pattern, biased=mutation.biased)
    assert done.status == mutation.status, done
    assert re.search(mutation.says, done.line), done.line
    if mutation.each:
        done = run(place, mutation.pattern, "--verify-each", biased=mutation.biased)
        assert re.search(mutation.each, done.line), done.line


def test_every_kind_of_fault_is_made() -> None:
    kinds = {name.split(": ")[0] for name in MUTATIONS}
    assert kinds >= {
        "drop a bias",
        "swap two heads",
        "shift a scale",
        "ignore a mask",
        "wrong N:M axis",
        "drop a tail",
        "mix parts up",
        "wrong semaphore",
        "wrong index",
        "lose a cycle",
        "a wrong product",
    }


# ---- a real model ---------------------------------------------------------------------------------------------------


def test_every_bias_of_l3_is_missed(l3_model: Path) -> None:
    """One bias after the other is dropped, before `quantize` and by it; the limits of the result would let most of them go.

    A bias of the keys adds the same to all scores of a row, which softmax does not see: no output can tell, and only
    the comparison of parameters does.
    """
    session = open_session(Options(model=str(l3_model), target="fpga-u280", shapes={"input_ids": (1, 24)}, quiet=True))
    assert isinstance(session, FpgaSession)
    session._load()
    session._stages("import", "quantize")
    assert session.imported is not None
    assert session.floats is not None
    assert session.golden is not None
    check = StepwiseCheck(session.imported, session.store, session.batches[0])
    check.float_stage("sparsify", session.floats, {})
    parameters.check_parameters(session.floats, session.golden, session.store)
    wanted = check._reference_tensors(session.floats, {})
    roles = [op.role.data for op in ops(session.floats, nn.LinearOp) if op.bias is not None]
    assert len(roles) == 18
    for role in roles:
        broken = session.floats.clone()
        drop_a_bias(broken, role)
        given = {name: wanted[name] for name in ("input_ids", "attention_mask") if name in wanted}
        got = evaluate(broken, session.store, {**check.inputs, **given})
        worst = max(relative_error(value, wanted[name].reshape(value.shape)) for name, value in got.items())
        if role.endswith("attn.k"):
            assert worst < FLOAT_LIMIT, "softmax does not see it"
        else:
            assert worst > 10 * FLOAT_LIMIT, role
        with pytest.raises(VerificationError, match=f"the bias of {re.escape(role)} is not that"):
            parameters.check_parameters(broken, session.golden, session.store)


# ---- arithmetic that golden and simulator share ---------------------------------------------------------------------

DRAWN = ("softmax", "norm", "finish", "scales")
"""Tests that draw their examples, and take their time to find the smallest one that fails."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in DRAWN else n for n in SHARED])
def test_a_fault_in_shared_arithmetic_turns_its_unit_test_red(monkeypatch: Patch, name: str) -> None:
    """Golden and simulator agree on it, so that a test against the scalar reference, or by hand, has to see it."""
    make, test = SHARED[name]
    test()
    make(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test()
