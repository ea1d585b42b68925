"""int8 on every x86: with the machine's own instructions, and with AVX-512's emulated where it has none (tests/avx512)."""

from __future__ import annotations

import platform
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hpcc
from benchmarks.decoder import Decoder
from benchmarks.decoder import write as write_decoder
from compiler.backends.cpu.build import find_compiler
from compiler.tools.cpu_session import CpuCompiled
from hw_targets import cpu
from runtime.cpu.program import CpuProgram
from tests.e2e.cpu_harness import BATCH, ODD, SHAPES, TOKENS, assert_clean
from tests.e2e.plain_quantiser import evaluate_quantized, with_rounded_weights
from tests.graphs import feeds, write

EMULATION = Path(__file__).parent.parent / "avx512"

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="kernels in intrinsics of x86"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(ODD, tmp_path_factory.mktemp("cpu") / "odd.onnx", BATCH, TOKENS)


def on_a_machine_with(isa: str, patch: pytest.MonkeyPatch) -> str:
    """The target of an instruction set, emulated if this machine does not have it."""
    if isa not in cpu._isas_here():  # pyright: ignore[reportPrivateUsage]
        flags = (*cpu.ISAS["avx2"].flags, f"-I{EMULATION}", "-Wno-psabi", "-O1")
        patch.setattr(cpu, "ISAS", {**cpu.ISAS, isa: replace(cpu.ISAS[isa], flags=flags)})
        patch.setattr(cpu, "_isas_here", lambda: [isa, "avx2"])
    return f"cpu-{isa}"


QUICK = [("avx2", "hp:0.75"), ("avx2", "dense"), ("avx512-vnni", "hp:0.75"), ("avx512-vbmi", "nm:2:4"), ("amx", "hp:0.75")]
MORE = [
    ("avx2", "nm:2:4"),
    ("avx2", "unstructured:0.9"),
    ("avx512", "hp:0.75"),
    ("avx512-vnni", "dense"),
    ("avx512-vnni", "nm:2:4"),
    ("avx512-vbmi", "dense"),
    ("avx512-vbmi", "unstructured:0.9"),
    ("amx", "dense"),
    ("amx", "unstructured:0.9"),
    ("amx", "block:16x1:0.75"),
]
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in MORE]


@pytest.mark.slow
@pytest.mark.parametrize(("isa", "spec"), [*QUICK, *MORE])
def test_int8_is_within_the_limits_of_integers(model: Path, isa: str, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = on_a_machine_with(isa, monkeypatch)
    inputs = feeds(ODD, BATCH, TOKENS)
    inputs["attention_mask"][1, 33:] = 0
    compiled = hpcc.compile(model, target, shapes=SHAPES, sparsity=spec, precision="int8", inputs=inputs)
    assert isinstance(compiled, CpuCompiled)
    verify = compiled.run_report.verify
    assert verify is not None
    for check in verify.outputs:
        assert check.passed
        assert 1e-4 < check.relative_l2 < 0.03
    kernels = {row.kernel for row in compiled.report.layers if row.op == "linear" and "layer." in row.name}
    if isa == "avx512-vbmi" and spec == "nm:2:4":
        assert kernels == {"picks"}
    else:
        assert kernels <= ({"tiles"} if isa == "amx" else {"bytes", "picks"})
    one = CpuProgram(compiled.program.bundle, threads=1).run(inputs).outputs
    three = CpuProgram(compiled.program.bundle, threads=3).run(inputs).outputs
    assert all(np.array_equal(one[name], three[name]) for name in one)


@pytest.mark.parametrize(("isa", "spec"), [*QUICK, *SLOW])
def test_int8_equals_a_plain_quantiser(model: Path, isa: str, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same codes in numpy, layer by layer, give the same result but for the last bits of fp32."""
    target = on_a_machine_with(isa, monkeypatch)
    compiled = hpcc.compile(model, target, shapes=SHAPES, sparsity=spec, precision="int8", verify=False)
    module, store = with_rounded_weights(model, SHAPES, spec, "cpu-tiles" if isa == "amx" else "cpu")
    for batch, tokens in ((2, 19), (1, 5)):  # the second is a single vector of tokens
        inputs = feeds(ODD, batch, tokens)
        inputs["attention_mask"][0, 3], inputs["attention_mask"][-1, 11:] = 0, 0
        got = compiled.run(inputs).outputs
        padded = {name: np.pad(a, [(0, BATCH - batch), (0, TOKENS - tokens)]) for name, a in inputs.items()}
        wanted = evaluate_quantized(module, store, padded, cpu.ISAS[isa].int8 == cpu.VNNI)
        for name, value in got.items():
            reference = wanted[name][:batch, :tokens] if value.ndim == 3 else wanted[name][:batch]
            error = np.abs(value - reference).max() / np.sqrt(np.square(reference).mean())
            assert error < 0.02, name  # a code may round the other way: 1/254 of a token's largest value


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [37, 530])
def test_causal_attention_in_bytes(tokens: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two heads of queries share one of keys. Of 530 tokens the last queries see more keys than bytes serve."""
    decoder = Decoder(padding=True, layers=1, kv_heads=2)
    target = on_a_machine_with("avx512-vnni", monkeypatch)
    path = write_decoder(decoder, tmp_path / "decoder.onnx")
    ids = np.random.default_rng(5).integers(0, decoder.vocabulary, (1, tokens))
    mask = np.ones_like(ids)
    mask[0, :9] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    shapes = dict.fromkeys(inputs, (1, tokens))
    compiled = hpcc.compile(path, target, shapes=shapes, precision="int8", inputs=inputs)
    assert isinstance(compiled, CpuCompiled)
    verify = compiled.run_report.verify
    assert verify is not None
    assert verify.outputs[0].passed
    assert 1e-4 < verify.outputs[0].relative_l2 < 0.03
    first = {key: array[:, :48] for key, array in inputs.items()}  # a tile: its queries see no keys but these
    shapes = dict.fromkeys(first, first["input_ids"].shape)
    module, store = with_rounded_weights(path, shapes, "dense", "cpu")
    ((name, wanted),) = evaluate_quantized(module, store, first, attention=True).items()
    errors = np.abs(compiled.run(inputs).outputs[name][:, :48] - wanted)
    assert errors.max() < 0.02 * np.sqrt(np.square(wanted).mean())  # the first queries see nothing, and give 0


@pytest.mark.slow
@pytest.mark.parametrize(("isa", "spec"), [*QUICK, *MORE])
def test_the_c_is_clean_and_stays_inside_its_buffers(
    model: Path, isa: str, spec: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target, bundle = on_a_machine_with(isa, monkeypatch), tmp_path / "out.hpcc"
    hpcc.compile(model, target, shapes=SHAPES, sparsity=spec, precision="int8", output=bundle, verify=False)
    assert_clean(bundle, find_compiler(cpu.ISAS[isa]), tmp_path)
