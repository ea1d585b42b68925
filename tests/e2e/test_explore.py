"""hpcc-explore on a tiny encoder: the winner of a full sweep, searches cut off or losing workers, other limits, controls."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.explore.selection import Fidelity
from compiler.explore.space import Algorithm
from compiler.tools.exploring import judging
from compiler.tools.exploring import search as searching
from compiler.tools.exploring.accuracy import Begun, Judged, judge, look
from compiler.tools.exploring.bench import Bench
from compiler.tools.exploring.hardware import time_on
from compiler.tools.exploring.judging import judge_all
from compiler.tools.exploring.options import ExploreOptions
from compiler.tools.exploring.run import Explored, Exploring, explore
from compiler.tools.exploring.workers import LOCAL, InProcess, Outcome
from compiler.tools.hpcc import main as hpcc_main
from compiler.tools.hpcc_explore import main
from compiler.tools.hpcc_prune import main as prune_main
from hw_targets.errors import InfeasibleError, InputError
from runtime.program import Program
from tests.e2e.harness import ROOT, call, read_json
from tests.executors import Backwards
from tests.small_task import TOKENS, SmallTask, small_task

DEVICES = ("fpga-kv260", "fpga-zcu104")
PATTERNS = ("nm:2:4", "nm:1:4")
LATENCY, ACCURACY = 1.0, 0.5


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallTask:
    return small_task(tmp_path_factory.mktemp("small"))


def options(small: SmallTask, output: Path, **changes: Any) -> ExploreOptions:
    usual = ExploreOptions(
        str(small.model),
        str(small.task),
        LATENCY,
        ACCURACY,
        output=str(output),
        targets=DEVICES,
        patterns=PATTERNS,
        shapes={"input_ids": (1, TOKENS)},
        method="magnitude",
        quiet=True,
    )
    return replace(usual, **changes)


@pytest.fixture(scope="module")
def found(small: SmallTask, tmp_path_factory: pytest.TempPathFactory) -> Explored:
    return explore(options(small, tmp_path_factory.mktemp("found") / "out", controls=True))


def answer(explored: Explored) -> dict[str, Any]:
    return read_json(explored.folder / "explore.json")


def again(small: SmallTask, found: Explored, folder: Path, **changes: Any) -> Explored:
    """Other limits in a copy of the folder: what was measured serves them."""
    shutil.copytree(found.folder, folder)
    return explore(options(small, folder, **changes))


def test_the_winner_is_that_of_a_full_sweep(small: SmallTask, found: Explored, tmp_path: Path) -> None:
    """Every candidate by hand: timed, judged to the end, the best that meets both limits taken."""
    bench = Exploring(options(small, tmp_path / "unused")).bench
    bench = replace(bench, folder=found.folder)
    best: tuple[float, float, str] | None = None
    for pattern in ("dense", *PATTERNS):
        algorithm = Algorithm(pattern, pattern)
        judged = judge(bench, algorithm, None)
        assert judged.fidelity is Fidelity.DEV
        assert judged.score is not None
        times = time_on(small.model, bench.compiled_shapes, algorithm, DEVICES, bench.data, 0.0)
        for device, hardware, cost in zip(DEVICES, times, (1, 2), strict=True):
            if hardware.latency_ms <= LATENCY and judged.score.low >= ACCURACY:
                entry = (cost, hardware.latency_ms, f"{device} {pattern}")
                best = entry if best is None else min(best, entry)
    winner = found.exploration.winner
    assert best is not None
    assert winner is not None
    assert f"{winner.trial.device} {winner.trial.pattern}" == best[2]
    assert winner.trial.latency_ms == pytest.approx(best[1])


def test_judged_in_parts_is_judged_as_one(small: SmallTask, found: Explored, tmp_path: Path) -> None:
    """With and without a subset, side by side and in turn; and where a part fails, so does its algorithm alone."""
    bench = Exploring(options(small, tmp_path / "unused")).bench
    algorithms = [Algorithm(pattern, pattern) for pattern in ("dense", *PATTERNS)]

    def another(name: str) -> Bench:
        shutil.copytree(found.folder / "task", tmp_path / name / "task")
        return replace(bench, folder=tmp_path / name)

    own = another("whole")
    wanted = [judge(own, algorithm, None) for algorithm in algorithms]
    for number, (executor, limit) in enumerate(((InProcess(), None), (Backwards(), None), (Backwards(), 0.0))):
        outcomes = dict(judge_all(executor, another(str(number)), algorithms, limit))
        assert [outcomes[number].error for number in range(len(algorithms))] == [""] * len(algorithms)
        assert [outcomes[number].value for number in range(len(algorithms))] == wanted
    spoilt = Backwards({len(algorithms): Outcome(error="no luck")})  # the first part of what is begun first
    own = another("spoilt")
    outcomes = dict(judge_all(spoilt, own, algorithms, None))
    assert sorted(outcome.error for outcome in outcomes.values()) == ["", "", "no luck"]
    assert len(list((own.folder / "rows").iterdir())) == 2
    assert not list(own.folder.glob("candidate-*"))


def test_the_bundle_reports_the_latency_that_was_chosen(found: Explored) -> None:
    winner = found.exploration.winner
    assert winner is not None
    program = Program.load(Path(winner.bundle))
    assert program.accelerator_ms == pytest.approx(winner.trial.accelerator_ms)
    assert program.transfer_ms == pytest.approx(winner.trial.transfer_ms)
    assert winner.latency_margin_ms == pytest.approx(LATENCY - program.accelerator_ms - program.transfer_ms)


def test_the_commands_make_the_same_bundle(found: Explored, tmp_path: Path) -> None:
    winner = found.exploration.winner
    assert winner is not None
    folder = str(found.folder)
    for command in winner.commands:
        words = shlex.split(command)
        words = [word for word in words if not word.endswith("_NUM_THREADS=1")]
        made = [str(tmp_path / Path(w).name) if w.startswith(folder + "/winner") else w for w in words[1:]]
        assert call({"hpcc": hpcc_main, "hpcc-prune": prune_main}[words[0]], *made).status == 0
    assert Program.load(tmp_path / "winner.hpcc").manifest.digest == winner.digest


def test_the_answer_says_what_was_asked_for(found: Explored) -> None:
    said = answer(found)
    assert said["found"]
    assert {entry["device"] for entry in said["rejected"]} | {said["winner"]["trial"]["device"]} == set(DEVICES)
    assert said["counts"]["timed"] == len(said["trials"]) == len(DEVICES) * (1 + 2 * len(PATTERNS))
    controls = [trial for trial in said["trials"] if trial["control"]]
    assert len(controls) == len(DEVICES) * len(PATTERNS)
    assert not any(trial["on_front"] for trial in controls)
    assert said["task"]["test"] == said["winner"]["test"]["count"] == 32
    page = (found.folder / "explore.html").read_text(encoding="utf-8")
    assert said["winner"]["digest"] in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


@pytest.mark.slow
def test_a_second_call_measures_nothing_again(
    small: SmallTask, found: Explored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(judging, "look", never)
    monkeypatch.setattr(searching, "time_on", never)
    once_more = again(small, found, tmp_path / "out", controls=True)
    assert once_more.exploration.trials == found.exploration.trials
    fastest = explore(options(small, tmp_path / "out", objective="fastest"))
    trial = fastest.exploration.winner
    assert trial is not None
    met = [t for t in answer(fastest)["trials"] if t["meets_latency"] and t["meets_accuracy"] and not t["control"]]
    assert trial.trial.latency_ms == min(t["latency_ms"] for t in met)


def test_impossible_limits_say_the_least_that_would_do(small: SmallTask, found: Explored, tmp_path: Path) -> None:
    nothing = again(small, found, tmp_path / "out", max_latency=1e-4)
    with pytest.raises(InfeasibleError, match="no device meets"):
        nothing.raise_if_infeasible()
    relaxed = nothing.exploration.relaxation
    assert relaxed is not None
    assert relaxed.latency_ms is not None
    wide = explore(options(small, tmp_path / "out", max_latency=relaxed.latency_ms))
    assert wide.found
    assert not (explore(options(small, tmp_path / "out", max_latency=float(np.nextafter(relaxed.latency_ms, 0))))).found


def test_a_journal_whose_last_line_was_cut_off_loses_no_more_than_that(
    small: SmallTask, found: Explored, tmp_path: Path
) -> None:
    shutil.copytree(found.folder, tmp_path / "out")
    journal = tmp_path / "out" / "journal.log"
    journal.write_bytes(journal.read_bytes()[:-20])
    explored = explore(options(small, tmp_path / "out", controls=True))
    assert explored.exploration.trials == found.exploration.trials
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:9], lines[9][:-20], *lines[10:]]) + "\n")
    damaged = journal.read_bytes()
    with pytest.raises(InputError, match="the journal is damaged: line 10: "):
        explore(options(small, tmp_path / "out"))
    assert journal.read_bytes() == damaged


@pytest.mark.slow
def test_labels_that_no_class_has_are_said(small: SmallTask, tmp_path: Path) -> None:
    """The head of four classes would score them as wrong."""
    folder = shutil.copytree(small.folder, tmp_path / "task")
    with np.load(folder / "dev.npz") as data:
        np.savez(folder / "dev.npz", **{**data, "labels": data["labels"] + 1})  # pyright: ignore[reportArgumentType]
    moved = SmallTask(folder, folder / "model.onnx", folder / "task.toml")
    with pytest.raises(InputError, match="label 4 of dev is none of the classes that are scored, 0 to 3"):
        explore(options(moved, tmp_path / "out"))
    fitted = moved.task.read_text().replace('kind = "file"\nfile = "head.npz"', 'kind = "logistic"')
    moved.task.write_text(fitted, encoding="utf-8")
    with np.load(folder / "train.npz") as data:
        np.savez(folder / "train.npz", **{**data, "labels": data["labels"] + 1})  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="the labels of train are .*, 4, not 0 to"):
        explore(options(moved, tmp_path / "fitted"))


@pytest.mark.slow
def test_an_evaluation_that_crashes_is_told_and_the_search_goes_on(
    small: SmallTask, found: Explored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashing(bench: Any, algorithm: Algorithm, limit: float | None, folder: Path) -> Judged | Begun:
        if algorithm.attention == "nm:1:4":
            raise ZeroDivisionError("no luck")
        return look(bench, algorithm, limit, folder)

    monkeypatch.setattr(judging, "look", crashing)
    explored = explore(options(small, tmp_path / "out"))
    assert explored.exploration.problems == ("nm:1:4: ZeroDivisionError: no luck",)
    assert explored.found
    monkeypatch.setattr(judging, "look", look)
    once_more = explore(options(small, tmp_path / "out"))
    assert once_more.exploration.problems == ()
    assert once_more.exploration.counts.dev == len(PATTERNS) + 1

    def always(bench: Any, algorithm: Algorithm, limit: float | None, folder: Path) -> Judged | Begun:
        if algorithm.control:
            return look(bench, algorithm, limit, folder)
        raise ZeroDivisionError("no luck")

    monkeypatch.setattr(judging, "look", always)
    with pytest.raises(InputError, match="no evaluation came to its end; the first: ZeroDivisionError: no luck"):
        explore(options(small, tmp_path / "none"))
    monkeypatch.setattr(judging, "look", lambda *_: 1 // 0)
    with pytest.raises(InputError, match="the encoder of zeros cannot be judged: ZeroDivisionError"):
        explore(options(small, tmp_path / "no control"))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_samplers_find_the_winner_of_a_mixed_space(small: SmallTask, tmp_path: Path, sampler: str) -> None:
    """With most of the space as their budget; and the same again from the same seed. What was measured serves them."""
    what: dict[str, Any] = {"mixed": True, "patterns": ("block",)}
    wanted = explore(options(small, tmp_path / "all", **what))
    sampled: list[Explored] = []
    for number in range(2):
        shutil.copytree(tmp_path / "all", tmp_path / str(number))
        sampled.append(explore(options(small, tmp_path / str(number), budget=28, sampler=sampler, **what)))
    assert sampled[0].exploration.trials == sampled[1].exploration.trials
    assert not sampled[0].exploration.space.exhaustive
    assert wanted.exploration.winner is not None
    assert sampled[0].exploration.winner is not None
    assert sampled[0].exploration.winner.trial.cost == wanted.exploration.winner.trial.cost


def command_of(asked: ExploreOptions, *more: str) -> list[str]:
    words = [sys.executable, "-m", "compiler.tools.hpcc_explore", asked.model, "--task", asked.task, "-o", asked.output]
    words += ["--max-latency", f"{LATENCY}ms", "--min-accuracy", str(ACCURACY), "--targets", ",".join(DEVICES)]
    return [*words, "--patterns", ",".join(PATTERNS), "--shape", f"input_ids:1x{TOKENS}", "--method", "magnitude", *more]


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_to_the_same_answer(small: SmallTask, found: Explored, tmp_path: Path) -> None:
    asked = options(small, tmp_path / "out")
    running = subprocess.Popen(command_of(asked), cwd=ROOT, stdout=subprocess.DEVNULL)
    journal = tmp_path / "out" / "journal.log"
    while running.poll() is None and not (journal.is_file() and journal.read_text().count('"judged ') >= 3):
        time.sleep(0.05)
    assert running.poll() is None, "it was done before it could be killed"
    running.kill()
    running.wait()
    measured = journal.read_text().count('"hardware ')
    explored = explore(asked)
    assert journal.read_text().count('"hardware ') == measured, "timed twice"
    assert explored.exploration.winner is not None
    assert found.exploration.winner is not None
    assert explored.exploration.winner.digest == found.exploration.winner.digest


@pytest.mark.slow
def test_an_interrupted_search_writes_what_it_has_and_goes_on(
    small: SmallTask, found: Explored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(bench: Any, algorithm: Algorithm, limit: float | None, folder: Path) -> Judged | Begun:
        if algorithm.attention == "nm:1:4":
            raise KeyboardInterrupt
        return look(bench, algorithm, limit, folder)

    asked = options(small, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(judging, "look", interrupted)
        done = call(main, *command_of(asked)[3:])
    assert (done.status, done.line, done.out) == (130, "interrupted", "")
    said = read_json(tmp_path / "out" / "explore.json")
    assert (said["complete"], said["found"], said["winner"], said["relaxation"]) == (False, False, None, None)
    assert {t["pattern"] for t in said["trials"] if t["fidelity"] == "dev"} == {"dense", "nm:2:4"}
    assert all(t["latency_ms"] is not None for t in said["trials"])
    assert "Interrupted" in (tmp_path / "out" / "explore.html").read_text(encoding="utf-8")
    explored = explore(asked)
    assert explored.exploration.complete
    assert explored.exploration.winner is not None
    assert found.exploration.winner is not None
    assert explored.exploration.winner.digest == found.exploration.winner.digest


@pytest.mark.slow
def test_a_cluster_finds_the_same_and_a_killed_worker_is_replaced(
    small: SmallTask, found: Explored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--dask ADDRESS`: a scheduler that is there already, two workers, one of which dies of the first evaluation."""
    from distributed import LocalCluster  # pyright: ignore[reportMissingImports]

    marker = tmp_path / "died"
    monkeypatch.setenv("HPCC_TEST_DIES_ONCE", str(marker))
    made: Any = LocalCluster(**LOCAL, n_workers=2)
    with made as cluster:
        monkeypatch.setattr(judging, "look", dies_once)
        explored = explore(options(small, tmp_path / "out", dask=cluster.scheduler_address))
    assert marker.is_file(), "no worker died"
    assert explored.exploration.problems == ()
    assert explored.exploration.winner is not None
    assert found.exploration.winner is not None
    assert explored.exploration.winner.digest == found.exploration.winner.digest
    names = [line for line in (tmp_path / "out" / "journal.log").read_text().splitlines() if '"hardware ' in line]
    assert len(names) == len(DEVICES) * (1 + len(PATTERNS)), "counted twice"


def dies_once(bench: Any, algorithm: Algorithm, limit: float | None, folder: Path) -> Judged | Begun:
    """The first call of all kills its process."""
    try:
        Path(os.environ["HPCC_TEST_DIES_ONCE"]).touch(exist_ok=False)
    except FileExistsError:
        return look(bench, algorithm, limit, folder)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.slow
def test_workers_find_the_same_and_a_killed_one_is_replaced(small: SmallTask, found: Explored, tmp_path: Path) -> None:
    asked = options(small, tmp_path / "out", workers=2)
    running = subprocess.Popen(command_of(asked, "--workers", "2"), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    journal, killed = tmp_path / "out" / "journal.log", 0
    while running.poll() is None and not killed:
        if journal.is_file() and '"hardware ' in journal.read_text():
            killed = _kill_a_worker(running.pid)
        time.sleep(0.05)
    out, _ = running.communicate()
    assert killed
    assert running.returncode == 0, out
    said = read_json(tmp_path / "out" / "explore.json")
    winner = found.exploration.winner
    assert winner is not None
    assert said["winner"]["digest"] == winner.digest
    assert said["problems"] == []
    names = [line for line in journal.read_text().splitlines() if '"hardware ' in line]
    assert len(names) == len(DEVICES) * (1 + len(PATTERNS)), "counted twice"


def _kill_a_worker(parent: int) -> int:
    """SIGKILL one process that Dask's nanny started; 0 where there is none yet."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            owner = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if owner == parent and b"spawn_main" in words:
            os.kill(int(entry.name), signal.SIGKILL)
            return int(entry.name)
    return 0


def test_the_command_prints_the_choice_and_ends_with_status_3_where_there_is_none(
    small: SmallTask, found: Explored, tmp_path: Path
) -> None:
    shutil.copytree(found.folder, tmp_path / "out")
    asked = options(small, tmp_path / "out")
    done = call(main, *command_of(asked)[3:])
    assert (done.status, done.err) == (0, "")
    assert found.exploration.winner is not None
    assert f"chosen     {found.exploration.winner.trial.device}" in done.out
    hopeless = call(main, *command_of(asked)[3:], "--max-latency", "0.1us", "-q")
    assert hopeless.status == 3
    assert "the least that would do: --max-latency" in hopeless.line
