"""report.html as a browser shows it, and as a file: whole, without a network, legible on a desk and on a telephone."""

from __future__ import annotations

import copy
import re
import struct
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from runtime.html.report import report_page
from runtime.program import Program
from runtime.timeline import LEVELS, stretches
from tests.browser import find_browser, rendered, screenshot
from tests.e2e.harness import hpcc, read_json
from tests.graphs import Encoder, write

BROWSER = find_browser()
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium: install chromium, or set HPCC_BROWSER to one")
WIDTHS = (1280, 390)
FPGA = ["latency", "bound", "timeline", "ledger", "bytes", "formats", "board", "checks", "host", "target", "making"]
CPU = ["latency", "timeline", "ledger", "bytes", "checks", "host", "target", "making"]
VOID = {"meta", "link", "line", "rect", "circle", "polyline", "input", "br"}


@pytest.fixture(scope="module")
def fpga(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fpga")
    model = write(Encoder(hidden=96, heads=4, intermediate=208, layers=2, head="pooler"), folder / "m.onnx")
    done = hpcc(model, "--target", "fpga-zcu104", "--sparsity", "hp:0.75", "-q", "-o", folder / "out.hpcc")
    assert (done.status, done.err) == (0, "")
    return folder / "out.hpcc"


@pytest.fixture(scope="module")
def cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cpu")
    model = write(Encoder(hidden=96, heads=4, intermediate=208, layers=2, head="pooler"), folder / "m.onnx")
    done = hpcc(model, "--target", "cpu-host", "--sparsity", "hp:0.75", "-q", "-o", folder / "out.hpcc")
    if done.status == 5:
        pytest.skip("no C compiler")
    assert (done.status, done.err) == (0, "")
    return folder / "out.hpcc"


def documents(bundle: Path) -> tuple[Any, Any, Any]:
    report, run, manifest = (read_json(bundle / f"{name}.json") for name in ("report", "run", "manifest"))
    return report, run, manifest


def of_layers(bundle: Path, blocks: int) -> str:
    """The page of a model like the bundle's with so many blocks: its last block again and again."""
    report, run, manifest = copy.deepcopy(documents(bundle))
    first = [layer for layer in report["layers"] if not layer["name"].startswith("layer.")]
    block = [layer for layer in report["layers"] if layer["name"].startswith("layer.1.")]
    report["layers"] = first + [
        {**layer, "name": layer["name"].replace("layer.1.", f"layer.{number}.")}
        for number in range(blocks)
        for layer in block
    ]
    report["cycles"] = sum(layer["cycles"] for layer in report["layers"])
    report["cycles_if_dense"] = sum(layer["cycles_if_dense"] for layer in report["layers"])
    program = Program.load(bundle)
    return report_page(report, run, manifest, stretches(program.timing(), program.manifest.layers))


class Outline(HTMLParser):
    """Open elements, ids, tables and drawings of a page; asserts that what is opened is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.heads = Counter[str]()
        self.untitled = 0
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.ids += [named["id"] or ""] if "id" in named else []
        self.addresses += [named[name] or "" for name in ("href", "src") if name in named]
        if tag == "table":
            self.heads["tables"] += 1
        if tag == "th":
            assert named.get("scope") in ("col", "row", "rowgroup")
        if tag == "thead":
            self.heads["heads"] += 1
        if tag == "title" and self.open and self.open[-1] == "svg":
            self.untitled -= 1
        if tag == "svg":
            self.untitled += 1
        if tag not in VOID or (tag == "rect" or tag == "circle" or tag == "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("kind", ["fpga", "cpu"])
def test_the_file_is_whole_and_needs_nothing_else(kind: str, request: pytest.FixtureRequest) -> None:
    text = (request.getfixturevalue(kind) / "report.html").read_text(encoding="utf-8")
    outline = Outline(text)
    assert max(Counter(outline.ids).values()) == 1
    assert outline.heads["tables"] == outline.heads["heads"] > 3
    assert outline.untitled == 0
    assert all(address.startswith(("#", "data:")) for address in outline.addresses)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp", text)
    wanted = FPGA if kind == "fpga" else CPU
    assert [name for name in outline.ids if name in wanted] == wanted


def test_the_page_says_what_the_reports_say(fpga: Path) -> None:
    report, run, _ = documents(fpga)
    text = (fpga / "report.html").read_text(encoding="utf-8")
    for layer in report["layers"]:
        assert f">{layer['name']}<" in text
        assert f"{layer['cycles']:,}" in text
        assert layer["explanation"].replace("'", "&#39;") in text
    for key in ("accelerator", "transfer", "host"):
        assert f"{run['latency'][f'{key}_ms']['ms']:.3f} ms" in text
    assert "of the embedding" not in text
    assert report["memory"]["embedding_bytes"] > 0
    for number in report["target"]["unverified"]:
        assert number in text
    for op in report["host_ops"]:
        assert op["reason"] in text


def test_names_of_a_model_are_text_and_nothing_else(fpga: Path) -> None:
    report, run, manifest = copy.deepcopy(documents(fpga))
    report["model"]["name"] = "<img src=x onerror=alert(1)>"
    report["layers"][0]["onnx_node"] = '"><script>alert(2)</script>'
    text = report_page(report, run, manifest)
    assert "<img" not in text
    assert "<script>alert" not in text
    Outline(text)


def test_the_time_line_is_the_trace_in_few_pieces(fpga: Path) -> None:
    """Busy cycles of a queue are those of its stretches, up to the rounding of their levels."""
    program = Program.load(fpga)
    timing = program.timing()
    for pieces in (7, 480):
        found = stretches(timing, program.manifest.layers, pieces)
        for queue, lane in found.items():
            busy = sum((piece.end - piece.start) * piece.level / LEVELS for piece in lane)
            assert abs(busy - timing.busy[queue]) <= timing.total / (2 * LEVELS) + pieces
            assert all(a.end <= b.start for a, b in zip(lane, lane[1:], strict=False))
            assert len(lane) <= pieces


@needs_browser
@pytest.mark.parametrize("page", ["fpga", "cpu", "96 layers"])
def test_a_browser_shows_all_of_it_on_a_desk_and_on_a_telephone(
    page: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    assert BROWSER is not None
    if page == "96 layers":
        text = of_layers(request.getfixturevalue("fpga"), 96)
    else:
        text = (request.getfixturevalue(page) / "report.html").read_text(encoding="utf-8")
    for width, found in rendered(BROWSER, text, WIDTHS, tmp_path).items():
        assert found["errors"] == [], width
        assert found["overflow"] == 0, (width, found["wide"])
        assert found["overlaps"] == [], width
        assert [section["name"] for section in found["sections"]] == (CPU if page == "cpu" else FPGA)
        assert all(section["visible"] and section["height"] > 60 for section in found["sections"])


@needs_browser
def test_a_picture_of_it(fpga: Path, tmp_path: Path) -> None:
    assert BROWSER is not None
    for width in WIDTHS:
        data = screenshot(BROWSER, fpga / "report.html", width, 900, tmp_path / "page.png")
        assert data.startswith(b"\x89PNG")
        assert struct.unpack(">II", data[16:24]) == (width, 900)
        assert len(data) > 15_000, "an empty page makes a smaller picture"
