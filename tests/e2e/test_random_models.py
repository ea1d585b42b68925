"""Random small encoders, patterns and boards: whatever the tiling, every stage after `quantize` gives its bits."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp

import hw_targets
from compiler.frontend.host import HostSegment, host_segments
from compiler.frontend.importer import import_onnx
from compiler.interpreters.evaluate import evaluate
from compiler.interpreters.tile import evaluate_tiles
from compiler.pipelines import Stage, stages_between
from compiler.sparsity.patterns import parse_pattern
from compiler.tools.model_facts import read_facts, record_facts
from compiler.tools.packaging import build_bundle
from compiler.tools.stages import StageRunner, new_context
from compiler.weights import WeightStore
from hw_targets.errors import InfeasibleError, UsageError
from hw_targets.load import load_target
from runtime.bundle import Bundle, load_bundle
from runtime.program import Program
from tests.graphs import Encoder, inputs_of, write

Array = NDArray[Any]
NO_LAYER = "HPCC2210"
TARGET_TEXT = (Path(hw_targets.__file__).parent / "fpga-u280.toml").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Case:
    """A model, its compiled shape, the seed of its inputs, a pattern, and keys of [accelerator] to set."""

    encoder: Encoder
    batch: int
    tokens: int
    seed: int
    pattern: str
    board: dict[str, int]


def powers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.sampled_from([1 << n for n in range(low.bit_length() - 1, high.bit_length())])


@st.composite
def encoders(draw: st.DrawFn, tokens: int) -> Encoder:
    heads = draw(st.integers(2, 4))
    widths = [width for width in range(8, 97) if 32 <= width * heads <= 96]
    return Encoder(
        hidden=heads * draw(st.sampled_from(widths)),
        heads=heads,
        intermediate=draw(st.integers(17, 130)),
        layers=draw(st.sampled_from([1, 1, 2])),
        vocabulary=draw(st.integers(2, 60)),
        positions=tokens + draw(st.integers(0, 3)),
        seed=draw(st.integers(0, 99)),
        token_types=draw(st.sampled_from(["input", "constant", "none"])),
        head=draw(st.sampled_from(["none", "mean", "pooler", "classifier"])),
        gelu=draw(st.sampled_from(["torchscript", "relu", "tanh", "quick", "silu", "softplus"])),
        linear=draw(st.sampled_from(["matmul", "gemm", "transposed"])),
        attention=draw(st.sampled_from(["scores", "sdpa"])),
        mask=draw(st.sampled_from(["none", "1e4", "where", "weak", "causal", "relative"])),
    )


@st.composite
def patterns(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["dense", "nm", "hp", "hp", "block", "unstructured"]))
    if kind == "dense":
        return "dense"
    if kind in ("block", "unstructured"):
        shape = f"{draw(st.sampled_from([1, 4, 7]))}x{draw(st.sampled_from([1, 3, 16]))}:" if kind == "block" else ""
        return f"{kind}:{shape}{draw(st.sampled_from(['0.1', '0.5', '0.75', '0.93', '2/3']))}"
    m = draw(st.sampled_from([2, 4, 8, 16]))
    n = draw(st.integers(1, m - 1))
    if kind == "nm":
        return f"nm:{n}:{m}"
    window = draw(st.sampled_from([16, 32, 64]))
    keep = draw(st.sampled_from([size for size in range(4, window + 1, 4)]))
    fine = draw(st.sampled_from(["1:1", "1:2", "2:4", "1:4", "3:4"]))
    return f"hp:rows={draw(st.sampled_from([16, 32, 64]))},window={window},keep={keep},fine={fine}"


@st.composite
def boards(draw: st.DrawFn) -> dict[str, int]:
    """Arrays from tiny to large. The memories are as the target sizes them or, one by one, smaller than most models need:
    what does not fit is refused, what fits barely is cut into many tiles and spilt to DRAM."""
    multipliers = draw(powers(1, 16))
    memories = {
        "act_bytes": draw(powers(1 << 13, 1 << 18)),
        "weight_bytes": draw(powers(1 << 12, 1 << 17)),
        "acc_bytes": draw(powers(1 << 10, 1 << 16)),
        "param_bytes": draw(powers(1 << 11, 1 << 15)),
    }
    return {
        **{name: size for name, size in memories.items() if draw(st.booleans())},
        "cores": draw(st.integers(1, 3)),
        "tokens": draw(st.integers(1, 24)),
        "outputs": draw(powers(1, 64)),
        "multipliers": multipliers,
        "window": draw(powers(max(multipliers, 4), 64)),
        "selector": draw(powers(2, 16)),
        "lanes": draw(powers(1, 64)),
        "queue_depth": draw(st.integers(2, 9)),
    }


@st.composite
def cases(draw: st.DrawFn) -> Case:
    tokens = draw(st.integers(1, 40))
    return Case(
        draw(encoders(tokens)),
        draw(st.integers(1, 3)),
        tokens,
        draw(st.integers(0, 999)),
        draw(patterns()),
        draw(boards()),
    )


def inputs_for(case: Case) -> dict[str, Array]:
    """Random ids and masks: any pattern of zeros and ones, padding at either end, and samples without any token."""
    random = np.random.default_rng(case.seed)
    shape = (case.batch, case.tokens)
    mask = (random.random(shape) < random.choice([0.2, 0.5, 0.9, 1.0], (case.batch, 1))).astype(np.int64)
    mask[random.random(case.batch) < 0.2] = 0
    arrays: dict[str, Array] = {
        "input_ids": random.integers(0, case.encoder.vocabulary, shape),
        "attention_mask": mask,
        "token_type_ids": random.integers(0, 2, shape),
    }
    return {name: arrays[name] for name in inputs_of(case.encoder)}


def board_file(folder: Path, board: dict[str, int]) -> Path:
    text = TARGET_TEXT
    for key, value in board.items():
        text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert count == 1, key
    path = folder / "board.toml"
    path.write_text(text, encoding="utf-8")
    return path


def check_bits(case: Case, folder: Path) -> None:
    """Compile the case and execute it as whole tensors, as tiles before and after scheduling, and as a program."""
    inputs = inputs_for(case)
    path = write(case.encoder, folder / "model.onnx", case.batch, case.tokens)
    board = board_file(folder, case.board)
    target = load_target(board)
    imported = import_onnx(path, {})
    module, store = imported.module, imported.store
    record_facts(module, imported)
    kept: dict[str, ModuleOp] = {}
    hosts: list[HostSegment] = []

    def keep(stage: Stage, module: ModuleOp) -> None:
        if stage.name == "fuse":
            hosts.extend(host_segments(module, imported.model))
        if stage.name in ("quantize", "encode", "tile", "schedule"):
            kept[stage.name] = module.clone()

    spec = parse_pattern(case.pattern).spec()
    StageRunner(new_context(store), str(board), spec, (keep,)).run(module, stages_between("fpga", "import", "emit"))
    program = Program(build_bundle(module, store, target, read_facts(module, spec, "model"), hosts))
    program.save(folder / "out.hpcc")
    borders = program.border_inputs(inputs)
    golden = evaluate(kept["quantize"], store, borders)
    assert golden
    found = {
        "encode": evaluate(kept["encode"], store, borders),
        "tile": evaluate_tiles(kept["tile"], store, borders),
        "schedule": evaluate_tiles(kept["schedule"], store, borders),
        "program": program.run(borders, host=False).outputs,
        "bundle": Program(load_bundle(folder / "out.hpcc")).run(borders, host=False).outputs,
    }
    for stage, outputs in found.items():
        for name, wanted in golden.items():
            assert np.isfinite(wanted).all()
            assert (outputs[name].reshape(wanted.shape) == wanted).all(), f"{stage} differs in {name}"
    assert sum(layer.total for layer in program.layers()) == program.timing().total
    for memory, used in program.manifest.sizes.items():
        capacity = {**vars(target.accelerator), "dram_bytes": target.memory.capacity_bytes}
        assert used <= capacity[{"weights": "weight"}.get(memory.value, memory.value) + "_bytes"]


def attempt(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            check_bits(case, Path(folder))
        except InfeasibleError as error:
            event(f"infeasible {error.code}")
        except UsageError as error:
            if error.code != NO_LAYER:
                raise
            event("the pattern applies to no layer")


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_every_stage_gives_the_same_bits(case: Case) -> None:
    attempt(case)


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_every_stage_gives_the_same_bits_more_often(case: Case) -> None:
    attempt(case)


CORNERS = {
    "one token": Case(Encoder(hidden=36, heads=3, intermediate=50, positions=1), 1, 1, 0, "nm:2:4", {"tokens": 16}),
    "one of everything": Case(
        Encoder(hidden=60, heads=4, intermediate=67, positions=5, head="classifier"),
        2,
        5,
        3,
        "hp:rows=64,window=32,keep=16,fine=2:4",
        {"cores": 1, "tokens": 1, "outputs": 1, "multipliers": 1, "window": 4, "selector": 2, "lanes": 1, "queue_depth": 2},
    ),
    "wider than the model": Case(
        Encoder(hidden=70, heads=2, intermediate=33, positions=40, head="mean", mask="where"),
        3,
        40,
        5,
        "nm:1:16",
        {"cores": 3, "tokens": 24, "outputs": 16, "lanes": 64},
    ),
}


@pytest.mark.parametrize("name", CORNERS)
def test_corners(name: str, tmp_path: Path) -> None:
    check_bits(CORNERS[name], tmp_path)


def test_the_comparison_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: one bit of one weight in the program's image, and the bits differ."""
    true = build_bundle

    def damaged(module: ModuleOp, store: WeightStore, *rest: Any) -> Bundle:
        bundle = true(module, store, *rest)
        image = bundle.weights.copy()
        at = image.tobytes().find(store.get("layer.0.up.weight.codes").tobytes())
        assert at >= 0
        image[at] ^= 0x40
        return replace(bundle, weights=image)

    monkeypatch.setitem(globals(), "build_bundle", damaged)
    with pytest.raises(AssertionError, match="program differs"):
        check_bits(replace(CORNERS["one token"], pattern="dense"), tmp_path)
