"""int8 on every x86: with the machine's own instructions, and with AVX-512's emulated where it has none (tests/avx512)."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp, TensorType, f32
from xdsl.ir import Operation

import hpcc
from benchmarks.decoder import Decoder
from benchmarks.decoder import write as write_decoder
from compiler.backends.cpu.build import find_compiler
from compiler.backends.cpu.lowering import matrix_of
from compiler.backends.cpu.packing import quantized
from compiler.dialects import nn
from compiler.frontend.importer import import_onnx
from compiler.interpreters import evaluate as evaluation
from compiler.interpreters.nn_attention import Heads
from compiler.pipelines import stages_between
from compiler.tools.cpu_session import CpuCompiled
from compiler.tools.stages import StageRunner, new_context
from compiler.weights import WeightStore
from hw_targets import cpu
from runtime.cpu.program import CpuProgram
from tests.e2e.cpu_harness import BATCH, ODD, SHAPES, TOKENS, Array, assert_clean
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


IN_BYTES = ("layer.", "lm_head")
"""How the roles of linears begin that are computed in int8: those that work on tokens."""
QUICK = [("avx2", "hp:0.75"), ("avx512-vnni", "hp:0.75"), ("avx512-vbmi", "nm:2:4"), ("amx", "hp:0.75")]
MORE = [
    ("avx2", "dense"),
    ("avx2", "nm:2:4"),
    ("avx2", "unstructured:0.9"),
    ("avx512", "hp:0.75"),
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
    inputs = feeds(ODD, 2, 19)
    inputs["attention_mask"][0, 3], inputs["attention_mask"][1, 11:] = 0, 0
    target = on_a_machine_with(isa, monkeypatch)
    compiled = hpcc.compile(model, target, shapes=SHAPES, sparsity=spec, precision="int8", verify=False)
    module, store = with_rounded_weights(model, SHAPES, spec, "cpu-tiles" if isa == "amx" else "cpu")
    got = compiled.run({name: array[:, :19] for name, array in inputs.items()}).outputs
    padded = {name: np.pad(a, [(0, BATCH - 2), (0, TOKENS - 19)]) for name, a in inputs.items()}
    wanted = evaluate_quantized(module, store, padded, cpu.ISAS[isa].int8 == cpu.VNNI)
    for name, value in got.items():
        reference = wanted[name][:2, :19] if value.ndim == 3 else wanted[name][:2]
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
    first = {key: array[:, :64] for key, array in inputs.items()}  # a tile: its queries see no keys but these
    shapes = dict.fromkeys(first, first["input_ids"].shape)
    module, store = with_rounded_weights(path, shapes, "dense", "cpu")
    ((name, wanted),) = evaluate_quantized(module, store, first, attention=True).items()
    errors = np.abs(compiled.run(inputs).outputs[name][:, :64] - wanted)
    assert errors.max() < 0.02 * np.sqrt(np.square(wanted).mean())  # the first queries see nothing, and give 0


@pytest.mark.slow
@pytest.mark.parametrize(("isa", "spec"), [*QUICK, *MORE])
def test_the_c_is_clean_and_stays_inside_its_buffers(
    model: Path, isa: str, spec: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target, bundle = on_a_machine_with(isa, monkeypatch), tmp_path / "out.hpcc"
    hpcc.compile(model, target, shapes=SHAPES, sparsity=spec, precision="int8", output=bundle, verify=False)
    assert_clean(bundle, find_compiler(cpu.ISAS[isa]), tmp_path)


def rounded(w: Array) -> Array:
    codes, scales = quantized(w)
    return codes.astype(np.float32) * scales[:, None]


def with_rounded_weights(
    model: Path, shapes: Mapping[str, tuple[int, ...]], spec: str, family: str
) -> tuple[ModuleOp, WeightStore]:
    """The pruned module whose layers multiply by what the codes of their weights stand for; `family` names the shapes of
    `hp:S`."""
    imported = import_onnx(model, dict(shapes))
    module, store = imported.module, imported.store
    runner = StageRunner(new_context(store), "cpu-avx2", spec, kind="cpu", shapes=family)
    runner.run(module, stages_between("cpu", "import", "sparsify"))
    for op in list(module.walk()):
        if isinstance(op, nn.LinearOp) and op.role.data.startswith(IN_BYTES):
            key = store.add(f"{op.role.data}.codes", rounded(matrix_of(op.weight, store)))
            weight = nn.WeightOp(key, store.digest(key), TensorType(f32, nn.shape_of(op.weight)))
            op.parent.insert_op_before(weight, op)  # pyright: ignore[reportOptionalMemberAccess]
            op.operands[1] = weight.result
    return module, store


def attend_in_bytes(q: Array, k: Array, v: Array, mask: Array | None, heads: Heads) -> Array:
    """Attention with codes of q and k by token of a head, of v by feature of a head, and probabilities of 0 to 255."""

    def split(x: Array, count: int) -> Array:
        by_head = x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)
        return np.repeat(by_head, heads.heads // count, axis=1)

    def coded(x: Array) -> tuple[Array, Array]:
        codes, scales = quantized(x.reshape(-1, x.shape[-1]))
        return codes.reshape(x.shape).astype(np.float32), scales.reshape(*x.shape[:-1], 1)

    seen = np.ones((1, 1, 1, k.shape[1]), np.bool_) if mask is None else (mask != 0)[:, None, None, :]
    values, value_scales = coded(np.where(seen, split(v, heads.groups).transpose(0, 1, 3, 2), 0))
    (queries, query_scales), (keys, key_scales) = coded(split(q, heads.heads)), coded(split(k, heads.groups))
    scores = queries @ keys.transpose(0, 1, 3, 2) * key_scales.transpose(0, 1, 3, 2)
    if heads.causal:
        seen = seen & np.tri(q.shape[1], k.shape[1], dtype=np.bool_)
    top = np.where(seen, scores, -np.inf).max(axis=-1, keepdims=True)
    codes = np.where(seen, np.rint(255 * short_exp((scores - top) * (query_scales * np.float32(heads.scale)))), 0)
    found = codes @ values.transpose(0, 1, 3, 2) / np.maximum(codes.sum(axis=-1, keepdims=True), 1)
    found = found * value_scales.transpose(0, 1, 3, 2)
    return found.transpose(0, 2, 1, 3).reshape(q.shape).astype(np.float32)


def short_exp(x: Array) -> Array:
    """The kernel's e^x for a byte: 2^n times a polynomial of degree 3 on [-0.5, 0.5]."""
    x = np.clip(x * np.float32(1.44269504), -30, 0).astype(np.float32)
    n = np.rint(x)
    r = x - n
    found = ((np.float32(0.05517166) * r + np.float32(0.24261112)) * r + np.float32(0.69326098)) * r + np.float32(0.99992807)
    assert np.abs(255 * (np.ldexp(found, n.astype(np.int32)) - np.exp2(x.astype(np.float64)))).max() < 0.03
    return np.ldexp(found, n.astype(np.int32))


def evaluate_quantized(
    module: ModuleOp, store: WeightStore, inputs: Mapping[str, Array], attention: bool
) -> dict[str, Array]:
    """`evaluate` with the inputs of the layers' linears rounded to codes, one scale for each token; `attention` too."""
    patch = pytest.MonkeyPatch()
    plain = evaluation.run_op

    def run(op: Operation, arguments: list[Array], store: WeightStore) -> list[Array]:
        if isinstance(op, nn.LinearOp) and op.role.data.startswith(IN_BYTES):
            x = arguments[0]
            arguments = [rounded(x.reshape(-1, x.shape[-1])).reshape(x.shape), *arguments[1:]]
        if isinstance(op, nn.AttentionOp) and attention:
            mask = None if op.mask is None else arguments[3]
            return [attend_in_bytes(*arguments[:3], mask, Heads.of(op))]
        return plain(op, arguments, store)

    with patch.context() as context:
        context.setattr(evaluation, "run_op", run)
        return evaluation.evaluate(module, store, inputs)
