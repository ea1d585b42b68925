"""The drawings: well-formed, inside their paper, and with the numbers of the target that they are made from."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hw_targets import resources
from hw_targets.drawings import DRAWINGS, main
from hw_targets.load import load_target
from hw_targets.svg import STYLE

BOARDS = ("fpga-u280", "fpga-u50", "fpga-vu13p", "fpga-kv260", "fpga-pynq-z2")
sized = cache(load_target)
SVG = "{http://www.w3.org/2000/svg}"
SIZES = {name: float(size) for name, size in re.findall(r"^\.?(\w+) \{.*?font-size: ([\d.]+)px", STYLE, re.MULTILINE)}


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", DRAWINGS)
@pytest.mark.parametrize("board", BOARDS)
def test_everything_lies_on_the_paper(board: str, name: str) -> None:
    root = ElementTree.fromstring(DRAWINGS[name](sized(board)).svg())
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    for element in root.iter(f"{SVG}text"):
        x, size = float(element.get("x", "0")), SIZES[element.get("class", "text")]
        length = 0.62 * size * len(element.text or "")
        left = x - length * {"start": 0, "middle": 0.5, "end": 1}[element.get("text-anchor", "start")]
        assert 0 <= left <= width - length, element.text
        assert size <= float(element.get("y", "0")) <= height - 4
    for element in root.iter(f"{SVG}rect"):
        right = float(element.get("x", "0")) + float(element.get("width", "0"))
        bottom = float(element.get("y", "0")) + float(element.get("height", "0"))
        assert right <= width
        assert bottom <= height


@pytest.mark.parametrize("board", ["fpga-u280", "fpga-pynq-z2"])
def test_the_numbers_are_the_targets(board: str) -> None:
    target = sized(board)
    a = target.accelerator
    machine = " ".join(texts(DRAWINGS["machine"](target).svg()))
    assert f"{a.macs_per_cycle:,} MAC and {a.lanes} lanes" in machine
    assert all(f"{decoder.values_per_cycle:,}" in machine for decoder in target.decoders)
    memories = " ".join(texts(DRAWINGS["memories"](target).svg()))
    for part in resources.bill(target):
        if part.name.endswith(("(BRAM)", "(URAM)")):
            assert f": {part.takes.bram + part.takes.uram:,} {part.name[-5:-1]}" in memories, part.name
    group = DRAWINGS["group"](target).svg()
    assert texts(group).count("DSP") == a.multipliers
    cells = a.window * (resources.TOKENS_PER_DSP[target.device.dsp_kind] + 1)
    assert group.count('height="16"') == cells
    wider = replace(target, accelerator=replace(a, multipliers=4, window=16))
    assert texts(DRAWINGS["group"](wider).svg()).count("DSP") == 4


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fpga-kv260", str(tmp_path / "new")]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(f"{name}.svg" for name in DRAWINGS)
    assert main(["fpga-kv26", str(tmp_path)]) == 2
    (tmp_path / "file").write_text("")
    assert main(["fpga-kv260", str(tmp_path / "file")]) == 1
    assert main([]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert "fpga-kv260" in lines[0]
