"""The table of the GPU benchmark, with a clock of our own: rounds are interleaved, ratios are those of medians."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.gpu import BASELINE, Engine, main, measure, rows, text_of


def test_rounds_are_interleaved_and_ratios_are_of_medians(capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[str] = []
    times = {"hpcc hp": iter([9.0, 1.0, 2.0, 4.0]), BASELINE: iter([9.0, 4.0, 4.0, 100.0])}

    def engine(name: str) -> Engine:
        return Engine(name, lambda: ran.append(name), macs=10**9, moved=2 * 10**6 if name != BASELINE else 0)

    def timed(run: Callable[[], object]) -> float:
        run()
        return next(times[ran[-1]])

    engines = [engine("hpcc hp"), engine(BASELINE)]
    measure(engines, 3, timed)
    hp, torch = "hpcc hp", BASELINE
    assert ran == [hp, torch, hp, torch, torch, hp, hp, torch]  # the first of each warms up
    first, second = rows(engines)
    assert (first["ms"], first["ratio"], second["ratio"]) == (2.0, 2.0, 1.0)
    assert first["tflops"] == pytest.approx(2e9 / 2e-3 / 1e12)
    assert (first["gbytes_per_s"], second["moved_mb"]) == (pytest.approx(1.0), None)
    assert "2.00x" in text_of(first)


def test_without_a_gpu_it_says_so_in_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main([]) == 5
    assert capsys.readouterr().err == "error: the package 'torch' is not installed (pip install 'hpcc[gpu]') [HPCC5193]\n"
