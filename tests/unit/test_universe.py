"""What stock xDSL tools see of hpcc, through the entry point."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path

import pytest
from xdsl.dialects import get_all_dialects
from xdsl.ir import Dialect
from xdsl.passes import ModulePass
from xdsl.transforms import get_all_passes
from xdsl.xdsl_opt_main import xDSLOptMain

from compiler.universe import HPCC_UNIVERSE


def test_every_name_carries_the_prefix() -> None:
    """A name that another universe has breaks every xDSL tool of the environment."""
    assert HPCC_UNIVERSE.all_dialects
    assert HPCC_UNIVERSE.all_passes
    for name, load in HPCC_UNIVERSE.all_dialects.items():
        dialect = load()
        assert isinstance(dialect, Dialect)
        assert dialect.name == name
        assert name.startswith("hpcc_")
        for member in (*dialect.operations, *dialect.attributes):
            assert member.name.startswith(f"{name}.")
    for name, load_pass in HPCC_UNIVERSE.all_passes.items():
        loaded = load_pass()
        assert issubclass(loaded, ModulePass)
        assert loaded.name == name
        assert name.startswith("hpcc-")


def test_nothing_of_xdsl_is_shadowed() -> None:
    assert not HPCC_UNIVERSE.all_dialects.keys() & get_all_dialects().keys()
    assert not HPCC_UNIVERSE.all_passes.keys() & get_all_passes().keys()


def test_the_project_declares_the_entry_point() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    declared = project["project"]["entry-points"]["xdsl.universe"]
    assert list(declared) == ["hpcc"]
    point = metadata.EntryPoint(name="hpcc", value=declared["hpcc"], group="xdsl.universe")
    assert point.load() is HPCC_UNIVERSE


def test_stock_xdsl_opt_reads_and_transforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """xDSL's own driver, with nothing of ours imported but by the entry point."""
    point = metadata.EntryPoint(name="hpcc", value="compiler.universe:HPCC_UNIVERSE", group="xdsl.universe")
    real = metadata.entry_points

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        others = [entry for entry in real(group=group) if entry.name != "hpcc"]
        return [*others, point] if group == "xdsl.universe" else others

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    file = tmp_path / "q.mlir"
    file.write_text(
        """
        func.func @main(%x: tensor<4x64xi8>, %s: tensor<4x1xf32>) -> tensor<4x64xf32> {
          %w = hpcc_nn.weight "w" digest "1" : tensor<64x64xi8, #hpcc_sparsity.nm<2:4>>
          %ws = hpcc_nn.weight "ws" digest "2" : tensor<64xf32>
          %0 = hpcc_nn.qlinear "head.0" %x, %s, %w, %ws : tensor<4x64xi8>, tensor<4x1xf32>,
            tensor<64x64xi8, #hpcc_sparsity.nm<2:4>>, tensor<64xf32> -> tensor<4x64xf32>
          func.return %0 : tensor<4x64xf32>
        }""",
        encoding="utf-8",
    )
    out = io.StringIO()
    with redirect_stdout(out):
        xDSLOptMain(args=[str(file), "-p", "hpcc-encode-storage"]).run()
    assert "tensor<64x64xi8, #hpcc_storage.nm<of = #hpcc_sparsity.nm<2:4>>>" in out.getvalue()
