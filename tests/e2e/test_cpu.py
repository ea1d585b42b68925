"""CPU bundles: what they compute, for every pattern, length and number of threads; what they refuse; what they hold."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import hpcc
from compiler.backends.cpu import build
from compiler.backends.cpu.build import FLAGS, build_library, find_compiler
from compiler.tools.cpu_session import CpuCompiled
from hw_targets.cpu import ISAS, CpuTarget
from hw_targets.errors import HpccError, InputError, UsageError
from hw_targets.load import load_any_target, load_target
from runtime.cli import main_objdump, main_run
from runtime.cpu.library import Library
from runtime.cpu.program import CpuProgram
from runtime.steps.files import WEIGHTS_HEADER
from tests.e2e.cpu_harness import BATCH, ODD, SHAPES, TOKENS, assert_clean, assert_close, quick, reference
from tests.e2e.harness import ROOT, Done, call, digests, read_json
from tests.e2e.harness import hpcc as hpcc_command
from tests.fuzz.cases import resign_cpu
from tests.graphs import Encoder, feeds, write

Array = NDArray[Any]
HOST = load_any_target("cpu-host")
assert isinstance(HOST, CpuTarget)
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(ODD, tmp_path_factory.mktemp("cpu") / "odd.onnx", BATCH, TOKENS)


@pytest.fixture(scope="module")
def small_caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target of the user's own: this machine with caches so small that the odd encoder's inputs take three blocks."""
    path = tmp_path_factory.mktemp("target") / "small.toml"
    count = '{ value = 4096, source = "made up" }'
    cpu = f'isa = "{HOST.isa}"\nl1_bytes = {count}\nl2_bytes = {count}\n'
    path.write_text(f'name = "small"\nkind = "cpu"\nsummary = "small caches"\n\n[cpu]\n{cpu}', encoding="utf-8")
    return path


def test_int8_needs_the_instruction(model: Path) -> None:
    done = hpcc_command(model, *BIND, "--target", "cpu-neon", "--precision", "int8")
    expect(done, 2, "error: target 'cpu-neon' (neon) has no int8 products (--precision fp32) [HPCC2019]")
    done = hpcc_command(model, *BIND, "--target", "fpga-u280", "--precision", "fp32")
    expect(done, 2, "error: target 'fpga-u280' has no fp32 products (--precision int8) [HPCC2027]")
    done = hpcc_command(model, *BIND, "--target", "cpu-host", "--precision", "int4")
    expect(done, 2, "error: --precision 'int4' is none (fp32, fp16, bf16, int8) [HPCC2026]")


@pytest.fixture(scope="module")
def dense(model: Path, small_caches: Path) -> CpuCompiled:
    compiled = hpcc.compile(model, small_caches, shapes=SHAPES, inputs=feeds(ODD, BATCH, TOKENS))
    assert isinstance(compiled, CpuCompiled)
    return compiled


@pytest.mark.parametrize(
    ("spec", "kernel"), [("hp:0.75", "vectors"), ("nm:2:4", "singles"), ("unstructured:0.9", "singles")]
)
def test_every_pattern_computes_what_onnx_runtime_does(model: Path, small_caches: Path, spec: str, kernel: str) -> None:
    compiled = hpcc.compile(model, small_caches, shapes=SHAPES, sparsity=spec, inputs=feeds(ODD, BATCH, TOKENS))
    assert isinstance(compiled, CpuCompiled)
    verify = compiled.run_report.verify
    assert verify is not None
    assert all(check.passed and check.relative_l2 < 1e-5 for check in verify.outputs)
    assert compiled.run_report.damage is not None
    assert {row.kernel for row in compiled.report.layers if row.op == "linear" and ".ffn." in row.name} == {kernel}
    assert compiled.run_report.latency["device_ms"].source == "measured"
    times = {row.name: row for row in compiled.run_report.layers}
    assert all(times[row.name].ms > 0 for row in compiled.report.layers)


def test_four_rows_with_one_list_run_at_the_rate_of_dense(tmp_path: Path) -> None:
    """A quarter of the products in a third of the time, what is no product included. A sum that the compiler keeps in
    memory, because it runs out of registers, makes that 0.6 on AVX2. On a busy machine the best of a few tries counts."""
    wide = Encoder(hidden=512, heads=4, intermediate=2048, layers=1, vocabulary=50, positions=100)
    model, inputs = write(wide, tmp_path / "wide.onnx", 1, 96), feeds(wide, 1, 96)
    programs: list[CpuProgram] = []
    for pattern in ("dense", "hp:0.75"):
        bundle = tmp_path / pattern.replace(":", "-")
        arguments = ("--target", "cpu-host", "--sparsity", pattern, "--emit", "program", "-o", str(bundle))
        assert hpcc_command(model, *arguments).status == 0
        programs.append(CpuProgram.load(bundle, 1))

    def least(rounds: int) -> float:
        """The sparse program's time over the dense one's, of each the least of interleaved runs."""
        times: list[list[float]] = [[], []]
        for _ in range(rounds):
            for program, found in zip(programs, times, strict=True):
                began = time.perf_counter()
                program.run(inputs)
                found.append(time.perf_counter() - began)
        full, sparse = map(min, times)
        return sparse / full

    assert any(least(25) < 0.5 for _ in range(8))


@pytest.mark.parametrize("gelu", ["relu", "tanh", "quick", "silu"])
def test_every_activation(tmp_path: Path, gelu: Any) -> None:
    small = Encoder(hidden=12, heads=2, intermediate=20, gelu=gelu, head="classifier", projections="split")
    done = hpcc_command(write(small, tmp_path / "small.onnx"), "--target", "cpu-host", "-q", "-o", tmp_path / "out.hpcc")
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize("isa", [name for name in ("avx2", "neon") if name != HOST.isa])
def test_other_instruction_sets_of_this_machine(model: Path, isa: str) -> None:
    target = load_any_target(f"cpu-{isa}")
    assert isinstance(target, CpuTarget)
    if not target.runs_here():
        pytest.skip(f"this machine has no {isa}")
    compiled = hpcc.compile(model, f"cpu-{isa}", shapes=SHAPES, sparsity="hp:0.75", inputs=feeds(ODD, BATCH, TOKENS))
    assert isinstance(compiled, CpuCompiled)
    assert compiled.run_report.verify is not None  # else compile would have raised


@pytest.mark.parametrize(
    ("batch", "tokens"), [(1, 1), (1, 15), (2, 16), (1, 17), (3, 33), (2, 64), (3, 65), (3, 75), (5, 75)]
)
def test_any_length_up_to_the_compiled_one(dense: CpuCompiled, batch: int, tokens: int) -> None:
    inputs = feeds(ODD, batch, tokens, seed=tokens)
    mask = np.arange(tokens) < np.random.default_rng(batch).integers(1, tokens + 1, (batch, 1))
    inputs["attention_mask"] = mask.astype(np.int64)
    assert_close(dense.run(inputs).outputs, reference(inputs), inputs["attention_mask"])


def test_a_few_tokens_are_those_of_a_longer_text(model: Path) -> None:
    """Rows that share a list sum a single vector of tokens in two chains, wider tiles (checked by ONNX Runtime) in one."""
    compiled = hpcc.compile(model, "cpu-host", shapes=SHAPES, sparsity="hp:0.75", inputs=feeds(ODD, BATCH, TOKENS))
    short = feeds(ODD, 1, 3)
    long = {name: np.pad(array, [(0, 0), (0, TOKENS - 3)]) for name, array in short.items()}
    got, wanted = compiled.run(short).outputs, compiled.run(long).outputs
    assert_close(got, {n: v[:, :3] if v.ndim == 3 else v for n, v in wanted.items()}, short["attention_mask"])


def test_a_mask_with_holes_and_a_sample_without_tokens(dense: CpuCompiled) -> None:
    inputs = feeds(ODD, BATCH, TOKENS, seed=3)
    mask = np.random.default_rng(0).integers(0, 2, (BATCH, TOKENS))
    mask[1] = 0
    inputs["attention_mask"] = mask
    got, wanted = dense.run(inputs).outputs, reference(inputs)
    kept = [0, 2]  # of the empty sample only this is asked: its numbers are numbers
    assert all(np.isfinite(value).all() for value in got.values())
    assert_close({n: v[kept] for n, v in got.items()}, {n: v[kept] for n, v in wanted.items()}, mask[kept])


def test_the_number_of_threads_changes_no_bit(dense: CpuCompiled) -> None:
    inputs = feeds(ODD, BATCH, TOKENS)
    one = CpuProgram(dense.program.bundle, threads=1).run(inputs).outputs
    for threads in (2, 3, 4, 5, 8):
        more = CpuProgram(dense.program.bundle, threads=threads)
        for _ in range(3):
            assert all(np.array_equal(one[name], value) for name, value in more.run(inputs).outputs.items())


# ---- the C interface ------------------------------------------------------------------------------------------------


def tensors(dense: CpuCompiled, batch: int, tokens: int) -> tuple[list[Array], list[Array]]:
    manifest = dense.program.manifest
    given = feeds(ODD, batch, tokens)
    shapes = [(batch, tokens, e.shape[-1]) if len(e.shape) == 3 else (batch, e.shape[-1]) for e in manifest.outputs]
    return [given[entry.name] for entry in manifest.inputs], [np.empty(shape, np.float32) for shape in shapes]


def test_wrong_sizes_come_back_as_error_codes(dense: CpuCompiled) -> None:
    library = Library(dense.program.bundle.library, dense.program.bundle.weights, 1)
    inputs, outputs = tensors(dense, 2, 9)
    library.run(2, 9, inputs, outputs)
    for batch, tokens in ((0, 9), (BATCH + 1, 9), (2, 0), (2, TOKENS + 1)):
        with pytest.raises(InputError, match="bad shape"):
            library.run(batch, tokens, inputs, outputs)
    with pytest.raises(InputError, match="bad size"):
        library.run(2, 8, inputs, outputs)
    with pytest.raises(InputError, match="bad size"):
        library.run(2, 9, inputs, [np.empty(3, np.float32), *outputs[1:]])
    with pytest.raises(InputError, match="bad count"):
        library.run(2, 9, inputs[1:], outputs)
    for wrong in (-1, ODD.vocabulary):
        broken = [array.copy() for array in inputs]
        broken[0][1, 3] = wrong
        with pytest.raises(InputError, match="bad id"):
            library.run(2, 9, broken, outputs)


def test_weights_of_another_model_are_refused(dense: CpuCompiled) -> None:
    weights = np.array(dense.program.bundle.weights)
    aligned = np.zeros(weights.size + 64, np.uint8)
    begin = -aligned.ctypes.data % 64
    place = aligned[begin : begin + weights.size]
    place[:] = weights
    place[20] ^= 1  # in the digest
    for wrong in (place, place[:-64]):
        with pytest.raises(InputError, match="bad weights"):
            Library(dense.program.bundle.library, wrong, 1)


def test_the_python_example(dense: CpuCompiled, model: Path, tmp_path: Path) -> None:
    inputs = feeds(ODD, 7, TOKENS)
    np.savez(tmp_path / "inputs.npz", **inputs)
    example = [
        sys.executable,
        ROOT / "examples" / "cpu" / "run_model.py",
        dense.program.bundle.folder,
        tmp_path / "inputs.npz",
    ]
    done = subprocess.run(list(map(str, example)), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1 + len(dense.program.manifest.outputs)


def test_the_c_is_clean_and_stays_inside_its_buffers(dense: CpuCompiled, tmp_path: Path) -> None:
    assert_clean(dense.program.bundle.folder, find_compiler(HOST.instructions), tmp_path)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("a skipped tail", "for (; r < rows; r++) product_rows(1,", "for (; r < 0; r++) product_rows(1,"),
        ("a dropped mask", "&& (!input || number_at", "&& (true || number_at"),
        ("no residual", "residual ? load(residual + at) + bias[r] : splat(bias[r])", "splat(bias[r])"),
        ("one block only", "block * l->block < l->ins; block++", "block < 1; block++"),
        ("no sum of keys", "over[v] = 1.0f / sum;", "over[v] = splat(1.0f);"),
    ],
)
def test_a_mutated_library_is_found_out(dense: CpuCompiled, tmp_path: Path, name: str, right: str, wrong: str) -> None:
    bundle = dense.program.bundle
    source = (bundle.folder / "model.c").read_text(encoding="utf-8")
    assert right in source, name
    inputs = feeds(ODD, 2, 70)
    inputs["attention_mask"][1, 40:] = 0
    (tmp_path / "model.c").write_text(source.replace(right, wrong), encoding="utf-8")
    shutil.copy(bundle.folder / "model.h", tmp_path)
    build_library(tmp_path / "model.c", tmp_path / "libmodel.so", quick(find_compiler(HOST.instructions)))
    library = Library(tmp_path / "libmodel.so", bundle.weights, 1)
    given = [inputs[entry.name] for entry in bundle.manifest.inputs]
    outputs = tensors(dense, 2, 70)[1]
    library.run(2, 70, given, outputs)
    wanted = reference(inputs)
    got = dict(zip((entry.name for entry in bundle.manifest.outputs), outputs, strict=True))
    with pytest.raises(AssertionError):
        assert_close(got, wanted, inputs["attention_mask"])


def test_a_wrong_index_in_a_packed_tile_is_found_out(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from compiler.backends.cpu import printer

    right = printer.pack

    def wrong(*arguments: Any) -> Any:
        packed = right(*arguments)
        if packed.columns.size:
            packed.columns[7] = (packed.columns[7] + 1) % 42
        return packed

    monkeypatch.setattr(printer, "pack", wrong)
    done = hpcc_command(model, *BIND, "--target", "cpu-host", "--sparsity", "hp:0.75", "-q", "-o", tmp_path / "out.hpcc")
    assert done.status == 4
    assert "[HPCC4001]" in done.line
    assert (tmp_path / "out.hpcc" / "run.json").is_file()


# ---- the commands -----------------------------------------------------------------------------------------------------

BIND = [word for name, shape in SHAPES.items() for word in ("--shape", f"{name}:{'x'.join(map(str, shape))}")]


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "odd.hpcc"
    done = hpcc_command(model, *BIND, "--target", "cpu-host", "--sparsity", "hp:0.75", "-o", path)
    assert (done.status, done.err) == (0, "")
    for words in ("full rate", "GFLOP/s", "latency", "verify", "damage", "model.c"):
        assert words in done.out
    return path


def test_a_bundle_holds_what_the_page_says(bundle: Path) -> None:
    names = {path.name for path in bundle.iterdir()}
    assert names == {
        *("manifest.json", "model.c", "model.h", "libmodel.so", "build.json"),
        *("weights.bin", "report.json", "run.json", "report.html"),
    }
    source = (bundle / "model.c").read_text(encoding="utf-8")
    assert "/* layer.0.ffn.up: 150 x 42, hp:rows=4" in source
    assert str(bundle) not in source
    assert b"/tmp" not in (bundle / "libmodel.so").read_bytes()


def test_the_same_command_writes_the_same_bytes(bundle: Path, model: Path, tmp_path: Path) -> None:
    done = hpcc_command(model, *BIND, "--target", "cpu-host", "--sparsity", "hp:0.75", "-q", "-o", tmp_path / "odd.hpcc")
    assert done.status == 0
    assert digests(tmp_path / "odd.hpcc", without=["run.json", "report.html"]) == digests(
        bundle, without=["run.json", "report.html"]
    )


def test_hpcc_run_measures_and_computes(bundle: Path, model: Path, tmp_path: Path) -> None:
    inputs = feeds(ODD, 4, 20)
    np.savez(tmp_path / "in.npz", **inputs)
    command = (bundle, "--inputs", tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--repeat", 3, "--threads", 2, "--json")
    done = call(main_run, *command)
    assert (done.status, done.err) == (0, "")
    report = json.loads(done.out)
    assert 0 < report["median_ms"] <= report["p90_ms"]
    assert (report["threads"], report["batches"]) == (2, 2)
    assert report["peak_rss_mb"] > 1
    with np.load(tmp_path / "out.npz") as outputs:
        program = hpcc.load(bundle)
        again = program.run(inputs).outputs
        assert all(np.array_equal(outputs[name], again[name]) for name in again)
        assert {name: list(outputs[name].shape) for name in outputs.files} == report["outputs"]


def test_hpcc_objdump_shows_the_steps(bundle: Path) -> None:
    done = call(main_objdump, bundle)
    assert done.status == 0
    assert "layer.1.ffn.down" in done.out
    assert "weights.bin" in done.out


def test_emit_c_needs_no_compiler(model: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    without_compiler(monkeypatch)
    done = hpcc_command(model, *BIND, "--target", "cpu-host", "--sparsity", "hp:0.75", "--emit", "c")
    assert done.status == 0
    assert done.out == (bundle / "model.c").read_text(encoding="utf-8")


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda _: None)
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda _: None)


def expect(done: Done, status: int, line: str) -> None:
    assert (done.status, done.line, done.out) == (status, line, "")


def test_a_missing_compiler_is_said_before_anything_else(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_compiler(monkeypatch)
    done = hpcc_command(model, *BIND, "--target", "cpu-host", "-o", tmp_path / "out.hpcc")
    hint = "(install gcc or clang, or pip install 'hpcc[cc]'; --emit c needs none)"
    expect(done, 5, f"error: no C compiler `cc` was found {hint} [HPCC5104]")
    other = "neon" if HOST.instructions.machine != ISAS["neon"].machine else "avx2"
    done = hpcc_command(model, *BIND, "--target", f"cpu-{other}", "-o", tmp_path / "out.hpcc")
    needed = f"a compiler for {ISAS[other].machine} is needed on this {platform.machine()}"
    expect(done, 5, f"error: {needed} (pip install 'hpcc[cc]'; --emit c needs none) [HPCC5104]")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("--emit", "asm"),
            "error: --emit 'asm' is no form for targets of kind 'cpu' (import, fuse, sparsify, tile, c, program) [HPCC2025]",
        ),
        (
            ("--timing-only",),
            "error: --timing-only counts cycles of an accelerator"
            " (leave it out: a CPU program is run and measured) [HPCC2603]",
        ),
    ],
)
def test_options_of_an_accelerator_are_refused(model: Path, arguments: tuple[str, ...], line: str) -> None:
    expect(hpcc_command(model, *BIND, "--target", "cpu-host", *arguments), 2, line)


def test_a_longer_sequence_is_refused(bundle: Path, tmp_path: Path) -> None:
    inputs = {name: np.zeros((1, TOKENS + 1), np.int64) for name in SHAPES}
    np.savez(tmp_path / "in.npz", **inputs)  # pyright: ignore[reportArgumentType]
    message = f"input 'input_ids' has shape 1x{TOKENS + 1}, expected samples x 1 to {TOKENS} tokens"
    expect(call(main_run, bundle, "--inputs", tmp_path / "in.npz"), 1, f"error: {message} [HPCC1265]")


@pytest.mark.parametrize("name", ["model.c", "model.h", "weights.bin", "libmodel.so", "manifest.json"])
def test_a_changed_file_does_not_load(bundle: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "odd.hpcc"
    shutil.copytree(bundle, copy)
    data = bytearray((copy / name).read_bytes())
    place = data.index(b'"tokens": 75') + 10 if name == "manifest.json" else len(data) // 2
    data[place] ^= 1
    (copy / name).write_bytes(data)
    hint = "(it is truncated or was edited; compile again)"
    message = f"{copy / name}: error: the file is not the one that was written with this bundle {hint} [HPCC1264]"
    expect(call(main_run, copy), 1, message)
    (copy / name).write_bytes(data[: len(data) // 3])
    done = call(main_run, copy)
    assert done.status == 1
    assert str(copy) in done.line


def test_weights_of_somebody_who_can_make_digests_do_not_load(bundle: Path, tmp_path: Path) -> None:
    """The library takes numbers of the weights for places in its memory: they are those that it was made with."""
    copy = tmp_path / "odd.hpcc"
    shutil.copytree(bundle, copy)
    data = bytearray((copy / "weights.bin").read_bytes())
    data[WEIGHTS_HEADER:] = b"\xff" * (len(data) - WEIGHTS_HEADER)
    (copy / "weights.bin").write_bytes(data)
    resign_cpu(copy)
    done = call(main_run, copy)
    assert done.status == 1
    assert "weights.bin: error: the file is not the one that was written" in done.line
    data[:WEIGHTS_HEADER] = data[:19] + hashlib.blake2b(data[WEIGHTS_HEADER:], digest_size=32).digest() + bytes(13)
    (copy / "weights.bin").write_bytes(data)
    resign_cpu(copy)
    done = call(main_run, copy)
    assert done.status == 1
    assert "bad weights" in done.line


def test_what_the_library_has_no_step_for_runs_on_the_host(tmp_path: Path) -> None:
    model = write(Encoder(mask="weak"), tmp_path / "weak.onnx")
    done = hpcc_command(model, "--target", "cpu-host", "-o", tmp_path / "out.hpcc", "-q")
    assert (done.status, done.err) == (0, "")
    assert read_json(tmp_path / "out.hpcc" / "report.json")["host_ops"]


def test_the_stages_of_an_accelerator_take_no_cpu() -> None:
    with pytest.raises(UsageError, match="an fpga is needed here"):
        load_target("cpu-host")


def test_the_l3_demo(l3_model: Path, tmp_path: Path) -> None:
    command = (l3_model, "--target", "cpu-host", "--shape", "input_ids:1x128", "--sparsity", "hp:0.75")
    done = hpcc_command(*command, "-o", tmp_path / "l3.hpcc")
    assert (done.status, done.err) == (0, "")
    outputs = read_json(tmp_path / "l3.hpcc" / "run.json")["verify"]["outputs"]
    assert all(check["passed"] and check["relative_l2"] < 1e-5 for check in outputs)
    program = hpcc.load(tmp_path / "l3.hpcc")
    inputs = {"input_ids": np.full((2, 20), 7), "attention_mask": np.ones((2, 20), np.int64)}
    passed = program.run(inputs).outputs["output"]  # an input that the model hands through, of a length of its own
    assert passed.shape == (2, 20)


def test_every_isa_has_a_target() -> None:
    for name, isa in ISAS.items():
        target = load_any_target(f"cpu-{name}")
        assert isinstance(target, CpuTarget)
        assert target.instructions is isa
        assert 48 % isa.panel == 0
        assert CpuTarget.from_snapshot(json.loads(json.dumps(target.snapshot()))) == target
    assert "-O3" in FLAGS
    assert issubclass(InputError, HpccError)
