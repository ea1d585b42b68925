"""Training itself, with torch: meanings, gradients, masks, checkpoints. Skipped where torch is not installed."""

# torch is no dependency of the tests that always run.
# pyright: reportMissingImports=false

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from xdsl.dialects.builtin import TensorType, f32, i1, i64
from xdsl.ir import Block, Operation

from compiler.dialects import nn
from compiler.interpreters import load_meanings
from compiler.interpreters.evaluate import evaluate, run_op
from compiler.sparsity.base import Dense, Pattern
from compiler.sparsity.patterns import parse_pattern
from compiler.tools.pruning.onnx_output import write_tensors
from compiler.tools.training.run import Request, RungDone, TrainingRun, open_fused
from compiler.training.plan import Settings, parse_ladder
from compiler.weights import WeightStore
from hw_targets.errors import HpccError, InputError, UsageError
from tests.graphs import Encoder, feeds, write

torch = pytest.importorskip("torch", reason="needs the extra train")
pytestmark = pytest.mark.slow

from compiler.training.loop import Trainer  # noqa: E402
from compiler.training.meanings import MEANINGS, fit  # noqa: E402
from compiler.training.network import Graph, Network, _Straight  # noqa: E402

Array = NDArray[Any]
BATCH, TOKENS = 4, 8
SMALL = Encoder(hidden=32, heads=2, intermediate=64, layers=2, vocabulary=50, head="classifier")
LOGITS = "logits"
QUICK = Settings(20, batch=BATCH, refresh=2, save=3, evaluate=2, rate=1e-2, head_rate=1e-2, seed=3, threads=1)


# ---- meanings -------------------------------------------------------------------------------------------------------


def _types(*shapes: tuple[int, ...]) -> list[TensorType]:
    return [TensorType(f32, shape) for shape in shapes]


def _operations() -> Iterator[tuple[str, Callable[[Block], Operation], list[Array]]]:
    """An operation of each kind and arguments for it."""
    random = np.random.default_rng(0)
    x, y = (random.standard_normal((2, 3, 4)).astype(np.float32) for _ in range(2))
    positive = np.abs(x) + np.float32(0.5)
    whole, bits = random.integers(-7, 8, (2, 3, 4)), x > 0
    like = TensorType(f32, (2, 3, 4))
    for kind in nn.UnaryKind:
        array = bits if kind is nn.UnaryKind.NOT else positive
        result = TensorType(i1, (2, 3, 4)) if kind in (nn.UnaryKind.NOT, nn.UnaryKind.ISNAN) else like
        yield f"unary {kind}", lambda b, k=kind, r=result: nn.UnaryOp(k, b.args[0], r), [array]
    truths = {
        k for k in nn.BinaryKind if k.value in ("equal", "less", "less_equal", "greater", "greater_equal", "and", "or")
    }
    for kind in nn.BinaryKind:
        pair = [bits, x > y] if kind.value in ("and", "or") else [positive, y]
        result = TensorType(i1, (2, 3, 4)) if kind in truths else like
        yield f"binary {kind}", lambda b, k=kind, r=result: nn.BinaryOp(k, *b.args, r), pair
    divisor = np.where(whole == 0, 3, whole)
    integer = TensorType(i64, (2, 3, 4))
    yield "integer division", lambda b: nn.BinaryOp(nn.BinaryKind.DIV, *b.args, integer), [whole[::-1].copy(), divisor]
    yield "where", lambda b: nn.WhereOp(*b.args, like), [bits, x, y]
    yield "cast", lambda b: nn.CastOp(b.args[0], integer), [x * 9]
    yield "matmul", lambda b: nn.MatMulOp(*b.args, TensorType(f32, (2, 3, 3))), [x, y.transpose(0, 2, 1).copy()]
    for turned in (False, True):
        left = x[0].T.copy() if turned else x[0]
        right = y[0] if turned else y[0].T.copy()
        arguments = [left, right, x[0, :, :3].copy()]
        yield f"gemm {turned}", lambda b, t=turned: _gemm(b, t), arguments
    yield "transpose", lambda b: nn.TransposeOp(b.args[0], (2, 0, 1), TensorType(f32, (4, 2, 3))), [x]
    yield "reshape", lambda b: nn.ReshapeOp(b.args[0], TensorType(f32, (6, 4))), [x]
    yield "expand", lambda b: nn.ExpandOp(b.args[0], TensorType(f32, (2, 3, 4))), [x[:, :1]]
    yield "gather", lambda b: nn.GatherOp(*b.args, 1, TensorType(f32, (2, 2, 2, 4))), [x, np.array([[0, -1], [2, 1]])]
    yield "slice", lambda b: nn.SliceOp(b.args[0], (1, 2, 0), (1, -2, 3), TensorType(f32, (1, 2, 2))), [x]
    yield "concat", lambda b: nn.ConcatOp(b.args, 1, TensorType(f32, (2, 6, 4))), [x, y]
    for kind in nn.ReduceKind:
        yield f"reduce {kind}", lambda b, k=kind: nn.ReduceOp(k, b.args[0], (0, 2), TensorType(f32, (1, 3, 1))), [x]
    yield "softmax", lambda b: nn.SoftmaxOp(b.args[0], 1, like), [x]
    tables = [random.standard_normal((9, 4)).astype(np.float32), random.standard_normal((3, 4)).astype(np.float32)]
    ids = [random.integers(0, 9, (2, 3)), np.arange(3)[None]]
    yield "embedding", lambda b: nn.EmbeddingOp(b.args[:2], b.args[2:], like), [*ids, *tables]
    weight, bias = random.standard_normal((5, 4)).astype(np.float32), random.standard_normal(5).astype(np.float32)
    yield "linear", lambda b: nn.LinearOp("l", *b.args, TensorType(f32, (2, 3, 5))), [x, weight, bias]
    yield "linear, no bias", lambda b: nn.LinearOp("l", *b.args, None, TensorType(f32, (2, 3, 5))), [x, weight]
    mask = np.array([[1, 1, 0], [0, 0, 0]])
    yield "attention", lambda b: _attention(b, "mask"), [x, y, positive, mask]
    yield "attention, bias", lambda b: _attention(b, "bias"), [x, y, positive, positive[:, None, :, :3].copy()]
    yield "attention, no mask", lambda b: _attention(b, None), [x, y, positive]
    grouped = random.standard_normal((2, 3, 2)).astype(np.float32)
    yield (
        "attention, causal, shared heads",
        lambda b: _attention(b, "mask", True, 1),
        [x, grouped, grouped * 2, mask],
    )
    yield "attention, causal", lambda b: _attention(b, None, True), [x, y, positive]
    for gamma in (y[0, 0], y[0, 0, :2].copy()):
        yield f"rms norm of {len(gamma)}", lambda b: nn.RmsNormOp(*b.args, 1e-5, like), [x, gamma]
    table = random.standard_normal((3, 2)).astype(np.float32)
    for turned in (False, True):
        wide = random.standard_normal((2, 3, 8)).astype(np.float32)
        yield f"rotary {turned}", lambda b, t=turned: _rotary(b, t), [wide, table]
        yield f"whole rotary {turned}", lambda b, t=turned: _rotary(b, t), [wide, np.tile(table, 2)]
    yield "layer norm", lambda b: nn.LayerNormOp(*b.args, 1e-5, like), [x, y[0, 0], x[1, 1]]
    for kind in nn.ActivationKind:
        yield f"activation {kind}", lambda b, k=kind: nn.ActivationOp(k, b.args[0], like), [x * 3]
    yield "mean pool", lambda b: nn.MeanPoolOp(*b.args, 1e-9, TensorType(f32, (2, 4))), [x, np.array([[1, 1, 0], [0, 1, 0]])]
    yield "take token", lambda b: nn.TakeTokenOp(b.args[0], 2, TensorType(f32, (2, 4))), [x]


def _gemm(block: Block, turned: bool) -> Operation:
    a, b, c = block.args
    return nn.GemmOp(a, b, c, alpha=0.5, beta=2.0, trans_a=turned, trans_b=turned, type=TensorType(f32, (3, 3)))


def _rotary(block: Block, interleaved: bool) -> Operation:
    return nn.RotaryOp(*block.args, 4, interleaved=interleaved, type=TensorType(f32, (2, 3, 8)))


def _attention(block: Block, kind: str | None, causal: bool = False, groups: int | None = None) -> Operation:
    q, k, v, *others = block.args
    type, named = TensorType(f32, (2, 3, 4)), dict.fromkeys([kind] if kind else [], others[0] if others else None)
    shape = {"causal": causal, "kv_heads": groups, "bias": named.get("bias")}
    return nn.AttentionOp("a", q, k, v, named.get("mask"), heads=2, scale=0.7, type=type, **shape)


def _block(arrays: list[Array]) -> Block:
    elements = {"f": f32, "i": i64, "b": i1}
    return Block(arg_types=[TensorType(elements[array.dtype.kind], array.shape) for array in arrays])


CASES = {name: (make, arrays) for name, make, arrays in _operations()}


@pytest.mark.parametrize("name", list(CASES))
def test_torch_means_what_the_interpreter_means(name: str) -> None:
    make, arrays = CASES[name]
    op = make(_block(arrays))
    load_meanings()
    with np.errstate(all="ignore"):
        expected = run_op(op, list(arrays), WeightStore())[0]
    found = fit(op, MEANINGS[type(op)](op, [torch.from_numpy(np.array(array)) for array in arrays])).numpy()
    assert found.dtype == expected.dtype
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True), np.abs(found - expected).max()


def test_every_fp32_operation_has_a_torch_meaning_and_a_case() -> None:
    integer = {"quantize", "qlinear", "qattention"}
    stored = {"weight", "constant", "opaque"}
    wanted = {op for op in nn.NN.operations if op.name.removeprefix("hpcc_nn.") not in integer | stored}
    assert wanted <= set(MEANINGS), f"no meaning: {sorted(op.name for op in wanted - set(MEANINGS))}"
    tried = {type(make(_block(arrays))) for make, arrays in CASES.values()} | {nn.DequantizeOp}
    assert wanted <= tried, f"no case: {sorted(op.name for op in wanted - tried)}"


SPELLINGS = (
    {},
    {"head": "mean"},
    {"head": "pooler", "gelu": "tanh"},
    {"linear": "gemm"},
    {"projections": "split"},
    {"linear": "einsum", "mask": "where"},
    {"weights": "int8"},
    {"gelu": "quick", "layer_norm": "decomposed", "mask": "causal"},
)


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda s: ",".join(s.values()) or "plain")
@pytest.mark.parametrize("batch", [2, 5])
def test_a_module_computes_in_torch_what_it_computes_in_numpy(spelling: dict[str, Any], batch: int, tmp_path: Path) -> None:
    spec = Encoder(**{"hidden": 32, "heads": 2, "layers": 1, "intermediate": 48, **spelling})
    path = write(spec, tmp_path / "model.onnx", batch=batch, tokens=TOKENS)
    opened = open_fused(path, {})
    inputs = feeds(spec, batch=batch, tokens=TOKENS)
    found = Network({0: Graph(opened.module, opened.store)}, ())(0, inputs).outputs
    for name, expected in evaluate(opened.module, opened.store, inputs).items():
        assert np.abs(found[name].numpy() - expected).max() <= 1e-5 * max(1.0, float(np.abs(expected).max())), name


def test_the_gradient_goes_straight_through_to_the_dense_weights() -> None:
    w = torch.ones(2, 4, requires_grad=True)
    mask = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0]])
    (_Straight.apply(w, mask) * torch.arange(8.0).reshape(2, 4)).sum().backward()
    assert torch.equal(w.grad, torch.arange(8.0).reshape(2, 4))


# ---- runs -----------------------------------------------------------------------------------------------------------


def classifier(spec: Encoder, path: Path) -> Path:
    """A model whose output has a name that can be typed."""
    write(spec, path, batch=BATCH, tokens=TOKENS)
    model = onnx.load(str(path))
    old = model.graph.output[0].name
    model.graph.output[0].name = LOGITS
    for node in model.graph.node:
        node.output[:] = [LOGITS if name == old else name for name in node.output]
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier, another one, and samples whose label is which half of the vocabulary their words come from."""
    folder = tmp_path_factory.mktemp("training")
    classifier(SMALL, folder / "model.onnx")
    classifier(dataclasses.replace(SMALL, seed=5), folder / "other.onnx")
    for name, count, seed in (("train", 64, 1), ("dev", 24, 2)):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 2, count)
        tokens = random.integers(2, TOKENS + 1, count)
        mask = (np.arange(TOKENS) < tokens[:, None]).astype(np.int64)
        ids = (random.integers(1, 25, (count, TOKENS)) + 24 * labels[:, None]) * mask
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        np.savez(folder / f"{name}.npz", **arrays, labels=labels)
    return folder


def request(shelf: Path, patterns: list[Pattern], setting: Settings = QUICK, **changes: Any) -> Request:
    return Request(
        shelf / "model.onnx", shelf / "train.npz", patterns, setting, shelf / "dev.npz", None, "logits", **changes
    )


class Killed(BaseException):
    """The process dies here."""


def train(asked: Request, folder: Path, die_at: int | None = None) -> list[RungDone]:
    """Run to the end, writing a model for each rung; die after `die_at` steps."""
    folder.mkdir(exist_ok=True)
    done: list[RungDone] = []

    def progress(step: int, loss: float) -> None:
        if step == die_at:
            raise Killed

    def finished(rung: RungDone) -> None:
        done.append(rung)
        write_tensors(asked.model, rung.tensors, folder / f"{rung.rung}.onnx", {})

    TrainingRun(asked, progress).run(finished)
    return done


def matrices(path: Path) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}


ZERO_PATTERNS = ("nm:2:4", "nm:1:8", "hp:0.75", "block:4x1:0.75", "unstructured:0.9")


@pytest.mark.parametrize("spec", ZERO_PATTERNS)
def test_the_written_file_has_hard_zeros_and_exact_counts(spec: str, shelf: Path, tmp_path: Path) -> None:
    pattern = parse_pattern(spec)
    (done,) = train(request(shelf, [pattern]), tmp_path)
    opened = open_fused(tmp_path / "0.onnx", {})
    zeros, pruned = 0, 0
    for op in opened.module.walk():
        if isinstance(op, nn.LinearOp) and op.role.data in done.roles:
            w = opened.store.get(nn.stored_weight(op.weight).key.data)  # pyright: ignore[reportOptionalMemberAccess]
            w = w.T if nn.stored_weight(op.weight).transposed else w  # pyright: ignore[reportOptionalMemberAccess]
            pattern.check(w)
            assert np.count_nonzero(w) == pattern.kept(*w.shape)
            zeros, pruned = zeros + np.count_nonzero(w == 0), pruned + 1
    assert pruned == 12
    assert zeros == done.zeros


def test_only_numbers_of_the_file_change(shelf: Path, tmp_path: Path) -> None:
    train(request(shelf, [parse_pattern("nm:2:4")]), tmp_path)
    old, new = onnx.load(str(shelf / "model.onnx")), onnx.load(str(tmp_path / "0.onnx"))
    for model in (old, new):
        for tensor in model.graph.initializer:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    assert old.graph.SerializeToString() == new.graph.SerializeToString()
    before, after = matrices(shelf / "model.onnx"), matrices(tmp_path / "0.onnx")
    same = [name for name in before if np.array_equal(before[name], after[name])]
    assert any("embeddings" in name for name in same)
    session = onnxruntime.InferenceSession(str(tmp_path / "0.onnx"), providers=["CPUExecutionProvider"])
    expected = session.run(["logits"], feeds(SMALL, batch=BATCH, tokens=TOKENS))[0]
    opened = open_fused(tmp_path / "0.onnx", {})
    found = evaluate(opened.module, opened.store, feeds(SMALL, batch=BATCH, tokens=TOKENS))["logits"]
    assert np.abs(found - expected).max() <= 1e-4


def test_a_model_learns_its_labels_under_a_pattern(shelf: Path, tmp_path: Path) -> None:
    setting = dataclasses.replace(QUICK, steps=120, loss="labels", rate=3e-3, evaluate=5)
    (done,) = train(request(shelf, [parse_pattern("nm:2:8")], setting), tmp_path)
    assert done.score is not None
    assert done.score >= 0.9


def test_distillation_comes_nearer_to_the_teacher(shelf: Path, tmp_path: Path) -> None:
    scores = []
    for rate in (1e-9, 3e-3):
        setting = dataclasses.replace(QUICK, steps=100, rate=rate, head_rate=rate)
        asked = dataclasses.replace(request(shelf, [parse_pattern("nm:2:4")], setting), folder=tmp_path / str(rate))
        train(asked, tmp_path)
        lines = [json.loads(line) for line in (tmp_path / str(rate) / "log.jsonl").read_text().splitlines()]
        scores.append(np.mean([line["loss"] for line in lines if "loss" in line][-5:]))
    assert scores[1] < 0.5 * scores[0]


# ---- SR-STE ---------------------------------------------------------------------------------------------------------


def trainer(shelf: Path, **changes: Any) -> Trainer:
    run = TrainingRun(request(shelf, [parse_pattern("nm:2:4")], dataclasses.replace(QUICK, **changes)))
    keys = frozenset(run.trainable.pruned)
    made = Trainer(run.plan, run.student, run.teacher, run.train, run.dev, "logits", keys, run.trainable.head)
    made._enter(0)
    return made


def test_the_regulariser_shrinks_masked_weights_alone_and_outside_of_adam(shelf: Path) -> None:
    """With a rate of almost nothing for Adam's part, what moves is the regulariser."""
    made = trainer(shelf, gradual=0.0, rate=1e-3, regulariser=200.0, weight_decay=0.0)
    for weight in made.student.parameters.values():
        weight.requires_grad_(True)
    before = made.student.arrays()
    made._step(0)
    for key, mask in made.student.masks.items():
        gone = mask.numpy() == 0
        after = made.student.parameters[key].detach().numpy()
        rate = made._optimizer.param_groups[0]["lr"]
        moved = np.abs(after[gone] - before[key][gone] * (1 - rate * 200.0))
        assert moved.max() <= 1.01 * rate * (1 + rate * 200.0)  # Adam moves a weight by at most the rate in its first step
        assert np.abs(after[gone]).mean() < np.abs(before[key][gone]).mean()
        assert np.abs(after[~gone] - before[key][~gone]).max() <= 1.01 * rate


def test_the_coupled_regulariser_goes_through_the_gradient(shelf: Path) -> None:
    gradients = []
    for regulariser in (0.0, 0.5):
        made = trainer(shelf, gradual=0.0, coupled=True, regulariser=regulariser, clip=1e9)
        before = made.student.arrays()
        made._step(0)
        gradients.append({key: made.student.parameters[key].grad.numpy().copy() for key in made.student.masks})
    for key, mask in made.student.masks.items():
        expected = gradients[0][key] + 0.5 * (1 - mask.numpy()) * before[key]
        assert np.allclose(gradients[1][key], expected, atol=1e-5)


def test_masks_are_those_of_the_dense_weights_as_they_move(shelf: Path) -> None:
    made = trainer(shelf, gradual=0.0, refresh=1, rate=3e-2)
    pattern = parse_pattern("nm:2:4")
    churned = 0.0
    for step in range(8):
        dense = made.student.arrays()
        made._step(step)
        for key, mask in made.student.masks.items():
            assert np.array_equal(mask.numpy() != 0, pattern.mask(dense[key]))
        churned += sum(weight.churn for weight in made.weights.values()) if step else 0.0
    assert churned > 0


def test_churn_is_logged_and_none_is_left_when_masks_are_frozen(shelf: Path, tmp_path: Path) -> None:
    train(request(shelf, [parse_pattern("nm:2:4")], folder=tmp_path / "run"), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "churn" in line]
    assert [line["step"] for line in logged] == [*range(0, 16, 2), 16]
    assert all(line["churn"] > 0 for line in logged[1:3])
    assert [line["step"] for line in lines if "dev" in line] == [17, 19]


def test_rungs_inherit_and_lost_weights_stay_lost(shelf: Path, tmp_path: Path) -> None:
    rungs = train(request(shelf, parse_ladder("4:8,2:8,1:8"), dataclasses.replace(QUICK, steps=60)), tmp_path)
    assert [done.pattern.spec() for done in rungs] == ["nm:4:8", "nm:2:8", "nm:1:8"]
    kept = [{name: array != 0 for name, array in matrices(tmp_path / f"{index}.onnx").items()} for index in range(3)]
    names = [name for name, mask in kept[0].items() if mask.ndim == 2 and 0.4 < mask.mean() < 0.6]
    assert len(names) == 12
    for name in names:
        assert not (kept[1][name] & ~kept[0][name]).any()
        assert not (kept[2][name] & ~kept[1][name]).any()
        assert [round(float(mask[name].mean()), 6) for mask in kept] == [0.5, 0.25, 0.125]


# ---- killed and resumed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("die_at", [1, 3, 10, 11, 17, 20, 21, 29])
def test_a_run_that_was_killed_ends_in_the_same_bytes(die_at: int, shelf: Path, tmp_path: Path) -> None:
    setting = dataclasses.replace(QUICK, steps=30)
    ladder = parse_ladder("4:8,2:8,1:8")
    train(request(shelf, ladder, setting, folder=tmp_path / "whole"), tmp_path / "a")
    asked = request(shelf, ladder, setting, folder=tmp_path / "killed")
    with pytest.raises(Killed):
        train(asked, tmp_path / "b", die_at)
    train(asked, tmp_path / "b")
    for rung in range(3):
        assert (tmp_path / "a" / f"{rung}.onnx").read_bytes() == (tmp_path / "b" / f"{rung}.onnx").read_bytes()
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1]


def test_a_finished_run_writes_its_models_again(shelf: Path, tmp_path: Path) -> None:
    asked = request(shelf, parse_ladder("4:8,2:8"), folder=tmp_path / "run")
    train(asked, tmp_path / "a")
    train(asked, tmp_path / "b")
    for rung in range(2):
        assert (tmp_path / "a" / f"{rung}.onnx").read_bytes() == (tmp_path / "b" / f"{rung}.onnx").read_bytes()


def test_a_seed_decides_the_run(shelf: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(request(shelf, [parse_pattern("nm:2:4")], dataclasses.replace(QUICK, seed=seed)), tmp_path / name)
    files = [(tmp_path / name / "0.onnx").read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]


def test_a_checkpoint_of_other_settings_data_or_model_is_refused(shelf: Path, tmp_path: Path) -> None:
    asked = request(shelf, [parse_pattern("nm:2:4")], folder=tmp_path / "run")
    with pytest.raises(Killed):
        train(asked, tmp_path / "out", 5)
    for what, changed in (
        ("settings", dataclasses.replace(asked, settings=dataclasses.replace(QUICK, seed=9))),
        ("model", dataclasses.replace(asked, model=shelf / "other.onnx")),
        ("training data", dataclasses.replace(asked, train=shelf / "dev.npz")),
        ("patterns", dataclasses.replace(asked, patterns=[parse_pattern("nm:1:4")])),
    ):
        with pytest.raises(InputError, match=f"its {what} is") as error:
            train(changed, tmp_path / "out")
        assert error.value.code == "HPCC1553"


# ---- what is refused before the first step --------------------------------------------------------------------------


def _refusals(shelf: Path) -> dict[str, Request]:
    plain = request(shelf, [parse_pattern("nm:2:4")])
    labels = dataclasses.replace(plain, settings=dataclasses.replace(QUICK, loss="labels"))
    return {
        "HPCC2255": dataclasses.replace(labels, logits=None),
        "HPCC2256": dataclasses.replace(plain, logits="logit"),
        "HPCC2258": dataclasses.replace(plain, patterns=[parse_pattern("block:1x32:0.5")]),
        "HPCC1501": dataclasses.replace(plain, train=shelf / "nowhere.npz"),
    }


@pytest.mark.parametrize("code", ["HPCC2255", "HPCC2256", "HPCC1501", "HPCC2258"])
def test_a_request_that_does_not_fit_is_one_error(code: str, shelf: Path) -> None:
    with pytest.raises(HpccError) as error:
        TrainingRun(_refusals(shelf)[code])
    assert error.value.code == code
    assert isinstance(error.value, UsageError if code.startswith("HPCC2") else InputError)


def test_a_teacher_of_another_architecture_is_refused(shelf: Path, tmp_path: Path) -> None:
    wider = classifier(dataclasses.replace(SMALL, layers=3), tmp_path / "wide.onnx")
    with pytest.raises(InputError) as error:
        TrainingRun(dataclasses.replace(request(shelf, [Dense()]), teacher=wider))
    assert error.value.code == "HPCC1559"


def test_training_that_diverges_says_at_which_step(shelf: Path, tmp_path: Path) -> None:
    setting = dataclasses.replace(QUICK, rate=1e30, head_rate=1e30)
    with pytest.raises(InputError, match="step") as error:
        train(request(shelf, [parse_pattern("nm:2:4")], setting), tmp_path)
    assert error.value.code in ("HPCC1554", "HPCC1802")
