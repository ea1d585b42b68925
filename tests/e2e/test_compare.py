"""Two bundles side by side: `hpcc-objdump --diff`, `hpcc --baseline`, and their page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runtime.cli import main_objdump
from runtime.compare import compare, read_reports
from tests.browser import find_browser, rendered
from tests.e2e.harness import call, hpcc, read_json
from tests.e2e.test_report_page import WIDTHS, Outline
from tests.graphs import Encoder, write

BROWSER = find_browser()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dense.hpcc and hp.hpcc of one model, the latter compared with `dense` as its baseline."""
    folder = tmp_path_factory.mktemp("shelf")
    model = write(Encoder(hidden=96, heads=4, intermediate=208, layers=2, head="pooler"), folder / "m.onnx")
    common = (model, "--target", "fpga-zcu104", "--timing-only", "--no-verify")
    done = hpcc(*common, "--sparsity", "dense", "-q", "-o", folder / "dense.hpcc")
    assert (done.status, done.err) == (0, "")
    done = hpcc(*common, "--sparsity", "hp:0.75", "--baseline", "dense", "-o", folder / "hp.hpcc")
    assert (done.status, done.err) == (0, "")
    (folder / "said.txt").write_text(done.out)
    return folder


def diff(shelf: Path, *arguments: object) -> str:
    done = call(main_objdump, "--diff", shelf / "dense.hpcc", shelf / "hp.hpcc", *arguments)
    assert (done.status, done.err) == (0, "")
    return done.out


def test_the_comparison_has_the_figures_of_both_reports(shelf: Path) -> None:
    found = json.loads(diff(shelf, "--json"))
    reports = {side: read_json(shelf / f"{side}.hpcc" / "report.json") for side in ("dense", "hp")}
    rows = {pair["name"]: pair for pair in found["layers"]}
    for side, name in (("first", "dense"), ("second", "hp")):
        report = reports[name]
        assert found[side]["cycles"] == report["cycles"]
        assert found[side]["weight_bytes"] == report["memory"]["weights_stored_bytes"]
        for layer in report["layers"]:
            row = rows[layer["name"]][side]
            assert row["cycles"] == layer["cycles"]
            assert row["bytes"] == layer["value_bytes"] + layer["metadata_bytes"]
            assert [row[key] for key in ("pattern", "format", "bound", "reason")] == [
                layer[key] for key in ("pattern", "format", "bound", "reason")
            ]
    assert found["speedup"] == pytest.approx(reports["dense"]["cycles"] / reports["hp"]["cycles"])
    up = rows["layer.0.ffn.up"]
    assert up["speedup"] == pytest.approx(up["first"]["cycles"] / up["second"]["cycles"])


def test_the_text_is_a_table_with_a_total(shelf: Path) -> None:
    shown = diff(shelf)
    report = read_json(shelf / "hp.hpcc" / "report.json")
    row = next(line for line in shown.splitlines() if line.startswith("layer.1.ffn.down"))
    assert "dense -> hp " in row
    assert "dense -> hp_mark" in row
    total = next(line for line in shown.splitlines() if line.startswith("total"))
    assert f"{report['cycles']:,}" in total
    assert re.search(r"B is \d\.\d\dx as fast", shown)
    lengths = {len(line) for line in shown.splitlines()}
    assert max(lengths) < 200


def test_the_baseline_is_the_dense_program_of_its_own(shelf: Path) -> None:
    """What is printed and stored with `--baseline dense` is the difference to a real dense compilation."""
    stored = read_json(shelf / "hp.hpcc" / "comparison.json")
    told = json.loads(diff(shelf, "--json"))
    for side in ("first", "second"):
        assert {**stored[side], "name": ""} == {**told[side], "name": ""}
    assert stored["layers"] == told["layers"]
    assert (stored["first"]["name"], stored["second"]["name"]) == ("dense", "hp.hpcc")
    said = (shelf / "said.txt").read_text()
    assert f"B is {stored['speedup']:.2f}x as fast" in said
    page = (shelf / "hp.hpcc" / "report.html").read_text(encoding="utf-8")
    assert "Beside the baseline" in page
    assert f"This program is {stored['speedup']:.2f}x as fast as it." in page
    assert not (shelf / "dense.hpcc" / "comparison.json").exists()


def test_an_older_bundle_as_the_baseline(shelf: Path, tmp_path: Path) -> None:
    """Also of another board: then times are compared, not cycles, and the difference is noted."""
    target = ("--target", "fpga-u280", "--sparsity", "nm:2:4", "--timing-only", "--no-verify", "-q")
    done = hpcc(shelf / "m.onnx", *target, "--baseline", shelf / "hp.hpcc", "-o", tmp_path / "out.hpcc")
    assert (done.status, done.out, done.err) == (0, "", "")
    stored = read_json(tmp_path / "out.hpcc" / "comparison.json")
    assert stored["first"]["name"] == "hp.hpcc"
    assert stored["first"]["ms"] == pytest.approx(read_json(shelf / "hp.hpcc" / "report.json")["latency"]["accelerator_ms"])
    assert stored["notes"] == ["the targets differ: fpga-zcu104 and fpga-u280"]
    found = compare(("a", *read_reports(shelf / "hp.hpcc")), ("b", *read_reports(tmp_path / "out.hpcc")))
    assert not found.in_cycles
    layer = next(pair for pair in found.layers if pair.name == "layer.0.attn.q")
    assert layer.first is not None
    assert layer.second is not None
    assert layer.speedup == pytest.approx((layer.first.cycles or 0) / 200 / ((layer.second.cycles or 0) / 250))


def test_a_dense_model_that_does_not_fit_is_said(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compiler.tools import session
    from hw_targets.errors import InfeasibleError

    opened = session.open_session

    def refuses(options: session.Options) -> session.Session:
        if options.sparsity == "dense":
            raise InfeasibleError("HPCC3002", "too large")
        return opened(options)

    monkeypatch.setattr(session, "open_session", refuses)
    common = ("--target", "fpga-zcu104", "--timing-only", "--no-verify", "--sparsity", "hp:0.75", "--baseline", "dense")
    done = hpcc(shelf / "m.onnx", *common, "-o", tmp_path / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    assert done.out.rstrip().endswith("the dense model does not fit this target: there is no baseline")
    assert not (tmp_path / "out.hpcc" / "comparison.json").exists()


def test_the_page_of_a_comparison(shelf: Path, tmp_path: Path) -> None:
    page = tmp_path / "diff.html"
    diff(shelf, "--html", page)
    text = page.read_text(encoding="utf-8")
    outline = Outline(text)
    assert [name for name in outline.ids if name in ("whole", "layers")] == ["whole", "layers"]
    assert all(address.startswith(("#", "data:")) for address in outline.addresses)
    assert ">layer.1.ffn.down<" in text
    if BROWSER is None:
        pytest.skip("no Chromium: install chromium, or set HPCC_BROWSER to one")
    for width, found in rendered(BROWSER, text, WIDTHS, tmp_path).items():
        assert (found["errors"], found["overflow"], found["overlaps"]) == ([], 0, []), width
