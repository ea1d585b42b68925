"""What Triton modules compute, in Triton's interpreter, against ONNX Runtime with the same weights; torch is not needed.

Small models through every kernel; test_gpu.py has the whole command and the real models, with torch.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from benchmarks.decoder import Decoder
from benchmarks.decoder import write as write_decoder
from compiler.backends.gpu import lowering
from compiler.backends.gpu.packing import MARKED_INPUTS, Plan
from compiler.dialects.gpu import Kernel
from compiler.tools.hpcc_prune import main as prune
from tests.e2e.harness import ROOT, call, hpcc, python
from tests.graphs import Encoder, write

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed, which has no wheel for this machine"
)

Arrays = Mapping[str, NDArray[Any]]
BATCH = 2

ENCODER = Encoder(hidden=42, heads=3, intermediate=70, layers=1, vocabulary=50, positions=80, head="pooler")
"""Heads of 14 features, and no size that is a multiple of 4: every tile has a tail."""

EVEN = Encoder(hidden=32, heads=2, intermediate=64, layers=1, vocabulary=50, positions=16, head="mean", gelu="tanh")
DECODER = Decoder(layers=1, heads_norm=True, head_size=16, padding=True)


@dataclass(frozen=True)
class Case:
    """A model, how it is compiled, the kernel that its weights are forced to (small ones would hardly choose it), and the
    largest relative L2 error of an output."""

    model: Encoder | Decoder
    precision: str = "fp32"
    spec: str = "dense"
    kernel: Kernel | None = None
    limit: float = 2e-5
    tokens: int = 9


SHARED = "hp:rows=64,window=in,keep=1/4,fine=dense"
FAST = {
    "gathered inputs": Case(ENCODER, spec=SHARED, tokens=70),  # and two tiles of keys
    "marks of codes": Case(replace(EVEN, intermediate=70), "int8", "nm:2:8", Kernel.MARKS, 0.05),
    "a decoder": Case(DECODER),
}
SLOW = {
    "all inputs": Case(ENCODER, kernel=Kernel.DENSE),
    "all inputs of a sparse weight": Case(ENCODER, spec="nm:1:4", kernel=Kernel.DENSE),
    "marks": Case(ENCODER, spec="unstructured:0.8", kernel=Kernel.MARKS),
    "marks of half precision": Case(ENCODER, "fp16", "nm:2:8", Kernel.MARKS, 0.003),
    "2:4 without sparse cores": Case(EVEN, "fp16", "nm:2:4", Kernel.SPARSE, 0.003),
    "gathered codes": Case(ENCODER, "int8", SHARED, Kernel.GATHER, 0.05),
    "codes": Case(ENCODER, "int8", kernel=Kernel.DENSE, limit=0.05),
    "neighbours of a part turn": Case(replace(DECODER, rotary="interleaved", turned=4)),
    "one head of keys": Case(replace(DECODER, kv_heads=1, heads_norm=False)),
    "a decoder in half precision": Case(DECODER, "fp16", limit=0.003),
}


def inputs_of(case: Case) -> dict[str, NDArray[Any]]:
    """Ids, and a mask that leaves out the end of the second sample."""
    mask = np.ones((BATCH, case.tokens), np.int64)
    mask[1, case.tokens - 4 :] = 0
    ids = {"input_ids": np.arange(mask.size).reshape(mask.shape) % 50, "attention_mask": mask}
    return ids if isinstance(case.model, Decoder) else {**ids, "token_type_ids": np.zeros_like(mask)}


def prepared(name: str, case: Case, folder: Path) -> Path:
    """The folder with a case's pruned model.onnx, its program, and its inputs."""
    home = folder / name.replace(" ", "-")
    home.mkdir()
    model = home / "model.onnx"
    if isinstance(case.model, Encoder):
        write(case.model, model, BATCH, case.tokens)
    else:
        write_decoder(case.model, model)
    if case.spec != "dense":
        done = call(prune, model, "--pattern", case.spec, "-q", "-o", home / "pruned.onnx")
        assert (done.status, done.err) == (0, "")
        model = (home / "pruned.onnx").replace(model)
    inputs = inputs_of(case)
    np.savez(home / "in.npz", allow_pickle=False, **inputs)
    forced = Plan(case.kernel, 16, 16, MARKED_INPUTS, 2, 0.0) if case.kernel is not None else None
    with pytest.MonkeyPatch.context() as patch:
        if forced is not None:
            patch.setattr(lowering, "plan", lambda *_, **__: forced)
        shapes = [part for key in inputs for part in ("--shape", f"{key}:{BATCH}x{case.tokens}")]
        options = ("--target", "gpu-sm80", "--precision", case.precision, "--emit", "program", "-q")
        done = hpcc(model, *options, *shapes, "-o", home / "out.hpcc")
    assert (done.status, done.err) == (0, ""), name
    return home


def run(*places: Path) -> str:
    """What is printed by every bundle of a folder, by in.npz to out.npz, in one process of Triton's interpreter."""
    files = [part for home in places for part in (home / "out.hpcc" / "model.py", home / "in.npz", home / "out.npz")]
    done = python(ROOT / "tests" / "torch_on_numpy.py", *files)
    assert done.returncode == 0, done.stderr
    return done.stdout


def errors(home: Path) -> Iterator[tuple[str, float]]:
    """The relative L2 error of every output over the tokens that count, against ONNX Runtime."""
    inputs = dict(np.load(home / "in.npz"))
    session = onnxruntime.InferenceSession(home / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    with np.load(home / "out.npz") as made:
        assert set(made.files) == set(names)
        for name, wanted in zip(names, session.run(None, inputs), strict=True):
            got = made[name]
            if wanted.ndim == 3:
                counts = inputs["attention_mask"] != 0
                got, wanted = got[counts], np.asarray(wanted)[counts]
            assert got.shape == np.shape(wanted)
            yield name, float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def check(cases: Mapping[str, Case], folder: Path) -> None:
    places = {name: prepared(name, case, folder) for name, case in cases.items()}
    run(*places.values())
    for name, home in places.items():
        text = (home / "out.hpcc" / "model.py").read_text(encoding="utf-8")
        if (kernel := cases[name].kernel) is not None:
            assert f", {kernel.value} (" in text, f"{name}: no step by this kernel"
        for output, error in errors(home):
            assert error <= cases[name].limit, f"{name}: {output} is off by {error:.2g}"


def test_small_models(tmp_path: Path) -> None:
    """Gathered, dense and marked products, codes, attention with and without a mask, norms, rotations, gates, pooling."""
    check(FAST, tmp_path)


@pytest.mark.slow
def test_every_kernel(tmp_path: Path) -> None:
    check(SLOW, tmp_path)


def forced_cuda(home: Path) -> None:
    """The module believes that it is on a GPU: its torch has no semi-structured product, as some builds of torch."""
    module = home / "out.hpcc" / "model.py"
    text = module.read_text(encoding="utf-8")
    assert 'self.device.type != "cuda"' in text
    module.write_text(text.replace('self.device.type != "cuda"', "False"), encoding="utf-8")


@pytest.mark.slow
def test_without_a_sparse_product_marks_are_used(tmp_path: Path) -> None:
    """Where torch's sparse product is missing the values are the same, and the model says why."""
    home = prepared("2:4", SLOW["2:4 without sparse cores"], tmp_path)
    forced_cuda(home)
    with (home / "out.hpcc" / "model.py").open("a", encoding="utf-8") as file:
        file.write("    model = Model()\n    model(dict(np.load(sys.argv[1])))\n    print(model.by_marks)\n")
    told = run(home)
    assert "torch.sparse" in told
    assert all(error <= 0.003 for _, error in errors(home))


# ---- faults ---------------------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[str, str, str]] = {
    "an index in a packed tile": (
        "gathered inputs",
        "inputs = tl.load(index + chunk * INPUTS + step)",
        "inputs = tl.load(index + chunk * INPUTS) + step",
    ),
    "the mask": ("gathered inputs", "there = there & (tl.load(mask", "there = there | (tl.load(mask"),
    "the last chunk": ("gathered inputs", "for chunk in range(first, end):", "for chunk in range(first, end - 1):"),
    "the residual": ("gathered inputs", "RESIDUAL=residual is not None", "RESIDUAL=False"),
    "a softmax that is not rescaled": ("gathered inputs", "total = total * before + ", "total = "),
    "where a row's values begin": ("marks of codes", "tl.load(weights + begin + ", "tl.load(weights + "),
    "a bit that is not counted": ("marks of codes", "((1 << position) - 1)", "((2 << position) - 1)"),
    "the scale of a token": ("marks of codes", "[:, None] * scale[None, :])", "[:, None])"),
    "the causal order": ("a decoder", "key[None, :] <= query[:, None]", "key[None, :] < query[:, None]"),
    "the heads of keys": ("a decoder", "head // SHARED * SIZE", "head % 2 * SIZE"),
    "the angle of a position": ("a decoder", "(token % tokens)[None, :] * TURNED", "token[None, :] * 0"),
    "the size of a head's features": ("a decoder", "y / size[None, :]", "y"),
}


@pytest.mark.slow
def test_a_fault_is_seen(tmp_path: Path) -> None:
    """The text of a kernel changed in one place: the results are no longer ONNX Runtime's."""
    homes = {name: prepared(name, case, tmp_path) for name, case in FAST.items()}
    wrong: dict[str, Path] = {}
    for number, (fault, (case, old, new)) in enumerate(FAULTS.items()):
        wrong[fault] = tmp_path / f"wrong-{number}"
        shutil.copytree(homes[case], wrong[fault])
        module = wrong[fault] / "out.hpcc" / "model.py"
        text = module.read_text(encoding="utf-8")
        assert old in text, fault
        module.write_text(text.replace(old, new), encoding="utf-8")
    run(*wrong.values())
    for fault, home in wrong.items():
        limit = FAST[FAULTS[fault][0]].limit
        assert any(error > limit for _, error in errors(home)), f"not seen: {fault}"
