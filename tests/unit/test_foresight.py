"""What a run will need: counted by hand for small graphs, near what numpy takes, refused before it hurts."""

from __future__ import annotations

import shutil
import tracemalloc
from collections import namedtuple
from pathlib import Path

import pytest
from xdsl.context import Context

from compiler.frontend.importer import Imported, import_onnx
from compiler.interpreters.evaluate import evaluate
from compiler.passes.fuse import FusePass
from compiler.tools import inputs
from compiler.tools.foresight import check_disk, output_bytes, peak_bytes, steps, weight_bytes
from compiler.tools.options import Options
from compiler.weights import attach_store
from hw_targets import host_memory
from hw_targets.errors import InputError
from tests.e2e.harness import TARGET, hpcc, python, unchanged
from tests.graphs import Encoder, feeds, write

SPEC = Encoder(hidden=16, heads=2, intermediate=32, layers=1, positions=600)
TOKENS = 512


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(SPEC, tmp_path_factory.mktemp("foresight") / "model.onnx", 1, TOKENS)


@pytest.fixture(scope="module")
def fused(model: Path) -> Imported:
    imported = import_onnx(model, {})
    ctx = Context()
    attach_store(ctx, imported.store)
    FusePass().apply(ctx, imported.module)
    return imported


def test_the_imported_graph_holds_two_copies_of_the_scores(model: Path) -> None:
    scores = 4 * SPEC.heads * TOKENS * TOKENS
    assert 2 * scores <= peak_bytes(import_onnx(model, {}).module) <= 3 * scores


def test_the_peak_is_what_the_interpreter_takes(fused: Imported) -> None:
    given = feeds(SPEC, 1, TOKENS)
    evaluate(fused.module, fused.store, given)  # tables and weights are made once
    tracemalloc.start()
    evaluate(fused.module, fused.store, given)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.5 < peak_bytes(fused.module) / taken < 1.5


def test_weights_are_counted_once(fused: Imported) -> None:
    sizes = [4 * 16 * 16] * 4 + [4 * 16 * 32] * 2 + [4 * 16 * SPEC.vocabulary, 4 * 16 * 600, 4 * 16 * 2]
    vectors = weight_bytes(fused.module) - sum(sizes)
    assert 0 < vectors < 4 * (16 * 32 + TOKENS)  # biases, norms, and the ids of positions


def options(**changes: object) -> Options:
    return Options("model.onnx", TARGET, **changes)  # pyright: ignore[reportArgumentType]


def test_only_what_is_asked_for_is_counted(fused: Imported) -> None:
    for change in ({"verify": False}, {"timing_only": True}, {"emit": "program"}):
        assert steps(options(**change), "fpga", "import", fused.module) == []
        assert len(steps(options(**change), "fpga", "fuse", fused.module)) == 1
    assert len(steps(options(), "fpga", "import", fused.module)) == 1
    assert len(steps(options(verify=False, verify_each=True), "fpga", "import", fused.module)) == 1
    assert steps(options(), "cpu", "fuse", fused.module)[0].bytes < steps(options(), "fpga", "fuse", fused.module)[0].bytes


def test_room_on_the_disk(fused: Imported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense, auto = options(sparsity="dense"), options()
    weights = weight_bytes(fused.module)
    assert output_bytes(dense, "fpga", fused.module) == weights // 4
    assert output_bytes(dense, "cpu", fused.module) == weights
    assert output_bytes(auto, "fpga", fused.module) < weights // 4
    assert output_bytes(options(emit="tile"), "fpga", fused.module) == 0
    assert output_bytes(options(emit="tile", dump_stages="x"), "fpga", fused.module) == 2 * weights
    usage = namedtuple("usage", "total free")  # noqa: PYI024
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(2000, 1000))
    check_disk(tmp_path / "a" / "b", 1000)
    with pytest.raises(InputError, match=r"takes about 1\.0 kB, 1\.0 kB are free") as error:
        check_disk(tmp_path / "a" / "b", 1001)
    assert error.value.where == str(tmp_path)


MEGABYTES = 10**6


@pytest.mark.parametrize(
    ("available", "arguments", "words"),
    [
        (4, (), "ONNX Runtime's verification takes about 0.0 GB"),
        (4, ("--no-verify",), "compiling takes about 0.0 GB"),
        (4, ("--timing-only",), "compiling takes about 0.0 GB"),
    ],
)
def test_a_run_without_room_is_one_line_and_nothing_written(
    model: Path, available: int, arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(host_memory, "available_bytes", lambda: available * MEGABYTES)
    with unchanged(tmp_path):
        done = hpcc(model, "--target", TARGET, "-o", "out.hpcc", *arguments)
    assert done.status == 1
    assert words in done.line
    assert "[HPCC1903]" in done.line
    for look in ("--check", "--list-layers"):
        assert hpcc(model, "--target", TARGET, look).status == 0


@pytest.mark.parametrize("look", ["--check", "--list-layers"])
def test_a_look_at_a_model_makes_up_no_inputs(model: Path, look: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be larger than the model."""

    def made_up(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(inputs, "made_up", made_up)
    assert hpcc(model, "--target", TARGET, look).status == 0


LIMITED = """
import resource, sys
from compiler.tools.hpcc import main
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (2 << 30), size + (2 << 30)))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit of addresses is Linux's")
@pytest.mark.parametrize("mask", ["finfo", "masked_fill"])
def test_a_long_sequence_is_refused_before_it_takes_all_memory(mask: str, tmp_path: Path) -> None:
    """Scores of 16,384 x 16,384 x 2 heads are 2 GB a copy, a mask as large 8.6 GB of truth tables."""
    tokens = 16_384
    spec = Encoder(hidden=16, heads=2, intermediate=16, layers=1, positions=tokens, mask=mask)  # pyright: ignore
    long = write(spec, tmp_path / "long.onnx", 1, tokens)
    with unchanged(tmp_path):
        done = python("-c", LIMITED, long, "--target", TARGET, "-o", tmp_path / "out.hpcc")
    assert done.returncode == 1, done.stderr
    assert "[HPCC1903]" in done.stderr
    assert done.stderr.count("\n") == 1
