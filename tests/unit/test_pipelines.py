"""Stages and passes by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from xdsl.passes import ModulePass, PassPipeline

import compiler.passes
from compiler.passes.verify_stage import RULES
from compiler.pipelines import FPGA, PASSES, STAGE_NAMES, all_passes, load_pass, stages_between
from compiler.tools.summary import STEPS


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_is_loaded_by_its_name(name: str) -> None:
    """The class says the same name, is frozen, and lies in the file of that name."""
    loaded = load_pass(name)
    assert issubclass(loaded, ModulePass)
    assert loaded.name == name
    assert name.startswith("hpcc-")
    assert loaded.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    assert loaded.__module__ == "compiler.passes." + name.removeprefix("hpcc-").replace("-", "_")
    assert all_passes()[name]() is loaded
    assert loaded.__doc__


def test_every_pass_file_is_registered() -> None:
    folder = Path(compiler.passes.__file__).parent
    modules = {module for module, _ in PASSES.values()}
    for file in folder.glob("*.py"):
        if "(ModulePass)" in file.read_text(encoding="utf-8"):
            assert f"compiler.passes.{file.stem}" in modules


def test_stages_read_as_pipelines() -> None:
    """The text of every stage is what `hpcc-opt -p` takes, and the options are those of the passes."""
    for stage in FPGA:
        text = stage.pipeline(target="my board.toml", sparsity="hp:0.75")
        passes = PassPipeline.parse_spec(all_passes(), text).passes if text else ()
        assert len(passes) == len(stage.passes)
        for made in passes:
            fields = {field.name for field in dataclasses.fields(made)}
            if "target" in fields:
                assert made.target == "my board.toml"  # pyright: ignore[reportAttributeAccessIssue]
            if "spec" in fields:
                assert made.spec == "hp:0.75"  # pyright: ignore[reportAttributeAccessIssue]


def test_stages_between() -> None:
    names = [stage.name for stage in stages_between("fpga", None, None)]
    assert tuple(names) == STAGE_NAMES == tuple(RULES)
    assert [stage.name for stage in stages_between("fpga", "sparsify", "encode")] == ["quantize", "encode"]
    assert [stage.name for stage in stages_between("fpga", "schedule", None)] == ["emit"]
    assert stages_between("fpga", "emit", None) == ()


def test_progress_counts_every_stage() -> None:
    assert STEPS[: len(STAGE_NAMES)] == STAGE_NAMES
