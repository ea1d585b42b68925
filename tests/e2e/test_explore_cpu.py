"""hpcc-explore with CPUs among the devices: built here, measured one at a time, said to be measured, never twice."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.explore.space import Algorithm
from compiler.tools.exploring import search as searching
from compiler.tools.exploring import winner as winners
from compiler.tools.exploring.options import ExploreOptions
from compiler.tools.exploring.run import Explored, explore
from compiler.tools.hpcc import main as hpcc_main
from compiler.tools.hpcc_explore import main
from compiler.tools.hpcc_prune import main as prune_main
from hw_targets.load import load_any_target
from runtime.cpu.bundle import load_cpu_bundle
from runtime.cpu.stopwatch import FEWEST, latency_of
from tests.e2e.harness import call, read_json
from tests.small_task import TOKENS, SmallTask, small_task

pytestmark = pytest.mark.slow
FPGA = "fpga-kv260"
ELSEWHERE = "cpu-neon" if load_any_target("cpu-host").isa != "neon" else "cpu-avx2"  # pyright: ignore[reportAttributeAccessIssue]
DEVICES = (FPGA, "cpu-host", ELSEWHERE)
PATTERNS = ("nm:2:4", "hp:0.75")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallTask:
    return small_task(tmp_path_factory.mktemp("small"))


def options(small: SmallTask, output: Path, **changes: Any) -> ExploreOptions:
    usual = ExploreOptions(
        str(small.model),
        str(small.task),
        1000.0,
        0.5,
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
    return explore(options(small, tmp_path_factory.mktemp("found") / "out"))


def trials(explored: Explored, device: str) -> list[dict[str, Any]]:
    return [t for t in read_json(explored.folder / "explore.json")["trials"] if t["device"] == device]


def test_what_is_measured_says_so(found: Explored) -> None:
    own, simulated = trials(found, "cpu-host"), trials(found, FPGA)
    assert {t["latency_is"] for t in own} == {"measured"}
    assert {t["latency_is"] for t in simulated} == {"simulated"}
    assert len(own) == len(simulated) == 1 + len(PATTERNS)
    assert all(t["precision"] == "fp32" and t["cost"] == 0 and t["spread_ms"] > 0 and t["bytes"] > 0 for t in own)
    assert all(t["spread_ms"] is None for t in simulated)
    assert "rows=4" in next(t["pattern"] for t in own if t["pattern"].startswith("hp")), "not as a CPU spells it"
    page = (found.folder / "explore.html").read_text(encoding="utf-8")
    assert "measured" in page
    rejected = {entry["device"]: entry for entry in read_json(found.folder / "explore.json")["rejected"]}
    assert rejected[ELSEWHERE]["failed"] == "machine"
    assert "this machine does not have" in rejected[ELSEWHERE]["reason"]


def test_the_cheapest_is_the_machine_that_is_there_and_its_commands_make_the_bundle(found: Explored, tmp_path: Path) -> None:
    winner = found.exploration.winner
    assert winner is not None
    assert winner.trial.device == "cpu-host"
    assert winner.trial.latency_ms == min(t["latency_ms"] for t in trials(found, "cpu-host") if t["meets_accuracy"])
    folder = str(found.folder)
    for command in winner.commands:
        words = [word for word in shlex.split(command) if not word.endswith("_NUM_THREADS=1")]
        made = [str(tmp_path / Path(w).name) if w.startswith(folder + "/winner") else w for w in words[1:]]
        assert call({"hpcc": hpcc_main, "hpcc-prune": prune_main}[words[0]], *made).status == 0
    assert load_cpu_bundle(tmp_path / "winner.hpcc").manifest.digest == winner.digest


def test_nothing_is_measured_twice_and_a_slower_second_look_counts(
    small: SmallTask, found: Explored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = winners.time_of
    looks: list[str] = []

    def slow(*arguments: Any) -> Any:
        looks.append(arguments[1].label)
        hardware = real(*arguments)
        return replace(hardware, accelerator_ms=2000.0) if hardware.measured else hardware

    monkeypatch.setattr(winners, "time_of", slow)
    explored = explore(options(small, tmp_path / "out"))
    winner = explored.exploration.winner
    assert winner is not None
    assert winner.trial.device == FPGA, "a bundle that is too slow was chosen"
    candidates = [label for label in looks if label.startswith("cpu-host")]
    assert len(candidates) == len(set(candidates)) >= 1

    def never(*_: object) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(searching, "measure_on", never)
    looks.clear()
    again = explore(options(small, tmp_path / "out"))
    assert [label for label in looks if label.startswith("cpu-host")] == []
    assert again.exploration.trials == explored.exploration.trials


def test_a_cpu_alone_needs_no_accelerator_and_the_console_says_measured(small: SmallTask, tmp_path: Path) -> None:
    asked = options(small, tmp_path / "out")
    words = [asked.model, "--task", asked.task, "-o", asked.output, "--max-latency", "1s", "--min-accuracy", "0.5"]
    words += ["--targets", "cpu-host", "--patterns", "nm:2:4", "--shape", f"input_ids:1x{TOKENS}", "--method", "magnitude"]
    done = call(main, *words)
    assert (done.status, done.err) == (0, "")
    assert "measured on this machine" in done.out
    said = read_json(tmp_path / "out" / "explore.json")
    assert {trial["precision"] for trial in said["trials"]} == {"fp32"}
    assert said["winner"]["test"]["count"] == 32


def test_the_stopwatch_takes_medians_of_every_batch(found: Explored) -> None:
    class Program:
        class entries:
            batch = 2

        threads = 1
        seen: list[int] = []

        def run(self, inputs: Any) -> Any:
            self.seen.append(int(inputs["x"][0]))
            taken = 1000.0 if len(self.seen) == 5 else float(inputs["x"][0])

            class Result:
                batch_ms, host_ms = (taken,), (0.5,)

            return Result

    import numpy as np

    program = Program()
    latency = latency_of(program, {"x": np.arange(6)})  # pyright: ignore[reportArgumentType]
    assert set(program.seen) == {0, 2, 4}
    assert latency.batch_ms == 2.0, "not a median"
    assert latency.host_ms == 0.5
    assert latency.runs >= FEWEST
    assert Algorithm("a", "a", "fp32").label == "a fp32"
