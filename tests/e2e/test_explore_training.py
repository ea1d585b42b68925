"""hpcc-explore with fine-tuning: rungs inherit, nothing is trained twice or without need, a killed search ends the same."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.explore.selection import Fidelity
from compiler.tools.exploring import finetuning
from compiler.tools.exploring.options import ExploreOptions
from compiler.tools.exploring.run import Explored, explore
from compiler.tools.hpcc import main as hpcc_main
from compiler.tools.hpcc_prune import main as prune_main
from runtime.program import Program
from tests.e2e.harness import ROOT, call, read_json
from tests.small_task import TOKENS, SmallTask, small_task

pytest.importorskip("torch", reason="training needs torch (pip install 'hpcc[train]')")
pytestmark = pytest.mark.slow
DEVICE, PATTERNS, STEPS = "fpga-kv260", ("nm:2:4", "nm:1:4"), 120
TABLE = "[training]\nrate = 1e-2\nbatch = 16\n"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallTask:
    return small_task(tmp_path_factory.mktemp("small"), tables=TABLE, train=256)


def options(small: SmallTask, output: Path, **changes: Any) -> ExploreOptions:
    usual = ExploreOptions(
        str(small.model),
        str(small.task),
        10.0,
        0.0,
        output=str(output),
        targets=(DEVICE,),
        patterns=PATTERNS,
        shapes={"input_ids": (1, TOKENS)},
        method="magnitude",
        objective="fastest",
        train_steps=STEPS,
        quiet=True,
    )
    return replace(usual, **changes)


@pytest.fixture(scope="module")
def plain(small: SmallTask, tmp_path_factory: pytest.TempPathFactory) -> Explored:
    """One-shot alone, everything accepted."""
    return explore(options(small, tmp_path_factory.mktemp("plain") / "out", train_steps=0))


def lows(explored: Explored) -> dict[str, float]:
    return {t.pattern: t.accuracy.low for t in explored.exploration.trials if t.accuracy is not None}


@pytest.fixture(scope="module")
def limit(plain: Explored) -> float:
    """What the dense model meets and no pruning does without training."""
    known = lows(plain)
    pruned = max(known[pattern] for pattern in PATTERNS)
    assert pruned < known["dense"]
    return pruned + 0.35 * (known["dense"] - pruned)


@pytest.fixture(scope="module")
def found(small: SmallTask, limit: float, tmp_path_factory: pytest.TempPathFactory) -> Explored:
    return explore(options(small, tmp_path_factory.mktemp("found") / "out", min_accuracy=limit))


def test_training_lets_in_what_one_shot_pruning_does_not(found: Explored, limit: float) -> None:
    winner = found.exploration.winner
    assert winner is not None
    trial = winner.trial
    assert trial.fidelity == Fidelity.TRAINED
    assert trial.pattern in PATTERNS
    assert trial.accuracy is not None
    assert trial.one_shot is not None
    assert trial.accuracy.low >= limit > trial.one_shot.low
    assert found.exploration.counts.trained >= 1
    page = (found.folder / "explore.html").read_text(encoding="utf-8")
    assert "trained" in page


def test_the_commands_train_the_same_bundle_in_one_go(found: Explored, tmp_path: Path) -> None:
    winner = found.exploration.winner
    assert winner is not None
    assert "--train" in winner.commands[0]
    folder = str(found.folder)
    for command in winner.commands:
        words = [word for word in shlex.split(command) if not word.endswith("_NUM_THREADS=1")]
        made = [str(tmp_path / Path(w).name) if w.startswith(folder + "/winner") else w for w in words[1:]]
        assert call({"hpcc": hpcc_main, "hpcc-prune": prune_main}[words[0]], *made).status == 0
    assert Program.load(tmp_path / "winner.hpcc").manifest.digest == winner.digest


def test_a_ladder_rung_by_rung_is_the_ladder_in_one_go(small: SmallTask, found: Explored, tmp_path: Path) -> None:
    """The second rung takes up the run of the first: its file is that of `hpcc-prune --ladder`, byte for byte."""
    from compiler.tools.exploring.run import Exploring

    run = Exploring(options(small, tmp_path / "unused"))
    assert run.course is not None
    bench = replace(run.bench, folder=found.folder)
    steps: list[int] = []
    file = finetuning.trained_file(bench, run.course, PATTERNS)
    log = (file.parent / finetuning.RUN / "log.jsonl").read_text().splitlines()
    steps.extend(int(line.split('"step": ')[1].split(",")[0]) for line in log)
    assert min(steps) == STEPS, "the first rung was trained again"
    words = ["--train", str(bench.data / "train.npz"), "-o", str(tmp_path / "all.onnx"), *run.course.words(PATTERNS)]
    assert call(prune_main, str(small.model), *words).status == 0
    assert (tmp_path / "all.onnx").read_bytes() == file.read_bytes()


def test_nothing_is_trained_twice_nor_without_a_chance(
    small: SmallTask, found: Explored, limit: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> Any:
        raise AssertionError("trained")

    monkeypatch.setattr(finetuning, "TrainingRun", never)
    shutil.copytree(found.folder, tmp_path / "again")
    again = explore(options(small, tmp_path / "again", min_accuracy=limit))
    assert again.exploration.problems == ()
    assert again.exploration.trials == found.exploration.trials
    easy = explore(options(small, tmp_path / "easy", objective="smallest"))
    assert easy.found
    assert easy.exploration.counts.trained == 0, "trained although one-shot pruning was enough"
    hard = explore(options(small, tmp_path / "hard", min_accuracy=1.1))
    assert not hard.found
    assert hard.exploration.counts.trained == 0, "trained although the dense model is not good enough"
    assert hard.exploration.problems == ()


def test_a_search_killed_in_training_goes_on_to_the_same_answer(
    small: SmallTask, found: Explored, limit: float, tmp_path: Path
) -> None:
    asked = options(small, tmp_path / "out", min_accuracy=limit)
    words = [sys.executable, "-m", "compiler.tools.hpcc_explore", asked.model, "--task", asked.task, "-o", asked.output]
    words += ["--max-latency", "10ms", "--min-accuracy", repr(limit), "--targets", DEVICE, "--objective", "fastest"]
    words += ["--patterns", ",".join(PATTERNS), "--shape", f"input_ids:1x{TOKENS}", "--method", "magnitude"]
    running = subprocess.Popen([*words, "--train-steps", str(STEPS)], cwd=ROOT, stdout=subprocess.DEVNULL)
    while running.poll() is None and not list((tmp_path / "out").glob("trained/*/run/log.jsonl")):
        time.sleep(0.02)
    assert running.poll() is None, "it was done before it could be killed"
    running.kill()
    running.wait()
    assert not list((tmp_path / "out").glob("explore.json"))
    explored = explore(asked)
    assert explored.exploration.winner is not None
    assert found.exploration.winner is not None
    assert explored.exploration.winner.digest == found.exploration.winner.digest
    assert explored.exploration.trials == found.exploration.trials


def test_workers_train_to_the_same_answer(small: SmallTask, found: Explored, limit: float, tmp_path: Path) -> None:
    explored = explore(options(small, tmp_path / "out", min_accuracy=limit, workers=2))
    assert explored.exploration.trials == found.exploration.trials
    assert read_json(tmp_path / "out" / "explore.json")["problems"] == []
