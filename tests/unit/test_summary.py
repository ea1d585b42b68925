"""What a person reads at the end of a run: verify and damage are two lines, and made-up inputs are called so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compiler.tools import report as forms
from compiler.tools.report import EXPLANATIONS, Reason
from compiler.tools.reporting import STATUS, peak_rss_mb
from compiler.tools.summary import Progress, print_summary

LAYER = forms.LayerPart(
    name="layer.0.attn.q",
    onnx_node="/q/MatMul",
    op="linear",
    pattern="nm:2:4",
    format="nm",
    candidates={"nm": 100, "dense": 160},
    density=0.5,
    macs_dense=1000,
    macs_executed=500,
    dense_bytes=160,
    value_bytes=80,
    weights="resident",
    weight_bytes_loaded=0,
    metadata_bytes=20,
    cycles=600,
    cycles_by_cause={"matrix": 600},
    cycles_if_dense=1200,
    speedup=2.0,
    bound="matrix",
    reason=Reason.FULL,
    explanation=EXPLANATIONS[Reason.FULL],
    help=forms.Help.SPARSER,
)
SMALL = LAYER.model_copy(
    update={"name": "inputs", "op": "transfer", "macs_dense": 0, "cycles": 2, "reason": Reason.NO_WEIGHTS}
)


def target_part(sized_for: str | None) -> forms.TargetPart:
    array = forms.ArrayPart(cores=3, tokens=12, outputs=64, multipliers=4, window=32, lanes=256)
    return forms.TargetPart(name="fpga-u280", kind="fpga", clock_mhz=250, array=array, sized_for=sized_for, unverified=())


def a_report(**changes: Any) -> forms.Report:
    fields: dict[str, Any] = {
        "hpcc_version": "0",
        "model": forms.ModelPart(name="m.onnx", sha256="0", parameters=10, macs=1000),
        "target": target_part(None),
        "inputs": forms.InputsPart(kind="made up", source="names", seed=0, count=1),
        "latency": forms.LatencyPart(accelerator_ms=0.5, transfer_ms=0.1),
        "cycles": 1000,
        "cycles_if_dense": 2000,
        "instructions": 10,
        "instructions_executed": 20,
        "busy": {},
        "units": {u: forms.UnitPart(busy=6, semaphore=2, memory=1, idle=1) for u in ("load", "matrix", "vector", "store")},
        "roofline": forms.RooflinePart(
            matrix_ms=0.4, vector_ms=0.1, memory_ms=0.1, bound_ms=0.4, attained=0.8, bytes_moved=9
        ),
        "resources": {"dsp": forms.ResourcePart(used=1, usable=2)},
        "memory": forms.MemoryPart(
            weights_dense_bytes=160,
            weights_stored_bytes=100,
            value_bytes=80,
            metadata_bytes=20,
            compute_bytes=120,
            program_bytes=10,
            embedding_bytes=0,
            image_bytes=200,
            on_chip={},
        ),
        "pruning": forms.PruningPart(
            pattern="nm:2:4",
            words="2:4 [50 % zeros]",
            method="magnitude",
            asked=0.5,
            achieved=0.5,
            encoder=0.4,
            file=0.1,
            scope=("layer.0.attn.q",),
        ),
        "layers": (LAYER, SMALL),
        "host_ops": (forms.HostOpPart(onnx_node="/Cast", op="Cast", reason="integer", macs_share=0.0),),
        "not_modelled": (),
    }
    return forms.Report(**{**fields, **changes})


def a_run(*, passed: bool = True, bit_exact: bool | None = True, damage: float | None = 0.9) -> forms.RunReport:
    check = forms.OutputCheck(
        name="y[0]", relative_l2=0.05, min_token_cosine=0.99, mean_token_cosine=0.999, max_abs_error=0.1, passed=passed
    )
    return forms.RunReport(
        hpcc_version="0",
        verify=forms.VerifyPart(reference="ONNX Runtime, same weights", samples=1, bit_exact=bit_exact, outputs=(check,)),
        damage=None
        if damage is None
        else forms.DamagePart(reference="original", mean_sample_cosine=damage, top1_agreement=None),
        latency={
            "host_ms": forms.Milliseconds(ms=0.2, source="measured"),
            "total_ms": forms.Milliseconds(ms=0.8, source="estimated"),
        },
        host_ops=(),
        compile_seconds={},
        load_seconds=0,
        simulate_seconds=1.5,
        reference_ms=None,
        peak_rss_mb=1,
        paths={},
        date="",
        machine={},
    )


def printed(capsys: pytest.CaptureFixture[str], report: forms.Report, run: forms.RunReport, *, verbose: bool = False) -> str:
    print_summary(report, run, Path("out.hpcc"), verbose=verbose)
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def line(text: str, word: str) -> str:
    (found,) = [entry for entry in text.splitlines() if entry.strip().startswith(word)]
    return " ".join(found.split())


def test_a_run_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, a_report(), a_run())
    assert line(text, "layer.0.attn.q") == "layer.0.attn.q nm:2:4 nm 100 B 600 1,200 2.00x compute bound"
    assert line(text, "total") == "total 100 B 1,000 2,000 2.00x"
    assert line(text, "compute bound:") == f"compute bound: {EXPLANATIONS[Reason.FULL]}"
    assert line(text, "pattern") == "pattern 2:4 [50 % zeros]"
    assert "dense would take 2,000: 2.00x" in line(text, "latency")
    assert line(text, "simulator") == "simulator equal bit for bit to the integer reference"
    assert "against ONNX Runtime, same weights: ok" in line(text, "verify")
    assert "y[0]" in line(text, "verify")
    assert "to the unpruned model" in line(text, "damage")
    assert "made-up inputs: they say nothing about accuracy" in line(text, "inputs")
    assert line(text, "host") == "host 1 nodes, 0.00% of the MACs: Cast /Cast"
    assert "\x1b" not in text


def test_small_transfers_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert "inputs   " not in printed(capsys, a_report(), a_run()).split("total")[0]
    text = printed(capsys, a_report(), a_run(), verbose=True)
    assert line(text.split("total")[0], "inputs").endswith("no weights")


def test_an_array_for_one_pattern_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, a_report(target=target_part("nm:1:8")), a_run())
    said = " ".join(line(text, "array").split())
    assert said == "array 3 x 12 x 64 x 4 multipliers, 256 lanes: sized for this pattern alone; report.html says why"
    assert "array " not in printed(capsys, a_report(), a_run())


def test_failures_are_loud(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, a_report(), a_run(passed=False, bit_exact=False, damage=None))
    assert "FAILED" in line(text, "verify")
    assert "DIFFERENT" in line(text, "simulator")
    assert "damage" not in text


def test_a_dense_model_that_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    layer = LAYER.model_copy(update={"cycles_if_dense": None, "speedup": None})
    text = printed(capsys, a_report(cycles_if_dense=None, layers=(layer,)), a_run())
    assert "does not fit" in line(text, "layer.0.attn.q")
    assert "dense would take" not in text


@pytest.mark.parametrize(("kind", "words"), [("text", "7 texts of s.txt"), ("npz", "7 samples of s.txt")])
def test_real_inputs(capsys: pytest.CaptureFixture[str], kind: str, words: str) -> None:
    text = printed(capsys, a_report(inputs=forms.InputsPart(kind=kind, source="s.txt", seed=None, count=7)), a_run())
    assert words in line(text, "inputs")
    assert "nothing about accuracy" not in text


def test_progress_is_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(quiet=False)
    progress.start("import")
    progress.stop()
    assert capsys.readouterr() == ("", "")


# ---- peak memory ----------------------------------------------------------------------------------------------------


def test_peak_memory_is_that_of_this_process_alone() -> None:
    """ru_maxrss survives fork and exec: a small process started by a large one would report the large one's peak."""
    if not STATUS.exists():
        pytest.skip("this system has no /proc")
    child = "from compiler.tools.reporting import peak_rss_mb; print(peak_rss_mb())"
    parent = (
        "import os, subprocess, sys\n"
        "block = bytearray(b'x' * (600 << 20))\n"
        f"child = subprocess.run([sys.executable, '-c', {child!r}], capture_output=True, text=True, check=True)\n"
        "print(child.stdout.strip())\n"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 10 < float(done.stdout) < 500


def test_peak_memory_without_proc(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t  2048 kB\n", encoding="utf-8")
    assert peak_rss_mb(tmp_path / "status") == 2
    assert 10 < peak_rss_mb(tmp_path / "missing") < 1 << 20
